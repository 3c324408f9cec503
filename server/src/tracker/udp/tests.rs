//! The UDP front end over real sockets.

use std::time::Duration;

use super::*;
use crate::tracker::tests::Running;
use crate::tracker::{AccessConfig, TrackerConfig};
use wtfs_proto::id::{InfoHash, PeerId};
use wtfs_proto::tracker::ScrapeEntry;
use wtfs_proto::tracker::udp::{AnnounceRequest, ConnectRequest, ScrapeRequest};

/// Longer than any answer takes on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// A client with a connection id.
pub(in crate::tracker) struct Client {
    socket: UdpSocket,
    connection_id: u64,
}

impl Client {
    pub(in crate::tracker) async fn connect(to: SocketAddr) -> Self {
        let any: SocketAddr =
            if to.is_ipv4() { ([127, 0, 0, 1], 0).into() } else { "[::1]:0".parse().expect("any") };
        let socket = UdpSocket::bind(any).await.expect("a port");
        socket.connect(to).await.expect("connected");
        let mut client = Self { socket, connection_id: 0 };
        let request = ConnectRequest { transaction_id: 7 }.encode();
        match client.ask(&request).await {
            Response::Connect { transaction_id: 7, connection_id } => client.connection_id = connection_id,
            other => panic!("{other:?}"),
        }
        client
    }

    async fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 4096];
        let received = tokio::time::timeout(LONG, self.socket.recv(&mut buffer)).await;
        buffer.truncate(received.expect("an answer").expect("received"));
        buffer
    }

    async fn ask(&mut self, request: &[u8]) -> Response {
        self.socket.send(request).await.expect("sent");
        let family = Family::of(self.socket.local_addr().expect("bound").ip());
        Response::decode(&self.receive().await, family).expect("a response")
    }

    fn request(&self, info_hash: InfoHash, peer: u8, port: u16, left: u64) -> AnnounceRequest {
        let request = http::tests::request(info_hash, peer, port);
        let request = wtfs_proto::tracker::AnnounceRequest { left, ..request };
        AnnounceRequest {
            connection_id: self.connection_id,
            transaction_id: 9,
            request,
            url_data: String::new(),
        }
    }

    /// Seeders, leechers and peers.
    pub(in crate::tracker) async fn announce(
        &mut self,
        info_hash: InfoHash,
        peer: u8,
        port: u16,
        left: u64,
    ) -> (u32, u32, Vec<SocketAddr>) {
        let request = self.request(info_hash, peer, port, left).encode();
        match self.ask(&request).await {
            Response::Announce { transaction_id: 9, seeders, leechers, peers, .. } => {
                (seeders, leechers, peers)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Waits until everything sent before has been dealt with: a connect request is always answered.
    async fn settle(&mut self) -> Response {
        self.ask(&ConnectRequest { transaction_id: 11 }.encode()).await
    }
}

const HASH: InfoHash = InfoHash::new([5; 20]);

#[tokio::test]
async fn clients_find_each_other_and_scrape() {
    let running = Running::start(TrackerConfig::default()).await;
    let mut client = Client::connect(running.udp).await;
    assert_eq!(client.announce(HASH, 1, 7001, 1).await, (0, 1, vec![]));
    let first: SocketAddr = "127.0.0.1:7001".parse().expect("an address");
    assert_eq!(client.announce(HASH, 2, 7002, 0).await, (1, 1, vec![first]));
    let info_hashes = vec![HASH, InfoHash::new([6; 20])];
    let scrape = ScrapeRequest { connection_id: client.connection_id, transaction_id: 3, info_hashes };
    let entries = vec![ScrapeEntry { complete: 1, downloaded: 0, incomplete: 1 }, ScrapeEntry::default()];
    assert_eq!(client.ask(&scrape.encode()).await, Response::Scrape { transaction_id: 3, entries });
}

#[tokio::test]
async fn ipv6_clients_are_told_ipv6_peers() {
    let running = Running::start(TrackerConfig::default()).await;
    let Ok(socket) = UdpSocket::bind("[::1]:0").await else { return };
    let to = socket.local_addr().expect("bound");
    let tracker = running.tracker.clone();
    let stop = running.stop.clone();
    let serving = tokio::spawn(async move { tracker.serve_udp(socket, stop).await });
    let mut client = Client::connect(to).await;
    assert_eq!(client.announce(HASH, 1, 7001, 1).await, (0, 1, vec![]));
    let mut over_v4 = Client::connect(running.udp).await;
    assert_eq!(over_v4.announce(HASH, 2, 7002, 1).await, (0, 2, vec![]));
    let first: SocketAddr = "[::1]:7001".parse().expect("an address");
    assert_eq!(client.announce(HASH, 3, 7003, 1).await, (0, 3, vec![first]));
    // The same client over the other family: one peer, with both addresses.
    assert_eq!(over_v4.announce(HASH, 1, 7001, 1).await.1, 3);
    running.stop.cancel();
    serving.await.expect("no panic").expect("served");
}

#[tokio::test]
async fn nothing_is_answered_to_who_cannot_show_where_it_is() {
    let running = Running::start(TrackerConfig::default()).await;
    let mut client = Client::connect(running.udp).await;
    let good = client.request(HASH, 1, 7001, 1);
    let forged = AnnounceRequest { connection_id: client.connection_id ^ 1, ..good.clone() };
    client.socket.send(&forged.encode()).await.expect("sent");
    let scrape = ScrapeRequest { connection_id: 1, transaction_id: 3, info_hashes: vec![HASH] };
    client.socket.send(&scrape.encode()).await.expect("sent");
    for length in [0, 1, 15, 97] {
        client.socket.send(&good.encode()[..length]).await.expect("sent");
    }
    client.socket.send(&[0xFF; 2000]).await.expect("sent");
    // The first answer is to the last request: none of the others had one.
    assert!(matches!(client.settle().await, Response::Connect { transaction_id: 11, .. }));
    let stats = running.tracker.stats();
    assert_eq!((stats.peers, stats.udp.announces, stats.udp.rejected), (0, 0, 2));
    assert_eq!(stats.udp.malformed, 5);
}

#[tokio::test]
async fn an_answer_to_a_stranger_is_no_longer_than_the_question() {
    let running = Running::start(TrackerConfig::default()).await;
    let client = Client::connect(running.udp).await;
    let request = ConnectRequest { transaction_id: 1 }.encode();
    client.socket.send(&request).await.expect("sent");
    assert!(client.receive().await.len() <= request.len());
}

#[tokio::test]
async fn a_passkey_comes_as_url_data() {
    let access = AccessConfig { passkeys: vec!["sesame".to_owned()], ..AccessConfig::default() };
    let running = Running::start(TrackerConfig { access, ..TrackerConfig::default() }).await;
    let mut client = Client::connect(running.udp).await;
    let request = client.request(HASH, 1, 7001, 1).encode();
    match client.ask(&request).await {
        Response::Error { transaction_id: 9, message } => assert!(message.contains("passkey"), "{message}"),
        other => panic!("{other:?}"),
    }
    for path in ["/announce/sesame", "/sesame/announce?x=1"] {
        let url_data = codec::url_data(&format!("udp://hub:6969{path}")).to_owned();
        let request = AnnounceRequest { url_data, ..client.request(HASH, 1, 7001, 1) }.encode();
        assert!(matches!(client.ask(&request).await, Response::Announce { .. }), "{path}");
    }
    assert_eq!(passkey("/"), None);
    assert_eq!(passkey("/announce"), None);
    assert_eq!(passkey("/a/b/announce"), None);
}

#[tokio::test]
async fn a_large_swarm_fits_into_one_datagram() {
    let config = TrackerConfig { max_peers: 4000, requests_per_second: 0, ..TrackerConfig::default() };
    let running = Running::start(config).await;
    let request = |peer: u32| {
        let mut id = [0; 20];
        id[..4].copy_from_slice(&peer.to_be_bytes());
        let mut announce = http::told(&http::tests::request(HASH, 0, 7000), IpAddr::from([127, 0, 0, 1]), 0);
        announce.peer_id = PeerId::new(id);
        announce.key = peer + 1;
        announce
    };
    for peer in 1..1000 {
        running.tracker.shared.announce(request(peer), |_| ()).expect("accepted");
    }
    let client = Client::connect(running.udp).await;
    let mut ask = client.request(HASH, 1, 7001, 1);
    ask.request.num_want = Some(1000);
    client.socket.send(&ask.encode()).await.expect("sent");
    assert_eq!(client.receive().await.len(), 20 + 6 * ((1452 - 20) / 6));
}
