//! Which claims are made for what is wanted, from where to where, and which give way.
//!
//! Cutting costs: the claim's request was made to its old end, and what the origin has sent of that by the time the flight
//! stops, all that sockets and the network hold, is sent in vain; with several readers of one cold blob that came to half
//! of it. So claims are shorter than what comes within a moment at the pace so far, or a small part of what is here
//! already: readers of one place wait for the same flight, also if it becomes a little slower, and one that cuts a claim
//! cuts little. For the same reason the last bytes of a claim are fetched also when nobody wants them any more.
//!
//! Invariant: a new claim has only bytes that are neither present nor claimed, and a claim that is cut keeps what is being
//! written of it.

use std::ops::Range;

use super::{ALIGN, Ahead, BLOCK_BYTES, Board, Claim, Class, SMALL_BYTES};

/// What the first claim of a blob asks for at most, while its origin's pace is not known: little enough to be fetched to
/// its end whatever happens.
pub(super) const FIRST_BYTES: u64 = 2 << 20;

/// Tenths of what comes within a moment that a claim asks for: so much slower its flight may become without being cut.
const TENTHS_OF_NEAR: u64 = 4;

/// Claims also grow with what is here: to this part of it, and no further than this.
const PART_OF_PRESENT: u64 = 8;
pub(super) const MAX_CLAIM_BYTES: u64 = 256 << 20;

/// Claims at once of one blob. Those for read-ahead and fills leave places for reads.
pub(super) const MAX_CLAIMS: usize = 16;
const MAX_AHEAD_CLAIMS: usize = 6;
const MAX_FILL_CLAIMS: usize = 2;

/// Bytes that count as about to come in a claim whose flight has not asked for them yet: cutting it costs nothing.
const NEAR_BYTES: u64 = BLOCK_BYTES;

/// Read-ahead begins another request when so much is missing of its window, or half of it.
const AHEAD_STEP_BYTES: u64 = 4 << 20;

impl<O: Clone> Board<O> {
    /// Makes claims for what is wanted and not claimed; returns the new ones.
    pub(in crate::hf::blobs) fn plan(&mut self) -> Vec<u64> {
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
    pub(super) fn longest_claim(&self) -> u64 {
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

    /// Claims of the fill, whoever waits for them now.
    fn fills(&self) -> usize {
        self.claims.values().filter(|claim| claim.made_for == Class::Fill).count()
    }

    fn count(&self, class: Class) -> usize {
        self.claims.values().filter(|claim| claim.class == class).count()
    }
}
