//! Names the kernel must forget: from whoever changes a tree to the thread that tells the kernel.
//!
//! Telling the kernel takes the directory's lock inside the kernel, and a request that this mount still owes an answer
//! may be holding it. So the message is sent by a thread that serves nothing else, never from a thread that answers
//! requests, never from a task, and never under one of our locks. Entries that wait are kept once per name, which
//! bounds the queue by the number of names.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::inode::InodeNo;

/// Where a [`Tree`](crate::Tree) reports names that are gone or mean something else now. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    names: HashSet<(InodeNo, OsString)>,
    is_closed: bool,
}

impl Changes {
    /// The entry `name` of `parent` is gone or another one. Never waits; may be called under any lock.
    pub fn entry_changed(&self, parent: InodeNo, name: &OsStr) {
        let mut queue = self.lock();
        if !queue.is_closed {
            queue.names.insert((parent, name.to_owned()));
            self.shared.wake.notify_one();
        }
    }

    /// Nothing more will be told; ends [`Changes::next`].
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.shared.wake.notify_all();
    }

    /// Waits for changes; `None` once closed. Only for the telling thread.
    pub(crate) fn next(&self) -> Option<Vec<(InodeNo, OsString)>> {
        let mut queue = self.lock();
        loop {
            if queue.is_closed {
                return None;
            }
            if !queue.names.is_empty() {
                return Some(queue.names.drain().collect());
            }
            queue = self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_changes_often_waits_once() {
        let changes = Changes::default();
        for _ in 0..1000 {
            changes.entry_changed(InodeNo::ROOT, OsStr::new("model"));
        }
        changes.entry_changed(InodeNo::ROOT, OsStr::new("other"));
        assert_eq!(changes.next().map(|names| names.len()), Some(2));
        changes.close();
        changes.entry_changed(InodeNo::ROOT, OsStr::new("late"));
        assert_eq!(changes.next(), None);
    }
}
