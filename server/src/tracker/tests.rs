//! The tracker over real sockets: what the front ends' tests share, and what concerns all of them at once.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::client_addr::TrustedProxies;

/// A tracker that listens on loopback over all protocols, until it is dropped.
pub(super) struct Running {
    pub(super) tracker: Tracker,
    pub(super) tcp: SocketAddr,
    pub(super) udp: SocketAddr,
    _tasks: Vec<JoinHandle<()>>,
    pub(super) stop: CancellationToken,
    _guard: DropGuard,
}

impl Running {
    pub(super) async fn start(config: TrackerConfig) -> Self {
        let tracker = Tracker::new(config);
        let stop = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let (tcp, udp) = (listener.local_addr().expect("bound"), socket.local_addr().expect("bound"));
        let proxies = TrustedProxies::parse(["127.0.0.1"]).expect("networks");
        let app = tracker.router().layer(axum::Extension(proxies));
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let (serving, datagrams, upkeep) = (stop.clone(), tracker.clone(), tracker.clone());
        let (udp_stop, upkeep_stop) = (stop.clone(), stop.clone());
        let tasks = vec![
            tokio::spawn(async move {
                let ended =
                    axum::serve(listener, app).with_graceful_shutdown(serving.cancelled_owned()).await;
                ended.expect("served");
            }),
            tokio::spawn(async move { datagrams.serve_udp(socket, udp_stop).await.expect("served") }),
            tokio::spawn(async move { upkeep.maintain(upkeep_stop).await }),
        ];
        Self { tracker, tcp, udp, _tasks: tasks, _guard: stop.clone().drop_guard(), stop }
    }

    /// The body of a response to a GET, which is sent on a connection of its own.
    pub(super) async fn get(&self, target: &str, headers: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.tcp).await.expect("connected");
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.expect("received");
        let end = response.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8_lossy(&response[..end]).into_owned();
        (head, response.split_off(end))
    }
}

#[tokio::test]
async fn peers_of_all_protocols_are_one_swarm() {
    use wtfs_proto::tracker::http::{announce_query, decode_announce_response};
    let running = Running::start(TrackerConfig::default()).await;
    let hash = InfoHash::new([3; 20]);
    let mut browser = ws::tests::Browser::connect(&running).await;
    browser.announce(hash, 1, "started", 1, 0).await;
    let counted = browser.next_counts().await;
    assert_eq!(counted, (0, 1));
    let mut by_udp = udp::tests::Client::connect(running.udp).await;
    assert_eq!(by_udp.announce(hash, 2, 7002, 0).await, (1, 1, vec![]));
    let query = announce_query(&http::tests::request(hash, 3, 7003));
    let (_, body) = running.get(&format!("/announce?{query}"), "").await;
    let response = decode_announce_response(&body).expect("a response");
    assert_eq!((response.seeders, response.leechers), (Some(1), Some(2)));
    let udp_peer: SocketAddr = "127.0.0.1:7002".parse().expect("an address");
    assert_eq!(response.peers, [udp_peer], "an address; the browser has none");
    let stats = running.tracker.stats();
    assert_eq!((stats.torrents, stats.peers, stats.seeders), (1, 3, 1));
    assert_eq!((stats.peers_v4, stats.peers_v6, stats.peers_browser), (2, 0, 1));
    assert_eq!((stats.http.announces, stats.udp.announces, stats.websocket.announces), (1, 1, 1));
    let swarm = running.tracker.swarm(hash).expect("known");
    assert_eq!((swarm.seeders, swarm.leechers), (1, 2));
    assert_eq!(running.tracker.swarms(0, 10), [swarm]);
    assert_eq!(running.tracker.swarms(1, 10), []);
}

#[tokio::test]
async fn the_largest_swarms_come_first_and_the_list_can_be_paged() {
    let tracker = Tracker::new(TrackerConfig { requests_per_second: 0, ..TrackerConfig::default() });
    for torrent in 0..50_u8 {
        for peer in 0..=torrent {
            let request = http::tests::request(InfoHash::new([torrent; 20]), peer, 7000);
            let from = IpAddr::from([8, 8, torrent, peer]);
            tracker.shared.announce(http::told(&request, from, 0), |_| ()).expect("accepted");
        }
    }
    let all = tracker.swarms(0, 1000);
    assert_eq!(all.len(), 50);
    assert!(all.iter().map(|swarm| swarm.leechers).eq((1..=50).rev()));
    assert_eq!(tracker.swarms(10, 5), all[10..15]);
    assert_eq!(tracker.swarms(48, 5), all[48..]);
    assert_eq!(tracker.swarms(50, 5), []);
    assert_eq!(tracker.swarms(usize::MAX, 5), []);
}

#[tokio::test]
async fn what_the_map_gains_and_loses_is_counted() {
    let config = TrackerConfig { max_total_peers: 2, requests_per_second: 0, ..TrackerConfig::default() };
    let tracker = Tracker::new(config);
    let announce = |peer: u8| {
        let request = http::tests::request(InfoHash::new([1; 20]), peer, 7000);
        http::told(&request, IpAddr::from([8, 8, 8, peer]), 10)
    };
    let count = |announce| tracker.shared.announce(announce, |_| ()).expect("accepted").counts.incomplete;
    assert_eq!([count(announce(1)), count(announce(2)), count(announce(3))], [1, 2, 2]);
    let stop = Announce { event: wtfs_proto::tracker::AnnounceEvent::Stopped, ..announce(1) };
    assert_eq!([count(stop), count(announce(3))], [1, 2]);
    assert_eq!(tracker.shared.peers.load(Ordering::Relaxed), 2);
    assert_eq!(tracker.shared.torrents.load(Ordering::Relaxed), 1);
}

#[test]
fn intervals_vary_by_as_much_as_was_asked() {
    let tracker = Tracker::new(TrackerConfig { jitter_percent: 10, ..TrackerConfig::default() });
    let drawn: Vec<u32> = (0..2000).map(|_| tracker.shared.jittered(Duration::from_secs(1000))).collect();
    assert!(drawn.iter().all(|seconds| (900..=1100).contains(seconds)));
    assert!(drawn.iter().min() < Some(&910) && drawn.iter().max() > Some(&1090));
    let tracker = Tracker::new(TrackerConfig { jitter_percent: 0, ..TrackerConfig::default() });
    assert_eq!(tracker.shared.jittered(Duration::from_secs(1000)), 1000);
}
