//! Who wants what of one blob, and which parts of it are being fetched: what is fetched next, from where to where.
//!
//! Pure: told of everything, and asks nobody. `plan` makes claims; how far each goes is said here. A *claim* is a range
//! that one flight fetches from its start on, so that no byte is fetched twice. Wanted are, in this order: what reads wait
//! for, what readers will read next, and, when somebody asked for that, everything. A read whose bytes are about to come
//! waits for them; one whose bytes lie far ahead in a claim cuts it there and gets a claim of its own, so that it is
//! answered at once.
//!
//! Invariants: claims are not empty, lie inside the blob, and overlap neither each other nor what is present; what is
//! being written of one stays in it. As long as there is a place for a claim, the first missing byte of every read is in
//! one, and near its start.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::BLOCK_BYTES;
use super::ranges::RangeSet;

mod plan;

/// What is left of a claim at most where it is fetched though nobody wants it: it is on its way.
pub(super) const REST_BYTES: u64 = 8 << 20;

/// What comes within a moment, at most, however fast the origin is: the disk has its pace too.
pub(super) const MOST_NEAR_BYTES: u64 = 160 << 20;

/// A claim begins at a multiple of this where it can: the neighbours of what is read are mostly read too.
const ALIGN: u64 = 16 * 1024;

/// Bytes that nobody wants are fetched for a read behind them if they are at most so many.
const GAP_BYTES: u64 = 8 << 20;

/// A blob of so few bytes is fetched to the end of what was asked for, also when nobody waits any more.
const SMALL_BYTES: u64 = 8 << 20;

/// How urgent a claim is, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Demand,
    Ahead,
    Fill,
}

/// A range that a read waits for.
#[derive(Debug, Clone)]
pub(super) struct Demand<O> {
    pub(super) range: Range<u64>,
    pub(super) reader: u64,
    pub(super) origin: O,
}

/// What a reader will read.
#[derive(Debug, Clone)]
pub(super) struct Ahead<O> {
    /// What is worth fetching now, the most urgent first.
    pub(super) window: Vec<Range<u64>>,
    /// How far a request for the first of them may go: what is behind the window is fetched as the window moves on.
    pub(super) reach: u64,
    pub(super) origin: O,
}

/// A range that a flight fetches.
#[derive(Debug, Clone)]
pub(super) struct Claim<O> {
    start: u64,
    /// What is here of it ends here.
    pub(super) at: u64,
    /// What comes next; up to here it is being written.
    arrived: u64,
    pub(super) end: u64,
    pub(super) class: Class,
    /// What it was made for.
    made_for: Class,
    pub(super) origin: O,
    /// What comes within a moment.
    pub(super) near: u64,
}

/// How far a flight may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    Until(u64),
    /// A reader will want more, once it has read what is there.
    Pause,
    /// Nobody wants more.
    End,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Board<O> {
    bytes: u64,
    pub(super) present: RangeSet,
    pub(super) claims: BTreeMap<u64, Claim<O>>,
    pub(super) demands: BTreeMap<u64, Demand<O>>,
    pub(super) aheads: HashMap<u64, Ahead<O>>,
    pub(super) fill: Option<O>,
    /// What a flight brings within a moment, as far as is known.
    pub(super) pace: Option<u64>,
    next: u64,
}

impl<O: Clone> Board<O> {
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            bytes,
            present: RangeSet::default(),
            claims: BTreeMap::new(),
            demands: BTreeMap::new(),
            aheads: HashMap::new(),
            fill: None,
            pace: None,
            next: 0,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.present.bytes() == self.bytes
    }

    /// Whether anybody wants or fetches anything.
    pub(super) fn is_busy(&self) -> bool {
        !(self.claims.is_empty() && self.demands.is_empty() && self.fill.is_none())
    }

    /// A read waits for a range. Returns its number.
    pub(super) fn add_demand(&mut self, demand: Demand<O>) -> u64 {
        let id = self.take_number();
        self.demands.insert(id, demand);
        id
    }

    /// The claim that has a byte.
    fn claim_of(&self, at: u64) -> Option<(u64, &Claim<O>)> {
        let mut claims = self.claims.iter();
        claims.find(|(_, claim)| claim.at <= at && at < claim.end).map(|(id, claim)| (*id, claim))
    }

    /// Whether a claim's flight brings a byte of it within a moment, and goes there.
    fn comes_soon(&self, claim: &Claim<O>, at: u64) -> bool {
        at < claim.arrived || (at - claim.at <= near_of(claim) && at < self.until(claim))
    }

    /// Whether a read needs no other claim for now: what it misses first is about to come.
    pub(super) fn is_served(&self, range: &Range<u64>) -> bool {
        let Some(gap) = self.present.first_gap(range) else { return true };
        let claim = self.claim_of(gap.start);
        claim.is_some_and(|(_, claim)| claim.class == Class::Demand && self.comes_soon(claim, gap.start))
    }

    /// How far the bytes of a claim came that are here or are being written.
    pub(super) fn arrive(&mut self, claim: u64, arrived: u64) {
        if let Some(claim) = self.claims.get_mut(&claim) {
            claim.arrived = arrived.clamp(claim.at, claim.end);
        }
    }

    /// How far the flight of a claim may go now.
    pub(super) fn leave(&self, claim: u64) -> Leave {
        let Some(claim) = self.claims.get(&claim) else { return Leave::End };
        let until = self.until(claim);
        if until > claim.at {
            return Leave::Until(until);
        }
        if claim.end - claim.at <= claim.near.min(REST_BYTES) {
            // It is on its way.
            return Leave::Until(claim.end);
        }
        let will_go_on = |ahead: &Ahead<O>| {
            ahead.reach > claim.at
                && ahead.window.iter().any(|window| window.start <= claim.at && claim.at <= window.end)
        };
        if self.aheads.values().any(will_go_on) {
            return Leave::Pause;
        }
        match claim.at.checked_next_multiple_of(BLOCK_BYTES) {
            Some(block) if block > claim.at => Leave::Until(block.min(claim.end)),
            _ => Leave::End,
        }
    }

    /// How far what is wanted of a claim goes.
    fn until(&self, claim: &Claim<O>) -> u64 {
        if self.fill.is_some() || self.bytes <= SMALL_BYTES {
            return claim.end;
        }
        let mut until = claim.at;
        let gap = near_of(claim).min(GAP_BYTES);
        let demands = self.demands.values().map(|demand| &demand.range);
        let windows = self.aheads.values().flat_map(|ahead| &ahead.window);
        let wanted: Vec<&Range<u64>> = demands.chain(windows).filter(|range| range.end > claim.at).collect();
        while let Some(end) = wanted
            .iter()
            .filter(|range| range.start <= until.saturating_add(gap) && range.end > until)
            .map(|range| range.end)
            .max()
        {
            until = end;
        }
        until.min(claim.end)
    }

    /// Bytes of a claim arrived and are stored; returns how many are new. The claim is gone when it has them all.
    pub(super) fn settle(&mut self, claim: u64, range: Range<u64>) -> u64 {
        if let Some(found) = self.claims.get_mut(&claim) {
            found.at = found.at.max(range.end);
            found.arrived = found.arrived.max(found.at);
            if found.at >= found.end {
                self.claims.remove(&claim);
            }
        }
        self.present.insert(range)
    }

    /// Forgets all that is here and on its way.
    pub(super) fn clear(&mut self) {
        self.present = RangeSet::default();
        self.claims.clear();
    }

    /// The reads that wait for what a claim was to fetch.
    pub(super) fn waiting_for(&self, claim: &Claim<O>) -> Vec<u64> {
        let waits = |demand: &Demand<O>| {
            let gap = self.present.first_gap(&demand.range);
            gap.is_some_and(|gap| claim.at < gap.end && gap.start < claim.end)
        };
        self.demands.iter().filter(|(_, demand)| waits(demand)).map(|(id, _)| *id).collect()
    }

    /// Forgets what readers would read next of a claim's range: it cannot be had now.
    pub(super) fn forget_aheads(&mut self, claim: &Claim<O>) {
        self.aheads.retain(|_, ahead| {
            !ahead.window.iter().any(|window| window.start < claim.end && claim.at < window.end)
        });
    }

    fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// What of a claim counts as about to come: also while its flight is late what it brings first, which may begin a little
/// before the read that it was made for. Who asked anew for that would wait as long.
fn near_of<O>(claim: &Claim<O>) -> u64 {
    claim.near.max(ALIGN)
}

#[cfg(test)]
mod tests;
