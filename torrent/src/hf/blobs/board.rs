//! Who wants what of one blob, and which parts of it are being fetched: what is fetched next, from where to where.
//!
//! Pure: told of everything, and asks nobody. A *claim* is a range that one flight fetches from its start on, so that no
//! byte is fetched twice. Wanted are, in this order: what reads wait for, what readers will read next, and, when somebody
//! asked for that, everything. A read whose bytes are about to come waits for them; one whose bytes lie far ahead in a
//! claim cuts it there and gets a claim of its own, so that it is answered at once.
//!
//! Cutting costs: the claim's request was made to its old end, and what the origin has sent of that by the time the flight
//! stops, all that sockets and the network hold, is sent in vain; with several readers of one cold blob that came to half
//! of it. So claims are shorter than what comes within a moment at the pace so far, or a small part of what is here
//! already: readers of one place wait for the same flight, also if it becomes a little slower, and one that cuts a claim
//! cuts little. For the same reason the last bytes of a claim are fetched also when nobody wants them any more.
//!
//! Invariants: claims are not empty, lie inside the blob, and overlap neither each other nor what is present; what is
//! being written of one stays in it. As long as there is a place for a claim, the first missing byte of every read is in
//! one, and near its start.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::BLOCK_BYTES;
use super::ranges::RangeSet;

/// What the first claim of a blob asks for at most, while its origin's pace is not known: little enough to be fetched to
/// its end whatever happens.
const FIRST_BYTES: u64 = 2 << 20;

/// What is left of a claim at most where it is fetched though nobody wants it: it is on its way.
pub(super) const REST_BYTES: u64 = 8 << 20;

/// What comes within a moment, at most, however fast the origin is: the disk has its pace too.
pub(super) const MOST_NEAR_BYTES: u64 = 160 << 20;

/// Tenths of what comes within a moment that a claim asks for: so much slower its flight may become without being cut.
const TENTHS_OF_NEAR: u64 = 4;

/// Claims also grow with what is here: to this part of it, and no further than this.
const PART_OF_PRESENT: u64 = 8;
const MAX_CLAIM_BYTES: u64 = 256 << 20;

/// Claims at once of one blob. Those for read-ahead and fills leave places for reads.
const MAX_CLAIMS: usize = 16;
const MAX_AHEAD_CLAIMS: usize = 6;
const MAX_FILL_CLAIMS: usize = 2;

/// A claim begins at a multiple of this where it can: the neighbours of what is read are mostly read too.
const ALIGN: u64 = 16 * 1024;

/// Bytes that count as about to come in a claim whose flight has not asked for them yet: cutting it costs nothing.
const NEAR_BYTES: u64 = BLOCK_BYTES;

/// Bytes that nobody wants are fetched for a read behind them if they are at most so many.
const GAP_BYTES: u64 = 8 << 20;

/// Read-ahead begins another request when so much is missing of its window, or half of it.
const AHEAD_STEP_BYTES: u64 = 4 << 20;

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

    /// Makes claims for what is wanted and not claimed; returns the new ones.
    pub(super) fn plan(&mut self) -> Vec<u64> {
        let mut made = Vec::new();
        let wanted: Vec<(Range<u64>, u64, O)> =
            self.demands.values().map(|d| (d.range.clone(), d.reader, d.origin.clone())).collect();
        for (range, reader, origin) in wanted {
            self.plan_demand(range, reader, &origin, &mut made);
        }
        let mut aheads: Vec<(u64, Ahead<O>)> =
            self.aheads.iter().map(|(reader, ahead)| (*reader, ahead.clone())).collect();
        aheads.sort_unstable_by_key(|(reader, _)| *reader);
        for (_, ahead) in aheads {
            self.plan_ahead(&ahead, &mut made);
        }
        if let Some(origin) = self.fill.clone() {
            // How much one is to ask for is not known at first.
            let most = if self.pace.is_some() { MAX_FILL_CLAIMS } else { 1 };
            while self.fills() < most && self.claims.len() < MAX_CLAIMS {
                let Some(at) = self.first_unclaimed(0..self.bytes) else { break };
                let end = at.saturating_add(self.longest_claim());
                made.push(self.claim(at, end, Class::Fill, &origin));
            }
        }
        made
    }

    /// What a claim asks for at most.
    fn longest_claim(&self) -> u64 {
        if self.bytes <= SMALL_BYTES {
            return self.bytes;
        }
        let grown = self.present.bytes() / PART_OF_PRESENT;
        let paced = self.pace.map_or(FIRST_BYTES, |near| near / 10 * TENTHS_OF_NEAR);
        grown.max(paced).clamp(BLOCK_BYTES, MAX_CLAIM_BYTES)
    }

    fn plan_demand(&mut self, range: Range<u64>, reader: u64, origin: &O, made: &mut Vec<u64>) {
        let mut cursor = range.start;
        while let Some(gap) = self.present.first_gap(&(cursor..range.end)) {
            let mut at = gap.start;
            while at < gap.end {
                let has_place = self.claims.len() < MAX_CLAIMS || self.idlest().is_some();
                let mut end = range.end.max(at.saturating_add(BLOCK_BYTES));
                if let Some((id, claim)) = self.claim_of(at) {
                    let is_served = self.comes_soon(claim, at) || !has_place;
                    let Some(claim) = self.claims.get_mut(&id) else { return };
                    if is_served {
                        claim.class = Class::Demand;
                        at = claim.end;
                        continue;
                    }
                    if self.fill.is_some() {
                        // All of it is wanted: the rest takes no third request.
                        end = end.max(claim.end);
                    }
                    let aligned = at / ALIGN * ALIGN;
                    claim.end = if aligned > claim.at && aligned >= claim.arrived { aligned } else { at };
                }
                if self.claims.len() >= MAX_CLAIMS {
                    let Some(idlest) = self.idlest() else { return };
                    if !self.take_place(idlest) {
                        return;
                    }
                }
                if let Some(ahead) = self.aheads.get(&reader)
                    && ahead.window.first().is_some_and(|window| window.start <= end && at < window.end)
                {
                    end = end.max(ahead.reach);
                }
                // What one read waits for takes one request.
                let end = end.min(range.end.max(at.saturating_add(self.longest_claim())));
                let id = self.claim(at, end, Class::Demand, origin);
                made.push(id);
                at = self.claims.get(&id).map_or(gap.end, |claim| claim.end);
            }
            cursor = gap.end;
        }
    }

    fn plan_ahead(&mut self, ahead: &Ahead<O>, made: &mut Vec<u64>) {
        for (number, window) in ahead.window.iter().enumerate() {
            let is_full = self.claims.len() >= MAX_CLAIMS
                || self.count(Class::Ahead) >= MAX_AHEAD_CLAIMS
                || self.claims.len() + 1 >= MAX_CLAIMS;
            if is_full {
                return;
            }
            let Some(at) = self.first_unclaimed(window.clone()) else { continue };
            if self.fill.is_some() && self.first_unclaimed(0..self.bytes) == Some(at) {
                // A fill gets there by itself.
                continue;
            }
            let has_just_begun =
                |claim: &Claim<O>| claim.end == at && claim.arrived - claim.start < claim.end - claim.arrived;
            if self.claims.values().any(has_just_begun) {
                // How much the next one is to ask for is better known later.
                continue;
            }
            let step = ((window.end - window.start) / 2).min(AHEAD_STEP_BYTES);
            let reach = if number == 0 { ahead.reach.max(window.end) } else { window.end };
            if window.end - at < step && window.end < reach.min(self.bytes) {
                continue;
            }
            let reach = reach.min(at.saturating_add(self.longest_claim()));
            made.push(self.claim(at, reach, Class::Ahead, &ahead.origin));
        }
    }

    /// Claims from `at`, which nobody has, as far as nobody has it and at most to `end`.
    fn claim(&mut self, at: u64, end: u64, class: Class, origin: &O) -> u64 {
        let aligned = at / ALIGN * ALIGN;
        let is_free = self.present.next_from(aligned).is_none_or(|next| next > at)
            && !self.claims.values().any(|claim| claim.at <= at && aligned < claim.end);
        let start = if is_free { aligned } else { at };
        let next_claim = self.claims.values().map(|claim| claim.at).filter(|other| *other > at).min();
        let end = end
            .min(self.bytes)
            .min(start.saturating_add(MAX_CLAIM_BYTES))
            .min(self.present.next_from(at).unwrap_or(u64::MAX))
            .min(next_claim.unwrap_or(u64::MAX));
        let id = self.take_number();
        let (origin, made_for) = (origin.clone(), class);
        self.claims.insert(
            id,
            Claim { start, at: start, arrived: start, end, class, made_for, origin, near: NEAR_BYTES },
        );
        id
    }

    /// The claim that a read may best have the place of: one that no read waits for.
    fn idlest(&self) -> Option<u64> {
        let idle = self.claims.iter().filter(|(_, claim)| self.waiting_for(claim).is_empty());
        idle.max_by_key(|(id, claim)| (claim.class, **id)).map(|(id, _)| *id)
    }

    /// Ends a claim, and says whether its place is free. While some of it is being written that stays its own, or another
    /// flight would write the same bytes, and who is first could be overwritten after it was hashed.
    fn take_place(&mut self, claim: u64) -> bool {
        if let Some(found) = self.claims.get_mut(&claim)
            && found.arrived > found.at
        {
            found.end = found.arrived;
            return false;
        }
        self.claims.remove(&claim);
        true
    }

    /// The first byte of a range that is neither present nor claimed.
    fn first_unclaimed(&self, range: Range<u64>) -> Option<u64> {
        let mut at = range.start;
        loop {
            at = self.present.end_of_run(at);
            if at >= range.end {
                return None;
            }
            match self.claims.values().find(|claim| claim.at <= at && at < claim.end) {
                Some(claim) => at = claim.end,
                None => return Some(at),
            }
        }
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

    /// Claims of the fill, whoever waits for them now.
    fn fills(&self) -> usize {
        self.claims.values().filter(|claim| claim.made_for == Class::Fill).count()
    }

    fn count(&self, class: Class) -> usize {
        self.claims.values().filter(|claim| claim.class == class).count()
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
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use proptest::prelude::*;

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
            board
                .aheads
                .insert(reader, Ahead { window: vec![at..at + MIB], reach: at + (1 << 30), origin: 0 });
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
}
