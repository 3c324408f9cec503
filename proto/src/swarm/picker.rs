//! Chooses which block to ask of which source, and keeps the state of every piece.
//!
//! A piece is absent, partial (some block asked for or received), being verified, or present. Sources call
//! [`Picker::pick`] whenever their pipeline has room; the answer follows this order: blocks of demanded pieces by
//! [`Urgency`], then, if the torrent is being filled, the rest of partial pieces, then the rarest absent piece.
//! A demanded block that another source is late with is asked of a second source too (hedging), and so is any block
//! of a piece that keeps memory from the others; so is every missing block once nothing else is left to ask for (end
//! game).
//!
//! Invariants: a block is outstanding at no more than two sources; the pieces that are partial or being verified
//! never hold more bytes than the budget and one piece more, which only a waiting `read()` may add; a present piece
//! is never picked.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use self::companions::Companions;
pub use self::companions::Keys;
pub use self::narrow::RestIs;
use self::narrow::{Narrow, Take, Then};
use super::contested::Alone;
use super::wants::{DemandId, Urgency, Wants};
use crate::bitfield::Bitfield;
use crate::geometry::{Geometry, PieceIndex};
use crate::time::Moment;

mod companions;
mod narrow;

/// Names one source (a peer connection or a web seed) for as long as it is connected; never reused in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub u32);

/// One block of one piece, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey {
    /// The piece.
    pub piece: PieceIndex,
    /// The block's number within the piece; its offset is this times 16 KiB.
    pub block: u32,
}

/// One request the picker wants made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// What to ask for.
    pub key: BlockKey,
    /// `None` for background fill.
    pub urgency: Option<Urgency>,
}

/// How much one source may be asked for now.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Blocks a waiting `read()` may add.
    pub for_reads: usize,
    /// Blocks everything else may add; not more than `for_reads`.
    pub for_rest: usize,
    /// A demanded block that has been outstanding elsewhere for longer than this is hedged.
    pub hedge_after: Moment,
}

/// Which pieces a source can give.
#[derive(Debug, Clone, Copy)]
pub enum Has<'a> {
    /// Those set in its bitfield.
    Some(&'a Bitfield),
    /// All of them.
    All,
    /// Only these: the peer chokes us, but allows these (BEP 6).
    Only(&'a [u32], &'a Bitfield),
}

impl Has<'_> {
    fn get(&self, piece: u32) -> bool {
        match self {
            Self::Some(bits) => bits.get(piece),
            Self::All => true,
            Self::Only(allowed, bits) => allowed.contains(&piece) && bits.get(piece),
        }
    }
}

/// What became of a block that was handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receipt {
    /// Keep the bytes. `also_asked` is another source that may be told to cancel the same block.
    Accepted {
        /// The loser of a hedge.
        also_asked: Option<SourceId>,
        /// It was the last one missing: the piece goes to verification.
        is_piece_complete: bool,
    },
    /// Already there, or nobody asked for it: throw the bytes away.
    Unwanted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    Missing,
    Asked(SourceId, Moment),
    AskedTwice(SourceId, SourceId),
    Received,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Absent,
    Partial,
    Verifying,
    Present,
}

/// While filling, a partial piece that no source has keeps its blocks this long: sources do come back.
const FORSAKEN_AFTER: Moment = Moment::from_secs(20);

#[derive(Debug)]
pub(super) struct Partial {
    pub(super) blocks: Vec<Block>,
    /// Blocks that may be asked for.
    pub(super) missing: u32,
    pub(super) received: u32,
    pub(super) last_block_at: Option<Moment>,
}

/// Pieces looked at per pick before giving up on a source that has none of them.
const SCAN_LIMIT: usize = 4096;

/// A fill order made while sources came and went is used this long; sorting millions of pieces is not free.
const FILL_ORDER_AGE: Moment = Moment::from_secs(5);

/// The same, when it has run dry.
const FILL_ORDER_RETRY: Moment = Moment::from_millis(50);

/// The state of all pieces of one torrent; see the module's documentation.
#[derive(Debug)]
pub struct Picker {
    geometry: Arc<Geometry>,
    pieces: Vec<Piece>,
    present: u32,
    partials: BTreeMap<u32, Partial>,
    in_flight_bytes: u64,
    budget_bytes: u64,
    availability: Vec<u16>,
    /// Pieces that failed with several contributors, and the one source that may give each now.
    contested: BTreeMap<u32, Alone>,
    wants: Wants,
    narrow: Narrow,
    companions: Companions,
    is_filling: bool,
    /// Absent pieces in the order in which fill takes them (last first); rebuilt when it runs dry or grows stale.
    fill_order: Vec<u32>,
    is_fill_order_stale: bool,
    fill_order_at: Option<Moment>,
}

impl Picker {
    /// A picker for a torrent of which `present` is there. `budget_bytes` bounds what partial and unverified pieces
    /// may hold in memory.
    pub fn new(geometry: Arc<Geometry>, present: &Bitfield, budget_bytes: u64) -> Self {
        let count = geometry.piece_count();
        let pieces =
            (0..count).map(|i| if present.get(i) { Piece::Present } else { Piece::Absent }).collect();
        Self {
            pieces,
            present: present.count_ones(),
            partials: BTreeMap::new(),
            in_flight_bytes: 0,
            budget_bytes,
            availability: vec![0; count as usize],
            contested: BTreeMap::new(),
            wants: Wants::default(),
            narrow: Narrow::default(),
            companions: Companions::default(),
            is_filling: false,
            fill_order: Vec::new(),
            is_fill_order_stale: true,
            fill_order_at: None,
            geometry,
        }
    }

    /// Changes the memory budget; what is in flight stays.
    pub fn set_budget(&mut self, bytes: u64) {
        self.budget_bytes = bytes;
    }

    /// Whether pieces nobody demands are fetched too.
    pub fn set_filling(&mut self, fill: Filling) {
        self.is_filling = matches!(fill, Filling::Everything);
    }

    /// Bytes held by partial and unverified pieces.
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    /// Pieces verified and stored.
    pub fn present_count(&self) -> u32 {
        self.present
    }

    /// Whether every piece is present.
    pub fn is_complete(&self) -> bool {
        self.present == self.geometry.piece_count()
    }

    /// Whether a piece is verified and stored.
    pub fn is_present(&self, piece: u32) -> bool {
        self.pieces.get(piece as usize) == Some(&Piece::Present)
    }

    /// Whether there is anything left to ask anybody for.
    pub fn has_work(&self) -> bool {
        !self.wants.is_empty() || (self.is_filling && !self.is_complete())
    }

    /// Sources known to have the piece.
    pub fn availability(&self, piece: PieceIndex) -> u16 {
        self.availability.get(piece.get() as usize).copied().unwrap_or(0)
    }

    /// Whether a source with these pieces has one we lack (we are interested in it, BEP 3).
    pub fn is_interesting(&self, has: &Bitfield) -> bool {
        if has.is_full() {
            return !self.is_complete();
        }
        has.iter_ones().any(|piece| !self.is_present(piece))
    }

    /// A source came with these pieces, or one piece more.
    pub fn add_availability(&mut self, pieces: impl Iterator<Item = u32>) {
        for piece in pieces {
            if let Some(n) = self.availability.get_mut(piece as usize) {
                *n = n.saturating_add(1);
            }
        }
        self.is_fill_order_stale = true;
    }

    /// A source with these pieces left.
    pub fn remove_availability(&mut self, pieces: impl Iterator<Item = u32>) {
        for piece in pieces {
            if let Some(n) = self.availability.get_mut(piece as usize) {
                *n = n.saturating_sub(1);
            }
        }
    }

    /// Replaces what a demand wants; pieces that are present are passed over. An empty set withdraws it.
    pub fn set_demand(&mut self, id: DemandId, urgency: Urgency, ranges: &[Range<u32>]) {
        let (pieces, partials) = (&self.pieces, &self.partials);
        let is_absent = |p: u32| pieces.get(p as usize).is_some_and(|s| !matches!(s, Piece::Present));
        let is_open = |p: u32| is_open(pieces, partials, p);
        self.wants.set(id, urgency, ranges, is_absent, is_open);
    }

    /// Withdraws a demand. Blocks already asked for stay asked for.
    pub fn clear_demand(&mut self, id: DemandId) {
        self.wants.clear(id);
        self.forget_narrowed(id);
    }

    /// Blocks that reads wait for and nobody was asked for, counted up to `most`.
    pub fn missing_for_reads(&self, most: usize) -> usize {
        let mut missing = 0;
        for (_, piece) in self.wants.open().take_while(|(urgency, _)| *urgency == Urgency::Read) {
            missing += match (self.partials.get(&piece), self.geometry.piece(piece)) {
                (Some(partial), _) => partial.missing as usize,
                (None, Some(index)) => self.geometry.block_count(index) as usize,
                (None, None) => 0,
            };
            if missing >= most {
                return most;
            }
        }
        missing
    }

    /// The most urgent demand for a piece.
    pub fn urgency(&self, piece: PieceIndex) -> Option<Urgency> {
        self.wants.urgency(piece.get())
    }

    /// When the newest block of a partial piece came.
    pub fn last_block_at(&self, piece: u32) -> Option<Moment> {
        self.partials.get(&piece).and_then(|p| p.last_block_at)
    }

    /// Whether some block of a piece was asked for or has come, and another is missing.
    pub fn is_partial(&self, piece: u32) -> bool {
        self.pieces.get(piece as usize) == Some(&Piece::Partial)
    }

    /// Whether all of a piece has come and it is being verified and stored.
    pub fn is_verifying(&self, piece: u32) -> bool {
        self.pieces.get(piece as usize) == Some(&Piece::Verifying)
    }

    /// Whether a piece is asked of one source alone, so that its hash convicts or clears that one: it failed before
    /// with several contributors.
    pub fn is_contested(&self, piece: u32) -> bool {
        self.contested.contains_key(&piece)
    }

    /// Sets whether a piece is contested.
    pub fn set_contested(&mut self, piece: PieceIndex, contested: Contested) {
        match contested {
            Contested::Yes => self.contested.insert(piece.get(), Alone::default()),
            Contested::No => self.contested.remove(&piece.get()),
        };
    }

    /// Chooses requests for one source; appends them to `out`.
    ///
    /// `random` gives any number; it breaks ties of rarity.
    pub fn pick(
        &mut self,
        source: SourceId,
        has: Has<'_>,
        room: Room,
        now: Moment,
        random: &mut dyn FnMut() -> u64,
        out: &mut Vec<Pick>,
    ) {
        let start = out.len();
        self.free_idle(source, has, now);
        self.pick_wanted(source, has, room, now, out);
        let taken = out.len() - start;
        if taken < room.for_reads {
            self.pick_late(source, has, room, now, out, start);
        }
        let taken = out.len() - start;
        if self.is_filling && taken < room.for_rest {
            self.pick_fill(source, has, room.for_rest - taken, now, random, out);
        }
        let taken = out.len() - start;
        if taken < room.for_rest && self.is_crowded() {
            self.pick_standing(source, has, room, room.for_rest - taken, now, out);
        }
    }

    /// Takes contested pieces from owners that are of no use, for this source and others to claim.
    fn free_idle(&mut self, source: SourceId, has: Has<'_>, now: Moment) {
        for (piece, alone) in self.contested.iter_mut().filter(|(piece, _)| has.get(**piece)) {
            let Some(partial) = self.partials.get_mut(piece) else { continue };
            if self.pieces[*piece as usize] == Piece::Partial && alone.lapse(source, partial, now) {
                self.wants.set_open(*piece, true);
            }
        }
    }

    /// Whether the pieces under way leave no room for another.
    fn is_crowded(&self) -> bool {
        let next = u64::from(self.geometry.piece_bytes());
        self.in_flight_bytes > 0 && self.in_flight_bytes + next > self.budget_bytes
    }

    fn pick_wanted(&mut self, source: SourceId, has: Has<'_>, room: Room, now: Moment, out: &mut Vec<Pick>) {
        let start = out.len();
        let mut is_out_of_budget = false;
        let (mut closed, mut later) = (Vec::new(), Vec::new());
        let candidates = self.wanted_of(has, room, now);
        for (urgency, piece) in candidates {
            let limit = if urgency == Urgency::Read { room.for_reads } else { room.for_rest };
            let taken = out.len() - start;
            if taken >= limit {
                break;
            }
            if is_out_of_budget && self.pieces.get(piece as usize) == Some(&Piece::Absent) {
                continue;
            }
            if !self.start(piece, Some(urgency)) {
                // Out of budget: no other piece may be started before this one, but those under way go on.
                is_out_of_budget = true;
                continue;
            }
            let narrowed = (urgency == Urgency::Read)
                .then(|| self.take_narrowed(piece, source, limit - taken, now, out));
            match narrowed.flatten() {
                Some(Then::More) => continue,
                Some(Then::Close) => closed.push(piece),
                Some(Then::Rest(urgency)) => later.push((urgency, piece)),
                None => self.take_missing(piece, source, Take::all(Some(urgency), limit - taken), now, out),
            }
            if self.partials.get(&piece).is_none_or(|p| p.missing == 0) {
                closed.push(piece);
            }
        }
        for (urgency, piece) in later {
            let left = room.for_rest.saturating_sub(out.len() - start);
            self.take_missing(piece, source, Take::all(Some(urgency), left), now, out);
        }
        for piece in closed {
            self.wants.set_open(piece, false);
        }
    }

    /// Hedges demanded blocks that another source is late with.
    fn pick_late(
        &mut self,
        source: SourceId,
        has: Has<'_>,
        room: Room,
        now: Moment,
        out: &mut Vec<Pick>,
        start: usize,
    ) {
        let hedge_after = self.hedge_after(has, room, now);
        let pieces: Vec<u32> = self.wants.reads().filter(|p| has.get(*p)).take(SCAN_LIMIT).collect();
        for piece in pieces {
            if self.contested.contains_key(&piece) {
                continue;
            }
            let Some(partial) = self.partials.get_mut(&piece) else { continue };
            let Some(index) = self.geometry.piece(piece) else { continue };
            let left = room.for_reads - (out.len() - start);
            if left == 0 {
                return;
            }
            let asked_before = now.checked_sub(hedge_after);
            hedge(partial, index, source, asked_before, Some(Urgency::Read), left, out);
        }
    }

    /// Hedges blocks of pieces that stand still while no other piece may be started: a source that never answers must
    /// not hold the memory that everything else waits for.
    fn pick_standing(
        &mut self,
        source: SourceId,
        has: Has<'_>,
        room: Room,
        mut left: usize,
        now: Moment,
        out: &mut Vec<Pick>,
    ) {
        let Some(asked_before) = now.checked_sub(room.hedge_after) else { return };
        let contested = &self.contested;
        let is_shared = |piece: u32| has.get(piece) && !contested.contains_key(&piece);
        for (piece, partial) in self.partials.iter_mut().filter(|(piece, _)| is_shared(**piece)) {
            if left == 0 {
                return;
            }
            if partial.last_block_at.is_some_and(|at| at > asked_before) {
                continue;
            }
            let Some(index) = self.geometry.piece(*piece) else { continue };
            let urgency = self.wants.urgency(*piece);
            left -= hedge(partial, index, source, Some(asked_before), urgency, left, out);
        }
    }

    fn pick_fill(
        &mut self,
        source: SourceId,
        has: Has<'_>,
        mut room: usize,
        now: Moment,
        random: &mut dyn FnMut() -> u64,
        out: &mut Vec<Pick>,
    ) {
        let mut open: Vec<u32> =
            self.partials.iter().filter(|(p, s)| s.missing > 0 && has.get(**p)).map(|(p, _)| *p).collect();
        open.sort_unstable();
        for piece in open {
            let before = out.len();
            self.take_missing(piece, source, Take::all(None, room), now, out);
            room -= out.len() - before;
            if room == 0 {
                return;
            }
        }
        let age = self.fill_order_at.map_or(Moment::MAX, |at| now.saturating_sub(at));
        let least = if self.fill_order.is_empty() { FILL_ORDER_RETRY } else { FILL_ORDER_AGE };
        if self.is_fill_order_stale && age >= least {
            self.rebuild_fill_order(random);
            self.fill_order_at = Some(now);
        }
        let mut skipped = Vec::new();
        while room > 0 && skipped.len() < SCAN_LIMIT {
            let Some(piece) = self.fill_order.pop() else { break };
            if self.pieces[piece as usize] != Piece::Absent {
                continue;
            }
            if !has.get(piece) {
                skipped.push(piece);
                continue;
            }
            if !self.start(piece, None) {
                self.fill_order.push(piece);
                break;
            }
            let before = out.len();
            self.take_missing(piece, source, Take::all(None, room), now, out);
            room -= out.len() - before;
        }
        self.fill_order.extend(skipped.into_iter().rev());
        if room > 0 && self.fill_order.is_empty() {
            self.pick_end_game(source, has, room, out);
        }
    }

    /// Nothing is left that nobody was asked for: ask a second source for what is outstanding.
    fn pick_end_game(&mut self, source: SourceId, has: Has<'_>, mut left: usize, out: &mut Vec<Pick>) {
        let contested = &self.contested;
        let shared = |p: &u32| has.get(*p) && !contested.contains_key(p);
        for (piece, partial) in self.partials.iter_mut().filter(|(p, _)| shared(p)) {
            let Some(index) = self.geometry.piece(*piece) else { continue };
            if left == 0 {
                return;
            }
            left -= hedge(partial, index, source, Some(Moment::MAX), None, left, out);
        }
    }

    /// Makes an absent piece partial, if the budget allows it. A waiting `read()` may overshoot it by one piece, so
    /// that read-ahead that filled the budget cannot hold a reader up.
    fn start(&mut self, piece: u32, urgency: Option<Urgency>) -> bool {
        match self.pieces.get(piece as usize) {
            Some(Piece::Partial) => return true,
            Some(Piece::Absent) => {}
            _ => return false,
        }
        let Some(index) = self.geometry.piece(piece) else { return false };
        let bytes = u64::from(self.geometry.piece_len(index));
        let may_start = match urgency {
            _ if self.in_flight_bytes == 0 => true,
            Some(Urgency::Read) => self.in_flight_bytes <= self.budget_bytes,
            _ => self.in_flight_bytes + bytes <= self.budget_bytes,
        };
        if !may_start {
            return false;
        }
        let count = self.geometry.block_count(index);
        self.partials.insert(
            piece,
            Partial {
                blocks: vec![Block::Missing; count as usize],
                missing: count,
                received: 0,
                last_block_at: None,
            },
        );
        self.pieces[piece as usize] = Piece::Partial;
        self.in_flight_bytes += bytes;
        true
    }

    fn take_missing(
        &mut self,
        piece: u32,
        source: SourceId,
        take: Take<'_>,
        now: Moment,
        out: &mut Vec<Pick>,
    ) {
        let Some(index) = self.geometry.piece(piece) else { return };
        let Some(partial) = self.partials.get_mut(&piece) else { return };
        let alone = self.contested.get_mut(&piece);
        let is_contested = alone.is_some();
        if let Some(alone) = alone
            && !alone.claim(source, partial, now)
        {
            return;
        }
        let mut left = take.room;
        for (block, state) in partial.blocks.iter_mut().enumerate() {
            if left == 0 || partial.missing == 0 {
                break;
            }
            if !take.which.contains(block) {
                continue;
            }
            *state = match *state {
                Block::Missing => Block::Asked(source, now),
                // Still outstanding at an earlier owner, of whom it is not taken any more.
                Block::Asked(by, _) if is_contested && by != source => Block::AskedTwice(by, source),
                _ => continue,
            };
            partial.missing -= 1;
            left -= 1;
            out.push(Pick { key: BlockKey { piece: index, block: block as u32 }, urgency: take.urgency });
        }
    }

    fn rebuild_fill_order(&mut self, random: &mut dyn FnMut() -> u64) {
        self.is_fill_order_stale = false;
        let mut order: Vec<(u16, u64, u32)> = self
            .pieces
            .iter()
            .enumerate()
            .filter(|(i, s)| **s == Piece::Absent && self.availability[*i] > 0)
            .map(|(i, _)| (self.availability[i], random(), i as u32))
            .collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        self.fill_order = order.into_iter().map(|(_, _, piece)| piece).collect();
    }

    /// A block came from a source.
    pub fn handle_block(&mut self, source: SourceId, key: BlockKey, now: Moment) -> Receipt {
        let piece = key.piece.get();
        let Some(partial) = self.partials.get_mut(&piece) else { return Receipt::Unwanted };
        if self.pieces[piece as usize] != Piece::Partial {
            return Receipt::Unwanted;
        }
        let Some(state) = partial.blocks.get_mut(key.block as usize) else { return Receipt::Unwanted };
        if let Some(alone) = self.contested.get(&piece).filter(|alone| !alone.is_owner(source)) {
            // From an earlier owner: it is not mixed with what the present one gives.
            withdraw(state, source, now);
            alone.recount(partial);
            self.wants.set_open(piece, partial.missing > 0);
            return Receipt::Unwanted;
        }
        let also_asked = match *state {
            Block::Received => return Receipt::Unwanted,
            // Late after a time-out, but still of use: it need not be asked for again.
            Block::Missing => {
                partial.missing -= 1;
                None
            }
            Block::Asked(first, _) => (first != source).then_some(first),
            Block::AskedTwice(a, b) => Some(if a == source { b } else { a }),
        };
        *state = Block::Received;
        partial.received += 1;
        partial.last_block_at = Some(now);
        if let Some(alone) = self.contested.get(&piece) {
            alone.recount(partial);
        }
        let is_piece_complete = partial.received as usize == partial.blocks.len();
        if is_piece_complete {
            self.pieces[piece as usize] = Piece::Verifying;
        }
        if partial.missing == 0 {
            self.wants.set_open(piece, false);
        }
        Receipt::Accepted { also_asked, is_piece_complete }
    }

    /// A source will not deliver this block (time-out, choke, reject, disconnect): it may be asked for again.
    pub fn handle_lost(&mut self, source: SourceId, key: BlockKey, now: Moment) {
        let piece = key.piece.get();
        let Some(partial) = self.partials.get_mut(&piece) else { return };
        let Some(state) = partial.blocks.get_mut(key.block as usize) else { return };
        if withdraw(state, source, now) == Some(Block::Missing) {
            partial.missing += 1;
        }
        if let Some(alone) = self.contested.get(&piece) {
            alone.recount(partial);
        }
        if self.pieces[piece as usize] == Piece::Partial && partial.missing > 0 {
            self.wants.set_open(piece, true);
        }
    }

    /// The piece was verified and stored.
    pub fn handle_verified(&mut self, piece: PieceIndex) {
        self.release(piece.get());
        self.contested.remove(&piece.get());
        if self.pieces[piece.get() as usize] != Piece::Present {
            self.pieces[piece.get() as usize] = Piece::Present;
            self.present += 1;
        }
        self.wants.satisfied(piece.get());
    }

    /// The piece did not have the right hash, or could not be stored: all of it is missing again.
    pub fn handle_failed(&mut self, piece: PieceIndex) {
        self.release(piece.get());
        self.reopen(piece.get());
        if let Some(alone) = self.contested.get_mut(&piece.get()) {
            alone.give_up();
        }
    }

    /// A present piece was evicted, or turned out to be damaged.
    pub fn handle_removed(&mut self, piece: PieceIndex) {
        if self.is_present(piece.get()) {
            self.present -= 1;
            self.reopen(piece.get());
        }
    }

    /// Partial pieces that hold memory in vain: to be dropped, blocks and all, with [`Self::handle_failed`].
    ///
    /// Those are pieces of which nothing is outstanding and that nobody wants any more or, while filling, that
    /// nobody has any more: else they would keep the budget from pieces that can be had.
    pub fn abandoned(&self, now: Moment) -> Vec<PieceIndex> {
        let is_idle = |piece: u32, partial: &Partial| {
            self.pieces[piece as usize] == Piece::Partial
                && self.wants.urgency(piece).is_none()
                && partial.blocks.iter().all(|b| matches!(b, Block::Missing | Block::Received))
        };
        let is_lost = |piece: u32, partial: &Partial| {
            let since = partial.last_block_at.unwrap_or_default();
            self.availability[piece as usize] == 0 && now.saturating_sub(since) >= FORSAKEN_AFTER
        };
        self.partials
            .iter()
            .filter(|(piece, partial)| is_idle(**piece, partial))
            .filter(|(piece, partial)| !self.is_filling || is_lost(**piece, partial))
            .filter_map(|(piece, _)| self.geometry.piece(*piece))
            .collect()
    }

    fn reopen(&mut self, piece: u32) {
        self.pieces[piece as usize] = Piece::Absent;
        self.is_fill_order_stale = true;
        self.wants.set_open(piece, true);
    }

    fn release(&mut self, piece: u32) {
        if self.partials.remove(&piece).is_some()
            && let Some(index) = self.geometry.piece(piece)
        {
            self.in_flight_bytes -= u64::from(self.geometry.piece_len(index));
        }
    }
}

/// Whether a piece is asked of one source alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contested {
    /// It failed with several contributors.
    Yes,
    /// It may come from anybody.
    No,
}

/// What to do with pieces nobody demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filling {
    /// Leave them (a mount).
    OnDemand,
    /// Fetch them, rarest first (a download).
    Everything,
}

/// Asks a second source for blocks outstanding elsewhere since `asked_before` or longer; returns how many.
fn hedge(
    partial: &mut Partial,
    piece: PieceIndex,
    source: SourceId,
    asked_before: Option<Moment>,
    urgency: Option<Urgency>,
    most: usize,
    out: &mut Vec<Pick>,
) -> usize {
    let start = out.len();
    let late = |at: Moment| asked_before.is_some_and(|limit| at <= limit);
    for (block, state) in partial.blocks.iter_mut().enumerate() {
        if out.len() - start == most {
            break;
        }
        if let Block::Asked(first, at) = *state
            && first != source
            && late(at)
        {
            *state = Block::AskedTwice(first, source);
            out.push(Pick { key: BlockKey { piece, block: block as u32 }, urgency });
        }
    }
    out.len() - start
}

/// A block is outstanding at a source no longer; returns what became of it, if it was.
fn withdraw(state: &mut Block, source: SourceId, now: Moment) -> Option<Block> {
    *state = match *state {
        Block::Asked(by, _) if by == source => Block::Missing,
        Block::AskedTwice(a, b) if a == source => Block::Asked(b, now),
        Block::AskedTwice(a, b) if b == source => Block::Asked(a, now),
        _ => return None,
    };
    Some(*state)
}

/// A piece of which a block may still be asked for.
fn is_open(pieces: &[Piece], partials: &BTreeMap<u32, Partial>, piece: u32) -> bool {
    match pieces.get(piece as usize) {
        Some(Piece::Absent) => true,
        Some(Piece::Partial) => partials.get(&piece).is_some_and(|p| p.missing > 0),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a demand is a list of ranges, often of one")]
mod tests;
