//! A peer that is dialled and dials at the same moment, by hand over TCP: one connection is left, whoever decides.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use wtfs_torrent::{AddOptions, Fill, Session, Source};

use crate::content::lay_out;
use crate::{PATIENCE, next_ip, session, with_peer};

/// Who the peer is, to the session.
#[derive(Debug, Clone, Copy)]
enum Name {
    /// The same client, and an id that is less.
    KinLess,
    /// The same client, and an id that is greater.
    KinGreater,
    /// Another client, and an id that is less.
    StrangerLess,
    /// Another client, and an id that is greater.
    StrangerGreater,
}

impl Name {
    fn id(self, session: &[u8]) -> [u8; 20] {
        let (mut id, last) = match self {
            Self::KinLess => ([0; 20], 0),
            Self::KinGreater => ([0xff; 20], 0xff),
            Self::StrangerLess => return *b"-AA0000-rivals000000",
            Self::StrangerGreater => return *b"-ZZ0000-rivals000000",
        };
        id[..8].copy_from_slice(&session[..8]);
        id[8..].fill(last);
        id
    }
}

/// Which of the two connections the session hears of first.
#[derive(Debug, Clone, Copy)]
enum First {
    TheirDial,
    OurDial,
}

/// Two connections of a session and a peer of this name.
struct Scene {
    _dirs: [tempfile::TempDir; 2],
    session: Session,
    /// It is used.
    first: TcpStream,
    /// The handshake is over.
    second: TcpStream,
}

impl Scene {
    async fn new(name: Name, is_first: First) -> Self {
        let listener = TcpListener::bind((IpAddr::V4(next_ip()), 0)).await.expect("an address of our own");
        let dirs = [tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir")];
        let metainfo = lay_out(dirs[0].path(), 100_000, 32_768).await;
        let session = session(dirs[1].path(), |_| {}).await;
        let peers = with_peer(listener.local_addr().expect("bound"));
        let options = AddOptions { fill: Fill::Everything, ..peers };
        let _torrent = session.add(Source::Metainfo(Box::new(metainfo)), options).await.expect("added");
        let (mut theirs, _) = timeout(PATIENCE, listener.accept()).await.expect("in time").expect("a dial");
        let mut handshake = hear_handshake(&mut theirs).await;
        let id = name.id(&handshake[48..]);
        handshake[48..].copy_from_slice(&id);
        let mut ours = TcpStream::connect(session.listening()[0]).await.expect("it listens");
        let [first, second] = match is_first {
            First::OurDial => {
                ours.write_all(&handshake).await.expect("open");
                hear_handshake(&mut ours).await;
                assert!(is_used(&mut ours).await, "{name:?}");
                theirs.write_all(&handshake).await.expect("open");
                [ours, theirs]
            }
            First::TheirDial => {
                theirs.write_all(&handshake).await.expect("open");
                assert!(is_used(&mut theirs).await, "{name:?}");
                ours.write_all(&handshake).await.expect("open");
                hear_handshake(&mut ours).await;
                [theirs, ours]
            }
        };
        Self { _dirs: dirs, session, first, second }
    }
}

async fn hear_handshake(stream: &mut TcpStream) -> [u8; 68] {
    let mut handshake = [0; 68];
    timeout(PATIENCE, stream.read_exact(&mut handshake)).await.expect("in time").expect("a handshake");
    handshake
}

/// The next message of the session, its number first; nothing if it hangs up.
async fn hear(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let hearing = async {
        let len = stream.read_u32().await.ok()?;
        let mut message = vec![0; usize::try_from(len).expect("it fits")];
        stream.read_exact(&mut message).await.ok()?;
        Some(message)
    };
    timeout(PATIENCE, hearing).await.expect("in time")
}

/// Whether the session says something after the handshake; else it hangs up.
async fn is_used(stream: &mut TcpStream) -> bool {
    hear(stream).await.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_other_side_may_keep_is_taken_when_the_first_is_closed() {
    for (name, first) in [
        // It keeps what the session dialled, which has the greater id.
        (Name::KinLess, First::OurDial),
        (Name::KinGreater, First::TheirDial),
        (Name::StrangerLess, First::OurDial),
        (Name::StrangerLess, First::TheirDial),
        (Name::StrangerGreater, First::OurDial),
        (Name::StrangerGreater, First::TheirDial),
    ] {
        let Scene { session, first: closed, mut second, _dirs } = Scene::new(name, first).await;
        drop(closed);
        assert!(is_used(&mut second).await, "{name:?}, {first:?}");
        session.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_its_own_client_will_not_keep_is_closed_at_once() {
    for (name, first) in [(Name::KinLess, First::TheirDial), (Name::KinGreater, First::OurDial)] {
        let mut scene = Scene::new(name, first).await;
        assert!(!is_used(&mut scene.second).await, "{name:?}, {first:?}");
        // The first works: told that all is there to be had, the session says that it is interested.
        scene.first.write_all(&[0, 0, 0, 1, 14]).await.expect("open");
        while hear(&mut scene.first).await.expect("open") != [2] {}
        scene.session.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_dialled_and_left_is_dialled_where_it_listens() {
    let listener = TcpListener::bind((IpAddr::V4(next_ip()), 0)).await.expect("an address of our own");
    let addr = listener.local_addr().expect("bound");
    let dirs = [tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir")];
    let metainfo = lay_out(dirs[0].path(), 100_000, 32_768).await;
    let session = session(dirs[1].path(), |_| {}).await;
    let options = AddOptions { fill: Fill::Everything, ..with_peer(addr) };
    let torrent = session.add(Source::Metainfo(Box::new(metainfo)), options).await.expect("added");
    let (mut theirs, _) = timeout(PATIENCE, listener.accept()).await.expect("in time").expect("a dial");
    let mut handshake = hear_handshake(&mut theirs).await;
    handshake[48..].copy_from_slice(&Name::StrangerLess.id(&[]));
    drop(theirs);
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(addr.ip(), 0)).expect("a port");
    let mut ours = socket.connect(session.listening()[0]).await.expect("it listens");
    let extended = format!("d1:pi{}ee", addr.port());
    let length = u32::try_from(extended.len() + 2).expect("short");
    let said = [&handshake[..], &length.to_be_bytes(), &[20, 0], extended.as_bytes()].concat();
    ours.write_all(&said).await.expect("open");
    hear_handshake(&mut ours).await;
    // Who is dialled meanwhile is not there.
    let nobody_left = async {
        while torrent.status().peers.len() != 1 || torrent.status().servers.known_peers != 0 {
            if let Ok(dial) = timeout(Duration::from_millis(10), listener.accept()).await {
                drop(dial.expect("a dial"));
            }
        }
    };
    timeout(PATIENCE, nobody_left).await.expect("in time");
    drop(ours);
    let (mut again, _) = timeout(PATIENCE, listener.accept()).await.expect("in time").expect("a dial");
    hear_handshake(&mut again).await;
    session.shutdown().await;
}
