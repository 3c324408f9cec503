//! Members of a swarm that read the same at the same time, and which of them asks the seeds for what.
//!
//! Readers at one place want the same pieces in the same order. If each asked the seeds for all of them, the seeds would
//! send as many copies as there are readers. So each stretch of the torrent has an *owner* among those readers, by a hash that
//! all of them compute alike. A seed is asked for what is ours first. What another owns or has is asked of it only once it is
//! late, later the more readers come before us, and what is merely wanted ahead then from the far end, where its owner comes
//! last. Nothing is agreed with anybody: who does not divide, or is slow, costs a delay and no more.
//!
//! A *companion* is a source that got pieces a moment ago near those that are wanted here. Invariant: without one, what is
//! asked of whom is as if this module were not there.

use std::collections::BTreeMap;

use super::{Has, Picker, Piece, Room, SCAN_LIMIT, SourceId};
use crate::id::PeerId;
use crate::swarm::wants::Urgency;
use crate::time::Moment;

/// Bytes of a stretch that has one owner: as much as one request to a web seed is worth.
const STRETCH_BYTES: u64 = 1 << 20;

/// How far from what it got a companion is taken to read: the longest window of a reader.
const NEAR_BYTES: u64 = 32 << 20;

/// What was got longer ago says nothing about now.
const RECENT: Moment = Moment::from_secs(3);

/// Pieces remembered of each companion, and how many of them must be near: one that fetches pieces at random is none.
const REMEMBERED: usize = 4;
const LEAST_NEAR: usize = 2;

/// Sources remembered; beyond that a swarm is large enough to spare its seeds by itself.
const MAX_COMPANIONS: usize = 32;

/// How long a read waits for a companion before a seed is asked: twice what the seed itself may take (the companion has to
/// have it from there, and we from the companion), within these bounds.
const LEAST_PATIENCE: Moment = Moment::from_millis(200);
const MOST_PATIENCE: Moment = Moment::from_secs(4);

/// How much longer what is wanted ahead waits: its owner may have asked for much before it.
const AHEAD: u32 = 2;

/// So many ask for what a read waits for one after another, the rest together: a read is not to wait for all of them.
const MAX_TURNS: u32 = 3;

/// Pieces of which it is remembered since when they were passed over: two windows of small ones.
const MAX_PASSED: usize = 4096;

/// The names of two members, as each of them knows both.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    own: u64,
    theirs: u64,
}

impl Keys {
    /// Of ours and theirs.
    #[must_use]
    pub fn of(own: PeerId, theirs: PeerId) -> Self {
        Self { own: key(own), theirs: key(theirs) }
    }
}

fn key(id: PeerId) -> u64 {
    // The end is the random part.
    id.as_bytes().iter().fold(0, |key: u64, byte| key.rotate_left(8) ^ u64::from(*byte))
}

/// How much a member is meant to have a stretch (rendezvous hashing; the mixer is splitmix64's).
fn weight(key: u64, stretch: u64) -> u64 {
    let mut mixed = key ^ stretch.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[derive(Debug)]
struct Companion {
    source: SourceId,
    key: u64,
    /// What it got last, newest first.
    got: [Option<(u32, Moment)>; REMEMBERED],
}

impl Companion {
    fn is_recent(&self, now: Moment) -> bool {
        self.got[0].is_some_and(|(_, at)| now.saturating_sub(at) < RECENT)
    }

    fn is_near(&self, piece: u32, reach: u32, now: Moment) -> bool {
        let got = self.got.iter().flatten();
        let near =
            got.filter(|(other, at)| other.abs_diff(piece) <= reach && now.saturating_sub(*at) < RECENT);
        near.count() >= LEAST_NEAR
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Companions {
    own: u64,
    known: Vec<Companion>,
    /// Sources that have everything.
    seeds: u16,
    /// Since when a read waits for a piece that is a companion's.
    passed: BTreeMap<u32, Moment>,
}

impl Companions {
    fn handle_got(&mut self, source: SourceId, keys: Keys, piece: u32, now: Moment) {
        self.own = keys.own;
        let at = match self.known.iter().position(|known| known.source == source) {
            Some(at) => at,
            None if self.known.len() < MAX_COMPANIONS => {
                self.known.push(Companion { source, key: keys.theirs, got: [None; REMEMBERED] });
                self.known.len() - 1
            }
            None => {
                let Some(at) = self.known.iter().position(|known| !known.is_recent(now)) else { return };
                self.known[at] = Companion { source, key: keys.theirs, got: [None; REMEMBERED] };
                at
            }
        };
        let got = &mut self.known[at].got;
        got.rotate_right(1);
        got[0] = Some((piece, now));
    }

    fn are_there(&self, now: Moment) -> bool {
        self.known.iter().any(|known| known.is_recent(now))
    }

    /// How many companions near it are meant to have a piece rather than we: it is ours when there is none.
    fn rank(&self, piece: u32, piece_bytes: u64, now: Moment) -> u32 {
        let stretch = u64::from(piece) / (STRETCH_BYTES / piece_bytes).max(1);
        let reach = u32::try_from(NEAR_BYTES / piece_bytes).unwrap_or(u32::MAX).max(1);
        let own = weight(self.own, stretch);
        let before =
            |known: &&Companion| weight(known.key, stretch) > own && known.is_near(piece, reach, now);
        // At most MAX_COMPANIONS.
        self.known.iter().filter(before).count() as u32
    }

    /// Whether a read has waited long enough for a piece that is not ours.
    fn is_late(&mut self, piece: u32, patience: Moment, now: Moment) -> bool {
        if self.passed.len() >= MAX_PASSED {
            self.passed.retain(|_, since| now.saturating_sub(*since) < MOST_PATIENCE * (AHEAD + 1));
        }
        let since = *self.passed.entry(piece).or_insert(now);
        now.saturating_sub(since) >= patience
    }
}

impl Picker {
    /// A source got a piece just now, which it did not have before.
    pub fn handle_got(&mut self, source: SourceId, keys: Keys, piece: u32, now: Moment) {
        self.companions.handle_got(source, keys, piece, now);
    }

    /// Whether other sources are getting pieces now: then [`Self::set_seeds`] is worth its while.
    pub fn has_companions(&self, now: Moment) -> bool {
        self.companions.are_there(now)
    }

    /// How many sources have everything.
    pub fn set_seeds(&mut self, seeds: usize) {
        self.companions.seeds = u16::try_from(seeds).unwrap_or(u16::MAX);
    }

    /// What is wanted and a source can give, in the order in which it is to be asked for it.
    pub(super) fn wanted_of(&mut self, has: Has<'_>, room: Room, now: Moment) -> Vec<(Urgency, u32)> {
        if matches!(has, Has::All) && self.companions.are_there(now) {
            return self.divided(room, now);
        }
        // Looked at lazily, but collected: starting a piece needs `self`. A pick rarely takes more than a few.
        self.askable(room).filter(|(_, piece)| has.get(*piece)).take(room.for_reads.max(1)).collect()
    }

    /// From when on what is late elsewhere is asked of a source too. One that has everything is spared longer while others
    /// may have it sooner.
    pub(super) fn hedge_after(&self, has: Has<'_>, room: Room, now: Moment) -> Moment {
        let is_spared = matches!(has, Has::All) && self.companions.are_there(now);
        if is_spared { room.hedge_after.max(MOST_PATIENCE) } else { room.hedge_after }
    }

    fn askable(&self, room: Room) -> impl Iterator<Item = (Urgency, u32)> + '_ {
        // Nothing can be started: absent pieces must not hide those under way.
        let is_over = self.in_flight_bytes > self.budget_bytes;
        let is_hopeless =
            move |piece: u32| is_over && self.pieces.get(piece as usize) == Some(&Piece::Absent);
        self.wants
            .open()
            .take(SCAN_LIMIT)
            .take_while(move |(urgency, _)| *urgency == Urgency::Read || room.for_rest > 0)
            .take_while(|(urgency, _)| self.narrow.allows(*urgency))
            .filter(move |(_, piece)| !is_hopeless(*piece))
    }

    fn divided(&mut self, room: Room, now: Moment) -> Vec<(Urgency, u32)> {
        let piece_bytes = u64::from(self.geometry.piece_bytes());
        let patience = room.hedge_after.saturating_mul(2).clamp(LEAST_PATIENCE, MOST_PATIENCE);
        // Who comes next asks first: else all who wait would ask for the same at once.
        let read_patience = |rank: u32| (patience * rank.clamp(1, MAX_TURNS)).min(MOST_PATIENCE);
        let open: Vec<(Urgency, u32)> = self.askable(room).collect();
        let (mut ours, mut anothers, mut had) = (Vec::new(), Vec::new(), Vec::new());
        for (urgency, piece) in open {
            let is_had = self.availability.get(piece as usize).is_some_and(|n| *n > self.companions.seeds);
            // What was begun is brought to its end.
            let is_begun = self.partials.contains_key(&piece);
            let rank = if is_begun { 0 } else { self.companions.rank(piece, piece_bytes, now) };
            if rank == 0 && !is_had {
                ours.push((urgency, piece));
            } else if urgency == Urgency::Read {
                if self.companions.is_late(piece, read_patience(rank), now) {
                    ours.push((urgency, piece));
                }
            } else if self.companions.is_late(piece, patience * AHEAD * rank.max(1), now) {
                if is_had { &mut had } else { &mut anothers }.push((urgency, piece));
            }
        }
        ours.extend(anothers.into_iter().rev());
        ours.extend(had.into_iter().rev());
        ours.truncate(room.for_reads.max(1));
        ours
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a demand is a list of ranges, often of one")]
mod tests;
