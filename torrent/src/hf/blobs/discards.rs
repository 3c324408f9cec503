//! Which blobs were thrown away because they were not what their hash says, how often and when: who had bytes of one before
//! must not go on with those that come after, also when the session that gave them is gone.
//!
//! A small JSON file beside the blobs, replaced as a whole. Invariant: a discard is on disk before the bytes that it is
//! about stop being present, and counted in memory by the same change that makes them so.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use wtfs_proto::hf::ContentId;

use crate::store::{StoreError, replace_file};

/// Blobs that are remembered; the one that was thrown away longest ago is forgotten first. Each cost all of a file's bytes.
const MAX: usize = 4096;

/// A file that is longer is not read.
const MAX_BYTES: u64 = 1 << 20;

/// That a blob's content was thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discard {
    /// How often, over all sessions that are remembered.
    pub times: u32,
    /// The last time, in whole seconds.
    pub at: SystemTime,
}

type Known = HashMap<ContentId, Discard>;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Discards {
    path: PathBuf,
    known: Mutex<Known>,
    /// Held while the file is written, so that an older one never replaces a newer one. Taken before `known`.
    saving: Mutex<()>,
}

impl Discards {
    /// None yet; they are saved in a file.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, known: Mutex::default(), saving: Mutex::default() }
    }

    /// Takes over what earlier sessions saved. What cannot be read is logged and forgotten. Blocks on the disk.
    pub(super) fn load(&self) {
        let mut text = String::new();
        let read = File::open(&self.path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
        let entries = match read {
            Ok(_) => serde_json::from_str::<Vec<(String, u32, u64)>>(&text).map_err(std::io::Error::from),
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => Err(error),
        };
        match entries {
            Ok(entries) => {
                let read = entries.into_iter().filter_map(|(id, times, seconds)| {
                    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
                    Some((id.parse().ok()?, Discard { times, at }))
                });
                self.lock().extend(read.take(MAX));
            }
            Err(error) => tracing::warn!(%error, "which files were thrown away is not known any more"),
        }
    }

    pub(super) fn find(&self, id: &ContentId) -> Option<Discard> {
        self.lock().get(id).copied()
    }

    /// Writes down that a blob is about to be thrown away. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be written: it is then forgotten when the session ends.
    pub(super) fn save(&self, id: ContentId, now: SystemTime) -> Result<(), StoreError> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.lock().clone();
        count(&mut known, id, now);
        let entries: Vec<(String, u32, u64)> = known
            .iter()
            .map(|(id, Discard { times, at })| {
                let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                (id.to_string(), *times, since.as_secs())
            })
            .collect();
        let text = serde_json::json!(entries).to_string();
        replace_file(&self.path, text.as_bytes(), b"[]")
    }

    /// Counts it: from now on it is thrown away.
    pub(super) fn note(&self, id: ContentId, now: SystemTime) {
        count(&mut self.lock(), id, now);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Whole between any two statements.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(known: &mut Known, id: ContentId, now: SystemTime) {
    if known.len() >= MAX
        && !known.contains_key(&id)
        && let Some(oldest) = known.iter().min_by_key(|(_, discard)| discard.at).map(|(id, _)| *id)
    {
        known.remove(&oldest);
    }
    let discard = known.entry(id).or_insert(Discard { times: 0, at: now });
    *discard = Discard { times: discard.times.saturating_add(1), at: now };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn what_was_thrown_away_is_known_to_the_next_session_and_a_damaged_file_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("discards.json");
        let (id, other) = (ContentId::Sha256([1; 32]), ContentId::GitSha1([2; 20]));
        let discards = Discards::new(path.clone());
        discards.load();
        for seconds in [10, 20] {
            discards.save(id, at(seconds)).expect("saved");
            discards.note(id, at(seconds));
        }
        // Saved, and the session was killed before it was done.
        discards.save(other, at(30)).expect("saved");
        assert_eq!(discards.find(&other), None);
        let next = Discards::new(path.clone());
        next.load();
        assert_eq!(next.find(&id), Some(Discard { times: 2, at: at(20) }));
        assert_eq!(next.find(&other), Some(Discard { times: 1, at: at(30) }));
        std::fs::write(&path, "[[\"").expect("torn");
        let torn = Discards::new(path.clone());
        torn.load();
        assert_eq!(torn.find(&id), None);
        torn.save(id, at(40)).expect("it can be replaced");
    }

    #[test]
    fn no_more_are_remembered_than_may_and_the_oldest_goes_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let discards = Discards::new(dir.path().join("discards.json"));
        let id = |n: usize| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            ContentId::Sha256(hash)
        };
        for n in 0..=MAX {
            discards.note(id(n), at(n as u64 + 1));
        }
        assert_eq!((discards.find(&id(0)), discards.lock().len()), (None, MAX));
        discards.save(id(MAX), at(9999)).expect("saved");
        let next = Discards::new(dir.path().join("discards.json"));
        next.load();
        assert_eq!(next.lock().len(), MAX, "all of them fit into what is read back");
    }
}
