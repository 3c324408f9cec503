//! Serving connections: accepting them, within limits, and ending them without cutting off what is being sent.
//!
//! Owns time-outs and limits of HTTP/1.1. A client that is slow with a request's head, or takes nothing of a response,
//! is closed; so is a connection that idles. Knows no routes: the router comes from [`Hub`](crate::Hub). Each request
//! carries in its extensions a [`ConnectInfo`] of its peer and, where files can go straight to the socket, a
//! [`Lane`](lane::Lane).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) mod lane;
pub(crate) mod seats;
mod wire;

use crate::client_addr::TrustedProxies;
use crate::places::OverTls;
use crate::tls::Tls;
use lane::Lane;
use seats::{Seat, Seats};
use wire::{Sealed, Stall, Wire};

/// How long to wait when no more sockets can be had: asking again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often a connection is looked at for a write that waits too long.
const STALL_TICK: Duration = Duration::from_secs(5);

/// Limits of the HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServingConfig {
    /// Connections in all; further ones wait to be accepted. Each costs a descriptor and some KiB.
    pub connections_max: usize,
    /// Connections from one address (one /64 of IPv6); further ones are closed at once.
    pub connections_per_ip: usize,
    /// How long a client may take for the head of a request, and a connection idle between two.
    pub header_timeout: Duration,
    /// How long a client may take nothing of a response that waits for it.
    pub write_timeout: Duration,
    /// The longest head of a request, in bytes.
    pub header_bytes_max: usize,
    /// How long responses may go on once the server is told to stop.
    pub grace: Duration,
}

impl Default for ServingConfig {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            connections_per_ip: 512,
            header_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(60),
            header_bytes_max: 32 << 10,
            grace: Duration::from_secs(30),
        }
    }
}

/// In a request's extensions: cancelled when its server is told to stop, for responses that would go on for good.
#[derive(Debug, Clone)]
pub(crate) struct Stopping(pub(crate) CancellationToken);

/// What all listeners of a hub share.
#[derive(Debug, Clone)]
pub(crate) struct Serving {
    config: Arc<ServingConfig>,
    seats: Seats,
    tls: Option<Tls>,
}

impl Serving {
    pub(crate) fn new(config: ServingConfig, proxies: TrustedProxies, tls: Option<Tls>) -> Self {
        let seats = Seats::new(config.connections_max, config.connections_per_ip, proxies);
        Self { config: Arc::new(config), seats, tls }
    }

    /// Accepts until `stop`, then lets what runs finish within the grace time.
    ///
    /// # Errors
    /// When the listener cannot go on.
    ///
    /// # Cancel safety
    /// Dropped, the listener closes and its connections are cut.
    pub(crate) async fn run(
        &self,
        listener: TcpListener,
        router: Router,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let connections = TaskTracker::new();
        let cut = CancellationToken::new();
        let _cut_when_dropped = cut.clone().drop_guard();
        let outcome = loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break Ok(()),
                accepted = self.accept(&listener) => accepted,
            };
            match accepted {
                Ok(Some((stream, peer, seat))) => {
                    let connection = self.connection(stream, peer, seat, router.clone(), stop.clone());
                    connections.spawn(cut.clone().run_until_cancelled_owned(connection));
                }
                Ok(None) => {}
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) if is_shortage(&error) => {
                    tracing::warn!(%error, "no connection can be accepted for now");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Err(error) => break Err(error),
            }
        };
        // Others who connect are to be refused, not kept waiting.
        drop(listener);
        connections.close();
        if tokio::time::timeout(self.config.grace, connections.wait()).await.is_err() {
            tracing::warn!(connections = connections.len(), "responses were cut off after the grace time");
            cut.cancel();
            connections.wait().await;
        }
        outcome
    }

    async fn accept(&self, listener: &TcpListener) -> io::Result<Option<(TcpStream, SocketAddr, Seat)>> {
        let Some(place) = self.seats.place().await else { return Ok(None) };
        let (stream, peer) = listener.accept().await?;
        let Some(seat) = self.seats.seat(place, peer.ip()) else {
            tracing::debug!(%peer, "closed at once: too many connections from there");
            return Ok(None);
        };
        Ok(Some((stream, peer, seat)))
    }

    /// Serves one connection to its end.
    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        seat: Seat,
        router: Router,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let config = self.config.clone();
        let tls = self.tls.clone();
        async move {
            // A response's last bytes must not wait for an acknowledgement.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%peer, %error, "the connection is gone already");
                return;
            }
            let stall = Arc::new(Stall::new(Instant::now()));
            let serving = Connection { config, peer, router, stop, stall: stall.clone() };
            let Some(tls) = tls else {
                let lane = Lane::default();
                let wire = Wire::new(stream, lane.clone(), stall, seat);
                return serving.run(TokioIo::new(wire), Carrier::Plain(lane)).await;
            };
            let handshake = tls.acceptor().accept(stream);
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(serving.config.header_timeout, handshake) => shaken,
                () = serving.stop.cancelled() => return,
            };
            match shaken {
                Ok(Ok(stream)) => {
                    serving.run(TokioIo::new(Sealed::new(stream, stall, seat)), Carrier::Tls).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS"),
                Err(_) => tracing::debug!(%peer, "closed: it takes too long with TLS"),
            }
        }
    }
}

/// What carries requests.
#[derive(Debug, Clone)]
enum Carrier {
    /// The socket, to which files can go straight.
    Plain(Lane),
    Tls,
}

/// One connection that is served.
struct Connection {
    config: Arc<ServingConfig>,
    peer: SocketAddr,
    router: Router,
    stop: CancellationToken,
    stall: Arc<Stall>,
}

impl Connection {
    async fn run<I: Read + Write + Unpin + Send + 'static>(self, io: I, carrier: Carrier) {
        let Self { config, peer, router, stop, stall } = self;
        let router = TowerToHyperService::new(router);
        let stopping = Stopping(stop.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            let extensions = request.extensions_mut();
            extensions.insert(ConnectInfo(peer));
            extensions.insert(stopping.clone());
            match &carrier {
                Carrier::Plain(lane) => drop(extensions.insert(lane.clone())),
                Carrier::Tls => drop(extensions.insert(OverTls)),
            }
            router.call(request)
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(config.header_timeout)
            .max_buf_size(config.header_bytes_max.max(8 << 10))
            .serve_connection(io, service)
            .with_upgrades();
        let mut served = std::pin::pin!(served);
        let mut is_stopping = false;
        let ended = loop {
            tokio::select! {
                ended = served.as_mut() => break ended,
                () = stop.cancelled(), if !is_stopping => {
                    is_stopping = true;
                    served.as_mut().graceful_shutdown();
                }
                () = tokio::time::sleep(STALL_TICK) => {
                    if stall.waited(Instant::now()) > config.write_timeout {
                        tracing::debug!(%peer, "closed: it takes nothing of what it asked for");
                        return;
                    }
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection ended badly");
        }
    }
}

/// Errors of the connection that was to be accepted: accept(2).
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Out of descriptors or memory: it passes.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    shortages.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
