//! Which of the engine's torrents are for those alone who have a right to their content.
//!
//! They stand in no list, nothing is served by their info hashes, and no numbers name them; the hub's own tracker is told of
//! them all the same, since it is theirs. An info hash is put in before the engine has its torrent, and taken out after.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wtfs_proto::id::InfoHash;

/// See the module's documentation. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClosedSwarms(Arc<Mutex<HashSet<InfoHash>>>);

impl ClosedSwarms {
    pub(crate) fn insert(&self, info_hash: InfoHash) {
        self.lock().insert(info_hash);
    }

    pub(crate) fn remove(&self, info_hash: InfoHash) {
        self.lock().remove(&info_hash);
    }

    pub(crate) fn hold(&self, info_hash: InfoHash) -> bool {
        self.lock().contains(&info_hash)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<InfoHash>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
