//! What peers say they gave each other, of the torrents that are followed.
//!
//! A client counts what it sent since its first announce, and says it in each; what it says more than the last time is
//! added up. It is the client's word, believed as far as a fast link goes; the hub's own peer is left out, whose bytes are
//! known. Pure, told the time; bounded in torrents by who follows them, in peers by [`PEERS_MAX`].

use std::collections::HashMap;
use std::time::Duration;

use wtfs_proto::id::{InfoHash, PeerId};
use wtfs_proto::time::Moment;
use wtfs_proto::tracker::AnnounceEvent;

use super::swarm::Announce;

/// Peers of all followed torrents; further ones are not counted until others have gone.
const PEERS_MAX: usize = 65_536;

/// A peer that is silent for so long is forgotten when room is wanted: clients announce every half hour.
const SILENT_MAX: Duration = Duration::from_secs(2 * 3600);

/// More than this a second nobody is believed: 100 Gbit.
const BYTES_A_SECOND_MAX: u64 = 12_500_000_000;

#[derive(Debug, Clone, Copy)]
struct Claim {
    uploaded_bytes: u64,
    at: Moment,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Claims {
    followed: HashMap<InfoHash, HashMap<PeerId, Claim>>,
    peers: usize,
    sum_bytes: u64,
    own: Option<PeerId>,
}

impl Claims {
    pub(super) fn follow(&mut self, info_hash: InfoHash) {
        self.followed.entry(info_hash).or_default();
    }

    pub(super) fn unfollow(&mut self, info_hash: InfoHash) {
        if let Some(peers) = self.followed.remove(&info_hash) {
            self.peers -= peers.len();
        }
    }

    /// How many torrents are followed.
    pub(super) fn len(&self) -> usize {
        self.followed.len()
    }

    /// Whose word is not asked for.
    pub(super) fn leave_out(&mut self, own: PeerId) {
        self.own = Some(own);
    }

    /// The sum, also of torrents that are not followed any more.
    pub(super) fn sum_bytes(&self) -> u64 {
        self.sum_bytes
    }

    pub(super) fn hear(&mut self, announce: &Announce, now: Moment) {
        if self.followed.is_empty() || self.own == Some(announce.peer_id) {
            return;
        }
        if self.peers >= PEERS_MAX && self.followed.contains_key(&announce.info_hash) {
            self.make_room(now);
        }
        let Some(peers) = self.followed.get_mut(&announce.info_hash) else { return };
        let said = Claim { uploaded_bytes: announce.uploaded_bytes, at: now };
        // Of who is new it is not known since when it counts.
        if let Some(before) = peers.get_mut(&announce.peer_id) {
            let more = said.uploaded_bytes.saturating_sub(before.uploaded_bytes);
            let elapsed = now.saturating_sub(before.at).as_secs() + 1;
            self.sum_bytes =
                self.sum_bytes.saturating_add(more.min(elapsed.saturating_mul(BYTES_A_SECOND_MAX)));
            *before = said;
        } else if self.peers < PEERS_MAX && announce.event != AnnounceEvent::Stopped {
            peers.insert(announce.peer_id, said);
            self.peers += 1;
        }
        if announce.event == AnnounceEvent::Stopped && peers.remove(&announce.peer_id).is_some() {
            self.peers -= 1;
        }
    }

    fn make_room(&mut self, now: Moment) {
        for peers in self.followed.values_mut() {
            peers.retain(|_, claim| now.saturating_sub(claim.at) < SILENT_MAX);
        }
        self.peers = self.followed.values().map(HashMap::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::super::swarm::{Contact, Progress, Wanted};
    use super::*;

    const TORRENT: InfoHash = InfoHash::new([1; 20]);
    const GIB: u64 = 1 << 30;

    fn says(peer: u32, uploaded_bytes: u64, event: AnnounceEvent) -> Announce {
        let mut id = [0; 20];
        id[..4].copy_from_slice(&peer.to_be_bytes());
        Announce {
            info_hash: TORRENT,
            peer_id: PeerId::new(id),
            from: IpAddr::V4(Ipv4Addr::LOCALHOST),
            contact: Contact::Port(1),
            key: 0,
            progress: Progress::Leecher,
            event,
            wanted: Wanted::Addresses,
            want: 0,
            uploaded_bytes,
        }
    }

    fn at(s: u64) -> Moment {
        Duration::from_secs(s)
    }

    #[test]
    fn what_peers_say_more_than_before_is_added_up_and_nothing_of_who_is_new() {
        use AnnounceEvent::{None, Started, Stopped};
        let mut claims = Claims::default();
        claims.hear(&says(1, 0, Started), at(0));
        claims.hear(&says(1, GIB, None), at(60));
        assert_eq!((claims.sum_bytes(), claims.peers), (0, 0), "nobody follows it");
        claims.follow(TORRENT);
        claims.hear(&says(1, GIB, None), at(90));
        claims.hear(&says(1, 3 * GIB, None), at(120));
        claims.hear(&says(2, 0, Started), at(120));
        claims.hear(&says(2, GIB, Stopped), at(150));
        assert_eq!((claims.sum_bytes(), claims.peers), (3 * GIB, 1));
        // It began to count anew.
        claims.hear(&says(1, 5, None), at(180));
        assert_eq!(claims.sum_bytes(), 3 * GIB);
        claims.unfollow(TORRENT);
        assert_eq!((claims.sum_bytes(), claims.peers), (3 * GIB, 0));
    }

    #[test]
    fn the_hubs_own_word_is_not_asked_for_and_boasting_has_a_bound() {
        let mut claims = Claims::default();
        claims.follow(TORRENT);
        let own = says(1, 0, AnnounceEvent::None);
        claims.leave_out(own.peer_id);
        for bytes in [0, GIB] {
            claims.hear(&says(1, bytes, AnnounceEvent::None), at(bytes / GIB));
            claims.hear(&says(2, bytes * GIB, AnnounceEvent::None), at(bytes / GIB));
        }
        assert_eq!(claims.sum_bytes(), 2 * BYTES_A_SECOND_MAX);
    }

    #[test]
    fn a_flood_of_peers_takes_bounded_memory_and_silent_ones_make_room() {
        let mut claims = Claims::default();
        claims.follow(TORRENT);
        let count = u32::try_from(PEERS_MAX).expect("few") + 10;
        for peer in 0..count {
            claims.hear(&says(peer, 0, AnnounceEvent::Started), at(0));
        }
        assert_eq!(claims.peers, PEERS_MAX);
        claims.hear(&says(count, 0, AnnounceEvent::Started), at(3 * 3600));
        assert_eq!(claims.peers, 1);
    }
}
