//! One blob while anybody has to do with it: what of it is here, who waits for what, and what is known of its hash.
//!
//! Everything that changes is under one lock, held for a look or a change and never across a wait or a system call; who
//! waits is woken by [`State::moved`]. Flights (`flight.rs`) bring bytes, `verify.rs` judges them when all are here.
//!
//! ```text
//! Unloaded --load--> Open --all here, hash right--> Verified --synced, moved--> Whole
//!                    Open --all here, hash wrong--> Open, empty, once; then Corrupt for a minute
//! Open, Whole --evicted--> Open, empty
//! ```
//!
//! Invariant: only bytes that were written to the file, or found recorded in it, are present; only present bytes are read.
//! The lock of the index is taken inside this one, never the other way round.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use wtfs_proto::hf::ContentId;

use super::board::{Ahead, Board, Claim, Class, Demand, Leave, REST_BYTES};
use super::error::BlobError;
use super::flight;
use super::index::{Entry, Key};
use super::origin::{BlobOrigin, OriginFault};
use super::place::{FoundKind, Part};
use super::ranges::RangeSet;
use super::segments::SegmentUses;
use super::shared::Shared;
use super::status::FillStatus;
use super::verify::Verify;
use crate::store::StoreError;

mod files;
mod leaving;

pub(crate) use files::Hold;

/// Once what came twice was wrong, nobody is asked again for so long.
const CORRUPT_FOR: Duration = Duration::from_secs(60);

/// Times that a blob is fetched before it counts as corrupt.
const MAX_STRIKES: u32 = 2;

/// A read of a blob that is all here and not yet verified waits for the verdict if no more than this is left to hash: a
/// fraction of a second.
const MAX_AWAITED_BYTES: u64 = 256 << 20;

/// Between two checkpoints: what a crash costs, in time.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// A generation that no reader has seen.
pub(super) const UNSEEN: u32 = u32::MAX;

pub(super) type Origin = Arc<dyn BlobOrigin>;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct State {
    pub(super) shared: Arc<Shared>,
    pub(super) id: ContentId,
    pub(super) bytes: u64,
    inner: Mutex<Inner>,
    /// Tells that something a waiter may wait for changed.
    pub(super) moved: Notify,
    /// Held while files are opened.
    opening: tokio::sync::Mutex<()>,
}

/// What changes.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) board: Board<Origin>,
    pub(super) phase: Phase,
    pub(super) files: Files,
    /// Taken out of what is present and still to be freed on the disk: nothing is written there meanwhile.
    going: RangeSet,
    /// Why reads fail that do not know yet.
    failed: HashMap<u64, BlobError>,
    /// Written and not yet durable.
    unsynced: RangeSet,
    /// Being made durable and recorded now.
    syncing: RangeSet,
    is_checkpointing: bool,
    pub(super) verify: Verify,
    segments: SegmentUses,
    /// Counts what was thrown away.
    pub(super) generation: u32,
    /// Counts whenever bytes stop being present: what was read meanwhile may be zeros.
    epoch: u64,
    pub(super) strikes: u32,
    /// Why the last fill came to nothing.
    pub(super) fill_error: Option<BlobError>,
    /// Who keeps the file from being evicted.
    holds: usize,
}

/// See the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Unloaded,
    Open,
    Verified,
    Whole,
    Corrupt {
        until: Instant,
    },
    /// The blob is whole in another length.
    Refused,
}

/// The open files, as far as they are.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) part: Option<Arc<Part>>,
    pub(super) whole: Option<Arc<File>>,
    /// Whether it was looked whether somebody else made the blob whole.
    is_looked_for: bool,
}

/// Where bytes can be read from.
#[derive(Debug, Clone)]
pub(super) enum Data {
    Part(Arc<Part>),
    Whole(Arc<File>),
}

impl Data {
    pub(super) fn file(&self) -> &File {
        match self {
            Self::Part(part) => &part.file,
            Self::Whole(file) => file,
        }
    }
}

/// How much of a range a read needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    All,
    Some,
}

/// What a read is to do.
#[derive(Debug)]
pub(super) enum Answer {
    /// Read this, which is of a generation; the epoch must still be the same afterwards.
    Read { data: Data, range: Range<u64>, generation: u32, epoch: u64 },
    /// Open the files first.
    Load,
    /// Wait until something moves. While this number stays the same, nothing did for this read.
    Wait(Progress),
}

/// What changes when a read gets closer to its bytes.
pub(super) type Progress = (u64, u64, u64);

impl State {
    pub(super) fn new(shared: Arc<Shared>, key: Key, entry: Option<Entry>, refused: Refused) -> Arc<Self> {
        let (id, bytes) = key;
        let mut board = Board::new(bytes);
        let phase = match (refused, entry.map(|entry| entry.kind)) {
            (Refused::Yes, _) => Phase::Refused,
            (Refused::No, _) if bytes == 0 && is_of_nothing(id) => Phase::Whole,
            (Refused::No, _) if bytes == 0 => Phase::Refused,
            (Refused::No, Some(FoundKind::Whole)) => {
                board.present.insert(0..bytes);
                Phase::Whole
            }
            (Refused::No, Some(FoundKind::Partial)) => Phase::Unloaded,
            (Refused::No, None) => Phase::Open,
        };
        let inner = Inner {
            board,
            phase,
            files: Files::default(),
            going: RangeSet::default(),
            failed: HashMap::new(),
            unsynced: RangeSet::default(),
            syncing: RangeSet::default(),
            is_checkpointing: false,
            verify: Verify::default(),
            segments: SegmentUses::default(),
            generation: 0,
            epoch: 0,
            strikes: 0,
            fill_error: None,
            holds: 0,
        };
        let (inner, opening) = (Mutex::new(inner), tokio::sync::Mutex::new(()));
        Arc::new(Self { shared, id, bytes, inner, moved: Notify::new(), opening })
    }

    pub(super) fn key(&self) -> Key {
        (self.id, self.bytes)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whole between any two statements, as far as a panic elsewhere goes.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- reads ----------------------------------------------------------------------------------------------------

    /// A read begins to wait for a range.
    pub(super) fn add_demand(&self, range: Range<u64>, reader: u64, origin: Origin) -> u64 {
        self.lock().board.add_demand(Demand { range, reader, origin })
    }

    /// A read is over, or gone.
    pub(super) fn end_demand(&self, demand: u64) {
        let mut inner = self.lock();
        inner.board.demands.remove(&demand);
        inner.failed.remove(&demand);
        let is_flying = !inner.board.claims.is_empty();
        drop(inner);
        if is_flying {
            self.moved.notify_waiters();
        }
    }

    /// What a read does next. `seen` is the generation that its reader has read of.
    ///
    /// # Errors
    /// When it failed.
    pub(super) fn answer(
        self: &Arc<Self>,
        demand: u64,
        range: &Range<u64>,
        need: Need,
        seen: u32,
    ) -> Result<Answer, BlobError> {
        let mut inner = self.lock();
        if let Some(error) = inner.failed.remove(&demand) {
            return Err(error);
        }
        inner.check(seen)?;
        if let Some(answer) = inner.try_answer(range, need) {
            return Ok(answer);
        }
        if inner.phase == Phase::Unloaded || inner.phase == Phase::Whole {
            return Ok(Answer::Load);
        }
        if self.shared.cancel().is_cancelled() {
            return Err(BlobError::Closed);
        }
        if !inner.board.present.covers(range) {
            if self.shared.is_offline() {
                return Err(BlobError::Offline);
            }
            // Many readers that wait for one flight do not all plan at each of its steps.
            if !inner.board.is_served(range) {
                self.launch(&mut inner);
            }
        }
        Ok(Answer::Wait(inner.progress(range)))
    }

    /// Bytes that can be read at once, by a reader that has read of generation `seen`.
    pub(super) fn try_answer(&self, range: &Range<u64>, seen: u32) -> Option<Answer> {
        let mut inner = self.lock();
        inner.check(seen).ok()?;
        inner.try_answer(range, Need::All)
    }

    /// Whether what was read since an epoch is good.
    pub(super) fn is_still(&self, epoch: u64) -> bool {
        self.lock().epoch == epoch
    }

    /// Notes that a range is read, so that it goes later than others.
    pub(super) fn touch(&self, range: &Range<u64>) {
        let now = self.shared.budget().now();
        self.shared.index().touch(&self.key(), now);
        let mut inner = self.lock();
        if inner.phase == Phase::Open {
            inner.segments.touch(range, now);
        }
    }

    /// What a reader will read next; nothing, if it is gone or reads at random.
    pub(super) fn set_ahead(self: &Arc<Self>, reader: u64, ahead: Option<Ahead<Origin>>) {
        let mut inner = self.lock();
        match ahead {
            Some(ahead) => {
                inner.board.aheads.insert(reader, ahead);
                if inner.phase == Phase::Open && !inner.board.is_complete() {
                    self.launch(&mut inner);
                }
            }
            None => {
                inner.board.aheads.remove(&reader);
            }
        }
        drop(inner);
        self.moved.notify_waiters();
    }

    // ---- fills ----------------------------------------------------------------------------------------------------

    /// Fetches everything.
    ///
    /// # Errors
    /// When that cannot be.
    pub(super) async fn fill(self: &Arc<Self>, origin: Origin) -> Result<(), BlobError> {
        self.load().await?;
        let mut inner = self.lock();
        inner.check(UNSEEN)?;
        if inner.phase == Phase::Whole {
            return Ok(());
        }
        if inner.phase == Phase::Verified || inner.board.is_complete() {
            drop(inner);
            self.verify();
            return Ok(());
        }
        if self.shared.is_offline() {
            return Err(BlobError::Offline);
        }
        if self.bytes > self.shared.budget().limit() {
            return Err(BlobError::NoSpace);
        }
        inner.fill_error = None;
        inner.board.fill = Some(origin);
        self.launch(&mut inner);
        Ok(())
    }

    /// Starts flights for what is wanted and nobody fetches.
    fn launch(self: &Arc<Self>, inner: &mut Inner) {
        if inner.phase != Phase::Open || self.shared.is_offline() || self.shared.cancel().is_cancelled() {
            return;
        }
        for claim in inner.board.plan() {
            self.shared.spawn(flight::fly(self.clone(), claim));
        }
    }

    // ---- flights --------------------------------------------------------------------------------------------------

    /// Whom a claim's flight asks, and how urgently; `None` once the claim is gone.
    pub(super) fn claimed(&self, claim: u64) -> Option<(Origin, Class)> {
        let inner = self.lock();
        inner.board.claims.get(&claim).map(|claim| (claim.origin.clone(), claim.class))
    }

    /// What of a claim is missing, and how far its flight may go now, which has had bytes up to `arrived`.
    pub(super) fn leave_at(&self, claim: u64, arrived: u64) -> (Range<u64>, Leave) {
        self.lock().board.arrive(claim, arrived);
        self.leave(claim)
    }

    /// As [`Self::leave_at`], before anything arrives.
    pub(super) fn leave(&self, claim: u64) -> (Range<u64>, Leave) {
        let inner = self.lock();
        let missing = inner.board.claims.get(&claim).map_or(0..0, |claim| claim.at..claim.end);
        (missing, inner.board.leave(claim))
    }

    /// A claim's flight asks its origin now: what it brings first counts as about to come.
    pub(super) fn asks(&self, claim: u64) {
        let mut inner = self.lock();
        let near = inner.board.pace.unwrap_or(REST_BYTES);
        if let Some(claim) = inner.board.claims.get_mut(&claim) {
            claim.near = near;
        }
    }

    /// A claim's flight brings nothing for a while: who waits for what is behind need not wait for it.
    pub(super) fn is_late(self: &Arc<Self>, claim: u64) {
        let mut inner = self.lock();
        let Some(claim) = inner.board.claims.get_mut(&claim) else { return };
        claim.near = 0;
        self.launch(&mut inner);
    }

    /// Bytes of a claim were written to `part`; what comes `near` after them comes within a moment.
    pub(super) fn stored(self: &Arc<Self>, claim: u64, part: &Arc<Part>, range: Range<u64>, near: u64) {
        let mut inner = self.lock();
        if !inner.files.part.as_ref().is_some_and(|current| Arc::ptr_eq(current, part)) {
            // Thrown away meanwhile.
            return;
        }
        let now = self.shared.budget().now();
        inner.board.pace = Some(near);
        // Without it, they are of before something was thrown away, or another flight's to bring.
        let Some(found) = inner.board.claims.get_mut(&claim) else { return };
        found.near = near;
        inner.unsynced.insert(range.clone());
        inner.segments.touch(&range, now);
        let added = inner.board.settle(claim, range);
        self.shared.grow(self.key(), added, now);
        let is_first = !std::mem::replace(&mut inner.is_checkpointing, true);
        drop(inner);
        self.moved.notify_waiters();
        if is_first {
            self.shared.spawn(checkpoint_task(self.clone()));
        }
        self.verify();
    }

    /// A flight is over: what it leaves to be fetched is looked at again.
    pub(super) fn land(self: &Arc<Self>, claim: u64) {
        let mut inner = self.lock();
        inner.board.claims.remove(&claim);
        self.launch(&mut inner);
        drop(inner);
        self.moved.notify_waiters();
    }

    /// A flight failed for good: so do the reads that wait for it, as far as others would not do better.
    pub(super) fn fail(self: &Arc<Self>, claim: u64, origin: &Origin, error: &BlobError) {
        let mut inner = self.lock();
        let Some(claim) = inner.board.claims.remove(&claim) else { return };
        let name = origin.describe();
        let fault = error.origin().map(|error| error.fault);
        let is_hit = |other: &Origin| match fault {
            Some(OriginFault::Forbidden | OriginFault::Offline) => Arc::ptr_eq(other, origin),
            // The same content may still be had elsewhere at the same site.
            Some(OriginFault::Gone | OriginFault::Lying) => other.describe() == name,
            Some(OriginFault::Transient) | None => true,
        };
        let waiting = inner.board.waiting_for(&claim);
        let hit: Vec<u64> = waiting
            .into_iter()
            .filter(|id| inner.board.demands.get(id).is_some_and(|demand| is_hit(&demand.origin)))
            .collect();
        for id in hit {
            inner.board.demands.remove(&id);
            inner.failed.insert(id, error.clone());
        }
        inner.board.forget_aheads(&claim);
        if inner.board.fill.as_ref().is_some_and(is_hit) {
            inner.board.fill = None;
            inner.fill_error = Some(error.clone());
        }
        self.launch(&mut inner);
        drop(inner);
        self.moved.notify_waiters();
    }

    // ---- for people -----------------------------------------------------------------------------------------------

    /// How it is being fetched, if it is.
    pub(super) fn fill_status(&self) -> Option<FillStatus> {
        let inner = self.lock();
        let first = inner.board.claims.values().next()?;
        Some(FillStatus {
            id: self.id,
            bytes: self.bytes,
            present_bytes: inner.board.present.bytes(),
            waiting: inner.board.demands.len(),
            requests: inner.board.claims.len(),
            origin: first.origin.describe(),
        })
    }
}

/// Whether a blob is known to be of another length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Yes,
    No,
}

impl Inner {
    /// Whether a reader that has read of generation `seen` may go on.
    fn check(&mut self, seen: u32) -> Result<(), BlobError> {
        match self.phase {
            Phase::Refused => return Err(BlobError::Corrupt),
            Phase::Corrupt { until } if Instant::now() < until => return Err(BlobError::Corrupt),
            Phase::Corrupt { .. } => {
                (self.phase, self.strikes, self.fill_error) = (Phase::Open, 0, None);
            }
            Phase::Unloaded | Phase::Open | Phase::Verified | Phase::Whole => {}
        }
        if seen != UNSEEN && seen != self.generation {
            return Err(BlobError::Replaced);
        }
        Ok(())
    }

    fn try_answer(&self, range: &Range<u64>, need: Need) -> Option<Answer> {
        let run = self.board.present.end_of_run(range.start).min(range.end);
        let is_enough = match need {
            Need::All => run == range.end,
            Need::Some => run > range.start,
        };
        if !is_enough || self.awaits_verdict() {
            return None;
        }
        let whole = self.files.whole.clone().map(Data::Whole);
        let data = whole.or_else(|| self.files.part.clone().map(Data::Part))?;
        Some(Answer::Read { data, range: range.start..run, generation: self.generation, epoch: self.epoch })
    }

    /// Whether what is here is about to be judged: the last read of a stream is to fail rather than to complete what is
    /// wrong.
    fn awaits_verdict(&self) -> bool {
        self.phase == Phase::Open
            && self.board.is_complete()
            && !self.verify.is_broken
            && self.board.present.bytes() - self.verify.hashed() <= MAX_AWAITED_BYTES
    }

    fn progress(&self, range: &Range<u64>) -> Progress {
        let gap = self.board.present.end_of_run(range.start);
        let claim =
            self.board.claims.values().find(|claim: &&Claim<Origin>| claim.at <= gap && gap < claim.end);
        (gap, claim.map_or(0, |claim| claim.at), self.verify.hashed())
    }

    /// Forgets all bytes; returns the partial file, which is to be removed.
    fn empty(&mut self) -> Option<Arc<Part>> {
        self.epoch += 1;
        self.board.clear();
        self.unsynced = RangeSet::default();
        self.segments = SegmentUses::default();
        self.verify.reset();
        // The next look is to find nothing.
        self.files.is_looked_for = true;
        self.files.whole = None;
        self.files.part.take()
    }

    fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Whole | Phase::Unloaded)
            && self.holds == 0
            && !self.board.is_busy()
            && !self.verify.is_running
    }

    /// Whether parts of it may go.
    fn can_spare(&self) -> bool {
        self.phase == Phase::Open
            && self.holds == 0
            && self.board.fill.is_none()
            && !self.board.is_complete()
            && !self.verify.is_running
            && self.files.part.is_some()
    }

    fn is_wanted(&self, range: &Range<u64>) -> bool {
        let overlaps = |other: &Range<u64>| other.start < range.end && range.start < other.end;
        self.board.demands.values().any(|demand| overlaps(&demand.range))
            || self.board.aheads.values().flat_map(|ahead| &ahead.window).any(overlaps)
            || self.board.claims.values().any(|claim| overlaps(&(claim.at.saturating_sub(1)..claim.end)))
            || self.syncing.covers_any(range)
    }
}

/// Makes what is written durable now and then, until nothing is left of it.
async fn checkpoint_task(state: Arc<State>) {
    loop {
        tokio::select! {
            () = state.shared.cancel().cancelled() => {}
            () = tokio::time::sleep(CHECKPOINT_EVERY) => {}
        }
        let (part, ranges) = {
            let mut inner = state.lock();
            let ranges = std::mem::take(&mut inner.unsynced);
            inner.syncing = RangeSet::default();
            // Once it is verified it is synced as a whole.
            let part = inner.files.part.clone().filter(|_| inner.phase == Phase::Open);
            match part {
                Some(part) if ranges.bytes() > 0 => {
                    inner.syncing = ranges.clone();
                    (part, ranges)
                }
                _ => {
                    inner.is_checkpointing = false;
                    return;
                }
            }
        };
        let (syncing, synced) = (part.clone(), ranges.clone());
        let job = state.shared.disk().run(move || {
            syncing.sync()?;
            // What is not recorded is fetched again after a crash.
            if let Err(error) = syncing.record_durable(&synced) {
                tracing::warn!(%error, "what was fetched is not recorded");
            }
            Ok::<(), StoreError>(())
        });
        let Ok(outcome) = job.await else { return };
        state.lock().syncing = RangeSet::default();
        if let Err(error) = outcome {
            tracing::warn!(id = %state.id, %error, "what was written does not reach the disk, and is fetched again");
            state.lose(&part, &ranges);
        }
    }
}

/// Whether the blob of no bytes has this id.
fn is_of_nothing(id: ContentId) -> bool {
    super::hashes::BlobHasher::new(id, 0, None).finish().0 == id
}

/// Numbers for readers.
pub(super) fn next_reader() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
