//! Which leaf hashes of v2 trees (BEP 52) to ask of whom, and whether what comes is true.
//!
//! With the leaves of a piece each of its 16 KiB blocks can be verified alone. They are asked for piece by piece; a
//! reply is checked against the hash of the piece where the piece layer is known, and else, by its uncles, against the
//! root of the file: then nothing else of the layer is needed.
//!
//! Knows no time of its own, no connections and no bytes of pieces. Invariants: only proven leaves are kept; a piece is
//! outstanding at no more than one source, and a source at no more than [`MAX_ASKED`]; no more than [`MAX_PIECES`] and
//! [`MAX_LEAVES`] are kept, which is 8 MiB.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::picker::SourceId;
use crate::geometry::{BLOCK_BYTES, PieceIndex};
use crate::merkle::{self, Hash};
use crate::metainfo::{Metainfo, Version};
use crate::time::Moment;
use crate::wire::message::HashRequest;

/// Requests outstanding at one source.
pub const MAX_ASKED: usize = 64;

/// Pieces whose leaves are wanted or known.
pub const MAX_PIECES: usize = 4096;

/// Leaves known, over all pieces.
pub const MAX_LEAVES: usize = 256 * 1024;

/// Longest run that is asked for: libtorrent refuses longer ones. It makes a piece of 128 MiB.
const MAX_RUN: u64 = 8192;

/// A source that has not answered for this long is taken for one that does not. Its answer is still taken.
const PATIENCE: Moment = Moment::from_secs(1);

/// How often one source may refuse the leaves of one piece: libtorrent in seed mode knows them only once it has read the
/// piece, which it does when a block is asked for.
const MAX_REFUSALS: u8 = 2;

/// Where the leaves of a piece stand in the tree of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceTree {
    /// The root of the file's tree.
    pub root: Hash,
    /// Height of that root.
    pub file_height: u32,
    /// Height of the node over the piece: the root itself for a file of one piece.
    pub height: u32,
    /// The piece's number in its file.
    pub index: u64,
    /// Bytes of the file in the piece; what follows in a hybrid is padding, which no tree covers.
    pub bytes: u32,
}

impl PieceTree {
    /// The tree of a piece; `None` for torrents without v2 and for pieces of padding alone.
    pub fn of(metainfo: &Metainfo, piece: PieceIndex) -> Option<Self> {
        if metainfo.info.version == Version::V1 {
            return None;
        }
        let geometry = &metainfo.info.geometry;
        // In v2, and so in hybrids, a file begins with a piece.
        let span = geometry.spans(piece, 0..u32::MAX).next().filter(|span| !span.is_pad)?;
        let root = metainfo.info.files.get(usize::try_from(span.file.get()).ok()?)?.root?;
        let piece_bytes = geometry.piece_bytes();
        let file_height = merkle::tree_height(geometry.file_len(span.file));
        // A v2 piece is a power of two of at least one block.
        let piece_height = (piece_bytes / BLOCK_BYTES).max(1).ilog2();
        Some(Self {
            root,
            file_height,
            height: piece_height.min(file_height),
            index: span.file_offset / u64::from(piece_bytes),
            bytes: span.bytes,
        })
    }

    /// Leaves that cover bytes of the file.
    pub fn leaf_count(&self) -> usize {
        // A length in u32 over 16 KiB.
        self.bytes.div_ceil(BLOCK_BYTES) as usize
    }

    /// Bytes of a block that its leaf covers; fewer than the block has at the end of a file of a hybrid.
    pub fn leaf_bytes(&self, block: u32) -> u32 {
        self.bytes.saturating_sub(block.saturating_mul(BLOCK_BYTES)).min(BLOCK_BYTES)
    }

    /// Whether a block is what its leaf says. `leaf` is the one of this block.
    pub fn is_block(&self, block: u32, data: &[u8], leaf: &Hash) -> bool {
        let covered = self.leaf_bytes(block) as usize;
        data.get(..covered).is_some_and(|covered| merkle::hash_block(covered) == *leaf)
    }

    /// The request for the piece's leaves, with uncles up to the root or with none.
    fn request(&self, proof: Proof) -> Option<HashRequest> {
        let length = 1_u64 << self.height;
        if length > MAX_RUN || self.height == 0 {
            return None;
        }
        // Layers are counted from the leaves up; those that the run itself leads through have no uncles.
        let proof_layers = match proof {
            Proof::ToRoot if self.file_height > self.height => self.file_height - 1,
            Proof::ToRoot | Proof::None => 0,
        };
        Some(HashRequest {
            pieces_root: self.root,
            base_layer: 0,
            index: u32::try_from(self.index.checked_mul(length)?).ok()?,
            length: u32::try_from(length).ok()?,
            proof_layers,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    ToRoot,
    None,
}

/// What became of hashes that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HashesError {
    /// Nobody asked this source for them.
    #[error("hashes came that were not asked for")]
    Unasked,
    /// They are not as many as were asked for, or do not belong to the torrent: the source lies.
    #[error("hashes came that do not belong to the torrent")]
    Wrong,
}

#[derive(Debug)]
enum State {
    Idle,
    Asked { source: SourceId, at: Moment },
    Known(Arc<[Hash]>),
}

/// A source that refused the leaves of a piece or was silent.
#[derive(Debug, Clone, Copy)]
struct Refusal {
    by: SourceId,
    count: u8,
    /// It may be asked once more.
    is_forgiven: bool,
}

#[derive(Debug)]
struct Entry {
    tree: PieceTree,
    /// The node over the piece, where it was known when the leaves were first wanted.
    node: Option<Hash>,
    request: HashRequest,
    state: State,
    refused: SmallVec<[Refusal; 2]>,
}

impl Entry {
    fn has_refused(&self, source: SourceId) -> bool {
        self.refused.iter().any(|refusal| refusal.by == source)
    }

    fn refuse(&mut self, source: SourceId) {
        self.state = State::Idle;
        match self.refused.iter_mut().find(|refusal| refusal.by == source) {
            Some(refusal) => {
                refusal.count = refusal.count.saturating_add(1);
                refusal.is_forgiven = false;
            }
            None => self.refused.push(Refusal { by: source, count: 1, is_forgiven: false }),
        }
    }

    /// The leaves in a reply, if it proves them.
    fn prove(&self, hashes: &[u8]) -> Result<Arc<[Hash]>, HashesError> {
        let (hashes, rest) = hashes.as_chunks::<32>();
        let run = 1_usize << self.tree.height;
        let (leaves, uncles) = hashes.split_at_checked(run).ok_or(HashesError::Wrong)?;
        if !rest.is_empty() {
            return Err(HashesError::Wrong);
        }
        let is_true = match &self.node {
            Some(node) => uncles.is_empty() && merkle::root_of_layer(leaves, 0) == *node,
            None => {
                let index = u64::from(self.request.index);
                merkle::verify(&self.tree.root, self.tree.file_height, 0, index, leaves, uncles).is_ok()
            }
        };
        let leaves = leaves.get(..self.tree.leaf_count()).filter(|_| is_true);
        leaves.map(Arc::from).ok_or(HashesError::Wrong)
    }
}

/// The leaf hashes of one torrent; see the module's documentation.
#[derive(Debug, Default)]
pub struct LeafHashes {
    entries: BTreeMap<u32, Entry>,
    by_request: BTreeMap<(Hash, u32), SmallVec<[u32; 1]>>,
    /// How many requests are outstanding at a source; never zero.
    asked: BTreeMap<SourceId, usize>,
    leaves: usize,
}

impl LeafHashes {
    /// Wants the leaves of a piece; returns whether they are known or can be asked for. `false` for what has no tree,
    /// and while too many pieces are wanted.
    pub fn want(&mut self, metainfo: &Metainfo, piece: PieceIndex) -> bool {
        if self.entries.contains_key(&piece.get()) {
            return true;
        }
        if self.entries.len() >= MAX_PIECES || self.leaves >= MAX_LEAVES {
            return false;
        }
        let Some(tree) = PieceTree::of(metainfo, piece) else { return false };
        let node = piece_node(metainfo, &tree);
        if tree.height == 0 {
            // The block is the piece, and its leaf the piece's hash.
            return false;
        }
        let proof = if node.is_some() { Proof::None } else { Proof::ToRoot };
        let Some(request) = tree.request(proof) else { return false };
        let key = (request.pieces_root, request.index);
        self.by_request.entry(key).or_default().push(piece.get());
        let entry = Entry { tree, node, request, state: State::Idle, refused: SmallVec::new() };
        self.entries.insert(piece.get(), entry);
        true
    }

    /// Forgets a piece: it is stored, or nobody wants it any more.
    pub fn forget(&mut self, piece: u32) {
        let Some(entry) = self.entries.remove(&piece) else { return };
        match &entry.state {
            State::Known(leaves) => self.leaves -= leaves.len(),
            State::Asked { source, .. } => discount(&mut self.asked, *source),
            State::Idle => {}
        }
        let key = (entry.request.pieces_root, entry.request.index);
        if let Some(pieces) = self.by_request.get_mut(&key) {
            pieces.retain(|other| *other != piece);
            if pieces.is_empty() {
                self.by_request.remove(&key);
            }
        }
    }

    /// The proven leaves of a piece, one for each block that holds bytes of the file.
    pub fn leaves(&self, piece: u32) -> Option<&Arc<[Hash]>> {
        match &self.entries.get(&piece)?.state {
            State::Known(leaves) => Some(leaves),
            State::Idle | State::Asked { .. } => None,
        }
    }

    /// The piece's place in its tree, once it was wanted.
    pub fn tree(&self, piece: u32) -> Option<&PieceTree> {
        self.entries.get(&piece).map(|entry| &entry.tree)
    }

    /// Wanted pieces whose leaves are neither known nor asked for.
    pub fn idle(&self) -> impl Iterator<Item = u32> + '_ {
        self.entries.iter().filter(|(_, entry)| matches!(entry.state, State::Idle)).map(|(piece, _)| *piece)
    }

    /// Whether a source may be asked for a piece.
    pub fn may_ask(&self, piece: u32, source: SourceId) -> bool {
        let Some(entry) = self.entries.get(&piece) else { return false };
        matches!(entry.state, State::Idle)
            && !entry.refused.iter().any(|refusal| refusal.by == source && !refusal.is_forgiven)
            && self.asked.get(&source).is_none_or(|asked| *asked < MAX_ASKED)
    }

    /// The request to send to a source, if it may be asked for the piece.
    pub fn ask(&mut self, piece: u32, source: SourceId, now: Moment) -> Option<HashRequest> {
        if !self.may_ask(piece, source) {
            return None;
        }
        let entry = self.entries.get_mut(&piece)?;
        entry.state = State::Asked { source, at: now };
        *self.asked.entry(source).or_insert(0) += 1;
        Some(entry.request)
    }

    /// Hashes came; returns the pieces whose leaves are known now.
    ///
    /// # Errors
    /// [`HashesError::Wrong`] convicts the source: what it was asked for, it answered with a lie.
    pub fn handle_hashes(
        &mut self,
        source: SourceId,
        request: &HashRequest,
        hashes: &[u8],
    ) -> Result<SmallVec<[u32; 1]>, HashesError> {
        let mut known = SmallVec::new();
        let mut was_asked = false;
        for piece in self.pieces_of(request) {
            let Some(entry) = self.entries.get_mut(&piece) else { continue };
            let is_asked = matches!(entry.state, State::Asked { source: by, .. } if by == source);
            if entry.request != *request || !(is_asked || entry.has_refused(source)) {
                continue;
            }
            was_asked = true;
            let asked_of = match entry.state {
                // Somebody else was quicker.
                State::Known(_) => continue,
                State::Asked { source, .. } => Some(source),
                State::Idle => None,
            };
            match entry.prove(hashes) {
                Ok(leaves) => {
                    self.leaves += leaves.len();
                    entry.state = State::Known(leaves);
                    known.push(piece);
                }
                Err(error) => {
                    if is_asked {
                        entry.refuse(source);
                        discount(&mut self.asked, source);
                    }
                    return Err(error);
                }
            }
            if let Some(source) = asked_of {
                discount(&mut self.asked, source);
            }
        }
        if was_asked { Ok(known) } else { Err(HashesError::Unasked) }
    }

    /// A source refuses what it was asked for; returns whether it was asked.
    pub fn handle_reject(&mut self, source: SourceId, request: &HashRequest) -> bool {
        let mut was_asked = false;
        for piece in self.pieces_of(request) {
            let Some(entry) = self.entries.get_mut(&piece) else { continue };
            if matches!(entry.state, State::Asked { source: by, .. } if by == source) {
                entry.refuse(source);
                discount(&mut self.asked, source);
                was_asked = true;
            }
        }
        was_asked
    }

    /// A source gave a block of a piece whose leaves it refused: it may have learnt them by reading the piece. Returns
    /// whether it may be asked once more.
    pub fn handle_block(&mut self, source: SourceId, piece: u32) -> bool {
        let Some(entry) = self.entries.get_mut(&piece) else { return false };
        if !matches!(entry.state, State::Idle) {
            return false;
        }
        let may_retry = |refusal: &&mut Refusal| refusal.by == source && refusal.count < MAX_REFUSALS;
        let Some(refusal) = entry.refused.iter_mut().find(may_retry) else { return false };
        refusal.is_forgiven = true;
        true
    }

    /// A source is gone.
    pub fn handle_gone(&mut self, source: SourceId) {
        self.asked.remove(&source);
        for entry in self.entries.values_mut() {
            entry.refused.retain(|refusal| refusal.by != source);
            if matches!(entry.state, State::Asked { source: by, .. } if by == source) {
                entry.state = State::Idle;
            }
        }
    }

    /// Gives up sources that are silent; returns whether there were any.
    pub fn time_out(&mut self, now: Moment) -> bool {
        let mut was_silent = false;
        for entry in self.entries.values_mut() {
            if let State::Asked { source, at } = entry.state
                && now.saturating_sub(at) >= PATIENCE
            {
                entry.refuse(source);
                discount(&mut self.asked, source);
                was_silent = true;
            }
        }
        was_silent
    }

    /// Pieces that are wanted or known.
    pub fn pieces(&self) -> impl Iterator<Item = u32> + '_ {
        self.entries.keys().copied()
    }

    fn pieces_of(&self, request: &HashRequest) -> SmallVec<[u32; 1]> {
        self.by_request.get(&(request.pieces_root, request.index)).cloned().unwrap_or_default()
    }
}

/// Whether the hash of a piece is known without its leaves.
pub fn has_node(metainfo: &Metainfo, tree: &PieceTree) -> bool {
    piece_node(metainfo, tree).is_some()
}

fn discount(asked: &mut BTreeMap<SourceId, usize>, source: SourceId) {
    if let Some(count) = asked.get_mut(&source) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            asked.remove(&source);
        }
    }
}

/// The node over a piece: out of the piece layer, or the root of a file of one piece.
fn piece_node(metainfo: &Metainfo, tree: &PieceTree) -> Option<Hash> {
    if tree.height == tree.file_height {
        return Some(tree.root);
    }
    let (layer, _) = metainfo.piece_layer(&tree.root)?.as_chunks::<32>();
    layer.get(usize::try_from(tree.index).ok()?).copied()
}

#[cfg(test)]
mod tests;
