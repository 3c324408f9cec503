//! Bringing files to the disk, and finding out what did not arrive.
//!
//! After a sync has failed the kernel may drop the pages and report the error no second time: what was written since
//! the last good sync then counts as lost, and is never recorded.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use wtfs_proto::geometry::{FileIndex, PieceIndex};

use super::super::StoreError;
use super::{DataOwner, FileStore, State, files_of};

/// More dirty files than this are sent to the disk together: each sync of a file waits for a flush of the disk, some
/// 3 ms even when nothing is left to write (184 s for 60,000 files), and one flush of the file system does for all.
const SYNC_ONE_BY_ONE: usize = 64;

impl FileStore {
    /// Sees to it that failed writes are noticed from now on, unless some are unsynced that were not watched.
    pub(super) fn watch_writes(&self) -> Result<(), StoreError> {
        let needs_watch = |state: &State| state.watch.is_none() && state.dirty.is_empty();
        if !needs_watch(&self.state()) {
            return Ok(());
        }
        let watch = self.root.open_dir()?;
        let mut state = self.state();
        if needs_watch(&state) {
            state.watch = watch;
        }
        Ok(())
    }

    /// Syncs files; returns those whose bytes may be lost, with the error. `watch` was opened before they were written.
    pub(super) fn sync(
        &self,
        files: &HashSet<FileIndex>,
        watch: Option<OwnedFd>,
    ) -> Vec<(FileIndex, StoreError)> {
        if files.len() > SYNC_ONE_BY_ONE
            && let Some(watch) = watch
        {
            match rustix::fs::syncfs(&watch) {
                Ok(()) => return Vec::new(),
                // Of any file of the file system: the syncs below tell whether it was one of these.
                Err(error) => tracing::debug!(%error, "the file system could not be flushed at once"),
            }
        }
        files.iter().filter_map(|&file| self.sync_file(file).err().map(|error| (file, error))).collect()
    }

    /// A descriptor opened after the write does as well as the one written through: the kernel keeps a failed
    /// write-back with the inode until some descriptor was told.
    fn sync_file(&self, file: FileIndex) -> Result<(), StoreError> {
        let open = self.to_read(file)?;
        rustix::fs::fdatasync(&open.fd).map_err(StoreError::errno("sync", &self.display_path(file)))
    }

    /// Takes pieces of which bytes may be lost out of the state. Those in the record were synced before and stay.
    pub(super) fn drop_lost(
        &self,
        settling: &mut Vec<PieceIndex>,
        failed: Vec<(FileIndex, StoreError)>,
    ) -> Option<StoreError> {
        let files: HashSet<FileIndex> = failed.iter().map(|(file, _)| *file).collect();
        let (_, source) = failed.into_iter().next()?;
        let geometry = self.geometry();
        let is_lost = |piece: &PieceIndex| files_of(geometry, *piece).any(|file| files.contains(&file));
        let mut lost: Vec<PieceIndex> = settling.extract_if(.., |piece| is_lost(piece)).collect();
        let mut state = self.state();
        // Pieces that were written while the sync failed may have gone with it.
        lost.extend(state.unsynced.extract_if(.., |piece| is_lost(piece)));
        for piece in &lost {
            state.present.clear(piece.get());
        }
        if self.owner == DataOwner::Store {
            state.unpunched.extend(&lost);
            state.is_stale = true;
        }
        Some(StoreError::NotDurable { pieces: lost, source: Box::new(source) })
    }
}
