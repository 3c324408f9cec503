//! One node's view of one connected peer: what it has, how it stands, what was asked of it and what it asks for.
//!
//! Invariant: `outstanding` holds the requests sent and not yet answered, withdrawn or given up, oldest first, and the
//! pipeline counts as many.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::peer::pipeline::{Pipeline, PipelineConfig};
use wtfs_proto::rate::RateMeter;
use wtfs_proto::swarm::picker::{BlockKey, Has, Room, SourceId};
use wtfs_proto::time::Moment;
use wtfs_proto::wire::message::BlockRequest;

use super::network::{LinkId, NodeId};

const RATE_SPAN: Duration = Duration::from_secs(3);
/// As in the engine: requests that a waiting read may put on top of the window.
const EXTRA_FOR_READS: usize = 64;
/// As in the engine: blocks nobody asked for, before a peer is taken for abusive.
const MAX_UNASKED: u32 = 256;
/// As in the engine: withdrawn requests remembered.
const MAX_WITHDRAWN: usize = 1024;

/// Whether both ends speak the fast extension (BEP 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fast {
    Yes,
    No,
}

/// What a block was an answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Asked,
    Late,
    Unasked,
}

/// How it stands between the peer and us.
#[derive(Debug)]
pub(crate) struct Stance {
    /// Since when it has not choked us; `None` while it does.
    pub(crate) unchoked_since: Option<Moment>,
    pub(crate) is_interested: bool,
    pub(crate) are_we_choking: bool,
    pub(crate) are_we_interested: bool,
    /// Pieces that it gives us while it chokes us, and the other way round.
    pub(crate) allowed_to_us: Vec<u32>,
    pub(crate) allowed_by_us: Vec<u32>,
}

/// What the peer asked of us.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    pub(crate) queue: VecDeque<BlockRequest>,
    /// The link's next free moment is waited for.
    pub(crate) is_scheduled: bool,
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: SourceId,
    pub(crate) node: NodeId,
    pub(crate) link: LinkId,
    pub(crate) fast: Fast,
    pub(crate) connected_at: Moment,
    pub(crate) stance: Stance,
    pub(crate) bits: Bitfield,
    /// When it told of pieces that came after its bitfield.
    pub(crate) told_at: BTreeMap<u32, Moment>,
    pub(crate) pipeline: Pipeline,
    pub(crate) down: RateMeter,
    pub(crate) up: RateMeter,
    pub(crate) upload: Upload,
    /// Bytes received that are no whole message yet.
    pub(crate) inbox: BytesMut,
    outstanding: VecDeque<(BlockKey, Moment)>,
    withdrawn: VecDeque<BlockKey>,
    hold_until: Moment,
    refusals: u32,
    unasked: u32,
}

impl Peer {
    pub(crate) fn new(
        id: SourceId,
        node: NodeId,
        link: LinkId,
        fast: Fast,
        pieces: u32,
        now: Moment,
    ) -> Self {
        Self {
            id,
            node,
            link,
            fast,
            connected_at: now,
            stance: Stance {
                unchoked_since: None,
                is_interested: false,
                are_we_choking: true,
                are_we_interested: false,
                allowed_to_us: Vec::new(),
                allowed_by_us: Vec::new(),
            },
            bits: Bitfield::new(pieces),
            told_at: BTreeMap::new(),
            pipeline: Pipeline::new(now, PipelineConfig::default()),
            down: RateMeter::new(RATE_SPAN),
            up: RateMeter::new(RATE_SPAN),
            upload: Upload::default(),
            inbox: BytesMut::new(),
            outstanding: VecDeque::new(),
            withdrawn: VecDeque::new(),
            hold_until: Moment::ZERO,
            refusals: 0,
            unasked: 0,
        }
    }

    /// What it may be asked for now, if anything.
    pub(crate) fn offer(&self, now: Moment) -> Option<(Has<'_>, Room)> {
        if now < self.hold_until && self.refusals > 0 {
            return None;
        }
        let free = self.pipeline.free();
        let extra = if self.pipeline.is_snubbed() || self.refusals > 0 { 0 } else { EXTRA_FOR_READS };
        let most_for_reads = self.pipeline.window() + extra;
        let room = Room {
            for_reads: most_for_reads.saturating_sub(self.outstanding.len()).max(free),
            for_rest: free,
            hedge_after: self.pipeline.late_after(),
        };
        if room.for_reads == 0 {
            return None;
        }
        if self.stance.unchoked_since.is_some() {
            return Some((if self.bits.is_full() { Has::All } else { Has::Some(&self.bits) }, room));
        }
        let allowed = &self.stance.allowed_to_us;
        (!allowed.is_empty()).then_some((Has::Only(allowed, &self.bits), room))
    }

    /// Whether the piece may be asked of it now.
    pub(crate) fn may_be_asked(&self, piece: u32) -> bool {
        let is_allowed = self.stance.unchoked_since.is_some() || self.stance.allowed_to_us.contains(&piece);
        is_allowed && self.bits.get(piece)
    }

    pub(crate) fn handle_asked(&mut self, keys: impl ExactSizeIterator<Item = BlockKey>, now: Moment) {
        self.pipeline.handle_sent(now, keys.len());
        self.outstanding.extend(keys.map(|key| (key, now)));
    }

    pub(crate) fn handle_block(&mut self, key: BlockKey, bytes: u32, now: Moment) -> Answer {
        self.down.handle_bytes(now, u64::from(bytes));
        if let Some(sent) = self.strike(key) {
            self.pipeline.handle_block(now, bytes, now.saturating_sub(sent));
            self.refusals = 0;
            return Answer::Asked;
        }
        if let Some(at) = self.withdrawn.iter().position(|other| *other == key) {
            self.withdrawn.remove(at);
            self.pipeline.handle_stray_block(now, bytes);
            return Answer::Late;
        }
        self.unasked += 1;
        assert!(self.unasked <= MAX_UNASKED, "an honest peer would be taken for abusive");
        Answer::Unasked
    }

    pub(crate) fn handle_reject(&mut self, key: BlockKey, now: Moment) -> bool {
        if self.strike(key).is_none() {
            return false;
        }
        self.pipeline.handle_reject(now);
        self.refusals = (self.refusals + 1).min(8);
        self.hold_until = now + Duration::from_millis(50) * 2_u32.pow(self.refusals);
        true
    }

    /// Gives up one request; returns whether it was outstanding.
    pub(crate) fn withdraw(&mut self, key: BlockKey) -> bool {
        let was_outstanding = self.strike(key).is_some();
        if was_outstanding {
            self.remember_withdrawn(&[key]);
        }
        was_outstanding
    }

    pub(crate) fn withdraw_older(&mut self, limit: Moment) -> Vec<BlockKey> {
        let count = self.outstanding.iter().take_while(|(_, sent)| *sent < limit).count();
        let keys: Vec<BlockKey> = self.outstanding.drain(..count).map(|(key, _)| key).collect();
        self.remember_withdrawn(&keys);
        keys
    }

    pub(crate) fn withdraw_all(&mut self) -> Vec<BlockKey> {
        self.withdraw_older(Moment::MAX)
    }

    fn strike(&mut self, key: BlockKey) -> Option<Moment> {
        let at = self.outstanding.iter().position(|(other, _)| *other == key)?;
        self.outstanding.remove(at).map(|(_, sent)| sent)
    }

    fn remember_withdrawn(&mut self, keys: &[BlockKey]) {
        self.pipeline.handle_withdrawn(keys.len());
        self.withdrawn.extend(keys);
        let excess = self.withdrawn.len().saturating_sub(MAX_WITHDRAWN);
        self.withdrawn.drain(..excess);
    }

    pub(crate) fn outstanding(&self) -> impl ExactSizeIterator<Item = BlockKey> + '_ {
        self.outstanding.iter().map(|(key, _)| *key)
    }

    pub(crate) fn oldest_request(&self) -> Option<Moment> {
        self.outstanding.front().map(|(_, sent)| *sent)
    }
}
