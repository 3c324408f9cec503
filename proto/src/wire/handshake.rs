//! The 68 bytes that open each connection (BEP 3), and the reserved bits that announce extensions.
//!
//! Owns the layout. Does not decide whether the info hash is known or the peer id welcome.
//!
//! Invariant: `decode(encode(h)) == h`, with unknown reserved bits kept as they came.

use std::fmt;

use crate::id::{InfoHash, PeerId};

/// Length of a handshake on the wire.
pub const HANDSHAKE_BYTES: usize = 68;

/// How each handshake begins: a length byte and the protocol's name. An encrypted connection (MSE) begins otherwise.
pub const PROTOCOL_PREFIX: &[u8; 20] = b"\x13BitTorrent protocol";

/// Why 68 bytes are no handshake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Another protocol, or an encrypted handshake.
    #[error("the connection begins with {}, expected \"\\x13BitTorrent protocol\"", .found.escape_ascii())]
    Protocol {
        /// The bytes in place of the prefix.
        found: [u8; 20],
    },
}

/// The eight reserved bytes of a handshake: one bit for each optional protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Reserved([u8; 8]);

/// A bit of the reserved bytes: which byte, and its mask there.
type Bit = (usize, u8);

const EXTENSION_PROTOCOL: Bit = (5, 0x10);
const V2: Bit = (7, 0x10);
const FAST: Bit = (7, 0x04);
const DHT: Bit = (7, 0x01);

impl Reserved {
    /// No extension at all.
    pub const fn new() -> Self {
        Self([0; 8])
    }

    /// The bytes as they came.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The bytes as they go on the wire.
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    /// Whether `extended` messages are understood (BEP 10).
    pub const fn extension_protocol(self) -> bool {
        self.has(EXTENSION_PROTOCOL)
    }

    /// Whether the fast extension is spoken (BEP 6). It holds for a connection only when both sides say so.
    pub const fn fast(self) -> bool {
        self.has(FAST)
    }

    /// Whether a DHT node runs beside the peer (BEP 5).
    pub const fn dht(self) -> bool {
        self.has(DHT)
    }

    /// Whether a hybrid torrent may be upgraded to v2 on this connection (BEP 52).
    pub const fn v2(self) -> bool {
        self.has(V2)
    }

    /// Announces the extension protocol (BEP 10).
    #[must_use]
    pub const fn with_extension_protocol(self) -> Self {
        self.with(EXTENSION_PROTOCOL)
    }

    /// Announces the fast extension (BEP 6).
    #[must_use]
    pub const fn with_fast(self) -> Self {
        self.with(FAST)
    }

    /// Announces a DHT node (BEP 5).
    #[must_use]
    pub const fn with_dht(self) -> Self {
        self.with(DHT)
    }

    /// Announces v2 (BEP 52).
    #[must_use]
    pub const fn with_v2(self) -> Self {
        self.with(V2)
    }

    const fn has(self, (byte, mask): Bit) -> bool {
        self.0[byte] & mask != 0
    }

    const fn with(mut self, (byte, mask): Bit) -> Self {
        self.0[byte] |= mask;
        self
    }
}

impl fmt::Debug for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reserved({:016x})", u64::from_be_bytes(self.0))
    }
}

/// The first message of each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// The optional protocols of the sender.
    pub reserved: Reserved,
    /// The torrent that the connection is for.
    pub info_hash: InfoHash,
    /// The sender's id.
    pub peer_id: PeerId,
}

impl Handshake {
    /// The bytes to send.
    pub fn encode(&self) -> [u8; HANDSHAKE_BYTES] {
        let mut bytes = [0; HANDSHAKE_BYTES];
        bytes[..20].copy_from_slice(PROTOCOL_PREFIX);
        bytes[20..28].copy_from_slice(&self.reserved.0);
        bytes[28..48].copy_from_slice(self.info_hash.as_bytes());
        bytes[48..].copy_from_slice(self.peer_id.as_bytes());
        bytes
    }

    /// Reads a handshake.
    ///
    /// # Errors
    /// When the bytes do not begin with the protocol's name.
    pub fn decode(bytes: &[u8; HANDSHAKE_BYTES]) -> Result<Self, HandshakeError> {
        let (prefix, rest) = array(bytes);
        if &prefix != PROTOCOL_PREFIX {
            return Err(HandshakeError::Protocol { found: prefix });
        }
        let (reserved, rest) = array(rest);
        let (info_hash, rest) = array(rest);
        let (peer_id, _) = array(rest);
        Ok(Self {
            reserved: Reserved(reserved),
            info_hash: InfoHash::new(info_hash),
            peer_id: PeerId::new(peer_id),
        })
    }
}

/// The first `N` bytes and the rest. The four fields of a handshake add up to its fixed length.
fn array<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    let (first, rest) = bytes.split_first_chunk().expect("the fields add up to 68 bytes");
    (*first, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn handshake(reserved: Reserved) -> Handshake {
        Handshake { reserved, info_hash: InfoHash::new([1; 20]), peer_id: PeerId::new([2; 20]) }
    }

    #[test]
    fn the_layout_is_that_of_bep_3() {
        let bytes = handshake(Reserved::new().with_extension_protocol().with_fast().with_dht()).encode();
        assert_eq!(bytes[0], 19);
        assert_eq!(&bytes[1..20], b"BitTorrent protocol");
        assert_eq!(bytes[20..28], [0, 0, 0, 0, 0, 0x10, 0, 0x05]);
        assert_eq!(bytes[28..48], [1; 20]);
        assert_eq!(bytes[48..], [2; 20]);
    }

    #[test]
    fn each_reserved_bit_is_its_own() {
        let none = Reserved::new();
        let read = |r: Reserved| [r.extension_protocol(), r.fast(), r.dht(), r.v2()];
        assert_eq!(read(none), [false; 4]);
        assert_eq!(read(none.with_extension_protocol()), [true, false, false, false]);
        assert_eq!(read(none.with_fast()), [false, true, false, false]);
        assert_eq!(read(none.with_dht()), [false, false, true, false]);
        assert_eq!(read(none.with_v2()), [false, false, false, true]);
    }

    #[test]
    fn another_protocol_is_named_in_the_error() {
        let mut bytes = handshake(Reserved::new()).encode();
        bytes[..4].copy_from_slice(b"GET ");
        let error = Handshake::decode(&bytes).expect_err("not the protocol");
        assert!(error.to_string().starts_with("the connection begins with GET Torrent protocol"), "{error}");
    }

    proptest! {
        #[test]
        fn any_reserved_bytes_come_back(reserved: [u8; 8], hash: [u8; 20], id: [u8; 20]) {
            let reserved = Reserved::from_bytes(reserved);
            let sent = Handshake { reserved, info_hash: InfoHash::new(hash), peer_id: PeerId::new(id) };
            prop_assert_eq!(Handshake::decode(&sent.encode()), Ok(sent));
        }
    }
}
