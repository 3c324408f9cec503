//! The record of a partial blob: which of its bytes are on the disk for good.
//!
//! A log that is only added to: a head that names the blob, and entries of 24 bytes, each a range and a CRC-32 over it and
//! the blob's id. An entry says that a range is durable, or that it is given up; later ones count. An entry that holds is
//! written after the bytes were synced, and one that gives up is synced before the bytes go, so that whatever survives of
//! the log, in order, says nothing false: a torn entry ends it, and what it lacks is fetched again. A log much longer than
//! what it says is replaced by a short one.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use wtfs_proto::hf::ContentId;

use super::ranges::RangeSet;
use crate::store::{StoreError, sync_parent};

const MAGIC: [u8; 8] = *b"wtfsblb\x01";

const HEAD_BYTES: usize = 8 + 8 + 32 + 8;

const ENTRY_BYTES: usize = 24;

/// Bytes of a log that are read back: nearly three million entries.
const MAX_BYTES: u64 = 64 << 20;

/// A log is replaced once it has this many entries more than ranges to say.
const MAX_STALE: u64 = 4096;

/// What an entry says of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// It is on the disk.
    Durable,
    /// It is given up.
    Gone,
}

/// The log of one partial blob. Every method blocks on the disk.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    id: ContentId,
    bytes: u64,
    /// Opened at the first entry.
    file: Option<File>,
    /// Where the next entry goes.
    end: u64,
    /// What the log says.
    durable: RangeSet,
}

impl Record {
    /// The record at `path` and what it says; of another blob, or damaged at its head, it says nothing.
    pub(super) fn load(path: PathBuf, id: ContentId, bytes: u64) -> (Self, RangeSet) {
        let mut record = Self { path, id, bytes, file: None, end: 0, durable: RangeSet::default() };
        record.durable = record.replay();
        let present = record.durable.clone();
        (record, present)
    }

    fn replay(&mut self) -> RangeSet {
        let mut present = RangeSet::default();
        let mut log = Vec::new();
        match File::open(&self.path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut log)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return present,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "a record cannot be read and is ignored");
                return present;
            }
        }
        let Some(entries) = log.strip_prefix(&self.head()[..]) else { return present };
        self.end = HEAD_BYTES as u64;
        for entry in entries.chunks_exact(ENTRY_BYTES) {
            match self.decode(entry) {
                Some((range, Mark::Durable)) => present.insert(range),
                Some((range, Mark::Gone)) => present.remove(range),
                // Nothing behind it is known to have been written in this order.
                None => break,
            };
            self.end += ENTRY_BYTES as u64;
        }
        present
    }

    /// Adds what became durable. Not synced: what is lost of it is fetched again.
    ///
    /// # Errors
    /// When it cannot be written. What is in the log still holds.
    pub(super) fn add_durable(&mut self, ranges: &RangeSet) -> Result<(), StoreError> {
        let entries = self.end.saturating_sub(HEAD_BYTES as u64) / ENTRY_BYTES as u64;
        if entries > self.durable.runs() as u64 + MAX_STALE {
            self.rewrite()?;
        }
        self.append(ranges.iter().map(|range| (range, Mark::Durable)))?;
        for range in ranges.iter() {
            self.durable.insert(range);
        }
        Ok(())
    }

    /// Says of ranges that they are given up; durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written or synced: their bytes must stay as they are then.
    pub(super) fn give_up(&mut self, ranges: &RangeSet) -> Result<(), StoreError> {
        // Whatever becomes of the log: it is not to be said again.
        for range in ranges.iter() {
            self.durable.remove(range);
        }
        self.append(ranges.iter().map(|range| (range, Mark::Gone)))?;
        let Some(file) = &self.file else { return Ok(()) };
        file.sync_data().map_err(StoreError::at("sync", &self.path))
    }

    /// Replaces the log by one that says the same in fewer words.
    fn rewrite(&mut self) -> Result<(), StoreError> {
        let mut log = self.head().to_vec();
        for range in self.durable.iter() {
            log.extend_from_slice(&self.encode(&range, Mark::Durable));
        }
        let temporary = self.path.with_extension("new");
        let write = || {
            std::fs::write(&temporary, &log)?;
            let file = OpenOptions::new().write(true).open(&temporary)?;
            file.sync_data()?;
            std::fs::rename(&temporary, &self.path)?;
            Ok(file)
        };
        let file = write().map_err(StoreError::at("replace", &self.path))?;
        self.end = log.len() as u64;
        self.file = Some(file);
        // Else a crash could bring the old log back, which knows nothing of what is given up from now on.
        sync_parent(&self.path)
    }

    fn append(&mut self, marks: impl Iterator<Item = (Range<u64>, Mark)>) -> Result<(), StoreError> {
        let mut log = Vec::new();
        if self.end == 0 {
            log.extend_from_slice(&self.head());
        }
        for (range, mark) in marks {
            log.extend_from_slice(&self.encode(&range, mark));
        }
        let file = match &self.file {
            Some(file) => file,
            None => {
                let mut options = OpenOptions::new();
                let file = options.write(true).create(true).truncate(false).open(&self.path);
                let file = file.map_err(StoreError::at("open", &self.path))?;
                // What is behind was torn, or of another blob: it must not become readable behind a new entry.
                file.set_len(self.end).map_err(StoreError::at("cut", &self.path))?;
                self.file.insert(file)
            }
        };
        file.write_all_at(&log, self.end).map_err(StoreError::at("append to", &self.path))?;
        self.end += log.len() as u64;
        Ok(())
    }

    fn head(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        let id = self.id.as_bytes();
        head[..8].copy_from_slice(&MAGIC);
        head[8..16].copy_from_slice(&(id.len() as u64).to_le_bytes());
        head[16..16 + id.len()].copy_from_slice(id);
        head[48..].copy_from_slice(&self.bytes.to_le_bytes());
        head
    }

    fn encode(&self, range: &Range<u64>, mark: Mark) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        entry[..8].copy_from_slice(&range.start.to_le_bytes());
        entry[8..16].copy_from_slice(&range.end.to_le_bytes());
        entry[16] = match mark {
            Mark::Durable => 1,
            Mark::Gone => 2,
        };
        let sum = self.sum(&entry[..20]);
        entry[20..].copy_from_slice(&sum.to_le_bytes());
        entry
    }

    fn decode(&self, entry: &[u8]) -> Option<(Range<u64>, Mark)> {
        let (said, sum) = entry.split_last_chunk::<4>()?;
        if self.sum(said) != u32::from_le_bytes(*sum) {
            return None;
        }
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).ok();
        let (start, end) = (number(said.get(..8)?)?, number(said.get(8..16)?)?);
        let mark = match said.get(16)? {
            1 => Mark::Durable,
            2 => Mark::Gone,
            _ => return None,
        };
        (start < end && end <= self.bytes).then_some((start..end, mark))
    }

    fn sum(&self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(self.id.as_bytes());
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// Removes a record; a missing one is no error.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::from_io("remove", path, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    const ID: ContentId = ContentId::Sha256([7; 32]);

    fn set(ranges: &[Range<u64>]) -> RangeSet {
        let mut set = RangeSet::default();
        for range in ranges {
            set.insert(range.clone());
        }
        set
    }

    fn load(dir: &tempfile::TempDir) -> (Record, RangeSet) {
        Record::load(dir.path().join("record"), ID, 1000)
    }

    #[test]
    fn what_was_added_and_not_given_up_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut record, present) = load(&dir);
        assert_eq!(present, RangeSet::default());
        record.add_durable(&set(&[0..10, 20..30])).unwrap();
        record.give_up(&set(&[5..25])).unwrap();
        record.add_durable(&set(&[22..24])).unwrap();
        assert_eq!(load(&dir).1, set(&[0..5, 22..24, 25..30]));
        let (mut record, _) = load(&dir);
        record.add_durable(&set(&[999..1000])).unwrap();
        assert_eq!(load(&dir).1, set(&[0..5, 22..24, 25..30, 999..1000]));
    }

    #[test]
    fn a_record_cut_or_flipped_at_any_byte_says_a_beginning_of_what_was_written_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let said = [set(&[]), set(&[0..10]), set(&[0..10, 20..30]), set(&[0..10, 25..30])];
        let (mut record, _) = load(&dir);
        record.add_durable(&said[1]).unwrap();
        record.add_durable(&set(&[20..30])).unwrap();
        record.give_up(&set(&[20..25])).unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole.len(), HEAD_BYTES + 3 * ENTRY_BYTES);
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x20;
            for damaged in [&whole[..at], &flipped] {
                std::fs::write(&path, damaged).unwrap();
                let (mut record, present) = load(&dir);
                let entries = at.saturating_sub(HEAD_BYTES) / ENTRY_BYTES;
                assert_eq!(present, said[entries], "at {at}");
                record.add_durable(&set(&[500..600])).unwrap();
                let mut expected = present;
                expected.insert(500..600);
                assert_eq!(load(&dir).1, expected);
            }
        }
    }

    #[test]
    fn a_record_of_another_blob_or_length_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        load(&dir).0.add_durable(&set(&[0..10])).unwrap();
        let path = dir.path().join("record");
        for (id, bytes) in
            [(ContentId::Sha256([8; 32]), 1000), (ContentId::GitSha1([7; 20]), 1000), (ID, 999)]
        {
            assert_eq!(Record::load(path.clone(), id, bytes).1, RangeSet::default());
        }
    }

    #[test]
    fn a_long_log_is_replaced_by_a_short_one_that_says_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (mut record, _) = load(&dir);
        for step in 0..6000 {
            let range = step % 900..step % 900 + 1;
            record.add_durable(&set(&[range])).unwrap();
        }
        assert_eq!(load(&dir).1, set(&[0..900]));
        assert!(dir.path().join("record").metadata().unwrap().len() < 3000 * ENTRY_BYTES as u64);
        record.add_durable(&set(&[950..960])).unwrap();
        assert_eq!(load(&dir).1, set(&[0..900, 950..960]));
    }
    #[test]
    fn a_log_that_is_replaced_does_not_bring_back_what_was_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let (mut record, _) = load(&dir);
        record.add_durable(&set(&[0..500])).unwrap();
        record.give_up(&set(&[100..200])).unwrap();
        for step in 0..6000 {
            record.add_durable(&set(&[600 + step % 300..601 + step % 300])).unwrap();
            if step % 1000 == 0 {
                assert!(!load(&dir).1.covers_any(&(100..200)), "{step}");
            }
        }
        assert!(dir.path().join("record").metadata().unwrap().len() < 5000 * ENTRY_BYTES as u64);
        assert_eq!(load(&dir).1, set(&[0..100, 200..500, 600..900]));
    }
}
