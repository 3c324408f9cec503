//! The engine of wtfs: swarms, peers, trackers, storage, and the one read path over them.
//!
//! A [`Session`] listens, holds the torrents and shares limits among them. [`Session::add`] takes a [`Source`] (a
//! metainfo or a magnet) and gives a [`Torrent`]; [`Torrent::open`] gives a [`FileReader`], whose
//! [`FileReader::read_at`] returns verified bytes of any range, fetching no more than the pieces it touches and what its
//! read-ahead expects to be read next.
//!
//! One task runs each torrent, two halves of one task each connection. All decisions are made by `wtfs-proto`'s pure
//! types; this crate gives them a clock, sockets and a disk.
//!
//! What holds throughout:
//!
//! - No byte is returned or uploaded that was not verified: only verified pieces are marked present, and only present
//!   pieces are read.
//! - Every read ends: with data, or with an error once nothing moved for the read time-out, or when it is dropped.
//! - Memory is counted in bytes: what pieces in flight hold over all torrents stays within
//!   [`SessionConfig::memory_bytes`], besides one piece for each torrent being read.
//! - Nothing a peer, a tracker or a server sends can panic a task, make it allocate without bound, or write outside
//!   the torrent's directory.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

#[cfg(feature = "webrtc")]
mod acquaintances;
mod budget;
mod clock;
mod config;
pub mod create;
mod disk;
mod error;
mod extension;
pub mod hf;
mod hints;
mod holds;
pub mod http;
mod latency;
mod limiter;
mod local;
mod peer_task;
mod prefetch;
mod present;
pub mod prometheus;
mod reader;
pub mod resolve;
mod session;
mod stamp;
mod status;
pub mod store;
mod swarm_task;
mod torrent;
pub mod tracker;
mod transport;
pub mod verify;
mod web_seed;

pub use config::{
    BridgePolicy, DEFAULT_STUN, IceServer, IceServerError, ListenConfig, NetworkPolicy, PortPolicy,
    RelayPolicy, SessionConfig, UploadPolicy, WebRtcPolicy,
};
pub use error::{AddError, Fault, OpenError, PinError, ReadError, StartError};
pub use extension::{Extension, ExtensionPeer, Extensions, NotQueued};
pub use holds::FileHold;
pub use latency::{FailedReads, LatencyBucket, LatencyStatus, ReadsStatus};
pub use prefetch::{Prefetch, PrefetchProgress};
pub use reader::{FileReader, HeldFile};
pub use resolve::Source;
pub use session::{AddOptions, ExistingData, Fill, RemovedData, Session, StorageKind};
pub use stamp::Stamp;
pub use status::{
    BanCounts, BannedPeer, BansStatus, CacheStatus, KeptStatus, PeerStatus, Phase, PinStatus, PrefetchStatus,
    ServersStatus, SessionStatus, SourceKind, SourceStatus, StallCause, StallStatus, TorrentStatus,
    WaitStatus, WebSeedState, WebSeedStatus,
};
pub use torrent::Torrent;
pub use transport::{Direction, TransportKind};
