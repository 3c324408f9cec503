//! Hashing a part of a file by several cores at once.
//!
//! One thread reads, and makes the first of the hashes itself; each further one has a thread to itself and is given the
//! very buffers that were read, in order, while they are in the cache. None is further behind than a few buffers, which
//! bounds the memory. Without a spare thread, or with little to hash, one thread makes them all.
//!
//! Invariant: every hash gets every byte of the range once, in order, or the range fails as a whole.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bytes::Bytes;

use super::hashes::Hashes;
use crate::reader::buffers::Buffers;
use crate::store::spans::{TransferError, read_exact};

/// Read at once: a part of a core's cache.
const BUFFER_BYTES: u64 = 256 << 10;

/// Buffers that a hash may be behind the reading.
const MAX_BEHIND: usize = 6;

/// Less than this is not worth a thread.
const LEAST_SHARED_BYTES: u64 = 2 << 20;

/// The threads that may help with hashing, over all blobs of a session.
#[derive(Debug)]
pub(super) struct Crew {
    spare: AtomicUsize,
    buffers: Arc<Buffers>,
}

impl Crew {
    /// One for this machine.
    pub(super) fn new(buffers: Arc<Buffers>) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        // On a single core threads would only take turns.
        Self::of(if cores > 1 { 2 * cores } else { 0 }, buffers)
    }

    fn of(spare: usize, buffers: Arc<Buffers>) -> Self {
        Self { spare: AtomicUsize::new(spare), buffers }
    }

    /// Feeds a range of a file to all these hashes. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be read; the hashes are of no use then.
    pub(super) fn hash(
        &self,
        file: &File,
        range: Range<u64>,
        mut hashes: Vec<&mut dyn Hashes>,
    ) -> Result<(), TransferError> {
        let helpers = hashes.len().saturating_sub(1);
        let is_much = range.end.saturating_sub(range.start) >= LEAST_SHARED_BYTES;
        let _taken = match is_much && helpers > 0 {
            true => self.take(helpers),
            false => None,
        };
        if _taken.is_none() {
            return self.read(file, range, |bytes| {
                hashes.iter_mut().for_each(|hash| hash.update(bytes));
            });
        }
        let hashes: Vec<Mutex<&mut dyn Hashes>> = hashes.into_iter().map(Mutex::new).collect();
        let update = |hash: &Mutex<&mut dyn Hashes>, bytes: &[u8]| {
            hash.lock().unwrap_or_else(PoisonError::into_inner).update(bytes);
        };
        thread::scope(|scope| {
            let begin = |hash| {
                let (sender, receiver) = sync_channel::<Bytes>(MAX_BEHIND);
                let work = move || receiver.iter().for_each(|bytes| update(hash, &bytes));
                let began = thread::Builder::new().name("hash".to_owned()).spawn_scoped(scope, work);
                (began.ok().map(|_| sender), hash)
            };
            let all: Vec<(Option<SyncSender<Bytes>>, _)> = hashes.iter().skip(1).map(begin).collect();
            self.read(file, range, |bytes| {
                for (helper, hash) in &all {
                    match helper {
                        // It ends only after us, or by a panic, which the scope passes on.
                        Some(helper) => drop(helper.send(bytes.clone())),
                        None => update(hash, bytes),
                    }
                }
                hashes.iter().take(1).for_each(|hash| update(hash, bytes));
            })
        })
    }

    fn read(
        &self,
        file: &File,
        range: Range<u64>,
        mut with: impl FnMut(&Bytes),
    ) -> Result<(), TransferError> {
        let mut at = range.start;
        while at < range.end {
            let now = (range.end - at).min(BUFFER_BYTES);
            // At most a buffer.
            let mut buffer = self.buffers.take(now as usize);
            read_exact(file, buffer.as_mut(), at)?;
            with(&buffer.freeze());
            at += now;
        }
        Ok(())
    }

    /// So many helpers at once, if they are to be had.
    fn take(&self, helpers: usize) -> Option<Taken<'_>> {
        let less = |spare: usize| spare.checked_sub(helpers);
        self.spare.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Taken { crew: self, helpers })
    }
}

/// Helpers; they go back when dropped.
struct Taken<'a> {
    crew: &'a Crew,
    helpers: usize,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.crew.spare.fetch_add(self.helpers, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use wtfs_proto::hf::ContentId;

    use super::super::hashes::BlobHasher;
    use super::super::scripted::{content, git_sha1, sha256};
    use super::*;

    fn file_of(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, content).unwrap();
        file
    }

    fn hashed(crew: &Crew, file: &File, id: ContentId, ends: &[u64]) -> BlobHasher {
        let len = file.metadata().unwrap().len();
        let mut hasher = BlobHasher::new(id, len, Some(1 << 20));
        for end in ends.iter().chain([&len]) {
            crew.hash(file, hasher.at..*end, hasher.hashes()).unwrap();
            hasher.at = *end;
        }
        hasher
    }

    #[test]
    fn several_threads_make_the_same_hashes_as_one_whatever_the_steps() {
        let content = content((11 << 20) + 12_345, 90);
        let file = file_of(&content);
        for id in [sha256(&content), git_sha1(&content)] {
            let alone = hashed(&Crew::of(0, Arc::default()), &file, id, &[]).finish();
            assert_eq!(alone.0, id);
            // The last one has a thread for none, the first for all.
            for spare in [8, 2, 1] {
                let crew = Crew::of(spare, Arc::default());
                for ends in [&[][..], &[5 << 20], &[1, (3 << 20) + 7, (3 << 20) + 8, 9 << 20]] {
                    assert_eq!(hashed(&crew, &file, id, ends).finish(), alone, "{spare} {ends:?}");
                    assert_eq!(crew.spare.load(Ordering::Relaxed), spare, "all come back");
                }
            }
        }
    }

    #[test]
    fn a_file_that_ends_too_early_fails_and_leaves_nobody_behind() {
        let content = content(5 << 20, 91);
        let file = file_of(&content);
        let crew = Crew::of(4, Arc::default());
        let mut hasher = BlobHasher::new(sha256(&content), 6 << 20, Some(1 << 20));
        assert!(matches!(crew.hash(&file, 0..6 << 20, hasher.hashes()), Err(TransferError::Short)));
        assert_eq!(crew.spare.load(Ordering::Relaxed), 4);
    }
}
