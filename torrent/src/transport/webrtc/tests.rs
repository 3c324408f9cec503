//! The transport as a peer sees it: pairs of factories, over loopback and through a relay that delays, loses and cuts.
//!
//! Nothing here knows the library: another backend would have to pass the same.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wtfs_testkit::path::Profile;
use wtfs_testkit::udp_relay::{UdpRelay, candidate_of, with_candidate};

use super::policy::{AddressFilter, IceTimes};
use super::*;
use crate::config::RelayPolicy;
use crate::transport::{Direction, TransportKind};

/// Far longer than anything here takes.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// No peer is given up because the machine is slow: what ends a connection here is what the test does to it.
pub(super) fn policy() -> RtcPolicy {
    let never = Duration::from_secs(3600);
    RtcPolicy {
        addresses: AddressFilter { only: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], ..AddressFilter::default() },
        ice: IceTimes { disconnected: never, failed: never, checks_max: u16::MAX, ..IceTimes::default() },
        open_timeout: LIMIT,
        ..RtcPolicy::default()
    }
}

/// A socket that never answers, as the STUN or TURN server behind `scheme`.
fn silent(scheme: &str) -> (std::net::UdpSocket, IceServer) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = format!("{scheme}{}", socket.local_addr().unwrap()).parse().unwrap();
    (socket, server)
}

/// The same, for tests in which one end stays and takes all that the other sent before it left.
fn patient() -> RtcPolicy {
    RtcPolicy { close_timeout: Duration::from_secs(15), ..policy() }
}

/// A factory with its own tasks, so that a test can wait for their end.
pub(super) struct Side {
    pub(super) factory: RtcFactory,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Side {
    pub(super) fn new(policy: RtcPolicy) -> Self {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        Self { factory: RtcFactory::new(policy, tasks.clone(), shutdown.clone()), tasks, shutdown }
    }

    /// Waits until no task is left.
    pub(super) async fn is_idle(&self) {
        self.tasks.close();
        tokio::time::timeout(LIMIT, self.tasks.wait()).await.expect("all tasks end");
        self.tasks.reopen();
        assert_eq!(self.factory.connections(), 0);
    }
}

/// Connects two sides; the offerer's end first.
async fn connect(offers: &Side, answers: &Side) -> (Connection, Connection) {
    connect_as(offers, answers, Known::Kin).await
}

async fn connect_as(offers: &Side, answers: &Side, known: Known) -> (Connection, Connection) {
    let (offer, pending) = offers.factory.offer().await.unwrap();
    let (answer, answered) = answers.factory.answer(&known.told(&offer)).await.unwrap();
    let (ours, theirs) = tokio::join!(pending.accept(&known.told(&answer)), answered.connected());
    (ours.unwrap(), theirs.unwrap())
}

/// What the two sides know of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// That they are the same.
    Kin,
    /// Nothing: each may be a browser.
    Strangers,
}

impl Known {
    /// A description as it reaches the other side.
    fn told(self, sdp: &str) -> String {
        let keeps = |line: &&str| self == Self::Kin || !line.starts_with("a=x-");
        sdp.split_inclusive('\n').filter(keeps).collect()
    }
}

/// Connects two sides whose only way is by a relay in front of the offerer.
async fn connect_through(
    offers: &Side,
    answers: &Side,
    profile: &Profile,
    known: Known,
) -> (UdpRelay, Connection, Connection) {
    let (offer, pending) = offers.factory.offer().await.unwrap();
    let relay = UdpRelay::start(candidate_of(&offer).unwrap(), profile, 7);
    let offer = known.told(&with_candidate(&offer, Some(relay.addr())));
    let (answer, answered) = answers.factory.answer(&offer).await.unwrap();
    let answer = known.told(&with_candidate(&answer, None));
    let (ours, theirs) = tokio::join!(pending.accept(&answer), answered.connected());
    (relay, ours.unwrap(), theirs.unwrap())
}

/// Bytes that tell their offset apart.
pub(super) fn content(len: usize) -> Vec<u8> {
    wtfs_testkit::ramp::Ramp::new(5).bytes(0, len)
}

fn sum(bytes: &[u8]) -> [u8; 20] {
    Sha1::digest(bytes).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_arrive_as_they_were_sent_in_both_directions_at_once() {
    let (a, b) = (Side::new(policy()), Side::new(policy()));
    let (mut ours, mut theirs) = connect(&a, &b).await;
    assert_eq!((ours.kind, ours.direction), (TransportKind::WebRtc, Direction::Outgoing));
    assert_eq!((theirs.kind, theirs.direction), (TransportKind::WebRtc, Direction::Incoming));
    assert!(ours.addr.ip().is_loopback() && theirs.addr.ip().is_loopback());
    assert_ne!(ours.addr, theirs.addr);
    let sent = content(8 << 20);
    let transfer = async |from: &mut super::super::Writer, to: &mut super::super::Reader| {
        let write = async {
            // Odd sizes: what is written together need not arrive together.
            for part in sent.chunks(50_001) {
                from.write_all(part).await.unwrap();
            }
        };
        let mut got = vec![0; sent.len()];
        let (_, read) = tokio::join!(write, to.read_exact(&mut got));
        read.unwrap();
        assert_eq!(sum(&got), sum(&sent));
    };
    let both = async {
        tokio::join!(
            transfer(&mut ours.writer, &mut theirs.reader),
            transfer(&mut theirs.writer, &mut ours.reader)
        )
    };
    tokio::time::timeout(LIMIT, both).await.unwrap();
    drop((ours, theirs));
    a.is_idle().await;
    b.is_idle().await;
}

/// Sends `bytes` from one end to the other while both stay open. Returns what arrived and the longest pause in it.
async fn carry(from: &mut Connection, to: &mut Connection, bytes: &[u8]) -> (Vec<u8>, Duration) {
    let read = async {
        let mut got = Vec::with_capacity(bytes.len());
        let mut pause = Duration::ZERO;
        let mut last = None;
        while got.len() < bytes.len() {
            let read = to.reader.read_buf(&mut got).await.unwrap();
            assert_ne!(read, 0, "ended after {} bytes", got.len());
            pause = pause.max(last.map_or(Duration::ZERO, |last: Instant| last.elapsed()));
            last = Some(Instant::now());
        }
        (got, pause)
    };
    let both = async { tokio::join!(from.writer.write_all(bytes), read) };
    let (written, read) = tokio::time::timeout(LIMIT, both).await.expect("it arrives in time");
    written.unwrap();
    read
}

pub(super) fn path(delay: Duration) -> Profile {
    Profile { delay, in_flight_bytes: 8 << 20, ..Profile::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_makes_the_writer_wait_in_bounded_memory() {
    // Messages are counted, not their bytes, and those of kin are longer.
    for (known, most) in [(Known::Strangers, 16 << 20), (Known::Kin, 40 << 20)] {
        a_reader_stops(known, most).await;
    }
}

async fn a_reader_stops(known: Known, most: usize) {
    let (a, b) = (Side::new(patient()), Side::new(patient()));
    let (mut ours, mut theirs) = connect_as(&a, &b, known).await;
    let part = content(64 << 10);
    let mut written = 0;
    let began = Instant::now();
    loop {
        match tokio::time::timeout(Duration::from_secs(2), ours.writer.write(&part)).await {
            Ok(bytes) => written += bytes.unwrap(),
            // Less than the window: it is the machine that makes it wait.
            Err(_) if written <= 1 << 20 => {
                assert!(began.elapsed() < LIMIT, "only {written} bytes are taken")
            }
            Err(_) => break,
        }
        // The window of SCTP, what is queued behind it in messages, what is in flight and what is yet to be sent.
        assert!(written < most, "{written} bytes taken, and nobody reads");
    }
    // The other direction is not held up by it.
    theirs.writer.write_all(b"still here").await.unwrap();
    let mut said = [0; 10];
    tokio::time::timeout(LIMIT, ours.reader.read_exact(&mut said)).await.unwrap().unwrap();
    // And what was taken arrives once it is read, to the last byte.
    drop(ours);
    let mut got = Vec::new();
    let read = tokio::time::timeout(LIMIT, theirs.reader.read_to_end(&mut got)).await.unwrap();
    read.unwrap();
    assert_eq!(got.len(), written);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_before_the_end_arrives_and_then_the_end() {
    let (a, b) = (Side::new(patient()), Side::new(patient()));
    for _ in 0..5 {
        let (mut ours, mut theirs) = connect(&a, &b).await;
        let sent = content(1 << 20);
        let bytes = sent.clone();
        let writing = tokio::spawn(async move {
            ours.writer.write_all(&bytes).await.unwrap();
            drop(ours);
        });
        let mut got = Vec::new();
        tokio::time::timeout(LIMIT, theirs.reader.read_to_end(&mut got)).await.unwrap().unwrap();
        assert_eq!(sum(&got), sum(&sent));
        writing.await.unwrap();
        let writes = async {
            while theirs.writer.write(b"x").await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, writes).await.expect("writes fail once the peer has closed");
    }
    a.is_idle().await;
    b.is_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_closes_is_noticed_at_once() {
    let (a, b) = (Side::new(policy()), Side::new(policy()));
    for _ in 0..3 {
        let (ours, mut theirs) = connect(&a, &b).await;
        drop(ours);
        // Silence alone would be noticed by nobody for an hour, and as an error.
        let read = tokio::time::timeout(LIMIT, theirs.reader.read(&mut [0; 10])).await.unwrap();
        assert_eq!(read.unwrap(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_killed_is_noticed_in_seconds() {
    let usual = || RtcPolicy { ice: IceTimes::default(), ..policy() };
    let (a, b) = (Side::new(usual()), Side::new(usual()));
    let (relay, mut ours, theirs) = connect_through(&a, &b, &path(Duration::ZERO), Known::Kin).await;
    relay.cut();
    let start = Instant::now();
    let read = tokio::time::timeout(LIMIT, ours.reader.read(&mut [0; 10])).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    let write = tokio::time::timeout(LIMIT, async { while ours.writer.write(&[0; 1000]).await.is_ok() {} });
    write.await.expect("writes fail too");
    drop((ours, theirs));
    a.is_idle().await;
    b.is_idle().await;
}

/// The longest pause that the transport may make on a path that loses nothing. One by the library's fault is one of a
/// second, and comes each time.
const PAUSE_MAX: Duration = Duration::from_millis(300);

/// Transfers of which one at least has to be without a longer one.
const TURNS: usize = 8;

/// Tells how long the machine has kept this process from running: such a pause is nobody's fault.
struct Stopwatch {
    waited: Duration,
    late: Arc<Mutex<Duration>>,
    ticking: tokio::task::JoinHandle<()>,
}

impl Stopwatch {
    fn start() -> Self {
        const TICK: Duration = Duration::from_millis(10);
        let late = Arc::new(Mutex::new(Duration::ZERO));
        let ticking = tokio::spawn({
            let late = Arc::clone(&late);
            async move {
                loop {
                    let start = Instant::now();
                    tokio::time::sleep(TICK).await;
                    *late.lock().unwrap() += start.elapsed().saturating_sub(2 * TICK);
                }
            }
        });
        Self { waited: waited_for_a_processor(), late, ticking }
    }

    fn stop(self) -> Duration {
        self.ticking.abort();
        waited_for_a_processor().saturating_sub(self.waited) + *self.late.lock().unwrap()
    }
}

/// What all threads of this process have waited for a processor so far, if the kernel says.
fn waited_for_a_processor() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let waited = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    });
    Duration::from_nanos(waited.sum())
}

/// Carries `sent` over such a path until it once goes without a pause that is not the machine's.
async fn carry_without_a_pause(
    sides: (&Side, &Side),
    profile: &Profile,
    known: Known,
    sent: &[u8],
    then: impl AsyncFn(UdpRelay, Connection, Connection),
) {
    let mut pauses = Vec::new();
    while pauses.len() < TURNS {
        let (relay, mut ours, mut theirs) = connect_through(sides.0, sides.1, profile, known).await;
        let watch = Stopwatch::start();
        let (got, pause) = carry(&mut ours, &mut theirs, sent).await;
        let stopped = watch.stop();
        assert_eq!(sum(&got), sum(sent));
        then(relay, ours, theirs).await;
        if pause.saturating_sub(stopped) <= PAUSE_MAX {
            return;
        }
        pauses.push((pause, stopped));
    }
    panic!("pauses, and what of them may be the machine's: {pauses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_20_ms_there_is_no_pause_and_every_second_packet_is_acknowledged() {
    let (a, b) = (Side::new(patient()), Side::new(patient()));
    let path = path(Duration::from_millis(10));
    let then = async |relay: UdpRelay, ours: Connection, mut theirs: Connection| {
        // It closes once all is acknowledged.
        drop(ours);
        let end = tokio::time::timeout(LIMIT, theirs.reader.read(&mut [0; 10])).await.unwrap();
        assert_eq!(end.unwrap(), 0);
        let (data, acks) = (relay.from_target().data(), relay.to_target().short());
        assert!(data > 10_000, "{data} data datagrams");
        assert!(data <= 2 * acks, "{data} data datagrams, {acks} acknowledgements");
    };
    carry_without_a_pause((&a, &b), &path, Known::Strangers, &content(16 << 20), then).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_20_ms_there_is_no_pause_either_when_many_packets_are_acknowledged_at_once() {
    let (a, b) = (Side::new(policy()), Side::new(policy()));
    let path = path(Duration::from_millis(10));
    let then = async |_: UdpRelay, _: Connection, _: Connection| {};
    carry_without_a_pause((&a, &b), &path, Known::Kin, &content(16 << 20), then).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_queue_on_the_way_is_not_overrun() {
    let (a, b) = (Side::new(policy()), Side::new(policy()));
    let profile =
        Profile { rate_bytes: Some(12_500_000), queue_bytes: 250_000, ..path(Duration::from_millis(10)) };
    for known in [Known::Strangers, Known::Kin] {
        let then = async |_: UdpRelay, _: Connection, _: Connection| {};
        carry_without_a_pause((&a, &b), &profile, known, &content(16 << 20), then).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_is_like_us_is_sent_long_messages() {
    for (known, expected) in
        [(Known::Strangers, policy().message_bytes), (Known::Kin, policy().message_bytes_kin)]
    {
        let (a, b) = (Side::new(policy()), Side::new(policy()));
        let (mut ours, mut theirs) = connect_as(&a, &b, known).await;
        // All of it fits what waits to be sent, so that the first message is as long as one may be.
        ours.writer.write_all(&content(expected + 1)).await.unwrap();
        let mut got = vec![0; 1 << 20];
        let read = tokio::time::timeout(LIMIT, theirs.reader.read(&mut got)).await.unwrap().unwrap();
        assert_eq!(read, expected, "{known:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_arrive_whole_over_a_path_that_loses_some() {
    let (a, b) = (Side::new(policy()), Side::new(policy()));
    let profile = Profile { loss: 0.01, ..path(Duration::from_millis(5)) };
    let (_relay, mut ours, mut theirs) = connect_through(&a, &b, &profile, Known::Kin).await;
    let sent = content(2 << 20);
    let (got, _) = carry(&mut ours, &mut theirs, &sent).await;
    assert_eq!(sum(&got), sum(&sent));
    let (got, _) = carry(&mut theirs, &mut ours, &sent).await;
    assert_eq!(sum(&got), sum(&sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_meet_over_ipv6() {
    let over = || RtcPolicy {
        addresses: AddressFilter {
            only: vec![std::net::Ipv6Addr::LOCALHOST.into()],
            ..AddressFilter::default()
        },
        ..policy()
    };
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        return;
    }
    let (a, b) = (Side::new(over()), Side::new(over()));
    let (mut ours, mut theirs) = connect(&a, &b).await;
    assert!(ours.addr.is_ipv6() && theirs.addr.is_ipv6(), "{ours:?} {theirs:?}");
    let sent = content(300_000);
    let (got, _) = carry(&mut ours, &mut theirs, &sent).await;
    assert_eq!(sum(&got), sum(&sent));
    drop((ours, theirs));
    a.is_idle().await;
    b.is_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stun_server_that_does_not_answer_holds_an_offer_up_for_the_cap_alone() {
    let (_silent, server) = silent("stun:");
    let a = Side::new(RtcPolicy { servers: vec![server], ..policy() });
    let b = Side::new(policy());
    let start = Instant::now();
    let (offer, pending) = a.factory.offer().await.unwrap();
    let took = start.elapsed();
    // By itself the library would wait for as long as it repeats its question, which is most of a minute.
    assert!(took >= policy().gather_cap / 2 && took < Duration::from_secs(30), "{took:?}");
    assert!(candidate_of(&offer).is_some(), "{offer}");
    let (answer, answered) = b.factory.answer(&offer).await.unwrap();
    let (ours, theirs) = tokio::join!(pending.accept(&answer), answered.connected());
    drop((ours.unwrap(), theirs.unwrap()));
    a.is_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_relays_alone_are_used_they_have_a_time_of_their_own_to_answer() {
    let (never, soon) = (100 * LIMIT, Duration::from_millis(100));
    for (relay, gather_cap, gather_cap_relayed) in
        [(RelayPolicy::Only, never, soon), (RelayPolicy::IfNeeded, soon, never)]
    {
        let (_silent, server) = silent("turn:me:secret@");
        let servers = vec![server];
        let side = Side::new(RtcPolicy { servers, relay, gather_cap, gather_cap_relayed, ..policy() });
        let (offer, pending) = tokio::time::timeout(LIMIT, side.factory.offer()).await.unwrap().unwrap();
        assert_eq!(candidate_of(&offer).is_none(), relay == RelayPolicy::Only, "{offer}");
        drop(pending);
        side.is_idle().await;
    }
    let is_longer = RtcPolicy::default().gather_cap_relayed >= Duration::from_secs(5);
    assert!(is_longer, "a question that was lost, and its two round trips over a satellite");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stun_server_that_answers_is_not_waited_for_longer() {
    let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let url = format!("stun:{}", server.local_addr().unwrap());
    let answering = tokio::spawn(async move {
        let mut request = [0; 1500];
        loop {
            let (_, from) = server.recv_from(&mut request).await.unwrap();
            // A binding response (RFC 8489) that says 203.0.113.7:4242, whoever asks.
            let mut response = vec![0x01, 0x01, 0, 12];
            response.extend_from_slice(&request[4..20]);
            response.extend_from_slice(&[0, 0x20, 0, 8, 0, 1]);
            response.extend_from_slice(&(4242_u16 ^ 0x2112).to_be_bytes());
            response
                .extend_from_slice(&(u32::from(Ipv4Addr::new(203, 0, 113, 7)) ^ 0x2112_a442).to_be_bytes());
            server.send_to(&response, from).await.unwrap();
        }
    });
    let server = url.parse().unwrap();
    let gather_cap = 2 * LIMIT;
    let a = Side::new(RtcPolicy { servers: vec![server], gather_cap, ..policy() });
    let (offer, _pending) = tokio::time::timeout(LIMIT, a.factory.offer()).await.unwrap().unwrap();
    assert!(offer.contains("203.0.113.7 4242 typ srflx"), "{offer}");
    answering.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_and_leaves_nothing_behind() {
    let side = Side::new(policy());
    let (offer, pending) = side.factory.offer().await.unwrap();
    let long = "v".repeat(1 << 20);
    assert!(matches!(side.factory.answer(&long).await, Err(RtcError::LongSdp(_))));
    for nonsense in ["", "v=0", "{}", "v=0\r\nm=audio 9 RTP/AVP 0\r\n", "\u{0}\u{1}\u{2}"] {
        let refused = side.factory.answer(nonsense).await.unwrap_err();
        assert!(refused.is_peers_fault(), "{refused}");
    }
    assert!(pending.accept("nonsense").await.unwrap_err().is_peers_fault());
    // Each line left out, doubled, cut or replaced: whatever becomes of it, it ends, and nothing panics.
    let lines: Vec<&str> = offer.lines().collect();
    let mut random = fastrand::Rng::with_seed(11);
    let mut refused = 0;
    for turn in 0..120 {
        let mut broken: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let at = turn % broken.len();
        match random.u8(..5) {
            0 => drop(broken.remove(at)),
            1 => broken.insert(at, lines[at].to_owned()),
            2 => broken[at].truncate(random.usize(..lines[at].len())),
            3 => broken[at] = broken[at].replace(|c: char| c.is_ascii_digit(), "9999999999"),
            _ => broken.swap(at, random.usize(..lines.len())),
        }
        match side.factory.answer(&broken.join("\r\n")).await {
            Ok((_, pending)) => drop(pending),
            Err(RtcError::Backend(error)) => panic!("{error}\n{broken:#?}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 10, "{refused} refused");
    side.is_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_nobody_ends_at_the_deadline() {
    let open_timeout = Duration::from_secs(1);
    let (a, b) = (Side::new(policy()), Side::new(RtcPolicy { open_timeout, ..policy() }));
    let (offer, pending) = a.factory.offer().await.unwrap();
    let (_, answered) = b.factory.answer(&offer).await.unwrap();
    let error = tokio::time::timeout(LIMIT, answered.connected()).await.unwrap().unwrap_err();
    assert_eq!(error, RtcError::Timeout(open_timeout));
    b.is_idle().await;
    drop(pending);
    a.is_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_connections_and_offers_than_allowed_are_made() {
    let side = Side::new(RtcPolicy { connections_max: 3, offers_max: 2, ..policy() });
    let (_, first) = side.factory.offer().await.unwrap();
    let (offer, _second) = side.factory.offer().await.unwrap();
    assert_eq!(side.factory.offer().await.unwrap_err(), RtcError::TooMany);
    let (_, _third) = side.factory.answer(&offer).await.unwrap();
    assert_eq!(side.factory.answer(&offer).await.unwrap_err(), RtcError::TooMany);
    drop(first);
    let freed = async {
        while side.factory.connections() == 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, freed).await.expect("its place is free");
    side.factory.offer().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_session_ends_everything() {
    let (a, b) = (Side::new(policy()), Side::new(policy()));
    let (mut ours, _theirs) = connect(&a, &b).await;
    let (_, pending) = a.factory.offer().await.unwrap();
    a.shutdown.cancel();
    let end = tokio::time::timeout(LIMIT, ours.reader.read(&mut [0; 10])).await.unwrap();
    assert_eq!(end.unwrap(), 0);
    assert_eq!(a.factory.offer().await.unwrap_err(), RtcError::Closing);
    a.is_idle().await;
    drop(pending);
}

/// What this process has open, and the memory it holds.
fn held() -> (usize, u64) {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    (open, resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10)
}

/// Runs in a process of its own: what others open meanwhile must not count.
const ALONE: &str = "WTFS_TEST_ALONE";

#[test]
fn nothing_is_left_of_a_thousand_offers() {
    if std::env::var_os(ALONE).is_none() {
        let name = "transport::webrtc::tests::nothing_is_left_of_a_thousand_offers";
        let run = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
        assert!(said.contains("1 passed"), "{said}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // Nothing is said that could get lost.
        let hasty = || RtcPolicy { close_timeout: Duration::from_millis(200), ..policy() };
        let (a, b) = (Side::new(hasty()), Side::new(hasty()));
        spoil(&a, &b, 120).await;
        let before = held();
        spoil(&a, &b, 1000).await;
        // The library's own tasks close their sockets soon after ours have ended.
        wtfs_testkit::wait::eventually("all sockets are closed", LIMIT, || {
            (held().0 <= before.0).then_some(())
        });
        let after = held();
        assert!(after.1 < before.1 + (24 << 20), "bytes before and after: {} and {}", before.1, after.1);
    });
}

/// Makes `count` offers of which none becomes a connection that stays, each spoiled in another way. Those that are on
/// their way out are few at any time, so that the most memory that was ever in use is the same each time.
async fn spoil(a: &Side, b: &Side, count: usize) {
    for turn in 0..count {
        let few = async {
            while a.factory.connections() + b.factory.connections() > 40 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LIMIT, few).await.expect("those that are spoiled end");
        let (offer, pending) = match turn % 8 {
            // Dropped while it is made.
            0 => {
                let _ = tokio::time::timeout(Duration::from_micros(turn as u64), a.factory.offer()).await;
                continue;
            }
            _ => a.factory.offer().await.unwrap(),
        };
        match turn % 8 {
            1 | 2 => drop(pending),
            3 => assert!(pending.accept("nonsense").await.is_err()),
            4 => {
                // Answered, but the answer is lost.
                let (_, answered) = b.factory.answer(&offer).await.unwrap();
                drop((pending, answered));
            }
            5 => {
                // Dropped while it connects.
                let (answer, answered) = b.factory.answer(&offer).await.unwrap();
                let wait = Duration::from_millis(turn as u64 % 40);
                let _ = tokio::time::timeout(wait, pending.accept(&answer)).await;
                drop(answered);
            }
            6 => {
                // Its own description as the answer to it.
                let accept = pending.accept(&offer);
                let _ = tokio::time::timeout(Duration::from_millis(20), accept).await;
            }
            _ => {
                let (answer, answered) = b.factory.answer(&offer).await.unwrap();
                let (ours, theirs) = tokio::join!(pending.accept(&answer), answered.connected());
                drop((ours.unwrap(), theirs));
            }
        }
    }
    a.is_idle().await;
    b.is_idle().await;
}
