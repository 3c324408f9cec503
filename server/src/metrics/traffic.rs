//! What passes through the hub's routes: requests, bytes and times, by the part of the hub they are for.
//!
//! Owns the counters; the layer in [`access_log`](crate::access_log) adds to them. Counting waits for nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// A part of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Area {
    /// Bytes of files.
    WebSeed,
    /// Announces and scrapes over HTTP, and upgrades to web sockets.
    Tracker,
    /// Lists, `.torrent` files and magnet links.
    Torrents,
    /// Repositories of Hugging Face, and their files.
    HuggingFace,
    /// The dashboard and what it asks for, metrics, health.
    Operations,
    /// What leads nowhere.
    Other,
}

impl Area {
    pub(crate) const ALL: [Self; 6] =
        [Self::WebSeed, Self::Tracker, Self::Torrents, Self::HuggingFace, Self::Operations, Self::Other];

    /// The part that a path belongs to.
    pub(crate) fn of(path: &str) -> Self {
        let mut words = path.split('/').skip(1);
        let (first, second) = (words.next().unwrap_or_default(), words.next());
        match first {
            "seed" | "files" => Self::WebSeed,
            "announce" | "scrape" => Self::Tracker,
            "torrent" | "torrents" | "magnet" | "model" => Self::Torrents,
            "hf" if matches!(second, Some("torrent" | "magnet" | "model")) => Self::Torrents,
            "" | "assets" | "browser" | "stats" | "metrics" | "healthz" | "readyz" | "hf-stats" => {
                Self::Operations
            }
            "hf" | "api" => Self::HuggingFace,
            _ if matches!(second, Some("announce" | "scrape")) => Self::Tracker,
            // At the root: behind an owner and a name, or a name alone, perhaps of a data set.
            _ if path.split('/').take(5).any(|word| matches!(word, "resolve" | "raw")) => Self::HuggingFace,
            _ => Self::Other,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::WebSeed => "web_seed",
            Self::Tracker => "tracker",
            Self::Torrents => "torrents",
            Self::HuggingFace => "hugging_face",
            Self::Operations => "operations",
            Self::Other => "other",
        }
    }
}

/// Bounds of the buckets of durations, in milliseconds. A last one has none.
pub(crate) const BOUNDS_MS: [u64; 9] = [1, 5, 20, 100, 500, 2_000, 10_000, 60_000, 600_000];

/// Status codes by their first digit; the first place is for those that have another.
const CLASSES: usize = 6;

/// The words of [`CLASSES`].
pub(crate) const CLASS_NAMES: [&str; CLASSES] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

#[derive(Debug, Default)]
struct Counts {
    requests: [AtomicU64; CLASSES],
    sent_bytes: AtomicU64,
    cut: AtomicU64,
    took: [AtomicU64; BOUNDS_MS.len() + 1],
    took_us: AtomicU64,
}

/// All counters.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    areas: [Counts; Area::ALL.len()],
    under_way: AtomicU64,
}

/// One response, once it is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finished {
    pub(crate) area: Area,
    pub(crate) status: u16,
    pub(crate) sent_bytes: u64,
    pub(crate) ending: Ending,
    pub(crate) took: Duration,
}

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Whole,
    /// The client went, or the file did.
    Cut,
}

impl Traffic {
    pub(crate) fn begin(&self) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn finish(&self, finished: &Finished) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        let counts = &self.areas[finished.area as usize];
        let class = usize::from(finished.status / 100);
        counts.requests[if class < CLASSES { class } else { 0 }].fetch_add(1, Ordering::Relaxed);
        counts.sent_bytes.fetch_add(finished.sent_bytes, Ordering::Relaxed);
        if finished.ending == Ending::Cut {
            counts.cut.fetch_add(1, Ordering::Relaxed);
        }
        let ms = u64::try_from(finished.took.as_millis()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MS.iter().position(|bound| ms <= *bound).unwrap_or(BOUNDS_MS.len());
        counts.took[bucket].fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(finished.took.as_micros()).unwrap_or(u64::MAX);
        counts.took_us.fetch_add(us, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> TrafficStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let areas = Area::ALL.map(|area| {
            let counts = &self.areas[area as usize];
            AreaStats {
                area: area.name(),
                requests: counts.requests.each_ref().map(load),
                sent_bytes: load(&counts.sent_bytes),
                cut: load(&counts.cut),
                took: counts.took.each_ref().map(load),
                took_us: load(&counts.took_us),
            }
        });
        TrafficStats { under_way: load(&self.under_way), areas }
    }
}

/// A snapshot of [`Traffic`].
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TrafficStats {
    /// Requests whose response is not over.
    pub(crate) under_way: u64,
    pub(crate) areas: [AreaStats; Area::ALL.len()],
}

/// One part's numbers since the start.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AreaStats {
    pub(crate) area: &'static str,
    /// By the first digit of the status, see [`CLASS_NAMES`].
    pub(crate) requests: [u64; CLASSES],
    /// Of bodies.
    pub(crate) sent_bytes: u64,
    /// Responses that ended too early.
    pub(crate) cut: u64,
    #[serde(skip)]
    pub(crate) took: [u64; BOUNDS_MS.len() + 1],
    #[serde(skip)]
    pub(crate) took_us: u64,
}

impl TrafficStats {
    pub(crate) fn requests(&self) -> u64 {
        self.areas.iter().flat_map(|area| area.requests).sum()
    }

    pub(crate) fn web_seed_bytes(&self) -> u64 {
        self.areas[Area::WebSeed as usize].sent_bytes
    }

    pub(crate) fn hugging_face_bytes(&self) -> u64 {
        self.areas[Area::HuggingFace as usize].sent_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_belongs_to_one_part() {
        for (path, area) in [
            ("/", Area::Operations),
            ("/stats/stream", Area::Operations),
            ("/assets/dashboard.js", Area::Operations),
            ("/seed/aa/b", Area::WebSeed),
            ("/files/a", Area::WebSeed),
            ("/announce", Area::Tracker),
            ("/announce/word", Area::Tracker),
            ("/word/scrape", Area::Tracker),
            ("/torrent/x", Area::Torrents),
            ("/model/a/b", Area::Torrents),
            ("/hf/torrent/a/b", Area::Torrents),
            ("/hf/a/b/resolve/main/c", Area::HuggingFace),
            ("/a/b/resolve/main/c", Area::HuggingFace),
            ("/api/models", Area::HuggingFace),
            ("/hf-stats", Area::Operations),
            ("/seeds", Area::Other),
            ("", Area::Operations),
        ] {
            assert_eq!(Area::of(path), area, "{path}");
        }
        assert!(Area::ALL.iter().enumerate().all(|(at, area)| *area as usize == at));
    }

    #[test]
    fn responses_are_counted_by_part_class_and_time() {
        let traffic = Traffic::default();
        let one = |status, sent_bytes, ending, ms| {
            traffic.begin();
            let took = Duration::from_millis(ms);
            traffic.finish(&Finished { area: Area::WebSeed, status, sent_bytes, ending, took });
        };
        one(206, 100, Ending::Whole, 1);
        one(206, 50, Ending::Cut, 6);
        one(404, 5, Ending::Whole, 3_600_000);
        one(999, 0, Ending::Whole, 0);
        let seen = traffic.snapshot();
        let seeds = &seen.areas[Area::WebSeed as usize];
        assert_eq!(seeds.requests, [1, 0, 2, 0, 1, 0]);
        assert_eq!((seeds.sent_bytes, seeds.cut, seen.under_way), (155, 1, 0));
        assert_eq!(seeds.took, [2, 0, 1, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!((seen.requests(), seen.web_seed_bytes()), (4, 155));
    }
}
