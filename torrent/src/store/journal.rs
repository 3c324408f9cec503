//! The journal: pieces written since the record was last replaced, in the order they came.
//!
//! An entry is 8 bytes: the piece index and a CRC-32 over it and the info hash, so that a torn or foreign entry is
//! skipped. Nothing here is synced. After the death of the process the entries are in the page cache with the data;
//! after a loss of power they may name pieces whose bytes never arrived, or be missing. So an entry is a hint to hash a
//! piece, never a proof, and losing the journal costs fetching again what it named.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::geometry::PieceIndex;
use wtfs_proto::id::InfoHash;

use super::StoreError;

const ENTRY_BYTES: usize = 8;

/// Bytes of a journal that are read back: over 8 million entries, twice what a torrent has pieces.
const MAX_BYTES: u64 = 64 << 20;

/// The journal of one torrent. The file is opened at the first entry and closed at each rewrite, so that an idle
/// torrent holds no descriptor for it.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    info_hash: InfoHash,
    /// Held for the append of 8 bytes and for the rewrite: a leaf, no other lock but the store's state is taken in it.
    appender: Mutex<Option<File>>,
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

    /// Adds an entry.
    ///
    /// # Errors
    /// When the file cannot be opened or written; the entry is then not there, and no half of it either.
    pub(super) fn append(&self, piece: PieceIndex) -> Result<(), StoreError> {
        let mut appender = self.lock();
        let file = match &mut *appender {
            Some(file) => file,
            empty => empty.insert(self.open()?),
        };
        let written = file.write_all(&self.encode(piece));
        if written.is_err() {
            // The next open cuts what was half written.
            *appender = None;
        }
        written.map_err(StoreError::at("append to", &self.path))
    }

    /// Replaces all entries by those of `pending`, which is asked with appends held off: an entry is either in its
    /// answer or appended afterwards.
    ///
    /// # Errors
    /// When the new file cannot be written; the old entries then stay, which costs only hashing.
    pub(super) fn rewrite(&self, pending: impl FnOnce() -> Vec<PieceIndex>) -> Result<(), StoreError> {
        let mut appender = self.lock();
        *appender = None;
        let entries: Vec<u8> = pending().into_iter().flat_map(|piece| self.encode(piece)).collect();
        if entries.is_empty() {
            return match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(StoreError::from_io("remove", &self.path, error))
                }
                _ => Ok(()),
            };
        }
        let temporary = self.path.with_extension("new");
        std::fs::write(&temporary, entries).map_err(StoreError::at("write", &temporary))?;
        std::fs::rename(&temporary, &self.path).map_err(StoreError::at("replace", &self.path))
    }

    fn open(&self) -> Result<File, StoreError> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .map_err(StoreError::at("open", &self.path))?;
        let len = file.metadata().map_err(StoreError::at("stat", &self.path))?.len();
        let torn = len % ENTRY_BYTES as u64;
        if torn != 0 {
            file.set_len(len - torn).map_err(StoreError::at("cut", &self.path))?;
        }
        Ok(file)
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

    fn lock(&self) -> MutexGuard<'_, Option<File>> {
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
        journal.append(pieces[3]).unwrap();
        journal.append(pieces[5]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..13]).unwrap();
        let journal = Journal::new(path, hash);
        assert_eq!(named(&journal), [3]);
        journal.append(pieces[9]).unwrap();
        assert_eq!(named(&journal), [3, 9]);
    }

    #[test]
    fn entries_of_another_torrent_name_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        Journal::new(path.clone(), InfoHash::new([7; 20])).append(pieces(10)[3]).unwrap();
        assert!(named(&Journal::new(path, InfoHash::new([8; 20]))).is_empty());
    }

    #[test]
    fn a_rewrite_leaves_what_is_pending_and_what_comes_after() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path().join("journal"), InfoHash::new([7; 20]));
        let pieces = pieces(10);
        journal.append(pieces[0]).unwrap();
        journal.append(pieces[1]).unwrap();
        journal.rewrite(|| vec![pieces[1]]).unwrap();
        journal.append(pieces[2]).unwrap();
        assert_eq!(named(&journal), [1, 2]);
        journal.rewrite(Vec::new).unwrap();
        assert!(named(&journal).is_empty());
        assert!(!journal.path.exists());
    }
}
