//! The board by hand, and against what must hold whatever happens.

#![allow(clippy::single_range_in_vec_init)]

use proptest::prelude::*;

use super::plan::{FIRST_BYTES, MAX_CLAIM_BYTES, MAX_CLAIMS};
use super::*;

const MIB: u64 = 1 << 20;

fn demand(range: Range<u64>) -> Demand<u8> {
    Demand { range, reader: 0, origin: 0 }
}

fn claims(board: &Board<u8>) -> Vec<Range<u64>> {
    let mut all: Vec<_> = board.claims.values().map(|claim| claim.at..claim.end).collect();
    all.sort_unstable_by_key(|range| range.start);
    all
}

#[test]
fn a_random_read_asks_for_a_block_from_where_it_reads_and_a_second_one_nearby_waits_for_it() {
    let mut board = Board::new(100 << 30);
    board.add_demand(demand(50_000_000_000..50_000_004_096));
    assert_eq!(board.plan().len(), 1);
    let [claim] = claims(&board)[..].to_vec().try_into().expect("one");
    let claim: Range<u64> = claim;
    assert!(claim.start <= 50_000_000_000 && 50_000_000_000 - claim.start < ALIGN);
    assert!(claim.end - claim.start <= MIB + ALIGN);
    board.add_demand(demand(50_000_500_000..50_000_501_000));
    assert!(board.plan().is_empty());
}

#[test]
fn a_read_far_ahead_in_a_claim_cuts_it_and_the_flight_stops_there() {
    let mut board = Board::new(1 << 30);
    board.fill = Some(0);
    board.pace = Some(MOST_NEAR_BYTES);
    let fills = board.plan();
    assert_eq!(claims(&board), [0..64 * MIB, 64 * MIB..128 * MIB]);
    board.add_demand(demand(50 * MIB..50 * MIB + 10));
    assert_eq!(board.plan().len(), 1);
    assert_eq!(claims(&board), [0..50 * MIB, 50 * MIB..64 * MIB, 64 * MIB..128 * MIB]);
    assert_eq!(board.leave(fills[0]), Leave::Until(50 * MIB));
}

#[test]
fn a_read_waits_for_a_flight_that_is_fast_and_not_for_one_that_is_late() {
    let mut board = Board::new(1 << 30);
    board.fill = Some(0);
    board.pace = Some(20 * MIB);
    let [first, _] = board.plan()[..] else { panic!("two") };
    let near = |board: &mut Board<u8>, near| board.claims.get_mut(&first).expect("there").near = near;
    near(&mut board, 8 * MIB);
    let read = 7 * MIB..7 * MIB + 10;
    board.add_demand(demand(read.clone()));
    assert!(board.plan().is_empty());
    assert!(board.is_served(&read));
    near(&mut board, 0);
    assert!(!board.is_served(&read));
    assert_eq!(board.plan().len(), 1);
    assert_eq!(claims(&board), [0..7 * MIB, 7 * MIB..8 * MIB, 8 * MIB..16 * MIB]);
    assert!(board.is_served(&read));
}

#[test]
fn a_read_waits_for_the_flight_that_was_made_for_it_however_late_that_is() {
    let mut board = Board::new(1 << 30);
    let read = 40_000_000..40_004_096;
    board.add_demand(demand(read.clone()));
    let [claim] = board.plan()[..] else { panic!("one") };
    assert!(board.claims[&claim].at < read.start, "it begins where blocks do");
    board.claims.get_mut(&claim).expect("there").near = 0;
    assert!(board.is_served(&read));
    assert!(board.plan().is_empty());
    assert!(matches!(board.leave(claim), Leave::Until(until) if until >= read.end));
}

#[test]
fn a_read_does_not_wait_for_a_flight_that_stops_before_it() {
    let mut board = Board::new(1 << 30);
    let ahead = Ahead { window: vec![MIB..4 * MIB], reach: 1 << 30, origin: 0 };
    board.aheads.insert(1, ahead);
    board.pace = Some(MOST_NEAR_BYTES);
    board.add_demand(Demand { reader: 1, ..demand(0..MIB) });
    let [claim] = board.plan()[..] else { panic!("one") };
    board.claims.get_mut(&claim).expect("there").near = MOST_NEAR_BYTES;
    board.add_demand(demand(9 * MIB..10 * MIB));
    assert!(board.plan().is_empty(), "it goes on to what is not far behind what is wanted");
    assert_eq!(board.leave(claim), Leave::Until(10 * MIB));
    board.add_demand(demand(40 * MIB..41 * MIB));
    assert_eq!(board.plan().len(), 1);
    assert_eq!(claims(&board)[..2], [0..40 * MIB, 40 * MIB..41 * MIB]);
    assert_eq!(board.leave(claim), Leave::Until(10 * MIB));
}

#[test]
fn claims_are_what_comes_within_a_moment_or_a_part_of_what_is_here() {
    let mut board: Board<u8> = Board::new(100 << 30);
    assert_eq!(board.longest_claim(), FIRST_BYTES);
    board.pace = Some(1000);
    assert_eq!(board.longest_claim(), BLOCK_BYTES);
    board.pace = Some(20 * MIB);
    assert_eq!(board.longest_claim(), 8 * MIB);
    board.present.insert(0..800 * MIB);
    assert_eq!(board.longest_claim(), 100 * MIB);
    board.present.insert(0..50 << 30);
    assert_eq!(board.longest_claim(), MAX_CLAIM_BYTES);
}

#[test]
fn the_end_of_a_claim_that_is_about_to_arrive_is_fetched_though_nobody_wants_it() {
    let mut board = Board::new(1 << 30);
    let id = board.add_demand(demand(0..6 * MIB));
    let [claim] = board.plan()[..] else { panic!("one") };
    board.settle(claim, 0..2 * MIB + 5);
    board.demands.remove(&id);
    board.claims.get_mut(&claim).expect("there").near = 3 * MIB;
    assert_eq!(board.leave(claim), Leave::Until(3 * MIB), "too far");
    board.claims.get_mut(&claim).expect("there").near = 4 * MIB;
    assert_eq!(board.leave(claim), Leave::Until(6 * MIB));
}

#[test]
fn a_flight_goes_as_far_as_windows_and_reads_pauses_at_their_end_and_ends_at_its_block_without_them() {
    let mut board = Board::new(1 << 30);
    let ahead = |window: Range<u64>| Ahead { window: vec![window], reach: 200 * MIB, origin: 0 };
    board.aheads.insert(1, ahead(0..4 * MIB));
    board.add_demand(Demand { reader: 1, ..demand(0..10) });
    board.pace = Some(MOST_NEAR_BYTES);
    let claim = board.plan()[0];
    assert_eq!(claims(&board), [0..64 * MIB], "one large request");
    assert_eq!(board.leave(claim), Leave::Until(4 * MIB));
    board.demands.clear();
    board.settle(claim, 0..4 * MIB);
    assert_eq!(board.leave(claim), Leave::Pause);
    board.aheads.insert(1, ahead(2 * MIB..6 * MIB));
    assert_eq!(board.leave(claim), Leave::Until(6 * MIB));
    board.settle(claim, 4 * MIB..5 * MIB + 1);
    board.aheads.clear();
    assert_eq!(board.leave(claim), Leave::Until(6 * MIB));
    board.settle(claim, 5 * MIB + 1..6 * MIB);
    assert_eq!(board.leave(claim), Leave::End);
}

#[test]
fn many_reads_at_once_leave_no_more_claims_than_there_are_places() {
    let mut board = Board::new(1 << 40);
    board.fill = Some(0);
    for at in 0..100 {
        board.aheads.insert(at, Ahead { window: vec![at << 30..(at << 30) + MIB], reach: 0, origin: 0 });
        board.add_demand(demand(at << 31..(at << 31) + 1));
    }
    board.plan();
    assert_eq!(board.claims.len(), MAX_CLAIMS);
}

#[test]
fn readers_that_pause_leave_their_places_to_a_read_that_waits() {
    let mut board = Board::new(1 << 40);
    board.pace = Some(MOST_NEAR_BYTES);
    for reader in 0..MAX_CLAIMS as u64 {
        let at = reader << 34;
        board.aheads.insert(reader, Ahead { window: vec![at..at + MIB], reach: at + (1 << 30), origin: 0 });
        let id = board.add_demand(Demand { reader, ..demand(at..at + MIB) });
        let claim = board.plan()[0];
        board.settle(claim, at..at + MIB);
        board.demands.remove(&id);
        assert_eq!(board.leave(claim), Leave::Pause);
    }
    assert_eq!(board.claims.len(), MAX_CLAIMS);
    board.add_demand(demand(1 << 39..(1 << 39) + 1));
    assert_eq!(board.plan().len(), 1);
    assert_eq!(board.claims.len(), MAX_CLAIMS);
}

#[test]
fn what_came_and_was_lost_before_it_was_written_is_not_about_to_come() {
    let mut board = Board::new(1 << 30);
    board.fill = Some(0);
    let claim = board.plan()[0];
    let read = MIB..MIB + 10;
    board.add_demand(demand(read.clone()));
    board.plan();
    board.claims.get_mut(&claim).expect("there").near = 0;
    board.arrive(claim, MIB + 5);
    assert!(board.is_served(&read));
    // Its request broke off.
    board.arrive(claim, 0);
    assert!(!board.is_served(&read));
    assert_eq!(board.plan().len(), 1);
}

#[test]
fn a_claim_that_makes_place_for_a_read_keeps_what_is_being_written() {
    let mut board = Board::new(1 << 40);
    board.pace = Some(MOST_NEAR_BYTES);
    for reader in 0..MAX_CLAIMS as u64 {
        let at = reader << 34;
        let id = board.add_demand(demand(at..at + MIB));
        let claim = board.plan()[0];
        board.arrive(claim, at + 5);
        board.demands.remove(&id);
    }
    let read = 7 << 33..(7 << 33) + 1;
    board.add_demand(demand(read.clone()));
    assert!(board.plan().is_empty(), "not before it is written");
    let last = (MAX_CLAIMS as u64 - 1) << 34;
    assert_eq!(claims(&board).last(), Some(&(last..last + 5)));
    let (id, _) = board.claim_of(last).expect("there");
    board.settle(id, last..last + 5);
    assert_eq!(board.plan().len(), 1);
    assert!(board.is_served(&read));
}

#[derive(Debug, Clone)]
enum Op {
    Read(u64, u64),
    Withdraw(usize),
    Window(u64, u64, u64),
    Fill,
    Arrive(usize, u64),
    Lose(usize),
    Near(usize, u64),
    Written(usize, u64),
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..40 * MIB;
    prop_oneof![
        4 => (at.clone(), 1..2 * MIB).prop_map(|(at, len)| Op::Read(at, len)),
        1 => any::<usize>().prop_map(Op::Withdraw),
        2 => (0..3_u64, at, 0..8 * MIB).prop_map(|(reader, at, len)| Op::Window(reader, at, len)),
        1 => Just(Op::Fill),
        6 => (any::<usize>(), 1..3 * MIB).prop_map(|(which, len)| Op::Arrive(which, len)),
        1 => any::<usize>().prop_map(Op::Lose),
        1 => (any::<usize>(), 0..4 * MIB).prop_map(|(which, near)| Op::Near(which, near)),
        2 => (any::<usize>(), 0..MIB).prop_map(|(which, len)| Op::Written(which, len)),
    ]
}

fn nth(board: &Board<u8>, which: usize) -> Option<u64> {
    let ids: Vec<u64> = board.claims.keys().copied().collect();
    (!ids.is_empty()).then(|| ids[which % ids.len()])
}

fn written(board: &Board<u8>) -> Vec<(u64, Range<u64>)> {
    let claims = board.claims.iter().filter(|(_, claim)| claim.arrived > claim.at);
    claims.map(|(id, claim)| (*id, claim.at..claim.arrived)).collect()
}

fn check(board: &Board<u8>) {
    let all = claims(board);
    assert!(all.iter().all(|claim| claim.start < claim.end && claim.end <= board.bytes));
    assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start), "{all:?}");
    for claim in &all {
        assert_eq!(board.present.first_gap(claim), Some(claim.clone()));
    }
    for demand in board.demands.values() {
        let Some(gap) = board.present.first_gap(&demand.range) else { continue };
        let is_served = board.is_served(&demand.range);
        assert!(is_served || board.claims.len() >= MAX_CLAIMS, "{gap:?} {all:?}");
        if is_served {
            let (id, claim) = board.claim_of(gap.start).expect("it serves");
            let is_arriving = gap.start < claim.arrived;
            assert!(is_arriving || gap.start - claim.at <= claim.near.max(ALIGN));
            assert!(is_arriving || matches!(board.leave(id), Leave::Until(until) if until > gap.start));
        }
    }
}

proptest! {
    #[test]
    fn no_byte_is_fetched_twice_every_read_is_served_and_flights_end(
        bytes in 30 * MIB..40 * MIB,
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut board: Board<u8> = Board::new(bytes);
        let mut arrived = 0;
        for op in ops {
            match op {
                Op::Read(at, len) => {
                    let at = at.min(bytes - 1);
                    board.add_demand(demand(at..(at + len).min(bytes)));
                }
                Op::Withdraw(which) => {
                    let ids: Vec<u64> = board.demands.keys().copied().collect();
                    if !ids.is_empty() {
                        board.demands.remove(&ids[which % ids.len()]);
                    }
                }
                Op::Window(reader, at, len) => {
                    let at = at.min(bytes);
                    let window = vec![at..(at + len).min(bytes)];
                    board.aheads.insert(reader, Ahead { window, reach: at + 2 * len, origin: 0 });
                }
                Op::Fill => board.fill = Some(0),
                Op::Arrive(which, len) => if let Some(id) = nth(&board, which) {
                    let claim = &board.claims[&id];
                    let range = claim.at..(claim.at + len).min(claim.end);
                    arrived += range.end - range.start;
                    let len = range.end - range.start;
                    prop_assert_eq!(board.settle(id, range), len);
                }
                Op::Lose(which) => if let Some(id) = nth(&board, which) {
                    board.claims.remove(&id);
                }
                Op::Written(which, len) => if let Some(id) = nth(&board, which) {
                    let arrived = board.claims[&id].arrived + len;
                    board.arrive(id, arrived);
                }
                Op::Near(which, near) => if let Some(id) = nth(&board, which) {
                    board.claims.get_mut(&id).expect("there").near = near;
                }
            }
            let written = written(&board);
            board.plan();
            check(&board);
            for (id, range) in written {
                let claim = board.claims.get(&id);
                prop_assert!(claim.is_some_and(|claim| claim.at == range.start && range.end <= claim.end));
            }
            prop_assert_eq!(board.present.bytes(), arrived);
        }
        for (id, range) in written(&board) {
            board.settle(id, range);
            board.plan();
            check(&board);
        }
        // Let every flight go as far as it may: in the end everybody has what they wait for.
        for _ in 0..10_000 {
            board.demands.retain(|_, demand| !board.present.covers(&demand.range));
            let Some((id, until)) = board.claims.keys().find_map(|id| match board.leave(*id) {
                Leave::Until(until) => Some((*id, until)),
                Leave::Pause | Leave::End => None,
            }) else { break };
            let at = board.claims[&id].at;
            prop_assert!(until > at && until <= board.claims[&id].end);
            board.settle(id, at..until);
            board.plan();
            check(&board);
        }
        prop_assert!(board.demands.is_empty(), "{:?}", board.demands);
        if board.fill.is_some() {
            prop_assert!(board.is_complete());
        }
    }
}
