//! Asking peers for blocks, and taking what they send.

use std::collections::BTreeSet;

use bytes::Bytes;
use wtfs_proto::geometry::BLOCK_BYTES;
use wtfs_proto::swarm::Urgency;
use wtfs_proto::swarm::picker::{BlockKey, Contested, Pick, Receipt, SourceId};
use wtfs_proto::time::Moment;
use wtfs_proto::wire::message::{BlockRequest, Message};

use super::{Node, Targets};
use crate::simulation::gathered::Gathered;
use crate::simulation::network::Network;
use crate::simulation::peer::Answer;

impl Node {
    pub(super) fn needs_requests(&mut self) {
        self.agenda.targets = Targets::All;
    }

    pub(super) fn needs_requests_of(&mut self, id: SourceId) {
        if let Targets::Some(ids) = &mut self.agenda.targets {
            ids.insert(id);
        }
    }

    /// Asks each peer that has room for what is wanted most; those that answer soonest are asked first.
    pub(super) fn request_blocks(&mut self, net: &mut Network) {
        let targets = std::mem::replace(&mut self.agenda.targets, Targets::Some(BTreeSet::new()));
        if !self.picker.has_work() {
            return;
        }
        let order: Vec<SourceId> = match targets {
            Targets::All => {
                let mut order: Vec<(Moment, SourceId)> =
                    self.peers.values().map(|peer| (peer.pipeline.expected_latency(), peer.id)).collect();
                order.sort_unstable();
                order.into_iter().map(|(_, id)| id).collect()
            }
            Targets::Some(ids) => ids.into_iter().collect(),
        };
        for id in order {
            self.request_from(net, id);
        }
    }

    fn request_from(&mut self, net: &mut Network, id: SourceId) {
        let now = net.now();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some((has, room)) = peer.offer(now) else { return };
        let mut picks: Vec<Pick> = Vec::new();
        let random = &mut self.random;
        self.picker.pick(id, has, room, now, &mut || random.next(), &mut picks);
        if picks.is_empty() {
            return;
        }
        assert!(picks.len() <= room.for_reads.max(room.for_rest), "more was picked than there is room for");
        let rest = picks.iter().filter(|pick| pick.urgency != Some(Urgency::Read)).count();
        assert!(rest <= room.for_rest, "{rest} blocks no read waits for in room for {}", room.for_rest);
        for pick in &picks {
            let piece = pick.key.piece.get();
            assert!(peer.may_be_asked(piece), "piece {piece} was asked of a peer that cannot give it");
            assert!(!self.present.get(piece), "piece {piece} is there already");
            assert!(
                peer.outstanding().all(|key| key != pick.key),
                "{:?} is asked twice of one peer",
                pick.key
            );
        }
        peer.handle_asked(picks.iter().map(|pick| pick.key), now);
        for pick in &picks {
            let key = pick.key;
            let is_hedge =
                self.peers.values().any(|peer| peer.id != id && peer.outstanding().any(|k| k == key));
            self.tally.hedged += u64::from(is_hedge);
            self.send(net, id, &Message::Request(self.request_of(key)));
        }
    }

    pub(super) fn request_of(&self, key: BlockKey) -> BlockRequest {
        let length = self.torrent.geometry.block_len(key.piece, key.block);
        BlockRequest { piece: key.piece.get(), begin: key.block * BLOCK_BYTES, length }
    }

    pub(super) fn handle_block(&mut self, net: &mut Network, id: SourceId, at: (u32, u32), data: Bytes) {
        let now = net.now();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let length = u32::try_from(data.len()).expect("a short block");
        self.tally.downloaded += u64::from(length);
        let found = self.torrent.geometry.check_block(at.0, at.1, length);
        let (piece, block) = found.expect("only whole blocks are asked for");
        let key = BlockKey { piece, block };
        let node = peer.node;
        let answer = peer.handle_block(key, length, now);
        self.needs_requests_of(id);
        if answer == Answer::Unasked {
            return;
        }
        let receipt = self.picker.handle_block(id, key, now);
        let Receipt::Accepted { also_asked, is_piece_complete } = receipt else { return };
        let is_contested = self.picker.is_contested(piece.get());
        let contested = if is_contested { Contested::Yes } else { Contested::No };
        let count = self.torrent.geometry.block_count(piece);
        let gathered =
            self.gathering.entry(piece.get()).or_insert_with(|| Gathered::new(piece, count, contested));
        // A contested piece that changes hands is asked for anew.
        let is_new = gathered.from[block as usize].is_none();
        assert!(is_new || is_contested, "{key:?} was accepted twice");
        gathered.blocks[block as usize] = data;
        gathered.from[block as usize] = Some(node);
        if is_piece_complete {
            let gathered = self.gathering.remove(&piece.get()).expect("it was just there");
            assert!(
                gathered.from.iter().all(Option::is_some),
                "piece {piece:?} is complete with a block missing"
            );
            self.complete.push(gathered);
        }
        if let Some(other) = also_asked {
            self.cancel_at(net, other, key);
        }
    }

    /// Another peer was asked for the same block and lost the race.
    fn cancel_at(&mut self, net: &mut Network, id: SourceId, key: BlockKey) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.withdraw(key) {
            self.send(net, id, &Message::Cancel(self.request_of(key)));
            self.needs_requests_of(id);
        }
    }

    /// A peer gives none of what was asked of it: others may.
    pub(super) fn give_back(&mut self, now: Moment, id: SourceId, keys: &[BlockKey]) {
        for key in keys {
            self.picker.handle_lost(id, *key, now);
        }
        if !keys.is_empty() {
            self.needs_requests();
        }
    }
}
