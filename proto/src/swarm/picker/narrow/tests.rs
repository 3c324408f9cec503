//! What is asked for of a piece of which reads need some blocks only.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::bitfield::Bitfield;
use crate::geometry::{Alignment, BLOCK_BYTES, FileLayout, Geometry};
use crate::swarm::picker::{Has, Receipt, Room};

fn picker(pieces: u32, blocks: u32) -> Picker {
    let piece_bytes = blocks * BLOCK_BYTES;
    let bytes = u64::from(pieces) * u64::from(piece_bytes);
    let files = [FileLayout { bytes, alignment: Alignment::Packed, is_pad: false }];
    let geometry = Arc::new(Geometry::new(piece_bytes, &files).expect("a valid geometry"));
    Picker::new(geometry, &Bitfield::new(pieces), u64::MAX)
}

fn pick(p: &mut Picker, source: u32, for_reads: usize, for_rest: usize) -> Vec<(u32, u32)> {
    let mut out = Vec::new();
    let room = Room { for_reads, for_rest, hedge_after: Moment::MAX };
    p.pick(SourceId(source), Has::All, room, Moment::ZERO, &mut || 7, &mut out);
    out.iter().map(|p| (p.key.piece.get(), p.key.block)).collect()
}

fn key(p: &Picker, piece: u32, block: u32) -> BlockKey {
    BlockKey { piece: p.geometry.piece(piece).expect("in range"), block }
}

fn read(p: &mut Picker, id: u64, piece: u32, blocks: Range<u32>) {
    p.set_demand(DemandId(id), Urgency::Read, std::slice::from_ref(&(piece..piece + 1)));
    let index = p.geometry.piece(piece).expect("in range");
    p.narrow(DemandId(id), index, blocks);
}

fn want(p: &mut Picker, id: u64, urgency: Urgency, pieces: Range<u32>) {
    p.set_demand(DemandId(id), urgency, std::slice::from_ref(&pieces));
}

#[test]
fn only_the_blocks_of_a_narrowed_read_are_asked_for() {
    let mut p = picker(4, 8);
    read(&mut p, 1, 2, 3..5);
    assert_eq!(pick(&mut p, 1, 99, 99), [(2, 3), (2, 4)]);
    assert!(pick(&mut p, 2, 99, 99).is_empty());
    // Another block of the same piece.
    read(&mut p, 2, 2, 7..8);
    assert_eq!(pick(&mut p, 1, 99, 99), [(2, 7)]);
    p.handle_lost(SourceId(1), key(&p, 2, 4), Moment::ZERO);
    assert_eq!(pick(&mut p, 2, 99, 99), [(2, 4)]);
}

#[test]
fn a_read_that_needs_the_whole_piece_gets_it() {
    let mut p = picker(2, 4);
    read(&mut p, 1, 0, 1..2);
    want(&mut p, 2, Urgency::Read, 0..1);
    assert_eq!(pick(&mut p, 1, 99, 0).len(), 4);
}

#[test]
fn widened_reads_get_the_whole_piece() {
    let mut p = picker(3, 4);
    p.set_demand(DemandId(1), Urgency::Read, std::slice::from_ref(&(0..2)));
    for (piece, blocks) in [(0, 3..4), (1, 0..1)] {
        let index = p.geometry.piece(piece).expect("in range");
        p.narrow(DemandId(1), index, blocks);
    }
    assert_eq!(pick(&mut p, 1, 99, 0), [(0, 3), (1, 0)]);
    assert!(p.widen(0) && !p.widen(0));
    assert_eq!(pick(&mut p, 1, 99, 0), [(0, 0), (0, 1), (0, 2)]);
    // Widened before anything was asked for, what is read still comes first.
    read(&mut p, 2, 2, 2..3);
    assert!(p.widen(2));
    assert_eq!(pick(&mut p, 1, 99, 0), [(2, 2), (2, 0), (2, 1), (2, 3)]);
    p.clear_demand(DemandId(2));
    p.clear_demand(DemandId(1));
    assert!(p.narrow.by_piece.is_empty() && p.narrow.by_demand.is_empty());
}

#[test]
fn read_ahead_takes_the_rest_behind_every_narrowed_read() {
    let mut p = picker(4, 4);
    want(&mut p, 1, Urgency::ReadAhead, 0..2);
    read(&mut p, 2, 0, 2..3);
    read(&mut p, 3, 3, 0..1);
    let picks = pick(&mut p, 1, 99, 99);
    assert_eq!(picks[..2], [(0, 2), (3, 0)]);
    assert_eq!(picks.len(), 2 + 3 + 4);
}

#[test]
fn what_was_closed_for_a_read_is_open_to_read_ahead_once_it_is_answered() {
    let mut p = picker(2, 4);
    want(&mut p, 1, Urgency::ReadAhead, 0..1);
    read(&mut p, 2, 0, 0..1);
    assert_eq!(pick(&mut p, 1, 1, 0), [(0, 0)]);
    p.clear_demand(DemandId(2));
    assert_eq!(pick(&mut p, 1, 9, 9), [(0, 1), (0, 2), (0, 3)]);
}

#[test]
fn the_rest_is_held_until_it_is_due_and_is_not_abandoned_meanwhile() {
    let mut p = picker(2, 4);
    read(&mut p, 1, 0, 0..1);
    want(&mut p, 2, Urgency::Rest, 0..1);
    assert_eq!(pick(&mut p, 1, 9, 9), [(0, 0)]);
    p.handle_block(SourceId(1), key(&p, 0, 0), Moment::ZERO);
    p.clear_demand(DemandId(1));
    assert!(pick(&mut p, 1, 9, 9).is_empty() && p.abandoned(Moment::ZERO).is_empty());
    p.set_rest(RestIs::Due);
    assert_eq!(pick(&mut p, 1, 9, 9), [(0, 1), (0, 2), (0, 3)]);
    p.clear_demand(DemandId(2));
}

#[test]
fn a_bad_block_alone_is_fetched_again() {
    let mut p = picker(2, 4);
    read(&mut p, 1, 0, 1..3);
    pick(&mut p, 1, 9, 9);
    for block in [1, 2] {
        let block = key(&p, 0, block);
        assert!(matches!(p.handle_block(SourceId(1), block, Moment::ZERO), Receipt::Accepted { .. }));
    }
    p.handle_bad_block(key(&p, 0, 2));
    p.handle_bad_block(key(&p, 0, 3));
    assert_eq!(pick(&mut p, 2, 9, 9), [(0, 2)]);
}

proptest! {
    /// Whatever is narrowed, widened and withdrawn, all that a read needs is asked for once, and in the end the read
    /// can be answered.
    #[test]
    fn every_narrowed_read_gets_its_blocks(
        steps in prop::collection::vec((0_u32..4, 0_u32..8, 1_u32..4, 0_u8..6), 1..60)
    ) {
        let mut p = picker(4, 8);
        let mut reads: Vec<(u64, u32, Range<u32>)> = Vec::new();
        let mut asked = std::collections::HashSet::new();
        for (id, (piece, from, count, step)) in (1..).zip(steps) {
            let blocks = from..(from + count).min(8);
            match step {
                0..=2 => {
                    read(&mut p, id, piece, blocks.clone());
                    reads.push((id, piece, blocks));
                }
                3 if !reads.is_empty() => {
                    let (gone, ..) = reads.remove(from as usize % reads.len());
                    p.clear_demand(DemandId(gone));
                }
                4 => { p.widen(piece); }
                _ => {}
            }
            for block in pick(&mut p, 1, count as usize, 0) {
                prop_assert!(asked.insert(block), "{block:?} was asked for twice");
            }
            p.wants.assert_consistent();
        }
        loop {
            let picks = pick(&mut p, 1, 5, 0);
            if picks.is_empty() {
                break;
            }
            for block in picks {
                prop_assert!(asked.insert(block));
            }
        }
        for (_, piece, blocks) in &reads {
            for block in blocks.clone() {
                prop_assert!(asked.contains(&(*piece, block)), "{block} of {piece} was never asked for");
            }
        }
        for (id, ..) in reads {
            p.clear_demand(DemandId(id));
        }
        prop_assert!(p.narrow.by_piece.is_empty() && p.narrow.by_demand.is_empty());
    }
}
