//! What all blobs of a session share, and what happens to them together: finding them, counting them, giving them up.
//!
//! Keeps blobs that were used a moment ago at hand, with their open files and what is hashed of them, for the next reader.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use wtfs_proto::hf::ContentId;

use super::crew::Crew;
use super::discards::Discards;
use super::index::{Going, Index, Key};
use super::lanes::Lanes;
use super::pins::Pins;
use super::place::{FoundKind, Place, Removed};
use super::state::{Refused, State};
use super::status::BlobsStatus;
use crate::budget::{self, Budget};
use crate::disk::DiskPool;
use crate::limiter::Limiter;
use crate::reader::buffers::Buffers;
use crate::session::Engine;
use crate::status::Counter;

/// Blobs kept at hand after their last reader, at most.
const MAX_RECENT: usize = 64;

/// And for so long at most.
const RECENT_FOR: Duration = Duration::from_secs(60);

/// How often what is to be done now and then is done.
const TICK: Duration = Duration::from_secs(5);

/// How often the times of last use are saved, in ticks.
const SAVE_EVERY: u32 = 12;

/// Part of the session's memory that flights may take.
const MEMORY_FRACTION: u64 = 2;

/// Counted from the start of the session.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) requests: Counter,
    pub(super) origin_bytes: Counter,
    pub(super) read_bytes: Counter,
    pub(super) hit_bytes: Counter,
    pub(super) origin_errors: Counter,
    pub(super) corrupt: Counter,
    pub(super) evicted: Counter,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Shared {
    engine: Arc<Engine>,
    /// Readers are also asked by threads that belong to no runtime.
    runtime: Handle,
    pub(super) place: Place,
    pub(super) lanes: Lanes,
    pub(super) counters: Counters,
    pub(super) crew: Crew,
    pub(super) pins: Pins,
    pub(super) discards: Discards,
    /// Held while the pieces of a blob are hashed apart from its verification: one at a time.
    pub(super) hashing: tokio::sync::Mutex<()>,
    index: Mutex<Index>,
    recent: Mutex<VecDeque<(Instant, Arc<State>)>>,
}

/// Something of a blob that may go. The order says in which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spare {
    pub(crate) touched: u32,
    pub(crate) bytes: u64,
    id: ContentId,
    length: u64,
    /// A part of a partial blob that is in use; `None` is all of one that is not.
    segment: Option<u64>,
}

impl Shared {
    pub(super) fn new(engine: Arc<Engine>, dir: PathBuf) -> Self {
        let crew = Crew::new(engine.buffers.clone());
        let lanes = Lanes::new(engine.config.memory_bytes / MEMORY_FRACTION);
        Self {
            engine,
            runtime: Handle::current(),
            pins: Pins::new(dir.join("pins.json")),
            discards: Discards::new(dir.join("discards.json")),
            place: Place::new(dir),
            lanes,
            counters: Counters::default(),
            crew,
            hashing: tokio::sync::Mutex::new(()),
            index: Mutex::default(),
            recent: Mutex::default(),
        }
    }

    pub(super) fn disk(&self) -> &DiskPool {
        &self.engine.disk
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.engine.budget
    }

    /// Runs a task of the session's, wherever it is called.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.engine.tasks.spawn_on(task, &self.runtime);
    }

    pub(super) fn cancel(&self) -> &CancellationToken {
        &self.engine.cancel
    }

    pub(super) fn buffers(&self) -> &Arc<Buffers> {
        &self.engine.buffers
    }

    pub(super) fn download_limit(&self) -> &Limiter {
        &self.engine.download_limit
    }

    pub(super) fn read_timeout(&self) -> Duration {
        self.engine.config.read_timeout
    }

    pub(super) fn max_readahead(&self) -> u64 {
        self.engine.config.max_readahead_bytes
    }

    pub(super) fn is_offline(&self) -> bool {
        self.engine.is_offline()
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        // Whole between any two statements.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds what earlier runs left. Blocks on the disk.
    pub(super) fn scan(&self) {
        self.pins.load();
        self.discards.load();
        let found = self.place.scan();
        if found.is_empty() {
            return;
        }
        let (bytes, doubles) = self.index().fill(found, budget::recency::seconds_at);
        self.budget().add_stored(bytes);
        for (id, length) in doubles {
            if let Err(error) = self.place.remove_part(id, length) {
                tracing::debug!(%error, "part of a blob that is whole stays");
            }
        }
    }

    /// The state of a blob.
    pub(super) fn state(self: &Arc<Self>, key: Key) -> Arc<State> {
        let mut index = self.index();
        let refused = if index.is_whole_otherwise(&key) { Refused::Yes } else { Refused::No };
        index.state(key, |entry| State::new(self.clone(), key, entry, refused))
    }

    /// Keeps a state at hand after its reader is gone.
    pub(super) fn keep(&self, state: &Arc<State>) {
        let mut recent = self.recent();
        let mut gone = Vec::new();
        if let Some(known) = recent.iter().position(|(_, known)| Arc::ptr_eq(known, state)) {
            gone.extend(recent.remove(known));
        }
        if !self.cancel().is_cancelled() {
            recent.push_back((Instant::now(), state.clone()));
        }
        if recent.len() > MAX_RECENT {
            gone.extend(recent.pop_front());
        }
        drop(recent);
        // Files are closed without the lock.
        drop(gone);
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<(Instant, Arc<State>)>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- what is stored, also for the budget --------------------------------------------------------------------------

    pub(super) fn set(&self, key: Key, kind: FoundKind, stored: u64, now: u32) {
        let change = self.index().set(key, kind, stored, now);
        self.budget().change_stored(change.old, change.new);
    }

    pub(super) fn grow(&self, key: Key, by: u64, now: u32) {
        let change = self.index().grow(key, by, now);
        self.budget().change_stored(change.old, change.new);
    }

    pub(super) fn shrink(&self, key: Key, by: u64) {
        let change = self.index().shrink(key, by);
        self.budget().change_stored(change.old, change.new);
    }

    /// Returns what was stored.
    pub(super) fn unset(&self, key: &Key) -> u64 {
        let change = self.index().remove(key);
        self.budget().change_stored(change.old, change.new);
        change.old
    }

    // ---- eviction -----------------------------------------------------------------------------------------------------

    /// All that may go. Does not wait for the disk, but looks at every blob there is.
    pub(crate) fn spare(&self) -> Vec<Spare> {
        let (all, live) = {
            let index = self.index();
            (index.all(), index.all_live())
        };
        // What is in use must not stand for what could go in its place.
        let busy: HashSet<Key> =
            live.iter().filter(|state| !state.is_idle()).map(|state| state.key()).collect();
        let mut spare: Vec<Spare> = Vec::with_capacity(all.len());
        for ((id, length), entry) in all {
            if entry.stored > 0 && !busy.contains(&(id, length)) && !self.pins.contains(&id) {
                let (touched, bytes) = (entry.touched, entry.stored);
                spare.push(Spare { touched, bytes, id, length, segment: None });
            }
        }
        for state in live {
            let (id, length) = state.key();
            if !busy.contains(&(id, length)) || self.pins.contains(&id) {
                continue;
            }
            for (segment, touched, bytes) in state.spare_segments() {
                spare.push(Spare { touched, bytes, id, length, segment: Some(segment) });
            }
        }
        spare
    }

    /// Gives up what was chosen, as far as nobody uses it now. Returns how many bytes went. Blocks on the disk.
    pub(crate) fn evict(&self, chosen: &[Spare]) -> u64 {
        let mut freed = 0;
        let mut segments: Vec<(Key, Vec<u64>)> = Vec::new();
        for spare in chosen {
            if self.pins.contains(&spare.id) {
                // Since it was chosen.
                continue;
            }
            let key = (spare.id, spare.length);
            match spare.segment {
                None => freed += self.evict_blob(key),
                Some(segment) => match segments.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, all)) => all.push(segment),
                    None => segments.push((key, vec![segment])),
                },
            }
        }
        for (key, segments) in segments {
            freed += self.evict_segments(key, &segments);
        }
        freed
    }

    fn evict_blob(&self, key: Key) -> u64 {
        let live = {
            let mut index = self.index();
            index.set_going(key, Going::Begins);
            index.live(&key)
        };
        let entry = self.index().entry(&key);
        let freed = match (live, entry) {
            (Some(state), _) => match state.give_up() {
                Some((bytes, Some(part))) => self.removed(bytes, part.remove().map(|()| Removed::Yes)),
                Some((bytes, None)) => self.removed(bytes, self.remove(key, entry.map(|entry| entry.kind))),
                None => 0,
            },
            (None, Some(entry)) => {
                // Out of the index first: whoever asks for it from now on finds nothing.
                let bytes = self.unset(&key);
                self.removed(bytes, self.remove(key, Some(entry.kind)))
            }
            (None, None) => 0,
        };
        self.index().set_going(key, Going::Over);
        freed
    }

    fn remove(
        &self,
        (id, length): Key,
        kind: Option<FoundKind>,
    ) -> Result<Removed, crate::store::StoreError> {
        match kind {
            Some(FoundKind::Whole) => self.place.remove_whole(id).map(|()| Removed::Yes),
            Some(FoundKind::Partial) => self.place.remove_part(id, length),
            None => Ok(Removed::No),
        }
    }

    fn removed(&self, bytes: u64, removed: Result<Removed, crate::store::StoreError>) -> u64 {
        match removed {
            Ok(Removed::Yes) => {
                self.counters.evicted.add(1);
                bytes
            }
            Ok(Removed::No) => 0,
            Err(error) => {
                tracing::warn!(%error, "a blob cannot be given up");
                0
            }
        }
    }

    fn evict_segments(&self, key: Key, segments: &[u64]) -> u64 {
        let Some(state) = self.index().live(&key) else { return 0 };
        let Some((part, ranges)) = state.take_segments(segments) else { return 0 };
        let given_up = part.give_up(&ranges);
        state.given_up(&ranges);
        match given_up {
            Ok(()) => ranges.bytes(),
            Err(error) => {
                // They are fetched again all the same; the space is free once the blob is gone.
                tracing::warn!(%error, "parts of a blob cannot be given up");
                0
            }
        }
    }

    // ---- now and then -------------------------------------------------------------------------------------------------

    /// Lets go of what nobody used for a while, and saves when each was used; until the session closes.
    pub(super) async fn tend(self: Arc<Self>) {
        let mut ticks = 0_u32;
        loop {
            let is_closing = tokio::select! {
                biased;
                () = self.cancel().cancelled() => true,
                () = tokio::time::sleep(TICK) => false,
            };
            ticks = ticks.wrapping_add(1);
            let now = Instant::now();
            let gone: Vec<_> = {
                let mut recent = self.recent();
                // In order of time.
                let is_old = |(at, _): &(Instant, Arc<State>)| is_closing || now - *at >= RECENT_FOR;
                let old = recent.partition_point(is_old);
                recent.drain(..old).collect()
            };
            let shared = self.clone();
            let save = move || {
                drop(gone);
                shared.index().sweep();
                if is_closing || ticks.is_multiple_of(SAVE_EVERY) {
                    shared.save_uses();
                }
            };
            if self.disk().run(save).await.is_err() || is_closing {
                return;
            }
        }
    }

    fn save_uses(&self) {
        let touched = self.index().take_touched();
        let now = budget::recency::seconds_now();
        for ((id, bytes), kind, tick) in touched {
            let at = budget::recency::time_at(self.budget().seconds_of(tick, now));
            self.place.save_use(id, bytes, kind, at);
        }
    }

    /// Counters and sums.
    pub(super) fn status(&self) -> BlobsStatus {
        let (sums, live) = {
            let index = self.index();
            (index.sums(), index.all_live())
        };
        let counters = &self.counters;
        BlobsStatus {
            whole: sums.whole,
            whole_bytes: sums.whole_bytes,
            partial: sums.partial,
            partial_bytes: sums.partial_bytes,
            fills: live.iter().filter(|state| state.fill_status().is_some()).count() as u64,
            requests: counters.requests.total(),
            origin_bytes: counters.origin_bytes.total(),
            read_bytes: counters.read_bytes.total(),
            hit_bytes: counters.hit_bytes.total(),
            origin_errors: counters.origin_errors.total(),
            corrupt: counters.corrupt.total(),
            evicted: counters.evicted.total(),
        }
    }
}
