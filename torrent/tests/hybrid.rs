//! A hybrid torrent is in two swarms: it answers to both of its names, and calls peers by either.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use wtfs_proto::id::{InfoHash, InfoHashV2, InfoHashes, PeerId};
use wtfs_proto::magnet::Magnet;
use wtfs_proto::wire::handshake::{Handshake, Reserved};
use wtfs_torrent::{AddOptions, ListenConfig, PortPolicy, Session, SessionConfig, Source};

/// Far beyond what anything here takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

fn names() -> InfoHashes {
    InfoHashes { v1: Some(InfoHash::of_info(b"hybrid")), v2: Some(InfoHashV2::of_info(b"hybrid")) }
}

fn magnet() -> Box<Magnet> {
    let [v1, v2] = [names().v1.expect("hybrid").to_string(), names().v2.expect("hybrid").to_string()];
    Box::new(Magnet::parse(&format!("magnet:?xt=urn:btih:{v1}&xt=urn:btmh:1220{v2}")).expect("a magnet"))
}

fn hello(info_hash: InfoHash) -> [u8; 68] {
    Handshake { reserved: Reserved::default(), info_hash, peer_id: PeerId::generate([b'p'; 12]) }.encode()
}

async fn heard(stream: &mut TcpStream) -> Handshake {
    let mut bytes = [0; 68];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut bytes))
        .await
        .expect("in time")
        .expect("a handshake");
    Handshake::decode(&bytes).expect("a handshake")
}

async fn session(dir: &tempfile::TempDir) -> Session {
    let listen = ListenConfig {
        port: 0,
        port_policy: PortPolicy::Exact,
        addrs: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
    };
    let config = SessionConfig { listen, ..SessionConfig::new(dir.path().to_owned()) };
    Session::open(config).await.expect("a session opens")
}

#[tokio::test]
async fn a_peer_that_knows_the_v2_name_only_is_called_by_it() {
    let dir = tempfile::tempdir().expect("dir");
    let session = session(&dir).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let peer: SocketAddr = listener.local_addr().expect("bound");
    let options = AddOptions { peers: vec![peer], ..AddOptions::default() };
    let torrent = session.add(Source::Magnet(magnet()), options).await.expect("added");
    let wanted: Vec<InfoHash> = names().iter().collect();
    let (mut first, _) = listener.accept().await.expect("called");
    assert_eq!(heard(&mut first).await.info_hash, wanted[0]);
    drop(first);
    let (mut second, _) =
        tokio::time::timeout(PATIENCE, listener.accept()).await.expect("in time").expect("called again");
    assert_eq!(heard(&mut second).await.info_hash, wanted[1]);
    second.write_all(&hello(wanted[1])).await.expect("answered");
    let connected = async {
        while torrent.status().peers.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.expect("the peer is kept");
    session.shutdown().await;
}

#[tokio::test]
async fn it_answers_to_both_names() {
    let dir = tempfile::tempdir().expect("dir");
    let session = session(&dir).await;
    session.add(Source::Magnet(magnet()), AddOptions::default()).await.expect("added");
    for name in names().iter() {
        let mut stream = TcpStream::connect(session.listening()[0]).await.expect("connected");
        stream.write_all(&hello(name)).await.expect("said");
        assert_eq!(heard(&mut stream).await.info_hash, name);
    }
    session.shutdown().await;
}
