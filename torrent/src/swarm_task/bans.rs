//! Peers that are not talked to again, and by what they are known when they come back.
//!
//! Who has an address of its own is known by it. A peer over WebRTC has none: a household, an office or a TURN server has
//! one for all of its browsers, and one that lies must not shut the others out. Such a peer is known by the certificate
//! of its channel, and by its peer id at its address. Both are of its own choosing, so that an address of which several
//! were banned is left alone for a while: over WebRTC, and no longer, since the others there did nothing.
//!
//! Pure. Invariant: every list is bounded; the oldest is forgotten first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};

use wtfs_proto::id::PeerId;
use wtfs_proto::time::Moment;

use crate::peer_task::CloseReason;
use crate::status::{BanCounts, BannedPeer, BansStatus};
use crate::transport::Fingerprint;

/// Banned peers shown in the status.
const MAX_SHOWN: usize = 50;

/// Certificates and peer ids that are remembered.
const MAX_KNOWN: usize = 1024;

/// Addresses of which it is known how many were banned there.
const MAX_PLACES: usize = 256;

/// So many peers of one address banned within [`SPAN`], and it rests.
const MANY: u32 = 5;
const SPAN: Moment = Moment::from_secs(3600);

/// How long nobody comes in from there over WebRTC.
const REST: Moment = Moment::from_secs(900);

/// What is remembered, up to a number.
#[derive(Debug)]
pub(super) struct Known<T> {
    all: HashSet<T>,
    order: VecDeque<T>,
    most: usize,
}

impl<T: Copy + Eq + Hash> Known<T> {
    pub(super) fn new(most: usize) -> Self {
        Self { all: HashSet::new(), order: VecDeque::new(), most }
    }

    pub(super) fn add(&mut self, one: T) {
        if !self.all.insert(one) {
            return;
        }
        self.order.push_back(one);
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.all.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, one: &T) -> bool {
        self.all.contains(one)
    }
}

/// What is known of a peer over WebRTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guise {
    /// Where it is, or where its relay is.
    pub(super) ip: IpAddr,
    /// What it calls itself.
    pub(super) peer_id: PeerId,
    /// Of the certificate that its channel was set up with.
    pub(super) fingerprint: Option<Fingerprint>,
}

/// How it stands with an address.
#[derive(Debug, Clone, Copy)]
struct Place {
    count: u32,
    since: Moment,
    rests_until: Moment,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Bans {
    shown: VecDeque<BannedPeer>,
    counts: BanCounts,
    fingerprints: Known<Fingerprint>,
    peer_ids: Known<(IpAddr, PeerId)>,
    places: HashMap<IpAddr, Place>,
}

impl Bans {
    pub(super) fn new() -> Self {
        Self {
            shown: VecDeque::new(),
            counts: BanCounts::default(),
            fingerprints: Known::new(MAX_KNOWN),
            peer_ids: Known::new(MAX_KNOWN),
            places: HashMap::new(),
        }
    }

    /// Counts a ban and shows it, of whatever kind of peer.
    pub(super) fn note(&mut self, banned: BannedPeer, reason: &CloseReason) {
        match reason {
            CloseReason::BadData => self.counts.bad_data += 1,
            CloseReason::Junk => self.counts.junk += 1,
            _ => self.counts.violation += 1,
        }
        self.shown.push_back(banned);
        if self.shown.len() > MAX_SHOWN {
            self.shown.pop_front();
        }
    }

    /// A peer over WebRTC is not talked to again.
    pub(super) fn ban(&mut self, guise: Guise, now: Moment) {
        self.peer_ids.add((guise.ip, guise.peer_id));
        if let Some(fingerprint) = guise.fingerprint {
            self.fingerprints.add(fingerprint);
        }
        let ip = network(guise.ip);
        if self.places.len() >= MAX_PLACES && !self.places.contains_key(&ip) {
            let oldest = self.places.iter().min_by_key(|(_, place)| place.since).map(|(ip, _)| *ip);
            oldest.map(|oldest| self.places.remove(&oldest));
        }
        let fresh = Place { count: 0, since: now, rests_until: Moment::ZERO };
        let place = self.places.entry(ip).or_insert(fresh);
        if now.saturating_sub(place.since) > SPAN {
            *place = fresh;
        }
        place.count += 1;
        if place.count >= MANY {
            tracing::info!(%ip, "several peers over WebRTC were banned there: it rests for a while");
            *place = Place { count: 0, since: now, rests_until: now + REST };
        }
    }

    /// Whether a peer over WebRTC is one of those, as far as can be told.
    pub(super) fn refuse(&self, guise: Guise, now: Moment) -> bool {
        self.peer_ids.contains(&(guise.ip, guise.peer_id))
            || guise.fingerprint.is_some_and(|fingerprint| self.fingerprints.contains(&fingerprint))
            || self.places.get(&network(guise.ip)).is_some_and(|place| now < place.rests_until)
    }

    /// As it is shown.
    pub(super) fn status(&self) -> BansStatus {
        BansStatus { banned: self.shown.iter().cloned().collect(), bans: self.counts }
    }
}

/// What one subscriber has: of IPv6 that is a network of 2^64 addresses.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guise(ip: [u8; 4], id: u32, certificate: &str) -> Guise {
        let mut tail = [0; 12];
        tail[..4].copy_from_slice(&id.to_be_bytes());
        Guise {
            ip: ip.into(),
            peer_id: PeerId::generate(tail),
            fingerprint: Some(Fingerprint::of(certificate)),
        }
    }

    const HOME: [u8; 4] = [203, 0, 113, 1];

    #[test]
    fn one_that_lied_is_known_by_its_certificate_and_its_id_and_shuts_nobody_else_out() {
        let mut bans = Bans::new();
        bans.ban(guise(HOME, 1, "sha-256 AA"), Moment::ZERO);
        assert!(bans.refuse(guise(HOME, 1, "sha-256 BB"), Moment::ZERO), "a new certificate");
        assert!(bans.refuse(guise(HOME, 2, "SHA-256  aa"), Moment::ZERO), "a new peer id");
        assert!(bans.refuse(guise([198, 51, 100, 9], 2, "sha-256 AA"), Moment::ZERO), "another address");
        assert!(!bans.refuse(guise(HOME, 2, "sha-256 BB"), Moment::ZERO), "somebody else there");
        // Else whoever takes another's peer id could have it banned.
        assert!(!bans.refuse(guise([198, 51, 100, 9], 1, "sha-256 BB"), Moment::ZERO));
    }

    #[test]
    fn an_address_of_many_liars_rests_for_a_while() {
        let mut bans = Bans::new();
        let honest = guise(HOME, 1000, "honest");
        for id in 0..MANY {
            assert!(!bans.refuse(honest, Moment::ZERO));
            bans.ban(guise(HOME, id, &id.to_string()), Moment::ZERO);
        }
        assert!(bans.refuse(honest, Moment::ZERO));
        assert!(!bans.refuse(guise([203, 0, 113, 2], 1000, "honest"), Moment::ZERO));
        assert!(bans.refuse(honest, REST - Moment::from_secs(1)));
        assert!(!bans.refuse(honest, REST));
        // It begins anew.
        bans.ban(guise(HOME, 99, "99"), REST);
        assert!(!bans.refuse(honest, REST));
    }

    #[test]
    fn bans_far_apart_do_not_add_up() {
        let mut bans = Bans::new();
        let mut now = Moment::ZERO;
        for id in 0..MANY * 3 {
            bans.ban(guise(HOME, id, &id.to_string()), now);
            now += SPAN / 3;
        }
        assert!(!bans.refuse(guise(HOME, 1000, "honest"), now));
    }

    #[test]
    fn the_addresses_of_one_network_are_one_place() {
        let mut bans = Bans::new();
        let at = |last: u16, id| Guise {
            ip: Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last).into(),
            ..guise(HOME, id, &id.to_string())
        };
        for id in 0..MANY {
            bans.ban(at(id as u16, id), Moment::ZERO);
        }
        assert!(bans.refuse(at(1000, 1000), Moment::ZERO));
    }

    #[test]
    fn every_list_is_bounded() {
        let mut bans = Bans::new();
        for id in 0..5000_u32 {
            let [_, _, high, low] = id.to_be_bytes();
            bans.ban(guise([10, 0, high, low], id, &id.to_string()), Moment::from_millis(id.into()));
            let addr = std::net::SocketAddr::from((HOME, 1));
            bans.note(BannedPeer { addr, reason: String::new() }, &CloseReason::BadData);
        }
        assert_eq!(bans.places.len(), MAX_PLACES);
        assert_eq!((bans.peer_ids.all.len(), bans.peer_ids.order.len()), (MAX_KNOWN, MAX_KNOWN));
        assert_eq!(bans.fingerprints.all.len(), MAX_KNOWN);
        let status = bans.status();
        assert_eq!((status.banned.len(), status.bans.bad_data), (MAX_SHOWN, 5000));
    }
}
