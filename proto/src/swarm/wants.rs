//! Which pieces are wanted, by whom and how urgently.
//!
//! A *demand* is a set of pieces with one [`Urgency`], named by a [`DemandId`]: one stalled read, the read-ahead
//! of one open file, a pin. Several demands may want one piece; the most urgent one counts. Within one urgency the
//! piece that was wanted first comes first, so that parallel readers share the sources evenly and a window that
//! slides forward keeps its order without being re-ranked.
//!
//! Invariant: a piece is in `order` exactly if it is *open* (wanted, and some block of it may still be asked for),
//! under the key its most urgent want gives it; it is in `reads` exactly if that want is a `read()`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use smallvec::SmallVec;

/// Names one demand; chosen by the caller, who never reuses it while it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DemandId(pub u64);

/// How soon a piece is needed. The order of the variants is the order in which blocks are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Urgency {
    /// A `read()` is waiting.
    Read,
    /// A reader is expected to want it soon.
    ReadAhead,
    /// Asked for by a person (pin, prefetch).
    Prefetch,
    /// The rest of a piece of which some blocks were read.
    Rest,
}

type Rank = (Urgency, u64);

/// A demand: how urgent it is, and the pieces it wants.
type Demand = (Urgency, SmallVec<[Range<u32>; 2]>);

#[derive(Debug, Default)]
struct PieceWants {
    by: SmallVec<[(DemandId, Rank); 2]>,
    /// The key under which the piece stands in `order`, while it is open.
    listed: Option<Rank>,
}

impl PieceWants {
    fn best(&self) -> Option<Rank> {
        self.by.iter().map(|(_, rank)| *rank).min()
    }
}

/// The table of demands; see the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Wants {
    demands: HashMap<DemandId, Demand>,
    pieces: BTreeMap<u32, PieceWants>,
    order: BTreeSet<(Rank, u32)>,
    /// Pieces that a `read()` waits for: looked at for every block that comes, when the rest may be thousands.
    reads: BTreeSet<u32>,
    next_rank: u64,
}

/// What is in `of` and not in `without`. A window of thousands of pieces that slides by one costs two steps so.
fn difference(of: &[Range<u32>], without: &[Range<u32>]) -> SmallVec<[Range<u32>; 4]> {
    let mut left: SmallVec<[Range<u32>; 4]> = of.iter().cloned().collect();
    for gone in without {
        let mut i = 0;
        while i < left.len() {
            let range = left[i].clone();
            if gone.start < range.end && gone.end > range.start {
                left[i] = range.start..gone.start.max(range.start);
                if gone.end < range.end {
                    // In its place: the first range is the most urgent.
                    left.insert(i + 1, gone.end..range.end);
                    i += 1;
                }
            }
            i += 1;
        }
        left.retain(|range| range.start < range.end);
    }
    left
}

impl Wants {
    /// Replaces what `id` wants. `is_open` says of a piece newly wanted whether some block of it may be asked for;
    /// `is_absent` whether it is still missing at all (a present piece is never wanted).
    pub(super) fn set(
        &mut self,
        id: DemandId,
        urgency: Urgency,
        ranges: &[Range<u32>],
        mut is_absent: impl FnMut(u32) -> bool,
        mut is_open: impl FnMut(u32) -> bool,
    ) {
        let old = self.demands.remove(&id);
        let kept = old.as_ref().filter(|(old_urgency, _)| *old_urgency == urgency);
        let kept_ranges = kept.map_or(&[][..], |(_, old_ranges)| old_ranges);
        if let Some((_, old_ranges)) = &old {
            let stays = if kept.is_some() { ranges } else { &[] };
            for piece in difference(old_ranges, stays).into_iter().flatten() {
                self.unwant(id, piece);
            }
        }
        for piece in difference(ranges, kept_ranges).into_iter().flatten() {
            if !is_absent(piece) {
                continue;
            }
            let wants = self.pieces.entry(piece).or_default();
            if wants.by.iter().any(|(by, _)| *by == id) {
                continue;
            }
            wants.by.push((id, (urgency, self.next_rank)));
            self.next_rank += 1;
            self.relist(piece, is_open(piece));
        }
        if !ranges.is_empty() {
            self.demands.insert(id, (urgency, ranges.iter().cloned().collect()));
        }
    }

    /// Withdraws a demand.
    pub(super) fn clear(&mut self, id: DemandId) {
        if let Some((_, ranges)) = self.demands.remove(&id) {
            for piece in ranges.into_iter().flatten() {
                self.unwant(id, piece);
            }
        }
    }

    fn unwant(&mut self, id: DemandId, piece: u32) {
        let Some(wants) = self.pieces.get_mut(&piece) else { return };
        wants.by.retain(|(by, _)| *by != id);
        let was_open = wants.listed.is_some();
        self.relist(piece, was_open);
    }

    /// Brings `order` in line with the piece's wants; forgets a piece nobody wants.
    fn relist(&mut self, piece: u32, is_open: bool) {
        let Some(wants) = self.pieces.get_mut(&piece) else { return };
        let best = wants.best();
        if matches!(best, Some((Urgency::Read, _))) {
            self.reads.insert(piece);
        } else {
            self.reads.remove(&piece);
        }
        let target = if is_open { best } else { None };
        if wants.listed != target {
            if let Some(rank) = wants.listed {
                self.order.remove(&(rank, piece));
            }
            if let Some(rank) = target {
                self.order.insert((rank, piece));
            }
            wants.listed = target;
        }
        if wants.by.is_empty() {
            self.pieces.remove(&piece);
        }
    }

    /// Some block of the piece may be asked for (again), or none may.
    pub(super) fn set_open(&mut self, piece: u32, is_open: bool) {
        self.relist(piece, is_open);
    }

    /// The piece is present: nobody wants it any more.
    pub(super) fn satisfied(&mut self, piece: u32) {
        self.reads.remove(&piece);
        if let Some(wants) = self.pieces.remove(&piece)
            && let Some(rank) = wants.listed
        {
            self.order.remove(&(rank, piece));
        }
    }

    /// The most urgent want of a piece.
    pub(super) fn urgency(&self, piece: u32) -> Option<Urgency> {
        self.pieces.get(&piece).and_then(PieceWants::best).map(|(urgency, _)| urgency)
    }

    /// How many waiting reads want a piece.
    pub(super) fn reads_of(&self, piece: u32) -> usize {
        let is_read = |(_, (urgency, _)): &&(DemandId, Rank)| *urgency == Urgency::Read;
        self.pieces.get(&piece).map_or(0, |wants| wants.by.iter().filter(is_read).count())
    }

    /// The most urgent want of a piece that is no waiting read.
    pub(super) fn besides_reads(&self, piece: u32) -> Option<Urgency> {
        let wants = self.pieces.get(&piece)?;
        wants.by.iter().map(|(_, (urgency, _))| *urgency).filter(|urgency| *urgency != Urgency::Read).min()
    }

    /// Open pieces, most urgent first.
    pub(super) fn open(&self) -> impl Iterator<Item = (Urgency, u32)> + '_ {
        self.order.iter().map(|((urgency, _), piece)| (*urgency, *piece))
    }

    /// All pieces that a `read()` waits for, lowest number first.
    pub(super) fn reads(&self) -> impl Iterator<Item = u32> + '_ {
        self.reads.iter().copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    #[cfg(test)]
    pub(super) fn assert_consistent(&self) {
        for (piece, wants) in &self.pieces {
            assert!(!wants.by.is_empty());
            if let Some(rank) = wants.listed {
                assert_eq!(Some(rank), wants.best());
                assert!(self.order.contains(&(rank, *piece)));
            }
        }
        let listed = self.pieces.values().filter(|w| w.listed.is_some()).count();
        assert_eq!(listed, self.order.len());
        let is_read = |wants: &PieceWants| matches!(wants.best(), Some((Urgency::Read, _)));
        let reads = self.pieces.iter().filter(|(_, wants)| is_read(wants)).map(|(piece, _)| *piece);
        assert!(reads.eq(self.reads.iter().copied()));
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a demand is a list of ranges, often of one")]
mod tests {
    use super::*;

    fn order(wants: &Wants) -> Vec<u32> {
        wants.open().map(|(_, piece)| piece).collect()
    }

    #[test]
    fn the_most_urgent_want_of_a_piece_counts() {
        let mut wants = Wants::default();
        wants.set(DemandId(1), Urgency::ReadAhead, &[0..4], |_| true, |_| true);
        wants.set(DemandId(2), Urgency::Read, &[2..3], |_| true, |_| true);
        assert_eq!(order(&wants), [2, 0, 1, 3]);
        wants.clear(DemandId(2));
        assert_eq!(order(&wants), [0, 1, 2, 3]);
        wants.assert_consistent();
    }

    #[test]
    fn a_sliding_window_keeps_the_order_of_what_stays() {
        let mut wants = Wants::default();
        wants.set(DemandId(1), Urgency::ReadAhead, &[0..3], |_| true, |_| true);
        wants.set(DemandId(2), Urgency::ReadAhead, &[10..12], |_| true, |_| true);
        wants.set(DemandId(1), Urgency::ReadAhead, &[1..5], |_| true, |_| true);
        assert_eq!(order(&wants), [1, 2, 10, 11, 3, 4]);
        wants.set(DemandId(1), Urgency::ReadAhead, &[], |_| true, |_| true);
        assert_eq!(order(&wants), [10, 11]);
        wants.assert_consistent();
    }

    #[test]
    fn the_difference_of_ranges_is_what_only_the_first_have() {
        let only = |of: &[Range<u32>], without: &[Range<u32>]| {
            difference(of, without).into_iter().flatten().collect::<Vec<u32>>()
        };
        assert_eq!(only(&[0..5], &[]), [0, 1, 2, 3, 4]);
        assert_eq!(only(&[0..5], &[1..2, 3..4]), [0, 2, 4]);
        assert_eq!(only(&[0..5, 8..10], &[4..9]), [0, 1, 2, 3, 9]);
        assert_eq!(only(&[8..10, 0..5], &[1..2]), [8, 9, 0, 2, 3, 4]);
        assert_eq!(only(&[3..5], &[0..9]), [0; 0]);
        assert_eq!(only(&[3..5], &[4..4, 5..9, 0..3]), [3, 4]);
    }

    #[test]
    fn a_piece_is_listed_for_reads_as_long_as_one_waits() {
        let mut wants = Wants::default();
        wants.set(DemandId(1), Urgency::ReadAhead, &[0..9], |_| true, |_| true);
        assert_eq!(wants.reads().count(), 0);
        wants.set(DemandId(2), Urgency::Read, &[3..5], |_| true, |_| true);
        wants.set(DemandId(3), Urgency::Read, &[4..5], |_| true, |_| true);
        wants.clear(DemandId(2));
        assert_eq!(wants.reads().collect::<Vec<_>>(), [4]);
        wants.assert_consistent();
        wants.satisfied(4);
        assert_eq!(wants.reads().count(), 0);
        wants.assert_consistent();
    }

    #[test]
    fn a_present_or_satisfied_piece_is_not_wanted() {
        let mut wants = Wants::default();
        wants.set(DemandId(1), Urgency::Read, &[0..3], |p| p != 1, |_| true);
        assert_eq!(order(&wants), [0, 2]);
        wants.satisfied(0);
        wants.set_open(2, false);
        assert!(order(&wants).is_empty());
        assert_eq!(wants.urgency(2), Some(Urgency::Read));
        wants.clear(DemandId(1));
        assert!(wants.is_empty());
    }
}
