//! The hub's own engine as a peer of the hub's own tracker: so that whoever finds a torrent here finds a seed of it.
//!
//! The engine does not announce over the network what it can be told of directly. Which address others are told: that of
//! the public URL if it is one, else that which the engine listens on, else that which this machine speaks to others
//! from.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wtfs_proto::id::InfoHash;
use wtfs_proto::metainfo::Metainfo;
use wtfs_torrent::Session;

use crate::closed_swarms::ClosedSwarms;
use crate::places::PublicUrl;
use crate::tracker::{Presence, Tracker};

/// How often the engine's torrents and this machine's addresses are looked at.
const LOOK: Duration = Duration::from_secs(30);

/// After a change others are waited for: ten thousand torrents of a root come within seconds.
const SETTLE: Duration = Duration::from_millis(300);

/// How often everything is announced again, so that the tracker does not forget: well below its shortest memory.
const REFRESH: Duration = Duration::from_secs(300);

/// The same for what comes one by one, and whose first readers announce themselves at once.
const SETTLE_OTHERS: Duration = Duration::from_millis(50);

/// What comes and goes besides the roots' torrents.
#[derive(Debug)]
pub(crate) struct Others {
    /// Grows with each change.
    pub(crate) changes: watch::Receiver<u64>,
    /// Is told up to which change the tracker knows.
    pub(crate) announced: watch::Sender<u64>,
    /// Private torrents whose tracker this one is.
    pub(crate) closed: ClosedSwarms,
}

/// Announces until `stop`, at each change and before the tracker would forget.
pub(crate) async fn announce_task(
    tracker: Tracker,
    session: Session,
    public_url: Option<PublicUrl>,
    mut changes: watch::Receiver<u64>,
    mut others: Others,
    stop: CancellationToken,
) {
    // As which it speaks over the tracker's own line, and shakes hands.
    let peer_id = session.peer_id();
    let mut announced: HashMap<(InfoHash, SocketAddr), Presence> = HashMap::new();
    let mut refreshed = Instant::now();
    loop {
        let generation = *others.changes.borrow_and_update();
        let addrs = own_addrs(session.listening(), public_url.as_ref());
        if refreshed.elapsed() >= REFRESH {
            refreshed = Instant::now();
            // As if each had left: what is still there is announced, what is not is taken out.
            announced.values_mut().for_each(|presence| *presence = Presence::Gone);
        }
        let mut before = std::mem::take(&mut announced);
        for torrent in session.torrents() {
            // A private torrent's swarm is that of its own trackers alone (BEP 27).
            let is_elsewhere =
                |metainfo: &Metainfo| metainfo.info.is_private && !others.closed.hold(torrent.info_hash());
            if torrent.metainfo().is_none_or(|metainfo| is_elsewhere(&metainfo)) {
                continue;
            }
            let presence = if torrent.is_complete() { Presence::Seed } else { Presence::Leecher };
            for &addr in &addrs {
                let key = (torrent.info_hash(), addr);
                if before.remove(&key) != Some(presence) {
                    tracker.announce_own(torrent.info_hash(), peer_id, addr, presence);
                }
                announced.insert(key, presence);
            }
        }
        for (info_hash, addr) in before.into_keys() {
            tracker.announce_own(info_hash, peer_id, addr, Presence::Gone);
        }
        others.announced.send_replace(generation);
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            changed = changes.changed() => {
                if changed.is_err() {
                    break;
                }
                tokio::time::sleep(SETTLE).await;
            }
            Ok(()) = others.changes.changed() => tokio::time::sleep(SETTLE_OTHERS).await,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// One address of each family at most: a tracker keeps no more of a peer.
fn own_addrs(listening: &[SocketAddr], public_url: Option<&PublicUrl>) -> Vec<SocketAddr> {
    let public: Option<IpAddr> = public_url.and_then(|url| url.host().parse().ok());
    let mut addrs: Vec<SocketAddr> = Vec::new();
    for addr in listening {
        if addrs.iter().any(|other| other.is_ipv6() == addr.is_ipv6()) {
            continue;
        }
        let ip = match public {
            Some(ip) if ip.is_ipv6() == addr.is_ipv6() => Some(ip),
            _ if addr.ip().is_unspecified() => outward(addr.ip()),
            _ => Some(addr.ip()),
        };
        addrs.extend(ip.map(|ip| SocketAddr::new(ip, addr.port())));
    }
    addrs
}

/// The address that this machine speaks to the internet from, or else loopback: asked of the routing table by a socket
/// that sends nothing. The addresses are of documentation (RFC 5737, RFC 3849).
fn outward(unspecified: IpAddr) -> Option<IpAddr> {
    let (there, loopback): (IpAddr, IpAddr) = match unspecified {
        IpAddr::V6(_) => (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(), Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) => (Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::LOCALHOST.into()),
    };
    let asked = UdpSocket::bind((unspecified, 0)).and_then(|socket| {
        socket.connect((there, 9))?;
        socket.local_addr()
    });
    match asked {
        Ok(addr) if !addr.ip().is_unspecified() => Some(addr.ip()),
        // Without a route to the world there may be programs on this machine.
        _ => UdpSocket::bind((loopback, 0)).is_ok().then_some(loopback),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_that_is_listened_on_is_told_and_a_public_one_before_it() {
        let listening = [addr("10.0.0.1:7"), addr("[fd00::1]:7"), addr("10.0.0.2:7")];
        assert_eq!(own_addrs(&listening, None), [addr("10.0.0.1:7"), addr("[fd00::1]:7")]);
        let public = "http://192.0.2.9:8080".parse().expect("a URL");
        assert_eq!(own_addrs(&listening, Some(&public)), [addr("192.0.2.9:7"), addr("[fd00::1]:7")]);
        let named = "http://hub.example".parse().expect("a URL");
        assert_eq!(own_addrs(&listening, Some(&named)), own_addrs(&listening, None));
    }

    #[test]
    fn every_address_becomes_one_that_can_be_told() {
        let addrs = own_addrs(&[addr("0.0.0.0:7")], None);
        assert!(addrs.iter().all(|addr| !addr.ip().is_unspecified() && addr.port() == 7), "{addrs:?}");
        assert_eq!(addrs.len(), 1);
    }
}
