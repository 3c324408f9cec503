//! Giving pieces up: what the disk budget asks for, and what a full disk forces.
//!
//! A piece goes in this order: out of the present map (unless somebody uses it, see [`crate::budget`]), out of the
//! store's record and off the disk on the pool, and only then out of the picker, so that it is not fetched again while
//! its space is being freed; then peers are told (BEP 54). A read that came in between waits under the piece and is
//! put to the picker again.
//!
//! A disk that is full: the piece keeps its blocks in memory while others are evicted, and is stored again.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::sync::oneshot;
use wtfs_proto::geometry::PieceIndex;
use wtfs_proto::swarm::Urgency;
use wtfs_proto::swarm::picker::{Filling, SourceId};
use wtfs_proto::wire::extended::{LT_DONTHAVE, encode_dont_have};
use wtfs_proto::wire::message::Message;

use super::download::Gathered;
use super::peers::MAX_UNTOLD;
use super::{Event, SwarmTask};
use crate::budget::Room;
use crate::error::ReadError;
use crate::peer_task::{CloseReason, PeerCommand};
use crate::store::StoreError;

/// Asked of the budget when a piece did not fit: itself and some of what comes next.
const RELIEF_PIECES: u64 = 4;

/// A piece that does not fit is stored again this often in all: others may take the space that was freed for it.
const MAX_ATTEMPTS: u32 = 64;

/// Rounds of eviction in a row that freed nothing before a piece is given up: the space that it needs may have been
/// freed by the round before, and what is in use now may not be in the next, 50 ms later.
const MAX_FRUITLESS: u32 = 8;

/// We no longer have a piece (BEP 54), by the id that the peer gave the message.
fn dont_have(id: u8, piece: u32) -> Message {
    Message::Extended { id, payload: Bytes::copy_from_slice(&encode_dont_have(piece)) }
}

/// What the task remembers of giving up pieces.
#[derive(Debug, Default)]
pub(super) struct Eviction {
    /// Pieces that did not fit on the disk and are stored again.
    attempts: HashMap<u32, Attempts>,
    /// Filling is left off while the cache is full.
    is_fill_held: bool,
}

/// How often a piece did not fit.
#[derive(Debug, Default)]
struct Attempts {
    all: u32,
    /// Since something was freed.
    fruitless: u32,
}

/// The disk is as full as before.
#[derive(Debug)]
pub(super) struct NoSecondChance;

impl Eviction {
    /// The picker was told to fill.
    pub(super) fn handle_filling(&mut self) {
        self.is_fill_held = false;
    }

    /// Whether a piece has come and does not fit on the disk.
    pub(super) fn is_making_space_for(&self, piece: u32) -> bool {
        self.attempts.contains_key(&piece)
    }

    /// A piece was stored.
    pub(super) fn handle_stored(&mut self, piece: PieceIndex) {
        self.attempts.remove(&piece.get());
    }
}

/// Pieces whose space was freed, or could not be.
#[derive(Debug)]
pub(super) struct Evicted {
    pieces: Vec<PieceIndex>,
    result: Result<(), StoreError>,
    reply: oneshot::Sender<u64>,
}

/// A piece that did not fit on the disk, and how many bytes were freed since.
#[derive(Debug)]
pub(super) struct Relieved {
    gathered: Gathered,
    freed: u64,
}

impl SwarmTask {
    /// Fills only while there is room that nothing else has to leave.
    pub(super) fn hold_fill_back(&mut self) {
        let Some(download) = &mut self.download else { return };
        if !self.upkeep.is_filling && !self.upkeep.is_bridging {
            return;
        }
        let is_held = download.content.ledger.room() < Room::Everything;
        if is_held != self.eviction.is_fill_held {
            self.eviction.is_fill_held = is_held;
            download.picker.set_filling(if is_held { Filling::OnDemand } else { Filling::Everything });
            self.upkeep.needs_requests();
        }
    }

    /// The budget asks for these pieces to go. Those that must stay do; the answer is the number of bytes freed.
    pub(super) fn handle_evict(&mut self, pieces: Vec<PieceIndex>, reply: oneshot::Sender<u64>) {
        // Without an answer the asker takes it that nothing was freed.
        let Some(download) = &mut self.download else { return };
        let (content, shared) = (&download.content, &self.shared);
        let geometry = content.geometry();
        let must_stay = |piece: PieceIndex| {
            geometry
                .spans(piece, 0..u32::MAX)
                .any(|span| content.pins.contains(span.file) || shared.is_held(span.file))
        };
        let known = pieces.into_iter().filter(|piece| download.picker.is_present(piece.get()));
        let pieces = content.take_for_eviction(known, must_stay);
        if pieces.is_empty() {
            return;
        }
        let content = content.clone();
        let (disk, events) = (self.engine.disk.clone(), self.channels.events.clone());
        self.engine.tasks.spawn(async move {
            let job = move || {
                let result = content.store.forget_pieces(&pieces);
                (pieces, result)
            };
            // Lost only when the session closes.
            if let Ok((pieces, result)) = disk.run(job).await {
                let _gone = events.send(Event::Evicted(Evicted { pieces, result, reply })).await;
            }
        });
    }

    /// The space of pieces is free, or will be once the store can write its record: either way they are gone.
    pub(super) fn handle_evicted(&mut self, Evicted { pieces, result, reply }: Evicted) {
        let mut is_freed = true;
        match result {
            Ok(()) => {}
            Err(StoreError::NotDurable { pieces, source }) => {
                self.handle_checkpoint(Err(StoreError::NotDurable { pieces, source }));
            }
            Err(error) => {
                is_freed = false;
                tracing::error!(%error, "evicted pieces still take up space on the disk");
            }
        }
        let Some(download) = &mut self.download else { return };
        let mut freed = 0;
        for piece in &pieces {
            freed += u64::from(download.content.geometry().piece_len(*piece));
            download.content.mark_evicted(*piece);
            download.picker.handle_removed(*piece);
            for (id, range) in download.demands.waiting_for(piece.get()) {
                // Cleared first: the picker takes what a demand named before for dealt with.
                download.picker.clear_demand(id);
                download.picker.set_demand(id, Urgency::Read, &[range]);
            }
        }
        let was_complete = std::mem::replace(&mut download.was_complete, false);
        tracing::debug!(pieces = pieces.len(), freed, "gave pieces up");
        // Whoever asked may be gone.
        let _gone = reply.send(if is_freed { freed } else { 0 });
        self.tell_lost(&pieces);
        if was_complete {
            self.repeat_extended_handshake();
        }
        self.upkeep.needs_interest_check();
        self.upkeep.needs_requests();
    }

    /// Tells peers that understand it what we no longer have (BEP 54). Others find out when they ask.
    fn tell_lost(&mut self, pieces: &[PieceIndex]) {
        let mut failed = Vec::new();
        for peer in self.peers.values_mut() {
            let said = pieces.iter().map(|piece| piece.get());
            let Some(id) = peer.extensions.id(LT_DONTHAVE) else {
                if peer.about.has_extensions && peer.extensions.names().next().is_none() {
                    let room = MAX_UNTOLD.saturating_sub(peer.untold.len());
                    peer.untold.extend(said.take(room));
                }
                continue;
            };
            let messages = said.map(|piece| dont_have(id, piece)).collect();
            if let Err(reason) = peer.link.send(PeerCommand::Messages(messages)) {
                failed.push((peer.id, reason));
            }
        }
        for (id, reason) in failed {
            self.close_peer(id, &reason);
        }
    }

    /// A peer's extended handshake is there: if it understands it, it is told what we gave up since we greeted it.
    pub(super) fn tell_untold(&mut self, id: SourceId) -> Result<(), CloseReason> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let untold = std::mem::take(&mut peer.untold);
        let (Some(extension), Some(download)) = (peer.extensions.id(LT_DONTHAVE), &self.download) else {
            return Ok(());
        };
        let gone = untold.into_iter().filter(|piece| !download.content.present.get(*piece));
        let messages: Vec<Message> = gone.map(|piece| dont_have(extension, piece)).collect();
        if messages.is_empty() { Ok(()) } else { peer.link.send(PeerCommand::Messages(messages)) }
    }

    /// A verified piece did not fit on the disk: others are evicted and it is stored again. `Err` when that was tried
    /// often enough or is no use.
    pub(super) fn make_space_for(&mut self, gathered: Gathered) -> Result<(), NoSecondChance> {
        let Some(download) = &self.download else { return Err(NoSecondChance) };
        let piece = gathered.piece;
        let may_retry = download.content.ledger.is_budgeted() && !gathered.blocks.is_empty();
        let attempts = self.eviction.attempts.entry(piece.get()).or_default();
        attempts.all += 1;
        if !may_retry || attempts.all > MAX_ATTEMPTS || attempts.fruitless >= MAX_FRUITLESS {
            self.eviction.attempts.remove(&piece.get());
            return Err(NoSecondChance);
        }
        tracing::debug!(piece = piece.get(), "the disk is full: older pieces are given up");
        let content = download.content.clone();
        let bytes = RELIEF_PIECES * u64::from(content.geometry().piece_len(piece));
        let events = self.channels.events.clone();
        self.engine.tasks.spawn(async move {
            let freed = content.ledger.relieve(bytes).await;
            // Fails only when the torrent is gone.
            let _gone = events.send(Event::Relieved(Box::new(Relieved { gathered, freed }))).await;
        });
        Ok(())
    }

    /// Stores a piece again, also when nothing was freed just now: an earlier round may have freed all that it needs.
    pub(super) fn handle_relieved(&mut self, Relieved { gathered, freed }: Relieved) {
        let Some(download) = &mut self.download else { return };
        let attempts = self.eviction.attempts.entry(gathered.piece.get()).or_default();
        attempts.fruitless = if freed == 0 { attempts.fruitless + 1 } else { 0 };
        download.store_again(gathered);
    }

    /// A piece cannot be stored: reads that wait for it fail, and nothing else is fetched for a while.
    pub(super) fn give_up_storing(&mut self, piece: PieceIndex, error: &ReadError) {
        let now = self.clock.now();
        let Some(download) = &mut self.download else { return };
        download.picker.handle_failed(piece);
        for id in download.demands.handle_failed(piece.get(), error) {
            download.picker.clear_demand(id);
            self.shared.counters.failed_reads.add(1);
        }
        download.pause(now);
        // The store frees what was written of it.
        download.is_dirty = true;
        self.upkeep.needs_requests();
    }
}
