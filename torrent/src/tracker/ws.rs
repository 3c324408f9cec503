//! The client of WebSocket trackers, through which peers in browsers and we find each other.
//!
//! Such a tracker hands out no addresses. An announce carries offers, the tracker passes each on to another peer, and
//! that one's answer comes back; offers of others come in the same way. [`WsClient`] keeps one line to a tracker for all
//! swarms of the session (`socket`), and knows of the connections only that a [`Factory`] makes descriptions and takes
//! answers, and that a [`Swarm`] welcomes what comes of them.
//!
//! What a tracker says is hostile: messages are limited in size and number, offers are taken only for swarms that were
//! announced, and an answer only for an offer of ours that waits. Nobody waits for a tracker that does not read.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wtfs_proto::id::{InfoHash, PeerId};
use wtfs_proto::tracker::AnnounceRequest;
use wtfs_proto::tracker::http::AnnounceResponse;

pub(crate) use self::data_channels::DataChannels;
use self::line::Line;
use self::shares::{Portions, Shares};
use self::socket::{Command, SocketTask, Times};
use super::AnnounceError;
use super::local::OwnTracker;
use crate::http::HttpClient;
use crate::transport::Connection;
use crate::transport::webrtc::RtcError;

mod data_channels;
mod line;
mod offers;
mod shares;
mod socket;
#[cfg(test)]
mod tests;

/// Trackers spoken to at once. A torrent may name two hundred, and each costs a connection for as long as it is announced.
const MAX_SOCKETS: usize = 64;
/// Connections that may be under way at once, of all sockets: with the offers that nobody has answered, and as many peers
/// as are usual, well within those that the session may have.
const UNDER_WAY: Portions = Portions { own: 1, shared: 64 };
/// Announces that may wait for a socket's task.
const COMMAND_QUEUE: usize = 64;

/// Where those who use a tracker are, as far as it matters to how they reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On this machine or in this network: our own addresses will do.
    Near,
    /// Anywhere: they have to know how we look from outside.
    Far,
}

/// A session description of ours, and what comes of it.
pub(crate) type Described<T> = Result<(String, Box<T>), RtcError>;

/// Makes session descriptions, and connections of them.
pub(crate) trait Factory: fmt::Debug + Send + Sync {
    /// A complete offer, and what takes the answer to it.
    fn offer(&self, place: Place) -> BoxFuture<'static, Described<dyn Offered>>;
    /// A complete answer to a peer's offer, and the connection to come.
    fn answer(&self, offer: String, place: Place) -> BoxFuture<'static, Described<dyn Answered>>;
}

/// An offer of ours. Dropped, it is gone.
pub(crate) trait Offered: Send {
    /// Connects to whoever answered.
    fn accept(self: Box<Self>, answer: String) -> BoxFuture<'static, Result<Connection, RtcError>>;
}

/// An answer of ours. Dropped, it is gone.
pub(crate) trait Answered: Send {
    /// Waits until the peer has come through.
    fn connected(self: Box<Self>) -> BoxFuture<'static, Result<Connection, RtcError>>;
}

/// A torrent that is announced, as its peers' connections come to it.
pub(crate) trait Swarm: fmt::Debug + Send + Sync {
    /// How many peers it is looking for.
    fn wanted(&self) -> usize;
    /// Whether it takes another one that comes by itself.
    fn has_room(&self) -> bool;
    /// How many peers it is connected with, in whatever way.
    fn connected(&self) -> usize;
    /// Whether it is connected with this peer, in whatever way.
    fn is_connected(&self, peer_id: PeerId) -> bool;
    /// Whether it has ended.
    fn is_gone(&self) -> bool;
    /// Shakes hands over a new connection and takes it in, if all goes well.
    fn welcome(&self, connection: Connection, info_hash: InfoHash) -> BoxFuture<'static, ()>;
}

/// Who announces.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) swarm: Arc<dyn Swarm>,
    /// Told when a tracker that has answered is lost: nothing is heard of it then until the next announce.
    pub(crate) lost: Arc<dyn Fn(&AnnounceError) + Send + Sync>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("swarm", &self.swarm).finish_non_exhaustive()
    }
}

/// Speaks to WebSocket trackers. Clones share their sockets.
#[derive(Debug, Clone)]
pub(crate) struct WsClient(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    http: HttpClient,
    factory: Arc<dyn Factory>,
    own: Option<OwnTracker>,
    sockets: Mutex<HashMap<String, mpsc::Sender<Command>>>,
    shares: Shares,
    tasks: TaskTracker,
    cancel: CancellationToken,
    /// How long an announce may take, with opening the socket.
    announce_timeout: Duration,
    times: Times,
}

/// How the task of a socket gets its line.
#[derive(Debug, Clone)]
enum Dialer {
    Http(HttpClient, String),
    Own(OwnTracker),
}

impl Dialer {
    async fn dial(self) -> Result<Line, AnnounceError> {
        match self {
            Self::Http(http, url) => Line::open(&http, &url).await,
            Self::Own(own) => Ok(Line::local(own.tracker.connect())),
        }
    }
}

impl WsClient {
    /// Its tasks run in `tasks`, until `cancel`. `own` is a tracker in this process.
    pub(crate) fn new(
        http: HttpClient,
        factory: Arc<dyn Factory>,
        own: Option<OwnTracker>,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared {
            http,
            factory,
            own,
            sockets: Mutex::default(),
            shares: Shares::new(UNDER_WAY),
            tasks,
            cancel,
            announce_timeout: Duration::from_secs(20),
            times: Times::default(),
        }))
    }

    /// Announces, and takes part in what the tracker passes on until `stopped` is announced or the line is lost.
    ///
    /// # Errors
    /// When the tracker is not reached, refuses, or says nothing in time.
    ///
    /// # Cancel safety
    /// Dropping the future gives up waiting; the announce may still be made.
    pub(crate) async fn announce(
        &self,
        url: &str,
        request: &AnnounceRequest,
        caller: &Caller,
    ) -> Result<AnnounceResponse, AnnounceError> {
        let parsed = url::Url::parse(url).map_err(|error| AnnounceError::InvalidUrl(error.to_string()))?;
        let host = crate::http::host_of(&parsed);
        let announcing = async {
            // The task may end for want of work while this is on its way to it.
            for _ in 0..2 {
                let (reply, answer) = oneshot::channel();
                let command = Command { request: request.clone(), caller: caller.clone(), reply };
                if self.socket(&parsed)?.send(command).await.is_err() {
                    continue;
                }
                if let Ok(answer) = answer.await {
                    return answer;
                }
            }
            Err(AnnounceError::Lost { host: host.clone(), reason: "the announce was not made".to_owned() })
        };
        let answered = tokio::time::timeout(self.0.announce_timeout, announcing).await;
        answered.unwrap_or(Err(AnnounceError::Timeout { host: host.clone() }))
    }

    /// The task that has the socket to `url`, a new one if there is none.
    fn socket(&self, url: &url::Url) -> Result<mpsc::Sender<Command>, AnnounceError> {
        let shared = &self.0;
        let mut sockets = shared.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = sockets.get(url.as_str()).filter(|socket| !socket.is_closed()) {
            return Ok(socket.clone());
        }
        sockets.retain(|_, socket| !socket.is_closed());
        if sockets.len() >= MAX_SOCKETS {
            return Err(AnnounceError::Unsupported("too many WebSocket trackers are in use already"));
        }
        let (sender, inbox) = mpsc::channel(COMMAND_QUEUE);
        let own = shared.own.as_ref().filter(|own| url::Url::parse(&own.url).is_ok_and(|own| own == *url));
        let dialer = match own {
            Some(own) => Dialer::Own(own.clone()),
            None => Dialer::Http(shared.http.clone(), url.as_str().to_owned()),
        };
        let host = crate::http::host_of(url);
        let (factory, share) = (shared.factory.clone(), shared.shares.join());
        let task = SocketTask::new(shared.times, host.clone(), dialer, factory, share, inbox);
        let span = tracing::info_span!("tracker", %host);
        let running = tracing::Instrument::instrument(task.run(shared.cancel.clone()), span);
        shared.tasks.spawn(running);
        sockets.insert(url.as_str().to_owned(), sender.clone());
        Ok(sender)
    }
}
