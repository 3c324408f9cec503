//! A whole swarm: nodes, the network between them, and what goes wrong; run until all is done.
//!
//! Owns the order of events and nothing else: what a node does is the node's business. A run is a function of its
//! scenario and its seed.

use std::sync::Arc;
use std::time::Duration;

use wtfs_proto::time::Moment;

use super::network::{Happening, Network, NodeId, Path};
use super::node::{Conduct, Facts, Node};
use super::peer::Fast;
use super::random::Random;
use super::scenario::{Loyalty, Scenario, Speed, Storm};
use super::torrent::Torrent;

#[derive(Debug)]
pub(crate) struct Swarm {
    net: Network,
    pub(crate) nodes: Vec<Node>,
    pub(crate) torrent: Arc<Torrent>,
    facts: Arc<Facts>,
    loyalties: Vec<Loyalty>,
    is_online: Vec<bool>,
    storm: Option<Storm>,
    limit: Moment,
    random: Random,
}

impl Swarm {
    pub(crate) fn new(scenario: Scenario, mut random: Random) -> Self {
        let torrent = Torrent::of(scenario.shape);
        let members = scenario.members;
        let facts = Arc::new(Facts {
            conducts: members.iter().map(|member| member.character.conduct).collect(),
            is_quick: members.iter().map(|member| member.speed == Speed::Quick).collect(),
        });
        let loyalties: Vec<Loyalty> = members.iter().map(|member| member.loyalty).collect();
        let mut net = Network::new(random.fork());
        let nodes: Vec<Node> = members
            .into_iter()
            .enumerate()
            .map(|(id, member)| {
                let (torrent, facts) = (torrent.clone(), facts.clone());
                Node::new(NodeId(id), member.character, torrent, facts, member.present, random.fork())
            })
            .collect();
        for (id, loyalty) in loyalties.iter().enumerate() {
            net.schedule(random.millis(0, 100), Happening::Tick(NodeId(id)));
            net.schedule(random.millis(0, 1_000), Happening::Read(NodeId(id)));
            if let Loyalty::LeavesForEver(at) = loyalty {
                net.schedule(*at, Happening::Leave(NodeId(id)));
            }
            for other in 0..id {
                net.schedule(random.millis(0, 500), Happening::Connect(NodeId(id), NodeId(other)));
            }
        }
        if let Some(storm) = &scenario.storm {
            net.schedule(Duration::from_millis(*storm.pause_ms.end()), Happening::Fault);
        }
        Self {
            is_online: vec![true; nodes.len()],
            net,
            nodes,
            torrent,
            facts,
            loyalties,
            storm: scenario.storm,
            limit: scenario.limit,
            random,
        }
    }

    /// Runs until everybody has what it set out to get.
    pub(crate) fn run(&mut self) {
        while !self.nodes.iter().all(Node::is_done) {
            let what = self.net.next().expect("nodes tick for ever");
            if self.net.now() > self.limit {
                let state: Vec<String> = self.nodes.iter().map(Node::describe).collect();
                panic!("not done after {:?} of virtual time:\n{}", self.limit, state.join("\n"));
            }
            self.handle(what);
        }
        for node in &self.nodes {
            node.assert_end();
        }
    }

    /// What tells one history from another: how many events there were, and when the last one was.
    pub(crate) fn fingerprint(&self) -> (u64, Moment) {
        (self.net.scheduled(), self.net.now())
    }

    fn handle(&mut self, what: Happening) {
        let net = &mut self.net;
        match what {
            Happening::Bytes { link, to, data } => {
                if net.is_open(link) {
                    self.nodes[to.0].handle_bytes(net, link, &data);
                }
            }
            Happening::Closed { link, to } => {
                self.nodes[to.0].handle_closed(net, link);
                let [a, b] = net.ends(link);
                net.schedule(self.random.millis(200, 2_000), Happening::Connect(a, b));
            }
            Happening::Serve { link, from } => {
                if net.is_open(link) {
                    self.nodes[from.0].handle_serve(net, link);
                }
            }
            Happening::Tick(node) => self.nodes[node.0].handle_tick(net),
            Happening::Verify(node, gathered) => self.nodes[node.0].handle_verify(net, &gathered),
            Happening::Read(node) => self.nodes[node.0].handle_read(net),
            Happening::Withdraw(node) => self.nodes[node.0].handle_withdraw(net),
            Happening::Connect(a, b) => self.connect(a, b),
            Happening::Fault => self.handle_fault(),
            Happening::Leave(node) => self.leave(node),
            Happening::Return(node) => {
                self.is_online[node.0] = true;
                for other in 0..self.nodes.len() {
                    if other != node.0 {
                        let after = self.random.millis(0, 500);
                        self.net.schedule(after, Happening::Connect(node, NodeId(other)));
                    }
                }
            }
        }
    }

    fn connect(&mut self, a: NodeId, b: NodeId) {
        let (first, second) = (&self.nodes[a.0], &self.nodes[b.0]);
        let is_banned = first.has_banned(b) || second.has_banned(a);
        let is_pointless = first.has_all() && second.has_all();
        if is_banned || is_pointless || !self.is_online[a.0] || !self.is_online[b.0] {
            return;
        }
        match (first.is_connected_to(b), second.is_connected_to(a)) {
            (true, true) => return,
            (false, false) => {}
            // One end has not heard yet that the last link is gone.
            _ => {
                self.net.schedule(Duration::from_millis(300), Happening::Connect(a, b));
                return;
            }
        }
        let there = self.path(a, b);
        let back = self.path(a, b);
        let fast = if self.random.is_hit(75) { Fast::Yes } else { Fast::No };
        let link = self.net.open([a, b], there, back);
        self.nodes[a.0].handle_connected(&mut self.net, link, b, fast);
        self.nodes[b.0].handle_connected(&mut self.net, link, a, fast);
    }

    fn path(&mut self, a: NodeId, b: NodeId) -> Path {
        let is_quick = self.facts.is_quick[a.0] && self.facts.is_quick[b.0];
        let bytes_per_s = if is_quick {
            self.random.between(100_000, 2_000_000)
        } else {
            self.random.between(8_000, 40_000)
        };
        Path { delay: self.random.millis(1, 80), jitter: self.random.millis(0, 20), bytes_per_s }
    }

    fn leave(&mut self, node: NodeId) {
        self.is_online[node.0] = false;
        for link in self.nodes[node.0].links() {
            self.net.close(link, None);
        }
    }

    fn handle_fault(&mut self) {
        let Some(storm) = self.storm.clone() else { return };
        if self.net.now() >= storm.until {
            return;
        }
        match self.random.below(10) {
            0..3 => {
                let links = self.net.open_links();
                if !links.is_empty() {
                    self.net.close(links[self.random.index(links.len())], None);
                }
            }
            3..6 => {
                let links = self.net.open_links();
                if !links.is_empty() {
                    let time = self.random.millis(500, 15_000);
                    self.net.stall(links[self.random.index(links.len())], time);
                }
            }
            6..8 => {
                let node = NodeId(self.random.index(self.nodes.len()));
                if self.loyalties[node.0] == Loyalty::ComesAndGoes && self.is_online[node.0] {
                    self.leave(node);
                    let after = self.random.millis(500, 30_000);
                    self.net.schedule(after, Happening::Return(node));
                }
            }
            _ => self.evict_something(),
        }
        let after = self.random.millis(*storm.pause_ms.start(), *storm.pause_ms.end());
        self.net.schedule(after, Happening::Fault);
    }

    /// A reader's cache is short of room. Only readers evict: what others have, somebody may rely on.
    fn evict_something(&mut self) {
        let node = self.random.index(self.nodes.len());
        let piece = self.random.below(u64::from(self.torrent.piece_count())) as u32;
        let node = &mut self.nodes[node];
        if node.character.script.is_some() && !node.is_filling() && node.character.conduct == Conduct::Honest
        {
            node.evict(&mut self.net, piece);
        }
    }
}
