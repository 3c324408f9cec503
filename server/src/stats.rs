//! What the hub says of itself as JSON, now and over the last hour.
//!
//! Owns the one place where all numbers are looked at: a look is shared by everybody who asks within a second, and is
//! made less often where it takes long, so that it costs a twentieth of a core at most however many ask. One task looks
//! for the history and for all viewers of the stream.
//!
//! Invariant: what is kept is bounded: the newest look, an hour of points, and a fixed number of viewers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use wtfs_torrent::{CacheStatus, Session, SessionStatus};

use crate::client_addr::TrustedProxies;
use crate::library::Library;
use crate::metrics::process::ProcessStats;
use crate::metrics::traffic::{Traffic, TrafficStats};
use crate::places::PublicUrl;
use crate::routes::IsReady;
use crate::serving::seats::{Place, Seat, Seats};
use crate::tracker::{AddressClasses, Tracker, TrackerStats};

mod history;
mod listing;
mod routes;

use history::{History, Look, Point, SERIES, STEP};
use listing::{Row, TorrentCounts};
pub(crate) use routes::router;

/// The version of the JSON. It grows when a field changes its meaning or goes; new fields do not change it.
const VERSION: u32 = 1;

/// How old a look may be that is given to who asks.
const FRESH: Duration = Duration::from_millis(900);

/// How often viewers are told.
const LIVE: Duration = Duration::from_secs(1);

/// What a look took, times this, is how long there is none.
const REST: u32 = 20;

/// Viewers of the stream at once; others are told to ask now and then.
const VIEWERS_MAX: usize = 256;

/// Viewers from one address: a household or an office, and no more, for one must not keep all others out.
const VIEWERS_OF_ONE: usize = 16;

/// Names of torrents being hashed that are told with the numbers.
const HASHING_MAX: usize = 8;

/// What numbers are taken from.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    pub(crate) session: Session,
    pub(crate) library: Arc<dyn Library>,
    pub(crate) tracker: Tracker,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) is_ready: IsReady,
    pub(crate) cache_dir: PathBuf,
    pub(crate) public_url: Option<PublicUrl>,
}

/// See the module's documentation. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Stats {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    sources: Sources,
    began: Instant,
    began_unix_s: u64,
    history: Mutex<History>,
    newest: tokio::sync::Mutex<Option<Looked>>,
    frames: watch::Sender<Bytes>,
    viewers: Seats,
    came: Notify,
    stop: CancellationToken,
}

/// What one look brought.
#[derive(Debug, Clone)]
struct Looked {
    made: Instant,
    took: Duration,
    rows: Arc<[Row]>,
    json: Bytes,
}

/// A taken place in front of the stream; free again when dropped.
#[derive(Debug)]
enum Viewing {
    Of { _seat: Seat },
    OfNobody { _place: Place },
}

impl Looked {
    fn rest(&self) -> Duration {
        self.took * REST
    }
}

impl Stats {
    /// Starts to look. Must run on a tokio runtime; ends with `stop`.
    pub(crate) fn start(sources: Sources, stop: CancellationToken) -> Self {
        let stats = Self {
            inner: Arc::new(Inner {
                sources,
                began: Instant::now(),
                began_unix_s: unix_s(),
                history: Mutex::default(),
                newest: tokio::sync::Mutex::default(),
                frames: watch::Sender::new(Bytes::new()),
                // An address is that of the client, behind proxies too: none of them is a proxy's.
                viewers: Seats::new(VIEWERS_MAX, VIEWERS_OF_ONE, TrustedProxies::default()),
                came: Notify::new(),
                stop: stop.clone(),
            }),
        };
        tokio::spawn(stop.run_until_cancelled_owned(stats.clone().look_task()));
        stats
    }

    pub(crate) fn sources(&self) -> &Sources {
        &self.inner.sources
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.inner.began.elapsed()
    }

    pub(crate) fn began_unix_s(&self) -> u64 {
        self.inner.began_unix_s
    }

    async fn look_task(self) {
        loop {
            let looked = self.newest().await;
            let is_watched = self.viewers() > 0;
            if let (true, Some(looked)) = (is_watched, &looked) {
                self.inner.frames.send_replace(looked.json.clone());
            }
            let rest = looked.map_or(STEP, |looked| looked.rest());
            let pause = rest.max(if is_watched { LIVE } else { STEP });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.inner.came.notified() => {}
            }
        }
    }

    fn viewers(&self) -> usize {
        VIEWERS_MAX - self.inner.viewers.free()
    }

    /// A place in front of the stream, if one is free and its address has not taken its share. Whoever serves the
    /// router without telling addresses has the limit for all alone.
    fn seat(&self, addr: Option<IpAddr>) -> Option<Viewing> {
        let place = self.inner.viewers.try_place()?;
        let seat = match addr {
            Some(addr) => Viewing::Of { _seat: self.inner.viewers.seat(place, addr)? },
            None => Viewing::OfNobody { _place: place },
        };
        self.inner.came.notify_one();
        Some(seat)
    }

    /// A look that is fresh enough; `None` if looking failed, which would be a bug.
    ///
    /// # Cancel safety
    /// Cancel safe: a look that was begun is thrown away.
    async fn newest(&self) -> Option<Looked> {
        // Held while looking: others who ask meanwhile wait for this look instead of making their own.
        let mut newest = self.inner.newest.lock().await;
        if let Some(looked) =
            newest.as_ref().filter(|looked| looked.made.elapsed() < FRESH.max(looked.rest()))
        {
            return Some(looked.clone());
        }
        let this = self.clone();
        let looked = tokio::task::spawn_blocking(move || this.look()).await;
        match looked {
            Ok(Some(looked)) => *newest = Some(looked),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the hub's numbers could not be looked at"),
        }
        newest.clone()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // Whole between any two calls.
        self.inner.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) -> Option<Looked> {
        let began = Instant::now();
        let sources = &self.inner.sources;
        let session = sources.session.status();
        let tracker = sources.tracker.stats();
        let traffic = sources.traffic.snapshot();
        let mut rows: Vec<Row> =
            sources.library.list().into_iter().map(|entry| row(sources, entry)).collect();
        rows.sort_by(listing::by_name);
        let engine = EngineStats::of(&session);
        let numbers: Look = [
            tracker.http.announces,
            tracker.udp.announces,
            tracker.websocket.announces,
            traffic.web_seed_bytes(),
            engine.uploaded_bytes,
            engine.downloaded_bytes,
            traffic.requests(),
            tracker.peers,
            tracker.torrents,
        ];
        let (rates, point) = {
            let mut history = self.history();
            history.take(self.uptime(), unix_s(), numbers);
            (history.now(), history.points().last().copied())
        };
        let hashing = rows.iter().filter_map(Hashing::of).take(HASHING_MAX).collect();
        let stats = HubStats {
            version: VERSION,
            hub: HubFacts {
                version: env!("CARGO_PKG_VERSION"),
                uptime_s: self.uptime().as_secs(),
                began_unix_s: self.inner.began_unix_s,
                is_ready: (sources.is_ready.0)(),
                public_url: sources.public_url.as_ref().map(ToString::to_string),
                viewers: self.viewers(),
            },
            torrents: TorrentCounts::of(&rows),
            hashing,
            tracker,
            addresses: sources.tracker.address_classes(),
            engine,
            http: traffic,
            cache: session.cache,
            disk: DiskStats::of(&sources.cache_dir),
            process: ProcessStats::look(),
            rates: SERIES.into_iter().zip(rates).collect(),
            point,
        };
        let json = match serde_json::to_vec(&stats) {
            Ok(json) => json.into(),
            Err(error) => {
                tracing::error!(%error, "the hub's numbers cannot be written");
                return None;
            }
        };
        let made = Instant::now();
        Some(Looked { made, took: made - began, rows: rows.into(), json })
    }
}

fn row(sources: &Sources, entry: wtfs_proto::hub::TorrentEntry) -> Row {
    let hash = entry.info_hash.as_deref().and_then(|hash| hash.parse().ok());
    let swarm = hash.and_then(|hash| sources.tracker.swarm(hash));
    let (seeders, leechers) = swarm.map_or((0, 0), |swarm| (swarm.seeders, swarm.leechers));
    Row { entry, seeders, leechers }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `GET /stats`; docs/metrics.md says what each field means.
#[derive(Debug, Serialize)]
struct HubStats {
    version: u32,
    hub: HubFacts,
    torrents: TorrentCounts,
    hashing: Vec<Hashing>,
    tracker: TrackerStats,
    addresses: AddressClasses,
    engine: EngineStats,
    http: TrafficStats,
    cache: CacheStatus,
    disk: DiskStats,
    process: ProcessStats,
    rates: BTreeMap<&'static str, f32>,
    point: Option<Point>,
}

#[derive(Debug, Serialize)]
struct HubFacts {
    version: &'static str,
    uptime_s: u64,
    began_unix_s: u64,
    is_ready: bool,
    public_url: Option<String>,
    viewers: usize,
}

/// A torrent that is being made.
#[derive(Debug, Serialize)]
struct Hashing {
    name: String,
    hashed_bytes: u64,
    total_bytes: u64,
}

impl Hashing {
    fn of(row: &Row) -> Option<Self> {
        let hashed_bytes = row.entry.hashed_bytes?;
        Some(Self { name: row.entry.name.clone(), hashed_bytes, total_bytes: row.entry.total_bytes })
    }
}

/// The engine's part: peers that the hub itself is connected to.
#[derive(Debug, Default, Serialize)]
struct EngineStats {
    torrents: usize,
    peers: usize,
    /// By kind of source.
    sources: BTreeMap<&'static str, usize>,
    addresses: AddressClasses,
    downloaded_bytes: u64,
    uploaded_bytes: u64,
    wasted_bytes: u64,
}

impl EngineStats {
    fn of(session: &SessionStatus) -> Self {
        let mut stats = Self { torrents: session.torrents.len(), ..Self::default() };
        for torrent in &session.torrents {
            stats.peers += torrent.peers.len();
            for source in torrent.sources.iter().filter(|source| source.connected > 0) {
                *stats.sources.entry(source.kind.name()).or_default() += source.connected;
            }
            for peer in &torrent.peers {
                stats.addresses.add(Some(peer.addr.ip()));
            }
            stats.downloaded_bytes += torrent.downloaded_bytes;
            stats.uploaded_bytes += torrent.uploaded_bytes;
            stats.wasted_bytes += torrent.wasted_bytes;
        }
        stats
    }
}

/// The disk that the cache is on.
#[derive(Debug, Default, Serialize)]
struct DiskStats {
    total_bytes: Option<u64>,
    free_bytes: Option<u64>,
}

impl DiskStats {
    fn of(dir: &std::path::Path) -> Self {
        let Ok(disk) = rustix::fs::statvfs(dir) else { return Self::default() };
        Self {
            total_bytes: disk.f_blocks.checked_mul(disk.f_frsize),
            free_bytes: disk.f_bavail.checked_mul(disk.f_frsize),
        }
    }
}
