//! The task of one torrent: it owns the swarm's state and makes every decision, by asking proto's pure types.
//!
//! Everything that happens comes in as a message: commands of readers, events of peers, outcomes of jobs, addresses
//! from trackers, and a tick. Handlers never await; what takes long is spawned and comes back as an [`Event`]. After
//! each round of messages the task asks peers for what is wanted now and hands complete pieces to the disk pool.
//!
//! The parts: `candidates` (whom to connect to), `peers` (who is connected), `download` (pieces), `demands` (reads that
//! wait), `messages` (what peers say), `connect`, `opening` (metadata and store), `upkeep` (ticks), `stalls`
//! (why reads wait), `standstill` (what the time is), `web_seeds`, `report` (status).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wtfs_proto::choke::Choker;
use wtfs_proto::geometry::PieceIndex;
use wtfs_proto::swarm::DemandId;
use wtfs_proto::swarm::picker::{Pick, SourceId};
use wtfs_proto::wire::handshake::Handshake;
use wtfs_proto::wire::message::{BlockRequest, Message};

use self::candidates::{Candidates, Origin};
use self::demands::Extent;
pub(crate) use self::demands::{DemandReply, Part};
use self::download::{Download, Gathered, Outcome};
use self::eviction::{Evicted, Eviction, Relieved};
use self::opening::Opening;
use self::peers::Peers;
use self::standstill::RoundClock;
use self::suspects::Suspects;
use self::web_seeds::WebSeeds;
use crate::error::{AddError, ReadError};
use crate::peer_task::{CloseReason, PeerCommand, PeerEvent};
use crate::resolve::Source;
use crate::session::{AddOptions, Engine, Fill};
use crate::store::StoreError;
use crate::torrent::{Command, Content, Shared, Torrent};
use crate::tracker::announcer::AnnouncerHandle;
use crate::transport::Connection;

mod bans;
mod bridge;
mod candidates;
#[cfg(test)]
mod conduct_tests;
mod connect;
mod demands;
mod download;
mod eviction;
mod hash_serving;
mod leaves;
mod messages;
mod opening;
mod peers;
#[cfg(feature = "webrtc")]
mod rendezvous;
mod report;
mod requests;
mod rivals;
mod stalls;
mod standstill;
mod suspects;
mod upkeep;
mod web_seeds;

/// Peer events waiting; peers stop reading their sockets when it is full. Each holds at most one read buffer.
const PEER_EVENTS: usize = 256;
/// Outcomes waiting; jobs wait when it is full.
const EVENTS: usize = 256;
/// Lists of addresses waiting.
const ADDRESS_LISTS: usize = 16;
/// Messages handled between two rounds of requests.
const BATCH: usize = 64;
/// How long after a piece did not fit on the disk reads are answered only once their pieces are stored.
const FULL_DISK_MEMORY: Duration = Duration::from_secs(30);

/// What comes back from work the task gave away.
#[derive(Debug)]
enum Event {
    /// An outgoing connection shook hands.
    Connected(Box<(Connection, Handshake)>),
    /// An outgoing connection came to nothing; `is_useless` if it must not be tried again.
    ConnectFailed { addr: SocketAddr, is_useless: bool },
    /// A piece that a read waits for was verified; it is not stored yet.
    Verified { piece: PieceIndex, blocks: Vec<bytes::Bytes> },
    /// Pieces were verified, or were not.
    Pieces(Vec<(Gathered, Outcome)>),
    /// The metadata came by HTTP.
    Metainfo(Box<wtfs_proto::metainfo::Metainfo>),
    /// The store is open, or cannot be opened.
    Opened(Result<Arc<Content>, StoreError>),
    /// The record was written.
    Checkpoint(Result<(), StoreError>),
    /// Single blocks were verified, or were not.
    Blocks(Vec<leaves::CheckedBlock>),
    /// A peer's hash request was answered.
    HashesServed(SourceId),
    /// Pieces were given up.
    Evicted(Evicted),
    /// Space was made for a piece, or could not be.
    Relieved(Box<Relieved>),
    /// Names in the magnet were looked up.
    Addresses(Vec<SocketAddr>),
}

/// The state of the task. Each field is a part with a file of its own.
#[derive(Debug)]
struct SwarmTask {
    shared: Arc<Shared>,
    engine: Arc<Engine>,
    clock: RoundClock,
    opening: Opening,
    peers: Peers,
    candidates: Candidates,
    download: Option<Download>,
    suspects: Suspects,
    web_seeds: WebSeeds,
    announcer: Arc<AnnouncerHandle>,
    choker: Choker<SourceId>,
    channels: Channels,
    upkeep: upkeep::Upkeep,
    eviction: Eviction,
}

/// Ways back into the task, handed to what it spawns.
#[derive(Debug)]
struct Channels {
    events: mpsc::Sender<Event>,
    peer_events: mpsc::Sender<(SourceId, PeerEvent)>,
    cancel: CancellationToken,
}

/// Opens what can be opened at once and spawns the task.
pub(crate) async fn start(
    torrent: &Torrent,
    source: Source,
    options: AddOptions,
    commands: mpsc::Receiver<Command>,
) -> Result<(), AddError> {
    let (shared, engine) = (torrent.shared.clone(), torrent.engine.clone());
    let fill = options.fill;
    let (peers, trackers) = (options.peers.clone(), options.trackers.clone());
    let opening = Opening::begin(&shared, &engine, source, options).await?;
    let (events, event_inbox) = mpsc::channel(EVENTS);
    let (peer_events, peer_inbox) = mpsc::channel(PEER_EVENTS);
    let (found, found_inbox) = mpsc::channel(ADDRESS_LISTS);
    let cancel = engine.cancel.child_token();
    let announcer = Arc::new(connect::announce(&shared, &engine, &opening, &trackers, found));
    shared.set_announcer(announcer.clone());
    let mut candidates = Candidates::default();
    for addr in peers.into_iter().chain(opening.peers()) {
        candidates.add(addr, Origin::Given);
    }
    let mut task = SwarmTask {
        choker: Choker::new(engine.config.upload_slots),
        clock: RoundClock::start(engine.config.read_timeout),
        peers: Peers::new(),
        candidates,
        download: None,
        suspects: Suspects::default(),
        web_seeds: WebSeeds::default(),
        announcer,
        channels: Channels { events, peer_events, cancel },
        eviction: Eviction::default(),
        upkeep: upkeep::Upkeep::new(fill == Fill::Everything),
        opening,
        shared,
        engine: engine.clone(),
    };
    task.begin();
    // Of the highest level, so that it stands in every line that is shown: a warning must name its torrent.
    let span = tracing::error_span!("torrent", ih = %short(&task.shared));
    let inboxes = Inboxes { commands, events: event_inbox, peers: peer_inbox, addresses: found_inbox };
    engine.tasks.spawn(tracing::Instrument::instrument(task.run(inboxes), span));
    Ok(())
}

fn short(shared: &Shared) -> String {
    shared.info_hash().to_string().chars().take(8).collect()
}

/// Everything that comes in.
struct Inboxes {
    commands: mpsc::Receiver<Command>,
    events: mpsc::Receiver<Event>,
    peers: mpsc::Receiver<(SourceId, PeerEvent)>,
    addresses: mpsc::Receiver<Vec<SocketAddr>>,
}

/// What begins a round.
enum Woken {
    /// Commands or what peers say, which are in lists by now.
    Messages,
    Event(Event),
    Addresses(Vec<SocketAddr>),
    Tick,
}

/// Whether the task goes on after a message.
enum Flow {
    Continue,
    Stop(tokio::sync::oneshot::Sender<()>),
}

impl SwarmTask {
    /// Takes up what `start` prepared.
    fn begin(&mut self) {
        self.tell_room();
        if let Some(content) = self.shared.content().cloned() {
            self.handle_content(content);
        } else {
            self.opening.spawn_jobs(&self.shared, &self.engine, &self.channels);
        }
        self.opening.look_up_peers(&self.engine, &self.channels.events);
    }

    async fn run(mut self, mut inboxes: Inboxes) {
        let cancel = self.channels.cancel.clone();
        let mut commands = Vec::with_capacity(BATCH);
        let mut peer_events = Vec::with_capacity(BATCH);
        let mut next_tick = Instant::now();
        let stopped = loop {
            let woken = tokio::select! {
                biased;
                () = cancel.cancelled() => break None,
                received = inboxes.commands.recv_many(&mut commands, BATCH) => {
                    if received == 0 { break None } else { Woken::Messages }
                }
                received = inboxes.peers.recv_many(&mut peer_events, BATCH) => {
                    if received == 0 { break None } else { Woken::Messages }
                }
                Some(event) = inboxes.events.recv() => Woken::Event(event),
                Some(addrs) = inboxes.addresses.recv() => Woken::Addresses(addrs),
                () = tokio::time::sleep_until(next_tick) => Woken::Tick,
            };
            self.clock.handle_woken(next_tick);
            match woken {
                Woken::Messages => {}
                Woken::Event(event) => self.handle_event(event),
                Woken::Addresses(addrs) => {
                    for addr in addrs {
                        self.candidates.add(addr, Origin::Tracker);
                    }
                    self.connect_more();
                }
                Woken::Tick => {
                    let interval = self.handle_tick();
                    next_tick = self.clock.woke_at() + interval;
                }
            }
            let mut stop = None;
            for command in commands.drain(..) {
                if let Flow::Stop(done) = self.handle_command(command) {
                    stop = Some(done);
                }
            }
            if stop.is_some() {
                break stop;
            }
            for (source, event) in peer_events.drain(..) {
                self.handle_peer_event(source, event);
            }
            self.settle();
            let interval = self.tick_interval();
            next_tick = next_tick.min(self.clock.woke_at() + interval);
        };
        self.finish(stopped).await;
    }

    /// After each round: asks for what is wanted and starts the jobs that are due.
    fn settle(&mut self) {
        self.admit_rivals();
        self.hold_fill_back();
        self.use_web_seeds();
        self.request_blocks();
        self.request_hashes();
        let now = self.clock.now();
        let Some(download) = &mut self.download else { return };
        for job in download.take_jobs(now) {
            let (content, events) = (download.content.clone(), self.channels.events.clone());
            self.engine.disk.start(&self.engine.tasks, move || {
                let outcomes = download::store_pieces(&content, job, |piece, blocks| {
                    let verified = Event::Verified { piece, blocks: blocks.to_vec() };
                    // Not worth waiting for: once the piece is stored its readers are answered too.
                    let _full = events.try_send(verified);
                });
                // Fails only when the torrent is gone.
                let _gone = events.blocking_send(Event::Pieces(outcomes));
            });
        }
    }

    fn handle_command(&mut self, command: Command) -> Flow {
        match command {
            Command::Stop(done) => return Flow::Stop(done),
            Command::Demand { id, pieces, addresses, reply } => {
                let piece_bytes = self.shared.content().map_or(1, |content| content.geometry().piece_bytes());
                self.handle_demand(id, Extent { pieces, addresses, piece_bytes }, reply);
            }
            Command::Withdraw(id) => {
                if let Some(download) = &mut self.download {
                    download.demands.withdraw(id);
                    download.picker.clear_demand(id);
                }
            }
            Command::ReadAhead { id, ranges } => {
                if let Some(download) = &mut self.download {
                    let urgency = wtfs_proto::swarm::Urgency::ReadAhead;
                    download.picker.set_demand(id, urgency, &ranges);
                    self.upkeep.needs_requests();
                }
            }
            Command::Prefetch { id, pieces } => {
                if let Some(download) = &mut self.download {
                    let urgency = wtfs_proto::swarm::Urgency::Prefetch;
                    download.picker.set_demand(id, urgency, &[pieces]);
                    self.upkeep.needs_requests();
                    self.upkeep.wake_soon();
                }
            }
            Command::Evict { pieces, reply } => self.handle_evict(pieces, reply),
            Command::AddPeers(addrs) => {
                for addr in addrs {
                    self.candidates.add(addr, Origin::Given);
                }
                self.connect_more();
            }
            Command::AddTrackers(urls) => {
                if !self.engine.is_offline() {
                    self.announcer.add_trackers(urls);
                }
            }
            Command::FillAll => {
                self.upkeep.is_filling = true;
                if let Some(download) = &mut self.download {
                    download.picker.set_filling(wtfs_proto::swarm::picker::Filling::Everything);
                }
                self.eviction.handle_filling();
                self.upkeep.needs_requests();
            }
            Command::Incoming(connected) => self.handle_connected(*connected),
        }
        Flow::Continue
    }

    fn handle_demand(&mut self, id: DemandId, extent: Extent, reply: DemandReply) {
        let now = self.clock.now();
        let Some(download) = &mut self.download else {
            demands::answer(reply, Err(ReadError::Closed));
            return;
        };
        let present = |piece| download.content.present.get(piece);
        if self.engine.is_offline()
            && let Some(piece) = extent.pieces.clone().find(|piece| !present(*piece))
        {
            demands::answer(reply, Err(ReadError::Offline { piece }));
            return;
        }
        if download.demands.add(id, extent.clone(), reply, now, present) {
            let pieces = extent.pieces.clone();
            download.picker.set_demand(id, wtfs_proto::swarm::Urgency::Read, &[pieces]);
            self.upkeep.needs_requests();
            self.upkeep.wake_soon();
            self.want_blocks(id, &extent, now);
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Connected(connected) => {
                self.upkeep.connecting -= 1;
                self.handle_connected(*connected);
            }
            Event::ConnectFailed { addr, is_useless } => {
                self.upkeep.connecting -= 1;
                if is_useless {
                    self.candidates.forget(addr);
                } else {
                    self.candidates.handle_closed(addr, self.clock.now());
                }
                self.connect_more();
            }
            Event::Pieces(outcomes) => {
                for (gathered, outcome) in outcomes {
                    self.handle_outcome(gathered, outcome);
                }
            }
            Event::Verified { piece, blocks } => {
                let now = self.clock.now();
                if let Some(download) = &mut self.download {
                    download.handle_verified(piece, &blocks, now);
                }
            }
            Event::Metainfo(metainfo) => {
                if !self.engine.is_offline() {
                    self.announcer.add_trackers(metainfo.announce.iter().flatten().cloned().collect());
                }
                self.opening.handle_metainfo(*metainfo, &self.shared, &self.engine, &self.channels.events);
            }
            Event::Opened(Ok(content)) => {
                self.shared.set_content(content.clone());
                self.handle_content(content);
            }
            Event::Opened(Err(error)) => {
                tracing::error!(%error, "the torrent's data cannot be opened");
                self.shared.phase.send_replace(crate::status::Phase::Failed { message: error.to_string() });
            }
            Event::Checkpoint(result) => self.handle_checkpoint(result),
            Event::Blocks(checked) => self.handle_checked(checked),
            Event::HashesServed(id) => self.handle_hashes_served(id),
            Event::Evicted(evicted) => self.handle_evicted(evicted),
            Event::Relieved(relieved) => self.handle_relieved(*relieved),
            Event::Addresses(addrs) => {
                for addr in addrs {
                    self.candidates.add(addr, Origin::Given);
                }
                self.connect_more();
            }
        }
    }

    fn handle_outcome(&mut self, gathered: Gathered, outcome: Outcome) {
        let now = self.clock.now();
        let Some(download) = &mut self.download else { return };
        let piece = gathered.piece;
        match outcome {
            Outcome::Stored => {
                download.picker.handle_verified(piece);
                download.forget_leaves(piece.get());
                self.eviction.handle_stored(piece);
                download.is_dirty = true;
                download.not_stored = None;
                for id in download.demands.handle_stored(piece.get(), now) {
                    download.picker.clear_demand(id);
                }
                let liars = self.suspects.handle_good(&gathered);
                self.announce_piece(piece.get());
                self.ban_liars(liars);
                self.check_complete();
            }
            Outcome::BadHash => {
                let bytes = download.content.geometry().piece_len(piece);
                self.shared.counters.failed_pieces.add(1);
                self.shared.counters.wasted.add(u64::from(bytes));
                download.picker.handle_failed(piece);
                download.want_leaves(piece);
                let liars = self.suspects.handle_bad(&gathered);
                download.picker.set_contested(piece, self.suspects.contested(piece));
                tracing::warn!(piece = piece.get(), liars = liars.len(), "a piece has a wrong hash");
                self.ban_liars(liars);
            }
            Outcome::BadBlocks(bad) => self.handle_bad_blocks(&gathered, &bad),
            Outcome::NotStored(error) => {
                if matches!(error, StoreError::NoSpace { .. }) {
                    download.full_disk_until = now + FULL_DISK_MEMORY;
                    if self.make_space_for(gathered).is_ok() {
                        return;
                    }
                }
                if let Some(download) = &mut self.download {
                    download.handle_not_stored(piece, &error, self.upkeep.watcher());
                }
                self.give_up_storing(piece, &ReadError::from(error));
            }
        }
        self.upkeep.needs_requests();
    }

    /// Everything is there: tells the trackers and whoever waits, and leaves the other seeds.
    fn check_complete(&mut self) {
        let Some(download) = &mut self.download else { return };
        if !download.picker.is_complete() || download.was_complete {
            return;
        }
        download.was_complete = true;
        tracing::info!("complete");
        self.announcer.completed();
        self.tell_room();
        self.shared.phase.send_replace(crate::status::Phase::Ready);
        let seeds: Vec<SourceId> = self.peers.values().filter(|p| p.is_seed()).map(|p| p.id).collect();
        for id in seeds {
            self.close_peer(id, &CloseReason::BothSeeds);
        }
        self.upkeep.needs_interest_check();
    }

    /// The last words: readers get their errors, trackers their `stopped`, the disk its record.
    async fn finish(mut self, stopped: Option<tokio::sync::oneshot::Sender<()>>) {
        if let Some(download) = &mut self.download {
            download.demands.fail_all(&ReadError::Closed);
        }
        self.peers.clear();
        self.channels.cancel.cancel();
        let content = self.shared.content().cloned();
        let disk = self.engine.disk.clone();
        let is_told = self.download.as_ref().is_some_and(|download| download.not_stored.is_some());
        let last_words = |content: Arc<Content>| {
            content.save_recency();
            content.store.checkpoint()
        };
        let checkpoint = async {
            if let Some(content) = content
                && let Ok(Err(error)) = disk.run(move || last_words(content)).await
            {
                if is_told && error.is_of_full_disk() {
                    tracing::debug!(%error, "the record could not be written");
                } else {
                    tracing::error!(%error, "the record could not be written; what is new will be hashed again");
                }
            }
        };
        tokio::join!(self.announcer.stop(), checkpoint);
        let held = self.upkeep.in_flight_reported;
        self.engine.in_flight_bytes.fetch_sub(held, Ordering::Relaxed);
        if let Some(done) = stopped {
            // Whoever stopped us may have stopped waiting.
            let _gone = done.send(());
        }
    }
}

/// A request for a whole block, as the wire wants it.
fn request_of(geometry: &wtfs_proto::geometry::Geometry, pick: &Pick) -> BlockRequest {
    let (piece, block) = (pick.key.piece, pick.key.block);
    BlockRequest {
        piece: piece.get(),
        begin: block * wtfs_proto::geometry::BLOCK_BYTES,
        length: geometry.block_len(piece, block),
    }
}

/// One message, to be queued.
fn one(message: Message) -> PeerCommand {
    PeerCommand::Messages(vec![message])
}

/// How long until the next tick while something is under way.
const BUSY_TICK: Duration = Duration::from_millis(100);
