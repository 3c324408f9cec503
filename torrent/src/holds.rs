//! Files whose data somebody reads past this process, and which therefore must stay on disk as they are.
//!
//! The kernel may be given a complete data file to read from directly; it then notices no eviction, and a punched hole
//! would be read as zeros. A [`FileHold`] says so for as long as that lasts. Counts only: whoever evicts asks.
//!
//! The order that makes it safe, on both sides of the lock in here: who wants to read takes the hold and *then* looks
//! whether all pieces are present; who evicts takes the pieces out of the present map and *then* asks
//! [`Holds::is_held`], putting them back when it is. One of the two always sees the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wtfs_proto::geometry::FileIndex;

use crate::hf::blobs::state::Hold as BlobHold;

/// The holds of one torrent's files.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    counts: Mutex<HashMap<FileIndex, usize>>,
}

impl Holds {
    /// Keeps `file` from being evicted until the result is dropped.
    pub(crate) fn hold(self: &Arc<Self>, file: FileIndex) -> FileHold {
        *self.lock().entry(file).or_insert(0) += 1;
        FileHold { _kept: Kept::Torrents { _hold: TorrentHold { holds: Arc::clone(self), file } } }
    }

    /// Whether anybody holds `file` now.
    pub(crate) fn is_held(&self, file: FileIndex) -> bool {
        self.lock().contains_key(&file)
    }

    /// All files that anybody holds now.
    pub(crate) fn files(&self) -> Vec<FileIndex> {
        self.lock().keys().copied().collect()
    }

    fn release(&self, file: FileIndex) {
        let mut counts = self.lock();
        if let Some(count) = counts.get_mut(&file) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&file);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FileIndex, usize>> {
        // Whole between any two statements.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps one file's data on disk as it is; dropping it lets go. Several may hold the same file.
#[derive(Debug)]
pub struct FileHold {
    _kept: Kept,
}

/// Whose file it is.
#[derive(Debug)]
enum Kept {
    Torrents { _hold: TorrentHold },
    Blobs { _hold: BlobHold },
}

impl FileHold {
    /// Of the file of a whole blob.
    pub(crate) fn of_blob(hold: BlobHold) -> Self {
        Self { _kept: Kept::Blobs { _hold: hold } }
    }
}

#[derive(Debug)]
struct TorrentHold {
    holds: Arc<Holds>,
    file: FileIndex,
}

impl Drop for TorrentHold {
    fn drop(&mut self) {
        self.holds.release(self.file);
    }
}

#[cfg(test)]
mod tests {
    use wtfs_proto::geometry::{Alignment, FileLayout, Geometry};

    use super::*;

    #[test]
    fn a_file_is_held_until_the_last_hold_is_dropped() {
        let file = FileLayout { bytes: 10, alignment: Alignment::Packed, is_pad: false };
        let geometry = Geometry::new(16 << 10, &[file, file]).expect("valid");
        let [first, second] = [0, 1].map(|file| geometry.file(file).expect("there"));
        let holds = Arc::new(Holds::default());
        let (one, other) = (holds.hold(first), holds.hold(first));
        assert!(holds.is_held(first) && !holds.is_held(second));
        drop(one);
        assert!(holds.is_held(first));
        drop(other);
        assert!(!holds.is_held(first));
    }
}
