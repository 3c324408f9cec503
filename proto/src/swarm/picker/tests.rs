//! The picker against its promises: unit cases, and random histories beside a naive account of what is asked where.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::geometry::{Alignment, BLOCK_BYTES, FileLayout};

fn geometry(pieces: u32, blocks: u32) -> Arc<Geometry> {
    let piece_bytes = blocks * BLOCK_BYTES;
    let bytes = u64::from(pieces) * u64::from(piece_bytes) - 100;
    let files = [FileLayout { bytes, alignment: Alignment::Packed, is_pad: false }];
    Arc::new(Geometry::new(piece_bytes, &files).expect("a valid geometry"))
}

fn picker(pieces: u32, blocks: u32) -> Picker {
    let geometry = geometry(pieces, blocks);
    Picker::new(geometry, &Bitfield::new(pieces), u64::MAX)
}

fn room(n: usize) -> Room {
    Room { for_reads: n, for_rest: n, hedge_after: Moment::MAX }
}

fn pick(p: &mut Picker, source: u32, room: Room, now: u64) -> Vec<(u32, u32)> {
    let mut out = Vec::new();
    let mut n = 0_u64;
    let mut random = || {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        n >> 11
    };
    p.pick(SourceId(source), Has::All, room, Moment::from_secs(now), &mut random, &mut out);
    out.iter().map(|p| (p.key.piece.get(), p.key.block)).collect()
}

fn key(p: &Picker, piece: u32, block: u32) -> BlockKey {
    BlockKey { piece: p.geometry.piece(piece).expect("in range"), block }
}

#[test]
fn nothing_is_asked_for_that_nobody_wants() {
    let mut p = picker(4, 4);
    assert!(pick(&mut p, 1, room(100), 0).is_empty());
    assert!(!p.has_work());
}

#[test]
fn a_waiting_read_comes_before_read_ahead() {
    let mut p = picker(8, 2);
    p.set_demand(DemandId(1), Urgency::ReadAhead, &[0..3]);
    p.set_demand(DemandId(2), Urgency::Read, &[6..7]);
    assert_eq!(pick(&mut p, 1, room(3), 0), [(6, 0), (6, 1), (0, 0)]);
    assert_eq!(pick(&mut p, 2, room(2), 0), [(0, 1), (1, 0)]);
}

#[test]
fn what_reads_lack_is_counted_without_what_was_asked_for() {
    let mut p = picker(8, 4);
    assert_eq!(p.missing_for_reads(99), 0);
    p.set_demand(DemandId(1), Urgency::ReadAhead, &[0..3]);
    assert_eq!(p.missing_for_reads(99), 0);
    p.set_demand(DemandId(2), Urgency::Read, &[5..7]);
    assert_eq!((p.missing_for_reads(99), p.missing_for_reads(3)), (8, 3));
    assert_eq!(pick(&mut p, 1, room(5), 0).len(), 5);
    assert_eq!(p.missing_for_reads(99), 3);
    assert_eq!(pick(&mut p, 2, room(3), 0).len(), 3);
    assert_eq!(p.missing_for_reads(99), 0);
}

#[test]
fn reads_may_use_room_that_read_ahead_may_not() {
    let mut p = picker(8, 2);
    p.set_demand(DemandId(1), Urgency::ReadAhead, &[0..3]);
    let only_reads = Room { for_reads: 4, for_rest: 0, hedge_after: Moment::MAX };
    assert!(pick(&mut p, 1, only_reads, 0).is_empty());
    p.set_demand(DemandId(2), Urgency::Read, &[5..6]);
    assert_eq!(pick(&mut p, 1, only_reads, 0), [(5, 0), (5, 1)]);
}

#[test]
fn a_lost_block_is_asked_for_again_and_first() {
    let mut p = picker(4, 2);
    p.set_demand(DemandId(1), Urgency::Read, &[0..2]);
    assert_eq!(pick(&mut p, 1, room(3), 0), [(0, 0), (0, 1), (1, 0)]);
    let lost = key(&p, 0, 1);
    p.handle_lost(SourceId(1), lost, Moment::ZERO);
    assert_eq!(pick(&mut p, 2, room(9), 0), [(0, 1), (1, 1)]);
}

#[test]
fn a_late_demanded_block_is_hedged_once_and_the_loser_is_named() {
    let mut p = picker(2, 1);
    p.set_demand(DemandId(1), Urgency::Read, &[0..1]);
    assert_eq!(pick(&mut p, 1, room(9), 0), [(0, 0)]);
    let hedging = Room { hedge_after: Moment::from_secs(1), ..room(9) };
    assert!(pick(&mut p, 2, hedging, 0).is_empty());
    assert_eq!(pick(&mut p, 2, hedging, 2), [(0, 0)]);
    assert!(pick(&mut p, 3, hedging, 9).is_empty());
    let k = key(&p, 0, 0);
    let receipt = p.handle_block(SourceId(2), k, Moment::ZERO);
    assert_eq!(receipt, Receipt::Accepted { also_asked: Some(SourceId(1)), is_piece_complete: true });
    assert_eq!(p.handle_block(SourceId(1), k, Moment::ZERO), Receipt::Unwanted);
}

#[test]
fn a_failed_piece_is_wanted_again_and_a_verified_one_is_not() {
    let mut p = picker(2, 1);
    p.set_demand(DemandId(1), Urgency::Read, &[0..2]);
    assert_eq!(pick(&mut p, 1, room(9), 0).len(), 2);
    let (a, b) = (key(&p, 0, 0), key(&p, 1, 0));
    p.handle_block(SourceId(1), a, Moment::ZERO);
    p.handle_block(SourceId(1), b, Moment::ZERO);
    p.handle_failed(a.piece);
    p.handle_verified(b.piece);
    assert_eq!(pick(&mut p, 1, room(9), 0), [(0, 0)]);
    assert_eq!(p.present_count(), 1);
}

#[test]
fn the_budget_bounds_pieces_in_flight_but_one_read_always_goes() {
    let mut p = picker(8, 4);
    let piece = 4 * u64::from(BLOCK_BYTES);
    p.set_budget(2 * piece);
    p.set_demand(DemandId(1), Urgency::ReadAhead, &[0..8]);
    assert_eq!(pick(&mut p, 1, room(100), 0).len(), 8);
    p.set_demand(DemandId(2), Urgency::Read, &[6..8]);
    assert_eq!(pick(&mut p, 1, room(100), 0), [(6, 0), (6, 1), (6, 2), (6, 3)]);
    assert_eq!(p.in_flight_bytes(), 3 * piece);
}

#[test]
fn fill_takes_the_rarest_piece_first_and_ends_with_everything_asked_twice() {
    let mut p = picker(4, 1);
    p.set_filling(Filling::Everything);
    p.add_availability([0, 1, 2, 3, 0, 1, 3].into_iter());
    assert_eq!(pick(&mut p, 1, room(1), 0), [(2, 0)]);
    assert_eq!(pick(&mut p, 1, room(9), 1).len(), 3);
    let mut twice = pick(&mut p, 2, room(9), 2);
    twice.sort_unstable();
    assert_eq!(twice, [(0, 0), (1, 0), (2, 0), (3, 0)]);
    assert!(pick(&mut p, 3, room(9), 3).is_empty());
}

#[test]
fn a_partial_piece_nobody_wants_is_given_up() {
    let mut p = picker(2, 2);
    p.set_demand(DemandId(1), Urgency::Read, &[0..1]);
    pick(&mut p, 1, room(9), 0);
    let (a, b) = (key(&p, 0, 0), key(&p, 0, 1));
    p.handle_block(SourceId(1), a, Moment::ZERO);
    p.clear_demand(DemandId(1));
    assert!(p.abandoned(Moment::ZERO).is_empty(), "a block is still on its way");
    p.handle_lost(SourceId(1), b, Moment::ZERO);
    let abandoned = p.abandoned(Moment::ZERO);
    assert_eq!(abandoned.len(), 1);
    p.handle_failed(abandoned[0]);
    assert_eq!(p.in_flight_bytes(), 0);
}

#[test]
fn a_contested_piece_comes_whole_from_one_source_and_from_another_when_that_fails() {
    let mut p = picker(2, 3);
    let piece = key(&p, 0, 0).piece;
    p.set_contested(piece, Contested::Yes);
    p.set_demand(DemandId(1), Urgency::Read, &[0..1]);
    assert_eq!(pick(&mut p, 1, room(2), 0), [(0, 0), (0, 1)]);
    let hedging = Room { hedge_after: Moment::ZERO, ..room(9) };
    assert!(pick(&mut p, 2, hedging, 1).is_empty());
    let (a, b) = (key(&p, 0, 0), key(&p, 0, 1));
    p.handle_block(SourceId(1), a, Moment::from_secs(1));
    p.handle_lost(SourceId(1), b, Moment::from_secs(1));
    // A refusal alone costs it nothing: it may be asked again for a while.
    assert!(pick(&mut p, 2, room(9), 2).is_empty());
    // Then what it gave does not count any more, and it has to let others try.
    assert_eq!(pick(&mut p, 2, room(9), 4), [(0, 0), (0, 1), (0, 2)]);
    assert!(pick(&mut p, 1, room(9), 4).is_empty());
    assert_eq!(p.handle_block(SourceId(1), b, Moment::from_secs(4)), Receipt::Unwanted);
    assert!(matches!(p.handle_block(SourceId(2), b, Moment::from_secs(4)), Receipt::Accepted { .. }));
}

#[test]
fn an_owner_that_left_with_nothing_outstanding_gives_a_contested_piece_free() {
    let mut p = picker(1, 2);
    let piece = key(&p, 0, 0).piece;
    p.set_contested(piece, Contested::Yes);
    p.set_demand(DemandId(1), Urgency::Read, &[0..1]);
    assert_eq!(pick(&mut p, 1, room(1), 0), [(0, 0)]);
    let k = key(&p, 0, 0);
    p.handle_block(SourceId(1), k, Moment::from_secs(1));
    assert!(pick(&mut p, 2, room(9), 2).is_empty());
    assert_eq!(pick(&mut p, 2, room(9), 4), [(0, 0), (0, 1)]);
}

#[test]
fn a_read_out_of_budget_does_not_hold_up_the_pieces_that_would_free_it() {
    let mut p = picker(8, 2);
    let piece = 2 * u64::from(BLOCK_BYTES);
    p.set_budget(piece);
    p.set_demand(DemandId(1), Urgency::ReadAhead, &[0..1]);
    p.set_demand(DemandId(2), Urgency::Read, &[5..6]);
    assert_eq!(pick(&mut p, 1, room(1), 0), [(5, 0)]);
    p.clear_demand(DemandId(2));
    p.set_demand(DemandId(3), Urgency::ReadAhead, &[5..6]);
    p.set_budget(0);
    p.set_demand(DemandId(4), Urgency::Read, &[7..8]);
    assert_eq!(pick(&mut p, 1, room(9), 1), [(5, 1)]);
}

#[test]
fn while_filling_a_piece_that_nobody_has_any_more_is_given_up_in_time() {
    let mut p = picker(2, 2);
    p.set_filling(Filling::Everything);
    p.add_availability(0..2);
    pick(&mut p, 1, room(1), 0);
    let lost =
        p.geometry.pieces().find(|piece| p.partials.contains_key(&piece.get())).expect("one is started");
    let block = BlockKey { piece: lost, block: 0 };
    p.handle_lost(SourceId(1), block, Moment::ZERO);
    p.remove_availability(0..2);
    assert!(p.abandoned(Moment::from_secs(1)).is_empty());
    assert_eq!(p.abandoned(Moment::from_secs(60)), [lost]);
}

#[test]
fn a_silent_source_of_the_piece_that_fills_the_budget_is_hedged_so_that_others_can_start() {
    let mut p = picker(4, 2);
    let piece = 2 * u64::from(BLOCK_BYTES);
    p.set_budget(piece);
    p.set_filling(Filling::Everything);
    p.add_availability(0..4);
    let asked = pick(&mut p, 1, room(9), 0);
    assert_eq!(asked.len(), 2);
    let hedging = Room { hedge_after: Moment::from_secs(4), ..room(9) };
    assert!(pick(&mut p, 2, hedging, 3).is_empty(), "it is not late yet");
    assert_eq!(pick(&mut p, 2, hedging, 5), asked);
    for (piece, block) in asked {
        let key = key(&p, piece, block);
        let receipt = p.handle_block(SourceId(2), key, Moment::from_secs(6));
        assert!(matches!(receipt, Receipt::Accepted { also_asked: Some(SourceId(1)), .. }));
    }
}

#[test]
fn a_read_that_waits_for_budget_has_the_late_read_ahead_hedged() {
    let mut p = picker(4, 2);
    p.set_budget(1);
    p.set_demand(DemandId(1), Urgency::ReadAhead, &[0..1]);
    assert_eq!(pick(&mut p, 1, room(9), 0), [(0, 0), (0, 1)]);
    p.set_demand(DemandId(2), Urgency::Read, &[3..4]);
    let hedging = Room { hedge_after: Moment::from_secs(4), ..room(9) };
    assert_eq!(pick(&mut p, 2, hedging, 5), [(0, 0), (0, 1)]);
}

#[test]
fn with_budget_left_the_blocks_no_read_waits_for_are_not_hedged() {
    let mut p = picker(4, 2);
    p.set_demand(DemandId(1), Urgency::ReadAhead, &[0..1]);
    assert_eq!(pick(&mut p, 1, room(9), 0).len(), 2);
    let hedging = Room { hedge_after: Moment::ZERO, ..room(9) };
    assert!(pick(&mut p, 2, hedging, 5).is_empty());
}

/// A contested piece of three blocks that a fill wants, and source 1 as its owner from the start.
fn contested_fill() -> Picker {
    let mut p = picker(1, 3);
    let piece = key(&p, 0, 0).piece;
    p.set_contested(piece, Contested::Yes);
    p.set_filling(Filling::Everything);
    p.add_availability(0..1);
    assert_eq!(pick(&mut p, 1, room(9), 0), [(0, 0), (0, 1), (0, 2)]);
    p
}

#[test]
fn a_silent_owner_loses_a_contested_piece_that_no_read_waits_for() {
    let mut p = contested_fill();
    assert!(pick(&mut p, 2, room(9), 5).is_empty());
    assert_eq!(pick(&mut p, 2, room(9), 7), [(0, 0), (0, 1), (0, 2)]);
}

#[test]
fn a_contested_piece_that_changes_hands_is_outstanding_at_two_sources_at_most_and_once_at_each() {
    let mut p = contested_fill();
    assert_eq!(pick(&mut p, 2, room(9), 7).len(), 3);
    // The second owner is silent too; all blocks are still outstanding at both.
    assert!(pick(&mut p, 3, room(9), 30).is_empty());
    assert!(pick(&mut p, 1, room(9), 60).is_empty());
    let lost = key(&p, 0, 1);
    p.handle_lost(SourceId(2), lost, Moment::from_secs(61));
    assert!(pick(&mut p, 1, room(9), 61).is_empty());
    p.handle_lost(SourceId(1), lost, Moment::from_secs(62));
    assert_eq!(pick(&mut p, 1, room(9), 62), [(0, 1)]);
}

#[test]
fn an_owner_that_asks_again_and_again_without_progress_loses_a_contested_piece() {
    let mut p = contested_fill();
    for now in 1..=3 {
        for block in 0..3 {
            let lost = key(&p, 0, block);
            p.handle_lost(SourceId(1), lost, Moment::from_secs(now));
        }
        let picked = pick(&mut p, 1, room(9), now);
        assert_eq!(picked.len(), 3);
    }
    assert_eq!(pick(&mut p, 2, room(9), 7).len(), 3);
}

#[test]
fn patience_with_a_slow_owner_grows_until_a_contested_piece_comes_whole() {
    let mut p = contested_fill();
    let mut is_complete = false;
    // The only source that works takes 10 s for a block; another one never answers.
    let mut due: Option<(u32, u64)> = None;
    for now in 1..300 {
        if due.is_none() {
            due = pick(&mut p, 2, room(1), now).first().map(|(_, block)| (*block, now + 10));
        }
        if let Some((block, _)) = due.take_if(|(_, at)| *at <= now) {
            let came = key(&p, 0, block);
            let receipt = p.handle_block(SourceId(2), came, Moment::from_secs(now));
            is_complete |= matches!(receipt, Receipt::Accepted { is_piece_complete: true, .. });
        }
        if is_complete {
            return;
        }
        if now % 20 == 0 {
            for block in 0..3 {
                let lost = key(&p, 0, block);
                p.handle_lost(SourceId(1), lost, Moment::from_secs(now));
            }
        }
        pick(&mut p, 1, room(9), now);
    }
    panic!("the piece was never had");
}

#[derive(Debug, Clone)]
enum Step {
    Demand { id: u64, urgency: u8, first: u32, len: u32 },
    Clear(u64),
    Pick { source: u32, room: usize },
    Deliver(usize),
    Lose(usize),
    Verify { good: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_u64, 0..3_u8, 0..12_u32, 0..6_u32).prop_map(|(id, urgency, first, len)| Step::Demand {
            id,
            urgency,
            first,
            len
        }),
        (0..4_u64).prop_map(Step::Clear),
        (0..4_u32, 0..12_usize).prop_map(|(source, room)| Step::Pick { source, room }),
        (0..64_usize).prop_map(Step::Deliver),
        (0..64_usize).prop_map(Step::Lose),
        any::<bool>().prop_map(|good| Step::Verify { good }),
    ]
}

proptest! {
    #[test]
    fn no_block_is_outstanding_at_more_than_two_sources_nor_asked_when_received(
        steps in prop::collection::vec(step(), 1..200), fill in any::<bool>(),
    ) {
        let mut p = picker(12, 3);
        let budget = 5 * 3 * u64::from(BLOCK_BYTES);
        p.set_budget(budget);
        if fill {
            p.set_filling(Filling::Everything);
        }
        p.add_availability(0..12);
        let mut outstanding: Vec<(u32, BlockKey)> = Vec::new();
        let mut received: HashMap<BlockKey, ()> = HashMap::new();
        let mut complete: Vec<PieceIndex> = Vec::new();
        let mut now = Moment::ZERO;
        for step in steps {
            now += Moment::from_millis(40);
            match step {
                Step::Demand { id, urgency, first, len } => {
                    let urgency = [Urgency::Read, Urgency::ReadAhead, Urgency::Prefetch][urgency as usize];
                    p.set_demand(DemandId(id), urgency, std::slice::from_ref(&(first..(first + len).min(12))));
                }
                Step::Clear(id) => p.clear_demand(DemandId(id)),
                Step::Pick { source, room } => {
                    let mut out = Vec::new();
                    let room = Room { for_reads: room, for_rest: room / 2, hedge_after: Moment::from_millis(80) };
                    p.pick(SourceId(source), Has::All, room, now, &mut || 7, &mut out);
                    prop_assert!(out.len() <= room.for_reads);
                    for pick in out {
                        prop_assert!(!received.contains_key(&pick.key));
                        prop_assert!(!outstanding.contains(&(source, pick.key)));
                        outstanding.push((source, pick.key));
                        let times = outstanding.iter().filter(|(_, k)| *k == pick.key).count();
                        prop_assert!(times <= 2);
                    }
                }
                Step::Deliver(n) if !outstanding.is_empty() => {
                    let (source, key) = outstanding.remove(n % outstanding.len());
                    match p.handle_block(SourceId(source), key, now) {
                        Receipt::Accepted { is_piece_complete, .. } => {
                            prop_assert!(received.insert(key, ()).is_none());
                            if is_piece_complete {
                                complete.push(key.piece);
                            }
                        }
                        Receipt::Unwanted => {
                            let is_over = received.contains_key(&key) || p.is_present(key.piece.get());
                            prop_assert!(is_over || p.last_block_at(key.piece.get()).is_none());
                        }
                    }
                }
                Step::Lose(n) if !outstanding.is_empty() => {
                    let (source, key) = outstanding.remove(n % outstanding.len());
                    p.handle_lost(SourceId(source), key, now);
                }
                Step::Verify { good } => {
                    if let Some(piece) = complete.pop() {
                        received.retain(|k, ()| k.piece != piece);
                        outstanding.retain(|(_, k)| k.piece != piece);
                        if good {
                            p.handle_verified(piece);
                            prop_assert!(p.is_present(piece.get()));
                        } else {
                            p.handle_failed(piece);
                        }
                    }
                }
                _ => {}
            }
            // One demanded piece may exceed the budget.
            prop_assert!(p.in_flight_bytes() <= budget + 3 * u64::from(BLOCK_BYTES));
            p.wants.assert_consistent();
            for piece in p.abandoned(now) {
                received.retain(|k, ()| k.piece != piece);
                outstanding.retain(|(_, k)| k.piece != piece);
                p.handle_failed(piece);
            }
        }
    }

    #[test]
    fn every_wanted_piece_arrives_from_a_source_that_works(seed in any::<u64>(), budget in 1..6_u64) {
        let mut p = picker(9, 2);
        p.set_budget(budget * 2 * u64::from(BLOCK_BYTES));
        p.set_demand(DemandId(1), Urgency::Read, &[1..4, 7..9]);
        p.set_demand(DemandId(2), Urgency::ReadAhead, &[0..2]);
        let mut state = seed | 1;
        let mut asked: Vec<BlockKey> = Vec::new();
        for n in 0..10_000_u64 {
            if !p.has_work() {
                break;
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let now = Moment::from_millis(n);
            for (piece, block) in pick(&mut p, 1, room(3), n) {
                let k = key(&p, piece, block);
                asked.push(k);
            }
            if asked.is_empty() {
                continue;
            }
            let k = asked.swap_remove((state >> 33) as usize % asked.len());
            if state >> 62 == 0 {
                p.handle_lost(SourceId(1), k, now);
            } else if let Receipt::Accepted { is_piece_complete: true, .. } = p.handle_block(SourceId(1), k, now) {
                p.handle_verified(k.piece);
            }
        }
        prop_assert!(!p.has_work());
        prop_assert_eq!(p.present_count(), 6);
        prop_assert_eq!(p.in_flight_bytes(), 0);
    }
}
