//! The status a torrent publishes.

use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::time::Moment;

use super::SwarmTask;
use super::peers::Peer;
use crate::status::{PeerStatus, ServersStatus, SourceKind, SourceStatus, TorrentStatus, WaitStatus};
use crate::tracker::announcer::TrackerStateName;

impl SwarmTask {
    /// Publishes what [`crate::Torrent::status`] shows.
    pub(super) fn report(&mut self, now: Moment) {
        self.look_at_stalls(now);
        let status = TorrentStatus {
            download_rate: self.upkeep.down.rate(now),
            upload_rate: self.upkeep.up.rate(now),
            waits: WaitStatus {
                not_stored: self.download.as_ref().and_then(|d| d.not_stored.clone()),
                ..self
                    .upkeep
                    .stalls
                    .status(self.download.as_ref().map_or(0, |d| d.demands.len()), &self.shared.counters)
            },
            in_flight_bytes: self.download.as_ref().map_or(0, |d| d.picker.in_flight_bytes()),
            sources: self.sources_status(now),
            peers: self
                .peers
                .values()
                .filter(|peer| peer.about.web_seed.is_none())
                .map(|peer| peer_status(peer, now))
                .collect(),
            bans: self.upkeep.bans.status(),
            servers: ServersStatus {
                known_peers: self.candidates.idle_count(),
                web_seeds: self.web_seed_status(now),
                ..ServersStatus::default()
            },
            ..self.shared.blank_status()
        };
        self.shared.publish(status);
    }

    /// The connected sources by their kind.
    fn sources_status(&self, now: Moment) -> Vec<SourceStatus> {
        let of_kind = |kind: SourceKind| {
            let moved = self.shared.counters.moved(kind);
            let (down, up) = &self.upkeep.kinds[kind as usize];
            SourceStatus {
                kind,
                connected: self.peers.values().filter(|peer| kind == peer.about.kind.into()).count(),
                download_rate: down.rate(now),
                upload_rate: up.rate(now),
                downloaded_bytes: moved.down.total(),
                uploaded_bytes: moved.up.total(),
            }
        };
        let all = SourceKind::ALL.into_iter().map(of_kind);
        all.filter(|all| all.connected > 0 || all.downloaded_bytes > 0 || all.uploaded_bytes > 0).collect()
    }

    /// A few words on the trackers, for the log line of a read that failed.
    pub(super) fn tracker_summary(&self) -> String {
        let trackers = self.announcer.status();
        let working = trackers.iter().filter(|t| t.state == TrackerStateName::Working).count();
        format!("{working} of {} working", trackers.len())
    }
}

fn peer_status(peer: &Peer, now: Moment) -> PeerStatus {
    PeerStatus {
        addr: peer.about.addr,
        client: peer.about.client.clone(),
        source: peer.about.kind.into(),
        direction: peer.about.direction,
        pieces: peer.bits().map_or(0, Bitfield::count_ones),
        is_unchoking_us: !peer.stance.is_choking_us,
        is_unchoked: !peer.stance.are_we_choking,
        are_we_interested: peer.stance.are_we_interested,
        is_interested: peer.stance.is_interested,
        is_snubbed: peer.pipeline.is_snubbed(),
        downloaded_bytes: peer.traffic.down_bytes,
        uploaded_bytes: peer.traffic.up_bytes,
        download_rate: peer.traffic.down.rate(now),
        upload_rate: peer.traffic.up.rate(now),
        outstanding: peer.outstanding(),
    }
}
