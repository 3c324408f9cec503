//! Two connections that claim one peer id: which stays.
//!
//! Peer ids are known to the whole swarm, so a claim to one proves nothing, and a connection that works is not given up
//! for one. It is given up here only for a TCP connection that we made to where that very peer says it listens: at the
//! address that its data channel leads to, or on this machine if it does. TCP costs a fraction of what a data channel
//! does. The other end of such a connection sees a claim that it cannot check. It holds
//! it: if it is true the data channel is closed from over there in a moment, and the newcomer taken in its place; if not,
//! the newcomer is hung up on. So it is when the data channel is the newcomer: who dialled closes it, and the other end,
//! which may have heard of the two in the other order, holds it and uses whichever is left.
//!
//! Two data channels come about at once when each side answers the other's offer, and two TCP connections when each
//! dials the other, as all members of a cluster do that starts. Both sides then keep the one that the peer with the
//! greater id offered or dialled (libtorrent has the same rule): it declines the other, and the other side holds it
//! until then. Of two that one side dialled, at two addresses of the other, that side says which stays. Only our own
//! client is known to decide so: of others' connections none is declined here before the other end has had time to
//! close one of them, whatever its rule; else each side might close the one that the other keeps.
//!
//! Invariant: few are held, each for a short time, of an id no more than [`OF_ONE_ID`], of an id and address
//! one of each way in which two can meet.

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

/// Whether two ids are of one client, of whatever version (BEP 20). A false claim gains nothing: which newcomers are
/// held hangs on it, and nothing that is connected.
fn is_kin(one: PeerId, other: PeerId) -> bool {
    one.as_bytes()[..3] == other.as_bytes()[..3]
}

/// How a data channel stands to a connection over TCP that is there already: who dialled that one decides.
fn judge_channel(old: &About, ours: PeerId) -> Verdict {
    let decides = is_kin(ours, old.peer_id) && old.direction == Direction::Outgoing;
    if decides { Verdict::Goes } else { Verdict::Waits }
}

/// How a newcomer over TCP stands to a connection that is no data channel either.
fn judge_dialled(old: &About, direction: Direction, ours: PeerId) -> Verdict {
    if !is_kin(ours, old.peer_id) {
        return Verdict::Waits;
    }
    let decides = match (old.direction, direction) {
        (Direction::Outgoing, Direction::Incoming) => ours.as_bytes() > old.peer_id.as_bytes(),
        (Direction::Incoming, Direction::Outgoing) => ours.as_bytes() < old.peer_id.as_bytes(),
        (Direction::Outgoing, Direction::Outgoing) => true,
        (Direction::Incoming, Direction::Incoming) => false,
    };
    if decides { Verdict::Goes } else { Verdict::Waits }
}

/// How a newcomer stands to the connection that has its peer id.
fn judge(old: &About, new: (TransportKind, Direction, SocketAddr), ours: PeerId, is_here: IsHere) -> Verdict {
    let (kind, direction, addr) = new;
    if old.kind != TransportKind::WebRtc {
        let is_channel = kind == TransportKind::WebRtc;
        return if is_channel { judge_channel(old, ours) } else { judge_dialled(old, direction, ours) };
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
        let claim = |(connection, handshake): &(Connection, Handshake)| {
            (handshake.peer_id, connection.addr.ip(), connection.kind, connection.direction)
        };
        let new = claim(&connected);
        let of_id = self.held.iter().map(|held| claim(&held.connected)).filter(|held| held.0 == new.0);
        let (mut count, mut is_there) = (0, false);
        for held in of_id {
            count += 1;
            is_there |= held == new;
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
mod meeting_tests;

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

    pub(super) fn addr(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, last], port))
    }

    pub(super) fn nowhere(_: IpAddr) -> bool {
        false
    }

    pub(super) fn old(
        peer_id: PeerId,
        kind: TransportKind,
        direction: Direction,
        listen_port: Option<u16>,
    ) -> About {
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
        let directions = [Direction::Incoming, Direction::Outgoing];
        for (first, second) in directions.into_iter().flat_map(|old| directions.map(|new| (old, new))) {
            for (ours, theirs) in [(OURS, GREATER), (OURS, LESS), (KIN[0], KIN[1]), (KIN[1], KIN[0])] {
                let old = old(theirs, TransportKind::Tcp, first, Some(6881));
                let new = |kind| judge(&old, (kind, second, addr(1, 6881)), ours, |_| true);
                assert_ne!(new(TransportKind::Tcp), Verdict::Replaces);
                // Of two of us, who dialled the one that there is closes the other.
                let is_ours_to_close = is_kin(ours, theirs) && first == Direction::Outgoing;
                let verdict = if is_ours_to_close { Verdict::Goes } else { Verdict::Waits };
                assert_eq!(new(TransportKind::WebRtc), verdict);
            }
        }
    }

    /// What a side makes of two connections that it hears of one after the other.
    type Rule = fn(Side, [Wire; 2]) -> Choice;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Choice {
        ClosesOld,
        ClosesNew,
        /// It uses the first and takes the other if that is closed.
        Holds,
    }

    #[derive(Debug, Clone, Copy)]
    struct Side {
        id: PeerId,
        other: PeerId,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Wire {
        number: usize,
        dialler: PeerId,
    }

    impl Side {
        fn direction(&self, wire: Wire) -> Direction {
            if wire.dialler == self.id { Direction::Outgoing } else { Direction::Incoming }
        }
    }

    fn this_client(side: Side, [first, second]: [Wire; 2]) -> Choice {
        let old = old(side.other, TransportKind::Tcp, side.direction(first), None);
        let new = (TransportKind::Tcp, side.direction(second), addr(1, 2));
        match judge(&old, new, side.id, nowhere) {
            Verdict::Replaces => Choice::ClosesOld,
            Verdict::Waits => Choice::Holds,
            Verdict::Goes => Choice::ClosesNew,
        }
    }

    fn libtorrent(side: Side, [_, second]: [Wire; 2]) -> Choice {
        let is_greater = side.other.as_bytes() < side.id.as_bytes();
        let is_outgoing = side.direction(second) == Direction::Outgoing;
        if is_greater == is_outgoing { Choice::ClosesOld } else { Choice::ClosesNew }
    }

    fn keeps_the_first(_: Side, _: [Wire; 2]) -> Choice {
        Choice::ClosesNew
    }

    fn keeps_the_last(_: Side, _: [Wire; 2]) -> Choice {
        Choice::ClosesOld
    }

    /// The connections left when two sides hear of two connections in every order; each must use the same in the end.
    fn assert_one_is_left(rules: [Rule; 2], ids: [PeerId; 2]) {
        let sides = [Side { id: ids[0], other: ids[1] }, Side { id: ids[1], other: ids[0] }];
        for diallers in [[0, 1], [0, 0], [1, 1]] {
            let wires = [0, 1].map(|number| Wire { number, dialler: ids[diallers[number]] });
            for orders in [[[0, 1], [0, 1]], [[0, 1], [1, 0]], [[1, 0], [0, 1]], [[1, 0], [1, 0]]] {
                let heard = orders.map(|order| order.map(|number| wires[number]));
                let choices = [0, 1].map(|at| rules[at](sides[at], heard[at]));
                let closes = |at: usize| match choices[at] {
                    Choice::ClosesOld => Some(heard[at][0].number),
                    Choice::ClosesNew => Some(heard[at][1].number),
                    Choice::Holds => None,
                };
                let closed = [closes(0), closes(1)];
                let used = [0, 1].map(|at| {
                    heard[at]
                        .into_iter()
                        .map(|wire| wire.number)
                        .find(|number| !closed.contains(&Some(*number)))
                });
                let scene = format!("{wires:?} {heard:?} {choices:?}");
                assert!(used[0].is_some() && used[0] == used[1], "{used:?} of {scene}");
            }
        }
    }

    /// Ids of this client; the first is less.
    pub(super) const KIN: [PeerId; 2] =
        [PeerId::new(*b"-WF0100-aaaaaaaaaaaa"), PeerId::new(*b"-WF0200-aaaaaaaaaaaa")];

    #[test]
    fn two_that_dial_each_other_at_once_keep_one_connection_and_the_same() {
        assert_one_is_left([this_client, this_client], KIN);
    }

    #[test]
    fn one_connection_is_left_with_other_clients_whatever_their_rule() {
        let rules: [Rule; 3] = [libtorrent, keeps_the_first, keeps_the_last];
        for theirs in [LESS, PeerId::new([b'z'; 20])] {
            for rule in rules {
                assert_one_is_left([this_client, rule], [KIN[0], theirs]);
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
