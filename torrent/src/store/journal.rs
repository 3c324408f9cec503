//! The journal: pieces that are being written or given up, or were written since the record was last replaced.
//!
//! An entry is 8 bytes: the piece index and a CRC-32 over it and the info hash, so that a torn or foreign entry is
//! skipped. Nothing here is synced. After the death of the process the entries are in the page cache with the data;
//! after a loss of power they may name pieces whose bytes never arrived, or be missing. So an entry is a hint to hash a
//! piece, never a proof, and losing the journal costs fetching again what it named.
//!
//! The file is made with room for some entries and never gets shorter, so that a disk without a free block takes
//! entries too. Settled ones are written over in place: those that stay go to the front, zeros behind them, and whoever
//! dies in between leaves more hints than need be.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::geometry::PieceIndex;
use wtfs_proto::id::InfoHash;

use super::StoreError;

const ENTRY_BYTES: usize = 8;

/// Bytes of a journal that are read back: over 8 million entries, twice what a torrent has pieces.
const MAX_BYTES: u64 = 64 << 20;

/// What the file holds at least: a block of the disk, and more entries than are usual between two checkpoints.
const LEAST_BYTES: u64 = 4096;

/// The journal of one torrent. The file is opened at the first entry and closed at each rewrite, so that an idle
/// torrent holds no descriptor for it.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    info_hash: InfoHash,
    /// Held for the write of a few entries and for the rewrite: a leaf, no other lock but the store's state is taken
    /// in it.
    appender: Mutex<Option<Appender>>,
}

#[derive(Debug)]
struct Appender {
    file: File,
    /// Where the next entry goes; behind it there are only zeros.
    end: u64,
    file_bytes: u64,
}

impl Journal {
    pub(super) fn new(path: PathBuf, info_hash: InfoHash) -> Self {
        Self { path, info_hash, appender: Mutex::new(None) }
    }

    /// The pieces the journal names. Whatever cannot be read names none.
    pub(super) fn replay(&self, piece_count: u32) -> Bitfield {
        let mut named = Bitfield::new(piece_count);
        let mut bytes = Vec::new();
        match File::open(&self.path).map(|file| file.take(MAX_BYTES).read_to_end(&mut bytes)) {
            Ok(Ok(_)) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return named,
            Ok(Err(error)) | Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the journal cannot be read and is ignored");
            }
        }
        for entry in bytes.chunks(ENTRY_BYTES) {
            if let Some(piece) = self.decode(entry) {
                named.set(piece);
            }
        }
        named
    }

    /// Makes the file with its room, so that the first entries need none of the disk's.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] when the disk is full already.
    pub(super) fn reserve(&self) -> Result<(), StoreError> {
        let mut appender = self.lock();
        if appender.is_none() {
            *appender = Some(self.open()?);
        }
        Ok(())
    }

    /// Adds entries.
    ///
    /// # Errors
    /// When the file cannot be opened or written; some of the entries may be there then.
    pub(super) fn append(&self, pieces: &[PieceIndex]) -> Result<(), StoreError> {
        let mut appender = self.lock();
        let open = match &mut *appender {
            Some(open) => open,
            empty => empty.insert(self.open()?),
        };
        let entries: Vec<u8> = pieces.iter().flat_map(|piece| self.encode(*piece)).collect();
        match open.file.write_all_at(&entries, open.end) {
            Ok(()) => {
                open.end += entries.len() as u64;
                open.file_bytes = open.file_bytes.max(open.end);
                Ok(())
            }
            Err(error) => {
                // The next open finds out where the last whole entry ends.
                *appender = None;
                Err(StoreError::from_io("append to", &self.path, error))
            }
        }
    }

    /// Replaces all entries by those of `pending`, which is asked with appends held off: an entry is either in its
    /// answer or appended afterwards.
    ///
    /// # Errors
    /// When the file cannot be written; some old entries then stay, which costs only hashing.
    pub(super) fn rewrite(&self, pending: impl FnOnce() -> Vec<PieceIndex>) -> Result<(), StoreError> {
        let mut appender = self.lock();
        let open = match appender.take() {
            Some(open) => open,
            // Nothing was appended, and an earlier run may have left entries.
            None if self.path.exists() => self.open()?,
            None => return Ok(()),
        };
        let mut bytes: Vec<u8> = pending().into_iter().flat_map(|piece| self.encode(piece)).collect();
        let is_empty = bytes.is_empty();
        let end = bytes.len() as u64;
        let old_end = usize::try_from(open.end).unwrap_or(usize::MAX);
        if bytes.len() < old_end {
            bytes.resize(old_end, 0);
        }
        open.file.write_all_at(&bytes, 0).map_err(StoreError::at("write", &self.path))?;
        let file_bytes = open.file_bytes.max(bytes.len() as u64);
        let least = end.max(LEAST_BYTES);
        if file_bytes > least {
            open.file.set_len(least).map_err(StoreError::at("cut", &self.path))?;
        }
        if !is_empty {
            *appender = Some(Appender { file: open.file, end, file_bytes: file_bytes.min(least) });
        }
        Ok(())
    }

    fn open(&self) -> Result<Appender, StoreError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)
            .map_err(StoreError::at("open", &self.path))?;
        let mut bytes = Vec::new();
        (&file).take(MAX_BYTES).read_to_end(&mut bytes).map_err(StoreError::at("read", &self.path))?;
        let file_bytes = bytes.len() as u64;
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let whole = used.next_multiple_of(ENTRY_BYTES);
        // A torn entry at the end of the file is one that is skipped.
        let end = whole as u64;
        let wanted = end.max(LEAST_BYTES);
        if file_bytes < wanted {
            let zeros = vec![0; usize::try_from(wanted - file_bytes).unwrap_or(0)];
            file.write_all_at(&zeros, file_bytes).map_err(StoreError::at("write", &self.path))?;
        }
        Ok(Appender { file, end, file_bytes: file_bytes.max(wanted) })
    }

    fn encode(&self, piece: PieceIndex) -> [u8; ENTRY_BYTES] {
        let index = piece.get().to_le_bytes();
        let sum = self.sum(index).to_le_bytes();
        let mut entry = [0; ENTRY_BYTES];
        entry[..4].copy_from_slice(&index);
        entry[4..].copy_from_slice(&sum);
        entry
    }

    fn decode(&self, entry: &[u8]) -> Option<u32> {
        let (index, sum) = entry.split_at_checked(4)?;
        let (index, sum) = (index.try_into().ok()?, sum.try_into().ok()?);
        (self.sum(index) == u32::from_le_bytes(sum)).then(|| u32::from_le_bytes(index))
    }

    fn sum(&self, index: [u8; 4]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(self.info_hash.as_bytes());
        hasher.update(&index);
        hasher.finalize()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Appender>> {
        self.appender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use wtfs_proto::geometry::{Alignment, FileLayout, Geometry};

    use super::*;

    fn pieces(count: u64) -> Vec<PieceIndex> {
        let file = FileLayout { bytes: count, alignment: Alignment::Packed, is_pad: false };
        Geometry::new(1, &[file]).unwrap().pieces().collect()
    }

    fn named(journal: &Journal) -> Vec<u32> {
        journal.replay(10).iter_ones().collect()
    }

    #[test]
    fn entries_survive_a_torn_tail_and_later_ones_are_not_shifted_by_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let pieces = pieces(10);
        let hash = InfoHash::new([7; 20]);
        let journal = Journal::new(path.clone(), hash);
        journal.append(&[pieces[3]]).unwrap();
        journal.append(&[pieces[5]]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..13]).unwrap();
        let journal = Journal::new(path, hash);
        assert_eq!(named(&journal), [3]);
        journal.append(&[pieces[9]]).unwrap();
        assert_eq!(named(&journal), [3, 9]);
    }

    #[test]
    fn entries_of_another_torrent_name_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        Journal::new(path.clone(), InfoHash::new([7; 20])).append(&[pieces(10)[3]]).unwrap();
        assert!(named(&Journal::new(path, InfoHash::new([8; 20]))).is_empty());
    }

    #[test]
    fn a_rewrite_leaves_what_is_pending_and_what_comes_after() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path().join("journal"), InfoHash::new([7; 20]));
        let pieces = pieces(10);
        journal.append(&pieces[..2]).unwrap();
        journal.rewrite(|| vec![pieces[1]]).unwrap();
        journal.append(&[pieces[2]]).unwrap();
        assert_eq!(named(&journal), [1, 2]);
        journal.rewrite(Vec::new).unwrap();
        assert!(named(&journal).is_empty());
        assert!(std::fs::read(&journal.path).unwrap().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn entries_are_kept_until_they_are_settled_however_many_there_are_and_the_room_for_new_ones_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let hash = InfoHash::new([7; 20]);
        let all = pieces(2000);
        let named = |journal: &Journal| journal.replay(2000).iter_ones().collect::<Vec<_>>();
        let bytes = || path.metadata().unwrap().len();
        let journal = Journal::new(path.clone(), hash);
        journal.reserve().unwrap();
        assert_eq!(bytes(), LEAST_BYTES);
        all.chunks(7).for_each(|some| journal.append(some).unwrap());
        assert_eq!(named(&journal).len(), 2000);
        assert_eq!(bytes(), 16_000);
        // The next process knows where the last one left off.
        let journal = Journal::new(path.clone(), hash);
        journal.rewrite(|| all[1000..1700].to_vec()).unwrap();
        assert_eq!(named(&journal), (1000..1700).collect::<Vec<_>>());
        journal.append(&[all[3]]).unwrap();
        journal.rewrite(|| vec![all[3]]).unwrap();
        assert_eq!((named(&journal), bytes()), (vec![3], LEAST_BYTES));
        let journal = Journal::new(path.clone(), hash);
        journal.append(&[all[0]]).unwrap();
        assert_eq!(named(&journal), [0, 3]);
        journal.rewrite(Vec::new).unwrap();
        assert_eq!((named(&journal), bytes()), (vec![], LEAST_BYTES));
    }
}
