//! What peers say, message by message.

use std::sync::Arc;

use bytes::Bytes;
use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::peer::conduct::Junk;
use wtfs_proto::swarm::picker::{BlockKey, Keys, SourceId};
use wtfs_proto::wire::extended::{
    ExtendedHandshake, HANDSHAKE_ID, LT_DONTHAVE, UT_METADATA, UT_PEX, decode_dont_have,
};
use wtfs_proto::wire::message::{BlockRequest, Message};
use wtfs_proto::wire::metadata::{MetadataMessage, Progress};
use wtfs_proto::wire::pex::PexMessage;

use super::candidates::Origin;
use super::peers::{Pieces, RawPieces, Word};
use super::{SwarmTask, one};
use crate::extension::ExtensionPeer;
use crate::peer_task::{CloseReason, PeerEvent};

impl SwarmTask {
    /// Something happened at a peer; a peer that breaks the rules is closed.
    pub(super) fn handle_peer_event(&mut self, id: SourceId, event: PeerEvent) {
        let result = match event {
            PeerEvent::Blocks(blocks) => self.handle_blocks(id, blocks),
            PeerEvent::Message(message) => self.handle_message(id, message),
            PeerEvent::Uploaded(bytes) => {
                let now = self.clock.now();
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.handle_uploaded(bytes, now);
                    self.upkeep.handle_sent(&self.shared.counters, peer.about.kind.into(), bytes, now);
                }
                Ok(())
            }
            PeerEvent::Seed(event) => self.handle_seed_event(id, event),
            PeerEvent::Closed(reason) => Err(reason),
        };
        if let Err(reason) = result {
            self.close_peer(id, &reason);
        }
    }

    fn handle_message(&mut self, id: SourceId, message: Message) -> Result<(), CloseReason> {
        let now = self.clock.now();
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        peer.handle_stance(&message, now)?;
        match message {
            Message::Choke => {
                let lost = peer.withdraw_all();
                self.give_back(id, &lost);
            }
            Message::Unchoke => {
                self.upkeep.needs_requests_of(id);
            }
            Message::Interested => {
                self.choker.handle_interested(now);
                self.hold_choke_round(now);
                self.upkeep.wake_soon();
            }
            Message::NotInterested => {
                self.choker.handle_uninterested(now, id);
                self.upkeep.wake_soon();
            }
            Message::Have(piece) => self.handle_have(id, piece)?,
            Message::Bitfield(bits) => self.handle_bitfield(id, bits)?,
            Message::HaveAll => self.handle_have_all(id)?,
            Message::HaveNone => peer.handle_junk(Junk::Message { bytes: 0 }, now)?,
            Message::AllowedFast(piece) => {
                peer.handle_junk(Junk::Message { bytes: 0 }, now)?;
                peer.allow_fast(piece);
                self.upkeep.needs_requests_of(id);
            }
            Message::Reject(request) => self.handle_reject(id, request)?,
            Message::Extended { id: extension, payload } => self.handle_extended(id, extension, payload)?,
            Message::HashRequest(request) => {
                peer.handle_junk(Junk::Answer { bytes: 0 }, now)?;
                self.handle_hash_request(id, request)?;
            }
            Message::Hashes { request, hashes } => self.handle_hashes(id, &request, &hashes)?,
            Message::HashReject(request) => self.handle_hash_reject(id, &request)?,
            // For parts that are not spoken here.
            Message::Port(_) | Message::Suggest(_) => peer.handle_junk(Junk::Message { bytes: 0 }, now)?,
            // These take another way.
            Message::KeepAlive
            | Message::Request(_)
            | Message::Piece { .. }
            | Message::Cancel(_)
            | Message::Unknown { .. } => {}
        }
        Ok(())
    }

    /// A peer sent what is of no use; too much of that ends the connection.
    pub(super) fn junk(&mut self, id: SourceId, junk: Junk) -> Result<(), CloseReason> {
        let now = self.clock.now();
        self.peers.get_mut(&id).map_or(Ok(()), |peer| peer.handle_junk(junk, now))
    }

    fn handle_have(&mut self, id: SourceId, piece: u32) -> Result<(), CloseReason> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        match &mut peer.pieces {
            Pieces::Raw(raw) => {
                if !raw.handle_word(piece, Word::Has) {
                    return self.junk(id, Junk::Message { bytes: 0 });
                }
            }
            Pieces::Known(bits) => {
                if piece >= bits.len() {
                    return Err(CloseReason::Violation("has a piece the torrent has not"));
                }
                if bits.set(piece) {
                    if let Some(download) = &mut self.download {
                        download.picker.add_availability(std::iter::once(piece));
                        let keys = Keys::of(self.engine.peer_id, peer.about.peer_id);
                        download.picker.handle_got(id, keys, piece, self.clock.now());
                    }
                    self.handle_new_pieces(id)?;
                } else {
                    return self.junk(id, Junk::Message { bytes: 0 });
                }
            }
        }
        Ok(())
    }

    fn handle_bitfield(&mut self, id: SourceId, wire: Bytes) -> Result<(), CloseReason> {
        let count = u32::try_from(wire.len()).unwrap_or(u32::MAX).saturating_mul(8);
        self.junk(id, Junk::Pieces { count })?;
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        match &mut peer.pieces {
            Pieces::Raw(raw) => raw.bitfield = Some(Bytes::copy_from_slice(&wire)),
            Pieces::Known(bits) => {
                let new = Bitfield::from_wire(&wire, bits.len())
                    .map_err(|_| CloseReason::Violation("sent a bitfield that does not fit the torrent"))?;
                self.replace_pieces(id, new)?;
            }
        }
        Ok(())
    }

    fn handle_have_all(&mut self, id: SourceId) -> Result<(), CloseReason> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let count = peer.bits().map_or(0, Bitfield::len);
        peer.handle_junk(Junk::Pieces { count }, self.clock.now())?;
        match &mut peer.pieces {
            Pieces::Raw(raw) => raw.has_all = true,
            Pieces::Known(bits) => {
                let all = Bitfield::full(bits.len());
                self.replace_pieces(id, all)?;
            }
        }
        Ok(())
    }

    /// A peer's pieces are these and no others.
    pub(super) fn replace_pieces(&mut self, id: SourceId, new: Bitfield) -> Result<(), CloseReason> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        if let Some(download) = &mut self.download {
            if let Pieces::Known(old) = &peer.pieces {
                download.picker.remove_availability(old.iter_ones());
            }
            download.picker.add_availability(new.iter_ones());
        }
        peer.pieces = Pieces::Known(new);
        self.handle_new_pieces(id)
    }

    /// A peer has more pieces: perhaps it has become interesting; perhaps it is as complete as we are.
    fn handle_new_pieces(&mut self, id: SourceId) -> Result<(), CloseReason> {
        let (Some(peer), Some(download)) = (self.peers.get_mut(&id), &self.download) else { return Ok(()) };
        let Some(bits) = peer.bits() else { return Ok(()) };
        if bits.is_full() && download.picker.is_complete() {
            return Err(CloseReason::BothSeeds);
        }
        if !peer.stance.are_we_interested && download.picker.is_interesting(bits) {
            peer.stance.are_we_interested = true;
            peer.link.send(one(Message::Interested))?;
        }
        self.upkeep.needs_requests_of(id);
        Ok(())
    }

    /// What a peer said of its pieces before the metadata came is sorted out.
    pub(super) fn adopt_raw_pieces(&mut self, id: SourceId, count: u32) -> Result<(), CloseReason> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let Pieces::Raw(raw) = std::mem::replace(&mut peer.pieces, Pieces::Known(Bitfield::new(count)))
        else {
            return Ok(());
        };
        let RawPieces { bitfield, has_all, changes } = raw;
        let mut bits = match bitfield {
            _ if has_all => Bitfield::full(count),
            Some(wire) => Bitfield::from_wire(&wire, count)
                .map_err(|_| CloseReason::Violation("sent a bitfield that does not fit the torrent"))?,
            None => Bitfield::new(count),
        };
        for (piece, word) in changes {
            match word {
                Word::GaveUp => bits.clear(piece),
                Word::Has if piece < count => bits.set(piece),
                Word::Has => return Err(CloseReason::Violation("has a piece the torrent has not")),
            };
        }
        self.replace_pieces(id, bits)
    }

    fn handle_reject(&mut self, id: SourceId, request: BlockRequest) -> Result<(), CloseReason> {
        let (Some(download), Some(peer)) = (&self.download, self.peers.get_mut(&id)) else { return Ok(()) };
        let now = self.clock.now();
        let geometry = download.content.geometry();
        let block = geometry.check_block(request.piece, request.begin, request.length);
        let key = block.map(|(piece, block)| BlockKey { piece, block });
        match key.filter(|key| peer.handle_reject(*key, now)) {
            Some(key) => {
                self.give_back(id, &[key]);
                self.upkeep.wake_soon();
                Ok(())
            }
            None => peer.handle_junk(Junk::Message { bytes: 0 }, now),
        }
    }

    fn handle_extended(&mut self, id: SourceId, extension: u8, payload: Bytes) -> Result<(), CloseReason> {
        let bytes = payload.len();
        if extension == HANDSHAKE_ID {
            self.junk(id, Junk::Message { bytes })?;
            return self.handle_extended_handshake(id, &payload);
        }
        let Some(name) = self.engine.registry.name(extension).map(str::to_owned) else {
            return self.junk(id, Junk::Message { bytes });
        };
        match name.as_str() {
            UT_METADATA => self.handle_metadata(id, &payload),
            UT_PEX => {
                self.junk(id, Junk::Turn)?;
                self.handle_pex(&payload);
                Ok(())
            }
            LT_DONTHAVE => self.handle_dont_have(id, &payload),
            _ => {
                if let (Some(handler), Some(peer)) =
                    (self.engine.extensions.find(&name).cloned(), self.extension_peer(id, &name))
                {
                    handler.handle_message(&peer, payload);
                }
                Ok(())
            }
        }
    }

    pub(super) fn extension_peer(&self, id: SourceId, name: &str) -> Option<ExtensionPeer> {
        let peer = self.peers.get(&id)?;
        Some(ExtensionPeer {
            addr: peer.about.addr,
            info_hash: self.shared.info_hash(),
            remote_id: peer.extensions.id(name)?,
            commands: peer.link.sender(),
        })
    }

    fn handle_extended_handshake(&mut self, id: SourceId, payload: &[u8]) -> Result<(), CloseReason> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let theirs = ExtendedHandshake::decode(payload)
            .map_err(|_| CloseReason::Violation("sent an extension handshake that cannot be read"))?;
        let is_first = peer.extensions.names().next().is_none();
        peer.extensions.update(&theirs);
        if let Some(queue) = theirs.request_queue {
            peer.pipeline.set_remote_limit(queue);
        }
        if let Some(client) = theirs.client {
            peer.about.client = client;
        }
        peer.about.listen_port = theirs.port.or(peer.about.listen_port);
        if let (Some(size), Some(_)) = (theirs.metadata_size, peer.extensions.id(UT_METADATA)) {
            self.opening.add_metadata_source(id, size);
            self.ask_metadata(id)?;
        }
        if is_first {
            self.tell_untold(id)?;
            for handler in self.engine.extensions.iter().cloned().collect::<Vec<Arc<_>>>() {
                if let Some(peer) = self.extension_peer(id, handler.name()) {
                    handler.handle_connected(&peer);
                }
            }
        }
        Ok(())
    }

    /// Asks a peer for pieces of the metadata, a few at a time.
    pub(super) fn ask_metadata(&mut self, id: SourceId) -> Result<(), CloseReason> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let Some(extension) = peer.extensions.id(UT_METADATA) else { return Ok(()) };
        let pieces = self.opening.metadata_requests(id, self.clock.now());
        if pieces.is_empty() {
            return Ok(());
        }
        let request =
            |piece| Message::Extended { id: extension, payload: MetadataMessage::Request { piece }.encode() };
        peer.link.send(crate::peer_task::PeerCommand::Messages(pieces.into_iter().map(request).collect()))
    }

    fn handle_metadata(&mut self, id: SourceId, payload: &Bytes) -> Result<(), CloseReason> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let now = self.clock.now();
        // A type that is not known is to be ignored (BEP 9), and so may be whatever cannot be read.
        let Ok(message) = MetadataMessage::decode(payload) else {
            return peer.handle_junk(Junk::Message { bytes: payload.len() }, now);
        };
        match message {
            MetadataMessage::Request { piece } => {
                let info = self.shared.content().map(|content| &content.metainfo.info_bytes);
                let payload = MetadataMessage::answer(info, piece).encode();
                peer.handle_metadata_asked(payload.len(), info.map_or(0, |info| info.len()), now)?;
                if let Some(extension) = peer.extensions.id(UT_METADATA) {
                    peer.link.send(one(Message::Extended { id: extension, payload }))?;
                }
                Ok(())
            }
            MetadataMessage::Reject { .. } => {
                peer.handle_junk(Junk::Message { bytes: 0 }, now)?;
                self.opening.rest_metadata(id);
                self.ask_anybody_for_metadata();
                Ok(())
            }
            MetadataMessage::Data { piece, total_size, data } => {
                match self.opening.handle_metadata(id, piece, total_size, data) {
                    Ok(Progress::Kept) => self.ask_metadata(id),
                    Ok(Progress::Unasked) => {
                        self.junk(id, Junk::Message { bytes: payload.len() })?;
                        self.ask_metadata(id)
                    }
                    Ok(Progress::Complete(info)) => {
                        self.opening.handle_info(info, &self.shared, &self.engine, &self.channels.events);
                        Ok(())
                    }
                    Ok(Progress::Lied) => {
                        self.ask_anybody_for_metadata();
                        Err(CloseReason::BadData)
                    }
                    Err(error) => {
                        tracing::debug!(%error, "bad metadata");
                        self.ask_anybody_for_metadata();
                        Err(CloseReason::Violation("sent metadata of another size than it said"))
                    }
                }
            }
        }
    }

    /// A place became free: others may be asked.
    pub(super) fn ask_anybody_for_metadata(&mut self) {
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            if let Err(reason) = self.ask_metadata(id) {
                self.close_peer(id, &reason);
            }
        }
    }

    fn handle_pex(&mut self, payload: &[u8]) {
        if self.is_private() {
            return;
        }
        match PexMessage::decode(payload) {
            Ok(message) => {
                for peer in message.added {
                    self.candidates.add(peer.addr, Origin::Exchange);
                }
                self.connect_more();
            }
            Err(error) => tracing::debug!(%error, "a peer exchange that cannot be read"),
        }
    }

    fn handle_dont_have(&mut self, id: SourceId, payload: &[u8]) -> Result<(), CloseReason> {
        let piece = decode_dont_have(payload)
            .map_err(|_| CloseReason::Violation("sent an lt_donthave that cannot be read"))?;
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        peer.handle_junk(Junk::Change, self.clock.now())?;
        match &mut peer.pieces {
            Pieces::Raw(raw) => {
                if !raw.handle_word(piece, Word::GaveUp) {
                    return self.junk(id, Junk::Message { bytes: 0 });
                }
            }
            Pieces::Known(bits) => {
                let is_news = bits.clear(piece);
                if !is_news {
                    return self.junk(id, Junk::Message { bytes: 0 });
                }
                if let Some(download) = &mut self.download {
                    download.picker.remove_availability(std::iter::once(piece));
                    // It had the piece when we got it, so it was not told of ours.
                    if download.content.present.get(piece) {
                        peer.link.send(one(Message::Have(piece)))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Tells peers that lack a piece that we have it.
    pub(super) fn announce_piece(&mut self, piece: u32) {
        let mut failed = Vec::new();
        for peer in self.peers.values().filter(|peer| peer.bits().is_some_and(|bits| !bits.get(piece))) {
            if let Err(reason) = peer.link.send(one(Message::Have(piece))) {
                failed.push((peer.id, reason));
            }
        }
        for (id, reason) in failed {
            self.close_peer(id, &reason);
        }
    }
}

#[cfg(test)]
mod tests;
