//! The hashes of a blob: the one it is known by, and those of its pieces as torrents of it need them.
//!
//! Both are made from the bytes in order, in one pass, with memory for one piece's leaves. The pieces' are kept beside the
//! blob in a file with a checksum, which is read back only when it is whole and of this blob.
//!
//! Layout, little endian: magic with the format's version (8), length of the blob (8), length of a piece (4), zeros (4),
//! root (32), padded last piece (20), the SHA-1 of all pieces, the layer, SHA-256 of the blob's id and all that (32).

use sha1::Sha1;
use sha2::{Digest, Sha256};
use wtfs_proto::geometry::BLOCK_BYTES;
use wtfs_proto::hf::ContentId;
use wtfs_proto::merkle::{self, Hash};

const MAGIC: [u8; 8] = *b"wtfsphs\x01";

/// Zeros by which the last piece is filled up, at a time.
const ZEROS: [u8; 4096] = [0; 4096];

/// The hashes of the pieces of one blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceHashes {
    /// Length of a piece: a power of two, at least 16 KiB.
    pub piece_bytes: u32,
    /// SHA-1 of each piece, the last one of the bytes that there are.
    pub v1: Vec<[u8; 20]>,
    /// SHA-1 of the last piece filled up with zeros to its whole length, as in a torrent with padding files (BEP 47).
    /// That of the last piece itself when it needs none; zeros for an empty blob.
    pub v1_last_padded: [u8; 20],
    /// Root of the blob's hash tree (BEP 52); zeros for an empty blob.
    pub v2_root: [u8; 32],
    /// The tree's layer of pieces; empty for a blob that is not longer than a piece, as in the metainfo.
    pub v2_layer: Vec<[u8; 32]>,
}

/// Whether pieces may have this length.
pub(super) fn is_piece_length(piece_bytes: u32) -> bool {
    piece_bytes.is_power_of_two() && piece_bytes >= BLOCK_BYTES
}

impl PieceHashes {
    pub(super) fn encode(&self, id: ContentId, bytes: u64) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&bytes.to_le_bytes());
        out.extend_from_slice(&self.piece_bytes.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.v2_root);
        out.extend_from_slice(&self.v1_last_padded);
        out.extend_from_slice(self.v1.as_flattened());
        out.extend_from_slice(self.v2_layer.as_flattened());
        let sum = sum(id, &out);
        out.extend_from_slice(&sum);
        out
    }

    /// What [`Self::encode`] made, of this very blob and piece length.
    pub(super) fn decode(encoded: &[u8], id: ContentId, bytes: u64, piece_bytes: u32) -> Option<Self> {
        let (said, its_sum) = encoded.split_last_chunk::<32>()?;
        if sum(id, said) != *its_sum {
            return None;
        }
        let rest = said.strip_prefix(&MAGIC)?;
        let (its_bytes, rest) = rest.split_first_chunk::<8>()?;
        let (its_piece_bytes, rest) = rest.split_first_chunk::<4>()?;
        let (_zeros, rest) = rest.split_first_chunk::<4>()?;
        let (v2_root, rest) = rest.split_first_chunk::<32>()?;
        let (v1_last_padded, rest) = rest.split_first_chunk::<20>()?;
        if u64::from_le_bytes(*its_bytes) != bytes || u32::from_le_bytes(*its_piece_bytes) != piece_bytes {
            return None;
        }
        let pieces = usize::try_from(bytes.div_ceil(u64::from(piece_bytes))).ok()?;
        let (v1, layer) = rest.split_at_checked(pieces.checked_mul(20)?)?;
        let layers = if pieces > 1 { pieces } else { 0 };
        let (v1, _) = v1.as_chunks::<20>();
        let (v2_layer, odd) = layer.as_chunks::<32>();
        (v2_layer.len() == layers && odd.is_empty()).then(|| Self {
            piece_bytes,
            v1: v1.to_vec(),
            v1_last_padded: *v1_last_padded,
            v2_root: *v2_root,
            v2_layer: v2_layer.to_vec(),
        })
    }
}

fn sum(id: ContentId, bytes: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(id.as_bytes()).chain_update(bytes).finalize().into()
}

/// One hash of bytes in order. Hashes of the same bytes know nothing of each other, so that each may have a core.
pub(super) trait Hashes: Send {
    /// Takes the next bytes.
    fn update(&mut self, bytes: &[u8]);
}

/// Hashes a blob from its beginning.
#[derive(Debug, Clone)]
pub(super) struct BlobHasher {
    content: Content,
    pieces: Option<PiecesHasher>,
    /// How much it has had.
    pub(super) at: u64,
}

#[derive(Debug, Clone)]
enum Content {
    Sha256(Sha256),
    GitSha1(Sha1),
}

impl Hashes for Content {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitSha1(hasher) => hasher.update(bytes),
        }
    }
}

impl BlobHasher {
    /// For a blob of this kind and length; with the hashes of pieces, if they are wanted.
    pub(super) fn new(id: ContentId, bytes: u64, piece_bytes: Option<u32>) -> Self {
        let content = match id {
            ContentId::Sha256(_) => Content::Sha256(Sha256::new()),
            ContentId::GitSha1(_) => Content::GitSha1(Sha1::new().chain_update(format!("blob {bytes}\0"))),
        };
        Self { content, pieces: piece_bytes.map(|length| PiecesHasher::new(length, bytes)), at: 0 }
    }

    /// Its hashes, all of which are to get all bytes from [`Self::at`] on.
    pub(super) fn hashes(&mut self) -> Vec<&mut dyn Hashes> {
        let mut all: Vec<&mut dyn Hashes> = vec![&mut self.content];
        if let Some(pieces) = &mut self.pieces {
            all.extend(pieces.hashes());
        }
        all
    }

    /// What it is known by, if it has had all of it, and the hashes of its pieces.
    pub(super) fn finish(self) -> (ContentId, Option<PieceHashes>) {
        let id = match self.content {
            Content::Sha256(hasher) => ContentId::Sha256(hasher.finalize().into()),
            Content::GitSha1(hasher) => ContentId::GitSha1(hasher.finalize().into()),
        };
        (id, self.pieces.map(PiecesHasher::finish))
    }
}

/// Hashes the pieces of a blob from its beginning.
#[derive(Debug, Clone)]
pub(super) struct PiecesHasher {
    sums: PieceSums,
    tree: PieceTree,
}

impl PiecesHasher {
    pub(super) fn new(piece_bytes: u32, bytes: u64) -> Self {
        let sums = PieceSums { piece_bytes, piece: Sha1::new(), in_piece: 0, done: Vec::new() };
        let tree = PieceTree {
            // At least one.
            piece_blocks: (piece_bytes / BLOCK_BYTES) as usize,
            has_layer: bytes > u64::from(piece_bytes),
            block: Sha256::new(),
            in_block: 0,
            leaves: Vec::new(),
            layer: Vec::new(),
        };
        Self { sums, tree }
    }

    /// As [`BlobHasher::hashes`].
    pub(super) fn hashes(&mut self) -> [&mut dyn Hashes; 2] {
        [&mut self.sums, &mut self.tree]
    }

    pub(super) fn finish(self) -> PieceHashes {
        let piece_bytes = self.sums.piece_bytes;
        let (v1, v1_last_padded) = self.sums.finish();
        let (v2_root, v2_layer) = self.tree.finish();
        PieceHashes { piece_bytes, v1, v1_last_padded, v2_root, v2_layer }
    }
}

/// SHA-1 of each piece.
#[derive(Debug, Clone)]
struct PieceSums {
    piece_bytes: u32,
    piece: Sha1,
    in_piece: u32,
    done: Vec<[u8; 20]>,
}

impl Hashes for PieceSums {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (self.piece_bytes - self.in_piece) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.piece.update(now);
            // At most a piece.
            self.in_piece += now.len() as u32;
            if self.in_piece == self.piece_bytes {
                self.done.push(self.piece.finalize_reset().into());
                self.in_piece = 0;
            }
            bytes = later;
        }
    }
}

impl PieceSums {
    /// Those of all pieces, and that of the last one filled up.
    fn finish(mut self) -> (Vec<[u8; 20]>, [u8; 20]) {
        let mut last_padded = self.done.last().copied().unwrap_or_default();
        if self.in_piece > 0 {
            let mut padded = self.piece.clone();
            let mut missing = (self.piece_bytes - self.in_piece) as usize;
            while missing > 0 {
                let now = missing.min(ZEROS.len());
                padded.update(&ZEROS[..now]);
                missing -= now;
            }
            last_padded = padded.finalize().into();
            self.done.push(self.piece.finalize().into());
        }
        (self.done, last_padded)
    }
}

/// The tree of SHA-256 over blocks, down to its layer of pieces.
#[derive(Debug, Clone)]
struct PieceTree {
    piece_blocks: usize,
    /// Whether the blob is longer than a piece.
    has_layer: bool,
    block: Sha256,
    in_block: u32,
    /// Of the piece that is being hashed.
    leaves: Vec<Hash>,
    layer: Vec<Hash>,
}

impl Hashes for PieceTree {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (BLOCK_BYTES - self.in_block) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.update(now);
            // At most a block.
            self.in_block += now.len() as u32;
            if self.in_block == BLOCK_BYTES {
                self.end_block();
            }
            bytes = later;
        }
    }
}

impl PieceTree {
    fn end_block(&mut self) {
        self.leaves.push(self.block.finalize_reset().into());
        self.in_block = 0;
        if self.leaves.len() == self.piece_blocks {
            self.end_piece();
        }
    }

    fn end_piece(&mut self) {
        if self.has_layer && !self.leaves.is_empty() {
            self.layer.push(merkle::piece_node(&self.leaves, self.piece_blocks.ilog2()));
            self.leaves.clear();
        }
    }

    /// The root, and the layer.
    fn finish(mut self) -> (Hash, Vec<Hash>) {
        if self.in_block > 0 {
            self.end_block();
        }
        self.end_piece();
        let root = match self.has_layer {
            true => merkle::root_of_layer(&self.layer, self.piece_blocks.ilog2()),
            false => merkle::root(&self.leaves),
        };
        (root, self.layer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(bytes: &[u8], piece_bytes: u32) -> PieceHashes {
        let piece = piece_bytes as usize;
        let v1: Vec<[u8; 20]> = bytes.chunks(piece).map(|piece| Sha1::digest(piece).into()).collect();
        let mut last = bytes.chunks(piece).next_back().map(<[u8]>::to_vec);
        if let Some(last) = &mut last {
            last.resize(piece, 0);
        }
        let leaves: Vec<Hash> = bytes.chunks(BLOCK_BYTES as usize).map(merkle::hash_block).collect();
        let tree = merkle::MerkleTree::new(leaves.clone(), 0);
        let height = (piece_bytes / BLOCK_BYTES).ilog2();
        let is_long = bytes.len() > piece;
        PieceHashes {
            piece_bytes,
            v1,
            v1_last_padded: last.map_or([0; 20], |last| Sha1::digest(last).into()),
            v2_root: merkle::root(&leaves),
            v2_layer: tree.filter(|_| is_long).map_or(Vec::new(), |tree| tree.layer(height).to_vec()),
        }
    }

    proptest! {
        #[test]
        fn hashing_in_steps_gives_what_the_definitions_give_and_reads_back(
            len in 0..150_000_usize, seed in any::<u8>(), pieces in 0..3_u32, step in 1..40_000_usize,
        ) {
            let bytes: Vec<u8> = (0..len).map(|at| (at / 7) as u8 ^ seed).collect();
            let piece_bytes = BLOCK_BYTES << pieces;
            let sha256 = ContentId::Sha256(Sha256::digest(&bytes).into());
            let git = [format!("blob {len}\0").as_bytes(), &bytes].concat();
            let git = ContentId::GitSha1(Sha1::digest(git).into());
            for id in [sha256, git] {
                let mut hasher = BlobHasher::new(id, len as u64, Some(piece_bytes));
                for bytes in bytes.chunks(step) {
                    hasher.hashes().into_iter().for_each(|hash| hash.update(bytes));
                }
                let (found, pieces) = hasher.finish();
                prop_assert_eq!(found, id);
                let pieces = pieces.expect("asked for");
                prop_assert_eq!(&pieces, &naive(&bytes, piece_bytes));
                let encoded = pieces.encode(id, len as u64);
                let decode = |encoded: &[u8]| PieceHashes::decode(encoded, id, len as u64, piece_bytes);
                prop_assert_eq!(decode(&encoded), Some(pieces));
                for at in [0, 9, 17, 30, encoded.len() - 1] {
                    let mut damaged = encoded.clone();
                    damaged[at] ^= 1;
                    prop_assert_eq!(decode(&damaged), None);
                    prop_assert_eq!(decode(&encoded[..at]), None);
                }
                prop_assert_eq!(PieceHashes::decode(&encoded, id, len as u64, piece_bytes * 2), None);
            }
        }
    }

    #[test]
    fn only_powers_of_two_from_a_block_on_are_lengths_of_pieces() {
        assert!(is_piece_length(BLOCK_BYTES) && is_piece_length(1 << 31));
        assert!([0, 1, 8192, BLOCK_BYTES + 1, 3 << 14].into_iter().all(|length| !is_piece_length(length)));
    }
}
