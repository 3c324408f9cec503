//! Answers hash requests of peers (BEP 52) out of the pieces that are here.
//!
//! The leaves of a piece are not kept: they are made on the disk pool from its bytes, for a few requests at a time;
//! what comes beyond that is refused, as is what is not here. Refusing costs the peer nothing but the whole piece.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use wtfs_proto::geometry::{BLOCK_BYTES, FileIndex, PieceIndex};
use wtfs_proto::merkle::{self, Hash, MerkleTree};
use wtfs_proto::rate::TokenBucket;
use wtfs_proto::swarm::hash_answers::{Plan, layer_tree};
use wtfs_proto::swarm::hashes::PieceTree;
use wtfs_proto::swarm::picker::SourceId;
use wtfs_proto::time::Moment;
use wtfs_proto::wire::message::{HashRequest, Message};

use super::{Event, SwarmTask, one};
use crate::config::UploadPolicy;
use crate::peer_task::CloseReason;
use crate::torrent::Content;

/// Requests under way for one peer.
const MOST_OF_A_PEER: usize = 32;

/// Requests under way for all peers of a torrent: each holds a block and the hashes of a piece.
const MOST: usize = 64;

/// Requests of one peer that are looked at, each second and at once: finding the file of one takes a look at all files.
const PER_SECOND: u64 = 500;
const AT_ONCE: u64 = 1000;

/// The tree over one file's piece layer, which takes a hash for each piece to make.
type LayerTree = Arc<Mutex<Option<(FileIndex, Arc<MerkleTree>)>>>;

/// What is being answered.
#[derive(Debug, Default)]
pub(super) struct Serving {
    peers: HashMap<SourceId, OfPeer>,
    total: usize,
    layer: LayerTree,
}

#[derive(Debug)]
struct OfPeer {
    under_way: usize,
    rate: TokenBucket,
}

impl Serving {
    /// A peer is gone; what is under way for it ends by itself.
    pub(super) fn handle_gone(&mut self, id: SourceId) {
        self.total -= self.peers.remove(&id).map_or(0, |of_peer| of_peer.under_way);
    }

    /// Whether another request of a peer may be looked at.
    fn has_room(&mut self, id: SourceId, now: Moment) -> bool {
        let fresh = || OfPeer { under_way: 0, rate: TokenBucket::with_burst(now, PER_SECOND, AT_ONCE) };
        let of_peer = self.peers.entry(id).or_insert_with(fresh);
        of_peer.under_way < MOST_OF_A_PEER && self.total < MOST && of_peer.rate.take(now, 1).is_ok()
    }

    fn begin(&mut self, id: SourceId) {
        if let Some(of_peer) = self.peers.get_mut(&id) {
            of_peer.under_way += 1;
            self.total += 1;
        }
    }

    fn end(&mut self, id: SourceId) {
        if let Some(of_peer) = self.peers.get_mut(&id) {
            of_peer.under_way -= 1;
            self.total -= 1;
        }
    }
}

impl SwarmTask {
    /// A peer asks for hashes.
    pub(super) fn handle_hash_request(
        &mut self,
        id: SourceId,
        request: HashRequest,
    ) -> Result<(), CloseReason> {
        let now = self.clock.now();
        let Some(peer) = self.peers.get(&id) else { return Ok(()) };
        let reject = || peer.link.send(one(Message::HashReject(request)));
        let Some(download) = &mut self.download else { return reject() };
        if self.engine.config.upload == UploadPolicy::Off || !download.leaves.serving.has_room(id, now) {
            return reject();
        }
        let content = download.content.clone();
        let is_here = |plan: &Plan| plan.piece.is_none_or(|piece| content.present.get(piece.get()));
        let Some(plan) = Plan::new(&content.metainfo, &request).filter(is_here) else { return reject() };
        download.leaves.serving.begin(id);
        let layer = download.leaves.serving.layer.clone();
        let (link, events) = (peer.link.sender(), self.channels.events.clone());
        self.engine.disk.start(&self.engine.tasks, move || {
            let message = match answer(&content, &plan, &layer) {
                Some(hashes) => Message::Hashes { request, hashes: Bytes::from(hashes.concat()) },
                None => Message::HashReject(request),
            };
            // A peer that is gone needs no answer; one that is too slow to take it is dropped by its next message.
            let _gone = link.try_send(one(message));
            // Fails only when the torrent is gone.
            let _gone = events.blocking_send(Event::HashesServed(id));
        });
        Ok(())
    }

    /// A request was answered.
    pub(super) fn handle_hashes_served(&mut self, id: SourceId) {
        if let Some(download) = &mut self.download {
            download.leaves.serving.end(id);
        }
    }
}

/// The hashes of a plan. Blocking; runs on the disk pool.
fn answer(content: &Arc<Content>, plan: &Plan, layer: &LayerTree) -> Option<Vec<Hash>> {
    let leaves = match plan.piece {
        Some(piece) => Some(leaves_of(content, piece)?),
        None => None,
    };
    let tree = if plan.needs_layer { Some(tree_of(content, plan.file, layer)?) } else { None };
    plan.answer(leaves, tree.as_deref())
}

/// The leaves of a piece that is here.
fn leaves_of(content: &Arc<Content>, piece: PieceIndex) -> Option<Vec<Hash>> {
    let tree = PieceTree::of(&content.metainfo, piece)?;
    let _in_use = content.use_pieces(piece.get()..piece.get() + 1);
    if !content.present.get(piece.get()) {
        // Evicted while the request waited.
        return None;
    }
    let mut buffer = BytesMut::zeroed(BLOCK_BYTES as usize);
    let mut leaves = Vec::with_capacity(tree.leaf_count());
    for block in 0..tree.bytes.div_ceil(BLOCK_BYTES) {
        let (begin, bytes) = (block * BLOCK_BYTES, tree.leaf_bytes(block));
        let into = buffer.get_mut(..bytes as usize)?;
        if let Err(error) = content.store.read_piece(piece, begin..begin + bytes, into) {
            tracing::warn!(piece = piece.get(), %error, "a present piece could not be read");
            return None;
        }
        leaves.push(merkle::hash_block(into));
    }
    Some(leaves)
}

fn tree_of(content: &Content, file: FileIndex, cached: &LayerTree) -> Option<Arc<MerkleTree>> {
    let lock = || cached.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, tree)) = lock().as_ref().filter(|(of, _)| *of == file) {
        return Some(tree.clone());
    }
    let tree = Arc::new(layer_tree(&content.metainfo, file)?);
    *lock() = Some((file, tree.clone()));
    Some(tree)
}
