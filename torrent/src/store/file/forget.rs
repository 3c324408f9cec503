//! Giving pieces up: out of the record for good, then out of the disk's space.

use std::ops::Range;
use std::sync::PoisonError;

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;
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
        let mut unrecorded = Vec::new();
        {
            let mut state = self.state();
            let mut was_present = false;
            if !state.is_record_ahead {
                unrecorded.extend(pieces.iter().copied().filter(|piece| state.unsynced.contains(piece)));
            }
            for piece in pieces {
                was_present |= state.present.clear(piece.get());
            }
            if !was_present {
                return Ok(());
            }
            let State { unsynced, present, .. } = &mut *state;
            unsynced.retain(|piece| present.get(piece.get()));
            state.is_stale = true;
        }
        // Other pieces that the disk lost are the caller's news, but no reason to keep these.
        let mut written = self.checkpoint();
        if matches!(written, Err(StoreError::NoSpace { .. })) && !unrecorded.is_empty() {
            // Not even the record fits. Pieces that it never named may go before it is replaced: the journal's word is
            // not taken without hashing. They make the space.
            self.punch_absent(&unrecorded);
            written = self.checkpoint();
        }
        let outcome = match written {
            outcome @ (Ok(()) | Err(StoreError::NotDurable { .. })) => outcome,
            Err(error) => return Err(error),
        };
        self.punch_absent(pieces);
        outcome
    }

    /// Frees the space of those that are not present: one may have been fetched again meanwhile.
    fn punch_absent(&self, pieces: &[PieceIndex]) {
        let _alone = self.writing.write().unwrap_or_else(PoisonError::into_inner);
        for &piece in pieces {
            if !self.state().present.get(piece.get()) {
                self.punch(piece);
            }
        }
    }

    /// Frees the space of a piece that is not present. Failing costs only space.
    fn punch(&self, piece: PieceIndex) {
        for span in self.geometry().spans(piece, 0..u32::MAX).filter(|span| !span.is_pad) {
            let hole = self.whole_blocks(piece, span);
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
        rustix::fs::fallocate(&found.fd, mode, hole.start, hole.end - hole.start)
            .map_err(StoreError::errno("punch a hole in", &self.root.display_path(&path)))
    }

    /// The blocks of the file that hold bytes of the span and of no present piece. The bytes of absent neighbours that
    /// share a block go too, which is why no piece may be half written meanwhile.
    fn whole_blocks(&self, piece: PieceIndex, span: FileSpan) -> Range<u64> {
        let (start, end) = (span.file_offset, span.file_offset + u64::from(span.bytes));
        let down = start - start % HOLE_BYTES;
        let up = end.next_multiple_of(HOLE_BYTES);
        let start = if self.is_free(span.file, piece, down..start) { down } else { down + HOLE_BYTES };
        let end = if self.is_free(span.file, piece, end..up) { up } else { up - HOLE_BYTES };
        start..end
    }

    /// Whether no present piece but this one has bytes in the range; the range may pass the end of the file.
    fn is_free(&self, file: FileIndex, but: PieceIndex, range: Range<u64>) -> bool {
        let state = self.state();
        let is_held = |other: PieceIndex| other != but && state.present.get(other.get());
        !self.geometry().pieces_of(file, range).any(is_held)
    }
}
