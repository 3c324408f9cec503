//! The record: which pieces are on the disk, whatever happens to the power.
//!
//! A small file with a checksum over all of it, replaced as a whole: written beside the old one, synced, renamed over
//! it, and the directory synced. So there is always one whole record, the old or the new. Anything that is not exactly
//! a record of this torrent counts as no record.
//!
//! It holds the bitfield and what tells the data directory from another one. It holds no inode numbers, times or sizes
//! of the files: the length is known from the torrent, inode numbers change when a cache is copied or restored and are
//! given out again after a removal, and times change with every piece that is written after the record. What the
//! files still hold is seen from their lengths and their holes (`recovery.rs`).
//!
//! Layout, little endian: magic with the format's version (8), info hash (20), number of pieces (4), inode number of
//! the data directory (8), SHA-256 of its canonical path (32), bitfield as on the wire, SHA-256 of all that (32).

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use sha2::{Digest, Sha256};
use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::id::InfoHash;

use super::StoreError;

const MAGIC: [u8; 8] = *b"wtfsrec\x01";
const HEAD_BYTES: usize = 8 + 20 + 4 + 8 + 32;
const SUM_BYTES: usize = 32;

/// What tells a data directory from another. Either half may change alone: a directory that is renamed keeps its
/// inode, one that is restored from a copy keeps its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RootIdentity {
    inode: u64,
    path_sum: [u8; 32],
}

impl RootIdentity {
    pub(super) fn new(inode: u64, canonical: &Path) -> Self {
        Self { inode, path_sum: Sha256::digest(canonical.as_os_str().as_bytes()).into() }
    }

    /// Whether both may be the same directory.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.inode == other.inode || self.path_sum == other.path_sum
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) root: RootIdentity,
    pub(super) present: Bitfield,
}

/// Where a torrent's record lies.
#[derive(Debug)]
pub(super) struct RecordFile {
    path: PathBuf,
    info_hash: InfoHash,
}

impl RecordFile {
    pub(super) fn new(path: PathBuf, info_hash: InfoHash) -> Self {
        Self { path, info_hash }
    }

    /// The record, if there is a whole one of this torrent. A damaged one is logged and counts as none: the price is
    /// to fetch or verify again.
    pub(super) fn load(&self, piece_count: u32) -> Option<Record> {
        let expected = HEAD_BYTES + bitmap_bytes(piece_count) + SUM_BYTES;
        let mut bytes = Vec::new();
        // One byte more than a record has shows that something is behind it.
        let read =
            File::open(&self.path).and_then(|file| file.take(expected as u64 + 1).read_to_end(&mut bytes));
        let problem = match read {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => error.to_string(),
            Ok(_) => match self.decode(&bytes, piece_count) {
                Ok(record) => return Some(record),
                Err(problem) => problem.to_owned(),
            },
        };
        tracing::warn!(
            path = %self.path.display(), problem,
            "the record of present pieces is unusable and is ignored; verifying the data finds what is there"
        );
        None
    }

    /// Replaces the record; durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written. The old record, or in the last step possibly the new one, is then in place.
    pub(super) fn replace(&self, record: &Record) -> Result<(), StoreError> {
        let temporary = write_temporary(&self.path, &self.encode(record))?;
        // The old record becomes the next temporary file: its blocks are written over, so that giving up pieces works
        // on a disk that is full. The first time, and where a file system cannot, it is replaced.
        let exchanged = rustix::fs::renameat_with(CWD, &temporary, CWD, &self.path, RenameFlags::EXCHANGE);
        if exchanged.is_err() {
            std::fs::rename(&temporary, &self.path).map_err(StoreError::at("replace", &self.path))?;
        }
        sync_parent(&self.path)
    }

    fn encode(&self, record: &Record) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + bitmap_bytes(record.present.len()) + SUM_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(self.info_hash.as_bytes());
        bytes.extend_from_slice(&record.present.len().to_le_bytes());
        bytes.extend_from_slice(&record.root.inode.to_le_bytes());
        bytes.extend_from_slice(&record.root.path_sum);
        bytes.extend_from_slice(&record.present.to_wire());
        let sum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    fn decode(&self, bytes: &[u8], piece_count: u32) -> Result<Record, &'static str> {
        const TORN: &str = "it is torn or damaged";
        let (rest, sum) = bytes.split_last_chunk::<SUM_BYTES>().ok_or(TORN)?;
        if Sha256::digest(rest).as_slice() != sum {
            return Err(TORN);
        }
        let (magic, rest) = rest.split_first_chunk::<8>().ok_or(TORN)?;
        let (info_hash, rest) = rest.split_first_chunk::<20>().ok_or(TORN)?;
        let (count, rest) = rest.split_first_chunk::<4>().ok_or(TORN)?;
        let (inode, rest) = rest.split_first_chunk::<8>().ok_or(TORN)?;
        let (path_sum, bitmap) = rest.split_first_chunk::<32>().ok_or(TORN)?;
        if *magic != MAGIC {
            return Err("it has another format");
        }
        if info_hash != self.info_hash.as_bytes() {
            return Err("it is of another torrent");
        }
        if u32::from_le_bytes(*count) != piece_count {
            return Err("it has another number of pieces");
        }
        let present = Bitfield::from_wire(bitmap, piece_count).map_err(|_| TORN)?;
        let root = RootIdentity { inode: u64::from_le_bytes(*inode), path_sum: *path_sum };
        Ok(Record { root, present })
    }
}

/// Replaces a file as a whole so that a crash leaves the old or the new one; durable when this returns. The writer must
/// hold the lock of the directory: the temporary name is always the same, so that crashes leave no litter.
///
/// # Errors
/// When a step fails; the old file is then still in place unless only the last sync failed.
pub(super) fn replace_file(path: &Path, contents: &[u8]) -> Result<(), StoreError> {
    let temporary = write_temporary(path, contents)?;
    std::fs::rename(&temporary, path).map_err(StoreError::at("replace", path))?;
    sync_parent(path)
}

fn write_temporary(path: &Path, contents: &[u8]) -> Result<PathBuf, StoreError> {
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&temporary)
        .map_err(StoreError::at("create", &temporary))?;
    file.write_all(contents).map_err(StoreError::at("write", &temporary))?;
    file.set_len(contents.len() as u64).map_err(StoreError::at("cut", &temporary))?;
    file.sync_all().map_err(StoreError::at("sync", &temporary))?;
    Ok(temporary)
}

fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let Some(dir) = path.parent() else { return Ok(()) };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::at("sync", dir))
}

fn bitmap_bytes(piece_count: u32) -> usize {
    usize::try_from(piece_count.div_ceil(8)).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sample() -> Record {
        let mut present = Bitfield::new(21);
        present.set(0);
        present.set(20);
        Record { root: RootIdentity::new(42, Path::new("/data")), present }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = RecordFile::new(dir.path().join("record"), InfoHash::new([1; 20]));
        assert_eq!(file.load(21), None);
        for bit in [3, 4, 5] {
            let mut record = sample();
            record.present.set(bit);
            file.replace(&record).unwrap();
            assert_eq!(file.load(21), Some(record));
        }
    }

    #[test]
    fn a_record_of_another_torrent_or_piece_count_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let file = RecordFile::new(path.clone(), InfoHash::new([1; 20]));
        file.replace(&sample()).unwrap();
        assert_eq!(file.load(22), None);
        assert_eq!(file.load(u32::MAX), None);
        assert_eq!(RecordFile::new(path, InfoHash::new([2; 20])).load(21), None);
    }

    #[test]
    fn a_record_torn_or_flipped_at_any_byte_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let file = RecordFile::new(path.clone(), InfoHash::new([1; 20]));
        file.replace(&sample()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            std::fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(file.load(21), None, "cut at {at}");
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            std::fs::write(&path, flipped).unwrap();
            assert_eq!(file.load(21), None, "flipped at {at}");
        }
        let mut longer = whole;
        longer.push(0);
        std::fs::write(&path, longer).unwrap();
        assert_eq!(file.load(21), None);
    }
}
