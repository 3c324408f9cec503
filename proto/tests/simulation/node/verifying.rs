//! What becomes of a gathered piece, and who is blamed for it.

use wtfs_proto::swarm::picker::Contested;

use super::{Conduct, Node};
use crate::simulation::gathered::Gathered;
use crate::simulation::network::{Network, NodeId};

impl Node {
    /// The disk pool came to a gathered piece.
    pub(crate) fn handle_verify(&mut self, net: &mut Network, gathered: &Gathered) {
        if self.torrent.is_piece(gathered.piece, &gathered.blocks) {
            self.handle_good(net, gathered);
        } else {
            self.handle_bad(net, gathered);
        }
        self.needs_requests();
        self.settle(net);
    }

    fn handle_good(&mut self, net: &mut Network, gathered: &Gathered) {
        let piece = gathered.piece;
        self.store[piece.get() as usize] = Some(gathered.blocks.concat().into());
        assert!(self.present.set(piece.get()), "piece {piece:?} was fetched twice");
        self.picker.handle_verified(piece);
        self.answer_reads(net, piece.get());
        // Hashed only where an earlier attempt failed, as the engine does it.
        let digests = if gathered.contested == Contested::Yes { gathered.digests() } else { Vec::new() };
        let liars = self.blame.handle_verified(piece, &digests);
        self.announce_piece(net, piece.get());
        self.ban(net, &liars);
        if self.picker.is_complete() {
            let seeds: Vec<_> =
                self.peers.values().filter(|peer| peer.bits.is_full()).map(|peer| peer.id).collect();
            for id in seeds {
                self.close_peer(net, id);
            }
            self.agenda.interest_at = net.now();
        }
    }

    fn handle_bad(&mut self, net: &mut Network, gathered: &Gathered) {
        let piece = gathered.piece;
        let truth = self.torrent.piece(piece);
        let mut wrong: Vec<NodeId> = Vec::new();
        let mut at = 0;
        for (block, from) in gathered.blocks.iter().zip(&gathered.from) {
            if truth.slice(at..at + block.len()) != *block {
                wrong.extend(from);
            }
            at += block.len();
        }
        assert!(!wrong.is_empty(), "piece {piece:?} failed though each block of it is right");
        for node in &wrong {
            let conduct = self.facts.conducts[node.0];
            assert!(matches!(conduct, Conduct::Liar { .. }), "an honest node sent wrong bytes");
        }
        self.tally.cheated_by.extend(wrong);
        self.tally.failed += gathered.bytes();
        self.picker.handle_failed(piece);
        let count = self.torrent.geometry.block_count(piece);
        let liar = self.blame.handle_failed(piece, count, gathered.evidence());
        let contested = if self.blame.is_contested(piece) { Contested::Yes } else { Contested::No };
        self.picker.set_contested(piece, contested);
        self.ban(net, liar.as_slice());
    }

    fn ban(&mut self, net: &mut Network, liars: &[NodeId]) {
        for liar in liars {
            assert!(!self.facts.is_honest(*liar), "honest {liar:?} was banned by {:?}", self.id);
            self.tally.banned.insert(*liar);
            self.blame.forget_source(*liar);
            let ids: Vec<_> =
                self.peers.values().filter(|peer| peer.node == *liar).map(|peer| peer.id).collect();
            for id in ids {
                self.close_peer(net, id);
            }
        }
    }

    /// A present piece is thrown out to make place; peers are told. Returns whether it was there and not in use.
    pub(crate) fn evict(&mut self, net: &mut Network, piece: u32) -> bool {
        if !self.present.get(piece) || self.reads.wants(piece) {
            return false;
        }
        let Some(index) = self.torrent.geometry.piece(piece) else { return false };
        self.present.clear(piece);
        self.store[piece as usize] = None;
        self.picker.handle_removed(index);
        for peer in self.peers.values() {
            self.send(net, peer.id, &Self::dont_have(piece));
        }
        self.settle(net);
        true
    }
}
