//! Whether upstream is away, as far as is known. Pure, told the time.
//!
//! While it is, nobody waits for it in vain: what was kept is served without asking, and what was not is refused at once
//! where asking took long, for a network that swallows everything would keep everybody waiting, for each name anew. Now
//! and then one question goes through, to find out; the first that is answered ends it.

use std::time::{Duration, Instant};

/// How long questions are spared once one was not answered.
const TERM: Duration = Duration::from_secs(5);

/// What takes less to fail may as well be tried.
const LONG: Duration = Duration::from_secs(2);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Outage(Option<Noted>);

#[derive(Debug)]
struct Noted {
    at: Instant,
    /// Whether somebody waited long for nothing.
    is_long: bool,
}

impl Outage {
    /// A question that was asked at `asked` was not answered.
    pub(crate) fn note(&mut self, asked: Instant, now: Instant) {
        // Who came while another waited already waited less.
        let was_long = self.0.as_ref().is_some_and(|noted| noted.is_long);
        let is_long = was_long || now.saturating_duration_since(asked) >= LONG;
        self.0 = Some(Noted { at: now, is_long });
    }

    /// Upstream answered.
    pub(crate) fn end(&mut self) {
        self.0 = None;
    }

    /// Whether it is away.
    pub(crate) fn is_on(&self, now: Instant) -> bool {
        self.0.as_ref().is_some_and(|noted| now.saturating_duration_since(noted.at) < TERM)
    }

    /// Whether a question is not to be asked, where something older can be served. Who gets a no is to find out.
    pub(crate) fn spares(&mut self, now: Instant) -> bool {
        let is_on = self.is_on(now);
        if let Some(noted) = self.0.as_mut().filter(|_| !is_on) {
            noted.at = now;
        }
        is_on
    }

    /// The same where there is nothing: when to ask again, if the question is refused.
    pub(crate) fn refuses(&mut self, now: Instant) -> Option<Duration> {
        self.0.as_ref().filter(|noted| noted.is_long)?;
        self.spares(now).then_some(TERM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_question_at_a_time_finds_out_whether_upstream_is_back() {
        let (mut outage, start) = (Outage::default(), Instant::now());
        assert!(!outage.is_on(start) && !outage.spares(start));
        outage.note(start, start);
        assert!(outage.is_on(start) && outage.spares(start + TERM / 2));
        let later = start + TERM;
        assert!(!outage.is_on(later));
        assert!(!outage.spares(later), "the first one asks");
        assert!(outage.spares(later) && outage.is_on(later), "the others do not wait for it");
        outage.end();
        assert!(!outage.is_on(later) && !outage.spares(later));
    }

    #[test]
    fn a_term_begins_when_the_wait_was_over() {
        let (mut outage, start) = (Outage::default(), Instant::now());
        outage.note(start, start + 2 * TERM);
        assert!(outage.is_on(start + 2 * TERM));
    }

    #[test]
    fn what_is_not_kept_is_refused_at_once_only_where_asking_takes_long() {
        let (mut outage, start) = (Outage::default(), Instant::now());
        assert_eq!(outage.refuses(start), None);
        outage.note(start, start + LONG / 2);
        assert_eq!(outage.refuses(start + LONG / 2), None);
        outage.note(start, start + LONG);
        assert_eq!(outage.refuses(start + LONG), Some(TERM));
        // Another one that waited for the same question, and came late.
        outage.note(start + LONG, start + LONG);
        assert_eq!(outage.refuses(start + LONG), Some(TERM));
        assert_eq!(outage.refuses(start + LONG + TERM), None, "this one finds out");
        assert_eq!(outage.refuses(start + LONG + TERM), Some(TERM));
        outage.end();
        assert_eq!(outage.refuses(start + LONG + TERM), None);
    }
}
