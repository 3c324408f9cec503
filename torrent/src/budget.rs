//! One disk budget over all torrents that are kept in the cache.
//!
//! [`Budget`] is what all torrents share: how many bytes the cache may hold, how many it holds, and the clock by which
//! pieces age. [`ledger`] is a torrent's part: who uses which piece now and when each was used last. [`victims`] chooses
//! what was used longest ago over all torrents and blobs (`hf/blobs`), [`evictor`] is the task that does so when the budget runs out, and the
//! torrents' tasks give the pieces up (`swarm_task/eviction`). [`recency`] keeps the ages over
//! restarts. [`dormant`] is what torrents left that
//! the session does not have, which goes first. [`pins`] are the files that always stay. Torrents in a
//! directory of the user's or in memory have no part in any of this.
//!
//! Three marks order what happens, from the bottom: below `low` the cache fills by itself; above `high` the evictor
//! frees down to `low`; at `most` nothing new is begun until it did. Only when it finds nothing to free, because all is
//! in use or pinned, reads that wait may overdraw the budget, a gap at a time: by the pieces they hold and a gap at
//! most. The gap between `high` and `most` is what arrives while the evictor works.
//!
//! Why no read sees a hole: a reader counts itself in at its pieces and *then* looks whether they are present; whoever
//! evicts takes the pieces out of the present map and *then* looks whether anybody is counted in, and puts those back.
//! A full fence stands between the two steps on both sides, so that one of the two always sees the other. A reader
//! stays counted in until its bytes are copied, also while it waits for the piece to be fetched; so nothing needs to be
//! checked or read again afterwards, and what is being read or waited for is never evicted.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use tokio::sync::{Notify, mpsc, oneshot};

use self::dormant::Dormant;
use crate::config::SessionConfig;
use crate::hf::blobs::shared::Shared as SharedBlobs;
use crate::status::{CacheStatus, Counter};

pub(crate) mod dormant;
pub(crate) mod evictor;
pub(crate) mod ledger;
pub(crate) mod pins;
pub(crate) mod recency;
mod victims;

/// The marks lie this fraction of the budget apart.
const GAP_FRACTION: u64 = 16;

/// The marks lie at most this far apart: some seconds of a fast network.
const LONGEST_GAP: u64 = 256 << 20;

/// What is kept free is at most this fraction of the disk: a small one is not to be unusable.
const RESERVE_FRACTION: u64 = 4;

/// A disk with this much free takes what is verified at the moment, whoever else writes to it.
const DISK_TO_SPARE: u64 = 64 << 20;

/// The clock of a run begins here; below are the seconds of earlier runs, see [`recency`].
const FIRST_TICK: u32 = 1 << 31;

/// Requests for space that may wait. Whoever finds the queue full is told that there is none.
const RELIEF_QUEUE: usize = 64;

/// A disk that is full: frees at least so many bytes and says how many it was.
#[derive(Debug)]
pub(crate) struct Relief {
    bytes: u64,
    reply: oneshot::Sender<u64>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Budget {
    cache_dir: PathBuf,
    /// From the configuration; `u64::MAX` is none.
    cache_bytes: u64,
    min_free_bytes: u64,
    /// What the cache may hold, as of the last look at the disk.
    most: AtomicU64,
    /// What the disk had free then; `u64::MAX` before.
    free: AtomicU64,
    /// What was stored then.
    stored_then: AtomicU64,
    /// How far reads may overdraw it, since nothing could be freed; counts while it is above `most`.
    overdraft: AtomicU64,
    stored: AtomicU64,
    pub(crate) dormant: Dormant,
    in_flight: AtomicU64,
    peak: AtomicU64,
    pub(crate) evicted: Counter,
    /// Counts stored pieces. Pieces used between two of these are equally old.
    tick: AtomicU32,
    /// In the seconds of [`recency`].
    started_at: u32,
    wake: Notify,
    relief: mpsc::Sender<Relief>,
    /// The other ones who keep something in the cache; they have the session, which has this.
    blobs: OnceLock<Weak<SharedBlobs>>,
}

/// What may be fetched now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Room {
    /// Nothing new: the evictor is at work.
    Nothing,
    /// What reads wait for.
    ReadsOnly,
    /// What somebody asked for or is expected to read: older pieces make place.
    Demands,
    /// Anything.
    Everything,
}

/// See the module's documentation.
#[derive(Debug, Clone, Copy)]
struct Marks {
    low: u64,
    high: u64,
    most: u64,
}

impl Marks {
    fn of(most: u64) -> Self {
        let gap = (most / GAP_FRACTION).min(LONGEST_GAP);
        Self { low: most - 2 * gap, high: most - gap, most }
    }

    /// Bytes to free; 0 below the high mark. At the mark and not above it: the marks of a budget of a few bytes, or none,
    /// fall together.
    fn excess(self, used: u64) -> u64 {
        if used >= self.high { (used - self.low).max(1) } else { 0 }
    }
}

impl Budget {
    /// A budget, and the requests for space that [`evictor`] serves.
    pub(crate) fn new(config: &SessionConfig) -> (Arc<Self>, mpsc::Receiver<Relief>) {
        let (relief, requests) = mpsc::channel(RELIEF_QUEUE);
        let cache_bytes = config.cache_bytes.unwrap_or(u64::MAX);
        let budget = Self {
            cache_dir: config.cache_dir.clone(),
            cache_bytes,
            min_free_bytes: config.min_free_bytes,
            most: AtomicU64::new(cache_bytes),
            free: AtomicU64::new(u64::MAX),
            stored_then: AtomicU64::new(0),
            overdraft: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            dormant: Dormant::new(config.cache_dir.clone()),
            in_flight: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            evicted: Counter::default(),
            tick: AtomicU32::new(FIRST_TICK),
            started_at: recency::seconds_now(),
            wake: Notify::new(),
            relief,
            blobs: OnceLock::new(),
        };
        (Arc::new(budget), requests)
    }

    /// The session's blobs, which count and are given up as pieces are.
    pub(crate) fn set_blobs(&self, blobs: &Arc<SharedBlobs>) {
        // Once a session.
        let _again = self.blobs.set(Arc::downgrade(blobs));
    }

    fn blobs(&self) -> Option<Arc<SharedBlobs>> {
        self.blobs.get().and_then(Weak::upgrade)
    }

    /// Looks how much the disk has free. Blocks on it.
    pub(crate) fn measure(&self) {
        if self.min_free_bytes == 0 {
            return;
        }
        match rustix::fs::statvfs(&self.cache_dir) {
            Ok(disk) => {
                let free = disk.f_bavail.saturating_mul(disk.f_frsize);
                let reserve =
                    self.min_free_bytes.min(disk.f_blocks.saturating_mul(disk.f_frsize) / RESERVE_FRACTION);
                self.set_free(free, reserve);
            }
            Err(error) => tracing::warn!(%error, "the free space of the cache's disk cannot be measured"),
        }
    }

    fn set_free(&self, free: u64, reserve: u64) {
        self.free.store(free, Ordering::Relaxed);
        self.stored_then.store(self.stored(), Ordering::Relaxed);
        let by_disk = self.stored().saturating_add(free).saturating_sub(reserve);
        self.most.store(by_disk.min(self.cache_bytes), Ordering::Relaxed);
    }

    fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// What the cache may hold in all, as of the last look at the disk.
    pub(crate) fn limit(&self) -> u64 {
        self.most()
    }

    /// The marks as of one moment: a look at the disk may move them at any.
    fn marks(&self) -> Marks {
        Marks::of(self.most())
    }

    /// Bytes of present pieces of the cache's torrents and of blobs, and what torrents left there that the session does
    /// not have.
    pub(crate) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed).saturating_add(self.dormant.bytes())
    }

    /// Bytes of present pieces and of those on their way.
    fn used(&self) -> u64 {
        self.stored().saturating_add(self.in_flight.load(Ordering::Relaxed))
    }

    /// Bytes to free now; 0 below the high mark.
    fn excess(&self) -> u64 {
        self.marks().excess(self.used())
    }

    /// Whether the disk is so far from full, as far as is known, that what is verified now will find room on it.
    fn has_disk_to_spare(&self) -> bool {
        let stored_since = self.stored().saturating_sub(self.stored_then.load(Ordering::Relaxed));
        let taken = stored_since.saturating_add(self.in_flight.load(Ordering::Relaxed));
        self.free.load(Ordering::Relaxed).saturating_sub(taken) >= DISK_TO_SPARE
    }

    /// What may be fetched now. When it is nothing, the evictor is woken.
    pub(crate) fn room(&self) -> Room {
        let (used, marks) = (self.used(), self.marks());
        if used < marks.low {
            Room::Everything
        } else if used < marks.most {
            Room::Demands
        } else if used < self.overdraft.load(Ordering::Relaxed) {
            Room::ReadsOnly
        } else {
            self.wake.notify_one();
            Room::Nothing
        }
    }

    /// The evictor did what it could. If that was nothing, reads may go on all the same.
    fn handle_round(&self, freed: u64) {
        let used = self.used();
        let marks = self.marks();
        let is_stuck = freed == 0 && used >= marks.most;
        let overdraft = if is_stuck { used.saturating_add((marks.most - marks.high).max(1)) } else { 0 };
        self.overdraft.store(overdraft, Ordering::Relaxed);
    }

    /// What a torrent that has `own` bytes on their way may have on their way in all.
    fn room_in_flight(&self, own: u64) -> u64 {
        let most = self.most().max(self.overdraft.load(Ordering::Relaxed));
        most.saturating_sub(self.used().saturating_sub(own))
    }

    /// The age of what is used now.
    pub(crate) fn now(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    /// The seconds that a tick of this run is taken for: its ticks are spread evenly over its time, which keeps their
    /// order as far as seconds can.
    pub(crate) fn seconds_of(&self, tick: u32, now: u32) -> u32 {
        let elapsed = u64::from(now.saturating_sub(self.started_at));
        let ticks = u64::from((self.now() - FIRST_TICK).max(1));
        let share = elapsed * u64::from(tick.saturating_sub(FIRST_TICK)) / ticks;
        self.started_at.saturating_add(u32::try_from(share).unwrap_or(u32::MAX)).min(FIRST_TICK - 1)
    }

    /// Something that is no piece takes up more or less than before.
    pub(crate) fn change_stored(&self, old: u64, new: u64) {
        if new > old {
            self.add_stored(new - old);
        } else {
            self.remove_stored(old - new);
        }
    }

    pub(crate) fn add_stored(&self, bytes: u64) {
        let stored = self.stored.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(stored, Ordering::Relaxed);
        // At the end of its numbers time stands still: what comes then is all equally old.
        let _ended = self.tick.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tick| tick.checked_add(1));
        self.wake_if_full();
    }

    fn remove_stored(&self, bytes: u64) {
        self.stored.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn move_in_flight(&self, old: u64, new: u64) {
        if new >= old {
            self.in_flight.fetch_add(new - old, Ordering::Relaxed);
            self.wake_if_full();
        } else {
            self.in_flight.fetch_sub(old - new, Ordering::Relaxed);
        }
    }

    fn wake_if_full(&self) {
        if self.excess() > 0 {
            self.wake.notify_one();
        }
    }

    /// The disk is full: asks for space. The answer is the number of bytes that were freed; 0 when none could be.
    ///
    /// # Cancel safety
    /// Cancel safe; what is being freed is freed.
    pub(crate) async fn relieve(&self, bytes: u64) -> u64 {
        let (reply, answer) = oneshot::channel();
        if self.relief.try_send(Relief { bytes, reply }).is_err() {
            return 0;
        }
        // An error: the session is closing.
        answer.await.unwrap_or(0)
    }

    /// For people.
    pub(crate) fn status(&self) -> CacheStatus {
        let (most, free) = (self.most(), self.free.load(Ordering::Relaxed));
        CacheStatus {
            limit_bytes: (most != u64::MAX).then_some(most),
            used_bytes: self.stored(),
            peak_bytes: self.peak.load(Ordering::Relaxed),
            evicted_bytes: self.evicted.total(),
            disk_free_bytes: (free != u64::MAX).then_some(free),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod engine_tests;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod model_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(cache_bytes: Option<u64>) -> Arc<Budget> {
        let config =
            SessionConfig { cache_bytes, min_free_bytes: 0, ..SessionConfig::new(PathBuf::from("/")) };
        Budget::new(&config).0
    }

    #[test]
    fn what_may_be_fetched_shrinks_from_mark_to_mark() {
        let b = budget(Some(1600));
        assert_eq!((b.marks().low, b.marks().high), (1400, 1500));
        assert_eq!(b.room(), Room::Everything);
        b.add_stored(1399);
        assert_eq!(b.room(), Room::Everything);
        b.move_in_flight(0, 100);
        assert_eq!((b.room(), b.excess()), (Room::Demands, 0));
        b.add_stored(1);
        assert_eq!((b.room(), b.excess()), (Room::Demands, 100));
        b.add_stored(100);
        assert_eq!((b.room(), b.excess()), (Room::Nothing, 200));
        assert_eq!((b.room_in_flight(100), b.room_in_flight(0)), (100, 0));
        b.handle_round(1);
        assert_eq!(b.room(), Room::Nothing);
        b.handle_round(0);
        assert_eq!((b.room(), b.room_in_flight(100)), (Room::ReadsOnly, 200));
        b.move_in_flight(100, 200);
        assert_eq!(b.room(), Room::Nothing);
        b.handle_round(0);
        assert_eq!(b.room(), Room::ReadsOnly);
        b.move_in_flight(200, 100);
        b.remove_stored(1500);
        b.move_in_flight(100, 0);
        assert_eq!((b.used(), b.room()), (0, Room::Everything));
        assert_eq!(b.status().peak_bytes, 1500);
    }

    #[test]
    fn the_clock_stops_at_the_end_of_its_numbers() {
        let b = budget(Some(1600));
        b.tick.store(u32::MAX - 1, Ordering::Relaxed);
        b.add_stored(1);
        b.add_stored(1);
        assert_eq!(b.now(), u32::MAX);
        assert!(b.seconds_of(FIRST_TICK, b.started_at + 10) <= b.seconds_of(b.now(), b.started_at + 10));
    }

    #[test]
    fn without_a_limit_everything_may_be_fetched() {
        let b = budget(None);
        b.add_stored(1 << 60);
        assert_eq!((b.room(), b.excess()), (Room::Everything, 0));
        assert_eq!(b.status().limit_bytes, None);
    }

    #[test]
    fn what_the_disk_has_free_bounds_the_cache_too() {
        let b = budget(Some(10_000));
        b.add_stored(1_000);
        b.set_free(500, 100);
        assert_eq!(b.most(), 1_400);
        b.set_free(50, 100);
        assert_eq!(b.most(), 950);
        assert!(b.excess() > 50);
        b.set_free(50_000, 100);
        assert_eq!(b.most(), 10_000);
        b.set_free(0, u64::MAX);
        assert_eq!((b.most(), b.room()), (0, Room::Nothing));
        b.remove_stored(1_000);
        assert_eq!(b.excess(), 1, "also a cache of nothing asks before reads may overdraw it");
        b.handle_round(0);
        assert_eq!(b.room(), Room::ReadsOnly);
    }

    #[test]
    fn a_disk_runs_out_of_spare_room_between_two_looks() {
        let b = budget(None);
        b.add_stored(1 << 40);
        assert!(b.has_disk_to_spare(), "nothing is known of the disk");
        b.set_free(DISK_TO_SPARE + 100, 0);
        assert!(b.has_disk_to_spare());
        b.add_stored(60);
        b.move_in_flight(0, 40);
        assert!(b.has_disk_to_spare());
        b.add_stored(1);
        assert!(!b.has_disk_to_spare());
        b.set_free(DISK_TO_SPARE + 40, 0);
        assert!(b.has_disk_to_spare());
        b.set_free(1, 0);
        assert!(!b.has_disk_to_spare());
    }

    #[test]
    fn the_free_space_of_a_real_disk_is_measured() {
        let dir = tempfile::tempdir().expect("dir");
        let mut config = SessionConfig::new(dir.path().to_owned());
        (config.cache_bytes, config.min_free_bytes) = (None, 1);
        let (budget, _requests) = Budget::new(&config);
        budget.measure();
        assert!(budget.status().limit_bytes.is_some_and(|bytes| bytes > 0));
        assert!(budget.status().disk_free_bytes.is_some_and(|bytes| bytes > 0));
    }
}
