//! Whether hubs were asked in vain a moment ago: who asks then is not kept waiting for the same time-outs once more.
//!
//! Told the time, so that tests need no waiting.

use std::time::{Duration, Instant};

/// After they were asked in vain, they are not asked again for so long.
const SPAN: Duration = Duration::from_secs(20);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Away {
    until: Option<Instant>,
}

impl Away {
    /// They were asked in vain.
    pub(super) fn note(&mut self, now: Instant) {
        self.until = Some(now + SPAN);
    }

    /// Somebody answered.
    pub(super) fn end(&mut self) {
        self.until = None;
    }

    /// For how long they are not to be asked; `None` when they may be.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_asked_in_vain_is_not_asked_for_a_while_unless_he_answers() {
        let (start, mut away) = (Instant::now(), Away::default());
        assert_eq!(away.left(start), None);
        away.note(start);
        assert_eq!(away.left(start), Some(SPAN));
        assert_eq!(away.left(start + SPAN / 2), Some(SPAN / 2));
        assert_eq!(away.left(start + SPAN), None);
        away.note(start + SPAN);
        away.end();
        assert_eq!(away.left(start + SPAN), None);
    }
}
