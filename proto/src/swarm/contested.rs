//! Contested pieces: those that failed with several contributors, and that one source at a time may give.
//!
//! Only a piece that comes whole from one source convicts or clears somebody. So such a piece has an *owner*: the
//! first source that asks for it, which keeps it over lost blocks (an honest source may refuse some) for as long as
//! it makes progress. An owner that does not loses the piece as soon as another source could give it; what it gave
//! is forgotten, and it has to let others try for a while. Patience grows with each change of hands, or a piece
//! whose one honest source is slow would never be had.
//!
//! Invariant: every block that was received of a contested piece came from its owner.

use super::picker::{Block, Partial, SourceId};
use crate::time::Moment;

/// A source that failed to give a contested piece lets others try for this long.
const DECLINED_FOR: Moment = Moment::from_secs(10);

/// An owner of which nothing is outstanding loses the piece when no block came for this long.
const IDLE_OWNER: Moment = Moment::from_secs(2);

/// The same, with requests outstanding of which none is answered.
const STUCK_OWNER: Moment = Moment::from_secs(6);

/// Patience doubles this often: to 24 s for a block, which is 700 bytes/s and well within the time a read waits.
const MOST_DOUBLINGS: u32 = 2;

/// Who alone may give a contested piece now, and who failed to and has to let others try first.
#[derive(Debug, Default)]
pub(super) struct Alone {
    owner: Option<SourceId>,
    owner_since: Moment,
    declined: Vec<(SourceId, Moment)>,
    lapses: u32,
}

impl Alone {
    pub(super) fn is_owner(&self, source: SourceId) -> bool {
        self.owner == Some(source)
    }

    /// Makes a source the owner if nobody is; returns whether it is now.
    pub(super) fn claim(&mut self, source: SourceId, partial: &mut Partial, now: Moment) -> bool {
        if self.owner.is_none() && !self.has_declined(source, now) {
            self.owner = Some(source);
            self.owner_since = now;
            self.recount(partial);
        }
        self.is_owner(source)
    }

    /// Takes the piece from an owner that is of no use, because another source could give it; returns whether it did.
    pub(super) fn lapse(&mut self, source: SourceId, partial: &mut Partial, now: Moment) -> bool {
        let Some(owner) = self.owner.filter(|owner| *owner != source) else { return false };
        let is_asked = partial.blocks.iter().any(|block| match *block {
            Block::Asked(by, _) => by == owner,
            Block::AskedTwice(a, b) => a == owner || b == owner,
            Block::Missing | Block::Received => false,
        });
        let patience = if is_asked { STUCK_OWNER } else { IDLE_OWNER } * 2_u32.pow(self.lapses);
        let idle = now.saturating_sub(partial.last_block_at.unwrap_or_default().max(self.owner_since));
        if idle < patience || self.has_declined(source, now) {
            return false;
        }
        self.owner = None;
        self.lapses = (self.lapses + 1).min(MOST_DOUBLINGS);
        self.declined.push((owner, now));
        for block in partial.blocks.iter_mut().filter(|block| **block == Block::Received) {
            *block = Block::Missing;
        }
        partial.received = 0;
        self.recount(partial);
        true
    }

    /// The piece is absent again: nobody has given any of it.
    pub(super) fn give_up(&mut self) {
        self.owner = None;
    }

    /// Counts the blocks that may be asked of the owner: those outstanding at nobody, or at one earlier owner.
    pub(super) fn recount(&self, partial: &mut Partial) {
        let may_be_asked = |block: &&Block| match **block {
            Block::Missing => true,
            Block::Asked(by, _) => !self.is_owner(by),
            Block::AskedTwice(..) | Block::Received => false,
        };
        partial.missing = partial.blocks.iter().filter(may_be_asked).count() as u32;
    }

    fn has_declined(&mut self, source: SourceId, now: Moment) -> bool {
        self.declined.retain(|(_, at)| now.saturating_sub(*at) < DECLINED_FOR);
        self.declined.iter().any(|(by, _)| *by == source)
    }
}
