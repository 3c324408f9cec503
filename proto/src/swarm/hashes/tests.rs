//! Leaves asked for and proven, against the answers of [`hash_answers`](crate::swarm::hash_answers) and against lies.

use proptest::prelude::*;

use super::*;
use crate::bencode::{DictEncoder, Encoder};
use crate::merkle::MerkleTree;
use crate::swarm::hash_answers::{Plan, layer_tree};

const A: SourceId = SourceId(1);
const B: SourceId = SourceId(2);
const BLOCK: usize = BLOCK_BYTES as usize;

/// Whether a torrent's piece layers are in the metainfo, as in a `.torrent`, or not, as after a magnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layers {
    Known,
    Missing,
}

struct Sample {
    metainfo: Metainfo,
    files: Vec<Vec<u8>>,
}

fn leaves_of(bytes: &[u8]) -> Vec<Hash> {
    bytes.chunks(BLOCK).map(merkle::hash_block).collect()
}

/// A v2 torrent of files whose blocks all differ, in pieces of `1 << height` blocks.
fn sample(sizes: &[usize], height: u32, layers: Layers) -> Sample {
    let content = |file: usize, bytes: usize| -> Vec<u8> {
        (0..bytes).map(|at| (at / BLOCK) as u8 ^ (at as u8).wrapping_mul(file as u8 + 3)).collect()
    };
    let files: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(n, bytes)| content(n, *bytes)).collect();
    let piece_bytes = BLOCK << height;
    let mut known = Vec::new();
    let mut info = Encoder::new();
    info.dict(|d: &mut DictEncoder| {
        d.dict("file tree", |tree| {
            for (n, file) in files.iter().enumerate() {
                let leaves = leaves_of(file);
                let root = merkle::root(&leaves);
                if file.len() > piece_bytes {
                    let layer: Vec<Hash> =
                        leaves.chunks(1 << height).map(|piece| merkle::piece_node(piece, height)).collect();
                    known.push((root, layer.concat().into()));
                }
                tree.dict(format!("f{n}"), |node| {
                    node.dict("", |d| {
                        d.int("length", file.len() as i64);
                        d.bytes("pieces root", root);
                    });
                });
            }
        });
        d.int("meta version", 2);
        d.bytes("name", "t");
        d.int("piece length", piece_bytes as i64);
    });
    let mut metainfo = Metainfo::from_info(info.finish().into(), vec![], vec![]).unwrap();
    if layers == Layers::Known {
        metainfo.piece_layers = known;
    }
    Sample { metainfo, files }
}

impl Sample {
    fn piece(&self, piece: u32) -> PieceIndex {
        self.metainfo.info.geometry.piece(piece).unwrap()
    }

    fn pieces(&self) -> Vec<PieceIndex> {
        self.metainfo.info.geometry.pieces().collect()
    }

    fn content(&self, piece: PieceIndex) -> &[u8] {
        let span = self.metainfo.info.geometry.spans(piece, 0..u32::MAX).next().unwrap();
        let from = span.file_offset as usize;
        &self.files[span.file.get() as usize][from..from + span.bytes as usize]
    }

    /// What a peer that has everything answers.
    fn answer(&self, request: &HashRequest) -> Option<Vec<u8>> {
        let plan = Plan::new(&self.metainfo, request)?;
        let leaves = plan.piece.map(|piece| leaves_of(self.content(piece)));
        let layer = layer_tree(&self.metainfo, plan.file);
        Some(plan.answer(leaves, layer.as_ref())?.concat())
    }
}

fn wanting(sample: &Sample, piece: u32) -> LeafHashes {
    let mut hashes = LeafHashes::default();
    assert!(hashes.want(&sample.metainfo, sample.piece(piece)));
    hashes
}

#[test]
fn leaves_of_every_piece_are_asked_for_proven_and_are_those_of_its_blocks() {
    for layers in [Layers::Known, Layers::Missing] {
        // Short last pieces, a file of less than a piece, one of a single block.
        let sizes = [BLOCK * 4 * 5 + 100, BLOCK * 3, 10, BLOCK * 8, BLOCK * 4];
        let seeder = sample(&sizes, 2, Layers::Known);
        let ours = sample(&sizes, 2, layers);
        for piece in ours.pieces() {
            let mut hashes = LeafHashes::default();
            let content = ours.content(piece);
            if content.len() <= BLOCK && ours.files.iter().any(|file| file == content) {
                assert!(!hashes.want(&ours.metainfo, piece), "one block: its leaf is the root");
                continue;
            }
            assert!(hashes.want(&ours.metainfo, piece));
            assert!(hashes.leaves(piece.get()).is_none());
            let request = hashes.ask(piece.get(), A, Moment::ZERO).expect("nobody was asked");
            let reply = seeder.answer(&request).expect("the seeder has it");
            assert_eq!(hashes.handle_hashes(A, &request, &reply).unwrap()[..], [piece.get()]);
            let leaves = hashes.leaves(piece.get()).unwrap();
            assert_eq!(leaves[..], leaves_of(content)[..], "{piece:?} {layers:?}");
            let tree = hashes.tree(piece.get()).unwrap();
            for (block, data) in content.chunks(BLOCK).enumerate() {
                assert!(tree.is_block(block as u32, data, &leaves[block]));
                let mut wrong = data.to_vec();
                wrong[0] ^= 1;
                assert!(!tree.is_block(block as u32, &wrong, &leaves[block]));
                assert!(!tree.is_block(block as u32, &data[..data.len() - 1], &leaves[block]));
            }
        }
    }
}

#[test]
fn v1_torrents_have_no_leaves() {
    let info = crate::metainfo::InfoBuilder::single_file("x", 100, 16_384).unwrap().finish(&[7; 20]).unwrap();
    let metainfo = Metainfo::from_info(info.into(), vec![], vec![]).unwrap();
    let piece = metainfo.info.geometry.piece(0).unwrap();
    assert!(PieceTree::of(&metainfo, piece).is_none());
    assert!(!LeafHashes::default().want(&metainfo, piece));
}

#[test]
fn a_refusal_leaves_the_piece_to_others_and_a_block_earns_one_more_try() {
    let sample = sample(&[BLOCK * 8], 2, Layers::Known);
    let mut hashes = wanting(&sample, 1);
    let request = hashes.ask(1, A, Moment::ZERO).unwrap();
    assert!(hashes.ask(1, B, Moment::ZERO).is_none(), "one source at a time");
    assert!(!hashes.handle_reject(B, &request));
    assert!(hashes.handle_reject(A, &request));
    assert!(!hashes.may_ask(1, A) && hashes.may_ask(1, B));
    assert!(!hashes.handle_block(B, 1), "it refused nothing");
    assert!(hashes.handle_block(A, 1) && hashes.may_ask(1, A));
    hashes.ask(1, A, Moment::ZERO).unwrap();
    assert!(hashes.handle_reject(A, &request));
    assert!(!hashes.handle_block(A, 1), "twice is enough");
    assert_eq!(hashes.idle().collect::<Vec<_>>(), [1]);
}

#[test]
fn a_silent_source_is_given_up_and_its_late_answer_still_taken() {
    let sample = sample(&[BLOCK * 8], 2, Layers::Known);
    let mut hashes = wanting(&sample, 0);
    let request = hashes.ask(0, A, Moment::ZERO).unwrap();
    assert!(!hashes.time_out(PATIENCE - Moment::from_nanos(1)));
    assert!(hashes.time_out(PATIENCE));
    assert!(!hashes.may_ask(0, A));
    hashes.ask(0, B, PATIENCE).unwrap();
    let reply = sample.answer(&request).unwrap();
    assert_eq!(hashes.handle_hashes(A, &request, &reply).unwrap()[..], [0]);
    // The other's comes too late to be of use, and is no fault.
    assert_eq!(hashes.handle_hashes(B, &request, &reply), Err(HashesError::Unasked));
    assert!(hashes.leaves(0).is_some());
}

#[test]
fn a_source_that_left_can_be_replaced_at_once() {
    let sample = sample(&[BLOCK * 8], 2, Layers::Known);
    let mut hashes = wanting(&sample, 0);
    hashes.ask(0, A, Moment::ZERO).unwrap();
    hashes.handle_gone(A);
    assert!(hashes.may_ask(0, B));
}

#[test]
fn no_source_is_asked_for_more_than_a_few_at_once_and_forgetting_frees_its_place() {
    const PIECES: u32 = MAX_ASKED as u32 + 12;
    let sample = sample(&[BLOCK * 2 * PIECES as usize], 1, Layers::Known);
    let mut hashes = LeafHashes::default();
    for piece in sample.pieces() {
        assert!(hashes.want(&sample.metainfo, piece));
    }
    let asked = (0..PIECES).filter(|piece| hashes.ask(*piece, A, Moment::ZERO).is_some()).count();
    assert_eq!(asked, MAX_ASKED);
    hashes.forget(0);
    assert!(hashes.may_ask(PIECES - 1, A));
    for piece in 0..PIECES {
        hashes.forget(piece);
    }
    assert!(hashes.asked.is_empty() && hashes.by_request.is_empty() && hashes.leaves == 0);
}

#[test]
fn files_of_equal_content_share_an_answer() {
    let sample = sample(&[BLOCK * 8], 2, Layers::Known);
    let twice = {
        let mut info = Encoder::new();
        let root = merkle::root(&leaves_of(&sample.files[0]));
        info.dict(|d: &mut DictEncoder| {
            d.dict("file tree", |tree| {
                for name in ["a", "b"] {
                    tree.dict(name, |node| {
                        node.dict("", |d| {
                            d.int("length", sample.files[0].len() as i64);
                            d.bytes("pieces root", root);
                        });
                    });
                }
            });
            d.int("meta version", 2);
            d.bytes("name", "t");
            d.int("piece length", (BLOCK << 2) as i64);
        });
        Metainfo::from_info(info.finish().into(), vec![], vec![]).unwrap()
    };
    let mut hashes = LeafHashes::default();
    for piece in [1, 3] {
        assert!(hashes.want(&twice, twice.info.geometry.piece(piece).unwrap()));
    }
    let request = hashes.ask(1, A, Moment::ZERO).unwrap();
    assert_eq!(hashes.ask(3, A, Moment::ZERO), Some(request));
    let reply = sample.answer(&request).unwrap();
    assert_eq!(hashes.handle_hashes(A, &request, &reply).unwrap()[..], [1, 3]);
    assert!(hashes.asked.is_empty());
}

#[test]
fn requests_that_fit_no_tree_are_refused() {
    let sample = sample(&[BLOCK * 10, 10], 2, Layers::Known);
    let root = sample.metainfo.info.files[0].root.unwrap();
    let request = |base_layer, index, length, proof_layers| HashRequest {
        pieces_root: root,
        base_layer,
        index,
        length,
        proof_layers,
    };
    for (base, index, length, proofs) in [
        (0, 0, 0, 0),
        (0, 0, 1, 0),
        (0, 0, 3, 0),
        (0, 2, 4, 0),
        (0, 0, 4, 4),
        (0, 16, 2, 0),
        (0, 0, 8, 0),
        (0, 12, 4, 0),
        (4, 0, 2, 0),
        (2, 4, 2, 0),
        (0, u32::MAX - 1, 2, 0),
        (u32::MAX, 0, 2, u32::MAX),
        (0, 0, 1 << 31, 0),
    ] {
        assert_eq!(
            sample.answer(&request(base, index, length, proofs)),
            None,
            "{base} {index} {length} {proofs}"
        );
    }
    assert_eq!(sample.answer(&HashRequest { pieces_root: [9; 32], ..request(0, 0, 2, 0) }), None);
    let small = sample.metainfo.info.files[1].root.unwrap();
    assert_eq!(sample.answer(&HashRequest { pieces_root: small, ..request(0, 0, 2, 0) }), None);
    // The layer of pieces, as a peer with a magnet asks for it.
    let layer = sample.answer(&request(2, 0, 4, 1)).unwrap();
    assert_eq!(layer[..96], sample.metainfo.piece_layers[0].1[..]);
    // Without the leaves or the layer there is no answer.
    let plan = Plan::new(&sample.metainfo, &request(0, 4, 4, 3)).unwrap();
    assert_eq!(plan.answer(None, layer_tree(&sample.metainfo, plan.file).as_ref()), None);
    assert_eq!(plan.answer(Some(vec![[1; 32]; 4]), None), None);
    assert_eq!(plan.answer(Some(vec![[1; 32]; 5]), None), None);
}

proptest! {
    #[test]
    fn every_answer_proves_its_run_by_the_files_root(
        blocks in 2_usize..40, height in 0_u32..4, base in 0_u32..6, run in 1_u32..5, at in any::<u32>()
    ) {
        let sample = sample(&[BLOCK * (blocks - 1) + 7], height, Layers::Known);
        let tree = MerkleTree::new(leaves_of(&sample.files[0]), 0).unwrap();
        let base = base.min(tree.height() - 1);
        let run = run.min(tree.height() - base);
        let index = (at % (1 << (tree.height() - base - run))) << run;
        let request = HashRequest {
            pieces_root: tree.root(), base_layer: base, index, length: 1 << run,
            proof_layers: tree.height() - base - 1,
        };
        let piece_height = height.min(tree.height());
        let crosses = base < piece_height && base + run > piece_height;
        let first_piece = u64::from(index) >> (piece_height.saturating_sub(base));
        let is_filling = base < piece_height && (first_piece << piece_height) as usize >= blocks;
        match sample.answer(&request) {
            None => prop_assert!(crosses || is_filling),
            Some(hashes) => {
                let (hashes, _) = hashes.as_chunks::<32>();
                let (nodes, uncles) = hashes.split_at(1 << run);
                let proven = merkle::verify(&tree.root(), tree.height(), base, u64::from(index), nodes, uncles);
                prop_assert_eq!(proven, Ok(()));
            }
        }
    }

    #[test]
    fn any_change_of_a_reply_convicts_its_sender_and_is_not_kept(
        blocks in 5_usize..40, is_known in any::<bool>(), piece in any::<prop::sample::Index>(),
        change in any::<prop::sample::Index>(), bit in 0_u8..8, cut in 0_usize..3
    ) {
        let layers = if is_known { Layers::Known } else { Layers::Missing };
        let seeder = sample(&[BLOCK * (blocks - 1) + 7], 2, Layers::Known);
        let ours = sample(&[BLOCK * (blocks - 1) + 7], 2, layers);
        let piece = piece.index(ours.pieces().len()) as u32;
        let mut hashes = wanting(&ours, piece);
        let request = hashes.ask(piece, A, Moment::ZERO).unwrap();
        let good = seeder.answer(&request).unwrap();
        let mut bad = good.clone();
        match cut {
            0 => { let at = change.index(bad.len()); bad[at] ^= 1 << bit; }
            1 => { bad.truncate(change.index(bad.len())); }
            _ => bad.extend([0; 32]),
        }
        prop_assert_eq!(hashes.handle_hashes(B, &request, &good), Err(HashesError::Unasked));
        prop_assert_eq!(hashes.handle_hashes(A, &request, &bad), Err(HashesError::Wrong));
        prop_assert!(hashes.leaves(piece).is_none() && hashes.asked.is_empty());
        // Another source makes it good.
        prop_assert_eq!(hashes.ask(piece, B, Moment::ZERO), Some(request));
        prop_assert_eq!(&hashes.handle_hashes(B, &request, &good).unwrap()[..], &[piece]);
    }

    #[test]
    fn hashes_for_anything_else_are_unasked(index in any::<u32>(), length in any::<u32>(), root in any::<bool>()) {
        let sample = sample(&[BLOCK * 16], 2, Layers::Known);
        let mut hashes = wanting(&sample, 1);
        let asked = hashes.ask(1, A, Moment::ZERO).unwrap();
        let other = HashRequest {
            pieces_root: if root { asked.pieces_root } else { [1; 32] }, index, length, ..asked
        };
        prop_assume!(other != asked);
        prop_assert_eq!(hashes.handle_hashes(A, &other, &[0; 128]), Err(HashesError::Unasked));
        prop_assert!(!hashes.handle_reject(A, &other));
    }
}
