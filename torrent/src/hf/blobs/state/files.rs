//! The files of one blob: opened when they are needed, made when the first bytes come, held for others.
//!
//! One at a time looks at the disk for a blob. What is found replaces what was thought to be there, and is never older than
//! what this process knows.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::error::BlobError;
use super::super::place::{FoundKind, Part};
use super::super::ranges::RangeSet;
use super::{Phase, State};
use crate::store::StoreError;

/// What was found on the disk.
enum Opened {
    Whole(Arc<File>),
    Part(Arc<Part>, RangeSet),
    Nothing,
}

impl State {
    /// Opens what there is on the disk. Makes nothing.
    ///
    /// # Errors
    /// When the disk does not work.
    pub(in crate::hf::blobs) async fn load(self: &Arc<Self>) -> Result<(), BlobError> {
        let _opening = self.opening.lock().await;
        let phase = {
            let inner = self.lock();
            let is_open = inner.files.whole.is_some() || inner.files.part.is_some();
            let is_empty = inner.phase == Phase::Open && inner.files.is_looked_for;
            if is_open || is_empty || matches!(inner.phase, Phase::Refused | Phase::Corrupt { .. }) {
                return Ok(());
            }
            inner.phase
        };
        let state = self.clone();
        let opened =
            self.shared.disk().run(move || state.open(phase)).await.map_err(|_| BlobError::Closed)?;
        self.take(opened?);
        Ok(())
    }

    /// Looks what there is. Blocks on the disk.
    fn open(&self, phase: Phase) -> Result<Opened, StoreError> {
        let place = &self.shared.place;
        if self.bytes == 0 {
            return place.make_empty(self.id).map(|file| Opened::Whole(Arc::new(file)));
        }
        // What is being removed is not to be found again.
        let is_going = self.shared.index().is_going(&self.key());
        if !is_going && let Some(file) = place.open_whole(self.id, self.bytes)? {
            return Ok(Opened::Whole(Arc::new(file)));
        }
        if phase == Phase::Unloaded && !is_going && place.has_part(self.id, self.bytes) {
            let (part, present) = place.open_part(self.id, self.bytes)?;
            return Ok(Opened::Part(Arc::new(part), present));
        }
        Ok(Opened::Nothing)
    }

    fn take(self: &Arc<Self>, opened: Opened) {
        let mut inner = self.lock();
        let now = self.shared.budget().now();
        inner.files.is_looked_for = true;
        match opened {
            Opened::Whole(file) => {
                inner.board.clear();
                inner.board.present.insert(0..self.bytes);
                inner.board.fill = None;
                inner.files.whole = Some(file);
                inner.phase = Phase::Whole;
                self.shared.set(self.key(), FoundKind::Whole, self.bytes, now);
            }
            Opened::Part(part, present) => {
                let stored = present.bytes();
                inner.board.clear();
                inner.board.present = present;
                inner.files.part = Some(part);
                inner.phase = Phase::Open;
                self.shared.set(self.key(), FoundKind::Partial, stored, now);
                self.launch(&mut inner);
            }
            Opened::Nothing => {
                if matches!(inner.phase, Phase::Whole | Phase::Unloaded) {
                    // Another process gave it up, or somebody removed it.
                    inner.board.clear();
                    inner.phase = Phase::Open;
                    self.shared.unset(&self.key());
                    self.launch(&mut inner);
                }
            }
        }
        drop(inner);
        self.moved.notify_waiters();
        self.verify();
    }

    /// The partial file, made if need be; `None` once the blob is whole by other ways.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(in crate::hf::blobs) async fn part(self: &Arc<Self>) -> Result<Option<Arc<Part>>, BlobError> {
        if let Some(part) = self.open_part() {
            return Ok(Some(part));
        }
        self.load().await?;
        let _opening = self.opening.lock().await;
        if let Some(part) = self.open_part() {
            return Ok(Some(part));
        }
        if self.lock().phase != Phase::Open {
            return Ok(None);
        }
        let state = self.clone();
        let made = self.shared.disk().run(move || state.shared.place.open_part(state.id, state.bytes)).await;
        let (part, present) = made.map_err(|_| BlobError::Closed)??;
        let part = Arc::new(part);
        let mut inner = self.lock();
        let stored = present.bytes();
        if stored > 0 {
            // Left by somebody since the session began.
            inner.board.clear();
            inner.board.present = present;
        }
        inner.files.part = Some(part.clone());
        self.shared.set(self.key(), FoundKind::Partial, stored, self.shared.budget().now());
        self.launch(&mut inner);
        Ok(Some(part))
    }

    fn open_part(&self) -> Option<Arc<Part>> {
        self.lock().files.part.clone()
    }

    /// The open whole file, held; opened if need be. Blocks on the disk.
    pub(in crate::hf::blobs) fn hold_whole(self: &Arc<Self>) -> Option<(Arc<File>, Hold)> {
        {
            let mut inner = self.lock();
            if inner.phase != Phase::Whole {
                return None;
            }
            // Held before looking: nothing is given up from now on.
            inner.holds += 1;
        }
        let hold = Hold { state: self.clone() };
        if let Some(file) = self.lock().files.whole.clone() {
            return Some((file, hold));
        }
        match self.open(Phase::Whole) {
            Ok(opened @ Opened::Whole(_)) => {
                self.take(opened);
                Some((self.lock().files.whole.clone()?, hold))
            }
            Ok(_) => {
                self.take(Opened::Nothing);
                None
            }
            Err(error) => {
                tracing::warn!(id = %self.id, %error, "a whole blob cannot be opened");
                None
            }
        }
    }

    /// The whole file, held, if it is open.
    pub(in crate::hf::blobs) fn try_hold_whole(self: &Arc<Self>) -> Option<(Arc<File>, Hold)> {
        let mut inner = self.lock();
        let file = inner.files.whole.clone().filter(|_| inner.phase == Phase::Whole)?;
        inner.holds += 1;
        drop(inner);
        Some((file, Hold { state: self.clone() }))
    }

    /// Where the blob is, once it is whole.
    pub(in crate::hf::blobs) fn path(&self) -> Option<PathBuf> {
        (self.lock().phase == Phase::Whole).then(|| self.shared.place.whole_path(self.id))
    }
}

/// Keeps a whole blob from being evicted.
#[derive(Debug)]
pub(crate) struct Hold {
    state: Arc<State>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.state.lock().holds -= 1;
    }
}
