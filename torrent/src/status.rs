//! What a session and its torrents are doing, as plain values to show or to print as JSON.
//!
//! A torrent's task publishes a [`TorrentStatus`] now and then; asking for it never waits for anything.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::tracker::announcer::TrackerStatus;
use crate::transport::{Direction, TransportKind};

/// All of a session.
#[derive(Debug, Clone, Serialize)]
pub struct SessionStatus {
    /// Where peers can connect to.
    pub listening: Vec<SocketAddr>,
    /// The cache's disk budget.
    pub cache: CacheStatus,
    /// Its torrents.
    pub torrents: Vec<TorrentStatus>,
}

/// The cache's disk budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CacheStatus {
    /// What the cache may hold now, by its size and by the disk's free space; `None` is no limit.
    pub limit_bytes: Option<u64>,
    /// Bytes of present pieces of all torrents in the cache.
    pub used_bytes: u64,
    /// The most it has been since the session began.
    pub peak_bytes: u64,
    /// Bytes given up since the session began.
    pub evicted_bytes: u64,
}

/// Where a torrent stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Phase {
    /// The magnet's metadata is still missing.
    Metadata,
    /// Data that was there before is being hashed.
    Checking {
        /// Bytes hashed.
        done_bytes: u64,
        /// Bytes to hash in all.
        total_bytes: u64,
    },
    /// Files can be opened and read.
    Ready,
    /// It cannot be used.
    Failed {
        /// Why, as a sentence.
        message: String,
    },
}

/// One torrent.
#[derive(Debug, Clone, Serialize)]
pub struct TorrentStatus {
    /// The info hash that names the swarm, in hexadecimal.
    pub info_hash: String,
    /// The torrent's name, or the magnet's display name, or the info hash.
    pub name: String,
    /// Where it stands.
    #[serde(flatten)]
    pub phase: Phase,
    /// Bytes of all files together; 0 while the metadata is missing.
    pub total_bytes: u64,
    /// Nominal piece length.
    pub piece_bytes: u32,
    /// Number of pieces.
    pub pieces: u32,
    /// Pieces verified and stored.
    pub pieces_present: u32,
    /// Payload bytes received, wasted ones included.
    pub downloaded_bytes: u64,
    /// Payload bytes sent.
    pub uploaded_bytes: u64,
    /// Payload bytes received in vain: unasked, twice, or of a piece whose hash was wrong.
    pub wasted_bytes: u64,
    /// Pieces whose hash was wrong.
    pub failed_pieces: u64,
    /// Payload bytes a second received now.
    pub download_rate: u64,
    /// Payload bytes a second sent now.
    pub upload_rate: u64,
    /// Reads that wait for data.
    pub waiting_reads: usize,
    /// Reads that ended without data.
    pub failed_reads: u64,
    /// Bytes that pieces in flight hold in memory.
    pub in_flight_bytes: u64,
    /// Addresses known but not connected.
    pub known_peers: usize,
    /// Connected peers.
    pub peers: Vec<PeerStatus>,
    /// Peers that were banned, newest last.
    pub banned: Vec<BannedPeer>,
    /// Trackers, tier by tier.
    pub trackers: Vec<TrackerStatus>,
}

/// One connected peer.
#[derive(Debug, Clone, Serialize)]
pub struct PeerStatus {
    /// Its address.
    pub addr: SocketAddr,
    /// Its program, as it says.
    pub client: String,
    /// What carries the connection.
    pub transport: TransportKind,
    /// Who opened it.
    pub direction: Direction,
    /// Pieces it has.
    pub pieces: u32,
    /// It lets us download.
    pub is_unchoking_us: bool,
    /// We let it download.
    pub is_unchoked: bool,
    /// We want pieces of it.
    pub are_we_interested: bool,
    /// It wants pieces of us.
    pub is_interested: bool,
    /// It lets our requests lie.
    pub is_snubbed: bool,
    /// Payload bytes received from it.
    pub downloaded_bytes: u64,
    /// Payload bytes sent to it.
    pub uploaded_bytes: u64,
    /// Payload bytes a second received now.
    pub download_rate: u64,
    /// Payload bytes a second sent now.
    pub upload_rate: u64,
    /// Requests it has not answered yet.
    pub outstanding: usize,
}

/// A peer we no longer talk to.
#[derive(Debug, Clone, Serialize)]
pub struct BannedPeer {
    /// Its address.
    pub addr: SocketAddr,
    /// What it did, as a sentence.
    pub reason: String,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a torrent counts from its start on.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) downloaded: Counter,
    pub(crate) uploaded: Counter,
    pub(crate) wasted: Counter,
    pub(crate) failed_pieces: Counter,
    pub(crate) failed_reads: Counter,
    /// Requests of peers for pieces that are not there.
    pub(crate) absent_requests: Counter,
}
