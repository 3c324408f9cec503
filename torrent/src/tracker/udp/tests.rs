//! The UDP client against a tracker written in raw bytes, with the losses and lies of a real network.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;
use wtfs_testkit::net;

use super::*;
use crate::http::test_origin::NO_SUCH_HOST;
use crate::tracker::tests::{INFO_HASH, PATIENCE, request};

const CONNECTION_ID: u64 = 0x0123_4567_89ab_cdef;
const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;

/// What the tracker does with the packet of number `n` (from 0): the packets it sends back.
type Script = Box<dyn FnMut(usize, &[u8]) -> Vec<Vec<u8>> + Send>;

/// A tracker on loopback that follows a script; it ends when dropped.
struct Tracker {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tracker {
    async fn start(bind: &str, mut script: Script) -> Self {
        let socket = UdpSocket::bind(bind).await.unwrap();
        let address = socket.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            for number in 0.. {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                log.lock().unwrap().push(buffer[..length].to_vec());
                for answer in script(number, &buffer[..length]) {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        Self { address, seen, task }
    }

    fn url(&self, path: &str) -> String {
        format!("udp://{}{path}", self.address)
    }

    fn actions(&self) -> Vec<u32> {
        self.seen.lock().unwrap().iter().map(|packet| u32_at(packet, 8)).collect()
    }
}

fn u32_at(packet: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(packet[at..at + 4].try_into().unwrap())
}

fn answer(action: u32, transaction_id: u32, rest: &[u8]) -> Vec<u8> {
    [&action.to_be_bytes()[..], &transaction_id.to_be_bytes(), rest].concat()
}

/// What an honest tracker answers to `packet`, with one peer of each family's form.
fn honest(packet: &[u8], is_v6: bool) -> Vec<u8> {
    let (action, id) = (u32_at(packet, 8), u32_at(packet, 12));
    match action {
        CONNECT => answer(CONNECT, id, &CONNECTION_ID.to_be_bytes()),
        ANNOUNCE => {
            assert_eq!(packet[..8], CONNECTION_ID.to_be_bytes());
            let counts = [1800u32, 7, 3].map(u32::to_be_bytes).concat();
            let peer: Vec<u8> =
                if is_v6 { [&[0x20; 16][..], &[0x1a, 0xe1]].concat() } else { vec![10, 1, 2, 3, 0x1a, 0xe1] };
            answer(ANNOUNCE, id, &[counts, peer].concat())
        }
        SCRAPE => {
            let count = (packet.len() - 16) / 20;
            answer(SCRAPE, id, &[5u32, 6, 7].map(u32::to_be_bytes).concat().repeat(count))
        }
        other => panic!("action {other} is none of a client"),
    }
}

/// Nothing is sent twice because somebody was held up.
fn limits() -> TrackerLimits {
    TrackerLimits { udp_first_timeout: PATIENCE, udp_total: PATIENCE, ..TrackerLimits::default() }
}

/// What is not answered soon is sent again, so many times.
fn impatient(udp_tries: u32) -> TrackerLimits {
    TrackerLimits { udp_first_timeout: Duration::from_millis(100), udp_tries, ..limits() }
}

async fn announce(tracker: &Tracker, path: &str) -> Result<AnnounceResponse, AnnounceError> {
    announce_within(limits(), tracker, path).await
}

async fn announce_within(
    limits: TrackerLimits,
    tracker: &Tracker,
    path: &str,
) -> Result<AnnounceResponse, AnnounceError> {
    let client = UdpClient::new(&limits);
    client.announce(&tracker.url(path), &request()).await.map(|(first, _)| first)
}

#[tokio::test]
async fn announce_connects_and_reads_ipv4_peers() {
    let tracker = Tracker::start("127.0.0.1:0", Box::new(|_, packet| vec![honest(packet, false)])).await;
    let response = announce(&tracker, "/announce").await.unwrap();
    assert_eq!(response.peers, ["10.1.2.3:6881".parse::<SocketAddr>().unwrap()]);
    assert_eq!((response.interval_s, response.leechers, response.seeders), (1800, Some(7), Some(3)));
    assert_eq!(tracker.actions(), [CONNECT, ANNOUNCE]);
    let seen = tracker.seen.lock().unwrap();
    assert_eq!(seen[1][16..36], *INFO_HASH.as_bytes());
    assert_eq!(u32_at(&seen[1], 80), 2, "the event is started");
    assert_eq!(seen[1][96..98], 6881u16.to_be_bytes());
}

#[tokio::test]
async fn announce_over_ipv6_reads_ipv6_peers() {
    let tracker = Tracker::start("[::1]:0", Box::new(|_, packet| vec![honest(packet, true)])).await;
    let response = announce(&tracker, "/announce").await.unwrap();
    assert_eq!(
        response.peers,
        ["[2020:2020:2020:2020:2020:2020:2020:2020]:6881".parse::<SocketAddr>().unwrap()]
    );
}

#[tokio::test]
async fn path_and_query_travel_as_url_data() {
    let tracker = Tracker::start("127.0.0.1:0", Box::new(|_, packet| vec![honest(packet, false)])).await;
    announce(&tracker, "/announce?passkey=abc").await.unwrap();
    let expected = [&[2u8, 21][..], b"/announce?passkey=abc"].concat();
    let packet = tracker.seen.lock().unwrap()[1].clone();
    assert_eq!(packet[98..98 + expected.len()], expected);
}

#[tokio::test]
async fn lost_packets_are_sent_again() {
    // The first of each kind is lost.
    let mut known = Vec::new();
    let script = move |_, packet: &[u8]| {
        if known.contains(&u32_at(packet, 8)) {
            return vec![honest(packet, false)];
        }
        known.push(u32_at(packet, 8));
        vec![]
    };
    let tracker = Tracker::start("127.0.0.1:0", Box::new(script)).await;
    assert_eq!(announce_within(impatient(9), &tracker, "").await.unwrap().peers.len(), 1);
    // Each may be sent once more while its answer is held up.
    let mut packets = tracker.seen.lock().unwrap().clone();
    for action in [CONNECT, ANNOUNCE] {
        let sent = packets.iter().take_while(|packet| u32_at(packet, 8) == action).count();
        assert!(sent >= 2, "{action}: {sent}");
        let same = packets.drain(..sent).collect::<std::collections::HashSet<_>>();
        assert_eq!(same.len(), 1, "the transaction stays the same, so that a late answer counts");
    }
    assert_eq!(packets, Vec::<Vec<u8>>::new());
}

#[tokio::test]
async fn garbage_before_the_answer_is_ignored() {
    let script = |_, packet: &[u8]| {
        let id = u32_at(packet, 12);
        vec![
            vec![],
            b"x".to_vec(),
            answer(u32_at(packet, 8), id, &[]),
            answer(u32_at(packet, 8), id.wrapping_add(1), &[0; 40]),
            answer(ERROR, id.wrapping_add(1), b"a lie"),
            answer(77, id, &[0; 40]),
            honest(packet, false),
        ]
    };
    let tracker = Tracker::start("127.0.0.1:0", Box::new(script)).await;
    assert_eq!(announce(&tracker, "").await.unwrap().peers.len(), 1);
}

#[tokio::test]
async fn packets_of_another_source_are_ignored() {
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let real = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let url = format!("udp://{}", real.local_addr().unwrap());
    let client = UdpClient::new(&limits());
    let serving = async {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = real.recv_from(&mut buffer).await.unwrap();
            let packet = &buffer[..length];
            let lie = answer(ERROR, u32_at(packet, 12), b"a lie with the right transaction");
            stranger.send_to(&lie, from).await.unwrap();
            real.send_to(&honest(packet, false), from).await.unwrap();
        }
    };
    let request = request();
    let result = tokio::select! {
        result = client.announce(&url, &request) => result,
        () = serving => unreachable!("it serves for ever"),
    };
    assert_eq!(result.unwrap().0.peers.len(), 1);
}

#[tokio::test]
async fn error_of_the_tracker_is_quoted() {
    let script = |_, packet: &[u8]| match u32_at(packet, 8) {
        ANNOUNCE => vec![answer(ERROR, u32_at(packet, 12), b"not registered")],
        _ => vec![honest(packet, false)],
    };
    let tracker = Tracker::start("127.0.0.1:0", Box::new(script)).await;
    let error = announce(&tracker, "").await.unwrap_err();
    assert_eq!(error, AnnounceError::Refused { reason: "not registered".to_owned() });
}

#[tokio::test]
async fn silence_ends_after_the_tries() {
    let tracker = Tracker::start("127.0.0.1:0", Box::new(|_, _| vec![])).await;
    let error = announce_within(impatient(3), &tracker, "").await.unwrap_err();
    assert!(matches!(error, AnnounceError::Timeout { .. }), "{error}");
    let all_seen = async {
        while tracker.actions().len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all_seen).await.expect("all of them reach it");
    assert_eq!(tracker.actions(), [CONNECT; 3]);
}

#[tokio::test]
async fn closed_port_is_reported_without_waiting() {
    let url = format!("udp://{}", net::refused_addr());
    let error = UdpClient::new(&limits()).announce(&url, &request()).await.unwrap_err();
    assert!(matches!(error, AnnounceError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn unknown_name_is_a_dns_error() {
    let url = format!("udp://{NO_SUCH_HOST}:1");
    let error = UdpClient::new(&limits()).announce(&url, &request()).await.unwrap_err();
    assert!(matches!(error, AnnounceError::Dns { .. }), "{error}");
}

#[tokio::test]
async fn connection_id_is_used_again_and_renewed_when_refused() {
    let script = |number, packet: &[u8]| match number {
        // connect, announce, announce; then the tracker "restarts" and knows the id no more
        3 => vec![answer(ERROR, u32_at(packet, 12), b"Connection ID missmatch.")],
        _ => vec![honest(packet, false)],
    };
    let tracker = Tracker::start("127.0.0.1:0", Box::new(script)).await;
    let client = UdpClient::new(&limits());
    for _ in 0..3 {
        client.announce(&tracker.url(""), &request()).await.unwrap();
    }
    assert_eq!(tracker.actions(), [CONNECT, ANNOUNCE, ANNOUNCE, ANNOUNCE, CONNECT, ANNOUNCE]);
}

#[tokio::test]
async fn scrape_takes_as_many_packets_as_the_hashes_need() {
    let tracker = Tracker::start("127.0.0.1:0", Box::new(|_, packet| vec![honest(packet, false)])).await;
    let client = UdpClient::new(&limits());
    let hashes = vec![INFO_HASH; 75];
    let entries = client.scrape(&tracker.url(""), &hashes).await.unwrap();
    assert_eq!(entries.len(), 75);
    let entry = entries[74].unwrap();
    assert_eq!((entry.complete, entry.downloaded, entry.incomplete), (5, 6, 7));
    assert_eq!(tracker.actions(), [CONNECT, SCRAPE, SCRAPE]);
}

#[test]
fn urls_are_taken_apart() {
    let target = |url: &str| Target::parse(url).map(|t| (t.host, t.port, t.url_data));
    let expect = |host: &str, port, data: &str| Ok((host.to_owned(), port, data.to_owned()));
    assert_eq!(target("udp://tracker.example:6969/announce"), expect("tracker.example", 6969, "/announce"));
    assert_eq!(target("UDP://10.0.0.1"), expect("10.0.0.1", 80, ""));
    assert_eq!(target("udp://[::1]:7/a?b=c#d"), expect("::1", 7, "/a?b=c"));
    for bad in ["udp://", "udp://:80", "udp://a:0", "udp://a:99999", "udp:a"] {
        assert!(matches!(target(bad), Err(AnnounceError::InvalidUrl(_))), "{bad}");
    }
}
