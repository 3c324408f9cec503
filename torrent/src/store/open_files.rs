//! A bounded cache of open data files, one for the whole process.
//!
//! Torrents have up to tens of thousands of files and a process has a limit on descriptors, so the least recently
//! used ones are closed. Owns descriptors only; opening is its callers' work. The lock guards the map alone: no
//! system call is made under it, neither an open nor the close of what is pushed out (a reader that still holds the
//! `Arc` keeps its descriptor).

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// Open data files in the process. Room for many readers, and far below the usual soft limit of 1,024 descriptors,
/// of which the peers' sockets need the larger part.
const CAPACITY: usize = 256;

/// Whether a descriptor was opened to be written through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    Read,
    ReadWrite,
}

/// One open data file; read and written at given positions only, so it can be shared.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) fd: OwnedFd,
    pub(super) access: Access,
}

/// Names a store in the cache; never used twice in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct StoreId(u64);

impl StoreId {
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

type Key = (StoreId, u32);

#[derive(Debug)]
struct Slot {
    file: Arc<OpenFile>,
    last_use: u64,
}

#[derive(Debug, Default)]
struct Slots {
    by_key: HashMap<Key, Slot>,
    uses: u64,
}

/// The cache.
#[derive(Debug)]
pub(super) struct OpenFiles {
    capacity: usize,
    slots: Mutex<Slots>,
}

impl OpenFiles {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), slots: Mutex::default() }
    }

    /// The process's own cache: the limit on descriptors is the process's too.
    pub(super) fn shared() -> Arc<Self> {
        static SHARED: LazyLock<Arc<OpenFiles>> = LazyLock::new(|| Arc::new(OpenFiles::new(CAPACITY)));
        Arc::clone(&SHARED)
    }

    /// The open file, if there is one that allows at least `access`.
    pub(super) fn find(&self, store: StoreId, file: u32, access: Access) -> Option<Arc<OpenFile>> {
        let mut slots = self.lock();
        slots.uses += 1;
        let now = slots.uses;
        let slot = slots.by_key.get_mut(&(store, file)).filter(|slot| slot.file.access >= access)?;
        slot.last_use = now;
        Some(Arc::clone(&slot.file))
    }

    /// Keeps a file for later. One that is there with more access stays: a reader must not take a writer's place.
    pub(super) fn keep(&self, store: StoreId, file: u32, open: &Arc<OpenFile>) {
        let mut slots = self.lock();
        slots.uses += 1;
        let now = slots.uses;
        let key = (store, file);
        if slots.by_key.get(&key).is_some_and(|slot| slot.file.access > open.access) {
            return;
        }
        let replaced = slots.by_key.insert(key, Slot { file: Arc::clone(open), last_use: now });
        let mut pushed_out = None;
        if slots.by_key.len() > self.capacity {
            // A scan of a few hundred entries beside an open(2) that just happened; no list to keep in order.
            let oldest = slots.by_key.iter().min_by_key(|(_, slot)| slot.last_use).map(|(&key, _)| key);
            pushed_out = oldest.and_then(|key| slots.by_key.remove(&key));
        }
        drop(slots);
        drop((replaced, pushed_out));
    }

    /// Closes all files of a store.
    pub(super) fn close_store(&self, store: StoreId) {
        let mut slots = self.lock();
        let closed: Vec<Slot> =
            slots.by_key.extract_if(|(owner, _), _| *owner == store).map(|(_, slot)| slot).collect();
        drop(slots);
        drop(closed);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().by_key.len()
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // The map is whole between any two statements, so a panic elsewhere under the lock leaves it usable.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn open(access: Access) -> Arc<OpenFile> {
        Arc::new(OpenFile { fd: std::fs::File::open("/dev/null").unwrap().into(), access })
    }

    #[test]
    fn the_least_recently_used_file_is_closed_first() {
        let cache = OpenFiles::new(2);
        let store = StoreId::next();
        cache.keep(store, 0, &open(Access::Read));
        cache.keep(store, 1, &open(Access::Read));
        assert!(cache.find(store, 0, Access::Read).is_some());
        cache.keep(store, 2, &open(Access::Read));
        assert!(cache.find(store, 0, Access::Read).is_some());
        assert!(cache.find(store, 1, Access::Read).is_none());
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn a_reader_neither_serves_a_writer_nor_takes_its_place() {
        let cache = OpenFiles::new(8);
        let store = StoreId::next();
        cache.keep(store, 0, &open(Access::Read));
        assert!(cache.find(store, 0, Access::ReadWrite).is_none());
        cache.keep(store, 0, &open(Access::ReadWrite));
        cache.keep(store, 0, &open(Access::Read));
        assert!(cache.find(store, 0, Access::ReadWrite).is_some());
    }

    #[test]
    fn closing_a_store_leaves_the_others_open() {
        let cache = OpenFiles::new(8);
        let (gone, kept) = (StoreId::next(), StoreId::next());
        cache.keep(gone, 0, &open(Access::Read));
        cache.keep(kept, 0, &open(Access::Read));
        cache.close_store(gone);
        assert!(cache.find(gone, 0, Access::Read).is_none());
        assert!(cache.find(kept, 0, Access::Read).is_some());
    }
}
