//! The length-prefixed messages after the handshake: BEP 3, the fast extension (BEP 6), `port` (BEP 5), `extended`
//! (BEP 10) and the hash messages of v2 (BEP 52).
//!
//! Owns the cutting of a byte stream into messages. A `piece` is cut out of the read buffer without a copy: the
//! message's [`Bytes`] share the buffer's memory, so 16 pieces in a 256 KiB buffer cost 16 reference counts. Holding one of them
//! keeps that whole buffer alive; whoever stores small payloads for long copies them out.
//!
//! Invariant: a message is taken from the buffer whole or not at all. An error leaves the buffer as it was and is
//! final: the stream has no way to find the next message.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::geometry::MAX_REQUEST_BYTES;

/// Bytes of the length in front of each message; the length does not count itself.
pub const LENGTH_BYTES: usize = 4;

/// Bytes of a `piece` message before its data: length, id, piece, begin.
pub const PIECE_HEADER_BYTES: usize = 13;

/// Room in [`Decoder::for_torrent`] beyond a block, for extension messages of a torrent of any size.
const SLACK_BYTES: usize = 1024;

/// A range of a piece, as `request`, `cancel` and `reject` carry it. Unchecked: see
/// [`Geometry::check_request`](crate::geometry::Geometry::check_request).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRequest {
    /// Index of the piece.
    pub piece: u32,
    /// First byte in the piece.
    pub begin: u32,
    /// Number of bytes.
    pub length: u32,
}

/// A run of Merkle tree hashes, as messages 21 to 23 carry it (BEP 52).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HashRequest {
    /// Root of the file's tree.
    pub pieces_root: [u8; 32],
    /// The layer that is asked for; 0 holds the hashes of the 16 KiB blocks.
    pub base_layer: u32,
    /// First hash in that layer.
    pub index: u32,
    /// Number of hashes.
    pub length: u32,
    /// Number of layers above for which an uncle hash is wanted.
    pub proof_layers: u32,
}

/// One message of a peer.
#[derive(Clone, PartialEq, Eq)]
pub enum Message {
    /// Nothing; sent every two minutes at the least.
    KeepAlive,
    /// Requests will not be answered.
    Choke,
    /// Requests will be answered.
    Unchoke,
    /// The sender wants pieces that the receiver has.
    Interested,
    /// The sender wants nothing.
    NotInterested,
    /// The sender has a new piece.
    Have(u32),
    /// Which pieces the sender has; see [`Bitfield::from_wire`](crate::bitfield::Bitfield::from_wire).
    Bitfield(Bytes),
    /// Asks for a block.
    Request(BlockRequest),
    /// A block.
    Piece {
        /// Index of the piece.
        piece: u32,
        /// First byte in the piece.
        begin: u32,
        /// The bytes, unverified.
        data: Bytes,
    },
    /// Takes a request back.
    Cancel(BlockRequest),
    /// UDP port of the sender's DHT node (BEP 5).
    Port(u16),
    /// The sender would be glad to be asked for this piece (BEP 6).
    Suggest(u32),
    /// In place of a bitfield: the sender has everything (BEP 6).
    HaveAll,
    /// In place of a bitfield: the sender has nothing (BEP 6).
    HaveNone,
    /// A request will not be answered (BEP 6).
    Reject(BlockRequest),
    /// This piece may be requested while choked (BEP 6).
    AllowedFast(u32),
    /// A message of the extension protocol (BEP 10).
    Extended {
        /// 0 for the handshake, else what the receiver announced for the extension.
        id: u8,
        /// The extension's own bytes.
        payload: Bytes,
    },
    /// Asks for hashes (BEP 52).
    HashRequest(HashRequest),
    /// Hashes (BEP 52).
    Hashes {
        /// What was asked for.
        request: HashRequest,
        /// The hashes, then the uncle hashes, 32 bytes each.
        hashes: Bytes,
    },
    /// Hashes will not be sent (BEP 52).
    HashReject(HashRequest),
    /// A message of an id not known here; its payload was skipped.
    Unknown {
        /// The id.
        id: u8,
    },
}

mod id {
    pub(super) const CHOKE: u8 = 0;
    pub(super) const UNCHOKE: u8 = 1;
    pub(super) const INTERESTED: u8 = 2;
    pub(super) const NOT_INTERESTED: u8 = 3;
    pub(super) const HAVE: u8 = 4;
    pub(super) const BITFIELD: u8 = 5;
    pub(super) const REQUEST: u8 = 6;
    pub(super) const PIECE: u8 = 7;
    pub(super) const CANCEL: u8 = 8;
    pub(super) const PORT: u8 = 9;
    pub(super) const SUGGEST: u8 = 13;
    pub(super) const HAVE_ALL: u8 = 14;
    pub(super) const HAVE_NONE: u8 = 15;
    pub(super) const REJECT: u8 = 16;
    pub(super) const ALLOWED_FAST: u8 = 17;
    pub(super) const EXTENDED: u8 = 20;
    pub(super) const HASH_REQUEST: u8 = 21;
    pub(super) const HASHES: u8 = 22;
    pub(super) const HASH_REJECT: u8 = 23;
}

/// Why the stream of a peer cannot be read on. The connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The announced length passes the limit.
    #[error("a message of {length} bytes was announced, at most {limit} are taken")]
    TooLong {
        /// The announced length.
        length: u32,
        /// The decoder's limit.
        limit: usize,
    },
    /// A message of fixed size has another size.
    #[error("a {message} message with {found} bytes of payload, expected {expected}")]
    PayloadLength {
        /// Name of the message.
        message: &'static str,
        /// The one right length.
        expected: usize,
        /// The length that came.
        found: usize,
    },
    /// A message ends inside its fixed fields.
    #[error("a {message} message with {found} bytes of payload, expected at least {at_least}")]
    Truncated {
        /// Name of the message.
        message: &'static str,
        /// Length of the fixed fields.
        at_least: usize,
        /// The length that came.
        found: usize,
    },
    /// The hashes of a `hashes` message are not 32 bytes each.
    #[error("a hashes message with {found} bytes of hashes, expected a multiple of 32")]
    PartialHash {
        /// The length that came.
        found: usize,
    },
}

/// Cuts messages from a read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoder {
    /// Longest message that is taken, without its four length bytes.
    pub max_message_bytes: usize,
}

impl Decoder {
    /// A decoder with a limit of its own.
    pub const fn new(max_message_bytes: usize) -> Self {
        Self { max_message_bytes }
    }

    /// A decoder with the least limit that suits a torrent: its bitfield, or a 128 KiB block with some room.
    ///
    /// Without the metainfo (a magnet's first connections) pass `u32::MAX >> 9`, the bitfield of 8 M pieces: 1 MiB.
    pub fn for_torrent(piece_count: u32) -> Self {
        let bitfield = 1 + size(piece_count.div_ceil(8));
        Self::new(bitfield.max(size(MAX_REQUEST_BYTES) + SLACK_BYTES))
    }

    /// Takes the next message, if it is there whole.
    ///
    /// Payloads share the memory of `buf`. `Ok(None)` leaves `buf` as it is: read more ([`Decoder::needed`] says how
    /// much) and call again.
    ///
    /// # Errors
    /// When the length passes the limit (told from the four length bytes alone) or does not suit the message. `buf`
    /// is then unchanged.
    pub fn decode(&self, buf: &mut BytesMut) -> Result<Option<Message>, MessageError> {
        let Some(length) = self.checked_length(buf)? else { return Ok(None) };
        let Some((&id, payload)) = buf.get(LENGTH_BYTES..LENGTH_BYTES + length).and_then(<[u8]>::split_first)
        else {
            if length == 0 {
                buf.advance(LENGTH_BYTES);
                return Ok(Some(Message::KeepAlive));
            }
            return Ok(None);
        };
        let message = match id {
            id::CHOKE => empty("choke", payload, Message::Choke)?,
            id::UNCHOKE => empty("unchoke", payload, Message::Unchoke)?,
            id::INTERESTED => empty("interested", payload, Message::Interested)?,
            id::NOT_INTERESTED => empty("not interested", payload, Message::NotInterested)?,
            id::HAVE => Message::Have(index("have", payload)?),
            id::REQUEST => Message::Request(block_request("request", payload)?),
            id::CANCEL => Message::Cancel(block_request("cancel", payload)?),
            id::PORT => Message::Port(u16::from_be_bytes(exact("port", payload)?)),
            id::SUGGEST => Message::Suggest(index("suggest piece", payload)?),
            id::HAVE_ALL => empty("have all", payload, Message::HaveAll)?,
            id::HAVE_NONE => empty("have none", payload, Message::HaveNone)?,
            id::REJECT => Message::Reject(block_request("reject request", payload)?),
            id::ALLOWED_FAST => Message::AllowedFast(index("allowed fast", payload)?),
            id::HASH_REQUEST => Message::HashRequest(HashRequest::read("hash request", payload)?),
            id::HASH_REJECT => Message::HashReject(HashRequest::read("hash reject", payload)?),
            id::BITFIELD => return Ok(Some(Message::Bitfield(cut(buf, 1, length)))),
            id::PIECE => {
                let ([piece, begin], _) = numbers("piece", payload)?;
                return Ok(Some(Message::Piece { piece, begin, data: cut(buf, 9, length) }));
            }
            id::EXTENDED => {
                let ([id], _) = prefix("extended", payload)?;
                return Ok(Some(Message::Extended { id, payload: cut(buf, 2, length) }));
            }
            id::HASHES => {
                let (fields, hashes) = prefix("hashes", payload)?;
                if !hashes.len().is_multiple_of(32) {
                    return Err(MessageError::PartialHash { found: hashes.len() });
                }
                let request = HashRequest::from_fields(&fields);
                return Ok(Some(Message::Hashes {
                    request,
                    hashes: cut(buf, 1 + HASH_REQUEST_BYTES, length),
                }));
            }
            id => Message::Unknown { id },
        };
        buf.advance(LENGTH_BYTES + length);
        Ok(Some(message))
    }

    /// How many bytes `buf` lacks to hold the next message; 0 when it is there, or when [`Decoder::decode`] would
    /// refuse it for its length.
    pub fn needed(&self, buf: &[u8]) -> usize {
        let Some(prefix) = buf.first_chunk() else { return LENGTH_BYTES - buf.len() };
        let length = size(u32::from_be_bytes(*prefix));
        if length > self.max_message_bytes {
            return 0;
        }
        (LENGTH_BYTES + length).saturating_sub(buf.len())
    }

    /// The length prefix, if it is there and within the limit.
    fn checked_length(&self, buf: &[u8]) -> Result<Option<usize>, MessageError> {
        let Some(prefix) = buf.first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix);
        if size(length) > self.max_message_bytes {
            return Err(MessageError::TooLong { length, limit: self.max_message_bytes });
        }
        Ok(Some(size(length)))
    }
}

impl Message {
    /// Appends the message to a write buffer.
    ///
    /// A block's data is copied here; a writer of many blocks uses [`encode_piece_header`] and writes the data beside.
    ///
    /// # Panics
    /// When a payload has 4 GiB or more, which no message of this crate can carry.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::KeepAlive => out.put_u32(0),
            Self::Choke => put(out, id::CHOKE, &[]),
            Self::Unchoke => put(out, id::UNCHOKE, &[]),
            Self::Interested => put(out, id::INTERESTED, &[]),
            Self::NotInterested => put(out, id::NOT_INTERESTED, &[]),
            Self::Have(piece) => put(out, id::HAVE, &[&piece.to_be_bytes()]),
            Self::Bitfield(bits) => put(out, id::BITFIELD, &[bits]),
            Self::Request(request) => put(out, id::REQUEST, &[&request.to_bytes()]),
            Self::Piece { piece, begin, data } => {
                put(out, id::PIECE, &[&piece.to_be_bytes(), &begin.to_be_bytes(), data]);
            }
            Self::Cancel(request) => put(out, id::CANCEL, &[&request.to_bytes()]),
            Self::Port(port) => put(out, id::PORT, &[&port.to_be_bytes()]),
            Self::Suggest(piece) => put(out, id::SUGGEST, &[&piece.to_be_bytes()]),
            Self::HaveAll => put(out, id::HAVE_ALL, &[]),
            Self::HaveNone => put(out, id::HAVE_NONE, &[]),
            Self::Reject(request) => put(out, id::REJECT, &[&request.to_bytes()]),
            Self::AllowedFast(piece) => put(out, id::ALLOWED_FAST, &[&piece.to_be_bytes()]),
            Self::Extended { id, payload } => put(out, id::EXTENDED, &[&[*id], payload]),
            Self::HashRequest(request) => put(out, id::HASH_REQUEST, &[&request.to_bytes()]),
            Self::Hashes { request, hashes } => put(out, id::HASHES, &[&request.to_bytes(), hashes]),
            Self::HashReject(request) => put(out, id::HASH_REJECT, &[&request.to_bytes()]),
            Self::Unknown { id } => put(out, *id, &[]),
        }
    }
}

/// Appends what stands before the data of a `piece` message, so that the data itself need not be copied: write
/// `data_len` bytes right behind.
///
/// # Panics
/// When `data_len` is within 9 bytes of 4 GiB; blocks have at most 128 KiB.
pub fn encode_piece_header(piece: u32, begin: u32, data_len: u32, out: &mut BytesMut) {
    out.reserve(PIECE_HEADER_BYTES);
    out.put_u32(data_len.checked_add(9).expect("a block is no longer than 128 KiB"));
    out.put_u8(id::PIECE);
    out.put_u32(piece);
    out.put_u32(begin);
}

impl BlockRequest {
    fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.piece.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.begin.to_be_bytes());
        bytes[8..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

const HASH_REQUEST_BYTES: usize = 48;

impl HashRequest {
    fn to_bytes(self) -> [u8; HASH_REQUEST_BYTES] {
        let mut bytes = [0; HASH_REQUEST_BYTES];
        bytes[..32].copy_from_slice(&self.pieces_root);
        bytes[32..36].copy_from_slice(&self.base_layer.to_be_bytes());
        bytes[36..40].copy_from_slice(&self.index.to_be_bytes());
        bytes[40..44].copy_from_slice(&self.length.to_be_bytes());
        bytes[44..].copy_from_slice(&self.proof_layers.to_be_bytes());
        bytes
    }

    fn read(message: &'static str, payload: &[u8]) -> Result<Self, MessageError> {
        Ok(Self::from_fields(&exact(message, payload)?))
    }

    fn from_fields(bytes: &[u8; HASH_REQUEST_BYTES]) -> Self {
        let mut pieces_root = [0; 32];
        pieces_root.copy_from_slice(&bytes[..32]);
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            u32::from_be_bytes(word)
        };
        Self { pieces_root, base_layer: word(32), index: word(36), length: word(40), proof_layers: word(44) }
    }
}

/// Appends length, id and payload.
fn put(out: &mut BytesMut, id: u8, parts: &[&[u8]]) {
    let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    out.reserve(LENGTH_BYTES + length);
    out.put_u32(u32::try_from(length).expect("a message is shorter than 4 GiB"));
    out.put_u8(id);
    for part in parts {
        out.put_slice(part);
    }
}

/// Takes a message of `length` bytes off the buffer and returns it without its first `skip` bytes.
fn cut(buf: &mut BytesMut, skip: usize, length: usize) -> Bytes {
    buf.advance(LENGTH_BYTES + skip);
    buf.split_to(length - skip).freeze()
}

fn empty(name: &'static str, payload: &[u8], message: Message) -> Result<Message, MessageError> {
    exact::<0>(name, payload)?;
    Ok(message)
}

fn index(message: &'static str, payload: &[u8]) -> Result<u32, MessageError> {
    Ok(u32::from_be_bytes(exact(message, payload)?))
}

fn block_request(message: &'static str, payload: &[u8]) -> Result<BlockRequest, MessageError> {
    exact::<12>(message, payload)?;
    let ([piece, begin, length], _) = numbers(message, payload)?;
    Ok(BlockRequest { piece, begin, length })
}

fn exact<const N: usize>(message: &'static str, payload: &[u8]) -> Result<[u8; N], MessageError> {
    payload.try_into().map_err(|_| MessageError::PayloadLength { message, expected: N, found: payload.len() })
}

fn prefix<'a, const N: usize>(
    message: &'static str,
    payload: &'a [u8],
) -> Result<([u8; N], &'a [u8]), MessageError> {
    let truncated = MessageError::Truncated { message, at_least: N, found: payload.len() };
    payload.split_first_chunk().map(|(fields, rest)| (*fields, rest)).ok_or(truncated)
}

/// The first `N` big-endian numbers and the rest.
fn numbers<'a, const N: usize>(
    message: &'static str,
    payload: &'a [u8],
) -> Result<([u32; N], &'a [u8]), MessageError> {
    let (words, _) = payload.as_chunks::<4>();
    let (fields, _) = words.split_first_chunk::<N>().ok_or(MessageError::Truncated {
        message,
        at_least: 4 * N,
        found: payload.len(),
    })?;
    Ok((fields.map(u32::from_be_bytes), payload.get(4 * N..).unwrap_or_default()))
}

/// A wire length as an index: usize has at least 32 bits on every platform this runs on.
const fn size(length: u32) -> usize {
    length as usize
}

/// Payloads show as their lengths: a log line of one block would have 64 KiB otherwise.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeepAlive => f.write_str("KeepAlive"),
            Self::Choke => f.write_str("Choke"),
            Self::Unchoke => f.write_str("Unchoke"),
            Self::Interested => f.write_str("Interested"),
            Self::NotInterested => f.write_str("NotInterested"),
            Self::Have(piece) => write!(f, "Have({piece})"),
            Self::Bitfield(bits) => write!(f, "Bitfield({} bytes)", bits.len()),
            Self::Request(request) => write!(f, "Request({request})"),
            Self::Piece { piece, begin, data } => write!(f, "Piece({piece}: {begin}+{})", data.len()),
            Self::Cancel(request) => write!(f, "Cancel({request})"),
            Self::Port(port) => write!(f, "Port({port})"),
            Self::Suggest(piece) => write!(f, "Suggest({piece})"),
            Self::HaveAll => f.write_str("HaveAll"),
            Self::HaveNone => f.write_str("HaveNone"),
            Self::Reject(request) => write!(f, "Reject({request})"),
            Self::AllowedFast(piece) => write!(f, "AllowedFast({piece})"),
            Self::Extended { id, payload } => write!(f, "Extended({id}, {} bytes)", payload.len()),
            Self::HashRequest(request) => write!(f, "HashRequest({request:?})"),
            Self::Hashes { request, hashes } => write!(f, "Hashes({request:?}, {} bytes)", hashes.len()),
            Self::HashReject(request) => write!(f, "HashReject({request:?})"),
            Self::Unknown { id } => write!(f, "Unknown({id})"),
        }
    }
}

impl fmt::Display for BlockRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}+{}", self.piece, self.begin, self.length)
    }
}

#[cfg(test)]
mod tests;
