//! What is shown of prefetches that are under way, against a scripted peer over a transport in memory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::{Bytes, BytesMut};
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wtfs_proto::id::PeerId;
use wtfs_proto::metainfo::{InfoBuilder, MetainfoBuilder};
use wtfs_proto::wire::handshake::{Handshake, Reserved};
use wtfs_proto::wire::message::{Decoder, Message};

use super::*;
use crate::transport::{Connection, memory};
use crate::{
    AddOptions, ListenConfig, PortPolicy, PrefetchStatus, Session, SessionConfig, Source, StorageKind,
};

const PATIENCE: Duration = Duration::from_secs(60);
const PIECE: usize = 16 * 1024;
const PIECES: u32 = 5;
/// The last piece is short.
const LEN: usize = PIECE * 4 + 100;

fn content() -> Vec<u8> {
    (0..LEN).map(|at| (at % 251) as u8).collect()
}

/// A peer that has everything and gives the pieces below `gives`, which may grow.
async fn serve(mut wire: Connection, mut gives: watch::Receiver<u32>) {
    let content = content();
    let decoder = Decoder::new(1 << 20);
    let (mut buffer, mut out, mut owed) = (BytesMut::new(), BytesMut::new(), Vec::new());
    Message::HaveAll.encode(&mut out);
    Message::Unchoke.encode(&mut out);
    loop {
        let most = *gives.borrow_and_update();
        owed.retain(|request: &wtfs_proto::wire::message::BlockRequest| {
            let from = request.piece as usize * PIECE + request.begin as usize;
            let data = Bytes::copy_from_slice(&content[from..from + request.length as usize]);
            if request.piece < most {
                Message::Piece { piece: request.piece, begin: request.begin, data }.encode(&mut out);
            }
            request.piece >= most
        });
        if wire.writer.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
        tokio::select! {
            more = gives.changed() => if more.is_err() { return },
            read = wire.reader.read_buf(&mut buffer) => if read.unwrap_or(0) == 0 { return },
        }
        while let Some(message) = decoder.decode(&mut buffer).expect("well-formed") {
            if let Message::Request(request) = message {
                owed.push(request);
            }
        }
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

fn shown(torrent: &Torrent) -> Vec<PrefetchStatus> {
    torrent.status().kept.prefetches
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetches_are_shown_with_how_far_they_are_while_they_are_under_way() {
    let info = InfoBuilder::single_file("data", LEN as u64, PIECE as u32).expect("a valid name");
    let hashes: Vec<u8> = content().chunks(PIECE).flat_map(Sha1::digest).collect();
    let metainfo = MetainfoBuilder::new(info.finish(&hashes).expect("a valid info")).expect("valid").finish();
    let dir = tempfile::tempdir().expect("dir");
    let mut config = SessionConfig::new(dir.path().to_owned());
    let listen = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    config.listen = ListenConfig { port: 0, port_policy: PortPolicy::Exact, addrs: listen };
    let session = Session::open(config).await.expect("opens");
    let options = AddOptions { storage: StorageKind::Memory, ..AddOptions::default() };
    let info_hash = metainfo.hashes.primary();
    let torrent = session.add(Source::Metainfo(Box::new(metainfo)), options).await.expect("added");
    assert!(shown(&torrent).is_empty());

    let there = SocketAddr::from(([10, 0, 0, 1], 1000));
    let (theirs, ours) = memory::pair(there, SocketAddr::from(([127, 0, 0, 1], 1)), 1 << 20);
    let reserved = Reserved::default().with_fast();
    let handshake = Handshake { reserved, info_hash, peer_id: PeerId::generate([1; 12]) };
    assert!(torrent.shared.commands.send(Command::Incoming(Box::new((ours, handshake)))).await.is_ok());
    let (give, gives) = watch::channel(2);
    tokio::spawn(serve(theirs, gives));

    let file = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
    let all = torrent.prefetch(file, 0..LEN as u64).expect("begins");
    let last = torrent.prefetch(file, LEN as u64 - 1..LEN as u64).expect("begins");
    until("what came shows", || shown(&torrent).first().is_some_and(|one| one.progress.done_pieces == 2))
        .await;
    let progress = |done_pieces, done_bytes, total_pieces, total_bytes| PrefetchStatus {
        path: "data".to_owned(),
        progress: PrefetchProgress { done_pieces, total_pieces, done_bytes, total_bytes },
    };
    let two = 2 * PIECE as u64;
    let expected = [progress(2, two, PIECES, LEN as u64), progress(0, 0, 1, 100)];
    assert_eq!(shown(&torrent), expected, "the oldest first");

    drop(last);
    until("one that was dropped is gone", || shown(&torrent) == expected[..1]).await;
    give.send(PIECES).expect("the peer is there");
    tokio::time::timeout(PATIENCE, all.wait()).await.expect("in time").expect("fetched");
    until("one that is done is gone", || shown(&torrent).is_empty()).await;
    session.shutdown().await;
}
