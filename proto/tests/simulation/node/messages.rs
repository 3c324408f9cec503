//! What peers say, message by message.

use bytes::Bytes;
use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::swarm::picker::{BlockKey, SourceId};
use wtfs_proto::wire::extended::{ExtendedHandshake, HANDSHAKE_ID, decode_dont_have};
use wtfs_proto::wire::message::{BlockRequest, Message};

use super::Node;
use crate::simulation::network::Network;

/// The id under which all nodes take `lt_donthave` (BEP 54).
const DONT_HAVE_ID: u8 = 7;

impl Node {
    pub(super) fn extension_handshake(&self) -> Message {
        let queue = u32::try_from(self.character.queue_limit).expect("a small number");
        let handshake = ExtendedHandshake { request_queue: Some(queue), ..ExtendedHandshake::default() };
        Message::Extended { id: HANDSHAKE_ID, payload: handshake.encode() }
    }

    pub(super) fn dont_have(piece: u32) -> Message {
        Message::Extended { id: DONT_HAVE_ID, payload: Bytes::copy_from_slice(&piece.to_be_bytes()) }
    }

    pub(super) fn handle_message(&mut self, net: &mut Network, id: SourceId, message: Message) {
        let now = net.now();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match message {
            Message::Choke => {
                peer.stance.unchoked_since = None;
                let lost = peer.withdraw_all();
                self.give_back(now, id, &lost);
            }
            Message::Unchoke => {
                peer.stance.unchoked_since = Some(now);
                self.needs_requests_of(id);
            }
            Message::Interested => {
                peer.stance.is_interested = true;
                self.choker.handle_interested(now);
            }
            Message::NotInterested => {
                peer.stance.is_interested = false;
                self.choker.handle_uninterested(now, id);
            }
            Message::Have(piece) => {
                assert!(piece < peer.bits.len(), "a piece the torrent has not");
                peer.told_at.insert(piece, now);
                if peer.bits.set(piece) {
                    self.picker.add_availability(std::iter::once(piece));
                    self.handle_new_pieces(net, id);
                }
            }
            Message::Bitfield(wire) => {
                let bits = Bitfield::from_wire(&wire, peer.bits.len()).expect("a bitfield that fits");
                self.replace_pieces(net, id, bits);
            }
            Message::HaveAll => {
                let all = Bitfield::full(peer.bits.len());
                self.replace_pieces(net, id, all);
            }
            Message::AllowedFast(piece) => {
                peer.stance.allowed_to_us.push(piece);
                self.needs_requests_of(id);
            }
            Message::Request(request) => self.handle_request(net, id, request),
            Message::Cancel(request) => self.handle_cancel(net, id, request),
            Message::Reject(request) => self.handle_reject(net, id, request),
            Message::Piece { piece, begin, data } => self.handle_block(net, id, (piece, begin), data),
            Message::Extended { id: HANDSHAKE_ID, payload } => {
                let theirs = ExtendedHandshake::decode(&payload).expect("a handshake that can be read");
                if let Some(queue) = theirs.request_queue {
                    peer.pipeline.set_remote_limit(queue);
                }
            }
            Message::Extended { id: DONT_HAVE_ID, payload } => {
                let piece = decode_dont_have(&payload).expect("an lt_donthave that can be read");
                if peer.bits.clear(piece) {
                    self.picker.remove_availability(std::iter::once(piece));
                }
            }
            Message::HaveNone => {}
            other => panic!("nobody sends {other:?}"),
        }
    }

    fn replace_pieces(&mut self, net: &mut Network, id: SourceId, new: Bitfield) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        self.picker.remove_availability(peer.bits.iter_ones());
        self.picker.add_availability(new.iter_ones());
        peer.bits = new;
        self.handle_new_pieces(net, id);
    }

    /// A peer has more pieces: perhaps it is of interest now, perhaps it is as complete as we are.
    fn handle_new_pieces(&mut self, net: &mut Network, id: SourceId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.bits.is_full() && self.picker.is_complete() {
            self.close_peer(net, id);
            return;
        }
        if !peer.stance.are_we_interested && self.picker.is_interesting(&peer.bits) {
            peer.stance.are_we_interested = true;
            self.send(net, id, &Message::Interested);
        }
        self.needs_requests_of(id);
    }

    fn handle_reject(&mut self, net: &Network, id: SourceId, request: BlockRequest) {
        let found = self.torrent.geometry.check_block(request.piece, request.begin, request.length);
        let (piece, block) = found.expect("what is refused was asked for");
        let key = BlockKey { piece, block };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.handle_reject(key, net.now()) {
            self.tally.rejected += 1;
            self.give_back(net.now(), id, &[key]);
        }
    }

    pub(super) fn announce_piece(&self, net: &mut Network, piece: u32) {
        for peer in self.peers.values().filter(|peer| !peer.bits.get(piece)) {
            self.send(net, peer.id, &Message::Have(piece));
        }
    }
}
