//! Peer exchange, `ut_pex` (BEP 11): the addresses that a peer has met or lost since its last message.
//!
//! Owns the payload. How often one may come (a minute apart), and whether the addresses are dialled at all (never for
//! a private torrent, BEP 27), is for the caller.
//!
//! Invariant: at most [`MAX_DECODED`] addresses of each kind leave `decode`, and `encode` writes at most [`MAX_SENT`]
//! of each kind, whatever the input. An address has a port.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::bencode::{DecodeError, Dict, Encoder, Value, decode_prefix};
use crate::compact::{self, Family, PartialAddress};

/// Most added and most dropped addresses that are taken from one message, both families together.
pub const MAX_DECODED: usize = 200;

/// Most added and most dropped addresses in one message (BEP 11 asks for no more than 50 of each).
pub const MAX_SENT: usize = 50;

/// What the sender knows of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PexFlags(u8);

impl PexFlags {
    /// Prefers encrypted connections.
    pub const PREFERS_ENCRYPTION: Self = Self(0x01);
    /// Uploads only: a seed or a partial seed.
    pub const SEED: Self = Self(0x02);
    /// Speaks uTP.
    pub const UTP: Self = Self(0x04);
    /// Understands hole punching (BEP 55).
    pub const HOLEPUNCH: Self = Self(0x08);
    /// Was reached by an outgoing connection, so it accepts them.
    pub const REACHABLE: Self = Self(0x10);

    /// The bits as they came.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The bits as they go on the wire.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of the other's bits are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A peer that the sender is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PexPeer {
    /// Where it accepts connections.
    pub addr: SocketAddr,
    /// What the sender knows of it.
    pub flags: PexFlags,
}

/// Why a `ut_pex` payload cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PexError {
    /// It is no bencode.
    #[error("a peer exchange that cannot be read: {0}")]
    Bencode(#[from] DecodeError),
    /// It is another kind of value.
    #[error("the peer exchange is {found}, expected a dictionary")]
    NotADictionary {
        /// What it is.
        found: &'static str,
    },
    /// A list of addresses ends in the middle of one.
    #[error("{field}: {source}")]
    PartialAddress {
        /// The key.
        field: &'static str,
        /// What is wrong with its length.
        source: PartialAddress,
    },
}

/// One `ut_pex` message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PexMessage {
    /// Peers met since the last message.
    pub added: Vec<PexPeer>,
    /// Peers lost since the last message.
    pub dropped: Vec<SocketAddr>,
}

impl PexMessage {
    /// The payload of the extension message, with the first [`MAX_SENT`] of each kind. IPv4 addresses mapped into
    /// IPv6 go out as IPv4.
    pub fn encode(&self) -> Bytes {
        let mut added = Families::default();
        for peer in self.added.iter().take(MAX_SENT) {
            added.push(peer.addr, Some(peer.flags));
        }
        let mut dropped = Families::default();
        for &addr in self.dropped.iter().take(MAX_SENT) {
            dropped.push(addr, None);
        }
        let mut out = Encoder::new();
        out.dict(|dict| {
            dict.bytes("added", added.v4);
            dict.bytes("added.f", added.v4_flags);
            dict.bytes("added6", added.v6);
            dict.bytes("added6.f", added.v6_flags);
            dict.bytes("dropped", dropped.v4);
            dict.bytes("dropped6", dropped.v6);
        });
        out.finish().into()
    }

    /// Reads the payload of the extension message. Addresses without a port and those past [`MAX_DECODED`] are left
    /// out; a missing flag is no flag.
    ///
    /// # Errors
    /// When it is no dictionary or a list of addresses ends in the middle of one.
    pub fn decode(payload: &[u8]) -> Result<Self, PexError> {
        let (value, _) = decode_prefix(payload)?;
        let Value::Dict(dict) = &value else {
            return Err(PexError::NotADictionary { found: value.kind() });
        };
        let added = flagged(dict, "added", "added.f", Family::V4)?;
        let added = added.chain(flagged(dict, "added6", "added6.f", Family::V6)?);
        let dropped = addresses(dict, "dropped", Family::V4)?.chain(addresses(dict, "dropped6", Family::V6)?);
        Ok(Self {
            added: added.filter(|peer| peer.addr.port() != 0).take(MAX_DECODED).collect(),
            dropped: dropped.filter(|addr| addr.port() != 0).take(MAX_DECODED).collect(),
        })
    }
}

#[derive(Default)]
struct Families {
    v4: Vec<u8>,
    v4_flags: Vec<u8>,
    v6: Vec<u8>,
    v6_flags: Vec<u8>,
}

impl Families {
    fn push(&mut self, addr: SocketAddr, flags: Option<PexFlags>) {
        let (to, to_flags) = match Family::of(addr.ip()) {
            Family::V4 => (&mut self.v4, &mut self.v4_flags),
            Family::V6 => (&mut self.v6, &mut self.v6_flags),
        };
        compact::encode(addr, to);
        to_flags.extend(flags.map(PexFlags::bits));
    }
}

fn addresses<'a>(
    dict: &Dict<'a>,
    field: &'static str,
    family: Family,
) -> Result<impl Iterator<Item = SocketAddr> + use<'a>, PexError> {
    let bytes = dict.get_bytes(field).unwrap_or_default();
    compact::decode(bytes, family).map_err(|source| PexError::PartialAddress { field, source })
}

fn flagged<'a>(
    dict: &Dict<'a>,
    field: &'static str,
    flags: &'static str,
    family: Family,
) -> Result<impl Iterator<Item = PexPeer> + use<'a>, PexError> {
    let bits = dict.get_bytes(flags).unwrap_or_default().iter().copied().chain(std::iter::repeat(0));
    Ok(addresses(dict, field, family)?.zip(bits).map(|(addr, bits)| PexPeer { addr, flags: PexFlags(bits) }))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use proptest::prelude::*;

    fn peer(addr: &str, flags: PexFlags) -> PexPeer {
        PexPeer { addr: addr.parse().expect("an address"), flags }
    }

    #[test]
    fn both_families_come_with_their_own_flags() {
        let payload = b"d5:added12:\x01\x02\x03\x04\x1a\xe1\x05\x06\x07\x08\x00\x507:added.f2:\x02\x10\
            6:added618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1a\xe18:added6.f1:\x047:dropped6:\x09\x09\x09\x09\0\x01e";
        let message = PexMessage::decode(payload).expect("valid");
        assert_eq!(
            message.added,
            [
                peer("1.2.3.4:6881", PexFlags::SEED),
                peer("5.6.7.8:80", PexFlags::REACHABLE),
                peer("[2001:db8::1]:6881", PexFlags::UTP),
            ]
        );
        assert_eq!(message.dropped, ["9.9.9.9:1".parse().expect("an address")]);
    }

    #[test]
    fn missing_flags_are_none_and_addresses_without_a_port_are_left_out() {
        let message = PexMessage::decode(b"d5:added12:\x01\x02\x03\x04\0\0\x01\x02\x03\x04\0\x01e");
        let expected = vec![peer("1.2.3.4:1", PexFlags::default())];
        assert_eq!(message, Ok(PexMessage { added: expected, dropped: vec![] }));
        assert_eq!(PexMessage::decode(b"de"), Ok(PexMessage::default()));
    }

    #[test]
    fn an_address_cut_short_is_refused() {
        let error = PexMessage::decode(b"d6:added67:1234567e").expect_err("cut");
        assert_eq!(error.to_string(), "added6: 7 bytes of addresses, expected a multiple of 18");
        assert_eq!(
            PexMessage::decode(b"i1e").expect_err("no dictionary").to_string(),
            "the peer exchange is an integer, expected a dictionary"
        );
    }

    #[test]
    fn no_more_than_the_limits_goes_in_or_out() {
        let many = [b"d5:added6000:".as_slice(), &[1; 6000], b"7:dropped6000:", &[1; 6000], b"e"].concat();
        let taken = PexMessage::decode(&many).expect("valid");
        assert_eq!((taken.added.len(), taken.dropped.len()), (MAX_DECODED, MAX_DECODED));
        let sent = PexMessage::decode(&taken.encode()).expect("own encoding");
        assert_eq!((sent.added.len(), sent.dropped.len()), (MAX_SENT, MAX_SENT));
    }

    #[test]
    fn mapped_addresses_go_out_as_ipv4() {
        let added = vec![peer("[::ffff:1.2.3.4]:5", PexFlags::SEED)];
        let sent = PexMessage::decode(&PexMessage { added, dropped: vec![] }.encode()).expect("own encoding");
        assert_eq!(sent.added, [peer("1.2.3.4:5", PexFlags::SEED)]);
    }

    proptest! {
        #[test]
        fn a_message_comes_back_v4_first(
            peers in prop::collection::vec((any::<IpAddr>(), 1_u16.., any::<u8>()), 0..MAX_SENT),
            dropped in prop::collection::vec((any::<IpAddr>(), 1_u16..), 0..MAX_SENT),
        ) {
            let addr = |ip: IpAddr, port| SocketAddr::new(ip.to_canonical(), port);
            let mut sent = PexMessage {
                added: peers.into_iter().map(|(ip, port, bits)| PexPeer { addr: addr(ip, port), flags: PexFlags(bits) }).collect(),
                dropped: dropped.into_iter().map(|(ip, port)| addr(ip, port)).collect(),
            };
            let received = PexMessage::decode(&sent.encode());
            sent.added.sort_by_key(|peer| peer.addr.is_ipv6());
            sent.dropped.sort_by_key(SocketAddr::is_ipv6);
            prop_assert_eq!(received, Ok(sent));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = PexMessage::decode(&bytes);
            let framed = [format!("d5:added{}:", bytes.len()).as_bytes(), &bytes, b"e"].concat();
            prop_assert_eq!(PexMessage::decode(&framed).is_ok(), bytes.len().is_multiple_of(6));
        }
    }
}
