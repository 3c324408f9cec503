//! Reads that need only some blocks of a piece, where each block can be verified alone (BEP 52).
//!
//! A read is *narrowed* to those blocks: they alone are asked for with the read's urgency. The rest of the piece follows
//! as whatever else wants the piece, read-ahead or [`Urgency::Rest`], and not at all if nothing does: a reader at random
//! places must not wait behind megabytes that nobody reads. A piece that cannot be verified block by block after all is
//! *widened*: those blocks still come first, the others with the same urgency.
//!
//! Invariant: a piece is narrowed only while every waiting read of it is; one that needs the whole undoes it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use smallvec::SmallVec;

use super::{Block, BlockKey, Picker, Piece, SourceId, is_open};
use crate::geometry::PieceIndex;
use crate::swarm::wants::{DemandId, Urgency};
use crate::time::Moment;

/// Which blocks of a piece to take.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which<'a> {
    All,
    Only(&'a [Range<u32>]),
}

impl Which<'_> {
    pub(super) fn contains(self, block: usize) -> bool {
        match self {
            Self::All => true,
            Self::Only(ranges) => ranges.iter().any(|range| range.contains(&(block as u32))),
        }
    }
}

/// What to ask a source for of a piece.
#[derive(Debug, Clone, Copy)]
pub(super) struct Take<'a> {
    /// What it is for; `None` is filling.
    pub(super) urgency: Option<Urgency>,
    /// So many blocks at most.
    pub(super) room: usize,
    pub(super) which: Which<'a>,
}

impl Take<'_> {
    pub(super) fn all(urgency: Option<Urgency>, room: usize) -> Self {
        Self { urgency, room, which: Which::All }
    }
}

/// Whether the rest of pieces of which blocks were read is fetched now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestIs {
    /// Nothing else is to be done.
    Due,
    /// Reads come first, also those that are yet to come.
    #[default]
    Held,
}

#[derive(Debug, Default)]
struct Narrowed {
    reads: SmallVec<[(DemandId, Range<u32>); 2]>,
    is_wide: bool,
}

/// What reads were narrowed to.
#[derive(Debug, Default)]
pub(super) struct Narrow {
    by_piece: BTreeMap<u32, Narrowed>,
    by_demand: HashMap<DemandId, SmallVec<[u32; 2]>>,
    rest: RestIs,
}

impl Narrow {
    /// Whether pieces of this urgency may be asked for.
    pub(super) fn allows(&self, urgency: Urgency) -> bool {
        urgency != Urgency::Rest || self.rest == RestIs::Due
    }
}

/// A narrowed piece of which a source was asked for blocks.
pub(super) enum Then {
    /// More of the blocks that reads wait for may be asked of others.
    More,
    /// Nothing else is wanted of it now.
    Close,
    /// The rest of it is wanted too, less urgently.
    Rest(Urgency),
}

impl Picker {
    /// Of a piece that the read `id` demands, only these blocks are needed for it. To be called right after
    /// [`Picker::set_demand`].
    pub fn narrow(&mut self, id: DemandId, piece: PieceIndex, blocks: Range<u32>) {
        let narrowed = self.narrow.by_piece.entry(piece.get()).or_default();
        narrowed.reads.push((id, blocks));
        narrowed.is_wide = false;
        self.narrow.by_demand.entry(id).or_default().push(piece.get());
    }

    /// Reads of a piece need the whole of it after all; returns whether that changes anything.
    pub fn widen(&mut self, piece: u32) -> bool {
        let Some(narrowed) = self.narrow.by_piece.get_mut(&piece).filter(|narrowed| !narrowed.is_wide) else {
            return false;
        };
        narrowed.is_wide = true;
        self.wants.set_open(piece, is_open(&self.pieces, &self.partials, piece));
        true
    }

    /// Sets whether [`Urgency::Rest`] counts.
    pub fn set_rest(&mut self, rest: RestIs) {
        self.narrow.rest = rest;
    }

    /// A received block turned out to be wrong: it may be asked for again.
    pub fn handle_bad_block(&mut self, key: BlockKey) {
        let piece = key.piece.get();
        let Some(partial) = self.partials.get_mut(&piece) else { return };
        if self.pieces[piece as usize] != Piece::Partial {
            return;
        }
        let Some(state) = partial.blocks.get_mut(key.block as usize) else { return };
        if *state != Block::Received {
            return;
        }
        *state = Block::Missing;
        partial.received -= 1;
        partial.missing += 1;
        if let Some(alone) = self.contested.get(&piece) {
            alone.recount(partial);
        }
        self.wants.set_open(piece, true);
    }

    pub(super) fn forget_narrowed(&mut self, id: DemandId) {
        for piece in self.narrow.by_demand.remove(&id).unwrap_or_default() {
            if let Some(narrowed) = self.narrow.by_piece.get_mut(&piece) {
                narrowed.reads.retain(|(by, _)| *by != id);
                if narrowed.reads.is_empty() {
                    self.narrow.by_piece.remove(&piece);
                }
            }
            // What was closed for this read may be open for the others.
            self.wants.set_open(piece, is_open(&self.pieces, &self.partials, piece));
        }
    }

    /// The blocks that reads of a piece were narrowed to, if all of them were, and whether the others are needed too.
    fn narrowed(&self, piece: u32) -> Option<(SmallVec<[Range<u32>; 2]>, bool)> {
        let narrowed = self.narrow.by_piece.get(&piece)?;
        let blocks = || narrowed.reads.iter().map(|(_, blocks)| blocks.clone()).collect();
        (narrowed.reads.len() >= self.wants.reads_of(piece)).then(|| (blocks(), narrowed.is_wide))
    }

    /// Asks for the blocks that reads of a piece were narrowed to. `None` if they were not.
    pub(super) fn take_narrowed(
        &mut self,
        piece: u32,
        source: SourceId,
        room: usize,
        now: Moment,
        out: &mut Vec<super::Pick>,
    ) -> Option<Then> {
        let (blocks, is_wide) = self.narrowed(piece)?;
        let start = out.len();
        let only = Take { urgency: Some(Urgency::Read), room, which: Which::Only(&blocks) };
        self.take_missing(piece, source, only, now, out);
        if is_wide {
            let left = room.saturating_sub(out.len() - start);
            self.take_missing(piece, source, Take::all(Some(Urgency::Read), left), now, out);
        }
        let which = if is_wide { Which::All } else { only.which };
        let states = self.partials.get(&piece).map(|partial| partial.blocks.as_slice()).unwrap_or_default();
        let is_missing = |(block, state): (usize, &Block)| *state == Block::Missing && which.contains(block);
        if states.iter().enumerate().any(is_missing) {
            return Some(Then::More);
        }
        Some(match self.wants.besides_reads(piece).filter(|urgency| self.narrow.allows(*urgency)) {
            Some(urgency) if states.contains(&Block::Missing) => Then::Rest(urgency),
            Some(_) | None => Then::Close,
        })
    }
}

#[cfg(test)]
mod tests;
