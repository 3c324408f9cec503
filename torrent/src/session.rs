//! The session: listens, routes incoming connections, holds the torrents and what they share.
//!
//! [`Engine`] is that shared part; every task has an `Arc` of it. A [`Session`] is the handle to the whole. Nothing
//! here decides what to fetch: each torrent has a task of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wtfs_proto::id::{InfoHash, PeerId};
use wtfs_proto::wire::extended::ExtensionRegistry;

use crate::budget::{Budget, evictor};
#[cfg(feature = "webrtc")]
use crate::config::WebRtcPolicy;
use crate::config::{NetworkPolicy, PortPolicy, SessionConfig};
use crate::disk::DiskPool;
use crate::error::{AddError, StartError};
use crate::extension::Extensions;
use crate::hf::blobs::Blobs;
use crate::http::{HttpClient, HttpConfig};
use crate::latency::Reads;
use crate::limiter::Limiter;
use crate::peer_task::handshake;
use crate::reader::buffers::Buffers;
use crate::resolve::Source;
use crate::status::{Phase, SessionStatus};
use crate::store::{SealedFiles, StateDir};
use crate::swarm_task;
use crate::torrent::{COMMAND_QUEUE, Command, Shared, Torrent};
#[cfg(feature = "webrtc")]
use crate::tracker::ws::{DataChannels, WsClient};
use crate::tracker::{TrackerClient, TrackerLimits};
use crate::transport::{Direction, tcp};
use crate::web_seed;

/// Incoming connections that have not shown which torrent they want.
const MAX_PENDING_INCOMING: usize = 128;

/// How long closing may take in all before the rest is abandoned.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(4);

/// What all torrents of a session share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) config: SessionConfig,
    pub(crate) peer_id: PeerId,
    pub(crate) http: HttpClient,
    pub(crate) disk: DiskPool,
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) upload_limit: Limiter,
    pub(crate) download_limit: Limiter,
    pub(crate) half_open: Arc<Semaphore>,
    pub(crate) web_requests: Semaphore,
    pub(crate) connected: AtomicUsize,
    pub(crate) in_flight_bytes: AtomicU64,
    pub(crate) reads: Reads,
    pub(crate) trackers: TrackerClient,
    pub(crate) extensions: Extensions,
    /// The extensions' ids on the wire, built-in ones first.
    pub(crate) registry: ExtensionRegistry,
    pub(crate) cancel: CancellationToken,
    pub(crate) tasks: TaskTracker,
    listening: Vec<SocketAddr>,
    pub(crate) torrents: Mutex<HashMap<InfoHash, Torrent>>,
}

impl Engine {
    /// The port peers reach us at; 0 if we do not listen.
    pub(crate) fn port(&self) -> u16 {
        self.listening.first().map_or(0, SocketAddr::port)
    }

    /// Where outgoing connections to `addr` come from, if the configuration says so.
    pub(crate) fn local_addr_for(&self, addr: SocketAddr) -> Option<std::net::IpAddr> {
        let addrs = self.config.listen.addrs.iter();
        addrs.copied().find(|ip| ip.is_ipv6() == addr.is_ipv6() && !ip.is_unspecified())
    }

    /// Whether an address is one we listen on ourselves.
    pub(crate) fn is_ourselves(&self, addr: SocketAddr) -> bool {
        self.listening.contains(&addr)
    }

    /// Whether nothing may be connected to.
    pub(crate) fn is_offline(&self) -> bool {
        self.config.network == NetworkPolicy::Offline
    }

    /// All torrents, in no order.
    pub(crate) fn torrents(&self) -> Vec<Torrent> {
        self.torrents.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn find(&self, info_hash: InfoHash) -> Option<Torrent> {
        let torrents = self.torrents.lock().unwrap_or_else(PoisonError::into_inner);
        let found = torrents.get(&info_hash).or_else(|| {
            // A hybrid's swarm has two names.
            torrents.values().find(|torrent| torrent.hashes().contains(info_hash))
        });
        found.cloned()
    }
}

/// Where a torrent's data lives.
#[derive(Debug, Clone)]
pub enum StorageKind {
    /// In the session's cache directory.
    Cache,
    /// In a directory of the user's: `DIR/<name>`.
    Directory(PathBuf),
    /// In memory, gone at the end.
    Memory,
    /// In files of the user's that were hashed just now, or are as they were when they were hashed: complete from the
    /// start and only read. A file that changes is not read any more.
    Sealed(Arc<SealedFiles>),
}

/// What to fetch without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Nothing: only what is read.
    OnDemand,
    /// Everything, rarest pieces first.
    Everything,
}

/// What to think of data that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExistingData {
    /// Believe the record of an earlier run.
    TrustRecord,
    /// Hash all of it first.
    Verify,
}

/// How to add a torrent.
#[derive(Debug, Clone)]
pub struct AddOptions {
    /// Where its data lives.
    pub storage: StorageKind,
    /// What to fetch without being asked.
    pub fill: Fill,
    /// What to think of data that is there already.
    pub existing: ExistingData,
    /// Peers known beforehand.
    pub peers: Vec<SocketAddr>,
    /// Trackers besides the torrent's own.
    pub trackers: Vec<String>,
}

impl Default for AddOptions {
    fn default() -> Self {
        Self {
            storage: StorageKind::Cache,
            fill: Fill::OnDemand,
            existing: ExistingData::TrustRecord,
            peers: Vec::new(),
            trackers: Vec::new(),
        }
    }
}

/// Whether a removed torrent's data stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovedData {
    /// It stays and is found again when the torrent is added again.
    Keep,
    /// What is in the cache directory is deleted. Data in a directory of the user's always stays.
    Drop,
}

/// A running engine. Clones are the same session.
#[derive(Debug, Clone)]
pub struct Session {
    pub(crate) engine: Arc<Engine>,
    blobs: Blobs,
}

impl Session {
    /// Starts a session: makes the cache directory, listens, and spawns its tasks on the current runtime.
    ///
    /// # Errors
    /// When it cannot listen or cannot use the cache directory.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped, nothing stays behind but the directory.
    pub async fn open(config: SessionConfig) -> Result<Self, StartError> {
        Self::with_extensions(config, Extensions::default()).await
    }

    /// As [`Self::open`], with extensions of the peer protocol (BEP 10) besides the built-in ones.
    ///
    /// # Errors
    /// As [`Self::open`].
    ///
    /// # Cancel safety
    /// As [`Self::open`].
    pub async fn with_extensions(config: SessionConfig, extensions: Extensions) -> Result<Self, StartError> {
        let cache_dir = config.cache_dir.clone();
        tokio::task::spawn_blocking(move || make_writable_dir(&cache_dir))
            .await
            .unwrap_or_else(|lost| Err(std::io::Error::other(lost)))
            .map_err(|source| StartError::CacheDir { path: config.cache_dir.clone(), source })?;
        let listeners = match config.network {
            NetworkPolicy::Online => listen(&config)?,
            NetworkPolicy::Offline => Vec::new(),
        };
        let (budget, space_requests) = Budget::new(&config);
        let http = HttpClient::new(HttpConfig {
            user_agent: config.user_agent.clone(),
            private_hosts: config.private_hosts,
            ..HttpConfig::default()
        })?;
        let mut random = [0; 12];
        random.iter_mut().for_each(|byte| *byte = fastrand::alphanumeric() as u8);
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let trackers = TrackerClient::new(http.clone(), TrackerLimits::default());
        #[cfg(feature = "webrtc")]
        let trackers = trackers.with_web_sockets(web_sockets(&config, &http, &tasks, &cancel));
        let engine = Arc::new(Engine {
            peer_id: PeerId::generate(random),
            http: http.clone(),
            disk: DiskPool::new(),
            buffers: Arc::default(),
            budget,
            upload_limit: Limiter::new(config.upload_limit),
            download_limit: Limiter::new(config.download_limit),
            half_open: Arc::new(Semaphore::new(config.max_half_open.max(1))),
            web_requests: Semaphore::new(web_seed::MAX_REQUESTS),
            connected: AtomicUsize::new(0),
            in_flight_bytes: AtomicU64::new(0),
            reads: Reads::default(),
            trackers,
            registry: registry(&extensions)?,
            extensions,
            cancel,
            tasks,
            listening: listeners.iter().filter_map(|l| l.local_addr().ok()).collect(),
            torrents: Mutex::new(HashMap::new()),
            config,
        });
        engine.tasks.spawn(evictor::evict_task(engine.clone(), space_requests));
        let pending = Arc::new(Semaphore::new(MAX_PENDING_INCOMING));
        for listener in listeners {
            engine.tasks.spawn(accept_task(engine.clone(), listener, pending.clone()));
        }
        let blobs = Blobs::open(engine.clone(), engine.config.cache_dir.join("hf").join("blobs")).await;
        Ok(Self { engine, blobs })
    }

    /// Adds a torrent and starts its task. Returns at once for a magnet; for a torrent whose metainfo is known, after
    /// its store is open (with [`ExistingData::Verify`] the hashing goes on in the background).
    ///
    /// # Errors
    /// When it is there already, or its data or record cannot be opened (a second process has it open, say).
    ///
    /// # Cancel safety
    /// Not cancel safe: dropped, the torrent may have been added.
    pub async fn add(&self, source: Source, options: AddOptions) -> Result<Torrent, AddError> {
        if self.engine.cancel.is_cancelled() {
            return Err(AddError::Closed);
        }
        let (hashes, name) = match &source {
            Source::Metainfo(metainfo) => (metainfo.hashes, Some(metainfo.info.name.clone())),
            Source::Magnet(magnet) => (magnet.hashes, magnet.display_name.clone()),
        };
        let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
        let shared = Arc::new(Shared::new(hashes, name, commands));
        let torrent = Torrent { shared, engine: self.engine.clone() };
        {
            let mut torrents = self.engine.torrents.lock().unwrap_or_else(PoisonError::into_inner);
            if torrents.contains_key(&torrent.info_hash()) {
                return Err(AddError::Duplicate(torrent.info_hash()));
            }
            torrents.insert(torrent.info_hash(), torrent.clone());
        }
        match swarm_task::start(&torrent, source, options, inbox).await {
            Ok(()) => Ok(torrent),
            Err(error) => {
                self.forget(torrent.info_hash());
                Err(error)
            }
        }
    }

    /// All torrents, in the order of their info hashes.
    pub fn torrents(&self) -> Vec<Torrent> {
        let mut all = self.engine.torrents();
        all.sort_by_key(Torrent::info_hash);
        all
    }

    /// A torrent by any of its info hashes.
    pub fn torrent(&self, info_hash: InfoHash) -> Option<Torrent> {
        self.engine.find(info_hash)
    }

    /// The client for HTTP that this session uses.
    pub fn http(&self) -> &HttpClient {
        &self.engine.http
    }

    /// The files of Hugging Face repositories in its cache.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Our id to peers and trackers.
    pub fn peer_id(&self) -> PeerId {
        self.engine.peer_id
    }

    /// Where peers can connect to.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.engine.listening
    }

    /// What it is doing. Never waits.
    pub fn status(&self) -> SessionStatus {
        let torrents = self.torrents().iter().map(Torrent::status).collect();
        let cache = self.engine.budget.status();
        let reads = self.engine.reads.status();
        SessionStatus { listening: self.engine.listening.clone(), cache, reads, torrents }
    }

    /// Stops a torrent; its readers get errors. Returns whether it was there.
    ///
    /// # Cancel safety
    /// Dropped, the torrent still stops, but its data may stay.
    pub async fn remove(&self, info_hash: InfoHash, data: RemovedData) -> bool {
        let Some(torrent) = self.forget(info_hash) else { return false };
        stop(&torrent).await;
        if data == RemovedData::Drop {
            let cache = self.engine.config.cache_dir.clone();
            let hash = torrent.info_hash();
            let removed = self.engine.disk.run(move || -> std::io::Result<()> {
                StateDir::in_cache(&cache, hash).remove().map_err(std::io::Error::other)?;
                match std::fs::remove_dir_all(data_dir(&cache, hash)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                }
            });
            if let Ok(Err(error)) = removed.await {
                tracing::warn!(torrent = %hash, %error, "a removed torrent's data could not be deleted");
            }
        }
        let (budget, hash) = (self.engine.budget.clone(), torrent.info_hash());
        drop(torrent);
        // Lost only when the session closes.
        let _closing = self.engine.disk.run(move || budget.dormant.sleep(hash)).await;
        true
    }

    fn forget(&self, info_hash: InfoHash) -> Option<Torrent> {
        let primary = self.engine.find(info_hash)?.info_hash();
        self.engine.torrents.lock().unwrap_or_else(PoisonError::into_inner).remove(&primary)
    }

    /// Stops everything: trackers are told, peers closed, records written. Takes a few seconds at most.
    ///
    /// # Cancel safety
    /// Cancel safe: what was begun goes on in the background.
    pub async fn shutdown(&self) {
        let torrents = self.torrents();
        let all = async {
            let stops = torrents.iter().map(stop);
            futures_util::future::join_all(stops).await;
        };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, all).await.is_err() {
            tracing::warn!("some torrents took too long to stop");
        }
        self.engine.cancel.cancel();
        self.engine.tasks.close();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.engine.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks took too long to stop");
        }
        self.engine.torrents.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

async fn stop(torrent: &Torrent) {
    let (done, stopped) = oneshot::channel();
    if torrent.shared.commands.send(Command::Stop(done)).await.is_ok() {
        // An error means the task ended without an answer; it is gone either way.
        let _gone = stopped.await;
    }
    torrent.shared.phase.send_replace(Phase::Failed { message: "the torrent was closed".to_owned() });
}

/// Where a torrent's files lie within the cache.
pub(crate) fn data_dir(cache_dir: &Path, info_hash: InfoHash) -> PathBuf {
    cache_dir.join("data").join(info_hash.to_string())
}

fn make_writable_dir(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(path)?;
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK)?;
    Ok(())
}

/// The client of WebSocket trackers, if peers over WebRTC are wanted.
#[cfg(feature = "webrtc")]
fn web_sockets(
    config: &SessionConfig,
    http: &HttpClient,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Option<WsClient> {
    if config.webrtc == WebRtcPolicy::Off || config.network == NetworkPolicy::Offline {
        return None;
    }
    let servers = config.ice_servers.as_deref();
    let channels = DataChannels::new(servers, config.relay, tasks.clone(), cancel.child_token());
    let own = config.own_tracker.clone();
    Some(WsClient::new(http.clone(), Arc::new(channels), own, tasks.clone(), cancel.child_token()))
}

/// The built-in extensions and the session's own.
fn registry(extensions: &Extensions) -> Result<ExtensionRegistry, StartError> {
    let mut registry = ExtensionRegistry::with_built_ins();
    for name in extensions.names() {
        registry.register(name)?;
    }
    Ok(registry)
}

/// Opens the listening sockets: one an address, all on one port if possible.
fn listen(config: &SessionConfig) -> Result<Vec<TcpListener>, StartError> {
    match listen_on(config, config.listen.port) {
        Err(error) if config.listen.port_policy == PortPolicy::Preferred && config.listen.port != 0 => {
            tracing::info!(%error, "another port is taken instead");
            listen_on(config, 0)
        }
        other => other,
    }
}

fn listen_on(config: &SessionConfig, mut port: u16) -> Result<Vec<TcpListener>, StartError> {
    let mut listeners = Vec::new();
    for ip in &config.listen.addrs {
        let addr = SocketAddr::new(*ip, port);
        match tcp::listen(addr) {
            Ok(listener) => {
                port = listener.local_addr().map_or(port, |addr| addr.port());
                listeners.push(listener);
            }
            // A machine without IPv6 still serves IPv4.
            Err(error) if ip.is_ipv6() && ip.is_unspecified() && !listeners.is_empty() => {
                tracing::info!(%addr, %error, "not listening on IPv6");
            }
            Err(source) => return Err(StartError::Listen { addr, source }),
        }
    }
    Ok(listeners)
}

async fn accept_task(engine: Arc<Engine>, listener: TcpListener, pending: Arc<Semaphore>) {
    loop {
        let Ok(permit) = pending.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = engine.cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, addr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: without a pause this loop would spin.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let engine = engine.clone();
        let tasks = engine.tasks.clone();
        tasks.spawn(async move {
            let _permit = permit;
            let mut connection = tcp::from_stream(stream, addr, Direction::Incoming);
            let found = tokio::select! {
                () = engine.cancel.cancelled() => return,
                found = handshake::accept(&mut connection, engine.peer_id, |hash| engine.find(hash)) => found,
            };
            match found {
                Ok((theirs, torrent)) => {
                    let command = Command::Incoming(Box::new((connection, theirs)));
                    if torrent.shared.commands.try_send(command).is_err() {
                        tracing::debug!(%addr, "dropped: the torrent is busy or closed");
                    }
                }
                Err(error) => tracing::debug!(%addr, %error, "an incoming connection came to nothing"),
            }
        });
    }
}
