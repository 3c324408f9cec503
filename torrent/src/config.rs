//! How a session is set up. Plain values with defaults; reading files, flags and the environment is the command's
//! business, never this crate's.

mod ice;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

pub use self::ice::{IceServer, IceServerError, RelayPolicy};
use crate::http::PrivateHosts;
use crate::tracker::local::OwnTracker;

/// Everything a [`Session`](crate::Session) can be told at its start.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Where torrents, their data and the record of what is present are kept.
    pub cache_dir: PathBuf,
    /// Bytes of data kept in the cache over all its torrents; `None` is as much as the disk has. What was used longest
    /// ago goes first. Waiting reads may pass it by the pieces they wait for; below a few pieces all data is fetched
    /// again for nearly every read.
    pub cache_bytes: Option<u64>,
    /// Bytes left free on the cache's disk, but never more than a quarter of it: when others fill the disk, the cache
    /// shrinks. 0 does not look.
    pub min_free_bytes: u64,
    /// Whether there is a network.
    pub network: NetworkPolicy,
    /// Where peers may connect to.
    pub listen: ListenConfig,
    /// Connections over all torrents, both directions. Each costs a file descriptor and about 40 KiB when idle.
    pub max_peers: usize,
    /// Connections of one torrent.
    pub max_peers_per_torrent: usize,
    /// Outgoing connections not yet established, over all torrents. High values upset home routers.
    pub max_half_open: usize,
    /// Payload bytes a second to all peers together; `None` is unlimited.
    pub upload_limit: Option<u64>,
    /// Payload bytes a second from all peers together; `None` is unlimited.
    pub download_limit: Option<u64>,
    /// Bytes that pieces in flight may hold, over all torrents. One piece a torrent is always allowed: below the
    /// largest piece size a single read still works, but nothing is read ahead.
    pub memory_bytes: u64,
    /// How long a read may go without any progress before it fails.
    pub read_timeout: Duration,
    /// Whether what is present is served to peers.
    pub upload: UploadPolicy,
    /// Peers unchoked at once in one torrent, besides the optimistic one (BEP 3).
    pub upload_slots: usize,
    /// The longest read-ahead window of one open file, in bytes.
    pub max_readahead_bytes: u64,
    /// Sent to trackers and web servers, and to peers in the extension handshake.
    pub user_agent: String,
    /// Which hosts of web seeds, redirects and trackers may be in private networks.
    pub private_hosts: PrivateHosts,
    /// Whether peers in browsers take part, where a torrent has a WebSocket tracker.
    pub webrtc: WebRtcPolicy,
    /// Servers that say how we look from outside (STUN, RFC 8489), and such as pass data on where peers do not reach each
    /// other (TURN, RFC 8656). `None` is those of [`DEFAULT_STUN`], for trackers in the internet; peers of a tracker on
    /// this machine or in a private network need none. Those given here are asked whatever the tracker.
    pub ice_servers: Option<Vec<IceServer>>,
    /// Whether data over WebRTC may go from peer to peer.
    pub relay: RelayPolicy,
    /// Whether peers over TCP and peers over WebRTC are brought together.
    pub bridge: BridgePolicy,
    /// A WebSocket tracker in this process, to which all torrents but private ones are announced.
    pub own_tracker: Option<OwnTracker>,
}

/// The STUN servers asked by default. Each learns our address, and that we look for peers; so do those that web pages ask.
pub const DEFAULT_STUN: [&str; 2] = ["stun:stun.l.google.com:19302", "stun:global.stun.twilio.com:3478"];

/// Whether a session takes part over WebRTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebRtcPolicy {
    /// It does, if this build can.
    On,
    /// WebSocket trackers are listed and left alone.
    Off,
}

/// Addresses and port to listen on.
#[derive(Debug, Clone)]
pub struct ListenConfig {
    /// 0 takes any free port.
    pub port: u16,
    /// What to do when the port is taken.
    pub port_policy: PortPolicy,
    /// Local addresses; outgoing connections use them as well, if they are not the unspecified ones.
    pub addrs: Vec<IpAddr>,
}

/// What to do when the configured port is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortPolicy {
    /// Fail.
    Exact,
    /// Take any free one instead.
    Preferred,
}

/// Whether a session gives as well as takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadPolicy {
    /// Present pieces are served.
    On,
    /// Every peer stays choked.
    Off,
}

/// Whether a session fetches what nobody here asked for, so that peers who cannot reach each other get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgePolicy {
    /// While peers over TCP lack what peers over WebRTC have, or the other way round: a hub.
    On,
    /// Never.
    Off,
}

/// Whether a session uses the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkPolicy {
    /// Peers and trackers are talked to.
    Online,
    /// Nothing listens and nothing is connected to: a read of what is not there fails at once.
    Offline,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            port: 6881,
            port_policy: PortPolicy::Preferred,
            addrs: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        }
    }
}

impl SessionConfig {
    /// The defaults, with data under `cache_dir`.
    pub fn new(cache_dir: PathBuf) -> Self {
        Self {
            cache_dir,
            cache_bytes: None,
            min_free_bytes: 1 << 30,
            network: NetworkPolicy::Online,
            listen: ListenConfig::default(),
            max_peers: 500,
            max_peers_per_torrent: 60,
            max_half_open: 32,
            upload_limit: None,
            download_limit: None,
            memory_bytes: 96 << 20,
            read_timeout: Duration::from_secs(60),
            upload: UploadPolicy::On,
            upload_slots: 8,
            max_readahead_bytes: 32 << 20,
            user_agent: concat!("wtfs/", env!("CARGO_PKG_VERSION")).to_owned(),
            private_hosts: PrivateHosts::NamedOnly,
            webrtc: WebRtcPolicy::On,
            ice_servers: None,
            relay: RelayPolicy::IfNeeded,
            bridge: BridgePolicy::Off,
            own_tracker: None,
        }
    }
}
