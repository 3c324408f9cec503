//! The time by which a torrent's task decides: that of its round, less what the task stood still.
//!
//! A process that is stopped, or whose machine is, does not get what its peers send. When it goes on, everything would
//! be overdue before what came meanwhile is looked at: reads would fail, requests be given up. So the task is told at
//! each waking when it meant to wake, and what it comes late by is left out of its time.
//!
//! A machine that is slow all the time comes late all the time, and reads have to end on it too: of a read time-out
//! no more than [`MOST`] standstills are left out.
//!
//! Invariant: time does not go back, runs no faster than the machine's, and does not pass within a round.

use tokio::time::Instant;
use wtfs_proto::time::Moment;

/// Who comes late by less only has much to do.
const NOTED: Moment = Moment::from_secs(1);

/// Standstills left out of one read time-out.
const MOST: usize = 3;

/// What of the machine's time does not count. Pure: told all moments.
#[derive(Debug)]
struct Standstills {
    read_timeout: Moment,
    /// The last waking, by the machine's time.
    woke_at: Moment,
    left_out: Moment,
    /// The last ones left out, by the time that counts.
    last: [Option<Moment>; MOST],
}

impl Standstills {
    fn new(read_timeout: Moment) -> Self {
        Self { read_timeout, woke_at: Moment::ZERO, left_out: Moment::ZERO, last: [None; MOST] }
    }

    /// The task wakes at `now`, and meant to at `due` at the latest, both by the machine's time. Returns what it is by the
    /// time that counts.
    fn handle_woken(&mut self, now: Moment, due: Moment) -> Moment {
        let went_on_until = due.max(self.woke_at);
        self.woke_at = now.max(self.woke_at);
        let late = now.saturating_sub(went_on_until);
        let at = went_on_until.saturating_sub(self.left_out);
        let is_far =
            |last: &Option<Moment>| last.is_none_or(|last| at.saturating_sub(last) >= self.read_timeout);
        if late >= NOTED
            && let Some(place) = self.last.iter().position(is_far)
        {
            self.last[place] = Some(at);
            self.left_out += late;
        }
        self.woke_at.saturating_sub(self.left_out)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct RoundClock {
    start: Instant,
    now: Moment,
    standstills: Standstills,
}

impl RoundClock {
    pub(super) fn start(read_timeout: Moment) -> Self {
        Self { start: Instant::now(), now: Moment::ZERO, standstills: Standstills::new(read_timeout) }
    }

    /// When the round began.
    pub(super) fn now(&self) -> Moment {
        self.now
    }

    /// The same by the machine's time: what is to be waited for is reckoned from here.
    pub(super) fn woke_at(&self) -> Instant {
        self.start + self.standstills.woke_at
    }

    /// A round begins, which was to begin at `due` at the latest.
    pub(super) fn handle_woken(&mut self, due: Instant) {
        let left_out = self.standstills.left_out;
        self.now =
            self.standstills.handle_woken(self.start.elapsed(), due.saturating_duration_since(self.start));
        let stood_still = self.standstills.left_out - left_out;
        if !stood_still.is_zero() {
            tracing::debug!(?stood_still, "this time does not count");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT: Moment = Moment::from_secs(60);

    #[test]
    fn a_standstill_takes_no_time_wherever_in_a_round_it_happens() {
        let mut standstills = Standstills::new(TIMEOUT);
        assert_eq!(
            standstills.handle_woken(Moment::from_secs(5), Moment::from_secs(5)),
            Moment::from_secs(5)
        );
        // Asleep, to wake at 6.
        let long_after = Moment::from_secs(100_000);
        assert_eq!(standstills.handle_woken(long_after, Moment::from_secs(6)), Moment::from_secs(6));
        // At work since 100,000, with the next tick overdue.
        let later = Moment::from_secs(200_000);
        assert_eq!(standstills.handle_woken(later, Moment::from_secs(6)), Moment::from_secs(6));
        let next = later + Moment::from_millis(20);
        assert_eq!(standstills.handle_woken(next, next), Moment::from_millis(6020));
    }

    #[test]
    fn who_has_much_to_do_does_not_stand_still() {
        let mut standstills = Standstills::new(TIMEOUT);
        for seconds in 1..1000 {
            // The tick is overdue all the time: messages go first.
            let now = Moment::from_millis(999) * seconds;
            assert_eq!(standstills.handle_woken(now, Moment::ZERO), now);
        }
    }

    fn millis(most: u64) -> impl Strategy<Value = Moment> {
        (0..most).prop_map(Moment::from_millis)
    }

    proptest! {
        /// Every wait ends: its time passes, but for few standstills, however late each waking is.
        #[test]
        fn no_more_than_a_few_standstills_of_a_read_time_out_are_left_out(
            wakings in prop::collection::vec((millis(3000), prop_oneof![millis(900), millis(200_000)]), 1..200),
        ) {
            let mut standstills = Standstills::new(TIMEOUT);
            let (mut real, mut counted) = (Moment::ZERO, Moment::ZERO);
            let mut history = vec![(counted, Moment::ZERO)];
            for (asleep, late) in wakings {
                let due = real + asleep;
                real = due + late;
                let left_out = standstills.left_out;
                let now = standstills.handle_woken(real, due);
                let skipped = standstills.left_out - left_out;
                prop_assert!(now >= counted && now <= real);
                prop_assert_eq!(now - counted + skipped, asleep + late, "time is either counted or left out");
                prop_assert!(skipped.is_zero() || (skipped == late && late >= NOTED));
                let began = counted + asleep;
                let is_recent = |(at, skipped): &&(Moment, Moment)| !skipped.is_zero() && began - *at < TIMEOUT;
                let recent = history.iter().filter(is_recent).count();
                prop_assert!(skipped.is_zero() || recent < MOST);
                prop_assert!(late < NOTED || !skipped.is_zero() || recent == MOST, "the first ones are");
                counted = now;
                history.push((now, skipped));
            }
        }
    }
}
