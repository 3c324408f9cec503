//! Liars and honest sources over made-up pieces.

use proptest::prelude::*;

use super::*;
use crate::geometry::{Alignment, BLOCK_BYTES, FileLayout, Geometry};

const BLOCKS: u32 = 4;

fn piece(index: u32) -> PieceIndex {
    let bytes = u64::from(BLOCKS * BLOCK_BYTES) * 100_000;
    let file = FileLayout { bytes, alignment: Alignment::Packed, is_pad: false };
    let geometry = Geometry::new(BLOCKS * BLOCK_BYTES, &[file]).expect("a plain layout");
    geometry.piece(index).expect("inside the torrent")
}

fn digest(content: u8) -> BlockDigest {
    BlockDigest([content; 16])
}

/// A piece made of (source, content) for each block.
fn evidence(blocks: &[(char, u8)]) -> Vec<BlockEvidence<char>> {
    let numbered = (0..).zip(blocks);
    numbered
        .map(|(block, (source, content))| BlockEvidence { block, source: *source, digest: digest(*content) })
        .collect()
}

fn good() -> Vec<BlockDigest> {
    vec![digest(1); BLOCKS as usize]
}

#[test]
fn the_only_source_of_a_failed_piece_is_banned_at_once() {
    let mut blame = Blame::new();
    let blocks = evidence(&[('a', 1), ('a', 1), ('a', 9), ('a', 1)]);
    assert_eq!(blame.handle_failed(piece(0), BLOCKS, blocks), Some('a'));
    assert!(!blame.is_contested(piece(0)));
    assert_eq!(blame.suspicion('a'), 0);
}

#[test]
fn one_known_source_beside_blocks_of_unknown_origin_is_not_convicted() {
    let mut blame = Blame::new();
    let blocks = evidence(&[('a', 1), ('a', 1), ('a', 1)]);
    assert_eq!(blame.handle_failed(piece(0), BLOCKS, blocks), None);
    assert_eq!(blame.suspicion('a'), 1);
    assert_eq!(blame.handle_verified(piece(0), &good()), []);
    assert_eq!(blame.suspicion('a'), 0);
    assert_eq!(blame.handle_failed(piece(0), BLOCKS, vec![]), None);
    assert!(!blame.is_contested(piece(0)));
}

#[test]
fn of_several_sources_the_one_whose_block_differs_is_banned_once_the_piece_verifies() {
    let mut blame = Blame::new();
    let blocks = evidence(&[('a', 1), ('b', 1), ('c', 9), ('b', 1)]);
    assert_eq!(blame.handle_failed(piece(0), BLOCKS, blocks), None);
    assert!(blame.is_contested(piece(0)));
    assert_eq!(['a', 'b', 'c'].map(|source| blame.suspicion(source)), [1, 1, 1]);
    assert_eq!(blame.handle_verified(piece(0), &good()), ['c']);
    assert!(!blame.is_contested(piece(0)));
    assert_eq!(['a', 'b', 'c'].map(|source| blame.suspicion(source)), [0, 0, 0]);
}

#[test]
fn all_attempts_of_a_piece_are_compared() {
    let mut blame = Blame::new();
    blame.handle_failed(piece(0), BLOCKS, evidence(&[('a', 1), ('b', 8), ('a', 1), ('a', 1)]));
    blame.handle_failed(piece(0), BLOCKS, evidence(&[('a', 1), ('a', 1), ('c', 9), ('c', 9)]));
    assert_eq!(blame.suspicion('a'), 1, "one piece, however often it failed");
    assert_eq!(blame.handle_verified(piece(0), &good()), ['b', 'c']);
}

#[test]
fn a_banned_source_leaves_no_trace_and_others_keep_theirs() {
    let mut blame = Blame::new();
    blame.handle_failed(piece(0), BLOCKS, evidence(&[('a', 9), ('b', 1), ('a', 1), ('a', 1)]));
    blame.handle_failed(piece(1), BLOCKS, evidence(&[('a', 9), ('c', 9), ('a', 1), ('a', 1)]));
    assert_eq!(blame.handle_failed(piece(2), BLOCKS, evidence(&[('a', 9); 4])), Some('a'));
    assert_eq!(blame.suspicion('a'), 0);
    assert_eq!(blame.handle_verified(piece(0), &good()), []);
    assert_eq!(blame.handle_verified(piece(1), &good()), ['c']);
    assert_eq!(blame.blocks, 0);
}

#[test]
fn a_piece_that_verifies_without_a_failure_says_nothing() {
    let mut blame = Blame::<char>::new();
    assert_eq!(blame.handle_verified(piece(7), &[]), []);
}

#[test]
fn memory_is_bounded_and_the_oldest_failures_go_first() {
    let mut blame = Blame::new();
    let pieces = MAX_BLOCKS as u32 / BLOCKS + 10;
    for index in 0..pieces {
        blame.handle_failed(piece(index), BLOCKS, evidence(&[('a', 1), ('b', 9), ('a', 1), ('a', 1)]));
    }
    assert_eq!(blame.blocks, MAX_BLOCKS);
    assert!(!blame.is_contested(piece(9)));
    assert!(blame.is_contested(piece(10)));
    assert_eq!(blame.suspicion('b'), MAX_BLOCKS / BLOCKS as usize);
    for _ in 0..20 {
        blame.handle_failed(piece(10), BLOCKS, evidence(&[('a', 1), ('b', 9), ('a', 1), ('a', 1)]));
    }
    assert!(blame.blocks <= MAX_BLOCKS);
    assert_eq!(blame.cases[&piece(10)].attempts.len(), MAX_ATTEMPTS);
}

proptest! {
    /// Honest sources are never banned; liars are, as soon as a piece they spoilt verifies; the books balance.
    #[test]
    fn only_liars_are_banned_and_each_whose_piece_verifies_is(
        rounds in prop::collection::vec(
            (0_u32..6, prop::collection::vec(0_u32..8, BLOCKS as usize), any::<bool>()),
            1..80,
        ),
        liars in prop::collection::hash_set(0_u32..8, 0..4),
    ) {
        let mut blame = Blame::new();
        let mut banned: HashSet<u32> = HashSet::new();
        let mut spoilt: HashMap<PieceIndex, HashSet<u32>> = HashMap::new();
        for (index, sources, is_cleared) in rounds {
            let piece = piece(index);
            let sources: Vec<u32> = sources.into_iter().filter(|source| !banned.contains(source)).collect();
            let lying: HashSet<u32> = sources.iter().copied().filter(|source| liars.contains(source)).collect();
            if sources.len() == BLOCKS as usize && !lying.is_empty() {
                let content = |source: u32| if liars.contains(&source) { 9 } else { 1 };
                let blocks = (0..)
                    .zip(&sources)
                    .map(|(block, &source)| BlockEvidence { block, source, digest: digest(content(source)) });
                banned.extend(blame.handle_failed(piece, BLOCKS, blocks.collect()));
                // Only what is sure to be remembered is asked for below.
                let attempts = blame.cases.get(&piece).map_or(0, |case| case.attempts.len());
                if attempts < MAX_ATTEMPTS {
                    spoilt.entry(piece).or_default().extend(lying);
                } else {
                    spoilt.remove(&piece);
                }
            }
            if is_cleared {
                banned.extend(blame.handle_verified(piece, &good()));
                for liar in spoilt.remove(&piece).unwrap_or_default() {
                    prop_assert!(banned.contains(&liar), "{} got away", liar);
                }
            }
            prop_assert!(banned.is_subset(&liars));
            prop_assert!(banned.iter().all(|source| blame.suspicion(*source) == 0));
            prop_assert_eq!(blame.blocks, blame.cases.values().map(Case::blocks).sum::<usize>());
            prop_assert_eq!(blame.order.len(), blame.cases.len());
            for source in 0..8 {
                let cases = blame.cases.values().filter(|case| case.sources().contains(&source)).count();
                prop_assert_eq!(blame.suspicion(source), cases);
            }
        }
    }
}
