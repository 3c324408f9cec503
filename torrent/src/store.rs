//! Where verified pieces are kept: the port [`PieceStore`], its errors, and the two stores behind it.
//!
//! A store takes whole, verified pieces and gives back ranges of files. It never verifies what it is given, never
//! decides what to keep, and knows no peers; whoever calls it holds the bitfield of what is present and asks only for
//! that. All calls may block on the disk: make them from the pool for blocking work, except
//! [`PieceStore::try_read_file`], which never waits.
//!
//! Invariant: bytes are only ever reported as present (by what `open` returns) when they were written as part of a
//! verified piece and reached the disk, or when they were hashed again. A crash costs pieces, never truth.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::io::Errno;
use wtfs_proto::geometry::{FileIndex, PieceIndex};
use wtfs_proto::metainfo::MetainfoError;

mod check;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod concurrency_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod faulty;
mod file;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod fixture;
mod journal;
mod layout;
mod memory;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod model_tests;
mod open_files;
mod piece_hash;
mod record;
mod recovery;
mod root;
mod sealed;
pub(crate) mod spans;
mod state;

pub use check::{CheckReport, check_data};
pub use file::{DataOwner, FileStore, FileStoreConfig};
pub use memory::MemoryStore;
pub use piece_hash::{PieceHasher, verify_piece};
pub(crate) use record::sync_parent;
pub use sealed::{SealedFile, SealedFiles, SealedStore};
pub(crate) use state::replace_file;
pub use state::{StateDir, list_states};

/// What [`PieceStore::try_read_file`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryRead {
    /// The buffer is filled.
    Done,
    /// Filling it would have to wait for the disk, or the system cannot tell. The buffer's contents are undefined.
    WouldBlock,
}

/// A place that keeps verified pieces. Shared between threads; every method may be called from many at once.
pub trait PieceStore: Send + Sync + std::fmt::Debug + 'static {
    /// Keeps a piece. `blocks`, one behind the other, are the whole piece, and its hash was checked by the caller.
    ///
    /// When this returns the piece can be read, and survives the death of the process as something to be hashed
    /// again; it survives the loss of power after the next [`PieceStore::checkpoint`].
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] when the disk is full, [`StoreError::PieceLength`] when the blocks are not the piece.
    /// After an error the piece is not present, unless it was before.
    fn write_piece(&self, piece: PieceIndex, blocks: &[Bytes]) -> Result<(), StoreError>;

    /// Fills `buf` with the bytes of a file from `offset` on. The pieces that hold them must be present; a store
    /// need not notice when they are not.
    ///
    /// # Errors
    /// [`StoreError::Range`] when the range passes the end of the file; never a short read.
    fn read_file(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> Result<(), StoreError>;

    /// As [`PieceStore::read_file`], when that needs no wait for a disk (the page cache has it all).
    ///
    /// # Errors
    /// As [`PieceStore::read_file`].
    fn try_read_file(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> Result<TryRead, StoreError>;

    /// Fills `buf` with a range of a piece's bytes, across files; padding reads as zeros. The piece must be present.
    ///
    /// # Errors
    /// [`StoreError::Range`] when the range passes the end of the piece or is not as long as `buf`.
    fn read_piece(&self, piece: PieceIndex, range: Range<u32>, buf: &mut [u8]) -> Result<(), StoreError>;

    /// Opens a file of the torrent to be read past the store, if it is kept as one ordinary file and is as long as it
    /// should be. All its pieces must be present. The file carries a shared `flock`, which lasts for as long as anybody
    /// reads through the descriptor, also after this process: who frees space asks for an exclusive one first.
    fn open_file(&self, _file: FileIndex) -> Option<File> {
        None
    }

    /// Makes all pieces written so far durable. Does nothing when nothing changed since the last time.
    ///
    /// # Errors
    /// [`StoreError::NotDurable`] names pieces that the disk lost: they are no longer present and the caller must
    /// fetch them again. After any other error everything is as before and the call can be repeated.
    fn checkpoint(&self) -> Result<(), StoreError>;

    /// Gives up pieces and frees their space. They must no longer be read: a read that overlaps this call may see
    /// zeros. Takes many, because making the loss durable costs the same for one as for all.
    ///
    /// # Errors
    /// When the record cannot be replaced. The pieces then still are no longer present, but their space is not free.
    fn forget_pieces(&self, pieces: &[PieceIndex]) -> Result<(), StoreError>;

    /// [`PieceStore::forget_pieces`] for one.
    ///
    /// # Errors
    /// As [`PieceStore::forget_pieces`].
    fn forget_piece(&self, piece: PieceIndex) -> Result<(), StoreError> {
        self.forget_pieces(&[piece])
    }
}

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk or the quota is full.
    #[error("no space left: {op} {}", path.display())]
    NoSpace {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Something that is not what the torrent has is in its place; it is left alone.
    #[error("{} is {found} where the torrent has {expected}; move it away", path.display())]
    WrongType {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: &'static str,
        /// What should be.
        expected: &'static str,
    },
    /// A file has another length than in the torrent, and it is not for the store to cut or extend it.
    #[error("{} is {found} bytes long, {expected} in the torrent; move it away or verify the data", path.display())]
    FileLength {
        /// The file.
        path: PathBuf,
        /// Its length in the torrent, in bytes.
        expected: u64,
        /// Its length on disk, in bytes.
        found: u64,
    },
    /// A file of which pieces were present is gone.
    #[error("{} was removed while the torrent was open; reopen the torrent", path.display())]
    Vanished {
        /// The file.
        path: PathBuf,
    },
    /// A file is not what was hashed any more.
    #[error("{} changed since it was hashed", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The blocks do not make up the piece.
    #[error("{found} bytes were given for piece {piece} of {expected}")]
    PieceLength {
        /// The piece.
        piece: PieceIndex,
        /// Its length in bytes.
        expected: u64,
        /// Sum of the blocks' lengths.
        found: u64,
    },
    /// A range that the file or the piece does not have.
    #[error("bytes {offset}+{len} do not lie in {end}")]
    Range {
        /// First byte asked for.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// Length of the file or piece.
        end: u64,
    },
    /// The piece is not there (the memory store notices).
    #[error("piece {piece} is not present")]
    NotPresent {
        /// The piece.
        piece: PieceIndex,
    },
    /// Another process has the torrent open, or another store of this one.
    #[error("{} is in use by {}", path.display(), owner(*pid))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, if that could be read.
        pid: Option<u32>,
    },
    /// The disk lost pieces that were written before; they are no longer present.
    #[error("{} pieces were lost on their way to the disk: {source}", pieces.len())]
    NotDurable {
        /// The lost pieces.
        pieces: Vec<PieceIndex>,
        /// The first error that the disk gave.
        source: Box<Self>,
    },
    /// A saved metainfo cannot be read back.
    #[error("{} is damaged: {source}", path.display())]
    Metainfo {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: MetainfoError,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl StoreError {
    /// Whether the same call may succeed later without anyone repairing anything by hand in the store.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoSpace { .. } | Self::Io { .. } | Self::Locked { .. } | Self::Cancelled => true,
            Self::WrongType { .. }
            | Self::FileLength { .. }
            | Self::Vanished { .. }
            | Self::Changed { .. }
            | Self::PieceLength { .. }
            | Self::Range { .. }
            | Self::NotPresent { .. }
            | Self::NotDurable { .. }
            | Self::Metainfo { .. } => false,
        }
    }

    /// Whether all that is wrong is that the disk or the quota is full.
    pub(crate) fn is_of_full_disk(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::NotDurable { source, .. } => source.is_of_full_disk(),
            _ => false,
        }
    }

    /// Sorts a system error: out of space is told apart, since the callers can act on it.
    pub(crate) fn from_io(op: &'static str, path: &Path, source: io::Error) -> Self {
        let code = source.raw_os_error();
        let is_full = [Errno::NOSPC, Errno::DQUOT].iter().any(|full| code == Some(full.raw_os_error()));
        let path = path.to_path_buf();
        if is_full { Self::NoSpace { op, path } } else { Self::Io { op, path, source } }
    }

    /// [`StoreError::from_io`] for use in `map_err`.
    pub(crate) fn at(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::from_io(op, path, source)
    }

    /// As [`StoreError::at`], for errors of rustix.
    pub(crate) fn errno(op: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::from_io(op, path, errno.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_was_tried_on_what_and_what_to_do() {
        let path = || PathBuf::from("/d/f");
        let no_space = || StoreError::from_io("write", Path::new("/d/f"), Errno::NOSPC.into());
        let texts = [
            (no_space(), "no space left: write /d/f"),
            (
                StoreError::from_io("sync", Path::new("/d/f"), Errno::IO.into()),
                "sync /d/f: Input/output error (os error 5)",
            ),
            (
                StoreError::WrongType { path: path(), found: "a directory", expected: "a file" },
                "/d/f is a directory where the torrent has a file; move it away",
            ),
            (
                StoreError::FileLength { path: path(), expected: 2, found: 3 },
                "/d/f is 3 bytes long, 2 in the torrent; move it away or verify the data",
            ),
            (
                StoreError::Vanished { path: path() },
                "/d/f was removed while the torrent was open; reopen the torrent",
            ),
            (StoreError::Changed { path: path() }, "/d/f changed since it was hashed"),
            (StoreError::Range { offset: 1, len: 2, end: 2 }, "bytes 1+2 do not lie in 2"),
            (StoreError::Locked { path: path(), pid: Some(7) }, "/d/f is in use by process 7"),
            (StoreError::Locked { path: path(), pid: None }, "/d/f is in use by another process"),
            (
                StoreError::NotDurable { pieces: Vec::new(), source: Box::new(no_space()) },
                "0 pieces were lost on their way to the disk: no space left: write /d/f",
            ),
            (StoreError::Cancelled, "cancelled"),
        ];
        for (error, text) in texts {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn a_full_disk_and_a_full_quota_are_told_from_other_errors() {
        let sort = |errno: Errno| StoreError::errno("write", Path::new("/d/f"))(errno);
        assert!(matches!(sort(Errno::NOSPC), StoreError::NoSpace { .. }));
        assert!(matches!(sort(Errno::DQUOT), StoreError::NoSpace { .. }));
        assert!(matches!(sort(Errno::IO), StoreError::Io { .. }));
        assert!(
            sort(Errno::NOSPC).is_retryable()
                && !StoreError::Vanished { path: PathBuf::new() }.is_retryable()
        );
    }
}
