//! The hub's own peer in its swarms: announced here directly, without a connection to itself.

use std::net::SocketAddr;

use wtfs_proto::id::{InfoHash, PeerId};
use wtfs_proto::tracker::AnnounceEvent;

use super::Tracker;
use super::swarm::{Announce, Contact, Progress, Wanted};

/// How the hub takes part in a swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It has all of it.
    Seed,
    /// It has a part.
    Leecher,
    /// It has left.
    Gone,
}

impl Tracker {
    /// Says that the hub's own engine can be reached at `addr`. To be repeated, like any announce.
    pub(crate) fn announce_own(
        &self,
        info_hash: InfoHash,
        peer_id: PeerId,
        addr: SocketAddr,
        presence: Presence,
    ) {
        let announce = Announce {
            info_hash,
            peer_id,
            from: addr.ip(),
            contact: Contact::Port(addr.port()),
            key: 1,
            progress: if presence == Presence::Leecher { Progress::Leecher } else { Progress::Seed },
            event: if presence == Presence::Gone { AnnounceEvent::Stopped } else { AnnounceEvent::None },
            wanted: Wanted::Addresses,
            want: 0,
        };
        if let Err(error) = self.shared.announce(announce, |_| {}) {
            tracing::debug!(%info_hash, %error, "the hub's own peer is not in the swarm");
        }
    }
}
