//! The exchange of the `info` dictionary, `ut_metadata` (BEP 9): its messages, and gathering one from many sources.
//!
//! Owns the messages both ways and [`MetadataAssembler`]. Never parses the dictionary: what leaves the assembler has
//! the right hash, and [`crate::metainfo`] takes it from there.
//!
//! The assembler gathers a whole dictionary from each source on its own, from up to [`MAX_PARALLEL`] at a time, and
//! the first whole one with the right hash wins. Pieces of different sources are never mixed: a wrong hash then always
//! names its liar, one liar cannot spoil another's transfer, and a slow source delays nobody. A dictionary is small
//! against what follows, so the second copy costs little.
//!
//! Invariant: memory is bounded by `MAX_PARALLEL * MAX_METADATA_BYTES` and grows only as data arrives, each piece of
//! which was asked for, has its exact length, and came from the source that was asked.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::bencode::{DecodeError, Encoder, Value, decode_prefix};
use crate::id::InfoHashes;

/// Bytes of each piece of metadata but the last.
pub const METADATA_PIECE_BYTES: usize = 16 * 1024;

/// Largest `info` dictionary that is fetched: that of a torrent of some 800,000 pieces.
pub const MAX_METADATA_BYTES: usize = 16 * 1024 * 1024;

/// How many sources send metadata at the same time.
pub const MAX_PARALLEL: usize = 3;

/// Most sources that are remembered at a time; later ones are welcome when some are gone.
pub const MAX_SOURCES: usize = 512;

/// Why a `ut_metadata` payload cannot be read, or a source cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// It does not begin with bencode.
    #[error("a metadata message that cannot be read: {0}")]
    Bencode(#[from] DecodeError),
    /// It begins with another kind of value.
    #[error("the metadata message is {found}, expected a dictionary")]
    NotADictionary {
        /// What it is.
        found: &'static str,
    },
    /// A number is missing or out of range.
    #[error("the metadata message has no {field} that is a number in range")]
    Field {
        /// The key.
        field: &'static str,
    },
    /// A type that no BEP defines yet. To be ignored (BEP 9), not held against the peer.
    #[error("metadata message type {found} is unknown")]
    UnknownType {
        /// The type.
        found: i64,
    },
    /// The claimed size of the dictionary is impossible.
    #[error("a metadata size of {found} bytes, expected 1 to {MAX_METADATA_BYTES}")]
    Size {
        /// The claimed size.
        found: u64,
    },
    /// The source says one size at first and another with a piece.
    #[error("metadata of {found} bytes, the source announced {announced}")]
    SizeChanged {
        /// What its extension handshake said.
        announced: u64,
        /// What the piece says.
        found: u64,
    },
    /// A piece has not the length that its index implies.
    #[error("metadata piece {piece} has {found} bytes, expected {expected}")]
    PieceLength {
        /// Index of the piece.
        piece: u32,
        /// The one right length.
        expected: usize,
        /// The length that came.
        found: usize,
    },
    /// More sources than are remembered.
    #[error("{MAX_SOURCES} metadata sources are known already")]
    TooManySources,
}

/// One `ut_metadata` message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataMessage {
    /// Asks for a piece.
    Request {
        /// Index of the piece.
        piece: u32,
    },
    /// A piece.
    Data {
        /// Index of the piece.
        piece: u32,
        /// Bytes of the whole dictionary.
        total_size: u64,
        /// The bytes, unverified.
        data: Bytes,
    },
    /// A piece will not be sent.
    Reject {
        /// Index of the piece.
        piece: u32,
    },
}

impl MetadataMessage {
    /// The payload of the extension message.
    pub fn encode(&self) -> Bytes {
        let (kind, piece) = match self {
            Self::Request { piece } => (0, *piece),
            Self::Data { piece, .. } => (1, *piece),
            Self::Reject { piece } => (2, *piece),
        };
        let mut out = Encoder::new();
        out.dict(|dict| {
            dict.int("msg_type", kind);
            dict.int("piece", i64::from(piece));
            if let Self::Data { total_size, .. } = self {
                dict.int("total_size", i64::try_from(*total_size).unwrap_or(i64::MAX));
            }
        });
        let mut bytes = out.finish();
        if let Self::Data { data, .. } = self {
            bytes.extend_from_slice(data);
        }
        bytes.into()
    }

    /// Reads the payload of the extension message. Data shares the payload's memory.
    ///
    /// # Errors
    /// When the dictionary or one of its numbers is missing. [`MetadataError::UnknownType`] is to be ignored.
    pub fn decode(payload: &Bytes) -> Result<Self, MetadataError> {
        let (value, used) = decode_prefix(payload)?;
        let Value::Dict(dict) = &value else {
            return Err(MetadataError::NotADictionary { found: value.kind() });
        };
        let kind = dict.get_int("msg_type").ok_or(MetadataError::Field { field: "msg_type" })?;
        if !(0..=2).contains(&kind) {
            return Err(MetadataError::UnknownType { found: kind });
        }
        let piece = dict.get_int("piece").and_then(|piece| u32::try_from(piece).ok());
        let piece = piece.ok_or(MetadataError::Field { field: "piece" })?;
        if kind != 1 {
            return Ok(if kind == 0 { Self::Request { piece } } else { Self::Reject { piece } });
        }
        let total_size = dict.get_int("total_size").and_then(|size| u64::try_from(size).ok());
        let total_size = total_size.ok_or(MetadataError::Field { field: "total_size" })?;
        Ok(Self::Data { piece, total_size, data: payload.slice(used..) })
    }

    /// The answer to a request for a piece of `info`; a rejection when there is no such piece or no `info` yet.
    pub fn answer(info: Option<&Bytes>, piece: u32) -> Self {
        let data = info.and_then(|info| {
            let begin = usize::try_from(piece).ok()?.checked_mul(METADATA_PIECE_BYTES)?;
            let end = begin.checked_add(METADATA_PIECE_BYTES)?.min(info.len());
            (begin < end).then(|| (info.len() as u64, info.slice(begin..end)))
        });
        match data {
            Some((total_size, data)) => Self::Data { piece, total_size, data },
            None => Self::Reject { piece },
        }
    }
}

/// What a piece of metadata has led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It was kept; more are missing.
    Kept,
    /// It was not asked for (any more) and was dropped. Not held against the source: answers cross with withdrawals.
    Unasked,
    /// The whole dictionary, with the right hash. The assembler is done with.
    Complete(Bytes),
    /// The dictionary of this source has a wrong hash: it lied, and is forgotten. Others go on.
    Lied,
}

/// Gathers the `info` dictionary of one torrent from sources of type `S` (a connection's id).
#[derive(Debug)]
pub struct MetadataAssembler<S> {
    hashes: InfoHashes,
    sources: BTreeMap<S, Source>,
}

#[derive(Debug)]
struct Source {
    size: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// May be asked when a place is free.
    Idle,
    /// Holds one of the places.
    Sending(Vec<Slot>),
    /// Refused or timed out; not asked before [`MetadataAssembler::retry_rested`].
    Resting,
}

#[derive(Debug, Clone)]
enum Slot {
    Missing,
    Asked,
    Received(Bytes),
}

impl Slot {
    fn received(&self) -> Option<&[u8]> {
        match self {
            Self::Received(data) => Some(data),
            Self::Missing | Self::Asked => None,
        }
    }
}

impl<S: Copy + Ord> MetadataAssembler<S> {
    /// An assembler for the torrent with these hashes; each that is known must fit.
    pub const fn new(hashes: InfoHashes) -> Self {
        Self { hashes, sources: BTreeMap::new() }
    }

    /// Adds a source that announced `ut_metadata` and a size in its extension handshake. Announcing it again is
    /// without effect, unless the size is another: the source then starts anew.
    ///
    /// # Errors
    /// When the size is impossible, or when [`MAX_SOURCES`] are known.
    pub fn add_source(&mut self, source: S, metadata_size: u64) -> Result<(), MetadataError> {
        let size = usize::try_from(metadata_size).ok().filter(|size| (1..=MAX_METADATA_BYTES).contains(size));
        let size = size.ok_or(MetadataError::Size { found: metadata_size })?;
        let is_full = self.sources.len() >= MAX_SOURCES;
        match self.sources.get_mut(&source) {
            Some(known) if known.size == size => (),
            Some(known) => *known = Source { size, state: State::Idle },
            None if is_full => return Err(MetadataError::TooManySources),
            None => {
                self.sources.insert(source, Source { size, state: State::Idle });
            }
        }
        Ok(())
    }

    /// Forgets a source, with what it has sent: its connection is closed.
    pub fn remove_source(&mut self, source: S) {
        self.sources.remove(&source);
    }

    /// The next piece to ask of this source, which counts as asked from now on. `None` when there is nothing to ask
    /// of it, or when enough others are sending. Call until the caller's own limit of requests in flight.
    pub fn next_request(&mut self, source: S) -> Option<u32> {
        let is_place_free = self.sending().count() < MAX_PARALLEL;
        let known = self.sources.get_mut(&source)?;
        if matches!(known.state, State::Idle) && is_place_free {
            known.state = State::Sending(vec![Slot::Missing; known.size.div_ceil(METADATA_PIECE_BYTES)]);
        }
        let State::Sending(slots) = &mut known.state else { return None };
        let (piece, slot) = (0..).zip(slots).find(|(_, slot)| matches!(slot, Slot::Missing))?;
        *slot = Slot::Asked;
        Some(piece)
    }

    /// Takes a piece from a source.
    ///
    /// # Errors
    /// When the size or the length contradicts what the source announced. It is then forgotten.
    pub fn handle_data(
        &mut self,
        source: S,
        piece: u32,
        total_size: u64,
        data: Bytes,
    ) -> Result<Progress, MetadataError> {
        let Some(known) = self.sources.get_mut(&source) else { return Ok(Progress::Unasked) };
        let size = known.size;
        let State::Sending(slots) = &mut known.state else { return Ok(Progress::Unasked) };
        let at = usize::try_from(piece).unwrap_or(usize::MAX);
        let Some(slot @ Slot::Asked) = slots.get_mut(at) else { return Ok(Progress::Unasked) };
        let expected = METADATA_PIECE_BYTES.min(size - at * METADATA_PIECE_BYTES);
        let fault = if total_size != size as u64 {
            Some(MetadataError::SizeChanged { announced: size as u64, found: total_size })
        } else if data.len() != expected {
            Some(MetadataError::PieceLength { piece, expected, found: data.len() })
        } else {
            None
        };
        if let Some(fault) = fault {
            self.sources.remove(&source);
            return Err(fault);
        }
        // A copy: the payload shares a read buffer, which would be held back for as long as the transfer lasts.
        *slot = Slot::Received(Bytes::copy_from_slice(&data));
        let pieces: Option<Vec<&[u8]>> = slots.iter().map(Slot::received).collect();
        let Some(whole) = pieces.map(|pieces| pieces.concat()) else { return Ok(Progress::Kept) };
        self.sources.remove(&source);
        Ok(if self.hashes.matches(&whole) { Progress::Complete(whole.into()) } else { Progress::Lied })
    }

    /// Lets a source rest that rejected a piece, or did not answer in time: its place goes to another, and what it
    /// has sent is dropped.
    pub fn rest(&mut self, source: S) {
        if let Some(known) = self.sources.get_mut(&source) {
            known.state = State::Resting;
        }
    }

    /// Lets all resting sources be asked again. Call from time to time: a peer that rejects may fetch the metadata
    /// itself at the moment.
    pub fn retry_rested(&mut self) {
        for source in self.sources.values_mut().filter(|source| matches!(source.state, State::Resting)) {
            source.state = State::Idle;
        }
    }

    /// How many sources are known, resting ones counted.
    pub fn source_count(&self) -> usize {
        self.sources.len()
    }

    /// Received and total bytes of the transfer that is furthest on, for display.
    pub fn progress(&self) -> Option<(usize, usize)> {
        self.sending().max_by_key(|(received, _)| *received)
    }

    fn sending(&self) -> impl Iterator<Item = (usize, usize)> {
        self.sources.values().filter_map(|source| {
            let State::Sending(slots) = &source.state else { return None };
            let received =
                slots.iter().map(|slot| if let Slot::Received(data) = slot { data.len() } else { 0 });
            Some((received.sum(), source.size))
        })
    }
}

#[cfg(test)]
mod tests;
