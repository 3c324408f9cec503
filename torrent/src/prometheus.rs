//! Numbers as Prometheus reads them: its text format, version 0.0.4, and the numbers of a session in it.
//!
//! Owns the names `wtfs_torrent_*`, `wtfs_cache_*`, `wtfs_read*` and `wtfs_blob*`, which docs/metrics.md lists. Names carry their unit;
//! info hashes are labels, names of torrents are not: they are strangers' words.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use crate::hf::blobs::BlobsStatus;
use crate::latency::LatencyStatus;
use crate::status::{SessionStatus, TorrentStatus};

/// What the format is called in `Content-Type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Most torrents that are told one by one, each in some fifty lines; of more their sums are told.
const EACH_MAX: usize = 1000;

/// What a number does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It counts what lies below each of some bounds.
    Histogram,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A text in the making. Labels' values must need no escaping: they are words of ours and hexadecimal digits.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The text so far.
    pub fn into_text(self) -> String {
        self.0
    }

    /// Begins a family of numbers; `help` is a sentence without its full stop.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = kind.word();
        // Writing to a String does not fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {help}.\n# TYPE {name} {kind}");
    }

    /// One number of a family that was begun.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, word)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{word}\"");
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    /// A family of one number.
    pub fn one(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// One histogram of a family: how many lie below each bound and above the one before (`None` is no bound), and the
    /// sum of all.
    pub fn histogram(
        &mut self,
        name: &str,
        label: (&str, &str),
        buckets: impl IntoIterator<Item = (Option<f64>, u64)>,
        sum: f64,
    ) {
        let (bucket, mut below) = (format!("{name}_bucket"), 0);
        for (bound, count) in buckets {
            // A bucket counts what is below it too.
            below += count;
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| bound.to_string());
            self.sample(&bucket, &[label, ("le", &bound)], below);
        }
        self.sample(&format!("{name}_sum"), &[label], sum);
        self.sample(&format!("{name}_count"), &[label], below);
    }

    /// All numbers of a session and its torrents.
    pub fn session(&mut self, status: &SessionStatus) {
        use Kind::{Counter, Gauge};
        self.one("wtfs_torrents", Gauge, "Torrents of this process", status.torrents.len());
        let cache = &status.cache;
        self.one("wtfs_cache_used_bytes", Gauge, "Data kept in the cache", cache.used_bytes);
        self.one(
            "wtfs_cache_evicted_bytes_total",
            Counter,
            "Data given up to make room",
            cache.evicted_bytes,
        );
        if let Some(limit) = cache.limit_bytes {
            self.one("wtfs_cache_limit_bytes", Gauge, "Data the cache may hold now", limit);
        }
        if let Some(free) = cache.disk_free_bytes {
            self.one("wtfs_cache_disk_free_bytes", Gauge, "Free space of the cache's disk", free);
        }
        let reads = &status.reads;
        self.one("wtfs_reads_withdrawn_total", Counter, "Reads given up by the reader", reads.withdrawn);
        self.family("wtfs_read_seconds", Kind::Histogram, "How long reads took, by what answered them");
        for (answered, latency) in
            [("at_once", &reads.at_once), ("disk", &reads.disk), ("sources", &reads.sources)]
        {
            self.latency("wtfs_read_seconds", answered, latency);
        }
        self.family("wtfs_reads_failed_total", Counter, "Reads that ended without data");
        for (reason, count) in reads.failed.by_reason() {
            self.sample("wtfs_reads_failed_total", &[("reason", reason)], count);
        }
        if status.torrents.len() > EACH_MAX {
            self.sums(&status.torrents);
            return;
        }
        for (name, kind, help, label, values) in BY_LABEL {
            self.family(name, *kind, help);
            for torrent in &status.torrents {
                for (which, value) in values(torrent) {
                    self.sample(name, &[("info_hash", &torrent.info_hash), (label, which)], value);
                }
            }
        }
        for (name, kind, help, value) in OF_TORRENTS {
            self.family(name, *kind, help);
            for torrent in &status.torrents {
                self.sample(name, &[("info_hash", &torrent.info_hash)], value(torrent));
            }
        }
    }

    /// All numbers of a session's blobs, the files of repositories.
    pub fn blobs(&mut self, status: &BlobsStatus) {
        use Kind::{Counter, Gauge};
        self.family("wtfs_blobs", Gauge, "Files of repositories in the cache");
        self.sample("wtfs_blobs", &[("state", "whole")], status.whole);
        self.sample("wtfs_blobs", &[("state", "partial")], status.partial);
        self.family("wtfs_blob_bytes", Gauge, "Bytes of them that are here");
        self.sample("wtfs_blob_bytes", &[("state", "whole")], status.whole_bytes);
        self.sample("wtfs_blob_bytes", &[("state", "partial")], status.partial_bytes);
        self.one("wtfs_blob_fills", Gauge, "Files that are being fetched", status.fills);
        for (name, help, value) in [
            ("wtfs_blob_requests_total", "Requests for ranges of files", status.requests),
            (
                "wtfs_blob_fetched_bytes_total",
                "Bytes that came, what was thrown away too",
                status.origin_bytes,
            ),
            ("wtfs_blob_read_bytes_total", "Bytes that readers were given", status.read_bytes),
            ("wtfs_blob_hit_bytes_total", "Of those, bytes that were here before", status.hit_bytes),
            ("wtfs_blob_errors_total", "Requests that failed or broke off", status.origin_errors),
            ("wtfs_blob_corrupt_total", "Files that came and were not what their hash says", status.corrupt),
            ("wtfs_blob_evicted_total", "Files given up for others", status.evicted),
        ] {
            self.one(name, Counter, help, value);
        }
    }

    /// The torrents' numbers added up, without the label that tells them apart.
    fn sums(&mut self, torrents: &[TorrentStatus]) {
        for (name, kind, help, label, values) in BY_LABEL {
            self.family(name, *kind, help);
            let mut sums = BTreeMap::<&str, f64>::new();
            for (which, value) in torrents.iter().flat_map(values) {
                *sums.entry(which).or_default() += value;
            }
            for (which, sum) in sums {
                self.sample(name, &[(label, which)], sum);
            }
        }
        for (name, kind, help, value) in OF_TORRENTS {
            self.one(name, *kind, help, torrents.iter().map(value).fold(0, u64::saturating_add));
        }
    }

    fn latency(&mut self, name: &str, answered: &str, latency: &LatencyStatus) {
        let buckets = latency.buckets.iter();
        let buckets = buckets.map(|bucket| (bucket.up_to_us.map(|us| us as f64 / 1e6), bucket.count));
        self.histogram(name, ("answered", answered), buckets, latency.sum_us as f64 / 1e6);
    }
}

/// Name, kind and meaning of a number that each torrent has.
type OfTorrent = (&'static str, Kind, &'static str, fn(&TorrentStatus) -> u64);

const OF_TORRENTS: &[OfTorrent] = &[
    ("wtfs_torrent_downloaded_bytes_total", Kind::Counter, "Payload received, wasted too", |t| {
        t.downloaded_bytes
    }),
    ("wtfs_torrent_uploaded_bytes_total", Kind::Counter, "Payload sent", |t| t.uploaded_bytes),
    ("wtfs_torrent_wasted_bytes_total", Kind::Counter, "Payload received in vain", |t| t.wasted_bytes),
    ("wtfs_torrent_failed_pieces_total", Kind::Counter, "Pieces whose hash was wrong", |t| t.failed_pieces),
    ("wtfs_torrent_failed_reads_total", Kind::Counter, "Reads that ended without data", |t| {
        t.waits.failed_reads
    }),
    ("wtfs_torrent_waiting_reads", Kind::Gauge, "Reads that wait for data", |t| t.waits.waiting_reads as u64),
    ("wtfs_torrent_pieces", Kind::Gauge, "Pieces in all", |t| t.pieces.into()),
    ("wtfs_torrent_pieces_present", Kind::Gauge, "Pieces verified and stored", |t| t.pieces_present.into()),
    ("wtfs_torrent_size_bytes", Kind::Gauge, "Bytes of all files", |t| t.total_bytes),
    ("wtfs_torrent_in_flight_bytes", Kind::Gauge, "Memory of pieces on their way", |t| t.in_flight_bytes),
    ("wtfs_torrent_pinned_bytes", Kind::Gauge, "Bytes of pinned files", |t| t.kept.pinned_bytes),
    ("wtfs_torrent_prefetches", Kind::Gauge, "Prefetches under way", |t| t.kept.prefetches.len() as u64),
    ("wtfs_torrent_peers", Kind::Gauge, "Connected peers", |t| t.peers.len() as u64),
];

/// Name, kind and meaning of numbers that each torrent has for each value of a label, and that label.
type ByLabel =
    (&'static str, Kind, &'static str, &'static str, fn(&TorrentStatus) -> Vec<(&'static str, f64)>);

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in floating point")]
const BY_LABEL: &[ByLabel] = &[
    ("wtfs_torrent_source_downloaded_bytes_total", Kind::Counter, "Payload received", "source", |t| {
        t.sources.iter().map(|s| (s.kind.name(), s.downloaded_bytes as f64)).collect()
    }),
    ("wtfs_torrent_source_uploaded_bytes_total", Kind::Counter, "Payload sent", "source", |t| {
        t.sources.iter().map(|s| (s.kind.name(), s.uploaded_bytes as f64)).collect()
    }),
    ("wtfs_torrent_sources", Kind::Gauge, "Connected sources", "source", |t| {
        t.sources.iter().map(|s| (s.kind.name(), s.connected as f64)).collect()
    }),
    ("wtfs_torrent_bans_total", Kind::Counter, "Peers banned", "reason", |t| {
        let bans = t.bans.bans;
        let by_reason = [("bad_data", bans.bad_data), ("violation", bans.violation), ("junk", bans.junk)];
        by_reason.map(|(reason, count)| (reason, count as f64)).to_vec()
    }),
    ("wtfs_torrent_stalled_reads", Kind::Gauge, "Reads held up now", "cause", |t| {
        t.waits.stalls.iter().map(|s| (s.cause.name(), s.reads as f64)).collect()
    }),
    ("wtfs_torrent_stall_seconds_total", Kind::Counter, "Time reads were held up, added up", "cause", |t| {
        t.waits.stalls.iter().map(|s| (s.cause.name(), s.total_ms as f64 / 1e3)).collect()
    }),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_named_once_and_buckets_count_what_is_below_them() {
        let mut text = Exposition::new();
        text.one("a_bytes", Kind::Gauge, "Some bytes", 3);
        text.family("b_seconds", Kind::Histogram, "Some time");
        text.histogram("b_seconds", ("by", "x"), [(Some(0.5), 2), (None, 1)], 1.25);
        assert_eq!(
            text.into_text(),
            "# HELP a_bytes Some bytes.\n# TYPE a_bytes gauge\na_bytes 3\n\
             # HELP b_seconds Some time.\n# TYPE b_seconds histogram\n\
             b_seconds_bucket{by=\"x\",le=\"0.5\"} 2\nb_seconds_bucket{by=\"x\",le=\"+Inf\"} 3\n\
             b_seconds_sum{by=\"x\"} 1.25\nb_seconds_count{by=\"x\"} 3\n"
        );
    }
}
