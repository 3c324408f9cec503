//! Bringing peers together who cannot reach each other: browsers have data channels alone, most other clients TCP alone.
//! While one side has what the other lacks, all of it is fetched, and so can be given on. Who speaks both, and says at
//! which port it listens, needs nobody in between.
//!
//! Owns only the decision, which is made anew every few seconds. What is fetched so goes like anything else in the cache
//! when room is needed, and nothing is fetched into a cache that is full.

use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::swarm::picker::Filling;

use super::SwarmTask;
use crate::config::BridgePolicy;
use crate::transport::TransportKind;

/// One side of the bridge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Side {
    /// Somebody there has a piece.
    has_some: bool,
    /// Somebody there lacks a piece.
    lacks_some: bool,
}

impl Side {
    fn add(&mut self, bits: Option<&Bitfield>) {
        // Before the metadata is known nobody's pieces are.
        let Some(bits) = bits else { return };
        self.has_some |= bits.count_ones() > 0;
        self.lacks_some |= !bits.is_full();
    }
}

impl SwarmTask {
    /// Begins to fetch everything if that is of use to peers who do not reach each other, or leaves off.
    pub(super) fn tend_bridge(&mut self) {
        if self.engine.config.bridge == BridgePolicy::Off || self.upkeep.is_filling {
            return;
        }
        let Some(download) = &mut self.download else { return };
        let (mut channels, mut sockets) = (Side::default(), Side::default());
        for peer in self.peers.values().filter(|peer| peer.about.web_seed.is_none()) {
            match (peer.about.kind, peer.about.listen_port) {
                (TransportKind::WebRtc, None) => channels.add(peer.bits()),
                (TransportKind::WebRtc, Some(_)) => {}
                _ => sockets.add(peer.bits()),
            }
        }
        let is_needed = !download.picker.is_complete()
            && ((channels.has_some && sockets.lacks_some) || (sockets.has_some && channels.lacks_some));
        if is_needed == self.upkeep.is_bridging {
            return;
        }
        tracing::debug!(is_needed, "browsers and others meet here");
        self.upkeep.is_bridging = is_needed;
        download.picker.set_filling(if is_needed { Filling::Everything } else { Filling::OnDemand });
        self.eviction.handle_filling();
        self.upkeep.needs_requests();
    }
}
