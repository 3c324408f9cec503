//! How long reads took, by what answered them: histograms that any thread may add to without a lock.
//!
//! One for the session. A read costs two relaxed additions and never an allocation, so that the counting is cheaper than
//! the clock it needs. Reads that the kernel answers by itself (from its page cache, or passed through) are not seen
//! here. Buckets double from [`FIRST_BOUND_US`] on: a quantile is right to within a factor of two.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::ReadError;
use crate::status::Counter;

/// The first bucket holds what took no longer.
const FIRST_BOUND_US: u64 = 4;

/// The last bucket but one ends at 134 s; the last holds what took longer.
const BUCKETS: usize = 27;

/// What answered a read that was not answered at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// The store, after a turn on the disk pool.
    Disk,
    /// Sources, which had to be waited for.
    Sources,
}

/// Durations, by powers of two.
#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Histogram {
    fn add(&self, took: Duration) {
        self.buckets[bucket_of(took)].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    fn status(&self) -> LatencyStatus {
        let counts = self.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed));
        let quantile = |share| quantile(&counts, share);
        LatencyStatus {
            count: counts.iter().sum(),
            sum_us: self.sum_ns.load(Ordering::Relaxed) / 1000,
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            buckets: (0..BUCKETS)
                .map(|at| LatencyBucket { up_to_us: bound_us(at), count: counts[at] })
                .collect(),
        }
    }
}

/// Upper bound of a bucket; `None` for the last.
fn bound_us(bucket: usize) -> Option<u64> {
    (bucket + 1 < BUCKETS).then(|| FIRST_BOUND_US << bucket)
}

fn bucket_of(took: Duration) -> usize {
    let us = u64::try_from(took.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
    let doublings = us.div_ceil(FIRST_BOUND_US).max(1).checked_next_power_of_two();
    doublings.map_or(BUCKETS - 1, |doublings| (doublings.trailing_zeros() as usize).min(BUCKETS - 1))
}

/// The upper bound of the bucket that the quantile falls in; of the last, its lower one.
fn quantile(counts: &[u64; BUCKETS], share: f64) -> Option<u64> {
    let total: u64 = counts.iter().sum();
    let rank = (total as f64 * share).ceil() as u64;
    let mut seen = 0;
    let at = counts.iter().position(|count| {
        seen += count;
        seen >= rank.max(1)
    })?;
    bound_us(at).or_else(|| bound_us(BUCKETS - 2))
}

/// How the reads of a session went.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    at_once: Histogram,
    disk: Histogram,
    sources: Histogram,
    timed_out: Counter,
    offline: Counter,
    no_space: Counter,
    store: Counter,
    closed: Counter,
    withdrawn: Counter,
}

/// A read under way. Dropped before it ends, it counts as withdrawn.
#[derive(Debug)]
pub(crate) struct ReadTimer<'a> {
    reads: &'a Reads,
    since: Instant,
    is_ended: bool,
}

impl Reads {
    /// A read begins.
    pub(crate) fn begin(&self) -> ReadTimer<'_> {
        ReadTimer { reads: self, since: Instant::now(), is_ended: false }
    }

    /// A read that was tried and needed no more began at `since` and ends now.
    pub(crate) fn add_at_once(&self, since: Instant) {
        self.at_once.add(since.elapsed());
    }

    /// For people.
    pub(crate) fn status(&self) -> ReadsStatus {
        ReadsStatus {
            at_once: self.at_once.status(),
            disk: self.disk.status(),
            sources: self.sources.status(),
            failed: FailedReads {
                timed_out: self.timed_out.total(),
                offline: self.offline.total(),
                no_space: self.no_space.total(),
                store: self.store.total(),
                closed: self.closed.total(),
            },
            withdrawn: self.withdrawn.total(),
        }
    }
}

impl ReadTimer<'_> {
    /// It ends, answered as it is if it has bytes.
    pub(crate) fn end<T>(mut self, answered: Answered, result: &Result<T, ReadError>) {
        self.is_ended = true;
        let reads = self.reads;
        match (result, answered) {
            (Ok(_), Answered::Disk) => reads.disk.add(self.since.elapsed()),
            (Ok(_), Answered::Sources) => reads.sources.add(self.since.elapsed()),
            (Err(ReadError::Timeout { .. }), _) => reads.timed_out.add(1),
            (Err(ReadError::Offline { .. }), _) => reads.offline.add(1),
            (Err(ReadError::NoSpace), _) => reads.no_space.add(1),
            (Err(ReadError::Store(_)), _) => reads.store.add(1),
            (Err(ReadError::Closed), _) => reads.closed.add(1),
        }
    }
}

impl Drop for ReadTimer<'_> {
    fn drop(&mut self) {
        if !self.is_ended {
            self.reads.withdrawn.add(1);
        }
    }
}

/// How the reads of a session went. Those that the kernel answered without asking are not among them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadsStatus {
    /// Answered from memory, without waiting for anything.
    pub at_once: LatencyStatus,
    /// Answered by the disk: the pieces were there.
    pub disk: LatencyStatus,
    /// Answered by sources: something had to be fetched.
    pub sources: LatencyStatus,
    /// Not answered.
    pub failed: FailedReads,
    /// Given up by the reader: interrupted, or its process ended.
    pub withdrawn: u64,
}

/// Reads that ended without data, by the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FailedReads {
    /// Nothing moved for the read time-out.
    pub timed_out: u64,
    /// Something was missing, and there is no network.
    pub offline: u64,
    /// What was fetched could not be kept.
    pub no_space: u64,
    /// The disk failed.
    pub store: u64,
    /// The torrent was removed, or the session ended.
    pub closed: u64,
}

impl FailedReads {
    /// Each reason by its name.
    pub fn by_reason(&self) -> [(&'static str, u64); 5] {
        [
            ("timed_out", self.timed_out),
            ("offline", self.offline),
            ("no_space", self.no_space),
            ("store", self.store),
            ("closed", self.closed),
        ]
    }
}

/// How long reads took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LatencyStatus {
    /// How many there were.
    pub count: u64,
    /// All their times together, in microseconds.
    pub sum_us: u64,
    /// Half of them took no longer, in microseconds, to within a factor of two; `None` without any.
    pub p50_us: Option<u64>,
    /// Nine in ten took no longer.
    pub p90_us: Option<u64>,
    /// Ninety-nine in a hundred took no longer.
    pub p99_us: Option<u64>,
    /// All buckets, in order; none counts what an earlier one does.
    pub buckets: Vec<LatencyBucket>,
}

/// Reads that took longer than the bucket before says, and no longer than this one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LatencyBucket {
    /// In microseconds; `None` is without a bound.
    pub up_to_us: Option<u64>,
    /// How many there were.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_falls_into_the_bucket_that_bounds_it() {
        for (us, bucket) in [(0, 0), (1, 0), (4, 0), (5, 1), (8, 1), (9, 2), (16, 2), (1 << 20, 18)] {
            assert_eq!(bucket_of(Duration::from_micros(us)), bucket, "{us} us");
        }
        assert_eq!(bucket_of(Duration::from_nanos(4_001)), 1);
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
        let last = bound_us(BUCKETS - 2).expect("bounded");
        assert_eq!(bucket_of(Duration::from_micros(last)), BUCKETS - 2);
        assert_eq!(bucket_of(Duration::from_micros(last + 1)), BUCKETS - 1);
        assert_eq!(bound_us(BUCKETS - 1), None);
    }

    #[test]
    fn quantiles_are_those_of_what_was_added() {
        let histogram = Histogram::default();
        assert_eq!(histogram.status().p50_us, None);
        for _ in 0..98 {
            histogram.add(Duration::from_micros(100));
        }
        histogram.add(Duration::from_millis(60));
        histogram.add(Duration::from_secs(1000));
        let status = histogram.status();
        assert_eq!((status.count, status.sum_us), (100, 98 * 100 + 60_000 + 1_000_000_000));
        assert_eq!((status.p50_us, status.p90_us, status.p99_us), (Some(128), Some(128), Some(65_536)));
        assert_eq!(status.buckets.iter().map(|bucket| bucket.count).sum::<u64>(), 100);
        assert_eq!(status.buckets.last().expect("the last").count, 1);
    }

    #[test]
    fn every_read_that_begins_is_counted_once_however_it_ends() {
        let reads = Reads::default();
        reads.begin().end(Answered::Disk, &Ok(()));
        reads.begin().end(Answered::Sources, &Ok(()));
        reads.begin().end(Answered::Sources, &Err::<(), _>(ReadError::NoSpace));
        reads.begin().end(Answered::Sources, &Err::<(), _>(ReadError::Offline { piece: 1 }));
        drop(reads.begin());
        reads.add_at_once(Instant::now());
        let status = reads.status();
        assert_eq!((status.at_once.count, status.disk.count, status.sources.count), (1, 1, 1));
        assert_eq!((status.failed.no_space, status.failed.offline, status.withdrawn), (1, 1, 1));
        assert_eq!(status.failed.by_reason().iter().map(|(_, count)| count).sum::<u64>(), 2);
    }

    #[test]
    fn threads_add_without_losing_any() {
        let reads = Reads::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| reads.add_at_once(Instant::now())));
            }
        });
        assert_eq!(reads.status().at_once.count, 4000);
    }
}
