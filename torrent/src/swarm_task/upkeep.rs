//! What is done by the clock: time-outs, choking rounds, retries, the record, the status; and small running values.

use std::time::Duration;

use wtfs_proto::choke::{PeerView, Role};
use wtfs_proto::peer::pipeline::Pipeline;
use wtfs_proto::rate::RateMeter;
use wtfs_proto::swarm::picker::{Filling, SourceId};
use wtfs_proto::time::Moment;
use wtfs_proto::wire::extended::UT_PEX;
use wtfs_proto::wire::message::Message;
use wtfs_proto::wire::pex::{MAX_SENT, PexFlags, PexMessage, PexPeer};

use super::bans::Bans;
use super::demands::answer;
use super::download::{Download, Watcher};
use super::opening::IsAskingDue;
use super::rivals::Rivals;
use super::stalls::Stalls;
use super::{BUSY_TICK, Event, SwarmTask, one};
use crate::config::UploadPolicy;
use crate::error::ReadError;
use crate::peer_task::{CloseReason, PeerCommand};
use crate::status::{Counters, Phase, SourceKind};
use crate::store::StoreError;
use crate::torrent::Content;

/// However much is due, the task is not woken more often.
const LEAST_TICK: Duration = Duration::from_millis(5);
/// The tick while a read waits and another peer could be asked for what is late: half of a usual round trip.
const HEDGING_TICK: Duration = Duration::from_millis(20);
/// The tick with peers but no read waiting.
const CALM_TICK: Duration = Duration::from_millis(500);
/// The tick with nobody there.
const IDLE_TICK: Duration = Duration::from_secs(2);
/// The tick when nothing is left to be done by the clock: a thousand idle torrents must not keep a core awake.
const QUIET_TICK: Duration = Duration::from_secs(60);

/// How often what is new is made durable.
const CHECKPOINT_EVERY: Moment = Moment::from_secs(2);
/// How often it is saved which pieces were used when.
const SAVE_RECENCY_EVERY: Moment = Moment::from_secs(60);
/// How often the status is published.
const REPORT_EVERY: Moment = Moment::from_millis(450);
/// How often each peer is told of new peers (BEP 11 allows once a minute).
const PEX_EVERY: Moment = Moment::from_secs(60);
/// How often it is checked whether peers are still of interest.
const INTEREST_EVERY: Moment = Moment::from_secs(5);
/// How often resting peers are asked for metadata again.
const METADATA_EVERY: Moment = Moment::from_secs(1);
/// Trackers are asked for more peers at most this often.
const WANT_PEERS_EVERY: Moment = Moment::from_secs(30);

/// Small running values of the task.
#[derive(Debug)]
pub(super) struct Upkeep {
    pub(super) down: RateMeter,
    pub(super) up: RateMeter,
    /// Received and sent, by the kind of source.
    pub(super) kinds: [(RateMeter, RateMeter); SourceKind::ALL.len()],
    pub(super) next_source: u32,
    pub(super) connecting: usize,
    pub(super) bans: Bans,
    pub(super) rivals: Rivals,
    pub(super) is_filling: bool,
    /// Everything is fetched for others.
    pub(super) is_bridging: bool,
    pub(super) in_flight_reported: u64,
    pub(super) stalls: Stalls,
    targets: Targets,
    is_waking_soon: bool,
    checkpoint_at: Moment,
    recency_at: Moment,
    report_at: Moment,
    interest_at: Moment,
    metadata_at: Moment,
    want_peers_at: Moment,
}

/// Peers to ask for blocks in this round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Targets {
    Some(Vec<SourceId>),
    All,
}

impl Targets {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Some(ids) if ids.is_empty())
    }
}

impl Upkeep {
    pub(super) fn new(is_filling: bool) -> Self {
        let span = Duration::from_secs(3);
        Self {
            down: RateMeter::new(span),
            up: RateMeter::new(span),
            kinds: SourceKind::ALL.map(|_| (RateMeter::new(span), RateMeter::new(span))),
            next_source: 0,
            connecting: 0,
            bans: Bans::new(),
            rivals: Rivals::default(),
            is_filling,
            is_bridging: false,
            in_flight_reported: 0,
            stalls: Stalls::default(),
            targets: Targets::All,
            is_waking_soon: false,
            checkpoint_at: Moment::ZERO,
            recency_at: SAVE_RECENCY_EVERY,
            report_at: Moment::ZERO,
            interest_at: Moment::ZERO,
            metadata_at: Moment::ZERO,
            want_peers_at: Moment::ZERO,
        }
    }

    /// Payload came from a source.
    pub(super) fn handle_received(&mut self, counters: &Counters, kind: SourceKind, bytes: u64, now: Moment) {
        counters.downloaded.add(bytes);
        counters.moved(kind).down.add(bytes);
        self.down.handle_bytes(now, bytes);
        self.kinds[kind as usize].0.handle_bytes(now, bytes);
    }

    /// Payload was sent, and has been counted where it was.
    pub(super) fn handle_sent(&mut self, counters: &Counters, kind: SourceKind, bytes: u64, now: Moment) {
        counters.moved(kind).up.add(bytes);
        self.up.handle_bytes(now, bytes);
        self.kinds[kind as usize].1.handle_bytes(now, bytes);
    }

    pub(super) fn watcher(&self) -> Watcher {
        if self.is_filling { Watcher::Caller } else { Watcher::Nobody }
    }

    /// Something changed that any peer may serve.
    pub(super) fn needs_requests(&mut self) {
        self.targets = Targets::All;
    }

    /// One peer has room.
    pub(super) fn needs_requests_of(&mut self, id: SourceId) {
        if let Targets::Some(ids) = &mut self.targets
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }

    pub(super) fn take_request_targets(&mut self) -> Targets {
        std::mem::replace(&mut self.targets, Targets::Some(Vec::new()))
    }

    /// The next tick is not to be a lazy one.
    pub(super) fn wake_soon(&mut self) {
        self.is_waking_soon = true;
    }

    pub(super) fn needs_interest_check(&mut self) {
        self.interest_at = Moment::ZERO;
        self.wake_soon();
    }
}

/// Whether something that happens every so often is due; marks it done.
fn is_due(at: &mut Moment, now: Moment, every: Moment) -> bool {
    if now < *at {
        return false;
    }
    *at = now + every;
    true
}

impl SwarmTask {
    /// How long the task may sleep if nothing comes in.
    pub(super) fn tick_interval(&mut self) -> Duration {
        let is_reading = self.download.as_ref().is_some_and(|d| !d.demands.is_empty());
        let is_asking = self.peers.values().any(|p| p.outstanding() > 0);
        if std::mem::take(&mut self.upkeep.is_waking_soon) {
            // A peer may wait to be unchoked in a round that is due any moment.
            let round = self.choker.poll_timeout().saturating_sub(self.clock.now());
            BUSY_TICK.min(round.max(LEAST_TICK))
        } else if is_reading && is_asking && self.peers.len() > 1 {
            HEDGING_TICK
        } else if is_reading || is_asking {
            BUSY_TICK
        } else if !self.peers.is_empty() || self.download.is_none() {
            CALM_TICK
        } else if self.is_quiet() {
            let now = self.clock.now();
            let retry = self.candidates.next_retry().map_or(QUIET_TICK, |at| at.saturating_sub(now));
            retry.clamp(IDLE_TICK, QUIET_TICK)
        } else {
            IDLE_TICK
        }
    }

    /// Whether nobody is there, nothing is to be written, and what was published stays true.
    fn is_quiet(&self) -> bool {
        let now = self.clock.now();
        let Some(download) = &self.download else { return false };
        self.peers.is_empty()
            && self.upkeep.connecting == 0
            && !download.is_dirty
            && !download.is_checkpointing
            && download.picker.in_flight_bytes() == 0
            && self.upkeep.down.rate(now) == 0
            && self.upkeep.up.rate(now) == 0
    }

    /// The tick; says when the next one is due.
    pub(super) fn handle_tick(&mut self) -> Duration {
        let now = self.clock.now();
        self.time_out_requests(now);
        self.expire_reads(now);
        self.tend_leaves(now);
        self.hold_choke_round(now);
        self.connect_more();
        self.tell_room();
        if let Some(download) = &mut self.download {
            download.drop_abandoned(now);
        }
        if is_due(&mut self.upkeep.interest_at, now, INTEREST_EVERY) {
            self.check_interest();
            self.tend_bridge();
            self.exchange_peers(now);
            self.rest_web_seeds(now);
        }
        if is_due(&mut self.upkeep.metadata_at, now, METADATA_EVERY)
            && self.opening.handle_metadata_tick(now) == IsAskingDue::Yes
        {
            self.ask_anybody_for_metadata();
        }
        let is_hungry = self.peers.is_empty() && self.download.as_ref().is_none_or(|d| d.picker.has_work());
        if is_hungry && is_due(&mut self.upkeep.want_peers_at, now, WANT_PEERS_EVERY) {
            self.announcer.want_peers();
        }
        if is_due(&mut self.upkeep.checkpoint_at, now, CHECKPOINT_EVERY) {
            self.start_checkpoint();
        }
        if is_due(&mut self.upkeep.recency_at, now, SAVE_RECENCY_EVERY)
            && let Some(content) = self.shared.content().cloned()
        {
            self.engine.disk.start(&self.engine.tasks, move || content.save_recency());
        }
        if is_due(&mut self.upkeep.report_at, now, REPORT_EVERY) {
            self.report(now);
        }
        // Whatever the time-outs gave back, and late blocks worth asking somebody else for.
        self.upkeep.needs_requests();
        let next = self.tick_interval();
        if next > IDLE_TICK {
            // Nothing will be published for long: this is how things stay.
            self.report(now);
        }
        next
    }

    /// The content is there: files can be opened, and what peers said of their pieces has a meaning.
    pub(super) fn handle_content(&mut self, content: std::sync::Arc<Content>) {
        if let Some(own) = &self.engine.config.own_tracker
            && !content.metainfo.info.is_private
            && !self.engine.is_offline()
        {
            self.announcer.add_trackers(vec![own.url.clone()]);
        }
        let count = content.geometry().piece_count();
        let mut download = Download::new(content.clone(), self.engine.config.memory_bytes);
        if self.upkeep.is_filling {
            download.picker.set_filling(Filling::Everything);
        }
        self.web_seeds = self.opening.web_seeds(&content.metainfo);
        let is_late = !self.peers.is_empty();
        self.download = Some(download);
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            if let Err(reason) = self.adopt_raw_pieces(id, count) {
                self.close_peer(id, &reason);
            }
        }
        if is_late {
            self.repeat_extended_handshake();
            for piece in content.present.to_bitfield().iter_ones() {
                self.announce_piece(piece);
            }
        }
        self.shared.phase.send_replace(Phase::Ready);
        self.upkeep.needs_requests();
    }

    fn time_out_requests(&mut self, now: Moment) {
        let mut given_up = Vec::new();
        for peer in self.peers.values_mut() {
            let timeout = peer.pipeline.request_timeout();
            let Some(oldest) = peer.oldest_request() else { continue };
            if now.saturating_sub(oldest) < timeout {
                continue;
            }
            let keys = peer.withdraw_older(now.saturating_sub(timeout) + Moment::from_nanos(1));
            peer.pipeline.handle_timeout(now);
            tracing::debug!(addr = %peer.about.addr, blocks = keys.len(), "requests timed out");
            given_up.push((peer.id, keys));
        }
        for (id, keys) in given_up {
            let requests: Vec<Message> = match &self.download {
                Some(download) => {
                    let geometry = download.content.geometry();
                    let pick = |key: &_| wtfs_proto::swarm::picker::Pick { key: *key, urgency: None };
                    keys.iter().map(|key| Message::Cancel(super::request_of(geometry, &pick(key)))).collect()
                }
                None => Vec::new(),
            };
            let sent = self.peers.get(&id).map(|peer| peer.link.send(PeerCommand::Messages(requests)));
            self.give_back(id, &keys);
            if let Some(Err(reason)) = sent {
                self.close_peer(id, &reason);
            }
        }
    }

    fn expire_reads(&mut self, now: Moment) {
        let Some(download) = &mut self.download else { return };
        for id in download.demands.abandoned() {
            download.picker.clear_demand(id);
        }
        let picker = &download.picker;
        let expired =
            download.demands.expire(now, self.engine.config.read_timeout, |p| picker.last_block_at(p));
        for read in &expired {
            download.picker.clear_demand(read.id);
        }
        let trackers = if expired.is_empty() { String::new() } else { self.tracker_summary() };
        for read in expired {
            self.shared.counters.failed_reads.add(1);
            let sources =
                self.peers.values().filter(|p| p.bits().is_some_and(|bits| bits.get(read.piece))).count();
            let error = ReadError::Timeout {
                piece: read.piece,
                sources,
                connected: self.peers.len(),
                waited: read.waited,
            };
            let cause = self.stall_cause(read.piece).name();
            tracing::warn!(
                piece = read.piece,
                cause,
                sources,
                connected = self.peers.len(),
                known = self.candidates.idle_count(),
                trackers,
                web_seeds = self.web_seeds.summary(),
                "a read got no data: {error}"
            );
            answer(read.reply, Err(error));
        }
    }

    /// Holds a round if one is due.
    pub(super) fn hold_choke_round(&mut self, now: Moment) {
        if self.engine.config.upload == UploadPolicy::Off || now < self.choker.poll_timeout() {
            return;
        }
        let view: Vec<PeerView<SourceId>> = self
            .peers
            .values()
            .filter(|peer| peer.about.web_seed.is_none())
            .map(|peer| PeerView {
                key: peer.id,
                is_interested: peer.stance.is_interested,
                is_snubbing: Pipeline::is_snubbed(&peer.pipeline),
                download_rate: peer.traffic.down.rate(now),
                upload_rate: peer.traffic.up.rate(now),
                connected_at: peer.about.connected_at,
            })
            .collect();
        let is_downloading = self.download.as_ref().is_some_and(|d| d.picker.has_work());
        let role = if is_downloading { Role::Downloading } else { Role::Seeding };
        let changes = self.choker.handle_round(now, role, &view, &mut || fastrand::u64(..));
        for id in changes.choke {
            self.set_choking(id, PeerCommand::Choke);
        }
        for id in changes.unchoke {
            self.set_choking(id, PeerCommand::Unchoke);
        }
    }

    fn set_choking(&mut self, id: SourceId, command: PeerCommand) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.stance.are_we_choking = matches!(command, PeerCommand::Choke);
        if let Err(reason) = peer.link.send(command) {
            self.close_peer(id, &reason);
        }
    }

    /// Peers that have nothing we lack are told so.
    fn check_interest(&mut self) {
        let Some(download) = &self.download else { return };
        let mut failed = Vec::new();
        for peer in self.peers.values_mut() {
            let Some(bits) = peer.bits() else { continue };
            let is_interesting = download.picker.is_interesting(bits);
            if is_interesting == peer.stance.are_we_interested {
                continue;
            }
            peer.stance.are_we_interested = is_interesting;
            let message = if is_interesting { Message::Interested } else { Message::NotInterested };
            if let Err(reason) = peer.link.send(one(message)) {
                failed.push((peer.id, reason));
            }
        }
        for (id, reason) in failed {
            self.close_peer(id, &reason);
        }
    }

    /// Tells peers who else is here (BEP 11).
    fn exchange_peers(&mut self, now: Moment) {
        if self.is_private() {
            return;
        }
        let here: Vec<PexPeer> = self
            .peers
            .values()
            .filter_map(|peer| {
                let flags = if peer.is_seed() { PexFlags::SEED } else { PexFlags::default() };
                Some(PexPeer { addr: peer.reachable_at()?, flags })
            })
            .collect();
        let mut failed: Vec<(SourceId, CloseReason)> = Vec::new();
        for peer in self.peers.values_mut() {
            let Some(extension) = peer.extensions.id(UT_PEX) else { continue };
            if !peer.pex_sent.is_empty() && now.saturating_sub(peer.pex_at) < PEX_EVERY {
                continue;
            }
            let own = peer.reachable_at();
            let is_new = |other: &&PexPeer| Some(other.addr) != own && !peer.pex_sent.contains(&other.addr);
            let added: Vec<PexPeer> = here.iter().filter(is_new).take(MAX_SENT).copied().collect();
            let gone = |addr: &&std::net::SocketAddr| !here.iter().any(|other| other.addr == **addr);
            let dropped: Vec<_> = peer.pex_sent.iter().filter(gone).take(MAX_SENT).copied().collect();
            if added.is_empty() && dropped.is_empty() {
                continue;
            }
            peer.pex_at = now;
            peer.pex_sent.extend(added.iter().map(|other| other.addr));
            for addr in &dropped {
                peer.pex_sent.remove(addr);
            }
            let payload = PexMessage { added, dropped }.encode();
            if let Err(reason) = peer.link.send(one(Message::Extended { id: extension, payload })) {
                failed.push((peer.id, reason));
            }
        }
        for (id, reason) in failed {
            self.close_peer(id, &reason);
        }
    }

    fn start_checkpoint(&mut self) {
        let Some(download) = &mut self.download else { return };
        if !download.is_dirty || download.is_checkpointing {
            return;
        }
        download.is_dirty = false;
        download.is_checkpointing = true;
        let content = download.content.clone();
        let (disk, events) = (self.engine.disk.clone(), self.channels.events.clone());
        self.engine.tasks.spawn(async move {
            if let Ok(result) = disk.run(move || content.store.checkpoint()).await {
                // Fails only when the torrent is gone.
                let _gone = events.send(Event::Checkpoint(result)).await;
            }
        });
    }

    pub(super) fn handle_checkpoint(&mut self, result: Result<(), StoreError>) {
        let Some(download) = &mut self.download else { return };
        download.is_checkpointing = false;
        let Err(error) = result else { return };
        download.handle_not_recorded(&error, self.upkeep.watcher());
        if let StoreError::NotDurable { pieces, .. } = error {
            for piece in pieces {
                // Otherwise it is being evicted.
                if download.content.present.get(piece.get()) {
                    download.content.mark_absent(piece);
                    download.picker.handle_removed(piece);
                }
            }
        } else {
            download.is_dirty = true;
        }
    }
}
