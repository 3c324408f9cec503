//! Announce and scrape over UDP (BEP 15, with the URL data of BEP 41).
//!
//! Each exchange has a socket of its own, connected to the tracker: the kernel then drops packets from anybody else
//! and reports a closed port at once instead of by time-out. Sockets are kept with their connection id for the minute
//! the id lives, so that further announces to the tracker skip the connect, and so that an id is always used from the
//! port it was given to, which some trackers check.
//!
//! Retransmission: BEP 15 waits 15·2^n seconds, for hours in all. A person waits for the first peers, and a lost
//! packet would cost 15 s; so the first wait is 1 s and doubles, four tries, 15 s in all, and the schedule's back-off
//! takes it from there. Packets that are short, of another transaction or not of this protocol are ignored: they are
//! late answers, or somebody guessing.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use wtfs_proto::id::InfoHash;
use wtfs_proto::tracker::http::AnnounceResponse;
use wtfs_proto::tracker::udp::{self as messages, Family, MAX_SCRAPE_HASHES, Response};
use wtfs_proto::tracker::{AnnounceRequest, ScrapeEntry};

use super::{AnnounceError, FAMILY_GRACE, TrackerLimits, over_both};

#[cfg(test)]
mod tests;

/// How long a connection id may be used: a minute after it was asked for (BEP 15), less the time of one exchange.
const CONNECTION_ID_LIFE: Duration = Duration::from_secs(55);
/// Sockets kept for reuse, over all trackers. Each is an open file for up to a minute.
const MAX_KEPT: usize = 16;
/// Exchanges at a time, over all trackers: bounds open sockets when thousands of torrents announce at once.
const MAX_EXCHANGES: usize = 128;
/// Tries on a kept connection id. Fewer, since a tracker that restarted drops it in silence and a fresh one is at hand.
const TRIES_ON_KEPT_ID: u32 = 2;
/// Largest answer read: an announce with 200 IPv6 peers takes 3.6 kB, a packet on the Internet rarely over 1.5 kB.
const MAX_PACKET_BYTES: usize = 16 * 1024;

/// The UDP side of a [`super::TrackerClient`].
#[derive(Debug, Clone)]
pub(super) struct UdpClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    first_timeout: Duration,
    tries: u32,
    total: Duration,
    kept: Mutex<HashMap<SocketAddr, Vec<Channel>>>,
    exchanges: Semaphore,
}

/// A socket connected to a tracker, and the connection id it was given.
#[derive(Debug)]
struct Channel {
    socket: UdpSocket,
    connection_id: u64,
    since: Instant,
}

/// A tracker's URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    host: String,
    port: u16,
    /// Path and query, for BEP 41; empty when there is nothing to tell.
    url_data: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, AnnounceError> {
        let invalid = |reason: String| AnnounceError::InvalidUrl(reason);
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        // As http, so that the parser treats the host as one: IDNA, IPv4 in any spelling, IPv6 in brackets.
        let parsed =
            url::Url::parse(&format!("http://{rest}")).map_err(|error| invalid(error.to_string()))?;
        let host = match parsed.host() {
            Some(url::Host::Domain(name)) => name.to_owned(),
            Some(url::Host::Ipv4(ip)) => ip.to_string(),
            Some(url::Host::Ipv6(ip)) => ip.to_string(),
            None => return Err(invalid("it has no host".to_owned())),
        };
        let port = parsed.port_or_known_default().filter(|&port| port != 0);
        let port = port.ok_or_else(|| invalid("its port is 0".to_owned()))?;
        Ok(Self { host, port, url_data: messages::url_data(url).to_owned() })
    }
}

impl UdpClient {
    pub(super) fn new(limits: &TrackerLimits) -> Self {
        let shared = Shared {
            first_timeout: limits.udp_first_timeout,
            tries: limits.udp_tries.max(1),
            total: limits.udp_total,
            kept: Mutex::new(HashMap::new()),
            exchanges: Semaphore::new(MAX_EXCHANGES),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Announces over the families the tracker has; one answer for each that worked.
    pub(super) async fn announce(
        &self,
        url: &str,
        request: &AnnounceRequest,
    ) -> Result<(AnnounceResponse, Option<AnnounceResponse>), AnnounceError> {
        let target = Target::parse(url)?;
        let (v4, v6) = self.resolve(&target).await?;
        let over = |address| self.announce_at(address, &target, request);
        match (v4, v6) {
            (Some(v4), Some(v6)) => over_both(over(v4), over(v6), FAMILY_GRACE).await,
            (Some(address), None) | (None, Some(address)) => Ok((over(address).await?, None)),
            (None, None) => Err(no_address(&target)),
        }
    }

    /// Scrapes the counts of `hashes`, in as many packets as they take.
    pub(super) async fn scrape(
        &self,
        url: &str,
        hashes: &[InfoHash],
    ) -> Result<Vec<Option<ScrapeEntry>>, AnnounceError> {
        let target = Target::parse(url)?;
        let (v4, v6) = self.resolve(&target).await?;
        let address = v4.or(v6).ok_or_else(|| no_address(&target))?;
        let mut entries = Vec::new();
        for some in hashes.chunks(MAX_SCRAPE_HASHES) {
            let packet = |connection_id, transaction_id| {
                messages::ScrapeRequest { connection_id, transaction_id, info_hashes: some.to_vec() }.encode()
            };
            let read = |response| match response {
                Response::Scrape { entries, .. } => Some(entries),
                _ => None,
            };
            let found = self.exchange(address, &target, &packet, &read).await?;
            entries.extend(some.iter().enumerate().map(|(index, _)| found.get(index).copied()));
        }
        Ok(entries)
    }

    async fn announce_at(
        &self,
        address: SocketAddr,
        target: &Target,
        request: &AnnounceRequest,
    ) -> Result<AnnounceResponse, AnnounceError> {
        let packet = |connection_id, transaction_id| {
            let (request, url_data) = (request.clone(), target.url_data.clone());
            messages::AnnounceRequest { connection_id, transaction_id, request, url_data }.encode()
        };
        let read = |response| match response {
            Response::Announce { interval_s, leechers, seeders, peers, .. } => Some(AnnounceResponse {
                interval_s,
                leechers: Some(leechers),
                seeders: Some(seeders),
                peers,
                ..AnnounceResponse::default()
            }),
            _ => None,
        };
        self.exchange(address, target, &packet, &read).await
    }

    /// The first address of each family.
    async fn resolve(
        &self,
        target: &Target,
    ) -> Result<(Option<SocketAddr>, Option<SocketAddr>), AnnounceError> {
        let lookup = tokio::net::lookup_host((target.host.as_str(), target.port));
        let host = || target.host.clone();
        let addresses: Vec<SocketAddr> = match tokio::time::timeout(self.shared.total, lookup).await {
            Err(_) => return Err(AnnounceError::Timeout { host: host() }),
            Ok(Err(error)) => return Err(AnnounceError::Dns { host: host(), reason: error.to_string() }),
            Ok(Ok(addresses)) => addresses.collect(),
        };
        let first = |is_family: fn(&SocketAddr) -> bool| addresses.iter().copied().find(is_family);
        Ok((first(SocketAddr::is_ipv4), first(SocketAddr::is_ipv6)))
    }

    /// One request and its answer, within the total time: on a kept connection id if there is one, else on a new one.
    async fn exchange<T>(
        &self,
        address: SocketAddr,
        target: &Target,
        packet: &(impl Fn(u64, u32) -> Vec<u8> + Sync),
        read: &(impl Fn(Response) -> Option<T> + Sync),
    ) -> Result<T, AnnounceError> {
        let whole = async {
            let _permit = self.shared.exchanges.acquire().await.expect("the semaphore is never closed");
            if let Some(channel) = self.take_kept(address) {
                let build = |transaction_id| packet(channel.connection_id, transaction_id);
                let tries = TRIES_ON_KEPT_ID.min(self.shared.tries);
                if let Ok(answer) = self.converse(&channel.socket, target, tries, &build, read).await {
                    self.keep(address, channel);
                    return Ok(answer);
                }
                // Refused or unanswered: the id may have gone stale, so the verdict is that of a fresh one.
            }
            let channel = self.connect(address, target).await?;
            let build = |transaction_id| packet(channel.connection_id, transaction_id);
            let answer = self.converse(&channel.socket, target, self.shared.tries, &build, read).await?;
            self.keep(address, channel);
            Ok(answer)
        };
        let result = tokio::time::timeout(self.shared.total, whole).await;
        result.unwrap_or_else(|_| Err(AnnounceError::Timeout { host: target.host.clone() }))
    }

    async fn connect(&self, address: SocketAddr, target: &Target) -> Result<Channel, AnnounceError> {
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let unreachable = |error| unreachable(target, &error);
        let socket = UdpSocket::bind((any, 0)).await.map_err(unreachable)?;
        socket.connect(address).await.map_err(unreachable)?;
        let since = Instant::now();
        let build = |transaction_id| messages::ConnectRequest { transaction_id }.encode();
        let read = |response| match response {
            Response::Connect { connection_id, .. } => Some(connection_id),
            _ => None,
        };
        let connection_id = self.converse(&socket, target, self.shared.tries, &build, &read).await?;
        Ok(Channel { socket, connection_id, since })
    }

    /// Sends what `build` makes until `read` accepts an answer, waiting twice as long after each try.
    async fn converse<T>(
        &self,
        socket: &UdpSocket,
        target: &Target,
        tries: u32,
        build: &(impl Fn(u32) -> Vec<u8> + Sync),
        read: &(impl Fn(Response) -> Option<T> + Sync),
    ) -> Result<T, AnnounceError> {
        // The same for all tries: an answer to the first may well come after the second was sent.
        let transaction_id = fastrand::u32(..);
        let packet = build(transaction_id);
        let mut buffer = vec![0; MAX_PACKET_BYTES];
        let family = match socket.peer_addr() {
            Ok(address) => Family::of(address.ip()),
            Err(error) => return Err(unreachable(target, &error)),
        };
        let mut wait = self.shared.first_timeout;
        for _ in 0..tries {
            socket.send(&packet).await.map_err(|error| unreachable(target, &error))?;
            let deadline = Instant::now() + wait;
            while let Ok(received) = tokio::time::timeout_at(deadline, socket.recv(&mut buffer)).await {
                let length = received.map_err(|error| unreachable(target, &error))?;
                match Response::decode(&buffer[..length], family) {
                    Ok(response) if response.transaction_id() != transaction_id => {}
                    Ok(Response::Error { message: reason, .. }) => {
                        return Err(AnnounceError::Refused { reason });
                    }
                    Ok(response) => {
                        if let Some(answer) = read(response) {
                            return Ok(answer);
                        }
                    }
                    Err(error) => tracing::trace!(%error, "a datagram that is none of a tracker was ignored"),
                }
            }
            wait *= 2;
        }
        Err(AnnounceError::Timeout { host: target.host.clone() })
    }

    fn take_kept(&self, address: SocketAddr) -> Option<Channel> {
        let mut kept = self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner);
        drop_old(&mut kept);
        kept.get_mut(&address)?.pop()
    }

    fn keep(&self, address: SocketAddr, channel: Channel) {
        let mut kept = self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner);
        drop_old(&mut kept);
        if kept.values().map(Vec::len).sum::<usize>() < MAX_KEPT {
            kept.entry(address).or_default().push(channel);
        }
    }
}

fn drop_old(kept: &mut HashMap<SocketAddr, Vec<Channel>>) {
    kept.retain(|_, channels| {
        channels.retain(|channel| channel.since.elapsed() < CONNECTION_ID_LIFE);
        !channels.is_empty()
    });
}

fn no_address(target: &Target) -> AnnounceError {
    AnnounceError::Dns { host: target.host.clone(), reason: "it has no address".to_owned() }
}

fn unreachable(target: &Target, error: &std::io::Error) -> AnnounceError {
    let reason = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "nothing listens on that port".to_owned(),
        _ => error.to_string(),
    };
    AnnounceError::Unreachable { host: target.host.clone(), reason }
}
