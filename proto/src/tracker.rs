//! What a client says to a tracker and what a tracker answers, whatever the transport.
//!
//! Owns the values that HTTP, UDP and web sockets share. Both directions are coded side by side, so that the client and the hub
//! cannot drift apart. When to announce is decided in [`crate::announce`]; sockets are elsewhere.
//!
//! Invariant: what a tracker or a client sends is clipped to what is useful and stripped of control characters before
//! it can reach a log or a terminal.

use std::net::IpAddr;

use crate::bencode::DecodeError;
use crate::compact::PartialAddress;
use crate::id::{InfoHash, PeerId};

pub mod http;
pub mod udp;
pub mod ws;

/// Most peers that are taken from one response.
pub const MAX_PEERS: usize = 4096;

/// Longest text (failure, warning, tracker id) that is kept, in bytes.
pub const MAX_TEXT_BYTES: usize = 512;

/// Why a client announces now (BEP 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AnnounceEvent {
    /// Nothing happened: the interval is over.
    #[default]
    None,
    /// The first announce.
    Started,
    /// The last announce.
    Stopped,
    /// The download has just become complete; not sent by who began complete.
    Completed,
}

/// An announce, as HTTP and UDP carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnounceRequest {
    /// The torrent.
    pub info_hash: InfoHash,
    /// The client.
    pub peer_id: PeerId,
    /// The port on which the client accepts connections.
    pub port: u16,
    /// Bytes sent to peers since `Started`.
    pub uploaded: u64,
    /// Bytes fetched since `Started`.
    pub downloaded: u64,
    /// Bytes missing; `u64::MAX` when not known.
    pub left: u64,
    /// Why now.
    pub event: AnnounceEvent,
    /// How many peers are wanted; `None` leaves it to the tracker.
    pub num_want: Option<u32>,
    /// A number that stays the same when the client's address changes.
    pub key: u32,
    /// The client's address, where it differs from the sender's. Trackers seldom believe it. UDP carries IPv4 only.
    pub ip: Option<IpAddr>,
    /// What an earlier response of this tracker said to send back. Not carried by UDP.
    pub tracker_id: Option<String>,
}

/// The numbers of one torrent in a scrape (BEP 48, BEP 15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrapeEntry {
    /// Peers that have everything.
    pub complete: u32,
    /// How often the download was completed.
    pub downloaded: u32,
    /// Peers that lack something.
    pub incomplete: u32,
}

/// Why a message of a tracker, or to one, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrackerError {
    /// The tracker was reached and refuses.
    #[error("the tracker refuses: {reason}")]
    Failure {
        /// In the tracker's words.
        reason: String,
    },
    /// The response is no bencode; often a web page.
    #[error("a response that cannot be read: {0}")]
    Bencode(#[from] DecodeError),
    /// The response is another kind of value.
    #[error("the response is {found}, expected a dictionary")]
    NotADictionary {
        /// What it is.
        found: &'static str,
    },
    /// A key without which the response means nothing.
    #[error("the response has no {key} that is {expected}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What should be there.
        expected: &'static str,
    },
    /// A list of peers ends in the middle of one.
    #[error("{key}: {source}")]
    Peers {
        /// The key.
        key: &'static str,
        /// What is wrong with its length.
        source: PartialAddress,
    },
    /// A parameter of a query is missing or wrong.
    #[error("the query has no {name} that is {expected}")]
    Parameter {
        /// Name of the parameter.
        name: &'static str,
        /// What should be there.
        expected: &'static str,
    },
    /// A datagram is too short, or ends in the middle of an entry.
    #[error("{message} of {found} bytes, expected {expected}")]
    Length {
        /// Which message.
        message: &'static str,
        /// Which lengths are right.
        expected: &'static str,
        /// The length that came.
        found: usize,
    },
    /// A datagram of an action that does not exist in this direction.
    #[error("action {found} in a datagram, expected {expected}")]
    Action {
        /// Which actions exist.
        expected: &'static str,
        /// The action that came.
        found: u32,
    },
    /// A connect request without the number by which the protocol is known.
    #[error("protocol id {found:#x}, expected {:#x}", udp::PROTOCOL_ID)]
    Protocol {
        /// The number that came.
        found: u64,
    },
}

/// Text from outside, fit to be shown: clipped, lossy, without control characters.
fn shown(bytes: &[u8]) -> String {
    let clipped = bytes.get(..MAX_TEXT_BYTES).unwrap_or(bytes);
    String::from_utf8_lossy(clipped).replace(char::is_control, " ").trim().to_owned()
}
