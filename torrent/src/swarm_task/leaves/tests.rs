//! Reads of v2 torrents from scripted peers over a transport in memory: what is asked of whom, what is answered when,
//! and who is banned for what.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wtfs_proto::bencode::Encoder;
use wtfs_proto::geometry::BLOCK_BYTES;
use wtfs_proto::id::PeerId;
use wtfs_proto::merkle::{self, Hash};
use wtfs_proto::metainfo::Metainfo;
use wtfs_proto::swarm::hash_answers::{Plan, layer_tree};
use wtfs_proto::wire::handshake::{Handshake, Reserved};
use wtfs_proto::wire::message::{BlockRequest, Decoder, HashRequest, Message};
use wtfs_testkit::origin::{Body, Origin};

use crate::reader::FileReader;
use crate::torrent::Command;
use crate::transport::{Connection, memory};
use crate::{
    AddOptions, Fill, ListenConfig, PortPolicy, Session, SessionConfig, Source, StorageKind, Torrent,
};

const PATIENCE: Duration = Duration::from_secs(60);
const BLOCK: usize = BLOCK_BYTES as usize;
const BLOCKS: usize = 16;
const PIECE: usize = BLOCK * BLOCKS;
/// Four pieces, the last one short and ending inside a block.
const LEN: usize = PIECE * 3 + BLOCK * 5 + 100;

fn content() -> Vec<u8> {
    (0..LEN as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

fn leaves_of(bytes: &[u8]) -> Vec<Hash> {
    bytes.chunks(BLOCK).map(merkle::hash_block).collect()
}

/// A v2 torrent of one file, as a `.torrent` has it.
fn metainfo() -> Metainfo {
    let leaves = leaves_of(&content());
    let root = merkle::root(&leaves);
    let layer: Vec<Hash> =
        leaves.chunks(BLOCKS).map(|piece| merkle::piece_node(piece, BLOCKS.ilog2())).collect();
    let mut info = Encoder::new();
    info.dict(|d| {
        d.dict("file tree", |tree| {
            tree.dict("data", |node| {
                node.dict("", |file| {
                    file.int("length", LEN as i64);
                    file.bytes("pieces root", root);
                });
            });
        });
        d.int("meta version", 2);
        d.bytes("name", "data");
        d.int("piece length", PIECE as i64);
    });
    let mut metainfo = Metainfo::from_info(info.finish().into(), vec![], vec![]).expect("a valid torrent");
    metainfo.piece_layers = vec![(root, layer.concat().into())];
    metainfo
}

/// What a peer does with hash requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hashes {
    Given,
    Wrong,
    Refused,
    Ignored,
}

/// What a peer has seen.
#[derive(Debug, Default)]
struct Seen {
    requests: Vec<BlockRequest>,
    hash_requests: Vec<HashRequest>,
    is_closed: bool,
}

/// A seeder that gives only the blocks that it is told to, some of them wrong.
#[derive(Clone, Copy)]
struct Script {
    hashes: Hashes,
    gives: fn(&BlockRequest) -> bool,
    lies: fn(&BlockRequest) -> bool,
}

const HONEST: Script = Script { hashes: Hashes::Given, gives: |_| true, lies: |_| false };

struct World {
    _dir: tempfile::TempDir,
    session: Session,
    torrent: Torrent,
    reader: FileReader,
}

async fn world(metainfo: Metainfo) -> World {
    let dir = tempfile::tempdir().expect("dir");
    let mut config = SessionConfig::new(dir.path().to_owned());
    let listen = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    config.listen = ListenConfig { port: 0, port_policy: PortPolicy::Exact, addrs: listen };
    let session = Session::open(config).await.expect("opens");
    let options = AddOptions { storage: StorageKind::Memory, ..AddOptions::default() };
    let torrent = session.add(Source::Metainfo(Box::new(metainfo)), options).await.expect("added");
    let file = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
    let reader = torrent.open(file).expect("opens");
    World { _dir: dir, session, torrent, reader }
}

impl World {
    /// A peer at 10.0.0.`number` connects.
    async fn connect(&self, number: u8, script: Script) -> Arc<Mutex<Seen>> {
        let here = SocketAddr::from(([127, 0, 0, 1], 1));
        let there = SocketAddr::from(([10, 0, 0, number], 1000));
        let (theirs, ours) = memory::pair(there, here, 1 << 20);
        let handshake = Handshake {
            reserved: Reserved::default().with_fast(),
            info_hash: self.torrent.hashes().v2.expect("v2").truncated(),
            peer_id: PeerId::generate([number; 12]),
        };
        let command = Command::Incoming(Box::new((ours, handshake)));
        assert!(self.torrent.shared.commands.send(command).await.is_ok());
        let seen = Arc::new(Mutex::new(Seen::default()));
        tokio::spawn(serve(theirs, script, seen.clone()));
        seen
    }

    async fn read(&self, offset: usize, len: usize) {
        let read = tokio::time::timeout(PATIENCE, self.reader.read_at(offset as u64, len as u32));
        let bytes = read.await.expect("in time").expect("read");
        assert!(bytes == content()[offset..offset + len], "wrong bytes at {offset}");
    }

    fn banned(&self) -> Vec<IpAddr> {
        self.torrent.status().bans.banned.iter().map(|banned| banned.addr.ip()).collect()
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

fn hashes_for(request: &HashRequest) -> Option<Vec<u8>> {
    let (metainfo, content) = (metainfo(), content());
    let plan = Plan::new(&metainfo, request)?;
    let leaves = plan.piece.map(|piece| {
        let from = piece.get() as usize * PIECE;
        leaves_of(&content[from..(from + PIECE).min(LEN)])
    });
    Some(plan.answer(leaves, layer_tree(&metainfo, plan.file).as_ref())?.concat())
}

async fn serve(mut wire: Connection, script: Script, seen: Arc<Mutex<Seen>>) {
    let content = content();
    let decoder = Decoder::new(1 << 20);
    let (mut buffer, mut out) = (BytesMut::new(), BytesMut::new());
    Message::HaveAll.encode(&mut out);
    Message::Unchoke.encode(&mut out);
    loop {
        if wire.writer.write_all(&out).await.is_err() {
            break;
        }
        out.clear();
        if wire.reader.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
            break;
        }
        while let Some(message) = decoder.decode(&mut buffer).expect("well-formed") {
            match message {
                Message::Request(request) => {
                    seen.lock().expect("no panic").requests.push(request);
                    if !(script.gives)(&request) {
                        continue;
                    }
                    let from = request.piece as usize * PIECE + request.begin as usize;
                    let mut data = content[from..from + request.length as usize].to_vec();
                    if (script.lies)(&request) {
                        data[7] ^= 1;
                    }
                    let data = Bytes::from(data);
                    Message::Piece { piece: request.piece, begin: request.begin, data }.encode(&mut out);
                }
                Message::HashRequest(request) => {
                    seen.lock().expect("no panic").hash_requests.push(request);
                    let answer = hashes_for(&request).expect("only what can be answered is asked for");
                    let hashes = |bytes: Vec<u8>| Message::Hashes { request, hashes: bytes.into() };
                    match script.hashes {
                        Hashes::Given => hashes(answer).encode(&mut out),
                        Hashes::Wrong => hashes(vec![9; answer.len()]).encode(&mut out),
                        Hashes::Refused => Message::HashReject(request).encode(&mut out),
                        Hashes::Ignored => {}
                    }
                }
                _ => {}
            }
        }
    }
    seen.lock().expect("no panic").is_closed = true;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_answered_by_its_block_alone_before_the_piece_is_complete() {
    let world = world(metainfo()).await;
    // Nothing but one block of piece 1 is ever given.
    let script = Script { gives: |r| (r.piece, r.begin) == (1, 3 * BLOCK_BYTES), ..HONEST };
    let seen = world.connect(1, script).await;
    world.read(PIECE + 3 * BLOCK + 100, 4096).await;
    {
        let seen = seen.lock().expect("no panic");
        assert_eq!(seen.requests[0], BlockRequest { piece: 1, begin: 3 * BLOCK_BYTES, length: BLOCK_BYTES });
        assert_eq!(seen.hash_requests.len(), 1);
    }
    assert_eq!(world.torrent.pieces().0, 0, "only whole pieces are marked present");
    // Read again, it comes from memory.
    world.read(PIECE + 3 * BLOCK, BLOCK).await;
    let again = seen.lock().expect("no panic").requests.iter().filter(|r| r.begin == 3 * BLOCK_BYTES).count();
    assert_eq!(again, 1);
    world.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_across_blocks_pieces_and_the_end_gets_just_its_bytes() {
    let world = world(metainfo()).await;
    let script = Script {
        gives: |r| match r.piece {
            0 => r.begin >= 14 * BLOCK_BYTES,
            1 => r.begin < 2 * BLOCK_BYTES,
            3 => r.begin >= 4 * BLOCK_BYTES,
            _ => false,
        },
        ..HONEST
    };
    let _seen = world.connect(1, script).await;
    world.read(PIECE - BLOCK - 10, 2 * BLOCK).await;
    world.read(LEN - 5_000, 5_000).await;
    assert_eq!(world.torrent.pieces().0, 0);
    world.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_piece_is_fetched_when_no_reads_come_and_is_stored_whole() {
    let world = world(metainfo()).await;
    let seen = world.connect(1, HONEST).await;
    world.read(2 * PIECE + 5 * BLOCK, 100).await;
    until("the piece is stored", || world.torrent.pieces().0 == 1).await;
    assert_eq!(seen.lock().expect("no panic").requests.len(), BLOCKS, "each block once, and nothing else");
    world.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_block_bans_its_sender_and_nobody_else_and_is_fetched_anew() {
    let world = world(metainfo()).await;
    let liar = Script { lies: |_| true, ..HONEST };
    let liar_seen = world.connect(1, liar).await;
    let reader = world.reader.clone();
    let reading = tokio::spawn(async move { reader.read_at(BLOCK as u64 * 2, 4096).await });
    until("the liar is banned", || liar_seen.lock().expect("no panic").is_closed).await;
    let _honest = world.connect(2, HONEST).await;
    let read = tokio::time::timeout(PATIENCE, reading).await.expect("in time").expect("no panic");
    assert!(read.expect("read") == content()[BLOCK * 2..BLOCK * 2 + 4096]);
    until("the ban shows", || !world.banned().is_empty()).await;
    assert_eq!(world.banned(), [IpAddr::from([10, 0, 0, 1])]);
    world.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_piece_of_two_sources_the_one_that_lied_is_banned_at_once() {
    let world = world(metainfo()).await;
    // The honest one gives the first half only; the second half comes wrong from the other.
    let honest = Script { gives: |r| r.begin < 8 * BLOCK_BYTES, ..HONEST };
    let liar = Script { gives: |r| r.begin >= 8 * BLOCK_BYTES, lies: |_| true, hashes: Hashes::Refused };
    let _honest = world.connect(1, honest).await;
    let liar_seen = world.connect(2, liar).await;
    let reader = world.reader.clone();
    let reading = tokio::spawn(async move { reader.read_at(0, PIECE as u32 - 1).await });
    until("the liar is banned", || liar_seen.lock().expect("no panic").is_closed).await;
    let _third = world.connect(3, HONEST).await;
    let read = tokio::time::timeout(PATIENCE, reading).await.expect("in time").expect("no panic");
    assert!(read.expect("read") == content()[..PIECE - 1]);
    until("the ban shows", || !world.banned().is_empty()).await;
    assert_eq!(world.banned(), [IpAddr::from([10, 0, 0, 2])]);
    world.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_hashes_ban_their_sender_and_are_asked_of_another() {
    let world = world(metainfo()).await;
    let liar = Script { hashes: Hashes::Wrong, gives: |_| false, ..HONEST };
    let liar_seen = world.connect(1, liar).await;
    let reader = world.reader.clone();
    let reading = tokio::spawn(async move { reader.read_at(PIECE as u64, 4096).await });
    until("the liar is banned", || liar_seen.lock().expect("no panic").is_closed).await;
    let _honest = world.connect(2, Script { gives: |r| r.begin == 0, ..HONEST }).await;
    let read = tokio::time::timeout(PATIENCE, reading).await.expect("in time").expect("no panic");
    assert!(read.expect("read") == content()[PIECE..PIECE + 4096]);
    until("the ban shows", || !world.banned().is_empty()).await;
    assert_eq!(world.banned(), [IpAddr::from([10, 0, 0, 1])]);
    world.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seeder_that_gives_no_hashes_still_gives_whole_pieces() {
    for hashes in [Hashes::Refused, Hashes::Ignored] {
        let world = world(metainfo()).await;
        let seen = world.connect(1, Script { hashes, ..HONEST }).await;
        world.read(PIECE + 3 * BLOCK, 4096).await;
        until("the whole piece is stored", || world.torrent.pieces().0 == 1).await;
        let first = seen.lock().expect("no panic").requests[0].begin;
        assert_eq!(first, 3 * BLOCK_BYTES, "what is read comes first also then");
        assert!(world.banned().is_empty());
        world.session.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_piece_layers_pieces_are_proven_by_the_root_of_their_file() {
    let whole = metainfo();
    let world = world(Metainfo { piece_layers: Vec::new(), ..whole }).await;
    let script = Script { gives: |r| r.piece != 1 || r.begin == 0, ..HONEST };
    let _seen = world.connect(1, script).await;
    world.read(PIECE + 10, 4096).await;
    assert_eq!(world.torrent.pieces().0, 0);
    world.read(2 * PIECE, PIECE).await;
    until("the whole piece is stored", || world.torrent.pieces().0 == 1).await;
    let _other = world.connect(2, HONEST).await;
    world.torrent.fill().await;
    tokio::time::timeout(PATIENCE, world.torrent.wait_complete()).await.expect("in time").expect("complete");
    world.read(0, LEN).await;
    assert!(world.banned().is_empty());
    world.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_read_gives_its_memory_back() {
    let world = world(metainfo()).await;
    let silent = Script { gives: |r| r.begin == 0, hashes: Hashes::Ignored, ..HONEST };
    let seen = world.connect(1, silent).await;
    let reader = world.reader.clone();
    let reading = tokio::spawn(async move { reader.read_at(0, 4096).await });
    until("it was asked for", || !seen.lock().expect("no panic").requests.is_empty()).await;
    reading.abort();
    until("nothing waits", || world.torrent.status().waits.waiting_reads == 0).await;
    world.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_floods_hashes_is_dropped() {
    let world = world(metainfo()).await;
    let here = SocketAddr::from(([127, 0, 0, 1], 1));
    let (mut theirs, ours) = memory::pair(SocketAddr::from(([10, 0, 0, 9], 1)), here, 1 << 20);
    let info_hash = world.torrent.hashes().v2.expect("v2").truncated();
    let reserved = Reserved::default().with_fast();
    let handshake = Handshake { reserved, info_hash, peer_id: PeerId::generate([9; 12]) };
    let command = Command::Incoming(Box::new((ours, handshake)));
    assert!(world.torrent.shared.commands.send(command).await.is_ok());
    let request = HashRequest { pieces_root: [1; 32], base_layer: 0, index: 0, length: 2, proof_layers: 0 };
    let mut out = BytesMut::new();
    Message::Hashes { request, hashes: Bytes::from(vec![0; 64]) }.encode(&mut out);
    let flood = async { while theirs.writer.write_all(&out).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, flood).await.expect("it is cut off");
    until("the ban shows", || world.banned() == [IpAddr::from([10, 0, 0, 9])]).await;
    world.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_reads_blocks_of_another_that_proves_them() {
    let seeder = world(metainfo()).await;
    // It gets a piece, and not the first one.
    let _all = seeder.connect(1, HONEST).await;
    seeder.read(PIECE, PIECE).await;
    until("it is stored", || seeder.torrent.shared.content().expect("known").present.get(1)).await;
    assert!(!seeder.torrent.shared.content().expect("known").present.get(0));
    for piece_layers in [metainfo().piece_layers, Vec::new()] {
        let dir = tempfile::tempdir().expect("dir");
        let mut config = SessionConfig::new(dir.path().to_owned());
        let listen = vec![IpAddr::V4(Ipv4Addr::new(127, 79, 0, 1))];
        config.listen = ListenConfig { port: 0, port_policy: PortPolicy::Exact, addrs: listen };
        let session = Session::open(config).await.expect("opens");
        let options = AddOptions {
            storage: StorageKind::Memory,
            peers: vec![seeder.session.listening()[0]],
            fill: Fill::OnDemand,
            ..AddOptions::default()
        };
        let source = Source::Metainfo(Box::new(Metainfo { piece_layers, ..metainfo() }));
        let torrent = session.add(source, options).await.expect("added");
        let file = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
        let reader = torrent.open(file).expect("opens");
        // While a read waits, the rest of what another one got is not fetched.
        let waiting = {
            let reader = reader.clone();
            tokio::spawn(async move { reader.read_at(0, 10).await })
        };
        until("it waits", || torrent.status().waits.waiting_reads == 1).await;
        let at = PIECE + 9 * BLOCK;
        let read = tokio::time::timeout(PATIENCE, reader.read_at(at as u64, 4096)).await.expect("in time");
        assert!(read.expect("read") == content()[at..at + 4096]);
        assert_eq!(torrent.status().downloaded_bytes, u64::from(BLOCK_BYTES), "one block, not the piece");
        waiting.abort();
        session.shutdown().await;
    }
    seeder.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_seed_gives_no_hashes_and_answers_small_reads_by_whole_pieces() {
    let origin = Origin::start([("/data".to_owned(), Body::Bytes(Arc::new(content())))]);
    let world = world(Metainfo { url_list: vec![origin.url("/data")], ..metainfo() }).await;
    for (reads, at) in [(1, PIECE + 3 * BLOCK), (2, LEN - 4096)] {
        world.read(at, 4096).await;
        until("the whole piece is stored", || world.torrent.pieces().0 == reads).await;
    }
    let status = world.torrent.status();
    assert_eq!((status.wasted_bytes, status.failed_pieces), (0, 0));
    world.session.shutdown().await;
}
