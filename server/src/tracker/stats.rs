//! What the tracker counts.
//!
//! Owns the counters that front ends add to, and the snapshot that others read. Sizes of swarms come from the map.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use wtfs_proto::tracker::ScrapeEntry;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one protocol has seen.
#[derive(Debug, Default)]
pub(crate) struct ProtocolCounters {
    pub(crate) announces: Counter,
    pub(crate) scrapes: Counter,
    pub(crate) rejected: Counter,
    pub(crate) malformed: Counter,
}

impl ProtocolCounters {
    fn snapshot(&self) -> ProtocolStats {
        ProtocolStats {
            announces: self.announces.total(),
            scrapes: self.scrapes.total(),
            rejected: self.rejected.total(),
            malformed: self.malformed.total(),
        }
    }
}

/// All counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) http: ProtocolCounters,
    pub(crate) udp: ProtocolCounters,
    pub(crate) socket: ProtocolCounters,
    pub(crate) connects: Counter,
    pub(crate) sockets_opened: Counter,
    pub(crate) sockets_refused: Counter,
    pub(crate) sockets_slow: Counter,
    pub(crate) offers: Counter,
    pub(crate) answers: Counter,
    pub(crate) dropped: Counter,
}

impl Counters {
    /// The counters' part of a snapshot; the rest is the caller's to fill in.
    pub(crate) fn snapshot(&self) -> TrackerStats {
        TrackerStats {
            http: self.http.snapshot(),
            udp: self.udp.snapshot(),
            websocket: self.socket.snapshot(),
            udp_connects: self.connects.total(),
            relay: RelayStats {
                sockets: 0,
                sockets_opened: self.sockets_opened.total(),
                sockets_refused: self.sockets_refused.total(),
                sockets_slow: self.sockets_slow.total(),
                offers: self.offers.total(),
                answers: self.answers.total(),
                dropped: self.dropped.total(),
                queued_bytes: 0,
            },
            ..TrackerStats::default()
        }
    }
}

/// A snapshot of the tracker's numbers. What is not said to be of now counts from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct TrackerStats {
    /// Torrents known now, those without peers among them.
    pub torrents: u64,
    /// Peers now, each once, however it is reached.
    pub peers: u64,
    /// Of them, those that have everything.
    pub seeders: u64,
    /// Of them, those with an IPv4 address that can be told.
    pub peers_v4: u64,
    /// Of them, those with an IPv6 address that can be told.
    pub peers_v6: u64,
    /// Of them, those that take offers over a web socket.
    pub peers_browser: u64,
    /// Bytes of memory that the swarm map takes now.
    pub map_bytes: u64,
    /// Over HTTP.
    pub http: ProtocolStats,
    /// Over UDP.
    pub udp: ProtocolStats,
    /// Over web sockets.
    pub websocket: ProtocolStats,
    /// Connection ids given out over UDP.
    pub udp_connects: u64,
    /// The passing on of offers and answers.
    pub relay: RelayStats,
}

/// What one protocol has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct ProtocolStats {
    /// Announces answered.
    pub announces: u64,
    /// Scrapes answered.
    pub scrapes: u64,
    /// Requests turned away: not allowed, too many, no room.
    pub rejected: u64,
    /// Requests that could not be read.
    pub malformed: u64,
}

/// The passing on of offers and answers between web sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct RelayStats {
    /// Sockets open now.
    pub sockets: u64,
    /// Sockets opened.
    pub sockets_opened: u64,
    /// Sockets that were not let in: the origin, the number of them.
    pub sockets_refused: u64,
    /// Sockets closed because they did not take what was sent to them.
    pub sockets_slow: u64,
    /// Offers passed on.
    pub offers: u64,
    /// Answers passed on.
    pub answers: u64,
    /// Offers and answers dropped: nobody there, or no room to wait in.
    pub dropped: u64,
    /// Bytes that wait to be sent now.
    pub queued_bytes: u64,
}

/// The numbers of one torrent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SwarmCounts {
    /// The torrent, in hexadecimal.
    pub info_hash: String,
    /// Peers that have everything.
    pub seeders: u32,
    /// Peers that lack something.
    pub leechers: u32,
    /// How often it was completed.
    pub downloaded: u32,
}

impl SwarmCounts {
    pub(crate) fn new(info_hash: wtfs_proto::id::InfoHash, entry: ScrapeEntry) -> Self {
        Self {
            info_hash: info_hash.to_string(),
            seeders: entry.complete,
            leechers: entry.incomplete,
            downloaded: entry.downloaded,
        }
    }
}
