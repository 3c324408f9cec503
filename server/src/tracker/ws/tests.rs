//! The web sockets over real connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use wtfs_proto::id::InfoHash;

use super::socket;
use crate::tracker::tests::Running;
use crate::tracker::{AccessConfig, SocketConfig, TrackerConfig};

/// Longer than any answer takes on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// Speaks as a browser does, by JSON values rather than by our own codec.
pub(in crate::tracker) struct Browser {
    socket: WebSocketStream<TcpStream>,
}

type Refused = tokio_tungstenite::tungstenite::Error;

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

impl Browser {
    pub(in crate::tracker) async fn connect(running: &Running) -> Self {
        Self::open(running.tcp, "/announce", &[]).await.expect("upgraded")
    }

    async fn open(to: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> Result<Self, Refused> {
        let mut request = format!("ws://{to}{path}").into_client_request().expect("a request");
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().expect("a header"));
        }
        let stream = TcpStream::connect(to).await.expect("connected");
        Ok(Self { socket: tokio_tungstenite::client_async(request, stream).await?.0 })
    }

    async fn send(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.expect("sent");
    }

    pub(in crate::tracker) async fn announce(
        &mut self,
        hash: InfoHash,
        peer: u8,
        event: &str,
        left: u64,
        offers: u8,
    ) {
        let offers: Vec<Value> = (0..offers)
            .map(|number| {
                json!({
                    "offer_id": latin1(&[peer ^ (number + 0xC0); 20]),
                    "offer": {"type": "offer", "sdp": format!("v=0\r\nfrom {peer} number {number} \u{1F980}\r\n")},
                })
            })
            .collect();
        self.send(json!({
            "action": "announce", "info_hash": latin1(hash.as_bytes()), "peer_id": latin1(&[peer; 20]),
            "uploaded": 0, "downloaded": 0, "left": left, "event": event, "numwant": offers.len(), "offers": offers,
        }))
        .await;
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            match tokio::time::timeout(LONG, self.socket.next()).await.expect("in time")?.ok()? {
                Message::Text(text) => return Some(serde_json::from_str(&text).expect("JSON")),
                Message::Close(_) => return None,
                _ => (),
            }
        }
    }

    /// Seeders and leechers of the next message, which is an answer to an announce.
    pub(in crate::tracker) async fn next_counts(&mut self) -> (u64, u64) {
        let message = self.next().await.expect("a message");
        let count = |key: &str| message[key].as_u64().unwrap_or_else(|| panic!("no {key} in {message}"));
        (count("complete"), count("incomplete"))
    }

    /// The description of the next message, which is an answer to an offer.
    pub(in crate::tracker) async fn next_answer(&mut self) -> String {
        let message = self.next().await.expect("a message");
        message["answer"]["sdp"].as_str().unwrap_or_else(|| panic!("{message}")).to_owned()
    }

    async fn next_failure(&mut self) -> String {
        let message = self.next().await.expect("a message");
        message["failure reason"].as_str().unwrap_or_else(|| panic!("{message}")).to_owned()
    }
}

/// All byte values below and above ASCII.
const HASH: InfoHash =
    InfoHash::new([0, 1, 9, 10, 13, 31, 34, 92, 127, 128, 159, 160, 173, 200, 254, 255, 65, 47, 38, 60]);

#[tokio::test]
async fn an_offer_finds_another_peer_and_its_answer_the_way_back() {
    let running = Running::start(TrackerConfig::default()).await;
    let (mut first, mut second) = (Browser::connect(&running).await, Browser::connect(&running).await);
    first.announce(HASH, 1, "started", 5, 3).await;
    let answer = first.next().await.expect("a message");
    assert_eq!(answer["info_hash"], latin1(HASH.as_bytes()));
    assert_eq!(
        (&answer["action"], &answer["complete"], &answer["incomplete"]),
        (&json!("announce"), &json!(0), &json!(1))
    );
    assert!((108..=132).contains(&answer["interval"].as_u64().expect("a number")));

    second.announce(HASH, 2, "started", 0, 2).await;
    assert_eq!(second.next_counts().await, (1, 1));
    let offer = first.next().await.expect("an offer");
    assert_eq!(offer["peer_id"], latin1(&[2; 20]));
    assert_eq!(offer["offer"]["type"], "offer");
    assert!(offer["offer"]["sdp"].as_str().expect("text").starts_with("v=0\r\nfrom 2 number 0 \u{1F980}"));

    first
        .send(json!({
            "action": "announce", "info_hash": offer["info_hash"], "peer_id": latin1(&[1; 20]),
            "to_peer_id": offer["peer_id"], "offer_id": offer["offer_id"],
            "answer": {"type": "answer", "sdp": "v=0\r\nanswer\r\n"},
        }))
        .await;
    let back = second.next().await.expect("an answer");
    assert_eq!(back["answer"], json!({"type": "answer", "sdp": "v=0\r\nanswer\r\n"}));
    assert_eq!((&back["offer_id"], &back["peer_id"]), (&offer["offer_id"], &json!(latin1(&[1; 20]))));

    first.send(json!({"action": "scrape", "info_hash": [latin1(HASH.as_bytes())]})).await;
    let scraped = first.next().await.expect("numbers");
    let numbers = &scraped["files"][latin1(HASH.as_bytes())];
    assert_eq!(*numbers, json!({"complete": 1, "incomplete": 1, "downloaded": 0}));
    let stats = running.tracker.stats();
    assert_eq!((stats.relay.sockets, stats.relay.offers, stats.relay.answers), (2, 1, 1));
}

#[tokio::test]
async fn one_socket_is_in_many_swarms_and_out_of_all_when_it_closes() {
    let running = Running::start(TrackerConfig::default()).await;
    let mut browser = Browser::connect(&running).await;
    for torrent in 0..20 {
        browser.announce(InfoHash::new([torrent; 20]), 1, "started", 1, 0).await;
        assert_eq!(browser.next_counts().await, (0, 1));
    }
    browser.announce(InfoHash::new([0; 20]), 1, "stopped", 1, 0).await;
    assert_eq!(browser.next_counts().await, (0, 0));
    browser.announce(InfoHash::new([1; 20]), 1, "completed", 0, 0).await;
    assert_eq!(browser.next_counts().await, (1, 0));
    assert_eq!(running.tracker.swarm(InfoHash::new([1; 20])).expect("known").downloaded, 1);
    assert_eq!(running.tracker.stats().peers_browser, 19);
    browser.socket.close(None).await.expect("closed");
    while browser.next().await.is_some() {}
    until(|| running.tracker.stats().relay.sockets == 0).await;
    assert_eq!(running.tracker.stats().peers, 0);
}

#[tokio::test]
async fn two_peers_may_share_a_socket() {
    let running = Running::start(TrackerConfig::default()).await;
    let mut shared = Browser::connect(&running).await;
    shared.announce(HASH, 1, "started", 1, 0).await;
    assert_eq!(shared.next_counts().await, (0, 1));
    shared.announce(HASH, 2, "started", 1, 1).await;
    assert_eq!(shared.next_counts().await, (0, 2));
    assert_eq!(shared.next().await.expect("the offer to the first")["peer_id"], latin1(&[2; 20]));
    drop(shared);
    until(|| running.tracker.stats().peers == 0).await;
}

async fn until(is_so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(LONG, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it comes to pass");
}

#[tokio::test]
async fn a_client_that_reconnects_is_one_peer_and_gets_the_offers() {
    let running = Running::start(TrackerConfig::default()).await;
    let mut old = Browser::connect(&running).await;
    old.announce(HASH, 1, "started", 1, 0).await;
    old.next_counts().await;
    let mut new = Browser::connect(&running).await;
    new.announce(HASH, 1, "started", 1, 0).await;
    assert_eq!(new.next_counts().await, (0, 1));
    drop(old);
    until(|| running.tracker.stats().relay.sockets == 1).await;
    let mut other = Browser::connect(&running).await;
    other.announce(HASH, 2, "started", 1, 1).await;
    assert_eq!(other.next_counts().await, (0, 2));
    assert_eq!(new.next().await.expect("the offer")["peer_id"], latin1(&[2; 20]));
}

#[tokio::test]
async fn another_client_cannot_take_a_live_peers_place() {
    let running = Running::start(TrackerConfig::default()).await;
    let mut own =
        Browser::open(running.tcp, "/announce", &[("x-forwarded-for", "8.8.8.8")]).await.expect("upgraded");
    own.announce(HASH, 1, "started", 1, 0).await;
    own.next_counts().await;
    let mut thief =
        Browser::open(running.tcp, "/announce", &[("x-forwarded-for", "9.9.9.9")]).await.expect("upgraded");
    thief.announce(HASH, 1, "started", 1, 0).await;
    assert!(thief.next_failure().await.contains("in use"));
    // Nor answer in its name.
    thief.announce(HASH, 3, "started", 1, 0).await;
    thief.next_counts().await;
    thief
        .send(json!({
            "action": "announce", "info_hash": latin1(HASH.as_bytes()), "peer_id": latin1(&[2; 20]),
            "to_peer_id": latin1(&[1; 20]), "offer_id": latin1(&[0; 20]), "answer": {"type": "answer", "sdp": "x"},
        }))
        .await;
    until(|| running.tracker.stats().relay.dropped == 1).await;
}

#[tokio::test]
async fn pages_of_other_origins_are_kept_out_and_programs_are_not() {
    let access = AccessConfig { origins: vec!["https://example.org".to_owned()], ..AccessConfig::default() };
    let running = Running::start(TrackerConfig { access, ..TrackerConfig::default() }).await;
    let open = |origin: &'static str| {
        Browser::open(
            running.tcp,
            "/announce",
            if origin.is_empty() {
                &[]
            } else {
                match origin {
                    "good" => &[("origin", "https://example.org")],
                    _ => &[("origin", "https://evil.example")],
                }
            },
        )
    };
    assert!(open("").await.is_ok() && open("good").await.is_ok());
    match open("evil").await {
        Err(Refused::Http(response)) => assert_eq!(response.status(), 403),
        other => panic!("{:?}", other.map(|_| "upgraded")),
    }
    assert_eq!(running.tracker.stats().relay.sockets_refused, 1);
}

#[tokio::test]
async fn sockets_need_the_passkey_and_are_limited_per_client() {
    let access = AccessConfig { passkeys: vec!["sesame".to_owned()], ..AccessConfig::default() };
    let sockets = SocketConfig { max_per_subscriber: 2, ..SocketConfig::default() };
    let running = Running::start(TrackerConfig { access, sockets, ..TrackerConfig::default() }).await;
    assert!(Browser::open(running.tcp, "/announce", &[]).await.is_err());
    let mut first = Browser::open(running.tcp, "/announce/sesame", &[]).await.expect("upgraded");
    first.announce(HASH, 1, "started", 1, 0).await;
    first.next_counts().await;
    let second = Browser::open(running.tcp, "/sesame/announce", &[]).await.expect("upgraded");
    assert!(Browser::open(running.tcp, "/announce/sesame", &[]).await.is_err(), "two of one client");
    drop(second);
    until(|| running.tracker.stats().relay.sockets == 1).await;
    assert!(Browser::open(running.tcp, "/announce/sesame", &[]).await.is_ok());
}

#[tokio::test]
async fn nonsense_is_answered_and_much_of_it_ends_the_socket_while_others_go_on() {
    let running = Running::start(TrackerConfig::default()).await;
    let mut good = Browser::connect(&running).await;
    let mut bad = Browser::connect(&running).await;
    bad.send(json!({"action": "dance"})).await;
    assert!(bad.next_failure().await.contains("no action"));
    bad.socket.send(Message::binary(vec![0xFF; 100])).await.expect("sent");
    assert!(bad.next_failure().await.contains("no message of this protocol"));
    let mut failures = 2;
    for _ in 0..30 {
        if bad.socket.send(Message::text("[]")).await.is_err() {
            break;
        }
    }
    while let Some(message) = bad.next().await {
        assert!(message["failure reason"].is_string());
        failures += 1;
    }
    assert_eq!(failures, 20);
    let mut huge = Browser::connect(&running).await;
    let _ = huge.socket.send(Message::text("x".repeat(1 << 20))).await;
    assert!(huge.next().await.is_none(), "closed");
    good.announce(HASH, 1, "started", 1, 0).await;
    assert_eq!(good.next_counts().await, (0, 1));
}

#[tokio::test]
async fn a_flood_is_slowed_down_and_answered() {
    let sockets = SocketConfig { messages_per_second: 50, message_burst: 5, ..SocketConfig::default() };
    let running = Running::start(TrackerConfig { sockets, ..TrackerConfig::default() }).await;
    let mut browser = Browser::connect(&running).await;
    let began = Instant::now();
    for _ in 0..55 {
        browser.announce(HASH, 1, "update", 1, 0).await;
    }
    for _ in 0..55 {
        assert_eq!(browser.next_counts().await, (0, 1));
    }
    // 50 more than the burst, at 50 a second, each after a wait for the one before.
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_silent_socket_is_pinged_and_given_up_when_it_stays_silent() {
    // Long enough for the lively one to answer also where the machine stops for some seconds.
    let sockets = SocketConfig { ping_interval: Duration::from_secs(4), ..SocketConfig::default() };
    let running = Running::start(TrackerConfig { sockets, ..TrackerConfig::default() }).await;
    let mut silent = Browser::connect(&running).await;
    silent.announce(HASH, 1, "started", 1, 0).await;
    silent.next_counts().await;
    // Nothing reads this socket, so nothing answers its pings.
    let mut lively = Browser::connect(&running).await;
    lively.announce(HASH, 2, "started", 1, 0).await;
    lively.next_counts().await;
    let reading = tokio::spawn(async move { while lively.next_quietly().await {} });
    until(|| running.tracker.stats().peers == 1).await;
    assert_eq!(running.tracker.stats().relay.sockets, 1, "the lively one stays");
    assert!(!reading.is_finished());
    reading.abort();
    drop(silent);
}

impl Browser {
    /// Reads, and answers pings, for as long as the socket lives.
    async fn next_quietly(&mut self) -> bool {
        matches!(self.socket.next().await, Some(Ok(_)))
    }
}

#[tokio::test]
async fn who_does_not_read_is_closed_and_costs_no_more_than_the_limit() {
    let sockets = SocketConfig {
        queue: 8,
        write_timeout: Duration::from_secs(1),
        messages_per_second: 0,
        ..SocketConfig::default()
    };
    let config = TrackerConfig { sockets, requests_per_second: 0, ..TrackerConfig::default() };
    let running = Running::start(config).await;
    let mut slow = Browser::connect(&running).await;
    slow.announce(HASH, 1, "started", 1, 0).await;
    slow.next_counts().await;
    let mut busy = Browser::connect(&running).await;
    let sdp = "x".repeat(15_000);
    let began = Instant::now();
    for round in 0_u32.. {
        assert!(began.elapsed() < LONG, "the slow one was never closed");
        let offer = json!({"offer_id": latin1(&[7; 20]), "offer": {"type": "offer", "sdp": sdp}});
        busy.send(json!({
            "action": "announce", "info_hash": latin1(HASH.as_bytes()), "peer_id": latin1(&[2; 20]),
            "left": 1, "offers": [offer.clone(), offer],
        }))
        .await;
        let (_, leechers) = busy.next_counts().await;
        assert!(running.tracker.stats().relay.queued_bytes <= 8 * 16_000);
        if leechers == 1 {
            assert!(round > 8, "it had its chance");
            until(|| running.tracker.stats().relay.sockets == 1).await;
            assert_eq!(running.tracker.stats().relay.sockets_slow, 1);
            return;
        }
    }
}

fn bytes_of_future<A, B, C, D, E, F>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn the_task_of_a_socket_is_small() {
    let bytes = bytes_of_future(socket::serve);
    println!("{bytes} bytes");
    assert!(bytes <= 4096, "{bytes} bytes");
}

#[tokio::test]
async fn the_end_of_the_tracker_closes_its_sockets() {
    let running = Running::start(TrackerConfig::default()).await;
    let mut browser = Browser::connect(&running).await;
    browser.announce(HASH, 1, "started", 1, 0).await;
    browser.next_counts().await;
    running.stop.cancel();
    assert!(browser.next().await.is_none());
}
