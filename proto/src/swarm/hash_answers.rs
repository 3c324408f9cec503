//! What to answer to a hash request of a peer (BEP 52): which piece must be read for it, and the hashes themselves.
//!
//! Answers runs of nodes below the piece layer out of the leaves of one piece, and those at or above it out of the
//! file's piece layer. What libtorrent would refuse is refused too, and so is a run that crosses pieces. Nothing here
//! reads or hashes a block; a request costs at most the tree over one piece.

use crate::geometry::{BLOCK_BYTES, FileIndex, PieceIndex};
use crate::merkle::{self, Hash, MerkleTree};
use crate::metainfo::Metainfo;
use crate::wire::message::HashRequest;

/// Longest run that is given: 256 KiB of hashes.
const MAX_RUN: u32 = 8192;

/// A request that can be answered if what it needs is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The file.
    pub file: FileIndex,
    /// The piece whose leaves are needed, if any.
    pub piece: Option<PieceIndex>,
    /// Whether the file's piece layer is needed.
    pub needs_layer: bool,
    base: u32,
    index: u64,
    length: u64,
    uncles: usize,
    piece_height: u32,
    piece_in_file: u64,
}

impl Plan {
    /// What a request needs; `None` if it is to be refused.
    pub fn new(metainfo: &Metainfo, request: &HashRequest) -> Option<Self> {
        let HashRequest { pieces_root, base_layer: base, index, length, proof_layers } = *request;
        if !(2..=MAX_RUN).contains(&length) || !length.is_power_of_two() || !index.is_multiple_of(length) {
            return None;
        }
        let geometry = &metainfo.info.geometry;
        let has_root = |file: &crate::metainfo::FileEntry| file.root == Some(pieces_root);
        let file = geometry.file(metainfo.info.files.iter().position(has_root)?)?;
        let height = merkle::tree_height(geometry.file_len(file));
        let piece_height = (geometry.piece_bytes() / BLOCK_BYTES).max(1).ilog2().min(height);
        let run_height = length.ilog2();
        if base >= height || proof_layers >= height - base || base + run_height > height {
            return None;
        }
        let (index, length) = (u64::from(index), u64::from(length));
        if index >= 1 << (height - base) {
            return None;
        }
        // Layers that the run itself leads through have no uncles.
        let uncles = (proof_layers + 1).saturating_sub(run_height);
        let is_below = base < piece_height;
        if is_below && base + run_height > piece_height {
            return None;
        }
        let piece_in_file = if is_below { index >> (piece_height - base) } else { 0 };
        let offset = piece_in_file.checked_mul(u64::from(geometry.piece_bytes()))?;
        let piece = if is_below { Some(geometry.locate(file, offset)?.0) } else { None };
        let needs_layer = !is_below || base + run_height + uncles > piece_height;
        Some(Self {
            file,
            piece,
            needs_layer,
            base,
            index,
            length,
            uncles: uncles as usize,
            piece_height,
            piece_in_file,
        })
    }

    /// The hashes to send. `leaves` are those of the piece, `layer` is the tree over the file's piece layer, where they
    /// are needed.
    pub fn answer(&self, leaves: Option<Vec<Hash>>, layer: Option<&MerkleTree>) -> Option<Vec<Hash>> {
        let mut proof = if self.piece.is_some() {
            let mut leaves = leaves?;
            let width = 1_usize << self.piece_height;
            if leaves.len() > width {
                return None;
            }
            leaves.resize(width, [0; 32]);
            let first = self.piece_in_file << (self.piece_height - self.base);
            let index = self.index.checked_sub(first)?;
            MerkleTree::new(leaves, 0)?.prove(self.base, index, self.length).ok()?
        } else {
            layer?.prove(self.base, self.index, self.length).ok()?
        };
        if self.piece.is_some() && self.needs_layer {
            proof.uncles.extend(layer?.prove(self.piece_height, self.piece_in_file, 1).ok()?.uncles);
        }
        if proof.uncles.len() < self.uncles {
            return None;
        }
        proof.uncles.truncate(self.uncles);
        proof.nodes.append(&mut proof.uncles);
        Some(proof.nodes)
    }
}

/// The tree over a file's piece layer, if that is known: what [`Plan::answer`] wants. Costs a hash for each piece.
pub fn layer_tree(metainfo: &Metainfo, file: FileIndex) -> Option<MerkleTree> {
    let root = metainfo.info.files.get(file.get() as usize)?.root?;
    let (layer, _) = metainfo.piece_layer(&root)?.as_chunks::<32>();
    let height = (metainfo.info.geometry.piece_bytes() / BLOCK_BYTES).max(1).ilog2();
    MerkleTree::new(layer.to_vec(), height)
}
