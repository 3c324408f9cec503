//! One simulated node: the decisions of the protocol crate, driven the way the engine's torrent task drives them.
//!
//! Sans-IO: it is told of bytes, closed links and ticks, and sends over the virtual network. The parts below are the
//! engine's parts in small. It holds itself to the promises of [`promises`] after each round.

mod messages;
mod promises;
mod reading;
mod requests;
mod upkeep;
mod uploads;
mod verifying;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::blame::Blame;
use wtfs_proto::choke::Choker;
use wtfs_proto::readahead::{Readahead, ReadaheadConfig};
use wtfs_proto::swarm::picker::{Filling, Picker, SourceId};
use wtfs_proto::time::Moment;
use wtfs_proto::wire::message::{Decoder, Message};

use self::reading::Ahead;
use super::gathered::Gathered;
use super::network::{Happening, LinkId, Network, NodeId};
use super::peer::{Fast, Peer};
use super::random::Random;
use super::reads::{Reads, Script};
use super::torrent::Torrent;

/// What a node does with the blocks it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conduct {
    Honest,
    /// Corrupts this percentage of them.
    Liar {
        percent: u64,
    },
    /// Takes requests and never answers.
    Silent,
}

/// What is known of all nodes from outside, to judge by.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) conducts: Vec<Conduct>,
    /// Nodes whose links are quick enough for a reader to live on.
    pub(crate) is_quick: Vec<bool>,
}

impl Facts {
    pub(crate) fn is_honest(&self, node: NodeId) -> bool {
        !matches!(self.conducts[node.0], Conduct::Liar { .. })
    }
}

/// How a node is set up.
#[derive(Debug, Clone)]
pub(crate) struct Character {
    pub(crate) conduct: Conduct,
    pub(crate) filling: Filling,
    pub(crate) slots: usize,
    pub(crate) budget_bytes: u64,
    /// Requests it keeps; more are refused.
    pub(crate) queue_limit: usize,
    /// Percentage of requests refused for no reason one can see.
    pub(crate) reject_percent: u64,
    /// Pieces it gives to whoever it chokes.
    pub(crate) allowed_fast: usize,
    pub(crate) max_readahead_bytes: u64,
    pub(crate) script: Option<Script>,
}

/// What a node counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Bytes of all blocks that came.
    pub(crate) downloaded: u64,
    /// Bytes of pieces that failed.
    pub(crate) failed: u64,
    /// Pieces that any read touched.
    pub(crate) touched: BTreeSet<u32>,
    /// Liars whose wrong block was part of a piece that failed.
    pub(crate) cheated_by: BTreeSet<NodeId>,
    pub(crate) hedged: u64,
    pub(crate) rejected: u64,
    pub(crate) snubbed: u64,
    /// Peers it banned.
    pub(crate) banned: BTreeSet<NodeId>,
}

/// Times at which something is done again, and whom to ask next.
#[derive(Debug, Default)]
struct Agenda {
    interest_at: Moment,
    targets: Targets,
}

/// Peers to ask for blocks in this round.
#[derive(Debug, Default)]
enum Targets {
    #[default]
    All,
    Some(BTreeSet<SourceId>),
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) character: Character,
    pub(crate) tally: Tally,
    pub(crate) reads: Reads,
    torrent: Arc<Torrent>,
    facts: Arc<Facts>,
    store: Vec<Option<Bytes>>,
    present: Bitfield,
    picker: Picker,
    peers: BTreeMap<SourceId, Peer>,
    by_link: BTreeMap<LinkId, SourceId>,
    gathering: BTreeMap<u32, Gathered>,
    complete: Vec<Gathered>,
    choker: Choker<SourceId>,
    blame: Blame<NodeId>,
    ahead: Ahead,
    agenda: Agenda,
    next_source: u32,
    random: Random,
}

impl Node {
    pub(crate) fn new(
        id: NodeId,
        character: Character,
        torrent: Arc<Torrent>,
        facts: Arc<Facts>,
        present: Bitfield,
        random: Random,
    ) -> Self {
        let geometry = torrent.geometry.clone();
        let store = geometry.pieces().map(|p| present.get(p.get()).then(|| torrent.piece(p))).collect();
        let mut picker = Picker::new(geometry, &present, character.budget_bytes);
        picker.set_filling(character.filling);
        let config = ReadaheadConfig {
            max_window: character.max_readahead_bytes,
            granule_bytes: u64::from(torrent.geometry.piece_bytes()),
            ..ReadaheadConfig::default()
        };
        let policy = Readahead::new(torrent.total_bytes(), config);
        Self {
            id,
            tally: Tally::default(),
            reads: Reads::default(),
            store,
            present,
            picker,
            peers: BTreeMap::new(),
            by_link: BTreeMap::new(),
            gathering: BTreeMap::new(),
            complete: Vec::new(),
            choker: Choker::new(character.slots),
            blame: Blame::new(),
            ahead: Ahead { policy, sent: Vec::new() },
            agenda: Agenda::default(),
            next_source: 0,
            character,
            torrent,
            facts,
            random,
        }
    }

    /// Whether it has all it set out to get.
    pub(crate) fn is_done(&self) -> bool {
        let is_filled = !self.is_filling() || self.picker.is_complete();
        let has_read = self.character.script.as_ref().is_none_or(|script| script.reads_left == 0);
        is_filled && has_read && self.reads.waiting.is_empty()
    }

    /// Whether it wants all pieces.
    pub(crate) fn is_filling(&self) -> bool {
        self.character.filling == Filling::Everything
    }

    pub(crate) fn has_all(&self) -> bool {
        self.present.is_full()
    }

    pub(crate) fn has_banned(&self, node: NodeId) -> bool {
        self.tally.banned.contains(&node)
    }

    pub(crate) fn links(&self) -> Vec<LinkId> {
        self.by_link.keys().copied().collect()
    }

    pub(crate) fn is_connected_to(&self, node: NodeId) -> bool {
        self.peers.values().any(|peer| peer.node == node)
    }

    /// A link was made: says what it has.
    pub(crate) fn handle_connected(&mut self, net: &mut Network, link: LinkId, node: NodeId, fast: Fast) {
        let id = SourceId(self.next_source);
        self.next_source += 1;
        let mut peer = Peer::new(id, node, link, fast, self.torrent.piece_count(), net.now());
        let mut greeting = Vec::new();
        match fast {
            Fast::Yes if self.present.is_full() => greeting.push(Message::HaveAll),
            Fast::Yes if self.present.count_ones() == 0 => greeting.push(Message::HaveNone),
            Fast::No if self.present.count_ones() == 0 => {}
            _ => greeting.push(Message::Bitfield(self.present.to_wire().into())),
        }
        greeting.push(self.extension_handshake());
        if fast == Fast::Yes {
            for _ in 0..self.character.allowed_fast {
                let piece = self.random.below(u64::from(self.torrent.piece_count())) as u32;
                if self.present.get(piece) && !peer.stance.allowed_by_us.contains(&piece) {
                    peer.stance.allowed_by_us.push(piece);
                    greeting.push(Message::AllowedFast(piece));
                }
            }
        }
        self.by_link.insert(link, id);
        self.peers.insert(id, peer);
        for message in &greeting {
            self.send(net, id, message);
        }
    }

    /// Bytes came over a link.
    pub(crate) fn handle_bytes(&mut self, net: &mut Network, link: LinkId, data: &Bytes) {
        let Some(id) = self.by_link.get(&link).copied() else { return };
        let decoder = Decoder::for_torrent(self.torrent.piece_count());
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let mut inbox = std::mem::take(&mut peer.inbox);
        inbox.extend_from_slice(data);
        while let Some(message) = decoder.decode(&mut inbox).expect("nodes speak the protocol") {
            self.handle_message(net, id, message);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.inbox = inbox;
        }
        self.settle(net);
    }

    /// A link is gone.
    pub(crate) fn handle_closed(&mut self, net: &mut Network, link: LinkId) {
        if let Some(id) = self.by_link.get(&link).copied() {
            self.close_peer(net, id);
            self.settle(net);
        }
    }

    /// After each round: asks for what is wanted, starts verifying what is complete, and looks at itself.
    pub(crate) fn settle(&mut self, net: &mut Network) {
        self.request_blocks(net);
        for gathered in std::mem::take(&mut self.complete) {
            let after = self.random.millis(0, 20);
            net.schedule(after, Happening::Verify(self.id, Box::new(gathered)));
        }
        self.assert_promises();
    }

    fn send(&self, net: &mut Network, id: SourceId, message: &Message) {
        let Some(peer) = self.peers.get(&id) else { return };
        let mut out = BytesMut::new();
        message.encode(&mut out);
        net.send(peer.link, self.id, out.freeze());
    }

    fn close_peer(&mut self, net: &mut Network, id: SourceId) {
        let Some(mut peer) = self.peers.remove(&id) else { return };
        self.by_link.remove(&peer.link);
        net.close(peer.link, Some(self.id));
        let lost = peer.withdraw_all();
        self.give_back(net.now(), id, &lost);
        self.picker.remove_availability(peer.bits.iter_ones());
        self.choker.handle_disconnected(net.now(), id);
    }
}
