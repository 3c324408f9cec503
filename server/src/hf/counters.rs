//! What the proxy served and what that cost upstream, counted. Counting waits for nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use wtfs_torrent::hf::UpstreamCounters;

/// The counters themselves.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Files sent, or parts of them, from the cache.
    pub(crate) warm: AtomicU64,
    /// The same while they were fetched.
    pub(crate) cold: AtomicU64,
    /// Bytes of either, as far as they were asked for.
    pub(crate) warm_bytes: AtomicU64,
    pub(crate) cold_bytes: AtomicU64,
    /// Answers made of what may be out of date, because upstream was away.
    pub(crate) stale: AtomicU64,
    /// Requests that were refused, for whatever reason.
    pub(crate) refused: AtomicU64,
}

/// A look at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HfCounters {
    pub(crate) warm: u64,
    pub(crate) cold: u64,
    pub(crate) warm_bytes: u64,
    pub(crate) cold_bytes: u64,
    pub(crate) stale: u64,
    pub(crate) refused: u64,
    /// Trees of revisions in memory.
    pub(crate) trees: usize,
    pub(crate) upstream: UpstreamCounters,
}

impl Counters {
    pub(crate) fn read(&self, upstream: UpstreamCounters, trees: usize) -> HfCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HfCounters {
            warm: read(&self.warm),
            cold: read(&self.cold),
            warm_bytes: read(&self.warm_bytes),
            cold_bytes: read(&self.cold_bytes),
            stale: read(&self.stale),
            refused: read(&self.refused),
            trees,
            upstream,
        }
    }
}

/// Adds to one of them.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
