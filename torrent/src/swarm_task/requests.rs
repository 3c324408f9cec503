//! Asking peers for blocks, and taking what they send.

use std::sync::atomic::Ordering;

use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::geometry::BLOCK_BYTES;
use wtfs_proto::peer::conduct::Junk;
use wtfs_proto::swarm::picker::{BlockKey, Pick, Receipt, Room, SourceId};
use wtfs_proto::swarm::spread::{self, Capacity};
use wtfs_proto::time::Moment;
use wtfs_proto::wire::message::{BlockRequest, Message};

use super::peers::{Answer, Peer};
use super::{SwarmTask, one, request_of};
use crate::budget::Room as CacheRoom;
use crate::peer_task::{Block, CloseReason, PeerCommand};

/// Blocks that are shared out in one round: eight pieces of a mebibyte. Shares of more are a peer's whole room anyway.
const MOST_SHARED: usize = 512;

/// What a peer is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asking {
    /// So many of the blocks that reads wait for.
    Share(usize),
    /// Whatever reads wait for: nothing else may be fetched now.
    ForReads,
    /// Whatever is wanted.
    ForAll,
}

impl SwarmTask {
    /// Asks each peer that has room for what is wanted most. Peers that answer soonest are asked first.
    pub(super) fn request_blocks(&mut self) {
        let targets = self.upkeep.take_request_targets();
        let Some(download) = &mut self.download else { return };
        if targets.is_empty() || !download.picker.has_work() {
            self.report_in_flight();
            return;
        }
        let now = self.clock.now();
        let cache = download.content.ledger.room();
        if cache == CacheRoom::Nothing && download.picker.in_flight_bytes() == 0 {
            // Space is being made; the next tick asks again.
            self.report_in_flight();
            return;
        }
        let is_paused = now < download.paused_until || cache <= CacheRoom::ReadsOnly;
        self.set_budget();
        self.count_seeds(now);
        let mut order: Vec<(Moment, SourceId)> = match targets {
            super::upkeep::Targets::All => {
                self.peers.values().map(|p| (p.pipeline.expected_latency(), p.id)).collect()
            }
            super::upkeep::Targets::Some(ids) => ids
                .into_iter()
                .filter(|id| self.peers.contains_key(id))
                .map(|id| (Moment::ZERO, id))
                .collect(),
        };
        order.sort_unstable();
        let mut too_slow = Vec::new();
        for (id, share) in self.shares_for_reads(&order, now) {
            if self.request_from(id, now, Asking::Share(share)).is_err() {
                too_slow.push(id);
            }
        }
        let asking = if is_paused { Asking::ForReads } else { Asking::ForAll };
        for (_, id) in order {
            if self.request_from(id, now, asking).is_err() {
                too_slow.push(id);
            }
        }
        for id in too_slow {
            self.close_peer(id, &CloseReason::TooSlow);
        }
        self.report_in_flight();
    }

    /// How much of what reads newly wait for each of these peers is asked for first; nothing where one peer is all there
    /// is.
    fn shares_for_reads(&self, order: &[(Moment, SourceId)], now: Moment) -> Vec<(SourceId, usize)> {
        let Some(download) = &self.download else { return Vec::new() };
        if order.len() < 2 {
            return Vec::new();
        }
        let blocks = download.picker.missing_for_reads(MOST_SHARED);
        if blocks == 0 {
            return Vec::new();
        }
        let offers = order.iter().filter_map(|(_, id)| {
            let peer = self.peers.get(id)?;
            let (_, room) = peer.offer(now)?;
            let capacity = Capacity {
                latency: peer.pipeline.least_latency().unwrap_or_else(|| peer.pipeline.expected_latency()),
                rate: peer.pipeline.rate(),
                outstanding: peer.outstanding(),
                room: room.for_reads,
            };
            Some((*id, capacity))
        });
        let (ids, capacities): (Vec<SourceId>, Vec<Capacity>) = offers.unzip();
        let shares = spread::shares(blocks, &capacities);
        ids.into_iter().zip(shares).filter(|(_, share)| *share > 0).collect()
    }

    fn request_from(&mut self, id: SourceId, now: Moment, asking: Asking) -> Result<(), CloseReason> {
        let (Some(download), Some(peer)) = (&mut self.download, self.peers.get_mut(&id)) else {
            return Ok(());
        };
        let Some((has, room)) = peer.offer(now) else { return Ok(()) };
        let room = match asking {
            Asking::Share(share) => {
                let for_reads = share.min(room.for_reads);
                // What is late is asked for once more by whoever has room then.
                Room { for_reads, for_rest: 0, hedge_after: Moment::MAX }
            }
            Asking::ForReads => Room { for_rest: 0, ..room },
            Asking::ForAll => room,
        };
        let mut picks: Vec<Pick> = Vec::new();
        download.picker.pick(id, has, room, now, &mut || fastrand::u64(..), &mut picks);
        if picks.is_empty() {
            return Ok(());
        }
        let geometry = download.content.geometry();
        let command = if peer.about.web_seed.is_some() {
            PeerCommand::Fetch(picks.clone())
        } else {
            let requests = picks.iter().map(|pick| Message::Request(request_of(geometry, pick)));
            PeerCommand::Messages(requests.collect())
        };
        let sent = peer.link.send(command);
        // Noted even if it could not be queued: closing the peer gives the blocks back.
        peer.handle_asked(picks.iter().map(|pick| pick.key), now);
        sent
    }

    /// Seeds are spared by members that read the same at the same time.
    fn count_seeds(&mut self, now: Moment) {
        let Some(download) = &mut self.download else { return };
        if download.picker.has_companions(now) {
            let has_all = |peer: &&Peer| peer.bits().is_some_and(Bitfield::is_full);
            download.picker.set_seeds(self.peers.values().filter(has_all).count());
        }
    }

    /// Pieces in flight of all torrents share one budget.
    fn set_budget(&mut self) {
        let Some(download) = &mut self.download else { return };
        let all = self.engine.in_flight_bytes.load(Ordering::Relaxed);
        let others = all.saturating_sub(self.upkeep.in_flight_reported);
        let memory = self.engine.config.memory_bytes.saturating_sub(others);
        download.picker.set_budget(memory.min(download.content.ledger.room_in_flight()));
    }

    fn report_in_flight(&mut self) {
        let Some(download) = &self.download else { return };
        let (old, new) = (self.upkeep.in_flight_reported, download.picker.in_flight_bytes());
        if new >= old {
            self.engine.in_flight_bytes.fetch_add(new - old, Ordering::Relaxed);
        } else {
            self.engine.in_flight_bytes.fetch_sub(old - new, Ordering::Relaxed);
        }
        download.content.ledger.set_in_flight(new);
        self.upkeep.in_flight_reported = new;
    }

    /// Blocks came from a peer.
    pub(super) fn handle_blocks(&mut self, id: SourceId, blocks: Vec<Block>) -> Result<(), CloseReason> {
        let now = self.clock.now();
        for block in blocks {
            self.handle_block(id, block, now)?;
        }
        if self.peers.get(&id).is_some_and(|peer| peer.about.web_seed.is_some()) {
            self.handle_seed_gave(id);
        }
        self.upkeep.needs_requests_of(id);
        Ok(())
    }

    fn handle_block(&mut self, id: SourceId, block: Block, now: Moment) -> Result<(), CloseReason> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let bytes = block.data.len() as u64;
        self.upkeep.handle_received(&self.shared.counters, peer.about.kind.into(), bytes, now);
        let Some(download) = &mut self.download else {
            return Err(CloseReason::Violation("sent a block before anybody could ask for it"));
        };
        // What we ask for are whole blocks, so no answer is anything else, not even one that crossed its cancel.
        let length = u32::try_from(block.data.len()).unwrap_or(u32::MAX);
        let Some((piece, number)) = download.content.geometry().check_block(block.piece, block.begin, length)
        else {
            self.shared.counters.wasted.add(bytes);
            return Err(CloseReason::Violation("sent a block that nobody can have asked for"));
        };
        let key = BlockKey { piece, block: number };
        match peer.handle_block(key, length, now) {
            Answer::Asked | Answer::Late => {}
            Answer::Unasked => {
                self.shared.counters.wasted.add(bytes);
                return peer.handle_junk(Junk::Message { bytes: block.data.len() }, now);
            }
        }
        let from = peer.contributor();
        match download.handle_block(id, from, key, block.data, now) {
            Receipt::Unwanted => self.shared.counters.wasted.add(bytes),
            Receipt::Accepted { also_asked: Some(other), .. } => self.cancel_at(other, key),
            Receipt::Accepted { .. } => {}
        }
        self.handle_gathered(id, piece);
        Ok(())
    }

    /// Another peer was asked for the same block and lost the race.
    fn cancel_at(&mut self, id: SourceId, key: BlockKey) {
        let (Some(download), Some(peer)) = (&self.download, self.peers.get_mut(&id)) else { return };
        if peer.withdraw(key) {
            let geometry = download.content.geometry();
            let request = BlockRequest {
                piece: key.piece.get(),
                begin: key.block * BLOCK_BYTES,
                length: geometry.block_len(key.piece, key.block),
            };
            if let Err(reason) = peer.link.send(one(Message::Cancel(request))) {
                self.close_peer(id, &reason);
            } else {
                self.upkeep.needs_requests_of(id);
            }
        }
    }

    /// A peer gives none of what was asked of it: others may.
    pub(super) fn give_back(&mut self, id: SourceId, keys: &[BlockKey]) {
        if keys.is_empty() {
            return;
        }
        let now = self.clock.now();
        if let Some(download) = &mut self.download {
            for key in keys {
                download.picker.handle_lost(id, *key, now);
            }
        }
        self.upkeep.needs_requests();
    }
}
