//! The record: which pieces are on the disk, whatever happens to the power and however full the disk is.
//!
//! One file of two slots, each a whole number of blocks of the file system and with a checksum over its contents. All of
//! it is written when it is made, so that replacing the record later takes no space: giving pieces up works on a disk
//! without a free block. A new record goes into the slot that does not hold the newest one and is synced; only then the
//! older slot is blanked. So one whole record survives whatever happens in between, and at rest there is no older one
//! that could be taken for the newest when that is damaged: it would vouch for what was given up since. Anything that
//! is not exactly a record of this torrent counts as no record.
//!
//! It holds the bitfield and what tells the data directory from another one. It holds no inode numbers, times or sizes
//! of the files: the length is known from the torrent, inode numbers change when a cache is copied or restored and are
//! given out again after a removal, and times change with every piece that is written after the record. What the
//! files still hold is seen from their lengths and their holes (`recovery.rs`).
//!
//! A slot, little endian: magic with the format's version (8), sequence number (8), info hash (20), number of pieces
//! (4), inode number of the data directory (8), SHA-256 of its canonical path (32), bitfield as on the wire, SHA-256 of
//! all that (32), zeros.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use sha2::{Digest, Sha256};
use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::id::InfoHash;

use super::StoreError;

const MAGIC: [u8; 8] = *b"wtfsrec\x02";
const HEAD_BYTES: usize = 8 + 8 + 20 + 4 + 8 + 32;
const SUM_BYTES: usize = 32;

/// Slots share no block of the disk: a torn write of one leaves the other alone.
const SLOT_UNIT: usize = 4096;

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

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    First,
    Second,
}

impl Slot {
    fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    fn offset(self, slot_bytes: usize) -> usize {
        match self {
            Self::First => 0,
            Self::Second => slot_bytes,
        }
    }
}

/// What this process knows of the file.
#[derive(Debug)]
struct Known {
    /// Where the newest record is, and its number.
    newest: Option<(Slot, u64)>,
    /// Whether that, and the file itself, are known to be on the disk and not in the page cache alone.
    is_durable: bool,
}

/// Where a torrent's record lies.
#[derive(Debug)]
pub(super) struct RecordFile {
    path: PathBuf,
    info_hash: InfoHash,
    piece_count: u32,
    /// Held while the record is replaced: the store replaces it from one thread at a time anyway.
    known: Mutex<Known>,
    /// Whether all its blocks are there; apart, so that who writes pieces does not wait for a sync.
    is_reserved: AtomicBool,
}

impl RecordFile {
    pub(super) fn new(path: PathBuf, info_hash: InfoHash, piece_count: u32) -> Self {
        let known = Mutex::new(Known { newest: None, is_durable: false });
        Self { path, info_hash, piece_count, known, is_reserved: AtomicBool::new(false) }
    }

    fn slot_bytes(&self) -> usize {
        let bitmap = usize::try_from(self.piece_count.div_ceil(8)).unwrap_or(usize::MAX);
        (HEAD_BYTES + SUM_BYTES).saturating_add(bitmap).next_multiple_of(SLOT_UNIT)
    }

    /// The record, if there is a whole one of this torrent. A damaged one is logged and counts as none: the price is
    /// to fetch or verify again.
    pub(super) fn load(&self) -> Option<Record> {
        let slot_bytes = self.slot_bytes();
        let mut bytes = Vec::new();
        let read =
            File::open(&self.path).and_then(|file| file.take(2 * slot_bytes as u64).read_to_end(&mut bytes));
        let problem = match read {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => error.to_string(),
            Ok(_) => {
                let mut problem = None;
                let mut newest: Option<(Slot, u64, Record)> = None;
                for slot in [Slot::First, Slot::Second] {
                    let from = slot.offset(slot_bytes).min(bytes.len());
                    match self.decode(&bytes[from..(from + slot_bytes).min(bytes.len())]) {
                        Ok(Some((number, record))) => {
                            if newest.as_ref().is_none_or(|(_, known, _)| number > *known) {
                                newest = Some((slot, number, record));
                            }
                        }
                        Ok(None) => {}
                        Err(found) => problem = Some(found),
                    }
                }
                if let Some((slot, number, record)) = newest {
                    self.known().newest = Some((slot, number));
                    return Some(record);
                }
                problem?.to_owned()
            }
        };
        tracing::warn!(
            path = %self.path.display(), problem,
            "the record of present pieces is unusable and is ignored; verifying the data finds what is there"
        );
        None
    }

    /// Sees to it that the record can be replaced from now on, however full the disk gets. To be called before the
    /// first piece is written.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] when the disk is full already.
    pub(super) fn reserve(&self) -> Result<(), StoreError> {
        if self.is_reserved.load(Ordering::Acquire) {
            return Ok(());
        }
        self.open_whole(&mut self.known()).map(drop)
    }

    /// Replaces the record; durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written. The old record, or possibly the new one, is then in place.
    pub(super) fn replace(&self, record: &Record) -> Result<(), StoreError> {
        let mut known = self.known();
        let file = self.open_whole(&mut known)?;
        let sync = |file: &File| file.sync_all().map_err(StoreError::at("sync", &self.path));
        if !known.is_durable {
            // The newest record may have been written by a process that died before it was on the disk: were the older
            // one written over now, a loss of power could take both.
            sync(&file)?;
            sync_parent(&self.path)?;
            known.is_durable = true;
        }
        let slot_bytes = self.slot_bytes();
        let (slot, number) =
            known.newest.map_or((Slot::First, 1), |(slot, number)| (slot.other(), number + 1));
        let write = |bytes: &[u8], slot: Slot| {
            file.write_all_at(bytes, slot.offset(slot_bytes) as u64)
                .map_err(StoreError::at("write", &self.path))
        };
        write(&self.encode(number, record), slot)?;
        file.sync_data().map_err(StoreError::at("sync", &self.path))?;
        known.newest = Some((slot, number));
        // Reaches the disk with the next record. Failing leaves an older one that is looked at only when the newest
        // is damaged.
        if let Err(error) = write(&[0; MAGIC.len()], slot.other()) {
            tracing::debug!(%error, "an older record is not blanked");
        }
        Ok(())
    }

    /// Opens the file with all its blocks written, making it or what is missing of it.
    fn open_whole(&self, known: &mut Known) -> Result<File, StoreError> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)
            .map_err(StoreError::at("create", &self.path))?;
        let whole = 2 * self.slot_bytes() as u64;
        let found = file.metadata().map_err(StoreError::at("stat", &self.path))?.len();
        if found != whole {
            known.is_durable = false;
        } else if self.is_reserved.load(Ordering::Acquire) {
            return Ok(file);
        }
        if found == 0 {
            write_in_place(&file);
        }
        if found < whole {
            // Not `fallocate`: blocks that were never written may need space for bookkeeping when they are.
            let zeros = vec![0; SLOT_UNIT];
            let mut at = found;
            while at < whole {
                let len = (whole - at).min(SLOT_UNIT as u64 - at % SLOT_UNIT as u64);
                let zeros = zeros.get(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
                file.write_all_at(zeros, at).map_err(StoreError::at("write", &self.path))?;
                at += len;
            }
        } else if found > whole {
            file.set_len(whole).map_err(StoreError::at("cut", &self.path))?;
        }
        self.is_reserved.store(true, Ordering::Release);
        Ok(file)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each field is true by itself after any statement.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn encode(&self, number: u64, record: &Record) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.slot_bytes());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(self.info_hash.as_bytes());
        bytes.extend_from_slice(&self.piece_count.to_le_bytes());
        bytes.extend_from_slice(&record.root.inode.to_le_bytes());
        bytes.extend_from_slice(&record.root.path_sum);
        bytes.extend_from_slice(&record.present.to_wire());
        let sum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    /// The slot's record and its number; `None` for one that is blank.
    fn decode(&self, slot: &[u8]) -> Result<Option<(u64, Record)>, &'static str> {
        const TORN: &str = "it is torn or damaged";
        let (magic, rest) = slot.split_first_chunk::<8>().ok_or(TORN)?;
        if *magic == [0; 8] {
            return Ok(None);
        }
        if *magic != MAGIC {
            return Err("it has another format, or is damaged");
        }
        let (number, rest) = rest.split_first_chunk::<8>().ok_or(TORN)?;
        let (info_hash, rest) = rest.split_first_chunk::<20>().ok_or(TORN)?;
        let (count, rest) = rest.split_first_chunk::<4>().ok_or(TORN)?;
        let (inode, rest) = rest.split_first_chunk::<8>().ok_or(TORN)?;
        let (path_sum, rest) = rest.split_first_chunk::<32>().ok_or(TORN)?;
        let bitmap_bytes = usize::try_from(self.piece_count.div_ceil(8)).map_err(|_| TORN)?;
        let (bitmap, rest) = rest.split_at_checked(bitmap_bytes).ok_or(TORN)?;
        let sum = rest.first_chunk::<SUM_BYTES>().ok_or(TORN)?;
        if Sha256::digest(&slot[..HEAD_BYTES + bitmap_bytes]).as_slice() != sum {
            return Err("it is damaged, or of another torrent");
        }
        if info_hash != self.info_hash.as_bytes() || u32::from_le_bytes(*count) != self.piece_count {
            return Err("it is of another torrent");
        }
        let present = Bitfield::from_wire(bitmap, self.piece_count).map_err(|_| TORN)?;
        let root = RootIdentity { inode: u64::from_le_bytes(*inode), path_sum: *path_sum };
        Ok(Some((u64::from_le_bytes(*number), Record { root, present })))
    }
}

/// Asks a file system that never writes in place (btrfs) to do so for this file: else each write of it takes space.
fn write_in_place(file: &File) {
    // Others do not know the flag, and write in place.
    let _unknown = ioctl_getflags(file).and_then(|flags| ioctl_setflags(file, flags | IFlags::NOCOW));
}

/// Makes a directory's entry for `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let Some(dir) = path.parent() else { return Ok(()) };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::at("sync", dir))
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

    fn open(dir: &tempfile::TempDir) -> RecordFile {
        RecordFile::new(dir.path().join("record"), InfoHash::new([1; 20]), 21)
    }

    #[test]
    fn a_record_reads_back_as_it_was_written_also_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = open(&dir);
        assert_eq!(file.load(), None);
        file.reserve().unwrap();
        assert_eq!(file.load(), None, "nothing is recorded yet");
        for bit in 1..8 {
            let mut record = sample();
            record.present.set(bit);
            file.replace(&record).unwrap();
            assert_eq!(file.load(), Some(record.clone()));
            if bit % 2 == 0 {
                file = open(&dir);
                assert_eq!(file.load(), Some(record));
            }
        }
    }

    #[test]
    fn a_record_of_another_torrent_or_piece_count_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        open(&dir).replace(&sample()).unwrap();
        let load = |hash: u8, count| RecordFile::new(path.clone(), InfoHash::new([hash; 20]), count).load();
        assert_eq!(load(1, 22), None);
        assert_eq!(load(1, 30), None);
        assert_eq!(load(1, 100_000), None);
        assert_eq!(load(2, 21), None);
        assert_eq!(load(1, 21), Some(sample()));
    }

    /// An older record vouches for what was given up since.
    #[test]
    fn a_record_torn_or_flipped_at_any_byte_is_none_and_not_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let used = HEAD_BYTES + 3 + SUM_BYTES;
        for writes in 1..=3 {
            let file = open(&dir);
            for bit in 0..writes {
                let mut record = sample();
                record.present.set(bit);
                file.replace(&record).unwrap();
            }
            let newest = file.load().unwrap();
            let whole = std::fs::read(&path).unwrap();
            assert_eq!(whole.len(), 2 * SLOT_UNIT);
            let begin = if whole.starts_with(&MAGIC) { 0 } else { SLOT_UNIT };
            for at in 0..used {
                std::fs::write(&path, &whole[..begin + at]).unwrap();
                assert_eq!(open(&dir).load(), None, "cut at {at}");
                let mut flipped = whole.clone();
                flipped[begin + at] ^= 0x10;
                std::fs::write(&path, flipped).unwrap();
                assert_eq!(open(&dir).load(), None, "flipped at {at}");
            }
            std::fs::write(&path, whole).unwrap();
            assert_eq!(open(&dir).load(), Some(newest));
            std::fs::remove_file(&path).unwrap();
        }
    }

    /// What a loss of power in the middle of writing leaves: any prefix of the new slot, and the older one as it was.
    #[test]
    fn a_write_torn_anywhere_leaves_the_record_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        for writes in [1, 2] {
            let _ = std::fs::remove_file(&path);
            let file = open(&dir);
            (0..writes).for_each(|_| file.replace(&sample()).unwrap());
            let before = std::fs::read(&path).unwrap();
            let mut next = sample();
            next.present.set(7);
            file.replace(&next).unwrap();
            let after = std::fs::read(&path).unwrap();
            // The slot that the new record went to.
            let slot = if after.starts_with(&MAGIC) { 0 } else { SLOT_UNIT };
            for at in 0..HEAD_BYTES + 3 + SUM_BYTES {
                let mut torn = before.clone();
                torn[slot..slot + at].copy_from_slice(&after[slot..slot + at]);
                std::fs::write(&path, &torn).unwrap();
                let file = open(&dir);
                assert_eq!(file.load(), Some(sample()), "torn at {at}");
                file.replace(&next).unwrap();
                assert_eq!(open(&dir).load(), Some(next.clone()));
            }
        }
    }
}
