//! Peers coming and going: connecting, the first words, leaving, banning; and the trackers that name them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::swarm::picker::SourceId;
use wtfs_proto::wire::allowed_fast::allowed_fast;
use wtfs_proto::wire::extended::{ExtendedHandshake, HANDSHAKE_ID, UT_PEX};
use wtfs_proto::wire::handshake::Handshake;
use wtfs_proto::wire::message::Message;

use super::bans::Guise;
use super::opening::Opening;
use super::peers::{About, Peer, Pieces, RawPieces};
use super::rivals::Verdict;
use super::suspects::Contributor;
use super::{Event, SwarmTask};
use crate::config::UploadPolicy;
use crate::peer_task::{self, CloseReason, HasFast, PeerCommand, PeerContext, handshake};
use crate::session::Engine;
use crate::status::BannedPeer;
use crate::torrent::Shared;
use crate::tracker::announcer::{Announcer, AnnouncerConfig, AnnouncerHandle, TransferStats};
use crate::transport::{Connection, Fingerprint, TransportKind, tcp};

/// How long a TCP connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Pieces a new peer may ask for while it is choked, so that it soon has something to trade (BEP 6's own number).
const ALLOWED_FAST_PIECES: usize = 10;

/// Offers made to find peers over WebRTC while somebody waits for data, and while nobody does.
#[cfg(feature = "webrtc")]
const OFFERS_IN_NEED: usize = 5;
#[cfg(feature = "webrtc")]
const OFFERS_AT_EASE: usize = 2;

/// What we tell trackers we lack while the metadata is missing: something, so that they name seeds.
const UNKNOWN_LEFT: u64 = 16 * 1024;

/// Starts announcing to the torrent's trackers and the user's.
pub(super) fn announce(
    shared: &Arc<Shared>,
    engine: &Arc<Engine>,
    opening: &Opening,
    extra: &[String],
    found: mpsc::Sender<Vec<SocketAddr>>,
) -> AnnouncerHandle {
    let mut tiers = opening.trackers();
    tiers.extend(extra.iter().map(|url| vec![url.clone()]));
    if engine.is_offline() {
        tiers.clear();
    }
    let stats = {
        let shared = shared.clone();
        move || TransferStats {
            uploaded: shared.counters.uploaded.total(),
            downloaded: shared.counters.downloaded.total(),
            left: left(&shared),
        }
    };
    #[cfg_attr(
        not(feature = "webrtc"),
        expect(unused_mut, reason = "trackers bring connections about with it")
    )]
    let mut config = AnnouncerConfig::new(shared.hashes, engine.peer_id, engine.port());
    #[cfg(feature = "webrtc")]
    {
        let swarm = super::rendezvous::Rendezvous { shared: shared.clone(), engine: engine.clone() };
        config.swarm = Some(Arc::new(swarm));
    }
    Announcer::spawn(config, engine.trackers.clone(), &tiers, stats, found, &engine.cancel)
}

/// Bytes still missing, to within a piece.
fn left(shared: &Shared) -> u64 {
    let Some(content) = shared.content() else { return UNKNOWN_LEFT };
    let geometry = content.geometry();
    let present = u64::from(content.present.count()) * u64::from(geometry.piece_bytes());
    if content.present.is_full() { 0 } else { geometry.total_bytes().saturating_sub(present).max(1) }
}

impl SwarmTask {
    pub(super) fn is_private(&self) -> bool {
        self.shared.content().is_some_and(|content| content.metainfo.info.is_private)
    }

    /// Connects to more peers, if more are of use and allowed.
    pub(super) fn connect_more(&mut self) {
        // A seed connects out too: who asked the tracker before it came would not hear of it for a quarter of an hour.
        let is_complete = self.download.as_ref().is_some_and(|d| d.picker.is_complete());
        let is_pointless = is_complete && self.engine.config.upload == UploadPolicy::Off;
        if is_pointless || self.channels.cancel.is_cancelled() || self.engine.is_offline() {
            return;
        }
        let config = &self.engine.config;
        let ours = self.peers.len() + self.upkeep.connecting;
        let everybody = self.engine.connected.load(Ordering::Relaxed) + self.upkeep.connecting;
        let room = config
            .max_peers_per_torrent
            .saturating_sub(ours)
            .min(config.max_peers.saturating_sub(everybody))
            .min(config.max_half_open.saturating_sub(self.upkeep.connecting));
        if room == 0 {
            return;
        }
        let is_needed = self.download.as_ref().is_none_or(|d| !d.demands.is_empty());
        for addr in self.candidates.take(self.clock.now(), room, is_needed) {
            if self.engine.is_ourselves(addr) || self.peers.values().any(|p| p.reachable_at() == Some(addr)) {
                self.candidates.handle_connected(addr);
                continue;
            }
            self.upkeep.connecting += 1;
            self.spawn_connect(addr);
        }
    }

    fn spawn_connect(&self, addr: SocketAddr) {
        let (engine, hashes) = (self.engine.clone(), self.shared.hashes);
        let (events, cancel) = (self.channels.events.clone(), self.channels.cancel.clone());
        self.engine.tasks.spawn(async move {
            let attempt = async {
                // Never closed; an error cannot happen.
                let _permit = engine.half_open.acquire().await;
                let local = engine.local_addr_for(addr);
                let mut last = Err(handshake::OpenError::UnknownTorrent);
                // Who is in one swarm of a hybrid only hangs up when it hears the name of the other.
                for hash in hashes.iter() {
                    let mut connection = tcp::connect(addr, local, CONNECT_TIMEOUT).await?;
                    last = handshake::initiate(&mut connection, hash, &hashes, engine.peer_id)
                        .await
                        .map(|theirs| (connection, theirs));
                    if !matches!(&last, Err(handshake::OpenError::Io(_))) {
                        break;
                    }
                }
                last
            };
            let result = tokio::select! {
                () = cancel.cancelled() => return,
                result = attempt => result,
            };
            let event = match result {
                Ok(connected) => Event::Connected(Box::new(connected)),
                Err(error) => {
                    tracing::debug!(%addr, %error, "no connection");
                    let is_useless = matches!(error, handshake::OpenError::Ourselves);
                    Event::ConnectFailed { addr, is_useless }
                }
            };
            // Fails only when the torrent is gone.
            let _gone = events.send(event).await;
        });
    }

    /// A peer shook hands, whoever began.
    pub(super) fn handle_connected(&mut self, (connection, theirs): (Connection, Handshake)) {
        let addr = connection.addr;
        let is_dialled = connection.kind != TransportKind::WebRtc;
        let is_banned = if is_dialled {
            self.candidates.is_banned(addr.ip())
        } else {
            let (peer_id, fingerprint) = (theirs.peer_id, connection.fingerprint);
            self.upkeep.bans.refuse(Guise { ip: addr.ip(), peer_id, fingerprint }, self.clock.now())
        };
        let rivalry = if is_banned { None } else { self.settle_rivalry(&connection, theirs.peer_id) };
        if rivalry == Some(Verdict::Waits) {
            tracing::debug!(%addr, "a connection is held: its peer is connected in another way");
            if is_dialled {
                // It is of use only if it gets in.
                self.candidates.handle_closed(addr, self.clock.now());
            }
            return self.hold_rival((connection, theirs));
        }
        let is_full = self.peers.len() >= self.engine.config.max_peers_per_torrent
            || self.engine.connected.load(Ordering::Relaxed) >= self.engine.config.max_peers;
        let is_known = rivalry == Some(Verdict::Goes);
        if is_full || is_known || is_banned {
            tracing::debug!(%addr, is_full, is_known, is_banned, "a connection was not kept");
            if is_dialled {
                self.candidates.handle_closed(addr, self.clock.now());
            }
            return;
        }
        if is_dialled {
            self.candidates.handle_connected(addr);
        }
        let id = SourceId(self.upkeep.next_source);
        self.upkeep.next_source += 1;
        let has_fast = if theirs.reserved.fast() { HasFast::Yes } else { HasFast::No };
        let about = About {
            addr,
            kind: connection.kind,
            direction: connection.direction,
            peer_id: theirs.peer_id,
            fingerprint: connection.fingerprint,
            client: theirs.peer_id.client(),
            connected_at: self.clock.now(),
            has_fast,
            has_extensions: theirs.reserved.extension_protocol(),
            has_v2: self.shared.hashes.v2.is_some_and(|v2| v2.truncated() == theirs.info_hash),
            listen_port: None,
            web_seed: None,
        };
        let context = PeerContext {
            source: id,
            engine: self.engine.clone(),
            shared: self.shared.clone(),
            events: self.channels.peer_events.clone(),
            has_fast,
        };
        let link = peer_task::spawn(connection, context);
        let pieces = match &self.download {
            Some(download) => Pieces::Known(Bitfield::new(download.content.geometry().piece_count())),
            None => Pieces::Raw(RawPieces::default()),
        };
        tracing::debug!(%addr, client = about.client, "connected");
        let peer = Peer::new(id, link, about, pieces);
        let greeting = self.greeting(&peer);
        let sent = peer.link.send(PeerCommand::Messages(greeting));
        self.engine.connected.fetch_add(1, Ordering::Relaxed);
        self.peers.insert(id, peer);
        #[cfg(feature = "webrtc")]
        self.shared.acquaintances.handle_connected(theirs.peer_id);
        self.tell_room();
        if let Err(reason) = sent {
            self.close_peer(id, &reason);
        }
    }

    /// How many more peers are wanted, for those who bring them.
    pub(super) fn tell_room(&self) {
        #[cfg(feature = "webrtc")]
        {
            let config = &self.engine.config;
            let is_complete = self.download.as_ref().is_some_and(|d| d.picker.is_complete());
            let is_pointless = is_complete && config.upload == UploadPolicy::Off;
            let everybody = self.engine.connected.load(Ordering::Relaxed);
            let mut room = config.max_peers_per_torrent.saturating_sub(self.peers.len());
            room = room.min(config.max_peers.saturating_sub(everybody));
            if is_pointless || self.channels.cancel.is_cancelled() {
                room = 0;
            }
            let is_needed = match &self.download {
                Some(download) => !download.demands.is_empty() || (self.upkeep.is_filling && !is_complete),
                None => true,
            };
            let wanted = if is_needed { OFFERS_IN_NEED } else { OFFERS_AT_EASE };
            self.shared.acquaintances.set_room(wanted.min(room), room);
        }
    }

    /// The first words: what we have (which must come first), and the extension handshake.
    fn greeting(&self, peer: &Peer) -> Vec<Message> {
        let mut messages = Vec::new();
        let present = self.download.as_ref().map(|download| &download.content.present);
        match (present, peer.about.has_fast) {
            (Some(present), HasFast::Yes) if present.is_full() => messages.push(Message::HaveAll),
            (Some(present), _) if present.count() > 0 => {
                messages.push(Message::Bitfield(present.to_bitfield().to_wire().into()));
            }
            (_, HasFast::Yes) => messages.push(Message::HaveNone),
            (_, HasFast::No) => {}
        }
        if let (Some(present), HasFast::Yes, IpAddr::V4(ip)) =
            (present, peer.about.has_fast, peer.about.addr.ip())
            && self.engine.config.upload == UploadPolicy::On
            && let Some(download) = &self.download
        {
            let count = download.content.geometry().piece_count();
            let pieces = allowed_fast(ip, self.shared.info_hash(), count, ALLOWED_FAST_PIECES);
            let there = pieces.into_iter().filter(|piece| present.get(*piece));
            messages.extend(there.map(Message::AllowedFast));
        }
        if peer.about.has_extensions {
            messages.push(self.extended_handshake(peer.about.addr.ip()));
        }
        messages
    }

    fn extended_handshake(&self, your_ip: IpAddr) -> Message {
        let mut ours = ExtendedHandshake {
            messages: self.engine.registry.messages(),
            request_queue: Some(peer_task::UPLOAD_QUEUE),
            client: Some(self.engine.config.user_agent.clone()),
            port: Some(self.engine.port()).filter(|port| *port != 0),
            your_ip: Some(your_ip),
            ..ExtendedHandshake::default()
        };
        if self.is_private() {
            ours.messages.remove(UT_PEX);
        }
        if let Some(content) = self.shared.content() {
            ours.metadata_size = Some(content.metainfo.info_bytes.len() as u64);
            ours.upload_only = Some(content.present.is_full());
        }
        Message::Extended { id: HANDSHAKE_ID, payload: ours.encode() }
    }

    /// Tells every peer anew what the extension handshake says: the metadata has become known.
    pub(super) fn repeat_extended_handshake(&mut self) {
        let mut failed = Vec::new();
        for peer in self.peers.values().filter(|peer| peer.about.has_extensions) {
            let handshake = self.extended_handshake(peer.about.addr.ip());
            if let Err(reason) = peer.link.send(super::one(handshake)) {
                failed.push((peer.id, reason));
            }
        }
        for (id, reason) in failed {
            self.close_peer(id, &reason);
        }
    }

    /// A connection is over, or is ended here. Misbehaviour is remembered.
    pub(super) fn close_peer(&mut self, id: SourceId, reason: &CloseReason) {
        let Some(mut peer) = self.peers.remove(&id) else { return };
        let addr = peer.about.addr;
        let lost = peer.withdraw_all();
        self.give_back(id, &lost);
        let now = self.clock.now();
        if peer.about.web_seed.is_none() {
            #[cfg(feature = "webrtc")]
            self.shared.acquaintances.handle_closed(peer.about.peer_id);
            self.upkeep.rivals.handle_closed(peer.about.peer_id, addr);
            self.tell_room();
        }
        if let (Some(download), Some(bits)) = (&mut self.download, peer.bits()) {
            download.picker.remove_availability(bits.iter_ones());
        }
        self.upkeep.wake_soon();
        if peer.about.web_seed.is_some() {
            self.handle_seed_closed(&peer, reason);
            return;
        }
        tracing::debug!(%addr, %reason, "disconnected");
        self.engine.connected.fetch_sub(1, Ordering::Relaxed);
        self.choker.handle_disconnected(now, id);
        self.opening.remove_metadata_source(id);
        if let Some(download) = &mut self.download {
            download.leaves.handle_gone(id);
        }
        for handler in self.engine.extensions.iter() {
            if peer.extensions.id(handler.name()).is_some() {
                handler.handle_disconnected(addr, self.shared.info_hash());
            }
        }
        match reason {
            // It stays of no use until one of us loses data, as a cache does.
            CloseReason::BothSeeds if !self.may_lose_pieces() => self.candidates.forget(addr),
            reason if reason.is_misbehaviour() => {
                self.ban(peer.contributor(), addr, peer.about.fingerprint, reason);
            }
            // Its address is no one that could be connected to.
            _ if peer.about.kind == TransportKind::WebRtc => {}
            // Where it listens, if it dialled: nobody tried that while it was here.
            _ => self.candidates.handle_closed(peer.reachable_at().unwrap_or(addr), now),
        }
    }

    fn may_lose_pieces(&self) -> bool {
        self.shared.content().is_some_and(|content| content.ledger.is_budgeted())
    }

    fn ban(
        &mut self,
        who: Contributor,
        addr: SocketAddr,
        fingerprint: Option<Fingerprint>,
        reason: &CloseReason,
    ) {
        tracing::warn!(%addr, %reason, "banned");
        match who {
            Contributor::Peer(ip) => self.candidates.ban(ip),
            Contributor::Channel(ip, peer_id) => {
                self.upkeep.bans.ban(Guise { ip, peer_id, fingerprint }, self.clock.now());
            }
            // These are banned where they are listed.
            Contributor::WebSeed(_) => {}
        }
        self.suspects.forget(who);
        self.upkeep.bans.note(BannedPeer { addr, reason: reason.to_string() }, reason);
    }

    fn is_banned(&self, who: Contributor) -> bool {
        match who {
            Contributor::Peer(ip) => self.candidates.is_banned(ip),
            Contributor::Channel(ip, peer_id) => {
                self.upkeep.bans.refuse(Guise { ip, peer_id, fingerprint: None }, self.clock.now())
            }
            Contributor::WebSeed(_) => false,
        }
    }

    /// Bans those who sent wrong bytes, and closes their connections.
    pub(super) fn ban_liars(&mut self, liars: Vec<Contributor>) {
        for liar in liars {
            let ip = match liar {
                Contributor::Peer(ip) | Contributor::Channel(ip, _) => ip,
                Contributor::WebSeed(number) => {
                    self.ban_web_seed(number);
                    continue;
                }
            };
            let ids: Vec<SourceId> =
                self.peers.values().filter(|peer| peer.contributor() == liar).map(|peer| peer.id).collect();
            if ids.is_empty() && !self.is_banned(liar) {
                self.ban(liar, SocketAddr::new(ip, 0), None, &CloseReason::BadData);
            }
            for id in ids {
                self.close_peer(id, &CloseReason::BadData);
            }
        }
    }
}
