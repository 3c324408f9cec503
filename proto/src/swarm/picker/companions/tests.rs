//! Readers beside each other: what they cost the seed together, and that one alone is served as ever.

use std::collections::VecDeque;
use std::sync::Arc;

use super::*;
use crate::bitfield::Bitfield;
use crate::geometry::{Alignment, BLOCK_BYTES, FileLayout, Geometry};
use crate::swarm::picker::{BlockKey, Receipt};
use crate::swarm::wants::DemandId;

const PIECES: u32 = 512;
const BLOCKS: u32 = 8;
const SEED: SourceId = SourceId(0);
/// What a reader is ahead by, in pieces: 16 MiB.
const WINDOW: u32 = 128;
const TICK: Moment = Moment::from_millis(10);
/// Blocks that the seed gives each member in a tick.
const SEED_RATE: usize = 2;
/// Blocks that two members give each other in a tick.
const MEMBER_RATE: usize = 32;

fn geometry() -> Arc<Geometry> {
    let bytes = u64::from(PIECES * BLOCKS) * u64::from(BLOCK_BYTES);
    let files = [FileLayout { bytes, alignment: Alignment::Packed, is_pad: false }];
    Arc::new(Geometry::new(BLOCKS * BLOCK_BYTES, &files).expect("a valid geometry"))
}

fn id(number: u32) -> PeerId {
    let mut id = *b"-WT0001-............";
    id[12..16].copy_from_slice(&number.wrapping_mul(0x9E37_79B9).to_be_bytes());
    PeerId::new(id)
}

struct Member {
    number: u32,
    picker: Picker,
    has: Bitfield,
    queue: VecDeque<BlockKey>,
    from_seed: usize,
    begins_at: Moment,
}

impl Member {
    fn new(number: u32, begins_at: Moment) -> Self {
        let picker = Picker::new(geometry(), &Bitfield::new(PIECES), u64::MAX);
        Self { number, picker, has: Bitfield::new(PIECES), queue: VecDeque::new(), from_seed: 0, begins_at }
    }

    fn read_on(&mut self) {
        if let Some(front) = (0..PIECES).find(|piece| !self.has.get(*piece)) {
            let ahead = front..(front + WINDOW).min(PIECES);
            self.picker.set_demand(DemandId(1), Urgency::ReadAhead, &[ahead]);
            self.picker.set_demand(DemandId(2), Urgency::Read, &[front..front + 1]);
        }
    }

    fn pick(&mut self, source: SourceId, has: Has<'_>, most: usize, now: Moment) -> Vec<BlockKey> {
        let room = Room { for_reads: most, for_rest: most, hedge_after: Moment::from_millis(200) };
        let mut picks = Vec::new();
        self.picker.pick(source, has, room, now, &mut || 1, &mut picks);
        picks.into_iter().map(|pick| pick.key).collect()
    }

    /// Returns the piece if it is whole now.
    fn take(&mut self, source: SourceId, key: BlockKey, now: Moment) -> Option<u32> {
        match self.picker.handle_block(source, key, now) {
            Receipt::Accepted { is_piece_complete: true, .. } => {
                self.picker.handle_verified(key.piece);
                self.has.set(key.piece.get());
                Some(key.piece.get())
            }
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Division {
    On,
    Off,
}

/// All members read everything; returns copies that the seed gave, and when the last one was done.
fn run(mut members: Vec<Member>, division: Division, queue: usize) -> (f64, Moment) {
    for member in &mut members {
        member.picker.add_availability(0..PIECES);
        member.picker.set_seeds(1);
    }
    let mut now = Moment::ZERO;
    while members.iter().any(|member| !member.has.is_full()) {
        now += TICK;
        assert!(now < Moment::from_secs(600), "it does not end");
        let mut got: Vec<(u32, u32)> = Vec::new();
        for at in 0..members.len() {
            if now < members[at].begins_at {
                continue;
            }
            members[at].read_on();
            for other in 0..members.len() {
                let source = SourceId(1 + other as u32);
                if other != at {
                    let theirs = members[other].has.clone();
                    for key in members[at].pick(source, Has::Some(&theirs), MEMBER_RATE, now) {
                        got.extend(members[at].take(source, key, now).map(|piece| (at as u32, piece)));
                    }
                }
            }
            let member = &mut members[at];
            let asked = member.pick(SEED, Has::All, queue - member.queue.len(), now);
            member.queue.extend(asked);
            for key in member.queue.drain(..SEED_RATE.min(member.queue.len())).collect::<Vec<_>>() {
                member.from_seed += 1;
                got.extend(member.take(SEED, key, now).map(|piece| (at as u32, piece)));
            }
        }
        for (at, piece) in got {
            let from = members[at as usize].number;
            for member in members.iter_mut().filter(|member| member.number != from) {
                member.picker.add_availability(std::iter::once(piece));
                if division == Division::On {
                    let keys = Keys::of(id(member.number), id(from));
                    member.picker.handle_got(SourceId(1 + at), keys, piece, now);
                }
            }
        }
    }
    let given: usize = members.iter().map(|member| member.from_seed).sum();
    (given as f64 / f64::from(PIECES * BLOCKS), now)
}

fn members(begin_ms: &[u64]) -> Vec<Member> {
    (1..).zip(begin_ms).map(|(number, ms)| Member::new(number, Moment::from_millis(*ms))).collect()
}

#[test]
fn readers_at_the_same_place_take_little_more_than_one_copy_from_a_seed() {
    // What may wait at the seed is what it gives in 80 ms, in 400 ms.
    for (begin_ms, queue) in [
        (&[0, 0, 0][..], 16),
        (&[0, 700, 1500], 16),
        (&[0, 0, 0, 0, 0, 0], 16),
        (&[0, 0, 0], 80),
        (&[0, 300, 900], 80),
    ] {
        let (each_for_itself, slow) = run(members(begin_ms), Division::Off, queue);
        let (divided, fast) = run(members(begin_ms), Division::On, queue);
        assert!(divided < 1.35, "{begin_ms:?}: {divided} copies; each for itself: {each_for_itself}");
        assert!(divided < each_for_itself && fast <= slow, "{begin_ms:?}: {fast:?} and {slow:?}");
    }
}

#[test]
fn a_reader_alone_is_given_everything_in_order() {
    let (copies, _) = run(members(&[0]), Division::On, 16);
    assert!((copies - 1.0).abs() < f64::EPSILON);
    let mut alone = Member::new(1, Moment::ZERO);
    alone.picker.add_availability(0..PIECES);
    alone.read_on();
    let picks = alone.pick(SEED, Has::All, 20, TICK);
    let order: Vec<u32> = picks.iter().map(|key| key.piece.get() * BLOCKS + key.block).collect();
    assert_eq!(order, (0..20).collect::<Vec<_>>());
}

#[test]
fn what_a_silent_companion_owns_is_asked_of_the_seed_soon_all_the_same() {
    let mut member = Member::new(1, Moment::ZERO);
    member.picker.add_availability(0..PIECES);
    member.picker.set_seeds(1);
    let mut now = Moment::from_secs(1);
    // Two others that get things near and then never give any.
    for piece in 100..110 {
        for other in [2, 3] {
            member.picker.add_availability(std::iter::once(piece));
            member.picker.handle_got(SourceId(other), Keys::of(id(1), id(other)), piece, now);
        }
    }
    for front in 0..100 {
        member.picker.set_demand(DemandId(2), Urgency::Read, &[front..front + 1]);
        let began = now;
        let mut left = BLOCKS;
        while left > 0 {
            for key in member.pick(SEED, Has::All, 16, now) {
                left -= 1;
                let _whole = member.take(SEED, key, now);
            }
            now += TICK;
            assert!(now - began < Moment::from_secs(2), "piece {front} is not asked for");
        }
    }
}
