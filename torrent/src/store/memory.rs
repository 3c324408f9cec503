//! The store in memory: for reading without a cache, and for tests.
//!
//! Keeps the blocks as they came, so that writing copies nothing; what a block was cut from stays alive with it. Holds
//! up to the whole torrent: whoever opens it bounds it by forgetting pieces. Nothing survives the process.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use wtfs_proto::geometry::{FileIndex, Geometry, PieceIndex};
use wtfs_proto::metainfo::Metainfo;

use super::spans::check_piece_range;
use super::spans::slices_of;
use super::{PieceStore, StoreError, TryRead};

/// A torrent's pieces in memory.
#[derive(Debug)]
pub struct MemoryStore {
    metainfo: Arc<Metainfo>,
    pieces: RwLock<HashMap<PieceIndex, Arc<[Bytes]>>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(metainfo: Arc<Metainfo>) -> Self {
        Self { metainfo, pieces: RwLock::default() }
    }

    fn geometry(&self) -> &Geometry {
        &self.metainfo.info.geometry
    }

    fn piece(&self, piece: PieceIndex) -> Result<Arc<[Bytes]>, StoreError> {
        let pieces = self.pieces.read().unwrap_or_else(PoisonError::into_inner);
        pieces.get(&piece).cloned().ok_or(StoreError::NotPresent { piece })
    }

    fn copy(&self, piece: PieceIndex, range: Range<u32>, mut buf: &mut [u8]) -> Result<(), StoreError> {
        let blocks = self.piece(piece)?;
        for slice in slices_of(&blocks, u64::from(range.start)..u64::from(range.end)) {
            let (now, later) = buf.split_at_mut(slice.len().min(buf.len()));
            now.copy_from_slice(slice.get(..now.len()).unwrap_or_default());
            buf = later;
        }
        Ok(())
    }
}

impl PieceStore for MemoryStore {
    fn write_piece(&self, piece: PieceIndex, blocks: &[Bytes]) -> Result<(), StoreError> {
        let expected = u64::from(self.geometry().piece_len(piece));
        let found = blocks.iter().map(|block| block.len() as u64).sum();
        if found != expected {
            return Err(StoreError::PieceLength { piece, expected, found });
        }
        let replaced = {
            let mut pieces = self.pieces.write().unwrap_or_else(PoisonError::into_inner);
            pieces.insert(piece, blocks.into())
        };
        drop(replaced);
        Ok(())
    }

    fn read_file(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        let geometry = self.geometry();
        let end = geometry.file_len(file);
        let len = buf.len() as u64;
        let last = offset.checked_add(len).filter(|&last| last <= end);
        let last = last.ok_or(StoreError::Range { offset, len, end })?;
        let mut rest = buf;
        let mut at = offset;
        while at < last {
            let Some((piece, begin)) = geometry.locate(file, at) else { break };
            let left_in_piece = geometry.piece_len(piece) - begin;
            let now = u32::try_from(last - at).unwrap_or(u32::MAX).min(left_in_piece);
            let (here, later) = rest.split_at_mut(usize::try_from(now).unwrap_or(usize::MAX).min(rest.len()));
            self.copy(piece, begin..begin + now, here)?;
            rest = later;
            at += u64::from(now);
        }
        Ok(())
    }

    fn try_read_file(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> Result<TryRead, StoreError> {
        self.read_file(file, offset, buf).map(|()| TryRead::Done)
    }

    fn read_piece(&self, piece: PieceIndex, range: Range<u32>, buf: &mut [u8]) -> Result<(), StoreError> {
        check_piece_range(self.geometry(), piece, &range, buf.len())?;
        self.copy(piece, range, buf)
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn forget_pieces(&self, forgotten: &[PieceIndex]) -> Result<(), StoreError> {
        let freed: Vec<_> = {
            let mut pieces = self.pieces.write().unwrap_or_else(PoisonError::into_inner);
            forgotten.iter().filter_map(|piece| pieces.remove(piece)).collect()
        };
        drop(freed);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::fixture::{Sample, entry};

    #[test]
    fn what_was_written_reads_back_across_pieces_until_it_is_forgotten() {
        let sample = Sample::new(10_000, vec![entry("a", 25_000), entry("b", 0), entry("c", 12_345)]);
        let store = MemoryStore::new(Arc::clone(&sample.metainfo));
        for piece in sample.pieces() {
            store.write_piece(piece, &sample.blocks(piece)).unwrap();
        }
        for file in [0, 1, 2] {
            let mut read = vec![0; sample.file_content(file).len()];
            assert_eq!(store.try_read_file(sample.file(file), 0, &mut read).unwrap(), TryRead::Done);
            assert!(read == sample.file_content(file));
        }
        let mut read = [0; 20];
        store.read_file(sample.file(0), 9_990, &mut read).unwrap();
        assert_eq!(read, sample.file_content(0)[9_990..10_010]);
        store.read_piece(sample.piece(2), 4_990..5_010, &mut read).unwrap();
        assert_eq!(read, sample.piece_content(sample.piece(2))[4_990..5_010]);
        assert!(matches!(store.read_file(sample.file(2), 12_340, &mut read), Err(StoreError::Range { .. })));
        store.forget_piece(sample.piece(1)).unwrap();
        let gone = store.read_file(sample.file(0), 9_990, &mut read);
        assert!(
            matches!(gone, Err(StoreError::NotPresent { piece }) if piece == sample.piece(1)),
            "{gone:?}"
        );
    }
}
