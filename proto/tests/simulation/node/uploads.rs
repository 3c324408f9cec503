//! Serving blocks: the queue of each peer, and what a node of bad conduct makes of it.

use bytes::{Bytes, BytesMut};
use wtfs_proto::swarm::picker::SourceId;
use wtfs_proto::wire::message::{BlockRequest, Message};

use super::{Conduct, Node};
use crate::simulation::network::{Happening, LinkId, Network};
use crate::simulation::peer::Fast;

impl Node {
    pub(super) fn handle_request(&mut self, net: &mut Network, id: SourceId, request: BlockRequest) {
        let refused_by_chance = self.random.is_hit(self.character.reject_percent);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let checked = self.torrent.geometry.check_request(request.piece, request.begin, request.length);
        assert!(checked.is_ok(), "{request:?} was asked for: {checked:?}");
        let is_allowed = !peer.stance.are_we_choking || peer.stance.allowed_by_us.contains(&request.piece);
        let has_room = peer.upload.queue.len() < self.character.queue_limit;
        // Without the fast extension a refusal cannot be told from a lost request.
        let is_refused = refused_by_chance && peer.fast == Fast::Yes;
        if !is_allowed || !has_room || !self.present.get(request.piece) || is_refused {
            self.refuse(net, id, request);
            return;
        }
        peer.upload.queue.push_back(request);
        self.schedule_upload(net, id);
    }

    pub(super) fn handle_cancel(&mut self, net: &mut Network, id: SourceId, request: BlockRequest) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(at) = peer.upload.queue.iter().position(|other| *other == request) {
            peer.upload.queue.remove(at);
            // BEP 6: a cancelled request is answered too.
            self.refuse(net, id, request);
        }
    }

    /// Told a peer that it is choked: what it asked for is dropped, but for what it is allowed.
    pub(super) fn drop_uploads(&mut self, net: &mut Network, id: SourceId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let queued = std::mem::take(&mut peer.upload.queue);
        let (kept, dropped) =
            queued.into_iter().partition(|request| peer.stance.allowed_by_us.contains(&request.piece));
        peer.upload.queue = kept;
        for request in dropped {
            self.refuse(net, id, request);
        }
    }

    fn refuse(&self, net: &mut Network, id: SourceId, request: BlockRequest) {
        if self.peers.get(&id).is_some_and(|peer| peer.fast == Fast::Yes) {
            self.send(net, id, &Message::Reject(request));
        }
    }

    fn schedule_upload(&mut self, net: &mut Network, id: SourceId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !peer.upload.is_scheduled
            && !peer.upload.queue.is_empty()
            && self.character.conduct != Conduct::Silent
        {
            peer.upload.is_scheduled = true;
            let after = net.free_in(peer.link, self.id);
            net.schedule(after, Happening::Serve { link: peer.link, from: self.id });
        }
    }

    /// The link is free: the next block goes out.
    pub(crate) fn handle_serve(&mut self, net: &mut Network, link: LinkId) {
        let now = net.now();
        let Some(id) = self.by_link.get(&link).copied() else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.upload.is_scheduled = false;
        let Some(request) = peer.upload.queue.pop_front() else { return };
        match self.read_store(request) {
            Some(data) => {
                let data = self.pass_on(request, data);
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.up.handle_bytes(now, u64::from(request.length));
                }
                let (piece, begin) = (request.piece, request.begin);
                self.send(net, id, &Message::Piece { piece, begin, data });
            }
            None => self.refuse(net, id, request),
        }
        self.schedule_upload(net, id);
    }

    fn read_store(&self, request: BlockRequest) -> Option<Bytes> {
        let piece = self.store[request.piece as usize].as_ref()?;
        Some(piece.slice(request.begin as usize..(request.begin + request.length) as usize))
    }

    /// What is put on the wire: the truth, unless a liar is at work.
    fn pass_on(&mut self, request: BlockRequest, data: Bytes) -> Bytes {
        match self.character.conduct {
            Conduct::Liar { percent } if self.random.is_hit(percent) => {
                let mut wrong = BytesMut::from(data.as_ref());
                let at = self.random.index(wrong.len());
                wrong[at] ^= 0x55;
                wrong.freeze()
            }
            _ => {
                assert!(data == self.torrent.block(request), "an unverified byte was served: {request:?}");
                data
            }
        }
    }
}
