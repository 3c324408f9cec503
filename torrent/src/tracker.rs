//! The client side of trackers: one announce or scrape at a time over HTTP(S), UDP or a web socket, and a task per
//! torrent that keeps announcing.
//!
//! [`TrackerClient`] is what a session shares: it speaks all protocols, over IPv4 and IPv6 where an HTTP or UDP tracker has
//! both (BEP 7: a tracker sees only the address that was used, so each family has to be announced). [`announcer`] decides
//! nothing itself; the order of trackers and the times come from `wtfs_proto::announce`.
//!
//! What a tracker sends is hostile: answers are limited in size, addresses that cannot be peers are dropped, and its
//! texts are cut before they reach a log or a status line.

use std::collections::HashSet;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use wtfs_proto::announce::{TrackerKind, WebSockets};
use wtfs_proto::id::InfoHash;
use wtfs_proto::tracker::http::AnnounceResponse;
use wtfs_proto::tracker::{AnnounceRequest, ScrapeEntry, TrackerError};

use crate::http::{HttpClient, HttpError};

pub mod announcer;
pub mod http;
pub mod local;
pub mod udp;
#[cfg(feature = "webrtc")]
pub(crate) mod ws;

#[cfg(test)]
mod tests;

/// How long the second address family may take after the first has answered. An IPv6 that is configured but leads
/// nowhere is common; the peers of the family that works must not wait for it.
const FAMILY_GRACE: Duration = Duration::from_secs(3);
/// Peers kept of one answer. Trackers send 50 to 200; thousands are an attempt to point us at somebody.
const MAX_PEERS: usize = 1000;

/// Limits of one announce or scrape.
#[derive(Debug, Clone)]
pub struct TrackerLimits {
    /// Longest time for an HTTP announce with its redirects and its body. Default 20 s.
    pub http_total: Duration,
    /// Time-out of the first UDP packet; each further try doubles it. Default 1 s (see [`udp`] for the reason).
    pub udp_first_timeout: Duration,
    /// Tries of each UDP packet. Default 4, which is 15 s in all.
    pub udp_tries: u32,
    /// Longest time for a UDP announce with its connect. Default 20 s.
    pub udp_total: Duration,
}

impl Default for TrackerLimits {
    fn default() -> Self {
        Self {
            http_total: Duration::from_secs(20),
            udp_first_timeout: Duration::from_secs(1),
            udp_tries: 4,
            udp_total: Duration::from_secs(20),
        }
    }
}

/// Why an announce or a scrape failed. The texts are sentences without the URL, which may hold a passkey.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnnounceError {
    /// HTTP failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The tracker said why it will not serve us.
    #[error("the tracker refused: {reason}")]
    Refused {
        /// Its `failure reason`.
        reason: String,
    },
    /// The answer is not one of a tracker.
    #[error("the answer is not that of a tracker: {0}")]
    Garbage(String),
    /// The URL cannot be used.
    #[error("the tracker's URL cannot be used: {0}")]
    InvalidUrl(String),
    /// The tracker's name has no address.
    #[error("the name {host} could not be resolved; check its spelling and this machine's DNS ({reason})")]
    Dns {
        /// The name.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// No answer came to any of the packets.
    #[error("{host} did not answer in time")]
    Timeout {
        /// The tracker's host.
        host: String,
    },
    /// The network or the host turned the packet away.
    #[error("{host} cannot be reached: {reason}")]
    Unreachable {
        /// The tracker's host.
        host: String,
        /// What the system said.
        reason: String,
    },
    /// The connection to a WebSocket tracker broke.
    #[error("the connection to {host} broke: {reason}")]
    Lost {
        /// The tracker's host.
        host: String,
        /// What was seen of it.
        reason: String,
    },
    /// This kind of tracker is of no use to this client, or not for this request.
    #[error("{0}")]
    Unsupported(&'static str),
}

impl From<TrackerError> for AnnounceError {
    fn from(error: TrackerError) -> Self {
        match error {
            TrackerError::Failure { reason } => Self::Refused { reason },
            error => Self::Garbage(error.to_string()),
        }
    }
}

impl AnnounceError {
    /// The wait the tracker asked for, when it did.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Http(HttpError::Status { retry_after, .. }) => *retry_after,
            _ => None,
        }
    }
}

#[cfg(feature = "webrtc")]
pub(crate) use ws::Caller;

/// Who announces; matters to WebSocket trackers alone, of which this build makes no use.
#[cfg(not(feature = "webrtc"))]
#[derive(Debug, Clone)]
pub(crate) enum Caller {}

/// Speaks to trackers of every supported kind. A clone shares connections and connection ids with its original.
#[derive(Debug, Clone)]
pub struct TrackerClient {
    http: HttpClient,
    udp: udp::UdpClient,
    #[cfg(feature = "webrtc")]
    ws: Option<ws::WsClient>,
    limits: TrackerLimits,
}

impl TrackerClient {
    /// A client that sends its HTTP requests through `http`.
    pub fn new(http: HttpClient, limits: TrackerLimits) -> Self {
        let udp = udp::UdpClient::new(&limits);
        Self {
            http,
            udp,
            #[cfg(feature = "webrtc")]
            ws: None,
            limits,
        }
    }

    /// With a client for WebSocket trackers.
    #[cfg(feature = "webrtc")]
    pub(crate) fn with_web_sockets(mut self, ws: Option<ws::WsClient>) -> Self {
        self.ws = ws;
        self
    }

    /// Whether WebSocket trackers are of use.
    pub(crate) fn web_sockets(&self) -> WebSockets {
        #[cfg(feature = "webrtc")]
        if self.ws.is_some() {
            return WebSockets::Used;
        }
        WebSockets::Unused
    }

    /// Announces `request` to the tracker at `url`. The peers of the answer are free of duplicates and of addresses
    /// that cannot be those of a peer.
    ///
    /// # Errors
    /// See [`AnnounceError`]; it comes within the limits this client was made with.
    ///
    /// # Cancel safety
    /// Dropping the future gives the announce up; the tracker may have counted it.
    pub async fn announce(
        &self,
        url: &str,
        request: &AnnounceRequest,
    ) -> Result<AnnounceResponse, AnnounceError> {
        self.announce_as(url, request, None).await
    }

    /// As [`Self::announce`], for a swarm that can take the connections a WebSocket tracker brings about.
    pub(crate) async fn announce_as(
        &self,
        url: &str,
        request: &AnnounceRequest,
        caller: Option<&Caller>,
    ) -> Result<AnnounceResponse, AnnounceError> {
        #[cfg(feature = "webrtc")]
        if let (TrackerKind::WebSocket, Some(ws), Some(caller)) = (TrackerKind::of(url), &self.ws, caller) {
            return ws.announce(url, request, caller).await;
        }
        #[cfg(not(feature = "webrtc"))]
        let _nobody = caller;
        let (first, second) = match TrackerKind::of(url) {
            TrackerKind::Http => http::announce(&self.http, url, request, self.limits.http_total).await?,
            TrackerKind::Udp => self.udp.announce(url, request).await?,
            kind => return Err(unsupported(kind)),
        };
        Ok(merge(first, second))
    }

    /// Asks the tracker at `url` (its announce URL) for the counts of `hashes`, in their order; a torrent it does not
    /// know is `None`.
    ///
    /// # Errors
    /// [`AnnounceError::Unsupported`] when the URL has no scrape counterpart (BEP 48), else as for an announce.
    ///
    /// # Cancel safety
    /// Dropping the future gives the scrape up.
    pub async fn scrape(
        &self,
        url: &str,
        hashes: &[InfoHash],
    ) -> Result<Vec<Option<ScrapeEntry>>, AnnounceError> {
        match TrackerKind::of(url) {
            TrackerKind::Http => http::scrape(&self.http, url, hashes, self.limits.http_total).await,
            TrackerKind::Udp => self.udp.scrape(url, hashes).await,
            kind => Err(unsupported(kind)),
        }
    }
}

fn unsupported(kind: TrackerKind) -> AnnounceError {
    AnnounceError::Unsupported(match kind {
        TrackerKind::WebSocket => "this tracker needs WebRTC and is not used",
        _ => "the scheme of this tracker is not known; use http, https, udp, ws or wss",
    })
}

/// One answer of those over two families: all peers, the larger counts, the rest from the first.
fn merge(mut first: AnnounceResponse, second: Option<AnnounceResponse>) -> AnnounceResponse {
    if let Some(second) = second {
        first.peers.extend(second.peers);
        first.seeders = first.seeders.max(second.seeders);
        first.leechers = first.leechers.max(second.leechers);
        first.min_interval_s = first.min_interval_s.max(second.min_interval_s);
        first.warning = first.warning.or(second.warning);
    }
    let mut seen = HashSet::new();
    first.peers.retain(|peer| is_possible_peer(peer) && seen.len() < MAX_PEERS && seen.insert(*peer));
    first
}

/// Whether `address` may be a peer at all. Private and loopback ones are: swarms in a data centre live there.
fn is_possible_peer(address: &SocketAddr) -> bool {
    let is_host = match address.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    };
    is_host && address.port() != 0
}

/// Runs the same request over two families at once: the first success, and the other's if it comes within `grace`
/// after it. With no success, the error that came first.
async fn over_both<T, E>(
    v4: impl Future<Output = Result<T, E>>,
    v6: impl Future<Output = Result<T, E>>,
    grace: Duration,
) -> Result<(T, Option<T>), E> {
    use futures_util::future::{Either, select};
    let (v4, v6) = (std::pin::pin!(v4), std::pin::pin!(v6));
    let (first, other) = match select(v4, v6).await {
        Either::Left((first, other)) => (first, Either::Left(other)),
        Either::Right((first, other)) => (first, Either::Right(other)),
    };
    let other = async {
        match other {
            Either::Left(other) => other.await,
            Either::Right(other) => other.await,
        }
    };
    match first {
        Ok(first) => {
            let second = tokio::time::timeout(grace, other).await;
            Ok((first, second.ok().and_then(Result::ok)))
        }
        Err(error) => match other.await {
            Ok(second) => Ok((second, None)),
            Err(_) => Err(error),
        },
    }
}
