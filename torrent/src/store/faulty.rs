//! A store that fails when a test says so: a decorator, so that no production code knows of it.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;

use bytes::Bytes;
use wtfs_proto::geometry::{FileIndex, PieceIndex};

use super::{PieceStore, StoreError, TryRead};

/// The calls that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Write,
    Read,
    Checkpoint,
    Forget,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    NoSpace,
    Io,
}

/// Another store with faults.
#[derive(Debug)]
pub(crate) struct FaultyStore<S> {
    inner: S,
    /// Calls to fail, and how many times each; the first that matches is taken.
    planned: Mutex<Vec<(Call, Failure, u32)>>,
}

impl<S: PieceStore> FaultyStore<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, planned: Mutex::default() }
    }

    /// Makes the next `times` calls of a kind fail, without reaching the store behind.
    pub(crate) fn fail(&self, call: Call, failure: Failure, times: u32) {
        self.planned.lock().unwrap().push((call, failure, times));
    }

    fn check(&self, call: Call) -> Result<(), StoreError> {
        let mut planned = self.planned.lock().unwrap();
        let Some(at) = planned.iter().position(|(planned, _, times)| *planned == call && *times > 0) else {
            return Ok(());
        };
        let (_, failure, times) = &mut planned[at];
        *times -= 1;
        let path = PathBuf::from("/faulty");
        Err(match failure {
            Failure::NoSpace => StoreError::NoSpace { op: "fail at", path },
            Failure::Io => StoreError::Io { op: "fail at", path, source: rustix::io::Errno::IO.into() },
        })
    }
}

impl<S: PieceStore> PieceStore for FaultyStore<S> {
    fn write_piece(&self, piece: PieceIndex, blocks: &[Bytes]) -> Result<(), StoreError> {
        self.check(Call::Write)?;
        self.inner.write_piece(piece, blocks)
    }

    fn read_file(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        self.check(Call::Read)?;
        self.inner.read_file(file, offset, buf)
    }

    fn try_read_file(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> Result<TryRead, StoreError> {
        self.check(Call::Read)?;
        self.inner.try_read_file(file, offset, buf)
    }

    fn read_piece(&self, piece: PieceIndex, range: Range<u32>, buf: &mut [u8]) -> Result<(), StoreError> {
        self.check(Call::Read)?;
        self.inner.read_piece(piece, range, buf)
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        self.check(Call::Checkpoint)?;
        self.inner.checkpoint()
    }

    fn forget_pieces(&self, pieces: &[PieceIndex]) -> Result<(), StoreError> {
        self.check(Call::Forget)?;
        self.inner.forget_pieces(pieces)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::MemoryStore;
    use super::super::fixture::{Sample, entry};
    use super::*;

    #[test]
    fn calls_fail_as_often_as_planned_and_then_reach_the_store() {
        let sample = Sample::new(10, vec![entry("a", 10)]);
        let store = FaultyStore::new(MemoryStore::new(Arc::clone(&sample.metainfo)));
        let piece = sample.piece(0);
        store.fail(Call::Write, Failure::NoSpace, 2);
        store.fail(Call::Checkpoint, Failure::Io, 1);
        for _ in 0..2 {
            let written = store.write_piece(piece, &sample.blocks(piece));
            assert!(matches!(written, Err(StoreError::NoSpace { .. })));
        }
        store.write_piece(piece, &sample.blocks(piece)).unwrap();
        assert!(matches!(store.checkpoint(), Err(StoreError::Io { .. })));
        store.checkpoint().unwrap();
        store.read_file(sample.file(0), 0, &mut [0; 10]).unwrap();
    }
}
