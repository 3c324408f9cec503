//! How long to leave a web seed alone after something went wrong: twice as long each time, never at the same moment as
//! everybody else.

use std::time::Duration;

/// The first wait; a server that restarts is back after a few of these.
const FIRST: Duration = Duration::from_millis(500);
/// The longest: well within the time a read waits, so that a read meets at least one more attempt.
const LONGEST: Duration = Duration::from_secs(30);

/// Failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It worked.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// It failed; `random` is any number. Half of the wait is fixed, the other half random.
    pub(super) fn handle_failure(&mut self, random: u64) -> Duration {
        let wait = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let half = wait / 2;
        let range = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_millis(random % range)
    }

    /// As [`Self::handle_failure`], if the server said how long to wait: a little longer, so that not all who were
    /// told so come back at once, and not less than the failures so far ask for.
    pub(super) fn handle_busy(&mut self, after: Option<Duration>, random: u64) -> Duration {
        let own = self.handle_failure(random);
        let Some(after) = after else { return own };
        let tenth = u64::try_from(after.as_millis() / 10).unwrap_or(u64::MAX).max(1);
        after.saturating_add(Duration::from_millis(random % tenth)).max(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_begin_anew_once_it_works() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..9).map(|_| backoff.handle_failure(0).as_millis() as u64).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
        for random in [1, u64::MAX / 3, u64::MAX] {
            assert!(backoff.handle_failure(random) <= LONGEST);
        }
        backoff.reset();
        assert_eq!(backoff.handle_failure(0), FIRST / 2);
    }

    #[test]
    fn what_the_server_asks_for_is_kept() {
        let mut backoff = Backoff::default();
        let after = Duration::from_secs(20);
        let wait = backoff.handle_busy(Some(after), u64::MAX);
        assert!(wait >= after && wait <= after * 11 / 10, "{wait:?}");
        assert!(backoff.handle_busy(Some(Duration::ZERO), 0) >= FIRST, "not asked again at once");
    }
}
