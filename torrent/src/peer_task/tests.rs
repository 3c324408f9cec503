//! A connection's two halves against a peer in raw bytes, over a transport in memory.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wtfs_proto::metainfo::{InfoBuilder, Metainfo, MetainfoBuilder};
use wtfs_proto::wire::message::Decoder;

use super::*;
use crate::transport::memory;
use crate::{AddOptions, ListenConfig, PortPolicy, Session, SessionConfig, Source, StorageKind, Torrent};

const PATIENCE: Duration = Duration::from_secs(60);
const PIECE: u32 = 32 * 1024;

struct Wire {
    _dir: tempfile::TempDir,
    _session: Session,
    torrent: Torrent,
    link: PeerLink,
    events: mpsc::Receiver<(SourceId, PeerEvent)>,
    theirs: Connection,
}

fn metainfo() -> Metainfo {
    let info = InfoBuilder::single_file("x", u64::from(PIECE) * 3, PIECE).expect("a valid name");
    let info = info.finish(&[7; 60]).expect("a valid info");
    MetainfoBuilder::new(info).expect("a valid torrent").finish()
}

/// A connection whose first piece is present and unchoked.
async fn wire(has_fast: HasFast) -> Wire {
    let dir = tempfile::tempdir().expect("dir");
    let mut config = SessionConfig::new(dir.path().to_owned());
    let localhost = std::net::Ipv4Addr::LOCALHOST.into();
    config.listen = ListenConfig { port: 0, port_policy: PortPolicy::Exact, addrs: vec![localhost] };
    let session = Session::open(config).await.expect("opens");
    let options = AddOptions { storage: StorageKind::Memory, ..AddOptions::default() };
    let torrent = session.add(Source::Metainfo(Box::new(metainfo())), options).await.expect("added");
    let content = torrent.shared.content().expect("known").clone();
    let piece = content.geometry().piece(0).expect("in range");
    content.store.write_piece(piece, &[Bytes::from(vec![5; PIECE as usize])]).expect("stored");
    content.present.set(0);
    let here = SocketAddr::from(([127, 0, 0, 1], 1));
    let (ours, theirs) = memory::pair(here, here, 1 << 20);
    let (events_in, events) = mpsc::channel(16);
    let context = PeerContext {
        source: SourceId(1),
        engine: torrent.engine.clone(),
        shared: torrent.shared.clone(),
        events: events_in,
        has_fast,
    };
    let link = spawn(ours, context);
    link.send(PeerCommand::Unchoke).expect("queued");
    let mut wire = Wire { _dir: dir, _session: session, torrent, link, events, theirs };
    assert_eq!(wire.hear().await, Some(Message::Unchoke));
    wire
}

impl Wire {
    async fn say(&mut self, bytes: &[u8]) {
        self.theirs.writer.write_all(bytes).await.expect("the other end reads");
    }

    async fn say_message(&mut self, message: Message) {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        self.say(&bytes).await;
    }

    /// The next message of ours, as the peer gets it; `None` when the connection is closed.
    async fn hear(&mut self) -> Option<Message> {
        let decoder = Decoder::new(1 << 20);
        let mut buffer = BytesMut::new();
        loop {
            if let Some(message) = decoder.decode(&mut buffer).expect("well-formed") {
                assert!(buffer.is_empty(), "one message at a time");
                return Some(message);
            }
            // Byte by byte, so that nothing of the next message is lost.
            let mut byte = [0];
            let read = tokio::time::timeout(PATIENCE, self.theirs.reader.read(&mut byte)).await;
            if read.expect("in time").expect("no error") == 0 {
                return None;
            }
            buffer.extend_from_slice(&byte);
        }
    }

    async fn event(&mut self) -> PeerEvent {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("in time");
        event.expect("open").1
    }

    async fn closed(&mut self) -> CloseReason {
        loop {
            if let PeerEvent::Closed(reason) = self.event().await {
                return reason;
            }
        }
    }
}

fn request(piece: u32, begin: u32, length: u32) -> BlockRequest {
    BlockRequest { piece, begin, length }
}

#[tokio::test]
async fn a_present_block_is_served_and_an_absent_one_refused() {
    let mut wire = wire(HasFast::Yes).await;
    wire.say_message(Message::Request(request(0, 16_384, 1_000))).await;
    let data = Bytes::from(vec![5; 1_000]);
    assert_eq!(wire.hear().await, Some(Message::Piece { piece: 0, begin: 16_384, data }));
    assert!(matches!(wire.event().await, PeerEvent::Uploaded(1_000)));
    wire.say_message(Message::Request(request(1, 0, 16_384))).await;
    assert_eq!(wire.hear().await, Some(Message::Reject(request(1, 0, 16_384))));
    assert_eq!(wire.torrent.status().uploaded_bytes, 1_000);
}

#[tokio::test]
async fn a_choked_peer_is_refused_unless_the_piece_was_allowed() {
    let mut wire = wire(HasFast::Yes).await;
    wire.link.send(PeerCommand::Choke).expect("queued");
    assert_eq!(wire.hear().await, Some(Message::Choke));
    wire.say_message(Message::Request(request(0, 0, 10))).await;
    assert_eq!(wire.hear().await, Some(Message::Reject(request(0, 0, 10))));
    wire.link.send(PeerCommand::Messages(vec![Message::AllowedFast(0)])).expect("queued");
    assert_eq!(wire.hear().await, Some(Message::AllowedFast(0)));
    wire.say_message(Message::Request(request(0, 0, 10))).await;
    assert!(matches!(wire.hear().await, Some(Message::Piece { .. })));
}

#[tokio::test]
async fn a_request_outside_the_torrent_ends_the_connection() {
    for bad in
        [request(3, 0, 16), request(0, PIECE - 8, 16), request(0, u32::MAX, 16), request(0, 0, 1 << 30)]
    {
        let mut wire = wire(HasFast::No).await;
        wire.say_message(Message::Request(bad)).await;
        assert!(wire.closed().await.is_misbehaviour(), "{bad:?}");
        assert_eq!(wire.hear().await, None);
    }
}

#[tokio::test]
async fn a_length_nobody_needs_ends_the_connection_before_it_is_read() {
    let mut wire = wire(HasFast::No).await;
    wire.say(&0x7fff_ffff_u32.to_be_bytes()).await;
    assert!(matches!(wire.closed().await, CloseReason::Protocol(_)));
}

#[tokio::test]
async fn an_endless_stream_of_keep_alives_ends_the_connection() {
    let mut wire = wire(HasFast::No).await;
    // The writing fails once the connection is closed, which is what is waited for.
    let Connection { mut writer, .. } = std::mem::replace(
        &mut wire.theirs,
        memory::pair(SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 1], 1)), 1).0,
    );
    let flood = tokio::spawn(async move { while writer.write_all(&[0; 4096]).await.is_ok() {} });
    assert!(matches!(wire.closed().await, CloseReason::Junk));
    tokio::time::timeout(PATIENCE, flood).await.expect("closed").expect("no panic");
}

#[tokio::test]
async fn blocks_wrapped_in_junk_do_not_keep_the_junk_in_memory() {
    let mut wire = wire(HasFast::No).await;
    let mut bytes = BytesMut::new();
    for n in 0..200_u32 {
        Message::Piece { piece: 0, begin: n, data: Bytes::from_static(&[1; 16]) }.encode(&mut bytes);
        Message::Extended { id: 200, payload: Bytes::from(vec![0; 4_000]) }.encode(&mut bytes);
    }
    let total = bytes.len();
    wire.say(&bytes).await;
    let mut seen = 0;
    while seen < 200 {
        if let PeerEvent::Blocks(blocks) = wire.event().await {
            for block in blocks {
                assert_eq!((block.piece, block.data.len()), (0, 16));
                // A copy of its own: making it mutable again needs no other owner of a large buffer.
                let own = block.data.try_into_mut().expect("not shared with the read buffer");
                assert!(own.capacity() < total / 100);
                seen += 1;
            }
        }
    }
}

#[tokio::test]
async fn dropping_the_link_closes_the_connection() {
    let mut wire = wire(HasFast::No).await;
    let link = std::mem::replace(&mut wire.link, PeerLink::disconnected());
    drop(link);
    assert!(matches!(wire.closed().await, CloseReason::Shutdown));
    assert_eq!(wire.hear().await, None);
}
