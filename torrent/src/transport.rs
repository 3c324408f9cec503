//! What carries the peer wire protocol: byte streams in both directions, whatever is below.
//!
//! A transport makes a [`Connection`]; nothing above this module knows which one it was, except to show it. Dropping
//! both halves closes the connection.

use std::net::SocketAddr;

use serde::Serialize;
#[cfg(any(feature = "webrtc", test))]
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};

#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod tcp;
#[cfg(feature = "webrtc")]
#[allow(dead_code)]
pub(crate) mod webrtc;

/// The kinds of transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TransportKind {
    /// TCP.
    Tcp,
    /// A WebRTC data channel: a browser's only one.
    WebRtc,
    /// Ranged GETs at a web seed.
    Http,
    /// Within the process; for tests and for embedding.
    Memory,
}

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// They did.
    Incoming,
    /// We did.
    Outgoing,
}

/// The half that is read.
pub(crate) type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// The half that is written.
pub(crate) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// An open byte stream to a peer, before or after the handshake.
pub(crate) struct Connection {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    pub(crate) addr: SocketAddr,
    pub(crate) kind: TransportKind,
    pub(crate) direction: Direction,
    /// Of the certificate that the peer proved to have, where the transport has such.
    pub(crate) fingerprint: Option<Fingerprint>,
}

/// By which a peer over an encrypted transport is known again: the hash of its certificate, in the words of its session
/// description (RFC 8122), whatever way these are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// `sha-256 AB:CD:...`.
    #[cfg(any(feature = "webrtc", test))]
    pub(crate) fn of(text: &str) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        Self(Sha256::digest(words.join(" ").to_ascii_lowercase()).into())
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("addr", &self.addr)
            .field("kind", &self.kind)
            .field("direction", &self.direction)
            .finish_non_exhaustive()
    }
}
