//! The reads that wait for pieces.
//!
//! A waiter gets a piece when that is stored, or before, as bytes in memory, when all it needs of it is verified.
//!
//! Invariant: a waiter is listed under each piece it still lacks, and answered exactly once, when it lacks none, when
//! nothing moved for too long, or when the torrent ends.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use tokio::sync::oneshot;
use wtfs_proto::swarm::DemandId;
use wtfs_proto::time::Moment;

use crate::error::ReadError;

/// A read that makes some progress is still given up after this many read time-outs: a source that drips a block a
/// minute must not hold a reader for hours.
const LONGEST_WAIT: u32 = 20;

/// Verified bytes of a demand that are not in the store, at least not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where they begin in the torrent's address space.
    pub(crate) address: u64,
    pub(crate) bytes: Bytes,
}

/// Where the answer to a demand goes. What it does not contain is in the store.
pub(crate) type DemandReply = oneshot::Sender<Result<Vec<Part>, ReadError>>;

/// What a read wants: addresses in the torrent, and the pieces they lie in.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    pub(super) pieces: Range<u32>,
    pub(super) addresses: Range<u64>,
    pub(super) piece_bytes: u32,
}

impl Extent {
    /// The bytes it wants of one of its pieces.
    pub(super) fn in_piece(&self, piece: u32) -> Range<u32> {
        let start = u64::from(piece) * u64::from(self.piece_bytes);
        // Clamped to the piece, whose length is a u32.
        let clamp = |address: u64| address.saturating_sub(start).min(u64::from(self.piece_bytes)) as u32;
        clamp(self.addresses.start)..clamp(self.addresses.end)
    }
}

#[derive(Debug)]
struct Waiter {
    lacking: u32,
    extent: Extent,
    parts: Vec<Part>,
    reply: DemandReply,
    since: Moment,
    progress_at: Moment,
}

/// A waiter whose time ran out.
#[derive(Debug)]
pub(super) struct Expired {
    pub(super) id: DemandId,
    /// The first piece it lacks.
    pub(super) piece: u32,
    pub(super) waited: Moment,
    pub(super) reply: DemandReply,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Demands {
    waiting: HashMap<DemandId, Waiter>,
    by_piece: HashMap<u32, Vec<DemandId>>,
}

impl Demands {
    /// Adds a waiter for the pieces that are not `present`; answers it at once if there are none, and returns whether
    /// it waits.
    pub(super) fn add(
        &mut self,
        id: DemandId,
        extent: Extent,
        reply: DemandReply,
        now: Moment,
        present: impl Fn(u32) -> bool,
    ) -> bool {
        let mut lacking = 0;
        for piece in extent.pieces.clone().filter(|piece| !present(*piece)) {
            self.by_piece.entry(piece).or_default().push(id);
            lacking += 1;
        }
        if lacking == 0 {
            answer(reply, Ok(Vec::new()));
            return false;
        }
        let parts = Vec::new();
        self.waiting.insert(id, Waiter { lacking, extent, parts, reply, since: now, progress_at: now });
        true
    }

    /// What waiters that lack a piece want of it, in bytes.
    pub(super) fn awaited(&self, piece: u32) -> Vec<Range<u32>> {
        let ids = self.by_piece.get(&piece).map(Vec::as_slice).unwrap_or_default();
        ids.iter().filter_map(|id| Some(self.waiting.get(id)?.extent.in_piece(piece))).collect()
    }

    /// Some bytes of a piece are verified: gives each waiter what it wants of the piece if `copy` has all of it, and
    /// answers those who lack nothing else. Returns whether anybody was given anything, and the ids of those answered.
    pub(super) fn handle_verified(
        &mut self,
        piece: u32,
        copy: impl Fn(Range<u32>) -> Option<Bytes>,
        now: Moment,
    ) -> (bool, Vec<DemandId>) {
        let mut is_any = false;
        let mut done = Vec::new();
        let Some(mut ids) = self.by_piece.remove(&piece) else { return (false, done) };
        ids.retain(|id| {
            let Some(waiter) = self.waiting.get_mut(id) else { return false };
            let range = waiter.extent.in_piece(piece);
            let Some(bytes) = copy(range.clone()) else { return true };
            let start = u64::from(piece) * u64::from(waiter.extent.piece_bytes);
            waiter.parts.push(Part { address: start + u64::from(range.start), bytes });
            waiter.lacking -= 1;
            waiter.progress_at = now;
            is_any = true;
            if waiter.lacking == 0
                && let Some(waiter) = self.waiting.remove(id)
            {
                answer(waiter.reply, Ok(waiter.parts));
                done.push(*id);
            }
            false
        });
        if !ids.is_empty() {
            self.by_piece.insert(piece, ids);
        }
        (is_any, done)
    }

    /// A piece is there: answers those who lack nothing else and returns their ids.
    pub(super) fn handle_stored(&mut self, piece: u32, now: Moment) -> Vec<DemandId> {
        let mut done = Vec::new();
        for id in self.by_piece.remove(&piece).unwrap_or_default() {
            let Some(waiter) = self.waiting.get_mut(&id) else { continue };
            waiter.lacking -= 1;
            waiter.progress_at = now;
            if waiter.lacking == 0
                && let Some(waiter) = self.waiting.remove(&id)
            {
                answer(waiter.reply, Ok(waiter.parts));
                done.push(id);
            }
        }
        done
    }

    /// A piece cannot be had: whoever lacks it gets the error.
    pub(super) fn handle_failed(&mut self, piece: u32, error: &ReadError) -> Vec<DemandId> {
        let ids = self.by_piece.get(&piece).cloned().unwrap_or_default();
        for id in &ids {
            if let Some(waiter) = self.remove(*id) {
                answer(waiter.reply, Err(error.clone()));
            }
        }
        ids
    }

    /// Those who lack a piece, and all the pieces each asked for.
    pub(super) fn waiting_for(&self, piece: u32) -> Vec<(DemandId, Range<u32>)> {
        let ids = self.by_piece.get(&piece).map(Vec::as_slice).unwrap_or_default();
        ids.iter().filter_map(|id| Some((*id, self.waiting.get(id)?.extent.pieces.clone()))).collect()
    }

    /// Forgets a waiter that was withdrawn.
    pub(super) fn withdraw(&mut self, id: DemandId) {
        drop(self.remove(id));
    }

    fn remove(&mut self, id: DemandId) -> Option<Waiter> {
        let waiter = self.waiting.remove(&id)?;
        for piece in waiter.extent.pieces.clone() {
            if let Some(ids) = self.by_piece.get_mut(&piece) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.by_piece.remove(&piece);
                }
            }
        }
        Some(waiter)
    }

    /// Those whose reader is gone without a word.
    pub(super) fn abandoned(&mut self) -> Vec<DemandId> {
        let ids: Vec<DemandId> =
            self.waiting.iter().filter(|(_, w)| w.reply.is_closed()).map(|(id, _)| *id).collect();
        for id in &ids {
            self.withdraw(*id);
        }
        ids
    }

    /// Takes out those for whom nothing moved for `timeout`. `last_block_at` says when a block of a piece last came.
    pub(super) fn expire(
        &mut self,
        now: Moment,
        timeout: Moment,
        last_block_at: impl Fn(u32) -> Option<Moment>,
    ) -> Vec<Expired> {
        let mut ids = Vec::new();
        for (id, waiter) in &mut self.waiting {
            if now.saturating_sub(waiter.progress_at) < timeout {
                continue;
            }
            let newest = waiter.extent.pieces.clone().filter_map(&last_block_at).max();
            waiter.progress_at = waiter.progress_at.max(newest.unwrap_or_default());
            let is_stuck = now.saturating_sub(waiter.progress_at) >= timeout;
            if is_stuck || now.saturating_sub(waiter.since) >= timeout * LONGEST_WAIT {
                ids.push(*id);
            }
        }
        let mut expired = Vec::new();
        for id in ids {
            let first = self.waiting.get(&id).and_then(|waiter| {
                let lacks = |piece: &u32| self.by_piece.get(piece).is_some_and(|ids| ids.contains(&id));
                waiter.extent.pieces.clone().find(lacks)
            });
            if let (Some(piece), Some(waiter)) = (first, self.remove(id)) {
                let waited = now.saturating_sub(waiter.since);
                expired.push(Expired { id, piece, waited, reply: waiter.reply });
            }
        }
        expired
    }

    /// Everybody gets the error.
    pub(super) fn fail_all(&mut self, error: &ReadError) {
        self.by_piece.clear();
        for (_, waiter) in self.waiting.drain() {
            answer(waiter.reply, Err(error.clone()));
        }
    }

    /// The first piece that each waiter lacks, and how long it has waited.
    pub(super) fn waits(&self, now: Moment) -> impl Iterator<Item = (u32, Moment)> + '_ {
        self.waiting.iter().filter_map(move |(id, waiter)| {
            let lacks = |piece: &u32| self.by_piece.get(piece).is_some_and(|ids| ids.contains(id));
            let first = waiter.extent.pieces.clone().find(lacks)?;
            Some((first, now.saturating_sub(waiter.since)))
        })
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Answers a reader. If it has gone meanwhile, nobody needs the answer.
pub(super) fn answer(reply: DemandReply, result: Result<Vec<Part>, ReadError>) {
    if reply.send(result).is_err() {
        tracing::trace!("a reader left before its answer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Moment = Moment::from_secs(10);

    const PIECE: u32 = 100;

    fn add(d: &mut Demands, id: u64, pieces: Range<u32>) -> oneshot::Receiver<Result<Vec<Part>, ReadError>> {
        let addresses = u64::from(pieces.start * PIECE) + 10..u64::from(pieces.end * PIECE) - 20;
        let extent = Extent { pieces, addresses, piece_bytes: PIECE };
        let (reply, answer) = oneshot::channel();
        d.add(DemandId(id), extent, reply, Moment::ZERO, |piece| piece == 0);
        answer
    }

    #[test]
    fn a_waiter_is_answered_when_its_last_piece_is_there() {
        let mut d = Demands::default();
        let mut none = add(&mut d, 1, 0..1);
        assert!(none.try_recv().expect("answered at once").is_ok());
        let mut two = add(&mut d, 2, 0..3);
        assert!(d.handle_stored(1, Moment::ZERO).is_empty());
        assert!(two.try_recv().is_err());
        assert_eq!(d.handle_stored(2, Moment::ZERO), [DemandId(2)]);
        assert!(two.try_recv().expect("answered").is_ok());
        assert!(d.is_empty() && d.by_piece.is_empty());
    }

    #[test]
    fn a_waiter_takes_verified_bytes_before_their_piece_is_stored() {
        let mut d = Demands::default();
        let mut answer = add(&mut d, 1, 1..3);
        let mut other = add(&mut d, 2, 2..3);
        assert_eq!(d.awaited(1), std::slice::from_ref(&(10..100)));
        assert_eq!(d.awaited(2), [0..80, 10..80]);
        let copy = |range: Range<u32>| Some(Bytes::from(vec![range.start as u8; range.len()]));
        assert_eq!(
            d.handle_verified(2, |range| copy(range.clone()).filter(|_| range.start > 0), Moment::ZERO),
            (true, vec![DemandId(2)])
        );
        let part = Part { address: 210, bytes: Bytes::from(vec![10; 70]) };
        assert_eq!(other.try_recv().expect("answered").expect("good"), [part]);
        assert_eq!(d.handle_verified(1, copy, Moment::ZERO), (true, vec![]));
        assert_eq!(d.handle_verified(1, copy, Moment::ZERO), (false, vec![]));
        assert!(d.handle_stored(1, Moment::ZERO).is_empty(), "it has that already");
        assert_eq!(d.handle_stored(2, Moment::ZERO), [DemandId(1)]);
        let parts = answer.try_recv().expect("answered").expect("good");
        assert_eq!(parts, [Part { address: 110, bytes: Bytes::from(vec![10; 90]) }]);
        assert!(d.is_empty() && d.by_piece.is_empty());
    }

    #[test]
    fn time_runs_out_without_progress_and_not_with_it() {
        let mut d = Demands::default();
        let _stuck = add(&mut d, 1, 1..3);
        let _moving = add(&mut d, 2, 5..6);
        let last_block = |piece| (piece == 5).then_some(Moment::from_secs(9));
        let expired = d.expire(Moment::from_secs(10), TIMEOUT, last_block);
        assert_eq!(expired.len(), 1);
        assert_eq!((expired[0].id, expired[0].piece), (DemandId(1), 1));
        assert_eq!(d.expire(Moment::from_secs(18), TIMEOUT, last_block).len(), 0);
        assert_eq!(d.expire(Moment::from_secs(19), TIMEOUT, last_block).len(), 1);
        assert!(d.by_piece.is_empty());
    }

    #[test]
    fn dripping_progress_does_not_hold_a_reader_for_ever() {
        let mut d = Demands::default();
        let _answer = add(&mut d, 1, 1..2);
        let now = TIMEOUT * LONGEST_WAIT;
        assert_eq!(d.expire(now, TIMEOUT, |_| Some(now)).len(), 1);
    }

    #[test]
    fn each_wait_is_told_with_the_first_piece_that_lacks() {
        let mut d = Demands::default();
        let _answer = add(&mut d, 1, 0..4);
        d.handle_stored(1, Moment::ZERO);
        let now = Moment::from_secs(3);
        assert_eq!(d.waits(now).collect::<Vec<_>>(), [(2, now)]);
    }

    #[test]
    fn a_reader_that_left_is_noticed() {
        let mut d = Demands::default();
        drop(add(&mut d, 1, 1..4));
        let _kept = add(&mut d, 2, 1..2);
        assert_eq!(d.abandoned(), [DemandId(1)]);
        assert_eq!(d.len(), 1);
        let mut failed = add(&mut d, 3, 1..2);
        assert_eq!(d.handle_failed(1, &ReadError::NoSpace).len(), 2);
        assert!(matches!(failed.try_recv(), Ok(Err(ReadError::NoSpace))));
        assert!(d.is_empty() && d.by_piece.is_empty());
    }
}
