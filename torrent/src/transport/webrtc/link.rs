//! One connection from its first candidate to its end, in one task: describe, wait for the other description, wait for
//! the channel, hand the halves out, then send what is written until somebody ends it.
//!
//! The task owns the library's connection. Whatever ends the task, also a panic, drops it, and the library frees its
//! sockets when it is dropped.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc::ice::mdns::MulticastDnsMode;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfigurationBuilder,
    RTCIceGatheringState, RTCIceServer, RTCIceTransportPolicy, RTCPeerConnectionState, RTCSessionDescription,
    SettingEngine, SettingEngineBuilder,
};

use super::in_flight::InFlight;
use super::outbox::Outbox;
use super::pacing::Pace;
use super::policy::RtcPolicy;
use super::runtime::{RtcRuntime, Watch};
use super::sdp::{self, RemoteSdp};
use super::servers::Gathered;
use super::stream::{End, RtcReader, RtcWriter};
use super::{EndReason, RtcError, Shared, addresses};
use crate::config::RelayPolicy;
use crate::transport::{Connection, Direction, Fingerprint, TransportKind};

/// The library's threads for all connections of the process. One is enough for 200 MB/s, and packets that stay on one
/// cost half as much again less than packets that move between several.
const REACTORS: usize = 1;

/// Between looks at what is in flight, should the library not say that it worked.
const LOOK: Duration = Duration::from_millis(50);

/// The longest that a connection which is being closed goes on for the sake of its last bytes, however they trickle.
const CLOSE_MAX: Duration = Duration::from_secs(60);

/// Who describes first.
pub(super) enum Role {
    /// We do; the answer comes by this.
    Offers(oneshot::Receiver<RemoteSdp>),
    /// They did.
    Answers(RemoteSdp),
}

/// Where the task reports to. Each is used once, in this order.
pub(super) struct Reports {
    pub(super) described: oneshot::Sender<Result<String, RtcError>>,
    pub(super) opened: oneshot::Sender<Result<Connection, RtcError>>,
}

/// Runs a connection until its end, or until `cancel`. `place` is given back then.
pub(super) async fn run(
    shared: Arc<Shared>,
    role: Role,
    reports: Reports,
    cancel: CancellationToken,
    place: OwnedSemaphorePermit,
) {
    let _place = place;
    let Reports { described, opened } = reports;
    let mut described = Some(described);
    let open = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(RtcError::Closing),
        open = open(&shared, role, &mut described) => open,
    };
    match open {
        Ok(open) => {
            let (link, connection) = open.split(&shared.policy);
            // Nobody there: the halves are dropped, and the link ends at once.
            let _ = opened.send(Ok(connection));
            link.run(&shared.policy, &cancel).await;
        }
        Err(error) => {
            tracing::debug!(%error, "no data channel");
            if let Some(described) = described {
                let _ = described.send(Err(error));
            } else {
                let _ = opened.send(Err(error));
            }
        }
    }
}

/// A connection whose channel is open.
struct Open {
    peer: Box<dyn PeerConnection>,
    channel: Arc<dyn DataChannel>,
    /// What came before anybody read.
    first: BytesMut,
    addr: SocketAddr,
    direction: Direction,
    fingerprint: Fingerprint,
    end: Arc<End>,
    watch: Arc<Watch>,
    message_bytes: usize,
    wide: Option<OwnedSemaphorePermit>,
}

async fn open(
    shared: &Shared,
    role: Role,
    described: &mut Option<oneshot::Sender<Result<String, RtcError>>>,
) -> Result<Open, RtcError> {
    let policy = &shared.policy;
    let (events, mut announced) = Events::new();
    let end = Arc::clone(&events.end);
    let watch = Arc::new(Watch::default());
    let pace = Arc::new(Pace::default());
    let runtime = RtcRuntime::new(policy, Arc::clone(&watch), Arc::clone(&pace));
    // The library must be told before it is known who answers an offer. Offers leave half of the places to peers that are
    // known to be like us.
    let is_wide = match &role {
        Role::Offers(_) => shared.wide.available_permits() > policy.wide.connections_max / 2,
        Role::Answers(theirs) => theirs.is_kin,
    };
    let wide = is_wide.then(|| Arc::clone(&shared.wide).try_acquire_owned().ok()).flatten();
    let window = wide.as_ref().map_or(policy.receive_window_bytes, |_| policy.wide.receive_window_bytes);
    let peer = build(shared, Arc::clone(&events), runtime, window).await?;
    let (direction, ours) = match &role {
        Role::Offers(_) => {
            events.expect(0);
            // Labels mean nothing; simple-peer's are random too.
            let label = format!("{:020x}{:020x}", fastrand::u64(..), fastrand::u64(..));
            (Direction::Outgoing, Some(peer.create_data_channel(&label, None).await?))
        }
        Role::Answers(_) => (Direction::Incoming, None),
    };
    let (theirs, waits_for) = match role {
        Role::Offers(answered) => {
            let offer = peer.create_offer(None).await?;
            report(&*peer, offer, &events, shared, described).await?;
            let theirs = unless_ended(&end, &watch, async {
                answered.await.map_err(|_| RtcError::Failed(EndReason::Local))
            })
            .await?;
            let answer = RTCSessionDescription::answer(theirs.text.clone())?;
            peer.set_remote_description(answer).await.map_err(bad_sdp)?;
            (theirs, ours)
        }
        Role::Answers(theirs) => {
            let offer = RTCSessionDescription::offer(theirs.text.clone()).map_err(bad_sdp)?;
            peer.set_remote_description(offer).await.map_err(bad_sdp)?;
            let answer = peer.create_answer(None).await.map_err(bad_sdp)?;
            report(&*peer, answer, &events, shared, described).await?;
            (theirs, None)
        }
    };
    let message_bytes = if theirs.is_kin {
        pace.set_kin();
        policy.message_bytes_kin
    } else {
        policy.message_bytes
    };
    let opening = async {
        let channel = match waits_for {
            Some(channel) => channel,
            None => announced.recv().await.ok_or(RtcError::Failed(EndReason::Broken))?,
        };
        let first = opened(&*channel).await?;
        Ok((channel, first))
    };
    let opening = tokio::time::timeout(policy.open_timeout, unless_ended(&end, &watch, opening));
    let (channel, first) = opening.await.map_err(|_| RtcError::Timeout(policy.open_timeout))??;
    let addr = remote_addr(&*peer).await?;
    Ok(Open {
        peer,
        channel,
        first,
        addr,
        direction,
        fingerprint: theirs.fingerprint,
        end,
        watch,
        message_bytes: message_bytes.min(theirs.message_bytes_max),
        wide,
    })
}

/// What a peer's description made the library say.
fn bad_sdp(error: webrtc::error::Error) -> RtcError {
    RtcError::BadSdp(error.to_string())
}

impl From<webrtc::error::Error> for RtcError {
    fn from(error: webrtc::error::Error) -> Self {
        Self::Backend(error.to_string())
    }
}

/// What comes first: the outcome, or the end of the connection.
async fn unless_ended<T>(
    end: &End,
    watch: &Watch,
    outcome: impl Future<Output = Result<T, RtcError>>,
) -> Result<T, RtcError> {
    tokio::select! {
        biased;
        reason = end.wait() => Err(RtcError::Failed(reason)),
        () = watch.ended.cancelled() => Err(RtcError::Failed(EndReason::Broken)),
        outcome = outcome => outcome,
    }
}

async fn build(
    shared: &Shared,
    events: Arc<Events>,
    runtime: RtcRuntime,
    window_bytes: u32,
) -> Result<Box<dyn PeerConnection>, RtcError> {
    let policy = &shared.policy;
    let addrs: Vec<SocketAddr> =
        addresses::offered(&policy.addresses).into_iter().map(|ip| SocketAddr::new(ip, 0)).collect();
    if addrs.is_empty() {
        return Err(RtcError::NoAddress);
    }
    // Half of the cap for names leaves half for the servers.
    let servers = shared.servers.resolved(policy.waits_for_candidates() / 2).await;
    let servers = servers.into_iter().map(|server| RTCIceServer {
        urls: vec![server.url],
        username: server.user,
        credential: server.password,
    });
    let candidates = match policy.relay {
        RelayPolicy::IfNeeded => RTCIceTransportPolicy::All,
        RelayPolicy::Only => RTCIceTransportPolicy::Relay,
    };
    let configuration = RTCConfigurationBuilder::default()
        .with_ice_servers(servers.collect())
        .with_ice_transport_policy(candidates)
        .build();
    let peer = PeerConnectionBuilder::new()
        .with_configuration(configuration)
        .with_setting_engine(settings(policy, window_bytes))
        .with_handler(events)
        .with_runtime(Arc::new(runtime))
        .with_dedicated_reactor_pool_size(REACTORS)
        .with_udp_addrs(addrs)
        .build()
        .await?;
    Ok(Box::new(peer))
}

fn settings(policy: &RtcPolicy, window_bytes: u32) -> SettingEngine {
    let ice = &policy.ice;
    SettingEngineBuilder::new()
        .with_ice_timeouts(Some(ice.disconnected), Some(ice.failed), Some(ice.keep_alive))
        .with_ice_connection_attempts(Some(ice.check_interval), Some(ice.checks_max))
        .with_host_acceptance_min_wait(Some(ice.acceptance_wait))
        .with_srflx_acceptance_min_wait(Some(ice.acceptance_wait))
        .with_prflx_acceptance_min_wait(Some(ice.acceptance_wait))
        .with_relay_acceptance_min_wait(Some(ice.acceptance_wait))
        // It joins a multicast group for each connection, which fails where there is no route for it. Browsers that hide
        // behind a name dial us, and are known by their first check.
        .with_multicast_dns_mode(MulticastDnsMode::Disabled)
        .with_include_loopback_candidate(true)
        .with_sctp_max_receive_buffer_size(window_bytes)
        .build()
}

/// Applies our description, waits until its candidates are known, or long enough, and gives it out.
async fn report(
    peer: &dyn PeerConnection,
    ours: RTCSessionDescription,
    events: &Events,
    shared: &Shared,
    described: &mut Option<oneshot::Sender<Result<String, RtcError>>>,
) -> Result<(), RtcError> {
    peer.set_local_description(ours).await?;
    let waited = tokio::time::timeout(shared.policy.waits_for_candidates(), events.gathered.notified()).await;
    let gathered = if waited.is_ok() { Gathered::All } else { Gathered::Late };
    if gathered == Gathered::Late {
        tracing::debug!("a STUN or TURN server does not answer; offered without it");
    }
    let ours = peer.local_description().await.ok_or(RtcError::Failed(EndReason::Broken))?;
    shared.servers.handle_described(&ours.sdp, gathered);
    if let Some(described) = described.take() {
        // Nobody there: the token that is cancelled then ends this task.
        let _ = described.send(Ok(sdp::ours(ours.sdp)));
    }
    Ok(())
}

/// Waits until a channel is open. What came with it, if anything did.
async fn opened(channel: &dyn DataChannel) -> Result<BytesMut, RtcError> {
    loop {
        match channel.poll().await {
            Some(DataChannelEvent::OnOpen) => return Ok(BytesMut::new()),
            Some(DataChannelEvent::OnMessage(message)) if !message.is_string => return Ok(message.data),
            Some(DataChannelEvent::OnMessage(_)) => return Err(RtcError::Failed(EndReason::Violation)),
            Some(DataChannelEvent::OnClosing | DataChannelEvent::OnClose) | None => {
                return Err(RtcError::Failed(EndReason::Closed));
            }
            Some(_) => {}
        }
    }
}

/// The address that ICE settled on.
async fn remote_addr(peer: &dyn PeerConnection) -> Result<SocketAddr, RtcError> {
    let unknown = || RtcError::Backend("the peer's address is not known".to_owned());
    let transport = peer.sctp().await.ok_or_else(unknown)?.transport();
    let pair = transport.ice_transport().get_selected_candidate_pair().await?.ok_or_else(unknown)?;
    let ip: IpAddr = pair.remote().address.parse().map_err(|_| unknown())?;
    Ok(SocketAddr::new(ip.to_canonical(), pair.remote().port))
}

/// What the library tells: runs within its task, and must not wait.
struct Events {
    end: Arc<End>,
    gathered: Notify,
    channels: mpsc::Sender<Arc<dyn DataChannel>>,
    /// Channels the peer may still open.
    expected: std::sync::atomic::AtomicUsize,
}

impl Events {
    fn new() -> (Arc<Self>, mpsc::Receiver<Arc<dyn DataChannel>>) {
        let (channels, announced) = mpsc::channel(1);
        let events = Self {
            end: Arc::default(),
            gathered: Notify::new(),
            channels,
            expected: std::sync::atomic::AtomicUsize::new(1),
        };
        (Arc::new(events), announced)
    }

    fn expect(&self, channels: usize) {
        self.expected.store(channels, std::sync::atomic::Ordering::Relaxed);
    }
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Events {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.gathered.notify_one();
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        match state {
            RTCPeerConnectionState::Failed => self.end.set(EndReason::Unreachable),
            RTCPeerConnectionState::Closed => self.end.set(EndReason::Closed),
            _ => return,
        }
        self.end.set_gone();
    }

    /// The library keeps what comes for a channel that nobody reads, without a bound on the number of channels: one is
    /// all a peer may open.
    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        use std::sync::atomic::Ordering::Relaxed;
        let is_expected =
            self.expected.try_update(Relaxed, Relaxed, |expected| expected.checked_sub(1)).is_ok();
        if !is_expected || self.channels.try_send(channel).is_err() {
            self.end.set(EndReason::Violation);
        }
    }
}

impl Open {
    /// What stays with the task, and what is given out.
    fn split(self, policy: &RtcPolicy) -> (Link, Connection) {
        let outbox = Arc::new(Outbox::new(policy.send_buffer_bytes));
        let (end, watch) = (Arc::clone(&self.end), Arc::clone(&self.watch));
        let reader = RtcReader::new(Arc::clone(&self.channel), self.first, end, watch);
        let connection = Connection {
            reader: Box::new(reader),
            writer: Box::new(RtcWriter(Arc::clone(&outbox))),
            addr: self.addr,
            kind: TransportKind::WebRtc,
            direction: self.direction,
            fingerprint: Some(self.fingerprint),
        };
        let link = Link {
            peer: self.peer,
            channel: self.channel,
            in_flight: InFlight::new(policy.in_flight, Instant::now()),
            watch: self.watch,
            message_bytes: self.message_bytes,
            _wide: self.wide,
            last: Last { outbox, end: self.end },
        };
        (link, connection)
    }
}

/// An open connection's sending side. The library is given no limit of its own, which would cost it a look at each round:
/// what it holds is bounded here.
struct Link {
    peer: Box<dyn PeerConnection>,
    channel: Arc<dyn DataChannel>,
    in_flight: InFlight,
    watch: Arc<Watch>,
    message_bytes: usize,
    /// Its place among those on which more may be on its way.
    _wide: Option<OwnedSemaphorePermit>,
    last: Last,
}

/// Ends both halves when the task ends, however it does.
struct Last {
    outbox: Arc<Outbox>,
    end: Arc<End>,
}

impl Drop for Last {
    fn drop(&mut self) {
        self.end.set(EndReason::Broken);
        let kind = self.end.reason().map_or(io::ErrorKind::BrokenPipe, EndReason::kind);
        self.outbox.end(kind);
    }
}

impl Link {
    async fn run(mut self, policy: &RtcPolicy, cancel: &CancellationToken) {
        let watch = Arc::clone(&self.watch);
        let end = Arc::clone(&self.last.end);
        let ended = async {
            tokio::select! {
                reason = end.wait() => reason,
                () = watch.ended.cancelled() => EndReason::Broken,
                () = cancel.cancelled() => EndReason::Local,
            }
        };
        let reason = tokio::select! {
            biased;
            reason = ended => reason,
            reason = self.send(policy) => reason,
        };
        self.last.end.set(reason);
        self.last.outbox.end(reason.kind());
        let parting = async {
            match reason {
                // What came before is still with the library, which forgets it when it is closed.
                EndReason::Closed => end.is_read(policy.close_timeout).await,
                EndReason::Local => {
                    let _ = tokio::time::timeout(policy.close_timeout, self.part()).await;
                }
                _ => {}
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(CLOSE_MAX, parting) => {}
            () = watch.ended.cancelled() => {}
            () = cancel.cancelled() => {}
        }
        if let Err(error) = self.peer.close().await {
            tracing::debug!(%error, "closing a data channel");
        }
    }

    /// Closes the channel and waits until the peer has gone. The end of a channel comes behind what was sent by it and is
    /// not yet read; the end of the connection, which is what closing the library means, comes before.
    async fn part(&self) {
        if self.channel.close().await.is_ok() {
            self.last.end.is_gone().await;
        }
    }

    /// Sends what is written until the writer shuts and all has arrived, or the channel fails.
    async fn send(&mut self, policy: &RtcPolicy) -> EndReason {
        while let Some(message) = self.last.outbox.take(self.message_bytes).await {
            let len = message.len();
            if self.wait_for(len).await.is_err() || self.channel.send(message).await.is_err() {
                return EndReason::Closed;
            }
            self.in_flight.on_sent(Instant::now(), len);
        }
        // What is queued is lost once the connection closes.
        match tokio::time::timeout(CLOSE_MAX, self.arrived(policy.close_timeout)).await {
            Ok(Ok(Arrival::Whole)) => EndReason::Local,
            Ok(Err(_)) => EndReason::Closed,
            Ok(Ok(Arrival::Stalled)) | Err(_) => {
                tracing::debug!("closed before all that was sent had arrived");
                EndReason::Local
            }
        }
    }

    /// Waits until `bytes` more may be sent.
    async fn wait_for(&mut self, bytes: usize) -> Result<(), webrtc::error::Error> {
        let watch = Arc::clone(&self.watch);
        while !self.in_flight.has_room(bytes) {
            let worked = watch.worked.notified();
            tokio::pin!(worked);
            // From here on no round is missed.
            worked.as_mut().enable();
            let outstanding = self.channel.outstanding_bytes().await?;
            self.in_flight.on_outstanding(Instant::now(), outstanding);
            tracing::trace!(outstanding, cap = self.in_flight.cap(), "in flight");
            if !self.in_flight.has_room(bytes) {
                self.in_flight.on_full();
                let _ = tokio::time::timeout(LOOK, worked).await;
            }
        }
        Ok(())
    }

    /// Waits until nothing is in flight, or nothing has arrived for `stalled`.
    async fn arrived(&self, stalled: Duration) -> Result<Arrival, webrtc::error::Error> {
        let (mut least, mut since) = (usize::MAX, Instant::now());
        loop {
            let worked = self.watch.worked.notified();
            tokio::pin!(worked);
            worked.as_mut().enable();
            let outstanding = self.channel.outstanding_bytes().await?;
            if outstanding == 0 {
                return Ok(Arrival::Whole);
            }
            if outstanding < least {
                (least, since) = (outstanding, Instant::now());
            } else if since.elapsed() >= stalled {
                return Ok(Arrival::Stalled);
            }
            let _ = tokio::time::timeout(LOOK, worked).await;
        }
    }
}

/// What became of the last bytes.
enum Arrival {
    Whole,
    Stalled,
}
