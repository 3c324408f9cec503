//! How each open file is read: through this process into the kernel's page cache, or by the kernel from a data file.
//!
//! The kernel refuses (`EIO`) to have one inode open in both ways at once, and knows one data file for an inode. So
//! the first open of an inode decides, every further one follows, and the last close forgets. Deciding may have to
//! wait for a disk; opens that come meanwhile wait in the table with it, nobody else does.
//!
//! Knows neither FUSE nor files: `B` is whatever stands for a data file, `W` an open that awaits its answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::inode::InodeNo;

/// The ways in which inodes are open.
#[derive(Debug)]
pub(crate) struct Modes<B, W> {
    inodes: Mutex<HashMap<InodeNo, Mode<B, W>>>,
}

#[derive(Debug)]
enum Mode<B, W> {
    Deciding { waiting: Vec<W> },
    Cached { handles: usize },
    Direct { backing: Arc<B>, handles: usize },
}

/// What to do with an open.
#[derive(Debug)]
pub(crate) enum Opening<B, W> {
    /// Answer it: read through this process.
    Cached(W),
    /// Answer it: read from the data file.
    Direct(W, Arc<B>),
    /// Find out, then [`Decision::settle`].
    Decide(W, Decision<B, W>),
    /// Somebody is finding out and will answer it too.
    Queued,
}

/// Whether an inode that is not open yet could be read from a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Candidate {
    Yes,
    No,
}

impl<B, W> Default for Modes<B, W> {
    fn default() -> Self {
        Self { inodes: Mutex::default() }
    }
}

impl<B, W> Modes<B, W> {
    /// An open of `ino`; counts as one unless the answer is that it has to be decided. Never waits.
    pub(crate) fn open(self: &Arc<Self>, ino: InodeNo, candidate: Candidate, open: W) -> Opening<B, W> {
        let mut inodes = self.lock();
        match (inodes.get_mut(&ino), candidate) {
            (Some(Mode::Cached { handles }), _) => {
                *handles += 1;
                Opening::Cached(open)
            }
            (Some(Mode::Direct { backing, handles }), _) => {
                *handles += 1;
                Opening::Direct(open, Arc::clone(backing))
            }
            (Some(Mode::Deciding { waiting }), _) => {
                waiting.push(open);
                Opening::Queued
            }
            (None, Candidate::No) => {
                inodes.insert(ino, Mode::Cached { handles: 1 });
                Opening::Cached(open)
            }
            (None, Candidate::Yes) => {
                inodes.insert(ino, Mode::Deciding { waiting: Vec::new() });
                Opening::Decide(open, Decision { modes: Arc::clone(self), ino, is_settled: false })
            }
        }
    }

    /// A handle of `ino` is closed.
    pub(crate) fn close(&self, ino: InodeNo) {
        let mut inodes = self.lock();
        let is_last = match inodes.get_mut(&ino) {
            Some(Mode::Cached { handles } | Mode::Direct { handles, .. }) => {
                *handles -= 1;
                *handles == 0
            }
            Some(Mode::Deciding { .. }) | None => false,
        };
        let forgotten = if is_last { inodes.remove(&ino) } else { None };
        drop(inodes);
        // Outside of the lock: letting go of a data file is a system call.
        drop(forgotten);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InodeNo, Mode<B, W>>> {
        // Whole between any two statements.
        self.inodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The duty to decide. Dropped undecided, it drops the opens that waited and forgets the inode.
#[derive(Debug)]
pub(crate) struct Decision<B, W> {
    modes: Arc<Modes<B, W>>,
    ino: InodeNo,
    is_settled: bool,
}

impl<B, W> Decision<B, W> {
    /// From a data file if there is one. Returns what to answer, and the opens besides the deciding one to answer so.
    pub(crate) fn settle(mut self, backing: Option<B>) -> (Option<Arc<B>>, Vec<W>) {
        self.is_settled = true;
        let backing = backing.map(Arc::new);
        let mut inodes = self.modes.lock();
        let waiting = match inodes.remove(&self.ino) {
            Some(Mode::Deciding { waiting }) => waiting,
            Some(Mode::Cached { .. } | Mode::Direct { .. }) | None => Vec::new(),
        };
        let handles = 1 + waiting.len();
        let mode = match &backing {
            Some(backing) => Mode::Direct { backing: Arc::clone(backing), handles },
            None => Mode::Cached { handles },
        };
        inodes.insert(self.ino, mode);
        drop(inodes);
        (backing, waiting)
    }
}

impl<B, W> Drop for Decision<B, W> {
    fn drop(&mut self) {
        if !self.is_settled {
            let forgotten = self.modes.lock().remove(&self.ino);
            drop(forgotten);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;

    const INO: InodeNo = InodeNo::own(9);

    fn modes() -> Arc<Modes<&'static str, u32>> {
        Arc::default()
    }

    fn decide(modes: &Arc<Modes<&'static str, u32>>, open: u32) -> Decision<&'static str, u32> {
        match modes.open(INO, Candidate::Yes, open) {
            Opening::Decide(decided, decision) if decided == open => decision,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_open_decides_for_all_until_the_last_close() {
        let modes = modes();
        let decision = decide(&modes, 1);
        assert!(matches!(modes.open(INO, Candidate::No, 2), Opening::Queued));
        let (backing, waiting) = decision.settle(Some("data"));
        assert_eq!(waiting, [2]);
        let watched: Weak<&str> = Arc::downgrade(&backing.expect("decided so"));
        assert!(matches!(modes.open(INO, Candidate::No, 3), Opening::Direct(3, _)));
        modes.close(INO);
        modes.close(INO);
        assert!(watched.upgrade().is_some());
        modes.close(INO);
        assert!(watched.upgrade().is_none());
        assert!(matches!(modes.open(INO, Candidate::No, 4), Opening::Cached(4)));
    }

    #[test]
    fn a_file_opened_before_it_is_complete_stays_cached_until_it_is_closed() {
        let modes = modes();
        assert!(matches!(modes.open(INO, Candidate::No, 1), Opening::Cached(1)));
        assert!(matches!(modes.open(INO, Candidate::Yes, 2), Opening::Cached(2)));
        modes.close(INO);
        assert!(matches!(modes.open(INO, Candidate::Yes, 3), Opening::Cached(3)));
        modes.close(INO);
        modes.close(INO);
        drop(decide(&modes, 4));
    }

    #[test]
    fn no_data_file_means_cached_and_an_abandoned_decision_leaves_nothing() {
        let modes = modes();
        let (backing, _) = decide(&modes, 1).settle(None);
        assert!(backing.is_none());
        assert!(matches!(modes.open(INO, Candidate::Yes, 2), Opening::Cached(2)));
        modes.close(INO);
        modes.close(INO);
        drop(decide(&modes, 3));
        assert!(modes.lock().is_empty());
    }
}
