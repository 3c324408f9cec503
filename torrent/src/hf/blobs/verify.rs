//! Whether a blob is what its hash says: hashed in order as its beginning grows, judged when all of it is here.
//!
//! One task at a time for a blob. It reads the partial file behind the flights, out of the page cache mostly, with a core
//! for each hash where there are so many (`crew.rs`), so that the last byte is soon followed by the verdict. Right, the
//! file is synced and moved to where whole blobs lie; wrong, all of it is thrown away. A blob that is read here and there
//! is hashed from its beginning only when the last hole is filled.

use std::sync::Arc;
use std::time::SystemTime;

use rustix::io::Errno;

use super::Goal;
use super::crew::Crew;
use super::error::BlobError;
use super::hashes::{BlobHasher, Hashes, PieceHashes, PiecesHasher};
use super::place::{FoundKind, Part};
use super::state::{Phase, State};
use crate::store::StoreError;
use crate::store::spans::TransferError;

/// Hashed at once by one job of the disk pool: some ten milliseconds.
const STEP_BYTES: u64 = 16 << 20;

/// Room made for a move, at least.
const ROOM_BYTES: u64 = 256 << 10;

/// Hashing follows the beginning by steps of at least this.
pub(super) const LEAST_LAG_BYTES: u64 = 1 << 20;

/// A beginning that is further ahead than this, as after a restart, is hashed when the rest is here or somebody fetches
/// that: nobody may ever need it.
const MOST_LAG_BYTES: u64 = 64 << 20;

/// What is known of a blob's hash.
#[derive(Debug, Default)]
pub(super) struct Verify {
    hasher: Option<Box<BlobHasher>>,
    hashed: u64,
    pub(super) is_running: bool,
    /// The disk could not be read: there is no verdict.
    pub(super) is_broken: bool,
    /// The disk lost some of what the page cache still had when it was hashed.
    pub(super) is_stale: bool,
    wanted_pieces: Option<u32>,
    pieces: Option<Arc<PieceHashes>>,
}

impl Verify {
    /// How far it is hashed.
    pub(super) fn hashed(&self) -> u64 {
        self.hashed
    }

    /// Begins again, with other bytes.
    pub(super) fn reset(&mut self) {
        *self = Self { wanted_pieces: self.wanted_pieces, ..Self::default() };
    }

    /// Bytes from `at` on are lost: what was hashed of them is not what will be there.
    pub(super) fn lose(&mut self, at: u64) {
        if at < self.hashed {
            self.reset();
        }
    }
}

/// What is to be done next.
enum Step {
    Hash { part: Arc<Part>, hasher: Box<BlobHasher>, end: u64 },
    Judge(Box<BlobHasher>),
    Promote(Arc<Part>),
    Nothing,
}

impl State {
    /// Sees to it that what can be hashed and judged is.
    pub(super) fn verify(self: &Arc<Self>) {
        let mut inner = self.lock();
        if inner.verify.is_running || inner.verify.is_broken {
            return;
        }
        let lag = inner.board.present.end_of_run(0).saturating_sub(inner.verify.hashed);
        let most = if inner.board.fill.is_some() { u64::MAX } else { MOST_LAG_BYTES };
        let is_due = match inner.phase {
            Phase::Open => inner.board.is_complete() || (LEAST_LAG_BYTES..=most).contains(&lag),
            Phase::Verified => true,
            Phase::Unloaded | Phase::Whole | Phase::Corrupt { .. } | Phase::Refused => false,
        };
        if is_due {
            inner.verify.is_running = true;
            self.shared.spawn(verify_task(self.clone()));
        }
    }

    fn next_step(&self) -> Step {
        let mut inner = self.lock();
        let part = inner.files.part.clone();
        let step = match (inner.phase, part) {
            (Phase::Verified, Some(part)) => Step::Promote(part),
            (Phase::Open, Some(part)) => {
                let prefix = inner.board.present.end_of_run(0);
                let is_complete = inner.board.is_complete();
                let wanted = inner.verify.wanted_pieces;
                let hasher = inner.verify.hasher.take();
                let hasher = hasher.unwrap_or_else(|| Box::new(BlobHasher::new(self.id, self.bytes, wanted)));
                if hasher.at < prefix {
                    Step::Hash { part, end: prefix.min(hasher.at + STEP_BYTES), hasher }
                } else if is_complete {
                    Step::Judge(hasher)
                } else {
                    inner.verify.hasher = Some(hasher);
                    Step::Nothing
                }
            }
            _ => Step::Nothing,
        };
        if matches!(step, Step::Nothing) {
            inner.verify.is_running = false;
        }
        step
    }

    /// Ends the task because the disk does not work.
    fn break_off(&self, error: BlobError) {
        tracing::warn!(id = %self.id, %error, "a blob cannot be verified");
        let mut inner = self.lock();
        inner.verify.is_running = false;
        inner.verify.is_broken = true;
        inner.fill_error = Some(error);
        drop(inner);
        self.moved.notify_waiters();
    }

    /// Judges what was hashed. Wrong, it is thrown away.
    async fn judge(self: &Arc<Self>, hasher: BlobHasher) {
        let (found, pieces) = hasher.finish();
        if found == self.id {
            let mut inner = self.lock();
            inner.phase = Phase::Verified;
            inner.strikes = 0;
            inner.board.fill = None;
            inner.verify.pieces = pieces.map(Arc::new);
            drop(inner);
            self.moved.notify_waiters();
            return;
        }
        tracing::warn!(id = %self.id, %found, "what was fetched is not what its hash says; all of it is thrown away");
        let (now, state) = (SystemTime::now(), self.clone());
        let saved = self.shared.disk().run(move || state.shared.discards.save(state.id, now)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(id = %self.id, %error, "that it was thrown away is not known after a restart");
        }
        if let Some(part) = self.discard(now) {
            let removed = self.shared.disk().run(move || part.remove()).await;
            if let Ok(Err(error)) = removed {
                tracing::warn!(id = %self.id, %error, "what was thrown away stays on the disk");
            }
        }
    }

    /// Moves a verified file to where whole blobs lie.
    async fn promote(self: &Arc<Self>, part: Arc<Part>) -> Result<(), BlobError> {
        let state = self.clone();
        let (pieces, is_stale) = {
            let inner = self.lock();
            (inner.verify.pieces.clone(), inner.verify.is_stale)
        };
        if is_stale {
            return Err(StoreError::errno("sync", &part.path)(Errno::IO).into());
        }
        let job = move || {
            let place = &state.shared.place;
            if let Some(pieces) = pieces
                && let Err(error) = place.save_pieces(state.id, state.bytes, &pieces)
            {
                // They can be made again.
                tracing::debug!(%error, "hashes of pieces are not kept");
            }
            place.promote(&part, state.id, state.bytes)?;
            // Open for reading only: what others are handed must not be written through.
            place.open_whole(state.id, state.bytes)
        };
        let whole = self.shared.disk().run(job).await.map_err(|_| BlobError::Closed)??;
        let mut inner = self.lock();
        inner.phase = Phase::Whole;
        inner.files.part = None;
        inner.files.whole = whole.map(Arc::new);
        inner.verify.is_running = false;
        self.shared.set(self.key(), FoundKind::Whole, self.bytes, self.shared.budget().now());
        drop(inner);
        self.moved.notify_waiters();
        Ok(())
    }

    /// A verified blob cannot be made whole. What is verified can still be read, unless the disk lost some of it.
    async fn not_kept(self: &Arc<Self>, error: BlobError) {
        tracing::warn!(id = %self.id, %error, "a verified blob is not kept as whole");
        let is_lost = !matches!(error, BlobError::NoSpace | BlobError::Closed);
        {
            let mut inner = self.lock();
            inner.verify.is_running = false;
            inner.fill_error = Some(error);
        }
        self.moved.notify_waiters();
        if is_lost && let Some(part) = self.lose_all() {
            let removed = self.shared.disk().run(move || part.remove()).await;
            if let Ok(Err(error)) = removed {
                tracing::warn!(id = %self.id, %error, "what was lost stays on the disk");
            }
        }
    }

    /// Asks for the hashes of pieces in the pass that verifies.
    pub(super) fn want_pieces(&self, piece_bytes: u32) {
        let mut inner = self.lock();
        let is_early = !inner.verify.is_running && inner.verify.hashed <= MOST_LAG_BYTES;
        if inner.verify.wanted_pieces == Some(piece_bytes) || !is_early {
            return;
        }
        inner.verify.wanted_pieces = Some(piece_bytes);
        if matches!(inner.phase, Phase::Open | Phase::Unloaded) {
            inner.verify.reset();
        }
    }

    /// The hashes of the pieces of a whole blob. Blocks on the disk, and hashes the blob if need be.
    fn make_pieces(&self, file: &std::fs::File, piece_bytes: u32) -> Result<PieceHashes, StoreError> {
        let place = &self.shared.place;
        if let Some(kept) = place.load_pieces(self.id, self.bytes, piece_bytes) {
            return Ok(kept);
        }
        let mut hasher = PiecesHasher::new(piece_bytes, self.bytes);
        let mut at = 0;
        while at < self.bytes {
            if self.shared.cancel().is_cancelled() {
                return Err(StoreError::Cancelled);
            }
            let end = self.bytes.min(at + STEP_BYTES);
            let hashes: Vec<&mut dyn Hashes> = hasher.hashes().into();
            self.shared.crew.hash(file, at..end, hashes).map_err(|error| self.explain(error))?;
            at = end;
        }
        let pieces = hasher.finish();
        place.save_pieces(self.id, self.bytes, &pieces)?;
        Ok(pieces)
    }

    /// The hashes of the blob's pieces, once it is whole.
    ///
    /// # Errors
    /// When it does not become whole, or the disk does not work.
    pub(super) async fn pieces(self: &Arc<Self>, piece_bytes: u32) -> Result<Arc<PieceHashes>, BlobError> {
        if !super::hashes::is_piece_length(piece_bytes) {
            return Err(BlobError::PieceLength { piece_bytes });
        }
        self.until(Goal::Whole).await?;
        let known = |state: &Self| {
            let pieces = state.lock().verify.pieces.clone();
            pieces.filter(|pieces| pieces.piece_bytes == piece_bytes)
        };
        if let Some(pieces) = known(self) {
            return Ok(pieces);
        }
        let _one = self.shared.hashing.lock().await;
        if let Some(pieces) = known(self) {
            return Ok(pieces);
        }
        let state = self.clone();
        let job = move || {
            let Some((file, _hold)) = state.hold_whole() else { return Err(BlobError::Offline) };
            Ok(state.make_pieces(&file, piece_bytes)?)
        };
        let pieces = Arc::new(self.shared.disk().run(job).await.map_err(|_| BlobError::Closed)??);
        self.lock().verify.pieces = Some(pieces.clone());
        Ok(pieces)
    }

    /// An error of reading its file.
    pub(super) fn explain(&self, error: TransferError) -> StoreError {
        let path = self.shared.place.whole_path(self.id);
        match error {
            TransferError::Errno(errno) => StoreError::errno("read", &path)(errno),
            TransferError::Short => StoreError::Changed { path },
        }
    }
}

async fn verify_task(state: Arc<State>) {
    loop {
        if state.shared.cancel().is_cancelled() {
            let mut inner = state.lock();
            // What is verified is not recorded in parts any more: it is kept as a whole, or not at all.
            if inner.phase != Phase::Verified {
                inner.verify.is_running = false;
                return;
            }
        }
        match state.next_step() {
            Step::Nothing => return,
            Step::Hash { part, hasher, end } => {
                let shared = state.shared.clone();
                let job = move || hash(&shared.crew, &part, hasher, end);
                match state.shared.disk().run(job).await {
                    Ok(Ok(hasher)) => {
                        let mut inner = state.lock();
                        inner.verify.hashed = hasher.at;
                        inner.verify.hasher = Some(hasher);
                        drop(inner);
                        state.moved.notify_waiters();
                    }
                    Ok(Err(error)) => return state.break_off(state.explain(error).into()),
                    Err(_lost) => return state.break_off(BlobError::Closed),
                }
            }
            Step::Judge(hasher) => {
                state.judge(*hasher).await;
                if state.lock().phase != Phase::Verified {
                    return;
                }
            }
            Step::Promote(part) => {
                let mut outcome = state.promote(part.clone()).await;
                if matches!(outcome, Err(BlobError::NoSpace)) {
                    // Moving it may take a block for a directory.
                    state.shared.budget().relieve(ROOM_BYTES).await;
                    outcome = state.promote(part).await;
                }
                if let Err(error) = outcome {
                    state.not_kept(error).await;
                }
                return;
            }
        }
    }
}

/// Hashes from where the hasher is to `end`. Blocks on the disk.
fn hash(
    crew: &Crew,
    part: &Part,
    mut hasher: Box<BlobHasher>,
    end: u64,
) -> Result<Box<BlobHasher>, TransferError> {
    crew.hash(&part.file, hasher.at..end, hasher.hashes())?;
    hasher.at = end;
    Ok(hasher)
}
