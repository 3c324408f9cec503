//! The torrent's web seeds: which there are, which are in use, and what is wrong with the others.
//!
//! A seed in use is one of the torrent's peers, one that has everything and never chokes; `crate::web_seed` is its
//! connection. Seeds are taken into use when there is something to fetch and put away when there is not, so that an idle
//! torrent costs nothing. Invariant: a seed in use is a peer with the number that is noted here, and the other way round.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::geometry::FileIndex;
use wtfs_proto::id::PeerId;
use wtfs_proto::metainfo::Metainfo;
use wtfs_proto::swarm::picker::{BlockKey, SourceId};
use wtfs_proto::time::Moment;

use super::SwarmTask;
use super::peers::{About, Peer, Pieces};
use super::suspects::Contributor;
use crate::http::NamedHosts;
use crate::peer_task::{CloseReason, HasFast};
use crate::status::{WebSeedState, WebSeedStatus};
use crate::transport::{Direction, TransportKind};
use crate::web_seed::{self, Dialect, Seed, SeedAddress, SeedEvent};

/// Web seeds of one torrent that are known at all. A list comes from a stranger: it may not make us flood a host.
const MAX_KNOWN: usize = 32;
/// Those in use at once. More than a few add nothing but requests.
const MAX_IN_USE: usize = 6;

/// A seed without any file of the torrent may have them later: hubs hash and proxies fetch.
const EMPTY_FOR: Moment = Duration::from_secs(120);
/// A seed of which nothing was wanted for this long is put away.
const IDLE_FOR: Moment = Duration::from_secs(30);

/// What keeps a seed from being used.
#[derive(Debug, Clone)]
enum Trouble {
    /// Until then, for this reason.
    Waits(Moment, String),
    /// For good: it cannot serve this torrent.
    Left(String),
    /// For good: it sent wrong bytes.
    Banned(String),
}

#[derive(Debug)]
struct Known {
    address: SeedAddress,
    in_use: Option<SourceId>,
    trouble: Option<Trouble>,
    /// Of the times it was in use before.
    downloaded_bytes: u64,
    /// Since when nothing is asked of it.
    idle_since: Moment,
}

impl Known {
    fn is_usable(&self, now: Moment) -> bool {
        match &self.trouble {
            None => true,
            Some(Trouble::Waits(until, _)) => *until <= now,
            Some(Trouble::Left(_) | Trouble::Banned(_)) => false,
        }
    }

    fn complaint(&self) -> Option<&str> {
        match self.trouble.as_ref()? {
            Trouble::Waits(_, reason) | Trouble::Left(reason) | Trouble::Banned(reason) => Some(reason),
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct WebSeeds {
    known: Vec<Known>,
    named: NamedHosts,
}

impl WebSeeds {
    /// The seeds of the metainfo and the magnet. All hosts that these name may be private.
    pub(super) fn new(metainfo: &Metainfo, of_magnet: &[String], also_named: &[String]) -> Self {
        let files = metainfo.url_list.iter().chain(of_magnet).map(|url| (url, Dialect::Files));
        let pieces = metainfo.http_seeds.iter().map(|url| (url, Dialect::Pieces));
        let mut known: Vec<Known> = Vec::new();
        for (url, dialect) in files.chain(pieces) {
            let Some(address) = SeedAddress::parse(url, dialect) else {
                tracing::debug!(url, "not a web seed that can be asked");
                continue;
            };
            if known.len() < MAX_KNOWN && !known.iter().any(|other| other.address == address) {
                known.push(Known {
                    address,
                    in_use: None,
                    trouble: None,
                    downloaded_bytes: 0,
                    idle_since: Moment::ZERO,
                });
            }
        }
        let urls = metainfo.url_list.iter().chain(&metainfo.http_seeds).chain(of_magnet).chain(also_named);
        let urls = urls.chain(metainfo.announce.iter().flatten());
        Self { known, named: NamedHosts::of(urls.map(String::as_str)) }
    }

    fn of_source(&mut self, id: SourceId) -> Option<&mut Known> {
        self.known.iter_mut().find(|known| known.in_use == Some(id))
    }

    /// A few words on the seeds, for the log line of a read that failed.
    pub(super) fn summary(&self) -> String {
        let words = self.known.iter().map(|known| {
            let complaint = known.complaint().unwrap_or("gave nothing in time");
            format!("{} {complaint}", known.address.shown())
        });
        words.collect::<Vec<_>>().join("; ")
    }
}

impl SwarmTask {
    /// Takes seeds into use that can be of use.
    pub(super) fn use_web_seeds(&mut self) {
        let Some(download) = &self.download else { return };
        if self.web_seeds.known.is_empty() || self.engine.is_offline() || !download.picker.has_work() {
            return;
        }
        let now = self.clock.now();
        let in_use = self.web_seeds.known.iter().filter(|known| known.in_use.is_some()).count();
        let is_free = |known: &Known| known.in_use.is_none() && known.is_usable(now);
        let free = (0..self.web_seeds.known.len()).filter(|at| is_free(&self.web_seeds.known[*at]));
        for number in free.take(MAX_IN_USE.saturating_sub(in_use)).collect::<Vec<_>>() {
            self.use_web_seed(number, now);
        }
    }

    fn use_web_seed(&mut self, number: usize, now: Moment) {
        let Some(download) = &mut self.download else { return };
        let id = SourceId(self.upkeep.next_source);
        self.upkeep.next_source += 1;
        let known = &mut self.web_seeds.known[number];
        known.in_use = Some(id);
        known.trouble = None;
        known.idle_since = now;
        let seed = Seed::new(
            id,
            known.address.clone(),
            self.web_seeds.named.clone(),
            self.shared.info_hash(),
            download.content.clone(),
            self.engine.clone(),
            self.channels.peer_events.clone(),
        );
        let about = About {
            // Of the host's addresses it is whichever answers; nobody is told of it.
            addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            kind: TransportKind::Http,
            direction: Direction::Outgoing,
            peer_id: PeerId::new([0; 20]),
            client: known.address.shown(),
            connected_at: now,
            fingerprint: None,
            has_fast: HasFast::No,
            has_extensions: false,
            listen_port: None,
            has_v2: false,
            web_seed: u16::try_from(number).ok(),
        };
        tracing::debug!(url = about.client, "a web seed is used");
        let pieces = Bitfield::full(download.content.geometry().piece_count());
        download.picker.add_availability(pieces.iter_ones());
        let mut peer = Peer::new(id, web_seed::spawn(seed), about, Pieces::Known(pieces));
        peer.stance.is_choking_us = false;
        peer.stance.are_we_interested = true;
        self.peers.insert(id, peer);
        self.upkeep.needs_requests();
    }

    /// A seed says what it cannot give.
    pub(super) fn handle_seed_event(&mut self, id: SourceId, event: SeedEvent) -> Result<(), CloseReason> {
        let now = self.clock.now();
        match event {
            SeedEvent::Paused { lost, pause, reason } => {
                let until = now + pause;
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.pause(until);
                }
                if let Some(known) = self.web_seeds.of_source(id) {
                    let reason = reason.or_else(|| known.complaint().map(str::to_owned));
                    known.trouble = Some(Trouble::Waits(until, reason.unwrap_or_default()));
                }
                self.give_back_lost(id, &lost);
                self.upkeep.wake_soon();
                Ok(())
            }
            SeedEvent::FileGone { lost, file, reason } => {
                self.give_back_lost(id, &lost);
                self.handle_file_gone(id, file, reason)
            }
        }
    }

    fn give_back_lost(&mut self, id: SourceId, lost: &[BlockKey]) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let lost: Vec<BlockKey> = lost.iter().copied().filter(|key| peer.withdraw(*key)).collect();
        self.give_back(id, &lost);
    }

    /// Whatever lies in the file, the seed has no piece of it.
    fn handle_file_gone(&mut self, id: SourceId, file: FileIndex, reason: String) -> Result<(), CloseReason> {
        let (Some(peer), Some(download)) = (self.peers.get(&id), &self.download) else { return Ok(()) };
        let Some(mut bits) = peer.bits().cloned() else { return Ok(()) };
        let geometry = download.content.geometry();
        for piece in geometry.pieces_of(file, 0..geometry.file_len(file)) {
            bits.clear(piece.get());
        }
        if bits.count_ones() == 0 {
            return Err(CloseReason::WebSeedEmpty(reason));
        }
        self.replace_pieces(id, bits)
    }

    /// A seed gave something: whatever was wrong is over.
    pub(super) fn handle_seed_gave(&mut self, id: SourceId) {
        let now = self.clock.now();
        if let Some(known) = self.web_seeds.of_source(id) {
            known.idle_since = now;
            if !matches!(known.trouble, Some(Trouble::Waits(until, _)) if until > now) {
                known.trouble = None;
            }
        }
    }

    /// A seed is no longer in use.
    pub(super) fn handle_seed_closed(&mut self, peer: &Peer, reason: &CloseReason) {
        let now = self.clock.now();
        let Some(known) = self.web_seeds.of_source(peer.id) else { return };
        known.in_use = None;
        known.downloaded_bytes += peer.traffic.down_bytes;
        let url = known.address.shown();
        let said = reason.to_string();
        match reason {
            // Nothing is wrong with it; whatever it was told to wait for still stands.
            CloseReason::BothSeeds | CloseReason::Shutdown => {}
            CloseReason::WebSeedEmpty(_) => {
                tracing::warn!(url, reason = said, "a web seed has none of the torrent's data");
                known.trouble = Some(Trouble::Waits(now + EMPTY_FOR, said));
            }
            CloseReason::WebSeed(_) => {
                tracing::warn!(url, reason = said, "a web seed is left");
                known.trouble = Some(Trouble::Left(said));
            }
            reason if reason.is_misbehaviour() => {
                tracing::warn!(url, reason = said, "a web seed is banned");
                known.trouble = Some(Trouble::Banned(said));
            }
            _ => known.trouble = Some(Trouble::Waits(now + IDLE_FOR, said)),
        }
    }

    /// Bans a seed that sent wrong bytes.
    pub(super) fn ban_web_seed(&mut self, number: u16) {
        let Some(known) = self.web_seeds.known.get_mut(usize::from(number)) else { return };
        self.suspects.forget(Contributor::WebSeed(number));
        match known.in_use {
            Some(id) => self.close_peer(id, &CloseReason::BadData),
            None => known.trouble = Some(Trouble::Banned(CloseReason::BadData.to_string())),
        }
    }

    /// Puts seeds away of which nothing has been wanted for a while.
    pub(super) fn rest_web_seeds(&mut self, now: Moment) {
        let has_work = self.download.as_ref().is_some_and(|download| download.picker.has_work());
        let mut idle = Vec::new();
        for known in &mut self.web_seeds.known {
            let Some(peer) = known.in_use.and_then(|id| self.peers.get(&id)) else { continue };
            if has_work || peer.outstanding() > 0 {
                known.idle_since = now;
            } else if now.saturating_sub(known.idle_since) >= IDLE_FOR {
                idle.push(peer.id);
            }
        }
        for id in idle {
            self.close_peer(id, &CloseReason::Shutdown);
        }
    }

    /// For people.
    pub(super) fn web_seed_status(&self, now: Moment) -> Vec<WebSeedStatus> {
        let one = |known: &Known| {
            let peer = known.in_use.and_then(|id| self.peers.get(&id));
            let state = match (&known.trouble, peer) {
                (Some(Trouble::Banned(_)), _) => WebSeedState::Banned,
                (Some(Trouble::Left(_)), _) => WebSeedState::Left,
                (Some(Trouble::Waits(until, _)), _) if *until > now => WebSeedState::Waiting,
                (_, Some(peer)) if peer.outstanding() > 0 => WebSeedState::Active,
                _ => WebSeedState::Idle,
            };
            WebSeedStatus {
                url: known.address.shown(),
                state,
                reason: known.complaint().map(str::to_owned),
                downloaded_bytes: known.downloaded_bytes + peer.map_or(0, |peer| peer.traffic.down_bytes),
                download_rate: peer.map_or(0, |peer| peer.traffic.down.rate(now)),
                outstanding: peer.map_or(0, Peer::outstanding),
            }
        };
        self.web_seeds.known.iter().map(one).collect()
    }
}
