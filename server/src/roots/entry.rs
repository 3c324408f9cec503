//! One file or directory directly below a root, on its way to being a torrent: when to look at it, when to hash it, when
//! to take it down. Pure: told the time and what was seen.
//!
//! ```text
//! found -> Waiting -(at rest)-> Queued -> Hashing -> Ready
//!             ^                              |          |
//!             +-------- changed -------------+----------+      a look that fails -> Refused
//! ```
//!
//! At rest is what was neither written nor touched for a while: a file that still grows would be hashed in vain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use wtfs_torrent::create::Survey;

use crate::library::Item;

/// Since an arbitrary start.
pub(super) type Moment = Duration;

/// A sum over names, sizes, times and inodes of an entry's files: another one means that it changed.
pub(super) type Mark = u64;

/// Where an entry stands.
#[derive(Debug)]
pub(super) enum State {
    Waiting,
    Queued(Box<Survey>),
    Hashing(Hashing),
    Ready { item: Arc<Item>, mark: Mark },
    Refused { reason: String },
}

/// A job under way.
#[derive(Debug, Clone)]
pub(super) struct Hashing {
    pub(super) done_bytes: Arc<AtomicU64>,
    pub(super) total_bytes: u64,
    pub(super) cancel: Arc<AtomicBool>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) state: State,
    /// When to look at it next.
    pub(super) look_at: Option<Moment>,
    /// Whether it is being looked at.
    pub(super) is_looked_at: bool,
    /// When the kernel last told of a change.
    touched_at: Option<Moment>,
}

/// What is to be done after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It is what it was.
    Nothing,
    /// It changed, or was never hashed, and is at rest.
    Hash,
    /// It changed and may still be changing.
    Wait,
}

impl Entry {
    /// Something that a listing showed.
    pub(super) fn found(now: Moment) -> Self {
        Self { state: State::Waiting, look_at: Some(now), is_looked_at: false, touched_at: None }
    }

    /// The kernel told of a change in it. What is served is looked at without delay; what still waits, later.
    pub(super) fn touch(&mut self, now: Moment, quiet: Duration) {
        self.touched_at = Some(now);
        self.look_at = Some(if matches!(self.state, State::Ready { .. }) { now } else { now + quiet });
        if let State::Hashing(job) = &self.state {
            job.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// What to do, given what a look saw now. `age` is how long ago the youngest file was written.
    pub(super) fn weigh(&self, mark: Mark, age: Duration, now: Moment, quiet: Duration) -> Next {
        if matches!(&self.state, State::Ready { mark: before, .. } if *before == mark) {
            return Next::Nothing;
        }
        let untouched = self.touched_at.map_or(Duration::MAX, |at| now.saturating_sub(at));
        if age >= quiet && untouched >= quiet { Next::Hash } else { Next::Wait }
    }

    /// Whether a look is due.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        let is_free = !self.is_looked_at && !matches!(self.state, State::Hashing(_));
        is_free && self.look_at.is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_secs(2);
    const OLD: Duration = Duration::from_secs(3600);

    fn at(s: u64) -> Moment {
        Duration::from_secs(s)
    }

    #[test]
    fn an_old_file_is_hashed_at_once_and_a_young_one_later() {
        let entry = Entry::found(at(10));
        assert!(entry.is_due(at(10)));
        assert_eq!(entry.weigh(1, OLD, at(10), QUIET), Next::Hash);
        assert_eq!(entry.weigh(1, Duration::from_secs(1), at(10), QUIET), Next::Wait);
    }

    #[test]
    fn old_files_that_are_still_being_added_to_are_waited_for() {
        let mut entry = Entry::found(at(10));
        entry.touch(at(11), QUIET);
        assert!(!entry.is_due(at(12)) && entry.is_due(at(13)));
        assert_eq!(entry.weigh(1, OLD, at(12), QUIET), Next::Wait);
        assert_eq!(entry.weigh(1, OLD, at(13), QUIET), Next::Hash);
    }

    #[test]
    fn a_change_stops_the_hashing() {
        let cancel = Arc::new(AtomicBool::new(false));
        let job = Hashing { done_bytes: Arc::default(), total_bytes: 1, cancel: cancel.clone() };
        let mut entry = Entry { state: State::Hashing(job), ..Entry::found(at(0)) };
        entry.touch(at(1), QUIET);
        assert!(cancel.load(std::sync::atomic::Ordering::Relaxed));
        assert!(!entry.is_due(at(100)), "not while the job runs");
    }
}
