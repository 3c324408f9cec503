//! Whether bytes are the piece that the torrent names.
//!
//! Pure: hashes what it is given and compares. v1 and hybrid torrents are checked by the SHA-1 of the piece (BEP 3),
//! v2-only ones by the Merkle root over the piece's 16 KiB blocks (BEP 52). A piece whose hash is unknown (a v2 file
//! whose piece layer is missing) never verifies. Used by whoever publishes a piece, and by the store for data that it
//! did not see being written.
//!
//! The hash functions use the processor's SHA instructions where it has them (1.5 GB/s a core).

use bytes::Bytes;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use wtfs_proto::geometry::{BLOCK_BYTES, PieceIndex};
use wtfs_proto::merkle::{self, Hash};
use wtfs_proto::metainfo::Metainfo;

/// Whether the blocks, one behind the other, are the piece.
pub fn verify_piece(metainfo: &Metainfo, piece: PieceIndex, blocks: &[Bytes]) -> bool {
    let mut hasher = PieceHasher::new(metainfo, piece);
    for block in blocks {
        hasher.update(block);
    }
    hasher.finish()
}

/// Checks a piece whose bytes come bit by bit.
#[derive(Debug)]
pub struct PieceHasher<'m> {
    check: Check<'m>,
    missing_bytes: u64,
}

#[derive(Debug)]
enum Check<'m> {
    V1 { expected: &'m [u8; 20], sha1: Sha1 },
    V2 { expected: Hash, tree: Tree, leaves: Vec<Hash>, leaf: Sha256, leaf_bytes: u32 },
    Unknown,
}

/// Which leaves stand under the expected hash.
#[derive(Debug, Clone, Copy)]
enum Tree {
    /// Those of the whole file, which fits in one piece.
    File,
    /// Those of a piece of a longer file: log2 of a full piece's blocks, even at the file's end.
    Piece { height: u32 },
}

impl<'m> PieceHasher<'m> {
    /// Begins a piece.
    pub fn new(metainfo: &'m Metainfo, piece: PieceIndex) -> Self {
        let check = match metainfo.info.piece_hash(piece) {
            Some(expected) => Check::V1 { expected, sha1: Sha1::new() },
            None => Check::v2(metainfo, piece).unwrap_or(Check::Unknown),
        };
        Self { check, missing_bytes: u64::from(metainfo.info.geometry.piece_len(piece)) }
    }

    /// Takes the next bytes. More than the piece has make it fail.
    pub fn update(&mut self, bytes: &[u8]) {
        match self.missing_bytes.checked_sub(bytes.len() as u64) {
            Some(left) => self.missing_bytes = left,
            None => self.check = Check::Unknown,
        }
        match &mut self.check {
            Check::V1 { sha1, .. } => sha1.update(bytes),
            Check::V2 { leaves, leaf, leaf_bytes, .. } => add_leaves(leaves, leaf, leaf_bytes, bytes),
            Check::Unknown => {}
        }
    }

    /// Whether the bytes were the piece, the whole of it and nothing more.
    pub fn finish(self) -> bool {
        if self.missing_bytes != 0 {
            return false;
        }
        match self.check {
            Check::V1 { expected, sha1 } => sha1.finalize().as_slice() == expected,
            Check::V2 { expected, tree, mut leaves, leaf, leaf_bytes } => {
                if leaf_bytes > 0 {
                    leaves.push(leaf.finalize().into());
                }
                let found = match tree {
                    Tree::File => merkle::root(&leaves),
                    Tree::Piece { height } => merkle::piece_node(&leaves, height),
                };
                found == expected
            }
            Check::Unknown => false,
        }
    }
}

impl Check<'_> {
    fn v2(metainfo: &Metainfo, piece: PieceIndex) -> Option<Self> {
        let geometry = &metainfo.info.geometry;
        let span = geometry.spans(piece, 0..u32::MAX).next()?;
        let root = metainfo.info.files.get(usize::try_from(span.file.get()).ok()?)?.root?;
        let file_bytes = geometry.file_len(span.file);
        let piece_bytes = u64::from(geometry.piece_bytes());
        let (expected, tree) = if file_bytes <= piece_bytes {
            (root, Tree::File)
        } else {
            let at = usize::try_from(span.file_offset / piece_bytes).ok()?.checked_mul(size_of::<Hash>())?;
            let hash = piece_layer(metainfo, &root)?.get(at..)?.first_chunk::<32>()?;
            // v2 pieces are a power of two of at least one block.
            (*hash, Tree::Piece { height: (geometry.piece_bytes() / BLOCK_BYTES).max(1).ilog2() })
        };
        Some(Self::V2 { expected, tree, leaves: Vec::new(), leaf: Sha256::new(), leaf_bytes: 0 })
    }
}

/// The layers are a dictionary, so they are sorted in all but odd torrents.
fn piece_layer<'m>(metainfo: &'m Metainfo, root: &Hash) -> Option<&'m Bytes> {
    let layers = &metainfo.piece_layers;
    let sorted = layers.binary_search_by(|(key, _)| key.cmp(root)).ok();
    let at = sorted.or_else(|| layers.iter().position(|(key, _)| key == root))?;
    layers.get(at).map(|(_, layer)| layer)
}

fn add_leaves(leaves: &mut Vec<Hash>, leaf: &mut Sha256, leaf_bytes: &mut u32, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let room = usize::try_from(BLOCK_BYTES - *leaf_bytes).unwrap_or(usize::MAX);
        let (now, later) = bytes.split_at(room.min(bytes.len()));
        leaf.update(now);
        // At most the room in a block.
        *leaf_bytes += u32::try_from(now.len()).unwrap_or(BLOCK_BYTES);
        if *leaf_bytes == BLOCK_BYTES {
            leaves.push(leaf.finalize_reset().into());
            *leaf_bytes = 0;
        }
        bytes = later;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::fixture::{Sample, entry};

    fn noise(bytes: usize) -> Vec<u8> {
        let mut noise = fastrand::Rng::with_seed(2);
        (0..bytes).map(|_| noise.u8(..)).collect()
    }

    fn assert_checks(metainfo: &Metainfo, piece: u32, content: &[u8]) {
        let piece = metainfo.info.geometry.piece(piece).unwrap();
        for block in [1000, 16 * 1024, usize::MAX] {
            let blocks: Vec<Bytes> =
                content.chunks(block.min(content.len())).map(Bytes::copy_from_slice).collect();
            assert!(verify_piece(metainfo, piece, &blocks), "{piece:?} in blocks of {block}");
        }
        let whole = Bytes::copy_from_slice(content);
        let mut flipped = content.to_vec();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(!verify_piece(metainfo, piece, &[flipped.into()]));
        assert!(!verify_piece(metainfo, piece, &[whole.slice(1..)]));
        assert!(!verify_piece(metainfo, piece, &[whole, Bytes::from_static(&[0])]));
        assert!(!verify_piece(metainfo, piece, &[]));
    }

    #[test]
    fn v1_pieces_are_checked_whole_and_exact() {
        let sample = Sample::new(20_000, vec![entry("a", 30_000), entry("b", 25_000)]);
        for piece in sample.pieces() {
            assert_checks(&sample.metainfo, piece.get(), sample.piece_content(piece));
        }
    }

    /// A v2 torrent of a file of four pieces, the last one short, and one of less than a piece.
    fn v2() -> (Metainfo, Vec<Vec<u8>>) {
        let content = noise(120_000);
        let (long, short) = content.split_at(100_000);
        let leaves = |bytes: &[u8]| bytes.chunks(16 * 1024).map(merkle::hash_block).collect::<Vec<_>>();
        let layer: Vec<Hash> =
            long.chunks(32 * 1024).map(|piece| merkle::piece_node(&leaves(piece), 1)).collect();
        let long_root = merkle::root(&leaves(long));
        let file = |name: &str, bytes: usize, root: Hash| {
            let mut file = format!("1:{name}d0:d6:lengthi{bytes}e11:pieces root32:").into_bytes();
            file.extend(root);
            file.extend(b"ee");
            file
        };
        let mut torrent = b"d4:infod9:file treed".to_vec();
        torrent.extend(file("a", long.len(), long_root));
        torrent.extend(file("b", short.len(), merkle::root(&leaves(short))));
        torrent.extend(b"e12:meta versioni2e4:name1:t12:piece lengthi32768ee");
        torrent.extend(b"12:piece layersd32:");
        torrent.extend(long_root);
        torrent.extend(format!("{}:", layer.len() * 32).into_bytes());
        torrent.extend(layer.concat());
        torrent.extend(b"e");
        torrent.extend(b"e");
        let pieces = long.chunks(32 * 1024).chain([short]).map(<[u8]>::to_vec).collect();
        (Metainfo::parse(&torrent).unwrap(), pieces)
    }

    #[test]
    fn v2_pieces_are_checked_by_layer_and_short_files_by_root() {
        let (metainfo, pieces) = v2();
        assert_eq!(pieces.len(), 5);
        for (piece, content) in (0..).zip(&pieces) {
            assert_checks(&metainfo, piece, content);
        }
    }

    #[test]
    fn v2_pieces_without_their_layer_never_verify() {
        let (mut metainfo, pieces) = v2();
        metainfo.piece_layers.clear();
        let verify = |piece: u32| {
            let index = metainfo.info.geometry.piece(piece).unwrap();
            verify_piece(&metainfo, index, &[Bytes::from(pieces[piece as usize].clone())])
        };
        assert_eq!((0..5).map(verify).collect::<Vec<_>>(), [false, false, false, false, true]);
    }
}
