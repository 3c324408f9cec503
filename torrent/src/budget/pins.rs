//! Files that always stay on the disk, once they are there: chosen by a person, kept over restarts.
//!
//! The set is a small JSON file in the torrent's state directory, replaced as a whole. Invariant: a file is never
//! protected less than the saved set says; while a pin is being saved it protects already.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wtfs_proto::geometry::{FileIndex, Geometry};

use crate::store::{StateDir, StoreError};

/// The pinned files of one torrent.
#[derive(Debug)]
pub(crate) struct Pins {
    /// `None`: the torrent leaves nothing on the disk.
    state: Option<StateDir>,
    files: Mutex<BTreeSet<FileIndex>>,
    /// Held while the set is saved, so that an older one never replaces a newer one. Taken before `files`.
    saving: Mutex<()>,
}

/// Whether a file is to be pinned or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pinned {
    Yes,
    No,
}

impl Pins {
    /// The saved set. One that cannot be read is empty and logged. Blocks on the disk.
    pub(crate) fn load(state: Option<StateDir>, geometry: &Geometry) -> Self {
        let saved = state.as_ref().map(StateDir::load_pins).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "the pinned files of a torrent are not known any more; pin them again");
            None
        });
        let files = saved.unwrap_or_default().into_iter();
        let files = files.filter_map(|file| geometry.file(usize::try_from(file).ok()?)).collect();
        Self { state, files: Mutex::new(files), saving: Mutex::new(()) }
    }

    /// Pins a file or unpins it; saved when this returns. Blocks on the disk.
    ///
    /// # Errors
    /// When the set cannot be saved; it is then as it was.
    pub(crate) fn set(&self, file: FileIndex, pinned: Pinned) -> Result<(), StoreError> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = self.lock().clone();
        let is_changed = match pinned {
            Pinned::Yes => wanted.insert(file),
            Pinned::No => wanted.remove(&file),
        };
        if !is_changed {
            return Ok(());
        }
        if pinned == Pinned::Yes {
            self.lock().insert(file);
        }
        let saved = match &self.state {
            Some(state) => state.save_pins(&wanted.iter().map(|file| file.get()).collect::<Vec<_>>()),
            None => Ok(()),
        };
        match (pinned, &saved) {
            (Pinned::Yes, Err(_)) | (Pinned::No, Ok(())) => self.lock().remove(&file),
            (Pinned::Yes, Ok(())) | (Pinned::No, Err(_)) => false,
        };
        saved
    }

    /// Where the torrent's state is kept.
    pub(super) fn state(&self) -> Option<&StateDir> {
        self.state.as_ref()
    }

    /// Whether a file is pinned.
    pub(crate) fn contains(&self, file: FileIndex) -> bool {
        self.lock().contains(&file)
    }

    /// The pinned files, in their order.
    pub(crate) fn files(&self) -> Vec<FileIndex> {
        self.lock().iter().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<FileIndex>> {
        // Whole between any two statements.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use wtfs_proto::geometry::{Alignment, FileLayout};

    use super::*;

    fn geometry() -> Geometry {
        let file = FileLayout { bytes: 10, alignment: Alignment::Packed, is_pad: false };
        Geometry::new(16 << 10, &[file; 3]).expect("valid")
    }

    fn numbers(pins: &Pins) -> Vec<u32> {
        pins.files().into_iter().map(FileIndex::get).collect()
    }

    #[test]
    fn pins_survive_and_unpinned_files_do_not() {
        let dir = tempfile::tempdir().expect("dir");
        let state = || Some(StateDir::new(dir.path().join("state")));
        let geometry = geometry();
        let file = |n| geometry.file(n).expect("there");
        let pins = Pins::load(state(), &geometry);
        assert!(pins.files().is_empty());
        for n in [2, 0, 2] {
            pins.set(file(n), Pinned::Yes).expect("saved");
        }
        assert_eq!(numbers(&Pins::load(state(), &geometry)), [0, 2]);
        pins.set(file(0), Pinned::No).expect("saved");
        pins.set(file(1), Pinned::No).expect("nothing to do");
        assert!(pins.contains(file(2)) && !pins.contains(file(0)));
        assert_eq!(numbers(&Pins::load(state(), &geometry)), [2]);
    }

    #[test]
    fn a_damaged_set_is_empty_and_a_file_that_is_not_there_is_passed_over() {
        let dir = tempfile::tempdir().expect("dir");
        let state = StateDir::new(dir.path().to_owned());
        state.save_pins(&[1, 77]).expect("saved");
        let load = || Pins::load(Some(StateDir::new(dir.path().to_owned())), &geometry());
        assert_eq!(numbers(&load()), [1]);
        std::fs::write(dir.path().join("pins.json"), b"{\"files\":[1").expect("written");
        assert!(load().files().is_empty());
    }

    #[test]
    fn a_pin_that_cannot_be_saved_is_none() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("state");
        std::fs::write(&path, b"a file where the directory should be").expect("written");
        let geometry = geometry();
        let pins = Pins::load(Some(StateDir::new(path)), &geometry);
        let file = geometry.file(1).expect("there");
        assert!(pins.set(file, Pinned::Yes).is_err());
        assert!(!pins.contains(file));
    }
}
