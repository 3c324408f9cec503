//! The tracker: which peers take part in which torrent, over HTTP, UDP and web sockets.
//!
//! Owns the swarm map, in shards each behind a lock of its own, and the rules of who may use it. The front ends in
//! `http`, `udp` and `ws` translate; what they ask is decided here once. Peers of all protocols are in one map, so the
//! counts are of all of them; native peers are told each other's addresses, and browsers each other's offers.
//!
//! Invariant: a lock is held for one call into the map and never across an await; memory is bounded by the
//! configuration, whatever clients send.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use tokio_util::sync::CancellationToken;
use wtfs_proto::id::InfoHash;
use wtfs_proto::time::Moment;
use wtfs_proto::tracker::ScrapeEntry;

mod access;
mod address;
mod claims;
mod config;
mod http;
mod own;
mod rates;
mod stats;
mod swarm;
mod udp;
mod ws;

pub use access::ReloadError;
pub use address::AddressClasses;
pub use config::{AccessConfig, SocketConfig, TrackerConfig};
pub(crate) use own::Presence;
pub use stats::{ProtocolStats, RelayStats, SwarmCounts, TrackerStats};
pub use ws::is_upgrade;

use access::{Access, Forbidden, Reload, Reloaded};
use address::subscriber;
use claims::Claims;
use rates::{Rate, Rates};
use stats::Counters;
use swarm::{Announce, Answer, Drawn, Memory, Refusal, Room, Secret, Shard};

/// How often peers and torrents expire that no announce has expired, and list files are looked at.
const MAINTENANCE: Duration = Duration::from_secs(5);

/// What one shard expires before its lock is let go for a moment.
const EXPIRED_AT_ONCE: usize = 1000;

/// Most rows of [`Tracker::swarms`].
const MAX_ROWS: usize = 1000;

/// A tracker. Clones are the same one.
#[derive(Clone)]
pub struct Tracker {
    shared: Arc<Shared>,
}

struct Shared {
    config: TrackerConfig,
    started: Instant,
    secret: Secret,
    shards: Vec<Mutex<Shard>>,
    peers: AtomicUsize,
    torrents: AtomicUsize,
    access: Access,
    rates: Mutex<Rates>,
    registry: ws::Registry,
    counters: Counters,
    closing: CancellationToken,
    own_addr: Mutex<Option<IpAddr>>,
    claims: Mutex<Claims>,
    /// How many torrents [`Self::claims`] follows: without any, no announce waits for that lock.
    followed: AtomicUsize,
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

/// Why a request is turned away; what clients are told as the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Denied {
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("too many requests from this address, come back in {seconds} s")]
    Rate { seconds: u64 },
}

impl Tracker {
    /// A tracker that knows no torrent yet. Does no I/O: where list files are configured, nothing is allowed until
    /// [`Self::reload`] or [`Self::maintain`] has read them.
    pub fn new(config: TrackerConfig) -> Self {
        let secret = Secret::new([random(), random()]);
        let memory = Memory { peers: config.peer_timeout, torrents: config.torrent_timeout };
        let shards = (0..config.shards.clamp(1, 1024)).map(|_| {
            let secret = Secret::new([random(), random()]);
            Mutex::new(Shard::new(memory, secret))
        });
        let rate = Rate::new(config.requests_per_second, config.request_burst);
        let shared = Shared {
            started: Instant::now(),
            secret,
            shards: shards.collect(),
            peers: AtomicUsize::new(0),
            torrents: AtomicUsize::new(0),
            access: Access::new(config.access.clone()),
            rates: Mutex::new(Rates::new(rate, random())),
            registry: ws::Registry::new(&config.sockets),
            counters: Counters::default(),
            closing: CancellationToken::new(),
            own_addr: Mutex::new(None),
            claims: Mutex::default(),
            followed: AtomicUsize::new(0),
            config,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Reads the lists of info hashes again. Blocks for the time of reading two files.
    ///
    /// # Errors
    /// When one cannot be read; the lists stay as they were.
    pub fn reload(&self) -> Result<(), ReloadError> {
        self.shared.access.reload(Reload::Always).map(|_| ())
    }

    /// Forgets peers whose time is over and reads lists that have changed, until `stop` is cancelled; then closes all
    /// web sockets. To be run once beside the front ends.
    ///
    /// # Cancel safety
    /// Dropping the future ends the upkeep; web sockets stay open.
    pub async fn maintain(&self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(MAINTENANCE);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = tick.tick() => (),
            }
            self.expire().await;
            let this = self.clone();
            let reloaded =
                tokio::task::spawn_blocking(move || this.shared.access.reload(Reload::IfChanged)).await;
            match reloaded {
                Ok(Ok(Reloaded::Read)) => tracing::info!("the lists of torrents were read"),
                Ok(Ok(Reloaded::NotNeeded)) => (),
                Ok(Err(error)) => tracing::error!(%error, "the lists of torrents stay as they were"),
                Err(error) => tracing::error!(%error, "the lists of torrents could not be read"),
            }
        }
        self.shared.closing.cancel();
    }

    /// `/announce` and `/scrape`, also with a passkey before or behind; web sockets are upgraded on the announce paths.
    /// Requests need the extension [`ConnectInfo`](axum::extract::ConnectInfo) or [`ClientAddr`](crate::ClientAddr).
    pub fn router(&self) -> Router {
        http::router(self.clone())
    }

    /// Answers an upgrade to a web socket that came on another path, as clients send them to `/`. What is no upgrade is
    /// answered with an error.
    ///
    /// # Cancel safety
    /// Dropping the future drops the request.
    pub async fn upgrade(&self, request: Request) -> Response {
        ws::upgrade(self.clone(), None, request).await
    }

    /// Answers datagrams on a socket until `stop` is cancelled. May run on several sockets at once.
    ///
    /// # Errors
    /// When the socket fails for good.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket; a request may go unanswered.
    pub async fn serve_udp(
        &self,
        socket: tokio::net::UdpSocket,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        udp::serve(self, socket, stop).await
    }

    /// The numbers of now. Costs a look at every torrent for the memory of the map.
    pub fn stats(&self) -> TrackerStats {
        let mut stats = self.shared.counters.snapshot();
        for shard in &self.shared.shards {
            let shard = lock(shard);
            let totals = shard.totals();
            stats.torrents += totals.torrents as u64;
            stats.peers += totals.peers as u64;
            stats.seeders += totals.seeds as u64;
            stats.peers_v4 += totals.v4 as u64;
            stats.peers_v6 += totals.v6 as u64;
            stats.peers_browser += totals.sockets as u64;
            stats.map_bytes += shard.heap_bytes() as u64;
        }
        stats.relay.sockets = self.shared.registry.len() as u64;
        stats.relay.queued_bytes = self.shared.registry.queued_bytes() as u64;
        stats
    }

    /// Torrents by their number of peers, the largest first; `offset` are left out, and `limit` (1,000 at most) given.
    /// Costs a look at every torrent.
    pub fn swarms(&self, offset: usize, limit: usize) -> Vec<SwarmCounts> {
        let limit = limit.min(MAX_ROWS);
        let mut all: Vec<(u64, InfoHash, ScrapeEntry)> = Vec::new();
        for shard in &self.shared.shards {
            all.extend(
                lock(shard).swarms().map(|(hash, entry)| {
                    (u64::from(entry.complete) + u64::from(entry.incomplete), hash, entry)
                }),
            );
        }
        let key = |row: &(u64, InfoHash, ScrapeEntry)| (std::cmp::Reverse(row.0), row.1);
        let end = offset.saturating_add(limit).min(all.len());
        if (1..all.len()).contains(&end) {
            all.select_nth_unstable_by_key(end - 1, key);
            all.truncate(end);
        }
        all.sort_unstable_by_key(key);
        all.into_iter()
            .skip(offset)
            .take(limit)
            .map(|(_, hash, entry)| SwarmCounts::new(hash, entry))
            .collect()
    }

    /// Peers by the class of their address. Costs a look at every peer.
    pub fn address_classes(&self) -> AddressClasses {
        let mut classes = AddressClasses::default();
        for shard in &self.shared.shards {
            lock(shard).add_classes(&mut classes);
        }
        classes
    }

    /// Adds up what the peers of a torrent say they gave each other, from now on.
    pub(crate) fn follow(&self, info_hash: InfoHash) {
        self.shared.claims(|claims| claims.follow(info_hash));
    }

    /// Does so no more; what was added up stays.
    pub(crate) fn unfollow(&self, info_hash: InfoHash) {
        self.shared.claims(|claims| claims.unfollow(info_hash));
    }

    /// Bytes that peers of followed torrents say they gave each other.
    pub(crate) fn claimed_bytes(&self) -> u64 {
        self.shared.claims(|claims| claims.sum_bytes())
    }

    /// The numbers of one torrent; `None` if nobody has announced to it lately.
    pub fn swarm(&self, info_hash: InfoHash) -> Option<SwarmCounts> {
        Some(SwarmCounts::new(info_hash, lock(self.shared.shard(info_hash)).scrape(info_hash)?))
    }

    async fn expire(&self) {
        for shard in &self.shared.shards {
            loop {
                let expired = {
                    let mut shard = self.shared.lock_counted(shard);
                    let before = shard.shard.totals();
                    shard.shard.expire(self.shared.now(), EXPIRED_AT_ONCE);
                    let after = shard.shard.totals();
                    (before.peers - after.peers).max(before.torrents - after.torrents)
                };
                if expired < EXPIRED_AT_ONCE {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Shared {
    fn now(&self) -> Moment {
        self.started.elapsed()
    }

    fn claims<T>(&self, with: impl FnOnce(&mut Claims) -> T) -> T {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = with(&mut claims);
        self.followed.store(claims.len(), Ordering::Relaxed);
        answer
    }

    /// Where the hub's own peer is announced from. IPv4 goes before IPv6, so that it does not alternate.
    fn set_own_addr(&self, addr: IpAddr) {
        let mut own = self.own_addr.lock().unwrap_or_else(PoisonError::into_inner);
        if addr.is_ipv4() || own.is_none_or(|own| own.is_ipv6()) {
            *own = Some(addr);
        }
    }

    fn own_addr(&self) -> IpAddr {
        let own = *self.own_addr.lock().unwrap_or_else(PoisonError::into_inner);
        own.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))
    }

    /// Whether a client with this word in its URL may ask at all, and so often.
    fn admit(&self, from: IpAddr, passkey: Option<&str>) -> Result<(), Denied> {
        self.access.admit(passkey)?;
        let charged =
            self.rates.lock().unwrap_or_else(PoisonError::into_inner).charge(self.now(), subscriber(from));
        charged.map_err(|wait| Denied::Rate { seconds: wait.as_secs() + 1 })
    }

    /// An announce of a client that was admitted. `draw` is called under the lock.
    fn announce(&self, mut announce: Announce, draw: impl FnMut(Drawn<'_>)) -> Result<Answer, Denied> {
        self.access.allow(announce.info_hash)?;
        announce.from = self.seen_from_outside(announce.from);
        let room = self.room();
        let answer = {
            let mut shard = self.lock_counted(self.shard(announce.info_hash));
            shard.shard.announce(self.now(), fastrand::u64(..), room, &announce, draw)?
        };
        if self.followed.load(Ordering::Relaxed) > 0 {
            self.claims(|claims| claims.hear(&announce, self.now()));
        }
        Ok(answer)
    }

    /// The numbers of a torrent, which are zeros while nobody takes part; `None` for one that is not tracked.
    fn scrape(&self, info_hash: InfoHash) -> Option<ScrapeEntry> {
        self.access.allow(info_hash).ok()?;
        Some(lock(self.shard(info_hash)).scrape(info_hash).unwrap_or_default())
    }

    /// A peer on the hub's own machine, as others can reach it.
    fn seen_from_outside(&self, ip: IpAddr) -> IpAddr {
        let own = match ip {
            IpAddr::V4(ip) if ip.is_loopback() => self.config.own_v4.map(IpAddr::V4),
            IpAddr::V6(ip) if ip.is_loopback() => self.config.own_v6.map(IpAddr::V6),
            _ => None,
        };
        own.unwrap_or(ip)
    }

    fn room(&self) -> Room {
        if self.peers.load(Ordering::Relaxed) >= self.config.max_total_peers {
            Room::None
        } else if self.torrents.load(Ordering::Relaxed) >= self.config.max_torrents {
            Room::NoTorrents
        } else {
            Room::Open
        }
    }

    fn shard(&self, info_hash: InfoHash) -> &Mutex<Shard> {
        // Never empty: `new` makes at least one.
        &self.shards[self.secret.part(info_hash.as_bytes(), self.shards.len())]
    }

    /// Locks a shard so that what it gains or loses is counted when it is let go.
    fn lock_counted<'a>(&'a self, shard: &'a Mutex<Shard>) -> Counted<'a> {
        let shard = lock(shard);
        let before = shard.totals();
        Counted { shared: self, shard, peers: before.peers, torrents: before.torrents }
    }

    /// Seconds until the client is to come back: longer or shorter by chance.
    fn jittered(&self, interval: Duration) -> u32 {
        let percent = u64::from(self.config.jitter_percent.min(50));
        let factor = fastrand::u64(100 - percent..=100 + percent);
        u32::try_from(interval.as_secs().saturating_mul(factor) / 100).unwrap_or(u32::MAX).max(1)
    }
}

struct Counted<'a> {
    shared: &'a Shared,
    shard: MutexGuard<'a, Shard>,
    peers: usize,
    torrents: usize,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let after = self.shard.totals();
        // Wrapping: the sum over all shards is right, whatever order the differences come in.
        self.shared.peers.fetch_add(after.peers.wrapping_sub(self.peers), Ordering::Relaxed);
        self.shared.torrents.fetch_add(after.torrents.wrapping_sub(self.torrents), Ordering::Relaxed);
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // A panic inside is a bug; the map is left in order by every call that returns, and the others go on.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// 64 bits from the system's own source, by way of the keys of the standard hash maps.
fn random() -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(0_u8)
}

/// The client as the map knows it.
fn canonical(addr: SocketAddr) -> IpAddr {
    addr.ip().to_canonical()
}

#[cfg(test)]
mod tests;
