//! What is done by the clock: time-outs, choking rounds, interest.

use std::time::Duration;

use wtfs_proto::choke::{PeerView, Role};
use wtfs_proto::swarm::picker::SourceId;
use wtfs_proto::time::Moment;
use wtfs_proto::wire::message::Message;

use super::Node;
use crate::simulation::network::{Happening, Network};

const BUSY_TICK: Duration = Duration::from_millis(100);
const CALM_TICK: Duration = Duration::from_millis(500);
const INTEREST_EVERY: Duration = Duration::from_secs(5);

impl Node {
    pub(crate) fn handle_tick(&mut self, net: &mut Network) {
        let now = net.now();
        self.time_out_requests(net);
        self.expire_reads(net);
        self.hold_choke_round(net);
        for piece in self.picker.abandoned(now) {
            self.gathering.remove(&piece.get());
            self.picker.handle_failed(piece);
        }
        if now >= self.agenda.interest_at {
            self.agenda.interest_at = now + INTEREST_EVERY;
            self.check_interest(net);
        }
        self.needs_requests();
        self.settle(net);
        let is_busy =
            !self.reads.waiting.is_empty() || self.peers.values().any(|peer| peer.oldest_request().is_some());
        net.schedule(if is_busy { BUSY_TICK } else { CALM_TICK }, Happening::Tick(self.id));
    }

    fn time_out_requests(&mut self, net: &mut Network) {
        let now = net.now();
        let mut given_up = Vec::new();
        for peer in self.peers.values_mut() {
            let timeout = peer.pipeline.request_timeout();
            let Some(oldest) = peer.oldest_request() else { continue };
            if now.saturating_sub(oldest) < timeout {
                continue;
            }
            let keys = peer.withdraw_older(now.saturating_sub(timeout) + Moment::from_nanos(1));
            peer.pipeline.handle_timeout(now);
            self.tally.snubbed += u64::from(peer.pipeline.is_snubbed());
            given_up.push((peer.id, keys));
        }
        for (id, keys) in given_up {
            for key in &keys {
                self.send(net, id, &Message::Cancel(self.request_of(*key)));
            }
            self.give_back(now, id, &keys);
        }
    }

    fn hold_choke_round(&mut self, net: &mut Network) {
        let now = net.now();
        if now < self.choker.poll_timeout() {
            return;
        }
        let view: Vec<PeerView<SourceId>> = self
            .peers
            .values()
            .map(|peer| PeerView {
                key: peer.id,
                is_interested: peer.stance.is_interested,
                is_snubbing: peer.pipeline.is_snubbed(),
                download_rate: peer.down.rate(now),
                upload_rate: peer.up.rate(now),
                connected_at: peer.connected_at,
            })
            .collect();
        let role = if self.picker.has_work() { Role::Downloading } else { Role::Seeding };
        let random = &mut self.random;
        let changes = self.choker.handle_round(now, role, &view, &mut || random.next());
        for id in changes.choke {
            if let Some(peer) = self.peers.get_mut(&id) {
                assert!(!peer.stance.are_we_choking, "{id:?} was choked twice");
                peer.stance.are_we_choking = true;
            }
            self.send(net, id, &Message::Choke);
            self.drop_uploads(net, id);
        }
        for id in changes.unchoke {
            if let Some(peer) = self.peers.get_mut(&id) {
                assert!(
                    peer.stance.are_we_choking && peer.stance.is_interested,
                    "{id:?} was unchoked in vain"
                );
                peer.stance.are_we_choking = false;
            }
            self.send(net, id, &Message::Unchoke);
        }
    }

    fn check_interest(&mut self, net: &mut Network) {
        let mut changed = Vec::new();
        for peer in self.peers.values_mut() {
            let is_interesting = self.picker.is_interesting(&peer.bits);
            if is_interesting != peer.stance.are_we_interested {
                peer.stance.are_we_interested = is_interesting;
                changed.push((peer.id, is_interesting));
            }
        }
        for (id, is_interesting) in changed {
            let message = if is_interesting { Message::Interested } else { Message::NotInterested };
            self.send(net, id, &message);
        }
    }
}
