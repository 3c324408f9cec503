//! One connection to one peer: two tasks, one that reads and one that writes.
//!
//! They frame messages, serve the peer's requests from the store, and hand everything else to the torrent's task as
//! [`PeerEvent`]s. They decide nothing about the swarm: what to ask for, whom to unchoke and whom to ban is told them
//! as [`PeerCommand`]s. The torrent's task never waits for a peer: a peer too slow to take its commands is dropped.
//!
//! Memory: the reader holds at most one buffer of [`reader::MAX_READ`] bytes, the writer one batch of uploads, and the
//! queues between them are bounded.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wtfs_proto::peer::conduct::TooMuch;
use wtfs_proto::swarm::picker::{Pick, SourceId};
use wtfs_proto::wire::message::{BlockRequest, Message, MessageError};

use crate::session::Engine;
use crate::torrent::Shared;
use crate::transport::Connection;
use crate::web_seed::SeedEvent;

pub(crate) mod handshake;
mod reader;
mod writer;

pub(crate) use writer::UPLOAD_QUEUE;

/// Commands a peer's writer can be behind with. Each is one or a batch of messages: a peer that lets this many pile up
/// has not read from its socket for a long time, and is dropped.
const COMMAND_QUEUE: usize = 1024;

/// One received block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) piece: u32,
    pub(crate) begin: u32,
    pub(crate) data: Bytes,
}

/// What a peer did.
#[derive(Debug)]
pub(crate) enum PeerEvent {
    /// A message that is neither a block nor a request.
    Message(Message),
    /// Blocks that arrived together.
    Blocks(Vec<Block>),
    /// Payload bytes were sent to it.
    Uploaded(u64),
    /// Something that only web seeds do.
    Seed(SeedEvent),
    /// The connection is over; nothing more comes.
    Closed(CloseReason),
}

/// What a peer's writer is to do.
#[derive(Debug)]
pub(crate) enum PeerCommand {
    /// Send these.
    Messages(Vec<Message>),
    /// Get these. Web seeds alone are asked so; a peer gets messages.
    Fetch(Vec<Pick>),
    /// Choke the peer: its queued requests are rejected (BEP 6) or dropped.
    Choke,
    /// Unchoke the peer.
    Unchoke,
    /// The peer asks for a block.
    Serve(BlockRequest),
    /// The peer no longer wants a block.
    Unserve(BlockRequest),
}

/// Why a connection ended.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CloseReason {
    #[error("the peer closed the connection")]
    Eof,
    #[error("{0}")]
    Io(Arc<std::io::Error>),
    #[error("nothing was heard for {0} s")]
    Idle(u64),
    #[error("broke the protocol: {0}")]
    Protocol(#[from] MessageError),
    #[error("broke the protocol: {0}")]
    Violation(&'static str),
    #[error("is too slow to read what we send")]
    TooSlow,
    #[error("is itself seeding, as we are")]
    BothSeeds,
    #[error("sent data with a wrong hash")]
    BadData,
    #[error("sends too much that is of no use")]
    Junk,
    /// A web seed that cannot serve this torrent.
    #[error("{0}")]
    WebSeed(String),
    /// A web seed that has nothing of this torrent, for now.
    #[error("{0}")]
    WebSeedEmpty(String),
    #[error("it is reached in a better way")]
    Replaced,
    #[error("the torrent was closed")]
    Shutdown,
}

impl CloseReason {
    /// Whether the peer did something that no correct client does.
    pub(crate) fn is_misbehaviour(&self) -> bool {
        matches!(self, Self::Protocol(_) | Self::Violation(_) | Self::BadData | Self::Junk)
    }
}

impl From<TooMuch> for CloseReason {
    fn from(_: TooMuch) -> Self {
        Self::Junk
    }
}

impl From<std::io::Error> for CloseReason {
    fn from(error: std::io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// The torrent's side of a connection. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct PeerLink {
    commands: mpsc::Sender<PeerCommand>,
    cancel: CancellationToken,
}

impl PeerLink {
    /// A link to whoever takes the commands, until `cancel`.
    pub(crate) fn new(commands: mpsc::Sender<PeerCommand>, cancel: CancellationToken) -> Self {
        Self { commands, cancel }
    }

    /// Queues a command; `Err` when the peer is too far behind and must be dropped.
    pub(crate) fn send(&self, command: PeerCommand) -> Result<(), CloseReason> {
        self.commands.try_send(command).map_err(|_| CloseReason::TooSlow)
    }

    /// A link to nobody, for tests of what is above.
    #[cfg(test)]
    pub(crate) fn disconnected() -> Self {
        Self { commands: mpsc::channel(1).0, cancel: CancellationToken::new() }
    }

    /// Another way to the peer's writer, for extensions.
    pub(crate) fn sender(&self) -> mpsc::Sender<PeerCommand> {
        self.commands.clone()
    }
}

impl Drop for PeerLink {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// What both halves of a connection need.
#[derive(Debug, Clone)]
pub(crate) struct PeerContext {
    pub(crate) source: SourceId,
    pub(crate) engine: Arc<Engine>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) events: mpsc::Sender<(SourceId, PeerEvent)>,
    /// Both sides set the fast extension's bit.
    pub(crate) has_fast: HasFast,
}

/// Whether the fast extension (BEP 6) is in use on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HasFast {
    Yes,
    No,
}

/// Starts both halves. Exactly one [`PeerEvent::Closed`] follows in the end.
pub(crate) fn spawn(connection: Connection, context: PeerContext) -> PeerLink {
    let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
    let cancel = context.engine.cancel.child_token();
    let link = PeerLink { commands: commands.clone(), cancel: cancel.clone() };
    let Connection { reader, writer, .. } = connection;
    let tasks = context.engine.tasks.clone();
    tasks.spawn(async move {
        let reading = reader::read_task(reader, context.clone(), commands);
        let writing = writer::write_task(writer, context.clone(), inbox);
        let reason = tokio::select! {
            () = cancel.cancelled() => CloseReason::Shutdown,
            reason = reading => reason,
            reason = writing => reason,
        };
        // The torrent's task may be gone already; then nobody needs to know.
        let _gone = context.events.send((context.source, PeerEvent::Closed(reason))).await;
    });
    link
}

#[cfg(test)]
mod tests;
