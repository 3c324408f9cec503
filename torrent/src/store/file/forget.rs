//! Giving pieces up: out of the record for good, then out of the disk's space.

use std::ops::Range;
use std::sync::PoisonError;

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;
use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::geometry::{FileIndex, FileSpan, PieceIndex};

use super::super::layout;
use super::super::open_files::Access;
use super::super::{PieceStore, StoreError};
use super::{FileStore, State};

/// Unit in which holes are punched: the block size of all common file systems. With larger blocks the kernel keeps the
/// rest of each allocated and zeros it, which is right as well.
const HOLE_BYTES: u64 = 4096;

impl FileStore {
    pub(super) fn forget(&self, pieces: &[PieceIndex]) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        {
            let mut state = self.state();
            gone.extend(pieces.iter().copied().filter(|piece| state.present.clear(piece.get())));
            if gone.is_empty() {
                return Ok(());
            }
            let State { unsynced, present, unpunched, .. } = &mut *state;
            unsynced.retain(|piece| present.get(piece.get()));
            unpunched.extend(&gone);
            state.is_stale = true;
        }
        if let Err(error) = self.journal.append(&gone) {
            // Only dying between the record and the hole would cost their space.
            tracing::debug!(%error, "pieces that are given up are not in the journal");
        }
        self.checkpoint()
    }

    /// Frees the space of those that are not present: one may have been fetched again meanwhile. `recorded` is what the
    /// record on disk names: a piece that left the state since it was written is not touched before it left the record
    /// too, else the record would vouch for what a neighbour's hole took.
    pub(super) fn punch_absent(&self, pieces: &[PieceIndex], recorded: &Bitfield) {
        if pieces.is_empty() {
            return;
        }
        let _alone = self.writing.write().unwrap_or_else(PoisonError::into_inner);
        let is_held =
            |state: &State, piece: PieceIndex| state.present.get(piece.get()) || recorded.get(piece.get());
        for &piece in pieces {
            if !is_held(&self.state(), piece) {
                self.punch(piece, &|other| is_held(&self.state(), other));
            }
        }
    }

    /// Frees the space of a piece that is not held. Failing costs only space.
    fn punch(&self, piece: PieceIndex, is_held: &dyn Fn(PieceIndex) -> bool) {
        for span in self.geometry().spans(piece, 0..u32::MAX).filter(|span| !span.is_pad) {
            let hole = self.whole_blocks(span, is_held);
            if hole.is_empty() {
                continue;
            }
            if let Err(error) = self.punch_range(span.file, hole) {
                tracing::debug!(%error, %piece, "the space of a piece is not freed");
            }
        }
    }

    fn punch_range(&self, file: FileIndex, hole: Range<u64>) -> Result<(), StoreError> {
        let path = layout::path_of(&self.metainfo.info, file);
        // Not through the cache of open files, which would make a file that is missing.
        let Some(found) = self.root.open(&path, Access::ReadWrite)? else { return Ok(()) };
        // Somebody may read the file past every process's store, also one that this process knows nothing of.
        if let Err(Errno::WOULDBLOCK) = rustix::fs::flock(&found.fd, FlockOperation::NonBlockingLockExclusive)
        {
            tracing::debug!(file = file.get(), "read past the store: its space is not freed");
            return Ok(());
        }
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punched = rustix::fs::fallocate(&found.fd, mode, hole.start, hole.end - hole.start);
        // A process that is being started by another thread has the lock too until it becomes another program.
        let _unlocked = rustix::fs::flock(&found.fd, FlockOperation::Unlock);
        punched.map_err(StoreError::errno("punch a hole in", &self.root.display_path(&path)))
    }

    /// The blocks of the file that hold bytes of the span and of no piece that is held. The bytes of other absent pieces
    /// that share a block go too, which is why no piece may be half written meanwhile.
    fn whole_blocks(&self, span: FileSpan, is_held: &dyn Fn(PieceIndex) -> bool) -> Range<u64> {
        let (start, end) = (span.file_offset, span.file_offset + u64::from(span.bytes));
        let down = start - start % HOLE_BYTES;
        let up = end.next_multiple_of(HOLE_BYTES);
        // May pass the end of the file.
        let is_free = |range: Range<u64>| !self.geometry().pieces_of(span.file, range).any(is_held);
        let start = if is_free(down..start) { down } else { down + HOLE_BYTES };
        let end = if is_free(end..up) { up } else { up - HOLE_BYTES };
        start..end
    }
}
