//! What an operator may decide about the tracker.
//!
//! Owns values and their defaults; reads nothing.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

/// Settings of a [`Tracker`](super::Tracker). The defaults suit one hub on one machine, open to whoever reaches it.
#[derive(Debug, Clone)]
pub struct TrackerConfig {
    /// When clients over HTTP and UDP are asked to come back. Shorter finds newcomers sooner and costs announces.
    pub interval: Duration,
    /// When clients over web sockets are asked to come back. They meet others only by the offers of an announce, so it
    /// is much shorter.
    pub socket_interval: Duration,
    /// Before this, clients over HTTP should not come back at all.
    pub min_interval: Duration,
    /// By how much of an interval each answer is lengthened or shortened by chance, in percent up to 50, so that clients
    /// that began together do not come back together.
    pub jitter_percent: u8,
    /// How long a peer is remembered after its last announce. Less than the longest interval would lose peers that
    /// keep to it.
    pub peer_timeout: Duration,
    /// How long a torrent without peers is remembered, and with it how often it was completed.
    pub torrent_timeout: Duration,
    /// Peers in an answer when the client does not say how many it wants.
    pub default_peers: usize,
    /// Peers in an answer at most. 200 are 1.2 KB over IPv4.
    pub max_peers: usize,
    /// Torrents that are remembered at most; about 250 bytes each.
    pub max_torrents: usize,
    /// Peers of all torrents that are remembered at most; about 120 bytes each. Further ones get answers all the same.
    pub max_total_peers: usize,
    /// Parts of the swarm map that work at the same time.
    pub shards: usize,
    /// Announces and scrapes per second of one IPv4 address or IPv6 /64, over all protocols; 0 for no limit.
    pub requests_per_second: u32,
    /// How many may come at once, for clients with many torrents.
    pub request_burst: u32,
    /// Who may announce and which torrents.
    pub access: AccessConfig,
    /// Limits of web sockets.
    pub sockets: SocketConfig,
    /// IPv4 address that others are told for peers that announce from the hub's own machine over loopback. Without it
    /// such peers are told to programs on the same machine alone.
    pub own_v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub own_v6: Option<Ipv6Addr>,
}

impl Default for TrackerConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(15 * 60),
            socket_interval: Duration::from_secs(2 * 60),
            min_interval: Duration::from_secs(30),
            jitter_percent: 10,
            // Two intervals with their jitter, and what a client may be late.
            peer_timeout: Duration::from_secs(35 * 60),
            torrent_timeout: Duration::from_secs(24 * 60 * 60),
            default_peers: 50,
            max_peers: 200,
            max_torrents: 250_000,
            max_total_peers: 1_000_000,
            shards: 16,
            requests_per_second: 100,
            // A client that starts with a thousand torrents, twice.
            request_burst: 2000,
            access: AccessConfig::default(),
            sockets: SocketConfig::default(),
            own_v4: None,
            own_v6: None,
        }
    }
}

/// Who may announce, and which torrents.
#[derive(Debug, Clone, Default)]
pub struct AccessConfig {
    /// A file of info hashes, one a line (40 hex digits, 32 Base32 letters, or 64 hex digits for v2; `#` begins a
    /// comment): only these are tracked. Until the file has been read, nothing is.
    pub allow_file: Option<PathBuf>,
    /// A file of info hashes that are not tracked.
    pub deny_file: Option<PathBuf>,
    /// Words of which one must stand in the announce URL, as `/announce/WORD` or `/WORD/announce`. Empty: none needed.
    pub passkeys: Vec<String>,
    /// Origins of web pages (`https://example.org`) that may open web sockets; programs that are no browsers send none
    /// and may always. Empty: all pages may.
    pub origins: Vec<String>,
}

/// Limits of web sockets. A limit per subscriber is per IPv4 address or IPv6 /64.
#[derive(Debug, Clone)]
pub struct SocketConfig {
    /// Sockets open at once. An idle one takes about 10 KB of memory.
    pub max: usize,
    /// Sockets of one subscriber open at once.
    pub max_per_subscriber: usize,
    /// Longest message, in bytes. Ten offers have 10 to 30 KB.
    pub max_message_bytes: usize,
    /// Offers of one announce that are passed on; further ones are dropped.
    pub max_offers: usize,
    /// Torrents that one socket may be in at once.
    pub max_swarms: usize,
    /// Messages per second that are read from one socket; what comes faster waits in the network. 0 for no limit.
    pub messages_per_second: u32,
    /// How many messages may come at once.
    pub message_burst: u32,
    /// A socket that was silent for this long is sent a ping; after two and a half times this it is closed.
    pub ping_interval: Duration,
    /// Messages that wait for one socket to take them. One that is slower is closed.
    pub queue: usize,
    /// Bytes that wait in all sockets together, above which offers and answers are dropped.
    pub max_queued_bytes: usize,
    /// How long a socket may take to accept one write.
    pub write_timeout: Duration,
}

impl Default for SocketConfig {
    fn default() -> Self {
        Self {
            max: 50_000,
            max_per_subscriber: 500,
            max_message_bytes: 64 * 1024,
            max_offers: 20,
            max_swarms: 1000,
            messages_per_second: 20,
            message_burst: 500,
            ping_interval: Duration::from_secs(30),
            queue: 256,
            max_queued_bytes: 64 << 20,
            write_timeout: Duration::from_secs(15),
        }
    }
}
