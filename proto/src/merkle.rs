//! The hash tree of a v2 file (BEP 52): from 16 KiB blocks to the root, and proofs that a run of nodes belongs to it.
//!
//! Leaves (height 0) are the SHA-256 of the blocks, the last one of its bytes as they are. The tree is filled up to a
//! power of two with zero hashes; a node of height h that covers only filling is [`pad_hash`]`(h)`. Filling is never
//! stored: a layer here holds just the nodes that cover some block.
//!
//! A proof is *uncles*: the siblings on the way from a run of nodes up to the root. Nothing here trusts an index or a
//! count; what does not fit the tree is an error.

use sha2::{Digest, Sha256};
use thiserror::Error;

/// A node of the tree.
pub type Hash = [u8; 32];

/// Tallest tree there can be: 2^64 bytes in blocks of 16 KiB. No shift by it overflows.
const MAX_HEIGHT: u32 = 50;

/// The leaf of one block of at most 16 KiB.
pub fn hash_block(block: &[u8]) -> Hash {
    Sha256::digest(block).into()
}

fn hash_pair(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update(left).chain_update(right).finalize().into()
}

/// The node of `height` that covers nothing but filling. Heights beyond any possible tree are cut.
pub fn pad_hash(height: u32) -> Hash {
    (0..height.min(MAX_HEIGHT)).fold([0; 32], |node, _| hash_pair(&node, &node))
}

/// The root over the leaves of a whole file, filled up to a power of two. Of no leaves it is the zero hash.
pub fn root(leaves: &[Hash]) -> Hash {
    root_of_layer(leaves, 0)
}

/// The root over one layer of a file whose nodes have `height`, filled up to a power of two; of the piece layer of a
/// file this gives its `pieces root`.
pub fn root_of_layer(layer: &[Hash], height: u32) -> Hash {
    let mut pad = pad_hash(height);
    let mut nodes = layer.to_vec();
    while nodes.len() > 1 {
        nodes = parents(&nodes, &pad);
        pad = hash_pair(&pad, &pad);
    }
    nodes.first().copied().unwrap_or_default()
}

/// The subtree root of the blocks of one piece: what a piece layer holds for it. `height` is log2 of the blocks in a
/// full piece; a short last piece is filled up to it. The file must be longer than a piece (else use [`root`]).
pub fn piece_node(leaves: &[Hash], height: u32) -> Hash {
    let mut pad = [0; 32];
    let mut nodes = leaves.to_vec();
    for _ in 0..height.min(MAX_HEIGHT) {
        nodes = parents(&nodes, &pad);
        pad = hash_pair(&pad, &pad);
    }
    nodes.first().copied().unwrap_or(pad)
}

/// The next layer up; an odd end is paired with `pad`.
fn parents(nodes: &[Hash], pad: &Hash) -> Vec<Hash> {
    nodes.chunks(2).map(|pair| hash_pair(&pair[0], pair.get(1).unwrap_or(pad))).collect()
}

/// All layers of one file from some height up: what proofs are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MerkleTree {
    base_height: u32,
    /// `layers[i]` are the nodes of height `base_height + i` that cover some block; the last has one node.
    layers: Vec<Vec<Hash>>,
}

impl MerkleTree {
    /// The tree over a layer of nodes of `base_height` (0: the leaves). `None` for an empty layer or a height beyond
    /// any possible tree.
    pub fn new(base: Vec<Hash>, base_height: u32) -> Option<Self> {
        let above = base.len().checked_next_power_of_two().filter(|_| !base.is_empty())?.ilog2();
        if base_height.checked_add(above)? > MAX_HEIGHT {
            return None;
        }
        let mut pad = pad_hash(base_height);
        let mut layers = vec![base];
        while let Some(top) = layers.last().filter(|top| top.len() > 1) {
            let next = parents(top, &pad);
            layers.push(next);
            pad = hash_pair(&pad, &pad);
        }
        Some(Self { base_height, layers })
    }

    /// The height of the root.
    pub fn height(&self) -> u32 {
        // At most MAX_HEIGHT + 1 layers.
        self.base_height + self.layers.len() as u32 - 1
    }

    /// The root.
    pub fn root(&self) -> Hash {
        self.node(self.height(), 0)
    }

    /// The nodes of `height` that cover some block; empty below the base and above the root.
    pub fn layer(&self, height: u32) -> &[Hash] {
        let at = height.checked_sub(self.base_height).map(|at| at as usize);
        at.and_then(|at| self.layers.get(at)).map_or(&[], Vec::as_slice)
    }

    fn node(&self, height: u32, index: u64) -> Hash {
        let known = usize::try_from(index).ok().and_then(|index| self.layer(height).get(index));
        known.copied().unwrap_or_else(|| pad_hash(height))
    }

    /// A run of `count` nodes of height `base` from `index`, filling included, and the uncles of the run up to the
    /// root: the answer to a hash request that asks for every proof layer.
    ///
    /// # Errors
    /// [`ProofError`] if there is no such run in this tree.
    pub fn prove(&self, base: u32, index: u64, count: u64) -> Result<Proof, ProofError> {
        if base < self.base_height {
            return Err(ProofError::NoSuchRun);
        }
        let run = Run::new(self.height(), base, index, count)?;
        // A run lies inside the filled-up tree, which is less than twice what is in memory already.
        let nodes = (index..index + count).map(|at| self.node(base, at)).collect();
        let uncles = run.uncle_places().map(|(height, at)| self.node(height, at)).collect();
        Ok(Proof { nodes, uncles })
    }
}

/// A run of nodes and the siblings that lead from it to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The run, a power of two of nodes.
    pub nodes: Vec<Hash>,
    /// One sibling for each height, from the run's own root up.
    pub uncles: Vec<Hash>,
}

/// Why hashes do not belong to a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The run is not a power of two, not aligned to its length, or not inside the tree.
    #[error("no such run of nodes in the tree")]
    NoSuchRun,
    /// Not one uncle for each height between the run and the root.
    #[error("{got} uncle hashes, {expected} lead to the root")]
    UncleCount {
        /// How many lead to the root.
        expected: u32,
        /// How many came.
        got: usize,
    },
    /// The hashes lead to another root.
    #[error("the hashes do not lead to the root")]
    WrongRoot,
}

/// A well-formed run in a tree of a known height.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Height and index of the one node above the whole run.
    top_height: u32,
    top_index: u64,
    tree_height: u32,
}

impl Run {
    fn new(tree_height: u32, base: u32, index: u64, count: u64) -> Result<Self, ProofError> {
        let is_aligned = count.is_power_of_two() && index.is_multiple_of(count);
        if tree_height > MAX_HEIGHT || base > tree_height || !is_aligned {
            return Err(ProofError::NoSuchRun);
        }
        let width = 1_u64 << (tree_height - base);
        if index >= width || count > width {
            return Err(ProofError::NoSuchRun);
        }
        Ok(Self { top_height: base + count.ilog2(), top_index: index / count, tree_height })
    }

    fn uncle_places(self) -> impl Iterator<Item = (u32, u64)> {
        (self.top_height..self.tree_height)
            .enumerate()
            .map(move |(up, height)| (height, (self.top_index >> up) ^ 1))
    }
}

/// Checks that `nodes` are the nodes of height `base` from `index` on in the tree of `root`, whose root has
/// `tree_height` (log2 of the file's blocks, rounded up).
///
/// # Errors
/// [`ProofError`]; then nothing is known about any of the hashes.
pub fn verify(
    root: &Hash,
    tree_height: u32,
    base: u32,
    index: u64,
    nodes: &[Hash],
    uncles: &[Hash],
) -> Result<(), ProofError> {
    let run = Run::new(tree_height, base, index, nodes.len() as u64)?;
    let expected = run.tree_height - run.top_height;
    if uncles.len() != expected as usize {
        return Err(ProofError::UncleCount { expected, got: uncles.len() });
    }
    let mut node = root_of_layer(nodes, base);
    for (up, uncle) in uncles.iter().enumerate() {
        let is_left = (run.top_index >> up) & 1 == 0;
        node = if is_left { hash_pair(&node, uncle) } else { hash_pair(uncle, &node) };
    }
    if node == *root { Ok(()) } else { Err(ProofError::WrongRoot) }
}

/// The height of the root of a file of `bytes` bytes; 0 for a file of one block or none.
pub fn tree_height(bytes: u64) -> u32 {
    let blocks = bytes.div_ceil(u64::from(crate::geometry::BLOCK_BYTES));
    blocks.next_power_of_two().ilog2()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|n| hash_block(&n.to_le_bytes())).collect()
    }

    /// The definition, word for word: fill up with zeros, hash in pairs.
    fn naive_root(mut nodes: Vec<Hash>) -> Hash {
        nodes.resize(nodes.len().next_power_of_two(), [0; 32]);
        while nodes.len() > 1 {
            nodes = nodes.chunks(2).map(|pair| hash_block(&pair.concat())).collect();
        }
        nodes[0]
    }

    #[test]
    fn one_block_is_its_own_root() {
        assert_eq!(root(&[hash_block(b"x")]), hash_block(b"x"));
        assert_eq!(root(&[]), [0; 32]);
        assert_eq!(tree_height(0), 0);
        assert_eq!(tree_height(16_384), 0);
        assert_eq!(tree_height(16_385), 1);
        assert_eq!(tree_height(u64::MAX), 50);
    }

    #[test]
    fn filling_of_a_height_is_the_tree_over_zeros() {
        assert_eq!(pad_hash(0), [0; 32]);
        assert_eq!(pad_hash(3), naive_root(vec![[0; 32]; 8]));
        assert_eq!(pad_hash(u32::MAX), pad_hash(MAX_HEIGHT));
    }

    #[test]
    fn runs_that_are_not_in_the_tree_are_refused() {
        let tree = MerkleTree::new(leaves(5), 0).unwrap();
        assert_eq!(tree.height(), 3);
        for (base, index, count) in
            [(0, 0, 0), (0, 0, 3), (0, 1, 2), (0, 8, 1), (0, 0, 16), (4, 0, 1), (0, u64::MAX, 1), (1, 4, 4)]
        {
            assert_eq!(tree.prove(base, index, count), Err(ProofError::NoSuchRun), "{base} {index} {count}");
        }
        assert!(MerkleTree::new(vec![], 0).is_none());
        assert!(MerkleTree::new(leaves(2), u32::MAX).is_none());
        let cut = MerkleTree::new(leaves(4), 2).unwrap();
        assert_eq!(cut.prove(1, 0, 1), Err(ProofError::NoSuchRun), "below what is known");
        let root = tree.root();
        assert_eq!(verify(&root, u32::MAX, 0, 0, &leaves(1), &[]), Err(ProofError::NoSuchRun));
        assert_eq!(verify(&root, 3, 0, 0, &[], &[]), Err(ProofError::NoSuchRun));
    }

    #[test]
    fn every_proof_error_says_what_is_wrong() {
        let tree = MerkleTree::new(leaves(4), 0).unwrap();
        let error = verify(&tree.root(), 2, 0, 0, &leaves(1), &[[0; 32]]).unwrap_err();
        assert_eq!(error.to_string(), "1 uncle hashes, 2 lead to the root");
        let error = verify(&tree.root(), 2, 0, 0, &leaves(1), &[[0; 32]; 2]).unwrap_err();
        assert_eq!(error.to_string(), "the hashes do not lead to the root");
        assert_eq!(ProofError::NoSuchRun.to_string(), "no such run of nodes in the tree");
    }

    proptest! {
        #[test]
        fn all_ways_to_the_root_agree(count in 1_usize..70, height in 0_u32..4) {
            let leaves = leaves(count);
            let expected = naive_root(leaves.clone());
            prop_assert_eq!(root(&leaves), expected);
            let tree = MerkleTree::new(leaves.clone(), 0).unwrap();
            prop_assert_eq!(tree.root(), expected);
            if height <= tree.height() {
                let pieces: Vec<Hash> =
                    leaves.chunks(1 << height).map(|piece| piece_node(piece, height)).collect();
                prop_assert_eq!(tree.layer(height), &pieces[..]);
                prop_assert_eq!(root_of_layer(&pieces, height), expected);
                prop_assert_eq!(MerkleTree::new(pieces, height).unwrap().root(), expected);
            }
        }

        #[test]
        fn a_proof_holds_and_any_changed_bit_breaks_it(
            count in 1_usize..70, base in 0_u32..4, run in 0_u32..4, at in any::<u64>(),
            change in any::<prop::sample::Index>(), bit in 0_usize..256
        ) {
            let tree = MerkleTree::new(leaves(count), 0).unwrap();
            let (base, root) = (base.min(tree.height()), tree.root());
            let run = run.min(tree.height() - base);
            let runs = 1_u64 << (tree.height() - base - run);
            let index = (at % runs) << run;
            let mut proof = tree.prove(base, index, 1 << run).unwrap();
            prop_assert_eq!(verify(&root, tree.height(), base, index, &proof.nodes, &proof.uncles), Ok(()));

            let hashes = proof.nodes.len() + proof.uncles.len();
            let changed = proof.nodes.iter_mut().chain(&mut proof.uncles).nth(change.index(hashes)).unwrap();
            changed[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(
                verify(&root, tree.height(), base, index, &proof.nodes, &proof.uncles),
                Err(ProofError::WrongRoot)
            );
        }
    }
}
