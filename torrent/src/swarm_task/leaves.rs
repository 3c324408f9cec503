//! Blocks verified alone, by the leaf hashes of v2 (BEP 52): reads that need some blocks of a piece do not wait for it.
//!
//! A read of part of a piece is narrowed to its blocks, and the leaves of the piece are asked for with them; a block
//! that a read waits for is hashed once its leaf is known, and the read answered out of memory. Where nobody gives
//! leaves the read is widened to the whole piece. What was read of a piece is kept, within bounds, until the rest of it
//! is fetched, which waits until no reads come: only whole verified pieces are ever stored or marked present.
//!
//! After a magnet the piece layers are missing; then the leaves of every piece are asked for, proven by the file's root.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use wtfs_proto::geometry::{BLOCK_BYTES, PieceIndex};
use wtfs_proto::merkle::Hash;
use wtfs_proto::metainfo::{Metainfo, Version};
use wtfs_proto::peer::conduct::Junk;
use wtfs_proto::swarm::hashes::{HashesError, LeafHashes, PieceTree, has_node};
use wtfs_proto::swarm::picker::{BlockKey, RestIs, SourceId};
use wtfs_proto::swarm::{DemandId, Urgency};
use wtfs_proto::time::Moment;
use wtfs_proto::wire::message::{HashRequest, Message};

use super::demands::Extent;
use super::download::{Download, Gathered};
use super::hash_serving::Serving;
use super::suspects::Contributor;
use super::{Event, SwarmTask, one};
use crate::error::ReadError;
use crate::peer_task::CloseReason;
use crate::reader::next_demand;
use crate::store::StoreError;
use crate::torrent::Content;
use crate::verify::verify_piece;

/// Pieces of fewer blocks are fetched whole: asking for their leaves would save little.
const LEAST_BLOCKS: u32 = 4;

/// The rest of pieces is fetched once no read has come for this long.
const REST_AFTER: Moment = Moment::from_millis(250);

/// The part of the memory that pieces of which only some blocks were read may hold.
const REST_SHARE: u64 = 4;

/// So many blocks are hashed at once in the task: some 25 microseconds, which is less than to the pool and back.
const FEW_BLOCKS: usize = 2;

/// Whether a block was verified alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockCheck {
    None,
    /// It is being hashed.
    Begun,
    Good,
}

/// What the hashes say of a whole piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    /// Something in it is wrong.
    Bad,
    /// These blocks are wrong, and no others. None: the v1 and v2 hashes of the torrent disagree.
    BadBlocks(Vec<u32>),
}

/// A block to hash.
#[derive(Debug)]
struct Check {
    key: BlockKey,
    from: Option<Contributor>,
    data: Bytes,
    leaf: Hash,
    tree: PieceTree,
}

/// A block that was hashed.
#[derive(Debug)]
pub(super) struct CheckedBlock {
    key: BlockKey,
    from: Option<Contributor>,
    is_good: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Leaves {
    hashes: LeafHashes,
    pub(super) serving: Serving,
    /// Checks to be started with the next jobs.
    checks: Vec<Check>,
    /// Pieces of which some blocks were read, oldest first, each with the demand that keeps them.
    rest: VecDeque<(u32, DemandId)>,
    last_read_at: Moment,
    /// Somebody may have to be asked for hashes.
    is_asking_due: bool,
    /// Some piece has no hash of its own: a magnet's metadata came without piece layers.
    lacks_layers: bool,
}

impl Leaves {
    pub(super) fn new(content: &Content) -> Self {
        let metainfo = &content.metainfo;
        let lacks = |piece| PieceTree::of(metainfo, piece).is_some_and(|tree| !has_node(metainfo, &tree));
        let is_v2 = metainfo.info.version == Version::V2;
        // A file has all of its layer or nothing: its first piece tells, and layers are few or none.
        let geometry = &metainfo.info.geometry;
        let mut firsts = geometry.files().filter_map(|file| geometry.locate(file, 0)).map(|(piece, _)| piece);
        Self {
            hashes: LeafHashes::default(),
            serving: Serving::default(),
            checks: Vec::new(),
            rest: VecDeque::new(),
            last_read_at: Moment::ZERO,
            is_asking_due: false,
            lacks_layers: is_v2 && firsts.any(lacks),
        }
    }

    /// A source is gone.
    pub(super) fn handle_gone(&mut self, id: SourceId) {
        self.hashes.handle_gone(id);
        self.serving.handle_gone(id);
        self.is_asking_due = true;
    }

    /// Whether a piece can only be verified by its leaves.
    fn needs_leaves(&self, metainfo: &Metainfo, piece: PieceIndex) -> bool {
        self.lacks_layers && PieceTree::of(metainfo, piece).is_some_and(|tree| !has_node(metainfo, &tree))
    }

    /// Gives complete pieces the leaves they are verified by; those that lack them have to wait.
    pub(super) fn split_ready(
        &mut self,
        content: &Content,
        complete: Vec<Gathered>,
    ) -> (Vec<Gathered>, Vec<Gathered>) {
        let mut is_waiting = false;
        let (ready, waiting) = complete
            .into_iter()
            .map(|mut gathered| {
                let known = self.hashes.leaves(gathered.piece.get()).cloned();
                gathered.leaves = gathered.leaves.take().or(known);
                gathered
            })
            .partition(|gathered| {
                let is_ready =
                    gathered.leaves.is_some() || !self.needs_leaves(&content.metainfo, gathered.piece);
                is_waiting |= !is_ready;
                is_ready
            });
        let waiting: Vec<Gathered> = waiting;
        if is_waiting {
            for gathered in &waiting {
                self.is_asking_due |= self.hashes.want(&content.metainfo, gathered.piece);
            }
        }
        (ready, waiting)
    }
}

impl Download {
    /// A piece failed as a whole: with its leaves the next attempt tells who lied.
    pub(super) fn want_leaves(&mut self, piece: PieceIndex) {
        self.leaves.is_asking_due |= self.leaves.hashes.want(&self.content.metainfo, piece);
    }

    /// A piece is stored, or nobody wants it any more.
    pub(super) fn forget_leaves(&mut self, piece: u32) {
        self.leaves.hashes.forget(piece);
    }

    /// Begins to check the blocks of a piece that reads wait for, as far as they and their leaves are here.
    fn check_awaited(&mut self, piece: u32) {
        let Some(leaves) = self.leaves.hashes.leaves(piece).cloned() else { return };
        let Some(tree) = self.leaves.hashes.tree(piece).copied() else { return };
        let Some(gathered) = self.gathering.get_mut(&piece) else { return };
        for range in self.demands.awaited(piece) {
            for block in blocks_of(&range) {
                let at = block as usize;
                let (Some(check), Some(leaf)) = (gathered.checks.get_mut(at), leaves.get(at)) else { break };
                let Some(data) = gathered.blocks.get(at).filter(|data| !data.is_empty()) else { continue };
                if *check != BlockCheck::None {
                    continue;
                }
                *check = BlockCheck::Begun;
                let key = BlockKey { piece: gathered.piece, block };
                let from = gathered.from.get(at).copied().flatten();
                self.leaves.checks.push(Check { key, from, data: data.clone(), leaf: *leaf, tree });
            }
        }
    }

    /// Gives reads what is verified of a piece, and keeps the piece until the rest of it is fetched.
    fn give_verified(&mut self, piece: u32, now: Moment) {
        let Some(gathered) = self.gathering.get(&piece) else { return };
        let (is_any, done) = self.demands.handle_verified(piece, |range| gathered.verified(&range), now);
        if is_any && !self.leaves.rest.iter().any(|(kept, _)| *kept == piece) {
            let id = next_demand();
            self.picker.set_demand(id, Urgency::Rest, std::slice::from_ref(&(piece..piece + 1)));
            self.leaves.rest.push_back((piece, id));
        }
        for id in done {
            self.picker.clear_demand(id);
        }
    }

    /// Drops the pieces of which blocks were read longest ago, until no more than `most` are kept.
    fn trim_rest(&mut self, most: usize, now: Moment) {
        let excess = self.leaves.rest.len().saturating_sub(most);
        if excess == 0 {
            return;
        }
        for (_, id) in self.leaves.rest.drain(..excess) {
            self.picker.clear_demand(id);
        }
        self.drop_abandoned(now);
    }
}

impl Gathered {
    /// These bytes of the piece, if all their blocks were verified alone.
    fn verified(&self, range: &Range<u32>) -> Option<Bytes> {
        let mut bytes = BytesMut::with_capacity(range.len());
        for block in blocks_of(range) {
            let at = block as usize;
            if self.checks.get(at) != Some(&BlockCheck::Good) {
                return None;
            }
            let begin = block * BLOCK_BYTES;
            let from = range.start.saturating_sub(begin) as usize;
            let to = (range.end - begin).min(BLOCK_BYTES) as usize;
            bytes.extend_from_slice(self.blocks.get(at)?.get(from..to)?);
        }
        Some(bytes.freeze())
    }
}

/// The blocks that hold a range of a piece's bytes.
fn blocks_of(range: &Range<u32>) -> Range<u32> {
    range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)
}

/// Whether a complete piece is what the torrent names: by its leaves where they are known. Blocking.
pub(super) fn check_piece(metainfo: &Metainfo, gathered: &Gathered) -> Verdict {
    let whole = |good| if good { Verdict::Good } else { Verdict::Bad };
    let tree = gathered.leaves.as_ref().and_then(|_| PieceTree::of(metainfo, gathered.piece));
    let (Some(leaves), Some(tree)) = (&gathered.leaves, tree) else {
        return whole(verify_piece(metainfo, gathered.piece, &gathered.blocks));
    };
    let pairs = (0..).zip(leaves.iter()).zip(gathered.blocks.iter().zip(&gathered.checks));
    let bad: Vec<u32> = pairs
        .filter(|((block, leaf), (data, check))| {
            **check != BlockCheck::Good && !tree.is_block(*block, data, leaf)
        })
        .map(|((block, _), _)| block)
        .collect();
    if !bad.is_empty() {
        return Verdict::BadBlocks(bad);
    }
    let is_padded = tree.bytes < metainfo.info.geometry.piece_len(gathered.piece);
    match metainfo.info.version {
        Version::V2 if gathered.blocks.len() == leaves.len() => Verdict::Good,
        // The padding is in nobody's tree.
        _ if is_padded => whole(verify_piece(metainfo, gathered.piece, &gathered.blocks)),
        _ if verify_piece(metainfo, gathered.piece, &gathered.blocks) => Verdict::Good,
        _ => Verdict::BadBlocks(Vec::new()),
    }
}

fn run_checks(checks: Vec<Check>) -> Vec<CheckedBlock> {
    let check = |check: Check| CheckedBlock {
        key: check.key,
        from: check.from,
        is_good: check.tree.is_block(check.key.block, &check.data, &check.leaf),
    };
    checks.into_iter().map(check).collect()
}

impl SwarmTask {
    /// A read waits: narrows it to its blocks where they can be verified alone.
    pub(super) fn want_blocks(&mut self, id: DemandId, extent: &Extent, now: Moment) {
        let Some(download) = &mut self.download else { return };
        download.leaves.last_read_at = now;
        download.picker.set_rest(RestIs::Held);
        let content = download.content.clone();
        let geometry = content.geometry();
        let memory = self.engine.config.memory_bytes;
        let piece_bytes = u64::from(geometry.piece_bytes());
        let over = (self.engine.in_flight_bytes.load(Ordering::Relaxed) + piece_bytes).saturating_sub(memory);
        let fitting = download.leaves.rest.len() as u64
            - over.div_ceil(piece_bytes).min(download.leaves.rest.len() as u64);
        let most = fitting.min(memory / REST_SHARE / piece_bytes);
        download.trim_rest(usize::try_from(most).unwrap_or(usize::MAX), now);
        let (first, last) = (extent.pieces.start, extent.pieces.end.saturating_sub(1));
        // Those in between are wanted whole.
        for piece in [Some(first), (last > first).then_some(last)].into_iter().flatten() {
            let Some(index) = geometry.piece(piece).filter(|_| !content.present.get(piece)) else { continue };
            let blocks = blocks_of(&extent.in_piece(piece));
            let count = geometry.block_count(index);
            if count < LEAST_BLOCKS || !download.leaves.hashes.want(&content.metainfo, index) {
                continue;
            }
            // Also of what is wanted whole: then a bad block is traced to its sender at once.
            download.leaves.is_asking_due = true;
            if blocks.end - blocks.start < count && !download.picker.is_contested(piece) {
                download.picker.narrow(id, index, blocks);
                // It may be there from an earlier read.
                download.check_awaited(piece);
                download.give_verified(piece, now);
            }
        }
    }

    /// Asks for the hashes that are wanted, behind the blocks; widens reads for which nobody gives any.
    pub(super) fn request_hashes(&mut self) {
        let now = self.clock.now();
        let Some(download) = &mut self.download else { return };
        if !std::mem::take(&mut download.leaves.is_asking_due) {
            self.start_checks();
            return;
        }
        let mut failed = Vec::new();
        let (mut is_widened, mut is_unheard) = (false, false);
        let idle: Vec<u32> = download.leaves.hashes.idle().collect();
        for piece in idle {
            let hashes = &mut download.leaves.hashes;
            let can_give = |peer: &&super::peers::Peer| {
                peer.about.has_v2
                    && peer.bits().is_some_and(|bits| bits.get(piece))
                    && hashes.may_ask(piece, peer.id)
            };
            let ease =
                |peer: &&super::peers::Peer| (peer.stance.is_choking_us, peer.pipeline.expected_latency());
            let Some(peer) = self.peers.values().filter(can_give).min_by_key(ease) else {
                let index = download.content.geometry().piece(piece);
                if index.is_some_and(|index| download.picker.availability(index) > 0) {
                    is_widened |= download.picker.widen(piece);
                } else {
                    // Whoever comes may give hashes too.
                    is_unheard = true;
                }
                continue;
            };
            if let Some(request) = hashes.ask(piece, peer.id, now)
                && let Err(reason) = peer.link.send(one(Message::HashRequest(request)))
            {
                failed.push((peer.id, reason));
            }
        }
        download.leaves.is_asking_due = is_unheard;
        for (id, reason) in failed {
            self.close_peer(id, &reason);
        }
        if is_widened {
            self.upkeep.needs_requests();
            self.request_blocks();
        }
        self.start_checks();
    }

    /// Hashes the blocks that are due: a few at once, more on the pool.
    fn start_checks(&mut self) {
        let Some(download) = &mut self.download else { return };
        let checks = std::mem::take(&mut download.leaves.checks);
        if checks.is_empty() {
            return;
        }
        if checks.len() <= FEW_BLOCKS {
            self.handle_checked(run_checks(checks));
            return;
        }
        let events = self.channels.events.clone();
        self.engine.disk.start(&self.engine.tasks, move || {
            // Fails only when the torrent is gone.
            let _gone = events.blocking_send(Event::Blocks(run_checks(checks)));
        });
    }

    /// A block was gathered: reads may wait for it, and its sender may have learnt hashes by reading it.
    pub(super) fn handle_gathered(&mut self, id: SourceId, piece: PieceIndex) {
        let Some(download) = &mut self.download else { return };
        let leaves = &mut download.leaves;
        if leaves.needs_leaves(&download.content.metainfo, piece) {
            leaves.is_asking_due |= leaves.hashes.want(&download.content.metainfo, piece);
        }
        leaves.is_asking_due |= leaves.hashes.handle_block(id, piece.get());
        download.check_awaited(piece.get());
    }

    /// Blocks were verified alone, or were not: then who sent them is known exactly.
    pub(super) fn handle_checked(&mut self, checked: Vec<CheckedBlock>) {
        let now = self.clock.now();
        let Some(download) = &mut self.download else { return };
        let (mut touched, mut liars) = (Vec::new(), Vec::new());
        for CheckedBlock { key, from, is_good } in checked {
            let (piece, at) = (key.piece.get(), key.block as usize);
            // It may have been dropped, or be a part of a complete piece by now, which is checked again as such.
            let Some(gathered) = download.gathering.get_mut(&piece) else { continue };
            let is_same = gathered.from.get(at).is_some_and(|by| *by == from);
            let Some(check) =
                gathered.checks.get_mut(at).filter(|check| **check == BlockCheck::Begun && is_same)
            else {
                continue;
            };
            if is_good {
                *check = BlockCheck::Good;
                touched.push(piece);
                continue;
            }
            *check = BlockCheck::None;
            gathered.from[at] = None;
            let data = std::mem::take(&mut gathered.blocks[at]);
            self.shared.counters.wasted.add(data.len() as u64);
            download.picker.handle_bad_block(key);
            tracing::warn!(piece, block = key.block, "a block has a wrong hash");
            liars.extend(from);
        }
        touched.dedup();
        for piece in touched {
            download.give_verified(piece, now);
        }
        if !liars.is_empty() {
            liars.sort_unstable();
            liars.dedup();
            self.upkeep.needs_requests();
            self.ban_liars(liars);
        }
    }

    /// A complete piece has wrong blocks, and it is known which.
    pub(super) fn handle_bad_blocks(&mut self, gathered: &Gathered, bad: &[u32]) {
        let Some(download) = &mut self.download else { return };
        let piece = gathered.piece;
        self.shared.counters.failed_pieces.add(1);
        self.shared.counters.wasted.add(u64::from(download.content.geometry().piece_len(piece)));
        if bad.is_empty() {
            tracing::error!(
                piece = piece.get(),
                "the torrent's v1 and v2 hashes of a piece disagree: it is damaged"
            );
            self.give_up_storing(piece, &ReadError::from(StoreError::NotPresent { piece }));
            return;
        }
        download.picker.handle_failed(piece);
        let mut liars: Vec<Contributor> =
            bad.iter().filter_map(|block| gathered.from.get(*block as usize).copied().flatten()).collect();
        liars.sort_unstable();
        liars.dedup();
        tracing::warn!(
            piece = piece.get(),
            blocks = bad.len(),
            liars = liars.len(),
            "a piece has wrong blocks"
        );
        self.ban_liars(liars);
    }

    /// A peer sent hashes.
    pub(super) fn handle_hashes(
        &mut self,
        id: SourceId,
        request: &HashRequest,
        hashes: &[u8],
    ) -> Result<(), CloseReason> {
        let Some(download) = &mut self.download else {
            return Err(CloseReason::Violation("sent hashes before anybody could ask for them"));
        };
        match download.leaves.hashes.handle_hashes(id, request, hashes) {
            Ok(pieces) => {
                for piece in pieces {
                    download.check_awaited(piece);
                }
                Ok(())
            }
            Err(HashesError::Unasked) => self.junk(id, Junk::Message { bytes: hashes.len() }),
            Err(_) => Err(CloseReason::BadData),
        }
    }

    /// A peer will not give hashes.
    pub(super) fn handle_hash_reject(
        &mut self,
        id: SourceId,
        request: &HashRequest,
    ) -> Result<(), CloseReason> {
        if let Some(download) = &mut self.download
            && download.leaves.hashes.handle_reject(id, request)
        {
            download.leaves.is_asking_due = true;
            return Ok(());
        }
        self.junk(id, Junk::Message { bytes: 0 })
    }

    /// What is done by the clock.
    pub(super) fn tend_leaves(&mut self, now: Moment) {
        let Some(download) = &mut self.download else { return };
        let (picker, leaves) = (&mut download.picker, &mut download.leaves);
        leaves.hashes.time_out(now);
        // Also for peers that have come.
        leaves.is_asking_due = leaves.hashes.idle().next().is_some();
        leaves.rest.retain(|(piece, id)| {
            let is_here = picker.is_present(*piece);
            if is_here {
                picker.clear_demand(*id);
            }
            !is_here
        });
        let is_quiet = download.demands.is_empty() && now.saturating_sub(leaves.last_read_at) >= REST_AFTER;
        picker.set_rest(if is_quiet { RestIs::Due } else { RestIs::Held });
        let is_of_use = |piece: u32| {
            let index = download.content.geometry().piece(piece);
            index.is_some_and(|index| picker.urgency(index).is_some())
                || picker.is_verifying(piece)
                || download.gathering.contains_key(&piece)
        };
        let useless: Vec<u32> = leaves.hashes.pieces().filter(|piece| !is_of_use(*piece)).collect();
        for piece in useless {
            leaves.hashes.forget(piece);
        }
    }
}

#[cfg(test)]
mod tests;
