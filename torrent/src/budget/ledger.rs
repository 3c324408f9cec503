//! One torrent's part of the disk budget: who uses which piece now, when each was used last, and how much it all is.
//!
//! Every piece that becomes present or absent passes here ([`Content::mark_present`], [`Content::mark_absent`]), so that
//! the sum over all torrents is right. Using a piece costs two atomic additions and no lock. A torrent outside of the
//! cache has an empty ledger: nothing of it is counted or evicted.
//!
//! Invariant: the budget's sums hold exactly what the ledgers that exist added to them; dropping one takes it back.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use tokio::sync::Notify;
use wtfs_proto::geometry::{Geometry, PieceIndex};

use super::{Budget, FIRST_TICK, Room};
use crate::present::PresentMap;
use crate::torrent::Content;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Ledger {
    budget: Option<Arc<Budget>>,
    /// How many reads and uploads use each piece now.
    users: Box<[AtomicU32]>,
    /// When each piece was used last: by the budget's clock, or, below all of that, in seconds of an earlier run.
    touched: Box<[AtomicU32]>,
    /// Whether any was since this was asked last.
    is_used: AtomicBool,
    stored: AtomicU64,
    in_flight: AtomicU64,
    /// Told of each piece that becomes present.
    pub(crate) arrivals: Notify,
}

impl Ledger {
    /// The ledger of a torrent in the cache, or of one that has no part in the budget.
    pub(crate) fn new(budget: Option<Arc<Budget>>, geometry: &Geometry, present: &PresentMap) -> Self {
        let count = if budget.is_some() { geometry.piece_count() } else { 0 };
        let zeros = || (0..count).map(|_| AtomicU32::new(0)).collect();
        let ledger = Self {
            budget,
            users: zeros(),
            touched: zeros(),
            is_used: AtomicBool::new(false),
            stored: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            arrivals: Notify::new(),
        };
        let is_there = |piece: &PieceIndex| present.get(piece.get());
        let bytes =
            geometry.pieces().filter(is_there).map(|piece| u64::from(geometry.piece_len(piece))).sum();
        ledger.add(bytes);
        ledger
    }

    /// Whether the torrent's pieces are counted and may be evicted.
    pub(crate) fn is_budgeted(&self) -> bool {
        self.budget.is_some()
    }

    /// Whether a piece may be taken for stored before it is. Unknown of torrents that keep their data elsewhere.
    pub(crate) fn has_disk_to_spare(&self) -> bool {
        self.budget.as_ref().is_none_or(|budget| budget.has_disk_to_spare())
    }

    fn add(&self, bytes: u64) {
        if let Some(budget) = &self.budget
            && bytes > 0
        {
            self.stored.fetch_add(bytes, Ordering::Relaxed);
            budget.add_stored(bytes);
        }
    }

    fn subtract(&self, bytes: u64) {
        if let Some(budget) = &self.budget {
            self.stored.fetch_sub(bytes, Ordering::Relaxed);
            budget.remove_stored(bytes);
        }
    }

    fn touch(&self, piece: u32) {
        if let (Some(budget), Some(touched)) = (&self.budget, self.touched.get(piece as usize)) {
            let now = budget.now();
            // Written only when it changes: readers of one piece on many cores share the line.
            if touched.load(Ordering::Relaxed) != now {
                touched.store(now, Ordering::Relaxed);
                self.is_used.store(true, Ordering::Relaxed);
            }
        }
    }

    /// What an earlier run says of a piece, unless this one has used it.
    pub(super) fn restore(&self, piece: u32, stamp: u32) {
        if let Some(touched) = self.touched.get(piece as usize) {
            touched.fetch_max(stamp.min(FIRST_TICK - 1), Ordering::Relaxed);
        }
    }

    /// The seconds in which a piece was used last, for a later run.
    pub(super) fn stamp(&self, piece: u32, now: u32) -> u32 {
        match (self.touched(piece), &self.budget) {
            (tick @ FIRST_TICK.., Some(budget)) => budget.seconds_of(tick, now),
            (seconds, _) => seconds,
        }
    }

    /// Whether any piece was used since the last time.
    pub(super) fn take_is_used(&self) -> bool {
        self.is_used.swap(false, Ordering::Relaxed)
    }

    /// When the piece was used last.
    pub(super) fn touched(&self, piece: u32) -> u32 {
        self.touched.get(piece as usize).map_or(0, |touched| touched.load(Ordering::Relaxed))
    }

    /// Whether anybody uses the piece now. To be trusted only by whoever took it out of the present map before.
    pub(crate) fn is_in_use(&self, piece: u32) -> bool {
        self.users.get(piece as usize).is_some_and(|users| users.load(Ordering::Acquire) > 0)
    }

    /// What may be fetched now besides what reads wait for.
    pub(crate) fn room(&self) -> Room {
        self.budget.as_ref().map_or(Room::Everything, |budget| budget.room())
    }

    /// What this torrent may have on its way; never a reason not to fetch for a read that waits.
    pub(crate) fn room_in_flight(&self) -> u64 {
        let own = self.in_flight.load(Ordering::Relaxed);
        self.budget.as_ref().map_or(u64::MAX, |budget| budget.room_in_flight(own))
    }

    /// Tells how many bytes are on their way.
    pub(crate) fn set_in_flight(&self, bytes: u64) {
        if let Some(budget) = &self.budget {
            let old = self.in_flight.swap(bytes, Ordering::Relaxed);
            budget.move_in_flight(old, bytes);
        }
    }

    /// Frees other pieces, because the disk is full; see [`Budget::relieve`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn relieve(&self, bytes: u64) -> u64 {
        match &self.budget {
            Some(budget) => budget.relieve(bytes).await,
            None => 0,
        }
    }

    /// Counts what was evicted.
    pub(crate) fn note_evicted(&self, bytes: u64) {
        if let Some(budget) = &self.budget {
            budget.evicted.add(bytes);
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.set_in_flight(0);
        self.subtract(self.stored.load(Ordering::Relaxed));
    }
}

/// Pieces that are not evicted until this is dropped.
#[derive(Debug)]
pub(crate) struct InUse {
    content: Arc<Content>,
    pieces: Range<u32>,
}

impl Content {
    /// A piece was verified and stored.
    pub(crate) fn mark_present(&self, piece: PieceIndex) {
        self.ledger.touch(piece.get());
        if !self.present.get(piece.get()) {
            self.ledger.add(u64::from(self.geometry().piece_len(piece)));
        }
        self.present.set(piece.get());
        self.ledger.arrivals.notify_waiters();
    }

    /// A present piece is lost or given up, and its space is free.
    pub(crate) fn mark_absent(&self, piece: PieceIndex) {
        self.present.clear(piece.get());
        self.ledger.subtract(u64::from(self.geometry().piece_len(piece)));
    }

    /// Keeps pieces from being evicted, and notes their use. To be called before looking whether they are present.
    pub(crate) fn use_pieces(self: &Arc<Self>, pieces: Range<u32>) -> InUse {
        if self.ledger.is_budgeted() {
            for piece in pieces.clone() {
                if let Some(users) = self.ledger.users.get(piece as usize) {
                    users.fetch_add(1, Ordering::AcqRel);
                    self.ledger.touch(piece);
                }
            }
            fence(Ordering::SeqCst);
        }
        InUse { content: self.clone(), pieces }
    }

    /// Takes pieces out of the present map that may go, and returns them: not those in use or that `must_stay`. What
    /// is returned is still counted; [`Content::mark_evicted`] ends that.
    pub(crate) fn take_for_eviction(
        &self,
        pieces: impl Iterator<Item = PieceIndex>,
        must_stay: impl Fn(PieceIndex) -> bool,
    ) -> Vec<PieceIndex> {
        let stays = |piece: PieceIndex| self.ledger.is_in_use(piece.get()) || must_stay(piece);
        let mut taken: Vec<PieceIndex> =
            pieces.filter(|piece| self.present.get(piece.get()) && !stays(*piece)).collect();
        for piece in &taken {
            self.present.clear(piece.get());
        }
        fence(Ordering::SeqCst);
        taken.retain(|piece| {
            let stays = stays(*piece);
            if stays {
                self.present.set(piece.get());
            }
            !stays
        });
        taken
    }

    /// The space of a piece that was taken out is free.
    pub(crate) fn mark_evicted(&self, piece: PieceIndex) {
        let bytes = u64::from(self.geometry().piece_len(piece));
        self.ledger.subtract(bytes);
        self.ledger.note_evicted(bytes);
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        for piece in self.pieces.clone() {
            if let Some(users) = self.content.ledger.users.get(piece as usize) {
                users.fetch_sub(1, Ordering::Release);
            }
        }
    }
}
