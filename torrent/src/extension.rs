//! Extensions of the peer protocol (BEP 10) from outside the engine.
//!
//! An [`Extension`] names itself; the engine offers it in the extension handshake beside `ut_metadata` and `ut_pex`,
//! tells it which peers speak it too, and hands it their messages.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use wtfs_proto::id::InfoHash;
use wtfs_proto::wire::message::Message;

use crate::peer_task::PeerCommand;

/// A protocol extension. Its methods are called on the torrent's task: they must return at once and leave anything
/// long to a task of their own.
pub trait Extension: Send + Sync + std::fmt::Debug + 'static {
    /// The name in the handshake's `m` dictionary; by custom two letters of the client, `_`, and a word.
    fn name(&self) -> &str;

    /// A peer that speaks the extension shook hands.
    fn handle_connected(&self, _peer: &ExtensionPeer) {}

    /// A peer sent a message. The payload is whatever came: check it.
    fn handle_message(&self, peer: &ExtensionPeer, payload: Bytes);

    /// The peer is gone.
    fn handle_disconnected(&self, _addr: SocketAddr, _info_hash: InfoHash) {}
}

/// A peer that speaks an extension. Holding it does not keep the connection open.
#[derive(Debug, Clone)]
pub struct ExtensionPeer {
    pub(crate) addr: SocketAddr,
    pub(crate) info_hash: InfoHash,
    pub(crate) remote_id: u8,
    pub(crate) commands: mpsc::Sender<PeerCommand>,
}

/// The peer is gone or too far behind; the message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer is gone or does not read")]
pub struct NotQueued;

impl ExtensionPeer {
    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The torrent the connection is for.
    pub fn info_hash(&self) -> InfoHash {
        self.info_hash
    }

    /// Queues a message of the extension. Never waits.
    ///
    /// # Errors
    /// When the peer is gone or does not read.
    pub fn send(&self, payload: Bytes) -> Result<(), NotQueued> {
        let message = Message::Extended { id: self.remote_id, payload };
        self.commands.try_send(PeerCommand::Messages(vec![message])).map_err(|_| NotQueued)
    }
}

/// The extensions of a session, in a fixed order.
#[derive(Debug, Clone, Default)]
pub struct Extensions {
    all: Vec<Arc<dyn Extension>>,
}

impl Extensions {
    /// Adds one. A later one of the same name is never called.
    #[must_use]
    pub fn with(mut self, extension: Arc<dyn Extension>) -> Self {
        self.all.push(extension);
        self
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|extension| extension.name())
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Arc<dyn Extension>> {
        self.all.iter().find(|extension| extension.name() == name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<dyn Extension>> {
        self.all.iter()
    }
}
