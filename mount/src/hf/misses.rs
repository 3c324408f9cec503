//! Repositories that are known not to be there, for a while: probing for one again asks nobody.
//!
//! Bounded: who probes for very many names has the oldest asked again. Told the time, so that tests need no waiting.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Absences remembered at once.
const LIMIT: usize = 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Misses<K> {
    lifetime: Duration,
    since: HashMap<K, Instant>,
    order: VecDeque<(K, Instant)>,
}

impl<K: Hash + Eq + Clone> Misses<K> {
    pub(super) fn new(lifetime: Duration) -> Self {
        Self { lifetime, since: HashMap::new(), order: VecDeque::new() }
    }

    pub(super) fn note(&mut self, key: K, now: Instant) {
        self.since.insert(key.clone(), now);
        self.order.push_back((key, now));
        while self.order.len() > LIMIT {
            let Some((oldest, noted)) = self.order.pop_front() else { break };
            if self.since.get(&oldest) == Some(&noted) {
                self.since.remove(&oldest);
            }
        }
    }

    pub(super) fn holds(&self, key: &K, now: Instant) -> bool {
        self.since.get(key).is_some_and(|since| now.saturating_duration_since(*since) < self.lifetime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absence_is_believed_for_its_time_and_no_more_than_so_many_at_once() {
        let start = Instant::now();
        let mut misses = Misses::new(Duration::from_secs(60));
        misses.note(0, start);
        assert!(misses.holds(&0, start + Duration::from_secs(59)) && !misses.holds(&1, start));
        assert!(!misses.holds(&0, start + Duration::from_secs(60)));
        misses.note(0, start + Duration::from_secs(70));
        for other in 1..LIMIT {
            misses.note(other, start + Duration::from_secs(70));
        }
        // The first note of 0 fell out, the second one still counts.
        assert!(misses.holds(&0, start + Duration::from_secs(71)));
        misses.note(LIMIT, start + Duration::from_secs(70));
        assert!(!misses.holds(&0, start + Duration::from_secs(71)));
        assert!(misses.since.len() <= LIMIT && misses.order.len() <= LIMIT);
    }
}
