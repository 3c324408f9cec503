//! The connected peers of one torrent: what each has, how it stands with us, and what we asked of it.
//!
//! Owns the bookkeeping of requests; decides nothing. Invariant: `outstanding` holds exactly the requests sent and not
//! yet answered, withdrawn or given up, oldest first.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::geometry::BLOCK_BYTES;
use wtfs_proto::id::PeerId;
use wtfs_proto::peer::conduct::{Conduct, Junk};
use wtfs_proto::peer::pipeline::{Pipeline, PipelineConfig};
use wtfs_proto::rate::RateMeter;
use wtfs_proto::swarm::picker::{BlockKey, Has, Room, SourceId};
use wtfs_proto::time::Moment;
use wtfs_proto::wire::extended::RemoteExtensions;
use wtfs_proto::wire::message::Message;

use super::suspects::Contributor;
use crate::peer_task::{CloseReason, HasFast, PeerLink};
use crate::transport::{Direction, Fingerprint, TransportKind};

/// Rates shown are over about this long.
const RATE_SPAN: Duration = Duration::from_secs(3);

/// Withdrawn requests remembered for each peer, so that a late answer is not taken for a block nobody asked for. As
/// many as can be outstanding, twice over.
const MAX_WITHDRAWN: usize = 1024;

/// A waiting read may put this many requests on top of a peer's window: one piece of a mebibyte.
const EXTRA_FOR_READS: usize = 64;

/// Allowed-fast pieces remembered (BEP 6 suggests sets of ten).
const MAX_ALLOWED_FAST: usize = 64;

/// What a peer is.
#[derive(Debug)]
pub(super) struct About {
    pub(super) addr: SocketAddr,
    pub(super) kind: TransportKind,
    pub(super) direction: Direction,
    pub(super) peer_id: PeerId,
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) client: String,
    pub(super) connected_at: Moment,
    pub(super) has_fast: HasFast,
    pub(super) has_extensions: bool,
    /// It speaks v2 of the protocol (BEP 52): the connection is for the v2 info hash.
    pub(super) has_v2: bool,
    /// Where it listens, if it said so.
    pub(super) listen_port: Option<u16>,
    /// Of a web seed its number; it is no peer then.
    pub(super) web_seed: Option<u16>,
}

/// How it stands between a peer and us (BEP 3).
#[derive(Debug)]
pub(super) struct Stance {
    pub(super) is_choking_us: bool,
    pub(super) is_interested: bool,
    pub(super) are_we_choking: bool,
    pub(super) are_we_interested: bool,
    pub(super) allowed_fast: Vec<u32>,
}

/// What moved.
#[derive(Debug)]
pub(super) struct Traffic {
    pub(super) down: RateMeter,
    pub(super) up: RateMeter,
    pub(super) down_bytes: u64,
    pub(super) up_bytes: u64,
}

/// Pieces a peer has; before the metadata is known their number is not.
#[derive(Debug)]
pub(super) enum Pieces {
    /// As the wire said it; sorted out when the metadata arrives.
    Raw(RawPieces),
    Known(Bitfield),
}

/// What a peer said of its pieces before we knew how many there are.
#[derive(Debug, Default)]
pub(super) struct RawPieces {
    pub(super) bitfield: Option<bytes::Bytes>,
    pub(super) has_all: bool,
    /// Its last word on single pieces since.
    pub(super) changes: HashMap<u32, Word>,
}

/// What a peer says of one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// `have`.
    Has,
    /// `lt_donthave` (BEP 54).
    GaveUp,
}

impl RawPieces {
    /// A word on one piece; beyond [`MAX_RAW_CHANGES`] pieces it is not kept. Returns whether it was news.
    pub(super) fn handle_word(&mut self, piece: u32, word: Word) -> bool {
        let is_kept = self.changes.len() < MAX_RAW_CHANGES || self.changes.contains_key(&piece);
        is_kept && self.changes.insert(piece, word) != Some(word)
    }
}

/// Pieces of which a peer's word is kept while their number is unknown.
const MAX_RAW_CHANGES: usize = 100_000;

/// Pieces given up that a peer is told of once its extended handshake says how.
pub(super) const MAX_UNTOLD: usize = 100_000;

/// One connected peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: SourceId,
    pub(super) link: PeerLink,
    pub(super) about: About,
    pub(super) stance: Stance,
    pub(super) pieces: Pieces,
    pub(super) extensions: RemoteExtensions,
    /// Pieces that we gave up before its extended handshake said whether it wants to know (BEP 54).
    pub(super) untold: HashSet<u32>,
    pub(super) pipeline: Pipeline,
    pub(super) traffic: Traffic,
    /// Peers it was told of (BEP 11), and when.
    pub(super) pex_sent: HashSet<SocketAddr>,
    pub(super) pex_at: Moment,
    outstanding: VecDeque<(BlockKey, Moment)>,
    withdrawn: VecDeque<BlockKey>,
    /// Nothing is asked before this: it refused what was asked.
    hold_until: Moment,
    refusals: u32,
    /// Nothing is asked before this: it wants to be left alone.
    paused_until: Moment,
    conduct: Conduct,
    /// Bytes of metadata (BEP 9) that it was given.
    metadata_bytes: usize,
}

/// What a block was an answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// A request that was outstanding.
    Asked,
    /// A request that was withdrawn; the block may still be of use.
    Late,
    /// Nothing.
    Unasked,
}

impl Peer {
    pub(super) fn new(id: SourceId, link: PeerLink, about: About, pieces: Pieces) -> Self {
        let now = about.connected_at;
        Self {
            id,
            link,
            stance: Stance {
                is_choking_us: true,
                is_interested: false,
                are_we_choking: true,
                are_we_interested: false,
                allowed_fast: Vec::new(),
            },
            about,
            pieces,
            extensions: RemoteExtensions::new(),
            untold: HashSet::new(),
            pipeline: Pipeline::new(now, PipelineConfig::default()),
            traffic: Traffic {
                down: RateMeter::new(RATE_SPAN),
                up: RateMeter::new(RATE_SPAN),
                down_bytes: 0,
                up_bytes: 0,
            },
            pex_sent: HashSet::new(),
            pex_at: now,
            outstanding: VecDeque::new(),
            withdrawn: VecDeque::new(),
            hold_until: Moment::ZERO,
            refusals: 0,
            paused_until: Moment::ZERO,
            conduct: Conduct::new(now),
            metadata_bytes: 0,
        }
    }

    /// The pieces it has, once their number is known.
    pub(super) fn bits(&self) -> Option<&Bitfield> {
        match &self.pieces {
            Pieces::Known(bits) => Some(bits),
            Pieces::Raw(_) => None,
        }
    }

    pub(super) fn is_seed(&self) -> bool {
        self.bits().is_some_and(Bitfield::is_full)
    }

    /// What it may be asked for now, if anything.
    pub(super) fn offer(&self, now: Moment) -> Option<(Has<'_>, Room)> {
        let bits = self.bits()?;
        if now < self.paused_until || (now < self.hold_until && self.refusals > 0) {
            return None;
        }
        let free = self.pipeline.free();
        let extra = if self.pipeline.is_snubbed() || self.refusals > 0 { 0 } else { EXTRA_FOR_READS };
        let most_for_reads = (self.pipeline.window() + extra).min(self.pipeline.limit());
        let room = Room {
            for_reads: most_for_reads.saturating_sub(self.outstanding.len()).max(free),
            for_rest: free,
            hedge_after: self.pipeline.late_after(),
        };
        if room.for_reads == 0 {
            return None;
        }
        if !self.stance.is_choking_us {
            return Some((if bits.is_full() { Has::All } else { Has::Some(bits) }, room));
        }
        let allowed = &self.stance.allowed_fast;
        (!allowed.is_empty()).then_some((Has::Only(allowed, bits), room))
    }

    pub(super) fn handle_asked(&mut self, keys: impl ExactSizeIterator<Item = BlockKey>, now: Moment) {
        self.pipeline.handle_sent(now, keys.len());
        self.outstanding.extend(keys.map(|key| (key, now)));
    }

    /// A block came: strikes its request.
    pub(super) fn handle_block(&mut self, key: BlockKey, bytes: u32, now: Moment) -> Answer {
        self.traffic.down.handle_bytes(now, u64::from(bytes));
        self.traffic.down_bytes += u64::from(bytes);
        if let Some(at) = self.outstanding.iter().position(|(k, _)| *k == key) {
            if let Some((_, sent)) = self.outstanding.remove(at) {
                self.pipeline.handle_block(now, bytes, now.saturating_sub(sent));
            }
            self.refusals = 0;
            self.conduct.handle_blocks(1);
            return Answer::Asked;
        }
        if let Some(at) = self.withdrawn.iter().position(|k| *k == key) {
            self.withdrawn.remove(at);
            self.pipeline.handle_stray_block(now, bytes);
            return Answer::Late;
        }
        Answer::Unasked
    }

    /// What it says of how it stands with us; of no use where it stood so already.
    pub(super) fn handle_stance(&mut self, message: &Message, now: Moment) -> Result<(), CloseReason> {
        let (stands, said) = match message {
            Message::Choke => (&mut self.stance.is_choking_us, true),
            Message::Unchoke => (&mut self.stance.is_choking_us, false),
            Message::Interested => (&mut self.stance.is_interested, true),
            Message::NotInterested => (&mut self.stance.is_interested, false),
            _ => return Ok(()),
        };
        let junk = if *stands == said { Junk::Message { bytes: 0 } } else { Junk::Turn };
        *stands = said;
        self.handle_junk(junk, now)
    }

    /// It sent what is of no use.
    pub(super) fn handle_junk(&mut self, junk: Junk, now: Moment) -> Result<(), CloseReason> {
        let pieces = self.bits().map_or(0, Bitfield::len);
        Ok(self.conduct.handle_junk(junk, pieces, now)?)
    }

    /// It asks for a part of the metadata, `all` bytes of which there are, and is given `bytes`. All of it, and what it lost
    /// of that, is due to it.
    pub(super) fn handle_metadata_asked(
        &mut self,
        bytes: usize,
        all: usize,
        now: Moment,
    ) -> Result<(), CloseReason> {
        let is_due = self.metadata_bytes < all.saturating_mul(2);
        self.metadata_bytes = self.metadata_bytes.saturating_add(bytes);
        self.handle_junk(Junk::Answer { bytes: if is_due { 0 } else { bytes } }, now)
    }

    /// Blocks were sent to it.
    pub(super) fn handle_uploaded(&mut self, bytes: u64, now: Moment) {
        self.traffic.up.handle_bytes(now, bytes);
        self.traffic.up_bytes += bytes;
        self.conduct.handle_blocks(bytes / u64::from(BLOCK_BYTES));
    }

    /// It refuses a block (BEP 6); returns whether that was outstanding.
    pub(super) fn handle_reject(&mut self, key: BlockKey, now: Moment) -> bool {
        let Some(at) = self.outstanding.iter().position(|(k, _)| *k == key) else { return false };
        self.outstanding.remove(at);
        self.pipeline.handle_reject(now);
        // Asking again at once would only be refused again, as fast as the network goes.
        self.refusals = (self.refusals + 1).min(8);
        self.hold_until = now + Duration::from_millis(50) * 2_u32.pow(self.refusals);
        true
    }

    /// Asks nothing of it before then.
    pub(super) fn pause(&mut self, until: Moment) {
        self.paused_until = until;
    }

    /// Who is to blame for what it sends.
    pub(super) fn contributor(&self) -> Contributor {
        let ip = self.about.addr.ip();
        match (self.about.web_seed, self.about.kind) {
            (Some(number), _) => Contributor::WebSeed(number),
            (None, TransportKind::WebRtc) => Contributor::Channel(ip, self.about.peer_id),
            (None, _) => Contributor::Peer(ip),
        }
    }

    /// Gives up what has been outstanding since before `limit`; the oldest first.
    pub(super) fn withdraw_older(&mut self, limit: Moment) -> Vec<BlockKey> {
        let count = self.outstanding.iter().take_while(|(_, sent)| *sent < limit).count();
        let keys: Vec<BlockKey> = self.outstanding.drain(..count).map(|(key, _)| key).collect();
        self.remember_withdrawn(&keys);
        keys
    }

    /// Gives up everything.
    pub(super) fn withdraw_all(&mut self) -> Vec<BlockKey> {
        let keys: Vec<BlockKey> = self.outstanding.drain(..).map(|(key, _)| key).collect();
        self.remember_withdrawn(&keys);
        keys
    }

    /// Gives up one request; returns whether it was outstanding.
    pub(super) fn withdraw(&mut self, key: BlockKey) -> bool {
        let Some(at) = self.outstanding.iter().position(|(k, _)| *k == key) else { return false };
        self.outstanding.remove(at);
        self.remember_withdrawn(&[key]);
        true
    }

    fn remember_withdrawn(&mut self, keys: &[BlockKey]) {
        self.pipeline.handle_withdrawn(keys.len());
        self.withdrawn.extend(keys);
        let excess = self.withdrawn.len().saturating_sub(MAX_WITHDRAWN);
        self.withdrawn.drain(..excess);
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    pub(super) fn oldest_request(&self) -> Option<Moment> {
        self.outstanding.front().map(|(_, sent)| *sent)
    }

    pub(super) fn allow_fast(&mut self, piece: u32) {
        let allowed = &mut self.stance.allowed_fast;
        if allowed.len() < MAX_ALLOWED_FAST && !allowed.contains(&piece) {
            allowed.push(piece);
        }
    }

    /// The address others can reach it at, if known.
    pub(super) fn reachable_at(&self) -> Option<SocketAddr> {
        if self.about.web_seed.is_some() || self.about.kind == TransportKind::WebRtc {
            return None;
        }
        match (self.about.direction, self.about.listen_port) {
            (Direction::Outgoing, _) => Some(self.about.addr),
            (Direction::Incoming, Some(port)) => Some(SocketAddr::new(self.about.addr.ip(), port)),
            (Direction::Incoming, None) => None,
        }
    }
}

/// All of them, by id.
pub(super) type Peers = BTreeMap<SourceId, Peer>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer_task::PeerLink;
    use std::sync::Arc;
    use wtfs_proto::geometry::{Alignment, FileLayout, Geometry};

    fn peer() -> Peer {
        let about = About {
            addr: SocketAddr::from(([10, 0, 0, 1], 1)),
            kind: TransportKind::Memory,
            direction: Direction::Outgoing,
            peer_id: PeerId::generate([0; 12]),
            fingerprint: None,
            client: String::new(),
            connected_at: Moment::ZERO,
            has_fast: HasFast::Yes,
            has_extensions: true,
            has_v2: false,
            listen_port: None,
            web_seed: None,
        };
        Peer::new(SourceId(1), PeerLink::disconnected(), about, Pieces::Known(Bitfield::full(4)))
    }

    fn key(piece: u32, block: u32) -> BlockKey {
        let files = [FileLayout { bytes: 1 << 20, alignment: Alignment::Packed, is_pad: false }];
        let geometry = Arc::new(Geometry::new(1 << 18, &files).expect("valid"));
        BlockKey { piece: geometry.piece(piece).expect("in range"), block }
    }

    #[test]
    fn the_last_word_on_a_piece_counts_while_their_number_is_unknown() {
        let mut raw = RawPieces::default();
        raw.handle_word(7, Word::Has);
        raw.handle_word(7, Word::GaveUp);
        raw.handle_word(8, Word::GaveUp);
        raw.handle_word(8, Word::Has);
        assert_eq!(raw.changes, HashMap::from([(7, Word::GaveUp), (8, Word::Has)]));
        for piece in 0..=MAX_RAW_CHANGES as u32 + 9 {
            raw.handle_word(piece + 100, Word::Has);
        }
        assert_eq!(raw.changes.len(), MAX_RAW_CHANGES);
        raw.handle_word(7, Word::Has);
        assert_eq!(raw.changes[&7], Word::Has);
    }

    #[test]
    fn blocks_are_told_apart_by_what_asked_for_them() {
        let mut p = peer();
        p.handle_asked([key(0, 0), key(0, 1)].into_iter(), Moment::ZERO);
        assert_eq!(p.handle_block(key(0, 1), 16384, Moment::ZERO), Answer::Asked);
        assert_eq!(p.withdraw_older(Moment::from_secs(1)), [key(0, 0)]);
        assert_eq!(p.handle_block(key(0, 0), 16384, Moment::ZERO), Answer::Late);
        assert_eq!(p.handle_block(key(0, 0), 16384, Moment::ZERO), Answer::Unasked);
    }

    #[test]
    fn a_choking_peer_offers_only_what_it_allows_fast() {
        let mut p = peer();
        assert!(p.offer(Moment::ZERO).is_none());
        p.allow_fast(2);
        assert!(matches!(p.offer(Moment::ZERO), Some((Has::Only([2], _), _))));
        p.stance.is_choking_us = false;
        assert!(matches!(p.offer(Moment::ZERO), Some((Has::All, _))));
    }

    #[test]
    fn a_refusing_peer_is_left_alone_for_a_while() {
        let mut p = peer();
        p.stance.is_choking_us = false;
        p.handle_asked([key(0, 0)].into_iter(), Moment::ZERO);
        assert!(p.handle_reject(key(0, 0), Moment::ZERO));
        assert!(!p.handle_reject(key(0, 0), Moment::ZERO));
        assert!(p.offer(Moment::ZERO).is_none());
        assert!(p.offer(Moment::from_secs(1)).is_some());
    }
}
