//! What a session and its torrents are doing, as plain values to show or to print as JSON.
//!
//! A torrent's task publishes a [`TorrentStatus`] now and then; asking for it never waits for anything. What is counted
//! on the way of every read and block is counted by relaxed atomics, here and in [`crate::latency`].

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::latency::ReadsStatus;
use crate::prefetch::PrefetchProgress;
use crate::tracker::announcer::TrackerStatus;
use crate::transport::{Direction, TransportKind};

/// All of a session.
#[derive(Debug, Clone, Serialize)]
pub struct SessionStatus {
    /// Where peers can connect to.
    pub listening: Vec<SocketAddr>,
    /// The cache's disk budget.
    pub cache: CacheStatus,
    /// How its reads went.
    pub reads: ReadsStatus,
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
    /// Bytes the disk had free when it was last looked at; `None` where nobody looks because nothing is kept free.
    pub disk_free_bytes: Option<u64>,
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
        #[serde(rename = "checked_bytes")]
        done_bytes: u64,
        /// Bytes to hash in all. The torrent's own number of that name stands beside it.
        #[serde(rename = "to_check_bytes")]
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
    /// Reads that wait, and for what.
    #[serde(flatten)]
    pub waits: WaitStatus,
    /// What somebody asked to be kept or fetched.
    #[serde(flatten)]
    pub kept: KeptStatus,
    /// Bytes that pieces in flight hold in memory.
    pub in_flight_bytes: u64,
    /// What came from each kind of source; kinds that gave and got nothing are left out.
    pub sources: Vec<SourceStatus>,
    /// Connected peers.
    pub peers: Vec<PeerStatus>,
    /// Peers that were banned.
    #[serde(flatten)]
    pub bans: BansStatus,
    /// Where peers and data are to be found.
    #[serde(flatten)]
    pub servers: ServersStatus,
}

/// Peers that were banned.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BansStatus {
    /// The last ones, newest last.
    pub banned: Vec<BannedPeer>,
    /// How many there were, by what they did.
    pub bans: BanCounts,
}

/// Bans by their reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BanCounts {
    /// Data or hashes that were wrong.
    pub bad_data: u64,
    /// What no correct client says.
    pub violation: u64,
    /// Too much that is legal and of no use.
    pub junk: u64,
}

/// Where peers and data are to be found besides the connected peers.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ServersStatus {
    /// Addresses of peers that are known but not connected.
    pub known_peers: usize,
    /// Trackers, tier by tier.
    pub trackers: Vec<TrackerStatus>,
    /// Web seeds.
    pub web_seeds: Vec<WebSeedStatus>,
}

/// One web seed (BEP 17, BEP 19).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WebSeedStatus {
    /// Its URL, without what may be secret: credentials and query.
    pub url: String,
    /// Where it stands.
    pub state: WebSeedState,
    /// What went wrong last, as the rest of a sentence that begins with the URL.
    pub reason: Option<String>,
    /// Payload bytes received from it.
    pub downloaded_bytes: u64,
    /// Payload bytes a second received now.
    pub download_rate: u64,
    /// Blocks asked for that have not come yet.
    pub outstanding: usize,
}

/// Where a web seed stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WebSeedState {
    /// Nothing is asked of it.
    Idle,
    /// Something is.
    Active,
    /// It is left alone for a while.
    Waiting,
    /// It is not asked any more: it cannot serve this torrent.
    Left,
    /// It is not asked any more: it sent wrong bytes.
    Banned,
}

/// The kinds of sources: what a rate or a byte is put down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SourceKind {
    /// A peer over TCP.
    Tcp,
    /// A peer over uTP (BEP 29).
    Utp,
    /// A peer over a WebRTC data channel.
    #[serde(rename = "webrtc")]
    WebRtc,
    /// A web server (BEP 17, BEP 19).
    WebSeed,
    /// A peer within the process.
    Memory,
}

impl SourceKind {
    /// All of them, in their order.
    pub const ALL: [Self; 5] = [Self::Tcp, Self::Utp, Self::WebRtc, Self::WebSeed, Self::Memory];

    /// Its name in the status and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Utp => "utp",
            Self::WebRtc => "webrtc",
            Self::WebSeed => "web_seed",
            Self::Memory => "memory",
        }
    }
}

impl From<TransportKind> for SourceKind {
    fn from(transport: TransportKind) -> Self {
        match transport {
            TransportKind::Tcp => Self::Tcp,
            TransportKind::WebRtc => Self::WebRtc,
            TransportKind::Http => Self::WebSeed,
            TransportKind::Memory => Self::Memory,
        }
    }
}

/// All sources of one kind together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// The kind.
    pub kind: SourceKind,
    /// How many are connected.
    pub connected: usize,
    /// Payload bytes a second received now.
    pub download_rate: u64,
    /// Payload bytes a second sent now.
    pub upload_rate: u64,
    /// Payload bytes received from the torrent's start on, also from sources that have gone.
    pub downloaded_bytes: u64,
    /// The same, sent.
    pub uploaded_bytes: u64,
}

/// Reads that wait for data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WaitStatus {
    /// How many there are.
    pub waiting_reads: usize,
    /// Reads that ended without data.
    pub failed_reads: u64,
    /// How long the longest has waited.
    pub longest_wait_ms: u64,
    /// Reads that wait longer than they should, by the cause; causes that never were are left out.
    pub stalls: Vec<StallStatus>,
    /// Why the last piece that came could not be stored; `None` once one was.
    pub not_stored: Option<String>,
}

/// Why a read waits longer than a fetch takes. Of several causes the one that comes first here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StallCause {
    /// Its piece has come and is not verified and stored yet.
    Disk,
    /// There is no room for its piece, in the cache or on the disk, until something else goes.
    NoSpace,
    /// Nobody is connected.
    NoPeers,
    /// Nobody who is connected has the piece.
    NoSource,
    /// All who have it choke us.
    Choked,
    /// It came with a wrong hash and is fetched again, of one source alone.
    HashFailed,
    /// The limit of the download rate holds it back.
    DownloadLimit,
    /// Pieces in flight hold all the memory there is for them.
    Memory,
    /// It was asked for and has not come.
    Late,
}

impl StallCause {
    /// All of them, in their order.
    pub const ALL: [Self; 9] = [
        Self::Disk,
        Self::NoSpace,
        Self::NoPeers,
        Self::NoSource,
        Self::Choked,
        Self::HashFailed,
        Self::DownloadLimit,
        Self::Memory,
        Self::Late,
    ];

    /// Its name in the status and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::NoSpace => "no_space",
            Self::NoPeers => "no_peers",
            Self::NoSource => "no_source",
            Self::Choked => "choked",
            Self::HashFailed => "hash_failed",
            Self::DownloadLimit => "download_limit",
            Self::Memory => "memory",
            Self::Late => "late",
        }
    }
}

/// One cause of stalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StallStatus {
    /// The cause.
    pub cause: StallCause,
    /// Reads it holds up now.
    pub reads: usize,
    /// Time it has held reads up, added up over them, since the torrent's start.
    pub total_ms: u64,
}

/// What somebody asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KeptStatus {
    /// How many files are pinned.
    pub pinned_files: usize,
    /// Bytes of all of them.
    pub pinned_bytes: u64,
    /// The first of them.
    pub pins: Vec<PinStatus>,
    /// Ranges that are being fetched because somebody asked for them.
    pub prefetches: Vec<PrefetchStatus>,
}

/// One pinned file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PinStatus {
    /// Its path within the torrent.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// How much of it is present.
    pub local_bytes: u64,
}

/// One prefetch under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PrefetchStatus {
    /// The file's path within the torrent.
    pub path: String,
    /// How far it is.
    #[serde(flatten)]
    pub progress: PrefetchProgress,
}

/// One connected peer.
#[derive(Debug, Clone, Serialize)]
pub struct PeerStatus {
    /// Its address.
    pub addr: SocketAddr,
    /// Its program, as it says.
    pub client: String,
    /// What kind of source it is.
    pub source: SourceKind,
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

/// What moved over sources of one kind.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    pub(crate) down: Counter,
    pub(crate) up: Counter,
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
    moved: [Moved; SourceKind::ALL.len()],
    /// Milliseconds.
    stalled: [Counter; StallCause::ALL.len()],
}

impl Counters {
    /// What moved over sources of a kind.
    pub(crate) fn moved(&self, kind: SourceKind) -> &Moved {
        &self.moved[kind as usize]
    }

    /// How long reads were held up by a cause, in milliseconds.
    pub(crate) fn stalled(&self, cause: StallCause) -> &Counter {
        &self.stalled[cause as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_json_and_each_has_a_place_of_its_own() {
        for (at, kind) in SourceKind::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(kind).expect("JSON"), kind.name());
            assert_eq!(kind as usize, at);
        }
        for (at, cause) in StallCause::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(cause).expect("JSON"), cause.name());
            assert_eq!(cause as usize, at);
        }
    }
}
