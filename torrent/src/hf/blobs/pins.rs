//! Blobs that stay whatever the cache's size says: chosen by a person, kept over restarts.
//!
//! By hash, so that a pinned file stays wherever it stands. A blob that is pinned before it is here stays once it is. The set is a
//! small JSON file beside the blobs, replaced as a whole. Invariant: a blob is never protected less than the saved
//! set says; while a pin is being saved it protects already.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wtfs_proto::hf::ContentId;

use crate::store::{StoreError, replace_file};

/// A set that is longer is neither saved nor read: half a million hashes.
const MAX_BYTES: u64 = 32 << 20;

/// Whether blobs are to be pinned or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinned {
    /// They are.
    Yes,
    /// They may go again.
    No,
}

/// The pinned blobs of a session.
#[derive(Debug)]
pub(super) struct Pins {
    path: PathBuf,
    max_bytes: u64,
    ids: Mutex<BTreeSet<ContentId>>,
    /// Held while the set is saved, so that an older one never replaces a newer one. Taken before `ids`.
    saving: Mutex<()>,
}

impl Pins {
    /// An empty set that is saved in a file.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, max_bytes: MAX_BYTES, ids: Mutex::default(), saving: Mutex::default() }
    }

    /// Takes over the saved set. One that cannot be read is empty and logged. Blocks on the disk.
    pub(super) fn load(&self) {
        let mut text = String::new();
        match File::open(&self.path).and_then(|file| file.take(self.max_bytes).read_to_string(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(%error, "the pinned files of repositories are not known any more; pin them again");
                return;
            }
        }
        match serde_json::from_str::<Vec<String>>(&text) {
            Ok(ids) => self.lock().extend(ids.iter().filter_map(|id| id.parse::<ContentId>().ok())),
            Err(error) => {
                tracing::warn!(%error, "the pinned files of repositories are not known any more; pin them again");
            }
        }
    }

    /// Pins blobs or unpins them; saved when this returns. Blocks on the disk.
    ///
    /// # Errors
    /// When the set cannot be saved, or would be too long to be read again; it is then as it was.
    pub(super) fn set(&self, ids: &[ContentId], pinned: Pinned) -> Result<(), StoreError> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.lock().clone();
        let mut wanted = before.clone();
        match pinned {
            Pinned::Yes => wanted.extend(ids),
            Pinned::No => ids.iter().for_each(|id| {
                wanted.remove(id);
            }),
        }
        if wanted == before {
            return Ok(());
        }
        let text: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        let text = serde_json::json!(text).to_string();
        if text.len() as u64 > self.max_bytes {
            let many = format!("{} files are more than can be pinned; pin fewer or unpin some", wanted.len());
            return Err(StoreError::from_io("pin in", &self.path, io::Error::other(many)));
        }
        if pinned == Pinned::Yes {
            *self.lock() = wanted.clone();
        }
        let saved = self.make_parent().and_then(|()| replace_file(&self.path, text.as_bytes(), b"[]"));
        *self.lock() = if saved.is_ok() { wanted } else { before };
        saved
    }

    fn make_parent(&self) -> Result<(), StoreError> {
        let Some(parent) = self.path.parent() else { return Ok(()) };
        std::fs::create_dir_all(parent).map_err(|error| StoreError::from_io("create", parent, error))
    }

    pub(super) fn contains(&self, id: &ContentId) -> bool {
        self.lock().contains(id)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<ContentId>> {
        // Whole between any two statements.
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> ContentId {
        ContentId::Sha256([byte; 32])
    }

    #[test]
    fn pins_survive_and_what_was_unpinned_does_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("blobs/pins.json");
        let pins = Pins::new(path.clone());
        pins.load();
        assert!(!pins.contains(&id(1)));
        pins.set(&[id(1), id(2), ContentId::GitSha1([3; 20])], Pinned::Yes).expect("saved");
        pins.set(&[id(2), id(9)], Pinned::No).expect("saved");
        let again = Pins::new(path.clone());
        again.load();
        assert!(again.contains(&id(1)) && again.contains(&ContentId::GitSha1([3; 20])));
        assert!(!again.contains(&id(2)) && !again.contains(&id(9)));
        // A torn set is none, and can be replaced.
        std::fs::write(&path, "[\"1").expect("torn");
        let torn = Pins::new(path.clone());
        torn.load();
        assert!(!torn.contains(&id(1)));
        torn.set(&[id(4)], Pinned::Yes).expect("saved");
        let again = Pins::new(path);
        again.load();
        assert!(again.contains(&id(4)));
    }

    #[test]
    fn more_than_could_be_read_again_is_refused_and_all_else_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pins.json");
        // Room for three hashes of 64 digits between quotation marks, and what stands between those.
        let open = || Pins { max_bytes: 3 * 66 + 2 + 2, ..Pins::new(path.clone()) };
        let pins = open();
        pins.set(&[id(1), id(2)], Pinned::Yes).expect("saved");
        let refused = pins.set(&[id(3), id(4)], Pinned::Yes).expect_err("too many").to_string();
        assert!(refused.contains("4 files are more than can be pinned"), "{refused}");
        assert!(pins.contains(&id(2)) && !pins.contains(&id(3)));
        pins.set(&[id(5)], Pinned::Yes).expect("as many as there may be");
        let again = open();
        again.load();
        assert!([1, 2, 5].iter().all(|byte| again.contains(&id(*byte))) && !again.contains(&id(4)));
        assert!(again.set(&[id(6)], Pinned::Yes).is_err());
        again.set(&[id(5)], Pinned::No).expect("fewer");
        again.set(&[id(6)], Pinned::Yes).expect("saved");
    }

    #[test]
    fn a_set_that_cannot_be_saved_is_as_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("file"), "").expect("written");
        let pins = Pins::new(dir.path().join("file/pins.json"));
        assert!(pins.set(&[id(1)], Pinned::Yes).is_err());
        assert!(!pins.contains(&id(1)));
    }
}
