//! A running hub: what it is made of, and how it starts and ends.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::Response;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wtfs_torrent::tracker::local::OwnTracker;
use wtfs_torrent::{BridgePolicy, Session, StartError};

use crate::access_log::{self, AccessLog, Observer};
use crate::audience::{self, Audience};
use crate::browser_page::{self, IceServers};
use crate::client_addr::TrustedProxies;
use crate::closed_swarms::ClosedSwarms;
use crate::config::HubConfig;
use crate::dashboard;
use crate::hf::{self, HfError, HfProxy, Swarms};
use crate::library::Library;
use crate::metrics::{self, traffic::Traffic};
use crate::own_peer::{self, Others};
use crate::places::PublicUrl;
use crate::roots::{Roots, RootsConfig};
use crate::routes::{self, IsReady, Routes};
use crate::serving::Serving;
use crate::shelves::Shelves;
use crate::stats::{self, Stats};
use crate::tls::{Tls, TlsError};
use crate::tracker::{self, Tracker};
use crate::webseed;

/// Why a hub cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The engine cannot.
    #[error(transparent)]
    Engine(#[from] StartError),
    /// A root is no directory, or cannot be read.
    #[error("{} cannot be shared: {source}{}", path.display(), hint(source))]
    Root {
        /// Which.
        path: std::path::PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// What is remembered of the roots cannot be kept.
    #[error("the records of shared files cannot be kept: {0}")]
    Records(#[source] io::Error),
    /// A list of the tracker's cannot be read.
    #[error(transparent)]
    Lists(#[from] tracker::ReloadError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The settings of the proxy of Hugging Face cannot work.
    #[error(transparent)]
    Hf(#[from] HfError),
}

/// What to do about a root that cannot be shared.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; create the directory",
        io::ErrorKind::NotADirectory => "; give a directory, whose files are shared",
        _ => "",
    }
}

/// A running hub. Clones are the same one; it goes on until [`Hub::shutdown`].
#[derive(Debug, Clone)]
pub struct Hub {
    session: Session,
    roots: Roots,
    library: Arc<dyn Library>,
    tracker: Tracker,
    serving: Serving,
    public_url: Option<PublicUrl>,
    udp_port: Option<u16>,
    trusted_proxies: TrustedProxies,
    stats: Stats,
    visibility: Visibility,
    hf: Option<HfProxy>,
    swarms: Option<Swarms>,
    ice: IceServers,
    stop: CancellationToken,
}

/// Who sees what of requests and numbers.
#[derive(Debug, Clone)]
struct Visibility {
    log: AccessLog,
    metrics: Audience,
    stats: Audience,
}

impl Hub {
    /// Starts the engine, the tracker, and the watch over the roots; hashing goes on in the background. Must run on a
    /// tokio runtime.
    ///
    /// # Errors
    /// See [`OpenError`].
    ///
    /// # Cancel safety
    /// Dropped, what was started ends.
    pub async fn open(config: HubConfig) -> Result<Self, OpenError> {
        let stop = CancellationToken::new();
        let started = stop.clone().drop_guard();
        let mut roots = Vec::new();
        for root in config.roots {
            let path = root.clone();
            let canonical = tokio::task::spawn_blocking(move || {
                let canonical = path.canonicalize()?;
                canonical.read_dir().map(|_| canonical)
            });
            match canonical.await.unwrap_or_else(|lost| Err(io::Error::other(lost))) {
                Ok(root) if !roots.contains(&root) => roots.push(root),
                Ok(_) => {}
                Err(source) => return Err(OpenError::Root { path: root, source }),
            }
        }
        let tls = match config.tls {
            Some(files) => Some(Tls::open(files, stop.clone()).await?),
            None => None,
        };
        let tracker = Tracker::new(config.tracker);
        let lists = tracker.clone();
        let read = tokio::task::spawn_blocking(move || lists.reload()).await;
        read.unwrap_or(Ok(()))?;
        let cache_dir = config.session.cache_dir.clone();
        let records_dir = cache_dir.join("hub").join("shared");
        let ice = IceServers {
            configured: config.session.ice_servers.as_deref().map(Arc::from),
            public_url: config.public_url.clone(),
        };
        let mut engine = config.session;
        // To the engine it is a tracker like any other, but reached without going through TLS, a proxy or a passkey.
        let own = OwnTracker { url: own_url(config.public_url.as_ref()), tracker: Arc::new(tracker.clone()) };
        engine.own_tracker = Some(own);
        engine.bridge = BridgePolicy::On;
        let session = Session::open(engine).await?;
        let hf = config.hf.map(|hf| HfProxy::open(hf, &session, &cache_dir, config.public_url.clone()));
        let hf = match hf.transpose() {
            Ok(hf) => hf,
            Err(error) => {
                session.shutdown().await;
                return Err(error.into());
            }
        };
        let swarms = hf.clone();
        let swarms =
            swarms.map(|hf| Swarms::start(hf, session.clone(), tracker.clone(), &cache_dir, stop.clone()));
        let others = swarms.as_ref().map_or_else(
            || Others {
                changes: watch::channel(0).1,
                announced: watch::channel(0).0,
                closed: ClosedSwarms::default(),
            },
            Swarms::others,
        );
        let closed = others.closed.clone();
        let roots = RootsConfig { roots, records_dir, quiet: config.quiet, rescan: config.rescan };
        let roots = match Roots::start(roots, session.clone(), stop.clone()).await {
            Ok(roots) => roots,
            Err(error) => {
                session.shutdown().await;
                return Err(OpenError::Records(error));
            }
        };
        tokio::spawn({
            let (tracker, stop) = (tracker.clone(), stop.clone());
            async move { tracker.maintain(stop).await }
        });
        tokio::spawn(own_peer::announce_task(
            tracker.clone(),
            session.clone(),
            config.public_url.clone(),
            roots.changes(),
            others,
            stop.clone(),
        ));
        let library: Arc<dyn Library> = Arc::new(Shelves::new(roots.clone(), session.clone(), closed));
        let sources = stats::Sources {
            session: session.clone(),
            library: library.clone(),
            tracker: tracker.clone(),
            traffic: Arc::<Traffic>::default(),
            is_ready: is_ready(&roots),
            cache_dir,
            public_url: config.public_url.clone(),
        };
        let stats = Stats::start(sources, stop.clone());
        started.disarm();
        Ok(Self {
            library,
            session,
            roots,
            tracker,
            serving: Serving::new(config.serving, config.trusted_proxies.clone(), tls),
            public_url: config.public_url,
            udp_port: config.udp_port,
            trusted_proxies: config.trusted_proxies,
            stats,
            visibility: Visibility {
                log: config.access_log,
                metrics: config.metrics_audience,
                stats: config.stats_audience,
            },
            hf,
            swarms,
            ice,
            stop,
        })
    }

    /// Everything the hub serves, to be merged into or nested in another application's router. That application should
    /// serve with [`ConnectInfo`](axum::extract::ConnectInfo), or the tracker knows nobody's address.
    pub fn router(&self) -> Router {
        let routes = Routes {
            library: self.library.clone(),
            public_url: self.public_url.clone(),
            udp_port: self.udp_port,
            is_ready: is_ready(&self.roots),
        };
        let roots = self.roots.clone();
        let metrics =
            metrics::router(self.stats.clone(), Arc::new(move || roots.hashed_count()), self.swarms.clone())
                .layer(from_fn_with_state(self.visibility.metrics.clone(), audience::admit));
        let traffic = self.stats.sources().traffic.clone();
        let shown = stats::router(self.stats.clone())
            .merge(dashboard::router())
            .merge(hf::stats_router(self.swarms.clone(), traffic.clone()))
            .layer(from_fn_with_state(self.visibility.stats.clone(), audience::admit));
        let root_state = (self.tracker.clone(), self.visibility.stats.clone());
        let observer = Observer { traffic, log: self.visibility.log };
        // What no other route takes.
        let hf = self.hf.clone().map(hf::router).unwrap_or_default();
        let swarms = self.swarms.clone();
        let swarms = swarms.map(|swarms| hf::swarm_router(swarms, self.public_url.clone(), self.udp_port));
        Router::new()
            .merge(hf)
            .merge(swarms.unwrap_or_default())
            .merge(routes::router(routes))
            .merge(webseed::router(self.library.clone()))
            .merge(browser_page::router(self.ice.clone()))
            .merge(self.tracker.router())
            .merge(Router::new().route("/", get(root)).with_state(root_state))
            .merge(shown)
            .merge(metrics)
            .layer(from_fn_with_state(observer, access_log::observe))
            .layer(Extension(self.trusted_proxies.clone()))
    }

    /// Serves on a listener until `stop` is cancelled; responses that have begun are finished within the grace time.
    /// May run on several listeners at once; they share the limits.
    ///
    /// # Errors
    /// When the listener fails.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listener and cuts what is being sent.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        self.serving.run(listener, self.router(), stop).await
    }

    /// Answers the UDP tracker's datagrams on a socket until `stop` is cancelled.
    ///
    /// # Errors
    /// When the socket fails.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket.
    pub async fn serve_udp(&self, socket: UdpSocket, stop: CancellationToken) -> io::Result<()> {
        self.tracker.serve_udp(socket, stop).await
    }

    /// Tells where the tracker over UDP is, once it is known. Before [`Hub::serve`].
    #[must_use]
    pub fn with_udp_port(mut self, port: Option<u16>) -> Self {
        self.udp_port = port;
        self
    }

    /// The engine, for more torrents to be added: the hub lists and serves them too, and fetches what is asked for.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The tracker.
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// How many entries of the roots were hashed since the start; what a record knew is not among them.
    pub fn hashed_count(&self) -> u64 {
        self.roots.hashed_count()
    }

    /// Ends it: web sockets are closed, nothing is watched, peers are let go, records are written. To be called once
    /// nothing is served any more. Takes a few seconds at most.
    ///
    /// # Cancel safety
    /// Cancel safe: what was begun goes on in the background.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.session.shutdown().await;
    }
}

/// What stands for the tracker in the engine's lists.
fn own_url(public_url: Option<&PublicUrl>) -> String {
    let own = public_url.and_then(|url| url.trackers(None).pop());
    own.unwrap_or_else(|| "ws://localhost/announce".to_owned())
}

fn is_ready(roots: &Roots) -> IsReady {
    let roots = roots.clone();
    IsReady(Arc::new(move || roots.is_listed()))
}

/// The dashboard; and the tracker, for browsers' trackers are often given without a path.
async fn root(State((tracker, audience)): State<(Tracker, Audience)>, request: Request) -> Response<Body> {
    if tracker::is_upgrade(request.headers()) {
        return tracker.upgrade(request).await;
    }
    if !audience.admits(request.headers(), request.extensions()) {
        return audience::refusal();
    }
    dashboard::page(&request)
}
