//! Peers that lie, and peers that send what is legal and of no use, over a transport in memory: who is banned for what, by
//! what they are known when they come back, and that others do not suffer for it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wtfs_proto::bencode::Encoder;
use wtfs_proto::geometry::BLOCK_BYTES;
use wtfs_proto::id::PeerId;
use wtfs_proto::metainfo::Metainfo;
use wtfs_proto::wire::extended::{ExtendedHandshake, HANDSHAKE_ID, UT_METADATA};
use wtfs_proto::wire::handshake::{Handshake, Reserved};
use wtfs_proto::wire::message::{BlockRequest, Decoder, Message};
use wtfs_proto::wire::metadata::MetadataMessage;

use crate::reader::FileReader;
use crate::status::BanCounts;
use crate::torrent::Command;
use crate::transport::{Connection, Fingerprint, TransportKind, memory};
use crate::{AddOptions, ListenConfig, PortPolicy, Session, SessionConfig, Source, StorageKind, Torrent};

const PATIENCE: Duration = Duration::from_secs(120);
const BLOCK: usize = BLOCK_BYTES as usize;
const PIECE: usize = BLOCK * 2;
const PIECES: usize = 40;
const LEN: usize = PIECE * PIECES;

fn content() -> Vec<u8> {
    (0..LEN as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// A v1 torrent of one file.
fn metainfo() -> Metainfo {
    metainfo_with(0)
}

/// The same with so many bytes more in its info, as many names would take.
fn metainfo_with(more: usize) -> Metainfo {
    let pieces: Vec<u8> = content().chunks(PIECE).flat_map(Sha1::digest).collect();
    let mut info = Encoder::new();
    info.dict(|d| {
        d.int("length", LEN as i64);
        d.bytes("name", "data");
        d.int("piece length", PIECE as i64);
        d.bytes("pieces", &pieces);
        d.bytes("x-more", vec![b'x'; more]);
    });
    Metainfo::from_info(info.finish().into(), vec![], vec![]).expect("a valid torrent")
}

/// Who comes, and whence.
#[derive(Clone, Copy)]
struct Guest {
    ip: [u8; 4],
    id: u8,
    kind: TransportKind,
}

/// Somebody in a browser at the one address that all of them have.
fn browser(id: u8) -> Guest {
    Guest { ip: [203, 0, 113, 1], id, kind: TransportKind::WebRtc }
}

struct World {
    _dir: tempfile::TempDir,
    session: Session,
    torrent: Torrent,
    reader: FileReader,
}

async fn world() -> World {
    world_of(metainfo()).await
}

async fn world_of(metainfo: Metainfo) -> World {
    let dir = tempfile::tempdir().expect("dir");
    let mut config = SessionConfig::new(dir.path().to_owned());
    let addrs = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    config.listen = ListenConfig { port: 0, port_policy: PortPolicy::Exact, addrs };
    let session = Session::open(config).await.expect("opens");
    let options = AddOptions { storage: StorageKind::Memory, ..AddOptions::default() };
    let torrent = session.add(Source::Metainfo(Box::new(metainfo)), options).await.expect("added");
    let file = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
    let reader = torrent.open(file).expect("opens");
    World { _dir: dir, session, torrent, reader }
}

impl World {
    async fn connect(&self, guest: Guest) -> Connection {
        let here = SocketAddr::from(([127, 0, 0, 1], 1));
        let there = SocketAddr::from((guest.ip, 1000 + u16::from(guest.id)));
        let (theirs, mut ours) = memory::pair(there, here, 16 << 10);
        ours.kind = guest.kind;
        ours.fingerprint = Some(Fingerprint::of(&format!("sha-256 {}", guest.id)));
        let handshake = Handshake {
            reserved: Reserved::default().with_fast().with_extension_protocol(),
            info_hash: self.torrent.info_hash(),
            peer_id: PeerId::generate([guest.id; 12]),
        };
        let command = Command::Incoming(Box::new((ours, handshake)));
        assert!(self.torrent.shared.commands.send(command).await.is_ok());
        theirs
    }

    /// A peer with nearly everything (seeds part once both have all); the flag goes up when it is hung up on.
    async fn seed(&self, guest: Guest, honesty: Honesty) -> Arc<AtomicBool> {
        let wire = self.connect(guest).await;
        let is_closed = Arc::new(AtomicBool::new(false));
        tokio::spawn(serve(wire, honesty, is_closed.clone()));
        is_closed
    }

    fn bans(&self) -> BanCounts {
        self.torrent.status().bans.bans
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Honesty {
    Honest,
    Lies,
}

async fn serve(mut wire: Connection, honesty: Honesty, is_closed: Arc<AtomicBool>) {
    let content = content();
    let decoder = Decoder::new(1 << 20);
    let (mut buffer, mut out) = (BytesMut::new(), BytesMut::new());
    Message::Bitfield(nearly_all()).encode(&mut out);
    Message::Unchoke.encode(&mut out);
    while wire.writer.write_all(&out).await.is_ok() {
        out.clear();
        if wire.reader.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
            break;
        }
        while let Some(message) = decoder.decode(&mut buffer).expect("well-formed") {
            if let Message::Request(request) = message {
                let from = request.piece as usize * PIECE + request.begin as usize;
                let mut data = content[from..from + request.length as usize].to_vec();
                data[7] ^= u8::from(honesty == Honesty::Lies);
                let data = Bytes::from(data);
                Message::Piece { piece: request.piece, begin: request.begin, data }.encode(&mut out);
            }
        }
    }
    is_closed.store(true, Ordering::Relaxed);
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

async fn until_closed(what: &str, is_closed: &AtomicBool) {
    until(what, || is_closed.load(Ordering::Relaxed)).await;
}

/// The last piece is nobody's.
fn nearly_all() -> Bytes {
    let mut bits = vec![0xff; PIECES / 8];
    bits[PIECES / 8 - 1] = 0xfe;
    bits.into()
}

/// Reads what there is.
async fn read_all(reader: &FileReader) {
    let read = tokio::time::timeout(PATIENCE, reader.read_at(0, (LEN - PIECE) as u32));
    assert!(read.await.expect("in time").expect("read") == content()[..LEN - PIECE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_in_a_browser_shuts_out_nobody_who_shares_its_address() {
    let world = world().await;
    let liar = world.seed(browser(1), Honesty::Lies).await;
    let reading = {
        let reader = world.reader.clone();
        tokio::spawn(async move { read_all(&reader).await })
    };
    until_closed("the liar is banned", &liar).await;
    let honest = world.seed(browser(2), Honesty::Honest).await;
    reading.await.expect("every byte is right");
    // By its id, from where it was; and by its certificate, from wherever else.
    let again = world.seed(browser(1), Honesty::Honest).await;
    until_closed("the liar is not let in again", &again).await;
    let elsewhere = Guest { ip: [198, 51, 100, 7], ..browser(1) };
    until_closed("nor from elsewhere", &*world.seed(elsewhere, Honesty::Honest).await).await;
    // Who comes over TCP has its address for itself.
    let over_tcp = Guest { kind: TransportKind::Memory, ..browser(3) };
    let tcp = world.seed(over_tcp, Honesty::Honest).await;
    until("both are here", || world.torrent.status().peers.len() == 2).await;
    assert!(!honest.load(Ordering::Relaxed) && !tcp.load(Ordering::Relaxed));
    assert_eq!(world.bans(), BanCounts { bad_data: 1, ..BanCounts::default() });
    world.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_with_an_address_of_its_own_is_known_by_it() {
    let world = world().await;
    let of = |id| Guest { kind: TransportKind::Memory, ..browser(id) };
    let liar = world.seed(of(1), Honesty::Lies).await;
    let reader = world.reader.clone();
    let reading = tokio::spawn(async move { read_all(&reader).await });
    until_closed("the liar is banned", &liar).await;
    until_closed("under another name too", &*world.seed(of(2), Honesty::Honest).await).await;
    let _honest = world.seed(Guest { ip: [203, 0, 113, 2], ..of(3) }, Honesty::Honest).await;
    reading.await.expect("every byte is right");
    world.session.shutdown().await;
}

fn request() -> BlockRequest {
    BlockRequest { piece: 0, begin: 0, length: BLOCK_BYTES }
}

/// What can be sent for ever without breaking a rule. Each is sent over and over, in turns where there are two.
fn floods() -> Vec<(&'static str, Vec<Message>)> {
    let bytes = |len: usize| Bytes::from(vec![0; len]);
    let extended = |id, payload: &'static [u8]| Message::Extended { id, payload: payload.into() };
    vec![
        ("keep-alives", vec![Message::KeepAlive]),
        ("unknown messages", vec![Message::Unknown { id: 99 }]),
        ("the same piece", vec![Message::Have(0)]),
        ("all pieces", vec![Message::HaveAll]),
        ("no pieces", vec![Message::HaveNone]),
        ("a bitfield", vec![Message::Bitfield(bytes(PIECES / 8))]),
        ("ports", vec![Message::Port(1)]),
        ("suggestions", vec![Message::Suggest(0)]),
        ("allowed pieces", vec![Message::AllowedFast(0)]),
        ("chokes", vec![Message::Choke]),
        ("chokes and unchokes", vec![Message::Choke, Message::Unchoke]),
        ("interest and none", vec![Message::Interested, Message::NotInterested]),
        ("unknown extensions", vec![extended(77, b"de")]),
        ("extension handshakes", vec![extended(0, b"d1:mdee")]),
        ("blocks", vec![Message::Piece { piece: 0, begin: 0, data: bytes(BLOCK) }]),
        ("requests", vec![Message::Request(request())]),
        ("cancels", vec![Message::Cancel(request())]),
        ("rejects", vec![Message::Reject(request())]),
    ]
}

/// More than any of them gets to send, and less than what ends a connection whatever is sent.
const MOST: usize = 90_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_what_is_legal_and_of_no_use_ends_the_connection() {
    let world = world().await;
    for (number, (what, messages)) in (1..).zip(floods()) {
        let ip = [10, 0, 0, number];
        let wire = world.connect(Guest { ip, id: number, kind: TransportKind::Memory }).await;
        let (mut reader, mut writer) = (wire.reader, wire.writer);
        // It reads what it is answered: being slow is another fault.
        let reading = tokio::spawn(async move {
            let mut heard = vec![0; 64 << 10];
            while reader.read(&mut heard).await.is_ok_and(|bytes| bytes > 0) {}
        });
        let mut sent = 0;
        let mut out = BytesMut::new();
        let flood = async {
            loop {
                out.clear();
                for message in &messages {
                    message.encode(&mut out);
                }
                if writer.write_all(&out).await.is_err() {
                    break;
                }
                sent += messages.len();
                assert!(sent < MOST, "{what}: {sent} were taken");
            }
        };
        tokio::time::timeout(PATIENCE, flood).await.unwrap_or_else(|_| panic!("{what}: it does not end"));
        reading.await.expect("no panic");
        until(what, || world.bans().junk == u64::from(number)).await;
    }
    assert_eq!((world.bans().violation, world.bans().bad_data), (0, 0), "{:?}", world.torrent.status().bans);
    // Nobody else is the worse for it.
    let _honest = world.seed(browser(99), Honesty::Honest).await;
    read_all(&world.reader).await;
    world.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_nobody_can_have_asked_for_is_the_last_one() {
    let world = world().await;
    let pieces = PIECES as u32;
    for (number, (piece, begin, len)) in (1..).zip([
        (0, 0, 0),
        (0, 0, BLOCK - 1),
        (0, 0, BLOCK + 1),
        (0, 1, BLOCK),
        (0, PIECE, BLOCK),
        (pieces, 0, BLOCK),
    ]) {
        let mut wire =
            world.connect(Guest { ip: [10, 0, 0, number], id: number, kind: TransportKind::Memory }).await;
        let mut out = BytesMut::new();
        Message::Piece { piece, begin: begin as u32, data: vec![0; len].into() }.encode(&mut out);
        wire.writer.write_all(&out).await.expect("taken");
        until("it is banned", || world.bans().violation == u64::from(number)).await;
    }
    let _honest = world.seed(browser(99), Honesty::Honest).await;
    read_all(&world.reader).await;
    world.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_do_at_their_worst_is_put_up_with() {
    let world = world().await;
    let mut wire = world.connect(browser(1)).await;
    let mut out = BytesMut::new();
    Message::Bitfield(nearly_all()).encode(&mut out);
    // Each piece again, each extension, its mind changed as often as in an hour, and an end game that crossed our cancels.
    (0..PIECES as u32 - 1).for_each(|piece| Message::Have(piece).encode(&mut out));
    for _ in 0..360 {
        Message::Choke.encode(&mut out);
    }
    for _ in 0..60 {
        Message::Unchoke.encode(&mut out);
        Message::Choke.encode(&mut out);
    }
    for _ in 0..150 {
        Message::Piece { piece: 0, begin: 0, data: vec![1; BLOCK].into() }.encode(&mut out);
    }
    (0..500).for_each(|_| Message::Request(request()).encode(&mut out));
    wire.writer.write_all(&out).await.expect("taken");
    let is_closed = Arc::new(AtomicBool::new(false));
    tokio::spawn(serve(wire, Honesty::Honest, is_closed.clone()));
    read_all(&world.reader).await;
    assert!(!is_closed.load(Ordering::Relaxed));
    assert_eq!(world.bans(), BanCounts::default());
    world.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_by_a_magnet_link_is_given_long_metadata_as_fast_as_it_asks() {
    let metainfo = metainfo_with(8 << 20);
    let info = metainfo.info_bytes.clone();
    let world = world_of(metainfo).await;
    let wire = world.connect(browser(1)).await;
    let (mut reader, mut writer) = (wire.reader, wire.writer);
    let messages = [(UT_METADATA.to_owned(), 3)].into();
    let ours = ExtendedHandshake { messages, ..ExtendedHandshake::default() };
    let mut out = BytesMut::new();
    Message::Extended { id: HANDSHAKE_ID, payload: ours.encode() }.encode(&mut out);
    let pieces = info.len().div_ceil(BLOCK) as u32;
    let id = world.session.engine.registry.messages()[UT_METADATA];
    for piece in 0..pieces {
        let payload = MetadataMessage::Request { piece }.encode();
        Message::Extended { id, payload }.encode(&mut out);
    }
    let asking = tokio::spawn(async move {
        writer.write_all(&out).await.expect("taken");
        writer
    });
    let (decoder, mut buffer, mut given) = (Decoder::new(1 << 20), BytesMut::new(), 0);
    let listening = async {
        while given < info.len() {
            assert!(reader.read_buf(&mut buffer).await.expect("open") > 0, "closed after {given} bytes");
            while let Some(message) = decoder.decode(&mut buffer).expect("well-formed") {
                let Message::Extended { id: 3, payload } = message else { continue };
                if let Ok(MetadataMessage::Data { piece, data, .. }) = MetadataMessage::decode(&payload) {
                    let from = piece as usize * BLOCK;
                    assert!(info[from..from + data.len()] == data);
                    given += data.len();
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, listening).await.expect("in time");
    let _writer = asking.await.expect("no panic");
    assert_eq!(world.bans(), BanCounts::default());
    world.session.shutdown().await;
}
