//! One connection of a scripted peer: handshake, framing, and the honest half of every answer.
//!
//! All writing is done by the connection's one thread, which also reads; so a peer that floods does not listen
//! meanwhile, which is just what a flood is like.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    BitfieldFault, Counts, Fault, LengthFault, MetadataFault, Shared, Stream,
    script::{self, Leech},
};
use crate::{bencode::Value, http_tracker::compact};

/// Longest message read; longer ones end the connection.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// How long the other side may take over its handshake or over reading, before the connection ends.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the flags of the test are looked at while the line is quiet.
const TICK: Duration = Duration::from_millis(20);
/// A flood ends here: by then the client has shown what it does.
const MAX_FLOOD_BYTES: u64 = 256 << 20;
/// Metadata is asked for in parts of this size (BEP 9).
const METADATA_PART: usize = 16 * 1024;
/// Our number for `ut_metadata` in the extension handshake.
const OUR_UT_METADATA: u8 = 2;
/// Our number for `ut_pex` there.
const OUR_UT_PEX: u8 = 3;

pub(super) mod id {
    //! Numbers of the messages (BEP 3, 6, 10).
    pub(crate) const CHOKE: u8 = 0;
    pub(crate) const UNCHOKE: u8 = 1;
    pub(crate) const INTERESTED: u8 = 2;
    pub(crate) const NOT_INTERESTED: u8 = 3;
    pub(crate) const HAVE: u8 = 4;
    pub(crate) const BITFIELD: u8 = 5;
    pub(crate) const REQUEST: u8 = 6;
    pub(crate) const PIECE: u8 = 7;
    pub(crate) const HAVE_ALL: u8 = 14;
    pub(crate) const REJECT: u8 = 16;
    pub(crate) const EXTENDED: u8 = 20;
}

/// Who opened the connection, and so who speaks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Accepted,
    Dialled,
}

/// Index, begin and length of a block, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) piece: u32,
    pub(super) begin: u32,
    pub(super) length: u32,
}

impl Block {
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let word = |i: usize| Some(u32::from_be_bytes(payload.get(i * 4..i * 4 + 4)?.try_into().ok()?));
        Some(Self { piece: word(0)?, begin: word(1)?, length: word(2)? })
    }
}

/// A connection past its handshake.
pub(super) struct Connection<'a> {
    stream: TcpStream,
    received: Vec<u8>,
    shared: &'a Shared,
    interested: bool,
    unchoked: bool,
    their_ut_metadata: u8,
    leech: Option<Leech>,
}

/// Serves a connection until either side ends it.
pub(super) fn run(mut stream: TcpStream, side: Side, shared: &Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let torrent = &shared.config.torrent;
    let hash = match shared.config.fault {
        Fault::WrongInfoHash => [0xee; 20],
        _ => torrent.info_hash,
    };
    if side == Side::Dialled {
        stream.write_all(&handshake(&hash))?;
    }
    let mut theirs = [0; 68];
    stream.read_exact(&mut theirs)?;
    if theirs[28..48] != torrent.info_hash {
        return Err(io::ErrorKind::InvalidData.into());
    }
    shared.counts().handshakes += 1;
    if side == Side::Accepted {
        if shared.config.fault == Fault::GarbageHandshake {
            shared.counts().faults += 1;
            let mut garbage = [0x5a; 68];
            garbage[0] = 0xff;
            stream.write_all(&garbage)?;
        } else {
            stream.write_all(&handshake(&hash))?;
        }
    }
    if shared.config.fault == Fault::WrongInfoHash {
        shared.counts().faults += 1;
    }
    stream.set_read_timeout(Some(TICK))?;
    let leech = script::asks(shared.config.fault).then(|| Leech::new(torrent));
    let mut connection = Connection {
        stream,
        received: Vec::new(),
        shared,
        interested: false,
        unchoked: false,
        their_ut_metadata: 0,
        leech,
    };
    connection.greet()?;
    connection.talk()
}

fn handshake(info_hash: &[u8; 20]) -> [u8; 68] {
    let mut out = [0; 68];
    out[0] = 19;
    out[1..20].copy_from_slice(b"BitTorrent protocol");
    // BEP 10 in byte 5, BEP 6 in byte 7.
    out[25] = 0x10;
    out[27] = 0x04;
    out[28..48].copy_from_slice(info_hash);
    out[48..56].copy_from_slice(b"-TK0001-");
    let unique =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    out[56..68].copy_from_slice(&unique.to_be_bytes()[4..]);
    out
}

impl Connection<'_> {
    pub(super) fn shared(&self) -> &Shared {
        self.shared
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Counts under the lock of the peer.
    pub(super) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.shared.counts());
    }

    /// Sends one message.
    pub(super) fn send(&mut self, id: u8, payload: &[u8]) -> io::Result<()> {
        let len = u32::try_from(payload.len() + 1).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut message = Vec::with_capacity(payload.len() + 5);
        message.extend_from_slice(&len.to_be_bytes());
        message.push(id);
        message.extend_from_slice(payload);
        self.stream.write_all(&message)
    }

    /// Sends a block with these bytes, right or wrong.
    pub(super) fn send_block(&mut self, piece: u32, begin: u32, data: &[u8]) -> io::Result<()> {
        let payload = [&piece.to_be_bytes(), &begin.to_be_bytes(), data].concat();
        self.count(|c| {
            c.blocks_sent += 1;
            c.payload_sent += data.len() as u64;
        });
        self.send(id::PIECE, &payload)
    }

    /// Writes `chunk` over and over, until the client goes away, the test ends or enough was sent.
    pub(super) fn flood(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.count(|c| c.faults += 1);
        self.stream.set_write_timeout(Some(TICK))?;
        let mut at = 0;
        let mut sent = 0;
        while sent < MAX_FLOOD_BYTES && !self.shared.stop.load(Ordering::Acquire) {
            match self.stream.write(&chunk[at..]) {
                Ok(n) => {
                    at = (at + n) % chunk.len();
                    sent += n as u64;
                    self.count(|c| c.flood_bytes += n as u64);
                }
                Err(e) if is_timeout(&e) => {}
                Err(e) => return Err(e),
            }
        }
        self.stream.set_write_timeout(Some(PATIENCE))
    }

    /// Extension handshake, bitfield, and what the fault does unasked.
    fn greet(&mut self) -> io::Result<()> {
        let fault = self.shared.config.fault;
        if fault == Fault::DeepExtensionHandshake {
            self.count(|c| c.faults += 1);
            let depth = 200_000;
            let bomb = [&[0][..], b"d1:m", &b"l".repeat(depth), &b"e".repeat(depth + 1)].concat();
            self.send(id::EXTENDED, &bomb)?;
        } else {
            let handshake = self.extension_handshake();
            self.send(id::EXTENDED, &handshake)?;
        }
        let bitfield = self.bitfield();
        self.send(id::BITFIELD, &bitfield)?;
        match fault {
            Fault::UnaskedBlocks => self.send_unasked(),
            Fault::HugeMessage => {
                self.stream.write_all(&[0x7f, 0xff, 0xff, 0xff, id::PIECE])?;
                self.flood(&[0x41; 1 << 16])
            }
            Fault::Endless(stream) => {
                let chunk = self.endless(stream);
                self.flood(&chunk)
            }
            fault if script::asks(fault) => self.send(id::INTERESTED, &[]),
            _ => Ok(()),
        }
    }

    fn endless(&self, stream: Stream) -> Vec<u8> {
        match stream {
            Stream::KeepAlives => vec![0; 1 << 16],
            Stream::Unknown => [&[0, 0, 0, 60, 99][..], &[7; 59]].concat().repeat(1024),
            Stream::Haves => [0, 0, 0, 5, id::HAVE, 0, 0, 0, 0].repeat(7000),
            Stream::ExtensionHandshakes => {
                let payload = self.extension_handshake();
                let len = u32::try_from(payload.len() + 1).expect("a short message");
                [&len.to_be_bytes()[..], &[id::EXTENDED], &payload].concat().repeat(500)
            }
        }
    }

    fn extension_handshake(&self) -> Vec<u8> {
        let info = i64::try_from(self.shared.config.torrent.info.len()).expect("metadata is small");
        let size = match self.shared.config.fault {
            Fault::Metadata(MetadataFault::EnormousSize) => 1 << 40,
            Fault::Metadata(MetadataFault::ShortSize) => info - 1,
            _ => info,
        };
        let id = |id: u8| Value::Int(i64::from(id));
        let dict = Value::dict([
            ("m", Value::dict([("ut_metadata", id(OUR_UT_METADATA)), ("ut_pex", id(OUR_UT_PEX))])),
            ("metadata_size", Value::Int(size)),
            ("reqq", Value::Int(500)),
            ("v", Value::bytes("testkit")),
        ]);
        [&[0][..], &dict.encode()].concat()
    }

    fn bitfield(&self) -> Vec<u8> {
        let pieces = self.shared.config.torrent.piece_count() as usize;
        if script::asks(self.shared.config.fault) {
            return vec![0; pieces.div_ceil(8)];
        }
        let mut bits = vec![0xff_u8; pieces.div_ceil(8)];
        if !pieces.is_multiple_of(8)
            && let Some(last) = bits.last_mut()
        {
            *last <<= 8 - pieces % 8;
        }
        if let Fault::Bitfield(fault) = self.shared.config.fault {
            self.count(|c| c.faults += 1);
            match fault {
                BitfieldFault::Short => drop(bits.pop()),
                BitfieldFault::Long => bits.push(0),
                BitfieldFault::Enormous => bits.resize(bits.len() + (1 << 19), 0),
                BitfieldFault::SpareBits => bits.last_mut().into_iter().for_each(|b| *b = 0xff),
            }
        }
        bits
    }

    fn talk(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        while !self.shared.stop.load(Ordering::Acquire) {
            if self.interested && !self.unchoked && self.shared.open.load(Ordering::Acquire) {
                self.unchoked = true;
                self.send(id::UNCHOKE, &[])?;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => self.received.extend_from_slice(&buffer[..n]),
                Err(e) if is_timeout(&e) => continue,
                Err(e) => return Err(e),
            }
            while let Some(message) = self.next_message()? {
                if let Some((&id, payload)) = message.split_first() {
                    self.handle(id, payload)?;
                }
            }
        }
        Ok(())
    }

    fn next_message(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(prefix) = self.received.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > MAX_MESSAGE_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if self.received.len() < 4 + len {
            return Ok(None);
        }
        let rest = self.received.split_off(4 + len);
        let message = std::mem::replace(&mut self.received, rest);
        Ok(Some(message[4..].to_vec()))
    }

    fn handle(&mut self, id: u8, payload: &[u8]) -> io::Result<()> {
        match id {
            id::INTERESTED => self.interested = true,
            id::REQUEST => {
                if let Some(block) = Block::parse(payload) {
                    self.answer(block)?;
                }
            }
            id::EXTENDED => self.extended(payload)?,
            id::REJECT => {
                self.count(|c| c.rejects_received += 1);
                self.as_asker(id, payload)?;
            }
            id::CHOKE | id::UNCHOKE | id::HAVE | id::BITFIELD | id::HAVE_ALL | id::PIECE => {
                self.as_asker(id, payload)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn as_asker(&mut self, id: u8, payload: &[u8]) -> io::Result<()> {
        let Some(mut leech) = self.leech.take() else { return Ok(()) };
        let done = leech.handle(self, id, payload);
        self.leech = Some(leech);
        done
    }

    /// The bytes of a block that is inside the torrent.
    pub(super) fn right_bytes(&self, block: Block) -> Option<Vec<u8>> {
        let torrent = &self.shared.config.torrent;
        let piece = u64::from(torrent.piece_bytes);
        let from = u64::from(block.piece) * piece + u64::from(block.begin);
        let end = (u64::from(block.piece + 1) * piece).min(torrent.total_bytes);
        let inside = block.begin < torrent.piece_bytes && from + u64::from(block.length) <= end;
        let sane = (1..=128 * 1024).contains(&block.length);
        (inside && sane).then(|| self.shared.config.content.read(from, block.length as usize))
    }

    fn answer(&mut self, block: Block) -> io::Result<()> {
        self.count(|c| c.requests += 1);
        let Some(mut data) = self.right_bytes(block) else {
            self.count(|c| c.bad_requests += 1);
            return Ok(());
        };
        let sent = self.shared.counts().blocks_sent;
        match self.shared.config.fault {
            Fault::StallAfter(n) if sent >= n => {
                self.count(|c| c.faults += 1);
                return Ok(());
            }
            Fault::CloseAfter(n) if sent >= n => {
                self.count(|c| c.faults += 1);
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Fault::WrongBytes { every } if (sent + 1).is_multiple_of(every.max(1)) => {
                self.count(|c| c.faults += 1);
                let middle = data.len() / 2;
                data[middle] ^= 0x55;
            }
            Fault::WrongLength(fault) => {
                self.count(|c| c.faults += 1);
                match fault {
                    LengthFault::Short => drop(data.pop()),
                    LengthFault::Long => data.push(0),
                    LengthFault::Empty => data.clear(),
                    LengthFault::Headless => {
                        self.count(|c| c.blocks_sent += 1);
                        return self.send(id::PIECE, &block.piece.to_be_bytes());
                    }
                }
            }
            Fault::PieceOutOfRange => {
                self.count(|c| c.faults += 1);
                let beyond = self.shared.config.torrent.piece_count() + 7;
                return self.send_block(beyond, block.begin, &data);
            }
            Fault::UnaskedBlocks => self.send_unasked()?,
            _ => {}
        }
        self.send_block(block.piece, block.begin, &data)
    }

    /// Wrong bytes for the first block of every tenth piece: whoever stores them without having asked is caught.
    fn send_unasked(&mut self) -> io::Result<()> {
        for piece in (0..self.shared.config.torrent.piece_count()).step_by(10) {
            self.count(|c| c.faults += 1);
            self.send_block(piece, 0, &vec![0x55; 16 * 1024])?;
        }
        Ok(())
    }

    /// Tells of other peers (BEP 11).
    fn introduce(&mut self, their_ut_pex: u8) -> io::Result<()> {
        let added = compact(&self.shared.config.introduces);
        let flags = vec![0; added.len() / 6];
        let news = Value::dict([("added", Value::Bytes(added)), ("added.f", Value::Bytes(flags))]);
        self.count(|c| c.introductions += 1);
        self.send(id::EXTENDED, &[&[their_ut_pex], &news.encode()[..]].concat())
    }

    fn extended(&mut self, payload: &[u8]) -> io::Result<()> {
        let Some((&kind, body)) = payload.split_first() else { return Ok(()) };
        let Some((dict, _)) = Value::decode_prefix(body) else { return Ok(()) };
        if kind == 0 {
            let theirs = |name: &str| dict.get("m")?.get(name)?.as_int().and_then(|n| u8::try_from(n).ok());
            self.their_ut_metadata = theirs("ut_metadata").unwrap_or(0);
            return match theirs("ut_pex") {
                Some(id) if id != 0 && !self.shared.config.introduces.is_empty() => self.introduce(id),
                _ => Ok(()),
            };
        }
        let is_request = dict.get("msg_type").and_then(Value::as_int) == Some(0);
        let piece = dict.get("piece").and_then(Value::as_int).and_then(|n| usize::try_from(n).ok());
        let (OUR_UT_METADATA, true, Some(piece)) = (kind, is_request, piece) else { return Ok(()) };
        if self.their_ut_metadata == 0 {
            return Ok(());
        }
        let info = &self.shared.config.torrent.info;
        let mut part =
            info.iter().skip(piece * METADATA_PART).take(METADATA_PART).copied().collect::<Vec<_>>();
        if let Fault::Metadata(fault) = self.shared.config.fault {
            self.count(|c| c.faults += 1);
            match fault {
                MetadataFault::Silence => return Ok(()),
                MetadataFault::WrongBytes => part.iter_mut().for_each(|b| *b ^= 0x20),
                MetadataFault::ShortSize | MetadataFault::EnormousSize => {}
            }
        }
        let head = Value::dict([
            ("msg_type", Value::Int(1)),
            ("piece", Value::Int(i64::try_from(piece).map_err(|_| io::ErrorKind::InvalidData)?)),
            ("total_size", Value::Int(i64::try_from(info.len()).map_err(|_| io::ErrorKind::InvalidData)?)),
        ]);
        self.count(|c| c.metadata_sent += 1);
        self.send(id::EXTENDED, &[&[self.their_ut_metadata], &head.encode()[..], &part].concat())
    }
}

pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
