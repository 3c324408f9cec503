//! What is told to a scripted peer over a transport in memory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wtfs_proto::id::PeerId;
use wtfs_proto::metainfo::{InfoBuilder, MetainfoBuilder};
use wtfs_proto::wire::extended::{ExtendedHandshake, HANDSHAKE_ID, LT_DONTHAVE, encode_dont_have};
use wtfs_proto::wire::handshake::{Handshake, Reserved};
use wtfs_proto::wire::message::{Decoder, Message};

use crate::torrent::Command;
use crate::transport::{Connection, memory};
use crate::{AddOptions, ListenConfig, PortPolicy, Session, SessionConfig, Source, StorageKind};

const PATIENCE: Duration = Duration::from_secs(60);
const PIECE: usize = 32_768;
/// Two pieces: of two that have everything, one would hang up.
const LEN: usize = 40_000;

/// A peer that has everything, gives what it is asked for, gives piece 0 up once it is told to, and returns when it
/// hears that we have piece 0.
async fn seed_then_give_up(
    mut wire: Connection,
    content: Vec<u8>,
    mut give_up: tokio::sync::oneshot::Receiver<()>,
) {
    let decoder = Decoder::new(1 << 20);
    let (mut buffer, mut out) = (BytesMut::new(), BytesMut::new());
    let mut dont_have = None;
    Message::HaveAll.encode(&mut out);
    Message::Unchoke.encode(&mut out);
    let mut has_given_up = false;
    loop {
        wire.writer.write_all(&out).await.expect("we are not hung up on");
        out.clear();
        tokio::select! {
            told = &mut give_up, if !has_given_up && dont_have.is_some() => {
                told.expect("the test still runs");
                has_given_up = true;
                let id = dont_have.expect("checked");
                Message::Extended { id, payload: Bytes::copy_from_slice(&encode_dont_have(0)) }.encode(&mut out);
                continue;
            }
            read = wire.reader.read_buf(&mut buffer) => assert!(read.expect("readable") > 0, "hung up on"),
        }
        while let Some(message) = decoder.decode(&mut buffer).expect("well-formed") {
            match message {
                Message::Extended { id: HANDSHAKE_ID, payload } => {
                    let handshake = ExtendedHandshake::decode(&payload).expect("well-formed");
                    dont_have = handshake.messages.get(LT_DONTHAVE).copied();
                }
                Message::Request(request) => {
                    let from = request.begin as usize;
                    let data = Bytes::copy_from_slice(&content[from..from + request.length as usize]);
                    Message::Piece { piece: request.piece, begin: request.begin, data }.encode(&mut out);
                }
                Message::Have(0) => {
                    assert!(has_given_up, "it had the piece then: there was no need to tell it");
                    return;
                }
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_gives_a_piece_up_hears_that_we_have_it() {
    let content: Vec<u8> = (0..LEN).map(|at| (at % 251) as u8).collect();
    let info = InfoBuilder::single_file("data", LEN as u64, PIECE as u32).expect("a valid name");
    let info = info
        .finish(&content.chunks(PIECE).flat_map(Sha1::digest).collect::<Vec<u8>>())
        .expect("a valid info");
    let metainfo = MetainfoBuilder::new(info).expect("a valid torrent").finish();

    let dir = tempfile::tempdir().expect("dir");
    let mut config = SessionConfig::new(dir.path().to_owned());
    let listen = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    config.listen = ListenConfig { port: 0, port_policy: PortPolicy::Exact, addrs: listen };
    let session = Session::open(config).await.expect("opens");
    let options = AddOptions { storage: StorageKind::Memory, ..AddOptions::default() };
    let info_hash = metainfo.hashes.primary();
    let torrent = session.add(Source::Metainfo(Box::new(metainfo)), options).await.expect("added");

    let there = SocketAddr::from(([10, 0, 0, 1], 1000));
    let (theirs, ours) = memory::pair(there, SocketAddr::from(([127, 0, 0, 1], 1)), 1 << 20);
    let handshake = Handshake {
        reserved: Reserved::default().with_fast().with_extension_protocol(),
        info_hash,
        peer_id: PeerId::generate([1; 12]),
    };
    assert!(torrent.shared.commands.send(Command::Incoming(Box::new((ours, handshake)))).await.is_ok());
    let (give_up, told) = tokio::sync::oneshot::channel();
    let peer = tokio::spawn(seed_then_give_up(theirs, content.clone(), told));

    let file = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
    let reader = torrent.open(file).expect("opens");
    let read = tokio::time::timeout(PATIENCE, reader.read_at(0, PIECE as u32));
    assert!(read.await.expect("in time").expect("read") == content[..PIECE], "wrong bytes");
    // The read may be answered before its piece is stored.
    let stored = async {
        while torrent.pieces().0 == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, stored).await.expect("stored in time");
    give_up.send(()).expect("the peer is there");
    tokio::time::timeout(PATIENCE, peer).await.expect("it hears of the piece in time").expect("no panic");
    session.shutdown().await;
}
