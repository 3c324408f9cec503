//! The hub's own peer in its swarms: announced here directly, without a connection to itself.
//!
//! Its addresses are put into the map from time to time; its offers and answers to peers in browsers go over a line within
//! the process, on which it is a web socket like any other, but for the rules that keep strangers at bay. Both are one peer.

use std::net::SocketAddr;

use wtfs_proto::id::{InfoHash, PeerId};
use wtfs_proto::tracker::AnnounceEvent;
use wtfs_torrent::tracker::local::{LocalLine, LocalTracker};

use super::swarm::{Announce, Contact, Progress, Wanted};
use super::{Tracker, ws};

/// By this the map knows the hub's own peer, whatever address it is announced with.
pub(super) const OWN_KEY: u32 = 1;

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
        self.shared.set_own_addr(addr.ip());
        self.shared.claims(|claims| claims.leave_out(peer_id));
        let announce = Announce {
            info_hash,
            peer_id,
            from: addr.ip(),
            contact: Contact::Port(addr.port()),
            key: OWN_KEY,
            progress: if presence == Presence::Leecher { Progress::Leecher } else { Progress::Seed },
            event: if presence == Presence::Gone { AnnounceEvent::Stopped } else { AnnounceEvent::None },
            wanted: Wanted::Addresses,
            want: 0,
            uploaded_bytes: 0,
        };
        if let Err(error) = self.shared.announce(announce, |_| {}) {
            tracing::debug!(%info_hash, %error, "the hub's own peer is not in the swarm");
        }
    }
}

/// The way of the hub's own engine to its tracker.
impl LocalTracker for Tracker {
    fn connect(&self) -> LocalLine {
        let (line, heard, says) = LocalLine::new();
        tokio::spawn(ws::serve_own(self.clone(), heard, says));
        line
    }
}

#[cfg(test)]
mod tests;
