//! The swarm map: who takes part in which torrent, whatever protocol they speak.
//!
//! Owns the peers of one shard of the info hashes, in the order of their last announce. It is told the time and the
//! randomness, opens nothing and waits for nothing; sockets are numbers to it. Front ends ask it under a lock that
//! they hold for the call alone.
//!
//! A peer is its peer id in a swarm, as long as whoever announces shows to be the same: by the `key` it sent before
//! (BEP 3), else by its address. One record holds what it is reached by: an IPv4 address, an IPv6 one, a web socket.
//! So a client that announces over both families, or over HTTP and a web socket, is one peer in the counts; and a
//! stranger who has seen a peer id cannot take its place.
//!
//! Invariant: every peer stands in its swarm's roster, in the zone of what it is; an announce costs the peers that it
//! draws and nothing that grows with the swarm; expiry costs what expires.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::num::NonZeroU32;
use std::time::Duration;

use wtfs_proto::id::{InfoHash, PeerId};
use wtfs_proto::time::Moment;
use wtfs_proto::tracker::{AnnounceEvent, ScrapeEntry};

use super::address::{AddressClasses, Scope};

mod chain;
mod hash;
mod roster;
mod table;

use chain::Chain;
pub(crate) use hash::Secret;
use roster::{Roster, Whom, Zone, reach};
use table::Table;

/// A web socket. Not used again while a peer that has it is remembered.
pub(crate) type SocketId = NonZeroU32;

/// Records of one peer id in a swarm that different clients may hold at once. Clashes are accidents or attempts; a
/// limit keeps a flood of them from making the look-up slow.
const MOST_NAMESAKES: usize = 4;

/// Peers and swarms that one announce may expire: more than it can add, so that a shard in use needs no other expiry.
const EXPIRED_PER_ANNOUNCE: usize = 4;

/// By what the announcing client can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contact {
    /// A port at the address it announces from; 0 when it cannot be connected to.
    Port(u16),
    /// The web socket it announces over.
    Socket(SocketId),
}

/// How far the announcing client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It has everything.
    Seed,
    /// It lacks something.
    Leecher,
}

/// Which peers the answer can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Those with an address of any family.
    Addresses,
    /// Those with an IPv4 address.
    V4,
    /// Those with an IPv6 address.
    V6,
    /// Those with a web socket.
    Sockets,
}

/// What a client says, as far as it matters to a swarm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Announce {
    pub(crate) info_hash: InfoHash,
    pub(crate) peer_id: PeerId,
    /// The address it speaks from, in its own family.
    pub(crate) from: IpAddr,
    pub(crate) contact: Contact,
    /// What it has sent as its key; 0 for none.
    pub(crate) key: u32,
    pub(crate) progress: Progress,
    pub(crate) event: AnnounceEvent,
    pub(crate) wanted: Wanted,
    /// How many peers, at most.
    pub(crate) want: usize,
    /// What it says it has given to others since it began.
    pub(crate) uploaded_bytes: u64,
}

/// Whether newcomers are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// There is room for peers and torrents.
    Open,
    /// Only torrents that are known take more peers.
    NoTorrents,
    /// Newcomers are answered and forgotten.
    None,
}

/// A peer that was drawn, by what of it the asking client may be told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drawn<'a> {
    pub(crate) peer_id: &'a PeerId,
    pub(crate) v4: Option<SocketAddrV4>,
    pub(crate) v6: Option<SocketAddrV6>,
    pub(crate) socket: Option<SocketId>,
}

/// What an announce is answered with, besides peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) counts: ScrapeEntry,
    /// A socket whose place the announcing one has taken in this swarm.
    pub(crate) replaced: Option<SocketId>,
}

/// Why an announce is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Another client's live socket has this peer id.
    #[error("this peer id is in use over another connection")]
    Taken {
        /// That socket.
        by: SocketId,
    },
    /// Too many clients use this peer id.
    #[error("this peer id is in use by several others")]
    Crowded,
    /// Not another torrent can be kept.
    #[error("the tracker has no room for another torrent")]
    Full,
}

/// Times after which a shard forgets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// A peer, after its last announce.
    pub(crate) peers: Duration,
    /// A torrent without peers (and with it how often it was completed), after the last announce to it.
    pub(crate) torrents: Duration,
}

/// What a shard holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) torrents: usize,
    pub(crate) peers: usize,
    pub(crate) seeds: usize,
    pub(crate) v4: usize,
    pub(crate) v6: usize,
    pub(crate) sockets: usize,
}

#[derive(Debug, Clone, Copy)]
struct Peer {
    id: PeerId,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    v4_port: u16,
    v6_port: u16,
    key: u32,
    socket: Option<SocketId>,
    swarm: u32,
    place: u32,
    zone: Zone,
    seen_s: u32,
    v4_seen_s: u32,
    v6_seen_s: u32,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            id: PeerId::new([0; 20]),
            v4: Ipv4Addr::UNSPECIFIED,
            v6: Ipv6Addr::UNSPECIFIED,
            v4_port: 0,
            v6_port: 0,
            key: 0,
            socket: None,
            swarm: 0,
            place: 0,
            zone: Zone::leecher(0),
            seen_s: 0,
            v4_seen_s: 0,
            v6_seen_s: 0,
        }
    }
}

impl Peer {
    fn reach(&self) -> u8 {
        let bit = |has: bool, bit| if has { bit } else { 0 };
        bit(self.v4_port != 0, reach::V4)
            | bit(self.v6_port != 0, reach::V6)
            | bit(self.socket.is_some(), reach::SOCKET)
    }

    /// Whether an announce is this peer's: by its key where both have one, else by the address (of IPv6 the network,
    /// since hosts change the rest by themselves).
    fn is_of(&self, announce: &Announce) -> bool {
        if let Contact::Socket(socket) = announce.contact
            && self.socket == Some(socket)
        {
            return true;
        }
        if self.key != 0 && announce.key != 0 {
            return self.key == announce.key;
        }
        match announce.from {
            IpAddr::V4(ip) => self.v4 == ip,
            IpAddr::V6(ip) => !self.v6.is_unspecified() && self.v6.segments()[..4] == ip.segments()[..4],
        }
    }

    /// Takes over what an announce says of where the peer is. The socket that it replaces is told.
    fn hear(&mut self, announce: &Announce, now_s: u32, stale_s: u32) -> Option<SocketId> {
        self.seen_s = now_s;
        if announce.key != 0 {
            self.key = announce.key;
        }
        let port = match announce.contact {
            Contact::Port(port) => Some(port),
            Contact::Socket(_) => None,
        };
        match announce.from {
            IpAddr::V4(ip) => {
                // A port belongs to the address it was announced with.
                self.v4_port = port.unwrap_or(if self.v4 == ip { self.v4_port } else { 0 });
                (self.v4, self.v4_seen_s) = (ip, if port.is_some() { now_s } else { self.v4_seen_s });
            }
            IpAddr::V6(ip) => {
                self.v6_port = port.unwrap_or(if self.v6 == ip { self.v6_port } else { 0 });
                (self.v6, self.v6_seen_s) = (ip, if port.is_some() { now_s } else { self.v6_seen_s });
            }
        }
        if now_s.saturating_sub(self.v4_seen_s) > stale_s {
            self.v4_port = 0;
        }
        if now_s.saturating_sub(self.v6_seen_s) > stale_s {
            self.v6_port = 0;
        }
        match announce.contact {
            Contact::Socket(socket) => self.socket.replace(socket).filter(|old| *old != socket),
            Contact::Port(_) => None,
        }
    }
}

#[derive(Debug)]
struct Swarm {
    info_hash: InfoHash,
    roster: Roster,
    downloaded: u32,
    touched_s: u32,
}

impl Default for Swarm {
    fn default() -> Self {
        Self { info_hash: InfoHash::new([0; 20]), roster: Roster::default(), downloaded: 0, touched_s: 0 }
    }
}

impl Swarm {
    fn counts(&self) -> ScrapeEntry {
        let complete = self.roster.seeds();
        ScrapeEntry { complete, downloaded: self.downloaded, incomplete: self.roster.len() - complete }
    }
}

/// The swarms of one part of the info hashes.
#[derive(Debug)]
pub(crate) struct Shard {
    memory: Memory,
    secret: Secret,
    peers: Chain<Peer>,
    swarms: Chain<Swarm>,
    by_id: Table,
    by_hash: Table,
    totals: Totals,
}

impl Shard {
    /// An empty shard. `secret` keys the hash tables and must not be known outside.
    pub(crate) fn new(memory: Memory, secret: Secret) -> Self {
        Self {
            memory,
            secret,
            peers: Chain::default(),
            swarms: Chain::default(),
            by_id: Table::default(),
            by_hash: Table::default(),
            totals: Totals::default(),
        }
    }

    /// Takes an announce in, and draws peers for it: each is equally likely to be drawn, none twice, and not the
    /// announcing one.
    ///
    /// `random` is fresh for each call. A client that stops gets no peers.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing has changed then.
    pub(crate) fn announce(
        &mut self,
        now: Moment,
        random: u64,
        room: Room,
        announce: &Announce,
        draw: impl FnMut(Drawn<'_>),
    ) -> Result<Answer, Refusal> {
        self.expire(now, EXPIRED_PER_ANNOUNCE);
        let now_s = seconds(now);
        let known = self.swarm_of(announce.info_hash);
        if announce.event == AnnounceEvent::Stopped {
            let Some(swarm) = known else {
                return Ok(Answer { counts: ScrapeEntry::default(), replaced: None });
            };
            if let Ok(Some(peer)) = self.own_record(swarm, announce) {
                self.stop(peer, announce.contact);
            }
            return Ok(Answer { counts: self.swarms[swarm].counts(), replaced: None });
        }
        let swarm = match known {
            Some(swarm) => swarm,
            None => self.add_swarm(announce.info_hash, now_s, room)?,
        };
        let own = self.own_record(swarm, announce)?;
        self.swarms[swarm].touched_s = now_s;
        self.swarms.touch(swarm);
        let mut replaced = None;
        let own = match own {
            Some(peer) => {
                replaced = self.renew(peer, announce, now_s);
                Some(peer)
            }
            None if room == Room::None => None,
            None => self.join(swarm, announce, now_s),
        };
        self.draw(swarm, own, announce, random, draw);
        Ok(Answer { counts: self.swarms[swarm].counts(), replaced })
    }

    /// The numbers of a torrent; `None` for one that is not known.
    pub(crate) fn scrape(&self, info_hash: InfoHash) -> Option<ScrapeEntry> {
        Some(self.swarms[self.swarm_of(info_hash)?].counts())
    }

    /// The socket of the peer with this id.
    pub(crate) fn socket_of(&self, info_hash: InfoHash, peer_id: PeerId) -> Option<SocketId> {
        let swarm = self.swarm_of(info_hash)?;
        self.namesakes(swarm, &peer_id).find_map(|peer| self.peers[peer].socket)
    }

    /// Takes a socket that has closed out of a swarm, if it still has its place there.
    pub(crate) fn leave(&mut self, info_hash: InfoHash, peer_id: PeerId, socket: SocketId) {
        let Some(swarm) = self.swarm_of(info_hash) else { return };
        let mut own = self.namesakes(swarm, &peer_id);
        if let Some(peer) = own.find(|&peer| self.peers[peer].socket == Some(socket)) {
            drop(own);
            self.stop(peer, Contact::Socket(socket));
        }
    }

    /// Forgets at most `most` peers, and as many torrents, whose time is over.
    pub(crate) fn expire(&mut self, now: Moment, most: usize) {
        let now_s = seconds(now);
        let is_over =
            |since_s: u32, after: Duration| u64::from(now_s.saturating_sub(since_s)) > after.as_secs();
        for _ in 0..most {
            match self.peers.oldest() {
                Some((index, peer)) if is_over(peer.seen_s, self.memory.peers) => self.remove_peer(index),
                _ => break,
            }
        }
        for _ in 0..most {
            match self.swarms.oldest() {
                Some((index, swarm))
                    if swarm.roster.len() == 0 && is_over(swarm.touched_s, self.memory.torrents) =>
                {
                    self.remove_swarm(index);
                }
                _ => break,
            }
        }
    }

    /// What is held.
    pub(crate) fn totals(&self) -> Totals {
        Totals { torrents: self.swarms.len(), peers: self.peers.len(), ..self.totals }
    }

    /// All torrents with their numbers.
    pub(crate) fn swarms(&self) -> impl Iterator<Item = (InfoHash, ScrapeEntry)> + '_ {
        self.swarms.iter().map(|swarm| (swarm.info_hash, swarm.counts()))
    }

    /// Adds up the addresses of all peers; the IPv4 one of those that have two.
    pub(crate) fn add_classes(&self, sum: &mut AddressClasses) {
        for peer in self.peers.iter() {
            let v4 = Some(IpAddr::V4(peer.v4)).filter(|_| !peer.v4.is_unspecified());
            sum.add(v4.or(Some(IpAddr::V6(peer.v6)).filter(|_| !peer.v6.is_unspecified())));
        }
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        let rosters: usize = self.swarms.iter().map(|swarm| swarm.roster.heap_bytes()).sum();
        let tables = self.by_id.heap_bytes() + self.by_hash.heap_bytes();
        self.peers.heap_bytes() + self.swarms.heap_bytes() + tables + rosters
    }

    fn swarm_of(&self, info_hash: InfoHash) -> Option<u32> {
        let hash = self.secret.of(0, info_hash.as_bytes());
        self.by_hash.all(hash).find(|&swarm| self.swarms[swarm].info_hash == info_hash)
    }

    fn namesakes<'a>(&'a self, swarm: u32, id: &'a PeerId) -> impl Iterator<Item = u32> + 'a {
        let same = move |peer: &u32| self.peers[*peer].swarm == swarm && self.peers[*peer].id == *id;
        self.by_id.all(self.secret.of(swarm, id.as_bytes())).filter(same)
    }

    /// The record that an announce is about, if there is one.
    fn own_record(&self, swarm: u32, announce: &Announce) -> Result<Option<u32>, Refusal> {
        let mut others = 0;
        let mut taken = None;
        for peer in self.namesakes(swarm, &announce.peer_id) {
            if self.peers[peer].is_of(announce) {
                return Ok(Some(peer));
            }
            others += 1;
            taken = taken.or(self.peers[peer].socket);
        }
        match (announce.contact, taken) {
            // Answers find a browser by its peer id, so two cannot have the same.
            (Contact::Socket(_), Some(by)) => Err(Refusal::Taken { by }),
            _ if others >= MOST_NAMESAKES => Err(Refusal::Crowded),
            _ => Ok(None),
        }
    }

    fn add_swarm(&mut self, info_hash: InfoHash, now_s: u32, room: Room) -> Result<u32, Refusal> {
        if room != Room::Open {
            // A torrent that nobody takes part in makes room, though its time is not over.
            match self.swarms.oldest() {
                Some((index, swarm)) if swarm.roster.len() == 0 => self.remove_swarm(index),
                _ => return Err(Refusal::Full),
            }
        }
        let swarm = Swarm { info_hash, touched_s: now_s, ..Swarm::default() };
        let swarm = self.swarms.insert(swarm).ok_or(Refusal::Full)?;
        self.by_hash.insert(self.secret.of(0, info_hash.as_bytes()), swarm);
        Ok(swarm)
    }

    fn remove_swarm(&mut self, index: u32) {
        let info_hash = self.swarms[index].info_hash;
        self.by_hash.remove(self.secret.of(0, info_hash.as_bytes()), index);
        self.swarms.remove(index);
    }

    fn join(&mut self, swarm: u32, announce: &Announce, now_s: u32) -> Option<u32> {
        let mut peer = Peer { id: announce.peer_id, swarm, ..Peer::default() };
        peer.hear(announce, now_s, self.stale_s());
        peer.zone = zone(announce.progress, peer.reach());
        let index = self.peers.insert(peer)?;
        self.by_id.insert(self.secret.of(swarm, announce.peer_id.as_bytes()), index);
        let peers = &mut self.peers;
        self.swarms[swarm].roster.insert(index, peer.zone, &mut |member, place| peers[member].place = place);
        self.totals.count(peer.zone, Counting::In);
        if announce.event == AnnounceEvent::Completed && peer.zone.is_seed() {
            self.count_download(swarm);
        }
        Some(index)
    }

    fn renew(&mut self, index: u32, announce: &Announce, now_s: u32) -> Option<SocketId> {
        let stale_s = self.stale_s();
        self.peers.touch(index);
        let peer = &mut self.peers[index];
        let replaced = peer.hear(announce, now_s, stale_s);
        let (swarm, was_seed) = (peer.swarm, peer.zone.is_seed());
        let zone = zone(announce.progress, peer.reach());
        self.change_zone(index, zone);
        // Each peer completes once, however often it says so.
        if announce.event == AnnounceEvent::Completed && zone.is_seed() && !was_seed {
            self.count_download(swarm);
        }
        replaced
    }

    fn count_download(&mut self, swarm: u32) {
        let swarm = &mut self.swarms[swarm];
        swarm.downloaded = swarm.downloaded.saturating_add(1);
    }

    fn change_zone(&mut self, index: u32, to: Zone) {
        let Peer { zone: from, place, swarm, .. } = self.peers[index];
        if from != to {
            let peers = &mut self.peers;
            let mut moved = |member: u32, place| peers[member].place = place;
            self.swarms[swarm].roster.change(place, from, to, &mut moved);
            self.peers[index].zone = to;
            self.totals.count(from, Counting::Out);
            self.totals.count(to, Counting::In);
        }
    }

    /// A peer cannot be reached by a kind of contact any more; without any it is gone.
    fn stop(&mut self, index: u32, contact: Contact) {
        let peer = &mut self.peers[index];
        match contact {
            Contact::Port(_) => (peer.v4_port, peer.v6_port) = (0, 0),
            Contact::Socket(_) => peer.socket = None,
        }
        match peer.reach() {
            0 => self.remove_peer(index),
            reach => {
                let zone = peer.zone.with_reach(reach);
                self.change_zone(index, zone);
            }
        }
    }

    fn remove_peer(&mut self, index: u32) {
        let Peer { id, swarm, place, zone, .. } = self.peers[index];
        let peers = &mut self.peers;
        let mut moved = |member: u32, place| peers[member].place = place;
        self.swarms[swarm].roster.remove(place, zone, &mut moved);
        self.by_id.remove(self.secret.of(swarm, id.as_bytes()), index);
        self.peers.remove(index);
        self.totals.count(zone, Counting::Out);
    }

    fn draw(
        &self,
        swarm: u32,
        own: Option<u32>,
        announce: &Announce,
        random: u64,
        mut give: impl FnMut(Drawn<'_>),
    ) {
        let (wanted_reach, whom) = (
            match announce.wanted {
                Wanted::Addresses => reach::V4 | reach::V6,
                Wanted::V4 => reach::V4,
                Wanted::V6 => reach::V6,
                Wanted::Sockets => reach::SOCKET,
            },
            match announce.progress {
                Progress::Seed => Whom::Leechers,
                Progress::Leecher => Whom::Everybody,
            },
        );
        let roster = &self.swarms[swarm].roster;
        let total: u32 = roster.stretches(wanted_reach, whom).map(|(start, end)| end - start).sum();
        // Some that are drawn may be of no use to this client; a bound keeps the work in proportion to what is wanted.
        let tries = announce.want.saturating_mul(4).saturating_add(16).min(total as usize);
        if total == 0 || announce.want == 0 {
            return;
        }
        let scope = Scope::of(announce.from);
        let mut given = 0;
        for place in hash::walk(total, random).take(tries) {
            let member = at(roster, wanted_reach, whom, place);
            if Some(member) == own {
                continue;
            }
            let peer = &self.peers[member];
            let drawn = match announce.wanted {
                Wanted::Sockets => Drawn { peer_id: &peer.id, v4: None, v6: None, socket: peer.socket },
                _ => Drawn {
                    peer_id: &peer.id,
                    v4: (wanted_reach & peer.reach() & reach::V4 != 0 && scope.sees(Scope::of_v4(peer.v4)))
                        .then(|| SocketAddrV4::new(peer.v4, peer.v4_port)),
                    v6: (wanted_reach & peer.reach() & reach::V6 != 0 && scope.sees(Scope::of_v6(peer.v6)))
                        .then(|| SocketAddrV6::new(peer.v6, peer.v6_port, 0, 0)),
                    socket: None,
                },
            };
            if drawn.v4.is_some() || drawn.v6.is_some() || drawn.socket.is_some() {
                give(drawn);
                given += 1;
                if given == announce.want {
                    break;
                }
            }
        }
    }

    fn stale_s(&self) -> u32 {
        u32::try_from(self.memory.peers.as_secs()).unwrap_or(u32::MAX)
    }
}

/// The member at a place of the stretches, counted as if they were one.
fn at(roster: &Roster, reach: u8, whom: Whom, mut place: u32) -> u32 {
    for (start, end) in roster.stretches(reach, whom) {
        if place < end - start {
            return roster.member(start + place);
        }
        place -= end - start;
    }
    // A place beyond the stretches would be a bug of the caller; the first member is a harmless answer.
    debug_assert!(false, "a place beyond the stretches");
    roster.member(0)
}

const fn zone(progress: Progress, reach: u8) -> Zone {
    match progress {
        Progress::Seed => Zone::seed(reach),
        Progress::Leecher => Zone::leecher(reach),
    }
}

fn seconds(now: Moment) -> u32 {
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Counting {
    In,
    Out,
}

impl Totals {
    fn count(&mut self, zone: Zone, counting: Counting) {
        let reach = zone.reach();
        for (is_so, total) in [
            (zone.is_seed(), &mut self.seeds),
            (reach & reach::V4 != 0, &mut self.v4),
            (reach & reach::V6 != 0, &mut self.v6),
            (reach & reach::SOCKET != 0, &mut self.sockets),
        ] {
            if is_so {
                match counting {
                    Counting::In => *total += 1,
                    Counting::Out => *total -= 1,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
