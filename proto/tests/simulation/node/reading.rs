//! A reader: its reads, its read-ahead, and the answers it gets.

use std::ops::Range;
use std::time::Duration;

use wtfs_proto::readahead::{Plan, Readahead};
use wtfs_proto::swarm::{DemandId, Urgency};
use wtfs_proto::time::Moment;

use super::{Conduct, Node};
use crate::simulation::network::{Happening, Network, NodeId};

/// How long a read waits without any progress.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The demand of the read-ahead; reads are counted from one.
const AHEAD: DemandId = DemandId(0);

#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) policy: Readahead,
    pub(super) sent: Vec<Range<u32>>,
}

impl Node {
    /// The reader goes on: begins as many reads as it keeps under way.
    pub(crate) fn handle_read(&mut self, net: &mut Network) {
        let Some(script) = &mut self.character.script else { return };
        if self.reads.waiting.len() >= script.parallel() {
            return;
        }
        let Some(range) = script.advance(self.torrent.total_bytes(), &mut self.random) else { return };
        if self.random.is_hit(script.withdrawn) {
            let after = self.random.millis(5, 2_000);
            net.schedule(after, Happening::Withdraw(self.id));
        }
        self.read_ahead(net.now(), &range);
        let pieces = self.torrent.pieces_of(range.clone());
        self.tally.touched.extend(pieces.clone());
        let is_there = pieces.clone().all(|piece| self.present.get(piece));
        let id = self.reads.begin(range, pieces.clone(), net.now());
        if is_there {
            self.answer(net, id);
        } else {
            self.picker.set_demand(id, Urgency::Read, &[pieces]);
            self.needs_requests();
            // The next one of several at once.
            self.go_on_reading(net);
        }
        self.settle(net);
    }

    fn go_on_reading(&mut self, net: &mut Network) {
        let after =
            if self.random.is_hit(80) { Duration::from_micros(50) } else { self.random.millis(1, 400) };
        net.schedule(after, Happening::Read(self.id));
    }

    fn read_ahead(&mut self, now: Moment, range: &Range<u64>) {
        let len = u32::try_from(range.end - range.start).expect("a short read");
        let Some(plan) = self.ahead.policy.handle_read(now, range.start, len) else { return };
        self.assert_plan(&plan);
        let mut ranges: Vec<Range<u32>> =
            plan.ranges.into_iter().map(|range| self.torrent.pieces_of(range)).collect();
        ranges.dedup();
        ranges.retain(|range| !range.clone().all(|piece| self.present.get(piece)));
        if ranges != self.ahead.sent {
            self.picker.set_demand(AHEAD, Urgency::ReadAhead, &ranges);
            self.ahead.sent = ranges;
            self.needs_requests();
        }
    }

    fn assert_plan(&self, plan: &Plan) {
        let mut ranges = plan.ranges.clone();
        assert!(plan.total_bytes() <= self.character.max_readahead_bytes, "more is planned than the window");
        ranges.sort_by_key(|range| range.start);
        for range in &ranges {
            assert!(
                range.start < range.end && range.end <= self.torrent.total_bytes(),
                "{range:?} is planned"
            );
        }
        for pair in ranges.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{pair:?} overlap");
        }
    }

    /// A piece came: whoever lacks nothing else is answered.
    pub(super) fn answer_reads(&mut self, net: &mut Network, piece: u32) {
        let present = &self.present;
        for id in self.reads.handle_stored(piece, net.now(), |piece| present.get(piece)) {
            self.answer(net, id);
        }
    }

    fn answer(&mut self, net: &mut Network, id: DemandId) {
        self.picker.clear_demand(id);
        let read = self.reads.end(id).expect("it waits");
        let mut bytes = Vec::with_capacity((read.range.end - read.range.start) as usize);
        for piece in read.pieces {
            let index = self.torrent.geometry.piece(piece).expect("a read lies inside the torrent");
            let start = self.torrent.geometry.piece_offset(index);
            let stored =
                self.store[piece as usize].as_ref().expect("a read is answered when its pieces are there");
            let from = read.range.start.saturating_sub(start) as usize;
            let to = (read.range.end - start).min(stored.len() as u64) as usize;
            bytes.extend_from_slice(&stored[from..to]);
        }
        assert!(bytes == self.torrent.range(read.range.clone()), "wrong bytes were read at {:?}", read.range);
        self.go_on_reading(net);
    }

    /// The reader loses interest in its oldest read.
    pub(crate) fn handle_withdraw(&mut self, net: &mut Network) {
        let Some(id) = self.reads.waiting.keys().next().copied() else { return };
        self.picker.clear_demand(id);
        self.reads.end(id);
        self.go_on_reading(net);
        self.settle(net);
    }

    /// Reads for which nothing moved for too long get their error; nobody may have been there to serve them.
    pub(super) fn expire_reads(&mut self, net: &mut Network) {
        let now = net.now();
        let picker = &self.picker;
        for id in self.reads.stuck(now, READ_TIMEOUT, |piece| picker.last_block_at(piece)) {
            let Some(read) = self.reads.end(id) else { continue };
            self.picker.clear_demand(id);
            self.reads.timed_out += 1;
            let since = now.saturating_sub(READ_TIMEOUT);
            let lacked: Vec<u32> = read.pieces.clone().filter(|piece| !self.present.get(*piece)).collect();
            let served =
                lacked.iter().filter_map(|piece| self.willing_source(net, *piece, since)).collect::<Vec<_>>();
            assert!(
                served.len() < lacked.len(),
                "{:?}: a read of {:?} since {:?} timed out at {now:?}, but {served:?} would have served it; \
                 {}",
                self.id,
                read.pieces,
                read.since,
                self.describe(),
            );
            self.go_on_reading(net);
        }
    }

    /// An honest and quick peer that has had the piece, and has served us undisturbed, since a moment.
    fn willing_source(&self, net: &Network, piece: u32, since: Moment) -> Option<NodeId> {
        let is_willing = |peer: &&super::Peer| {
            self.facts.conducts[peer.node.0] == Conduct::Honest
                && self.facts.is_quick[peer.node.0]
                && net.is_open(peer.link)
                && net.stalled_until(peer.link) <= since
                && peer.stance.unchoked_since.is_some_and(|unchoked| unchoked <= since)
                && peer.bits.get(piece)
                && peer.told_at.get(&piece).is_none_or(|told| *told <= since)
        };
        self.peers.values().find(is_willing).map(|peer| peer.node)
    }
}
