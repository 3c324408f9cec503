//! WebRTC data channels: how peers in browsers are reached (webtorrent), and peers that no TCP connection reaches.
//!
//! A [`RtcFactory`] makes offers and answers. A description is complete when it is given out (no trickle: simple-peer and
//! so webtorrent expect it), a plain string, and carried by somebody else. A [`PendingOffer`] takes one answer, and both
//! kinds of pending end as a [`Connection`] or an [`RtcError`] within a deadline. Dropping anything at any time frees its
//! sockets, tasks and places.
//!
//! One task owns each connection from its first candidate to its end (`link`). The library's own work is done by a task
//! of its own per connection, on a thread for all of them; a panic there ends that connection. No type of the library
//! leaves these files.

mod addresses;
#[cfg(test)]
mod hostile_tests;
mod in_flight;
mod link;
mod outbox;
mod pacing;
mod policy;
mod runtime;
mod sdp;
mod servers;
mod socket;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::Connection;
use crate::config::IceServer;
use link::Role;
pub(crate) use policy::RtcPolicy;
use sdp::RemoteSdp;
use servers::Servers;

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RtcError {
    /// As many connections or unanswered offers as are allowed exist already. Nothing was sent.
    #[error("too many WebRTC connections or offers at once")]
    TooMany,
    /// No address of ours may be offered.
    #[error("no network address to offer")]
    NoAddress,
    /// The peer's description is too long.
    #[error("a session description of {0} bytes")]
    LongSdp(usize),
    /// The peer's description makes no sense.
    #[error("the session description is not usable: {0}")]
    BadSdp(String),
    /// Nothing came of it within the deadline.
    #[error("no data channel within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The peers do not reach each other, or the peer left before the channel was open.
    #[error("the connection failed: {0}")]
    Failed(EndReason),
    /// The library failed, in its own words.
    #[error("WebRTC failed: {0}")]
    Backend(String),
    /// The session ends.
    #[error("the session is closing")]
    Closing,
}

impl RtcError {
    /// Whether the peer's description is at fault, so that the same one will never do.
    pub(crate) fn is_peers_fault(&self) -> bool {
        matches!(self, Self::LongSdp(_) | Self::BadSdp(_))
    }
}

/// Why a connection ended: the one signal for all of its ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndReason {
    /// The peer closed the channel.
    #[error("the peer closed the channel")]
    Closed,
    /// Nothing was heard of the peer for too long, or no pair of addresses works.
    #[error("the peer is not reached")]
    Unreachable,
    /// The peer opened a second channel, or sent text.
    #[error("the peer broke the protocol")]
    Violation,
    /// We closed it.
    #[error("closed here")]
    Local,
    /// The library's task ended by itself.
    #[error("the transport broke")]
    Broken,
}

/// Makes connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RtcFactory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    policy: RtcPolicy,
    connections: Arc<Semaphore>,
    offers: Arc<Semaphore>,
    wide: Arc<Semaphore>,
    servers: Servers,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl RtcFactory {
    /// Its tasks run in `tasks`, and end soon after `shutdown`.
    pub(crate) fn new(policy: RtcPolicy, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            connections: Arc::new(Semaphore::new(policy.connections_max)),
            offers: Arc::new(Semaphore::new(policy.offers_max)),
            wide: Arc::new(Semaphore::new(policy.wide.connections_max)),
            servers: Servers::new(&policy.servers),
            policy,
            tasks,
            shutdown,
        }))
    }

    /// The same with other servers. Connections and offers of both are counted together.
    pub(crate) fn with_servers(&self, servers: Vec<IceServer>) -> Self {
        let shared = &self.0;
        Self(Arc::new(Shared {
            servers: Servers::new(&servers),
            policy: RtcPolicy { servers, ..shared.policy.clone() },
            connections: shared.connections.clone(),
            offers: shared.offers.clone(),
            wide: shared.wide.clone(),
            tasks: shared.tasks.clone(),
            shutdown: shared.shutdown.clone(),
        }))
    }

    /// A complete offer, and what takes the answer to it. Takes as long as gathering does
    /// (`RtcPolicy::waits_for_candidates` at most).
    ///
    /// # Errors
    ///
    /// [`RtcError::TooMany`], [`RtcError::NoAddress`], [`RtcError::Backend`], [`RtcError::Closing`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves nothing behind.
    pub(crate) async fn offer(&self) -> Result<(String, PendingOffer), RtcError> {
        let offer = Arc::clone(&self.0.offers).try_acquire_owned().map_err(|_| RtcError::TooMany)?;
        let (answer, answered) = oneshot::channel();
        let (sdp, pending) = self.start(Role::Offers(answered)).await?;
        Ok((sdp, PendingOffer { answer, pending, place: offer, sdp_bytes_max: self.0.policy.sdp_bytes_max }))
    }

    /// A complete answer to a peer's offer, and the connection to come.
    ///
    /// # Errors
    ///
    /// As [`offer`](Self::offer); [`RtcError::LongSdp`] and [`RtcError::BadSdp`] if the offer is to blame.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves nothing behind.
    pub(crate) async fn answer(&self, offer_sdp: &str) -> Result<(String, PendingAnswer), RtcError> {
        let offer = sdp::check(offer_sdp, self.0.policy.sdp_bytes_max)?;
        let (sdp, pending) = self.start(Role::Answers(offer)).await?;
        Ok((sdp, PendingAnswer { pending }))
    }

    /// Connections in all states, of those that are allowed.
    pub(crate) fn connections(&self) -> usize {
        self.0.policy.connections_max - self.0.connections.available_permits()
    }

    async fn start(&self, role: Role) -> Result<(String, Pending), RtcError> {
        if self.0.shutdown.is_cancelled() {
            return Err(RtcError::Closing);
        }
        let place = Arc::clone(&self.0.connections).try_acquire_owned().map_err(|_| RtcError::TooMany)?;
        let cancel = self.0.shutdown.child_token();
        let guard = cancel.clone().drop_guard();
        let (described, description) = oneshot::channel();
        let (opened, connection) = oneshot::channel();
        let task = link::run(Arc::clone(&self.0), role, link::Reports { described, opened }, cancel, place);
        self.0.tasks.spawn(task);
        let sdp = description.await.unwrap_or(Err(RtcError::Backend(PANICKED.to_owned())))?;
        Ok((sdp, Pending { connection, guard }))
    }
}

const PANICKED: &str = "its task panicked";

/// The way to a connection; dropped, the way ends.
#[derive(Debug)]
struct Pending {
    connection: oneshot::Receiver<Result<Connection, RtcError>>,
    guard: DropGuard,
}

impl Pending {
    async fn connected(self) -> Result<Connection, RtcError> {
        let connection = self.connection.await.unwrap_or(Err(RtcError::Backend(PANICKED.to_owned())))?;
        // From here on the connection's own halves keep it.
        self.guard.disarm();
        Ok(connection)
    }
}

/// An offer that nobody answered yet. Dropped, it is gone: a later answer finds nobody.
#[derive(Debug)]
pub(crate) struct PendingOffer {
    answer: oneshot::Sender<RemoteSdp>,
    pending: Pending,
    place: OwnedSemaphorePermit,
    sdp_bytes_max: usize,
}

impl PendingOffer {
    /// Connects to whoever answered. Its place among the unanswered offers is free at once.
    ///
    /// # Errors
    ///
    /// [`RtcError::LongSdp`] and [`RtcError::BadSdp`] if the answer is to blame; [`RtcError::Timeout`] after
    /// `open_timeout`; [`RtcError::Failed`], [`RtcError::Backend`], [`RtcError::Closing`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves nothing behind.
    pub(crate) fn accept(
        self,
        answer_sdp: &str,
    ) -> impl Future<Output = Result<Connection, RtcError>> + Send + use<> {
        let Self { answer, pending, place, sdp_bytes_max } = self;
        let checked = sdp::check(answer_sdp, sdp_bytes_max);
        // It is no unanswered offer any more.
        drop(place);
        async move {
            // If the task is gone, it says why.
            let _ = answer.send(checked?);
            pending.connected().await
        }
    }
}

/// An answer that was given; whether the peer gets through is not known yet.
#[derive(Debug)]
pub(crate) struct PendingAnswer {
    pending: Pending,
}

impl PendingAnswer {
    /// Waits until the peer's channel is open.
    ///
    /// # Errors
    ///
    /// [`RtcError::Timeout`] after `open_timeout`; [`RtcError::Failed`], [`RtcError::Backend`], [`RtcError::Closing`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves nothing behind.
    pub(crate) async fn connected(self) -> Result<Connection, RtcError> {
        self.pending.connected().await
    }
}
