//! Two connections that claim one peer id: which stays.
//!
//! Peer ids are known to the whole swarm, so a claim to one proves nothing, and a connection that works is not given up
//! for one. It is given up here only for a TCP connection that we made to where that very peer says it listens: at the
//! address that its data channel leads to, or on this machine if it does. TCP costs a fraction of what a data channel
//! does. The other end of such a connection sees a claim that it cannot check. It holds
//! it: if it is true the data channel is closed from over there in a moment, and the newcomer taken in its place; if not,
//! the newcomer is hung up on.
//!
//! Two data channels come about at once when each side answers the other's offer. Both sides then keep the one that the
//! peer with the greater id offered: it declines the other, and the other side holds it until then.
//!
//! Invariant: few are held, each for a short time, of an id no more than [`OF_ONE_ID`], of an id and address one.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use wtfs_proto::id::PeerId;
use wtfs_proto::time::Moment;
use wtfs_proto::wire::handshake::Handshake;

use super::SwarmTask;
use super::peers::About;
use crate::peer_task::CloseReason;
use crate::transport::{Connection, Direction, TransportKind};

/// How long a newcomer is held: longer than it takes to notice that the one it may replace is gone without a word.
const HELD_FOR: Moment = Moment::from_secs(15);

/// Newcomers held at once.
const HELD_MAX: usize = 16;

/// Of these, those that claim one id.
const OF_ONE_ID: usize = 3;

/// What becomes of a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the same peer, reached in a better way.
    Replaces,
    /// It may be; whoever made it knows.
    Waits,
    /// It is of no use.
    Goes,
}

/// Tells the addresses of this machine.
type IsHere = fn(IpAddr) -> bool;

/// Whether an address is one of this machine's.
fn is_here(ip: IpAddr) -> bool {
    // Nobody else's can be bound.
    UdpSocket::bind((ip, 0)).is_ok()
}

/// How a newcomer stands to the connection that has its peer id.
fn judge(old: &About, new: (TransportKind, Direction, SocketAddr), ours: PeerId, is_here: IsHere) -> Verdict {
    let (kind, direction, addr) = new;
    if old.kind != TransportKind::WebRtc {
        return Verdict::Goes;
    }
    if kind == TransportKind::WebRtc {
        let is_ours_greater = ours.as_bytes() > old.peer_id.as_bytes();
        let kept = if is_ours_greater { Direction::Outgoing } else { Direction::Incoming };
        let is_kept = old.direction != kept && direction == kept;
        return if is_kept { Verdict::Waits } else { Verdict::Goes };
    }
    match direction {
        Direction::Incoming => Verdict::Waits,
        // Browsers listen nowhere.
        Direction::Outgoing => {
            let (new_ip, old_ip) = (addr.ip().to_canonical(), old.addr.ip().to_canonical());
            let is_there = Some(addr.port()) == old.listen_port
                && (new_ip == old_ip || (is_here(new_ip) && is_here(old_ip)));
            if is_there { Verdict::Replaces } else { Verdict::Goes }
        }
    }
}

/// A newcomer that is held.
#[derive(Debug)]
struct Held {
    connected: (Connection, Handshake),
    until: Moment,
}

/// Newcomers whose claim is not decided.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    held: Vec<Held>,
    /// Those whose peer id has become free.
    admitted: Vec<(Connection, Handshake)>,
}

impl Rivals {
    /// Holds a newcomer; it is dropped if too many are held.
    fn hold(&mut self, connected: (Connection, Handshake), now: Moment) {
        self.expire(now);
        let (id, ip) = (connected.1.peer_id, connected.0.addr.ip());
        let of_id = self.held.iter().filter(|held| held.connected.1.peer_id == id);
        let (mut count, mut is_there) = (0, false);
        for held in of_id {
            count += 1;
            is_there |= held.connected.0.addr.ip() == ip;
        }
        if self.held.len() < HELD_MAX && count < OF_ONE_ID && !is_there {
            self.held.push(Held { connected, until: now + HELD_FOR });
        }
    }

    /// The connection of this peer has ended: those that claimed its id are next, first the one from the same address.
    pub(super) fn handle_closed(&mut self, peer_id: PeerId, addr: SocketAddr) {
        let (mut next, held) = std::mem::take(&mut self.held)
            .into_iter()
            .partition::<Vec<_>, _>(|held| held.connected.1.peer_id == peer_id);
        self.held = held;
        next.sort_by_key(|held| held.connected.0.addr.ip() != addr.ip());
        self.admitted.extend(next.into_iter().map(|held| held.connected));
    }

    /// Hangs up on those that have waited in vain.
    pub(super) fn expire(&mut self, now: Moment) {
        self.held.retain(|held| now < held.until);
    }
}

impl SwarmTask {
    /// What becomes of a connection whose peer id is connected already, if it is; whatever has to give way to it has.
    pub(super) fn settle_rivalry(&mut self, new: &Connection, peer_id: PeerId) -> Option<Verdict> {
        let old = self.peers.values().find(|peer| peer.about.peer_id == peer_id)?;
        let verdict = judge(&old.about, (new.kind, new.direction, new.addr), self.engine.peer_id, is_here);
        if verdict == Verdict::Replaces {
            let id = old.id;
            self.close_peer(id, &CloseReason::Replaced);
        }
        Some(verdict)
    }

    /// Holds a connection whose claim is not decided.
    pub(super) fn hold_rival(&mut self, connected: (Connection, Handshake)) {
        let now = self.clock.now();
        self.upkeep.rivals.hold(connected, now);
    }

    /// Takes those in whose peer id has become free.
    pub(super) fn admit_rivals(&mut self) {
        for connected in std::mem::take(&mut self.upkeep.rivals.admitted) {
            self.handle_connected(connected);
        }
        let now = self.clock.now();
        self.upkeep.rivals.expire(now);
    }
}

#[cfg(test)]
mod tests {
    use wtfs_proto::id::InfoHash;
    use wtfs_proto::wire::handshake::Reserved;

    use super::*;
    use crate::peer_task::HasFast;
    use crate::transport::memory;

    const LESS: PeerId = PeerId::new([1; 20]);
    const OURS: PeerId = PeerId::new([2; 20]);
    const GREATER: PeerId = PeerId::new([3; 20]);

    fn addr(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, last], port))
    }

    fn nowhere(_: IpAddr) -> bool {
        false
    }

    fn old(peer_id: PeerId, kind: TransportKind, direction: Direction, listen_port: Option<u16>) -> About {
        About {
            addr: addr(1, 50_000),
            kind,
            direction,
            peer_id,
            fingerprint: None,
            client: String::new(),
            connected_at: Moment::ZERO,
            has_fast: HasFast::Yes,
            has_extensions: true,
            has_v2: false,
            listen_port,
            web_seed: None,
        }
    }

    #[test]
    fn nobody_takes_the_place_of_a_browser_over_tcp() {
        for direction in [Direction::Incoming, Direction::Outgoing] {
            let browser = old(GREATER, TransportKind::WebRtc, direction, None);
            for from in [addr(1, 6881), addr(9, 6881)] {
                let new = |direction| judge(&browser, (TransportKind::Tcp, direction, from), OURS, nowhere);
                assert_eq!(new(Direction::Outgoing), Verdict::Goes);
                assert_eq!(new(Direction::Incoming), Verdict::Waits);
            }
        }
    }

    #[test]
    fn a_data_channel_gives_way_to_tcp_only_where_its_peer_says_it_listens() {
        let old = old(GREATER, TransportKind::WebRtc, Direction::Incoming, Some(6881));
        let new = |direction, from| judge(&old, (TransportKind::Tcp, direction, from), OURS, nowhere);
        assert_eq!(new(Direction::Outgoing, addr(1, 6881)), Verdict::Replaces);
        let mapped = SocketAddr::new(std::net::Ipv4Addr::new(203, 0, 113, 1).to_ipv6_mapped().into(), 6881);
        assert_eq!(new(Direction::Outgoing, mapped), Verdict::Replaces);
        assert_eq!(new(Direction::Outgoing, addr(1, 6882)), Verdict::Goes);
        assert_eq!(new(Direction::Outgoing, addr(9, 6881)), Verdict::Goes);
        // Whoever made it knows whether it is the same.
        assert_eq!(new(Direction::Incoming, addr(1, 40_000)), Verdict::Waits);
    }

    #[test]
    fn a_peer_on_this_machine_is_the_same_at_each_of_its_addresses() {
        let old = old(GREATER, TransportKind::WebRtc, Direction::Incoming, Some(6881));
        let new = |from, is_here| judge(&old, (TransportKind::Tcp, Direction::Outgoing, from), OURS, is_here);
        let loopback = SocketAddr::from(([127, 0, 0, 1], 6881));
        assert_eq!(new(loopback, |_| true), Verdict::Replaces);
        assert_eq!(new(loopback, |ip| ip.is_loopback()), Verdict::Goes);
        assert_eq!(new(SocketAddr::from(([127, 0, 0, 1], 6882)), |_| true), Verdict::Goes);
        assert!(is_here(loopback.ip()) && !is_here(addr(1, 1).ip()));
    }

    #[test]
    fn tcp_gives_way_to_nothing() {
        for kind in [TransportKind::Tcp, TransportKind::WebRtc] {
            for direction in [Direction::Incoming, Direction::Outgoing] {
                let old = old(GREATER, TransportKind::Tcp, Direction::Incoming, Some(6881));
                assert_eq!(judge(&old, (kind, direction, addr(1, 6881)), OURS, nowhere), Verdict::Goes);
            }
        }
    }

    #[test]
    fn of_two_data_channels_both_sides_keep_the_same_and_neither_gives_up_one_that_works() {
        let channel = TransportKind::WebRtc;
        for (theirs, kept, other) in [
            (GREATER, Direction::Incoming, Direction::Outgoing),
            (LESS, Direction::Outgoing, Direction::Incoming),
        ] {
            let new = |old_direction, direction| {
                judge(
                    &old(theirs, channel, old_direction, None),
                    (channel, direction, addr(1, 1)),
                    OURS,
                    nowhere,
                )
            };
            assert_eq!(new(other, kept), Verdict::Waits);
            assert_eq!(new(kept, other), Verdict::Goes);
            assert_eq!(new(kept, kept), Verdict::Goes);
            assert_eq!(new(other, other), Verdict::Goes);
        }
    }

    fn newcomer(peer_id: PeerId, last: u8) -> (Connection, Handshake) {
        let connection = memory::pair(addr(9, 9), addr(last, 1), 1).0;
        assert_eq!(connection.addr, addr(last, 1));
        let info_hash = InfoHash::new([7; 20]);
        (connection, Handshake { reserved: Reserved::default(), info_hash, peer_id })
    }

    #[test]
    fn who_comes_from_where_the_peer_was_is_first_in_its_place() {
        let mut rivals = Rivals::default();
        rivals.hold(newcomer(GREATER, 9), Moment::ZERO);
        rivals.hold(newcomer(LESS, 1), Moment::ZERO);
        rivals.hold(newcomer(GREATER, 1), Moment::ZERO);
        rivals.handle_closed(GREATER, addr(1, 50_000));
        let places: Vec<_> = rivals.admitted.iter().map(|(connection, _)| connection.addr).collect();
        assert_eq!(places, [addr(1, 1), addr(9, 1)]);
        assert_eq!(rivals.held.len(), 1);
    }

    #[test]
    fn few_are_held_and_not_for_long() {
        let mut rivals = Rivals::default();
        for last in [1, 1, 2, 3, 4] {
            rivals.hold(newcomer(GREATER, last), Moment::ZERO);
        }
        assert_eq!(rivals.held.len(), OF_ONE_ID);
        for id in 10..100 {
            rivals.hold(newcomer(PeerId::new([id; 20]), 1), Moment::ZERO);
        }
        assert_eq!(rivals.held.len(), HELD_MAX);
        rivals.expire(HELD_FOR);
        assert!(rivals.held.is_empty());
    }
}
