//! What must hold in each node after each round, told from the node's own books and not from the picker's.

use std::collections::HashMap;

use wtfs_proto::swarm::picker::BlockKey;

use super::Node;

/// The most sources that may be asked for one block at a time.
const MOST_ASKED: u32 = 2;

impl Node {
    pub(super) fn assert_promises(&self) {
        let mut asked: HashMap<BlockKey, u32> = HashMap::new();
        for peer in self.peers.values() {
            assert_eq!(peer.pipeline.outstanding(), peer.outstanding().len(), "the pipeline lost count");
            for key in peer.outstanding() {
                let count = asked.entry(key).or_insert(0);
                *count += 1;
                assert!(*count <= MOST_ASKED, "{:?}: {key:?} is outstanding at {count} sources", self.id);
            }
        }
        let in_flight = self.picker.in_flight_bytes();
        let piece_bytes = u64::from(self.torrent.geometry.piece_bytes());
        let budget = self.character.budget_bytes;
        assert!(in_flight <= budget + piece_bytes, "{in_flight} bytes are in flight of {budget}");
        let gathered: u64 = self.gathering.values().map(super::Gathered::bytes).sum();
        assert!(gathered <= in_flight, "{gathered} bytes are gathered, {in_flight} are accounted for");
        let unchoked = self.peers.values().filter(|peer| !peer.stance.are_we_choking).count();
        assert!(unchoked <= self.character.slots + 1, "{unchoked} peers are unchoked");
        assert_eq!(self.picker.present_count(), self.present.count_ones(), "the picker lost count");
    }

    /// What must hold when a swarm has done its work.
    pub(crate) fn assert_end(&self) {
        assert_eq!(self.reads.begun, self.reads.ended, "a read was left waiting");
        if self.has_all() {
            let unpunished: Vec<_> = self.tally.cheated_by.difference(&self.tally.banned).collect();
            assert!(
                unpunished.is_empty(),
                "{:?} got wrong bytes of {unpunished:?} and banned them not",
                self.id
            );
        }
    }

    /// The state in a line, for who has to find out why nothing moves.
    pub(crate) fn describe(&self) -> String {
        let peers: Vec<String> = self
            .peers
            .values()
            .map(|peer| {
                format!(
                    "{}:{}{}asked={} has={}",
                    peer.node.0,
                    if peer.stance.unchoked_since.is_some() { "" } else { "choking " },
                    if peer.stance.are_we_interested { "" } else { "dull " },
                    peer.outstanding().len(),
                    peer.bits.count_ones()
                )
            })
            .collect();
        let contested: Vec<u32> =
            (0..self.torrent.piece_count()).filter(|piece| self.picker.is_contested(*piece)).collect();
        format!(
            "{:?} has {} of {}, in flight {} of {}, gathering {:?}, contested {contested:?}, waiting {:?}, peers {peers:?}, {:?} {:?}",
            self.id,
            self.present.count_ones(),
            self.torrent.piece_count(),
            self.picker.in_flight_bytes(),
            self.character.budget_bytes,
            self.gathering.keys(),
            self.reads.waiting.values().map(|read| read.pieces.clone()).collect::<Vec<_>>(),
            self.character,
            self.tally,
        )
    }
}
