//! The names of torrents and of peers: info hashes of both versions, and peer ids.
//!
//! [`InfoHash`] is what every wire protocol carries: 20 bytes, either the SHA-1 of a v1 `info` dictionary (BEP 3) or
//! the first 20 bytes of the SHA-256 of a v2 one (BEP 52). The full v2 hash is [`InfoHashV2`]. A hybrid torrent has
//! both, so a torrent is known by [`InfoHashes`], never by a single hash.
//!
//! Hashing happens here only over the raw bytes of an `info` dictionary; the bytes are never re-encoded first.

use std::fmt;
use std::str::FromStr;

use sha1::{Digest, Sha1};
use sha2::Sha256;
use thiserror::Error;

/// The 20 bytes that name a torrent on the wire: SHA-1 for v1, truncated SHA-256 for v2.
///
/// `Display` and `Debug` write 40 lower-case hex digits; `FromStr` takes 40 hex digits or 32 Base32 letters of either
/// case (both forms occur in magnet links).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHash([u8; 20]);

impl InfoHash {
    /// Wraps 20 bytes as they came.
    pub const fn new(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The v1 hash of the raw bytes of an `info` dictionary.
    pub fn of_info(info: &[u8]) -> Self {
        Self(Sha1::digest(info).into())
    }

    /// The bytes as the wire carries them.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

/// The full 32-byte SHA-256 info hash of a v2 or hybrid torrent (BEP 52).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHashV2([u8; 32]);

impl InfoHashV2 {
    /// Wraps 32 bytes as they came.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The v2 hash of the raw bytes of an `info` dictionary.
    pub fn of_info(info: &[u8]) -> Self {
        Self(Sha256::digest(info).into())
    }

    /// All 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 20 bytes: what handshakes, trackers and the DHT use for a v2 torrent.
    pub fn truncated(&self) -> InfoHash {
        let mut short = [0; 20];
        short.copy_from_slice(&self.0[..20]);
        InfoHash(short)
    }
}

/// A text that is no info hash.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseIdError {
    /// Neither 40 (hex) nor 32 (Base32) characters, or for v2 not 64.
    #[error("an info hash has {expected} characters, this has {got}")]
    Length {
        /// What would have been right, in words.
        expected: &'static str,
        /// Bytes of the text given.
        got: usize,
    },
    /// The right length, but a character outside the alphabet.
    #[error("not {alphabet}: bad character at offset {offset}")]
    Alphabet {
        /// Name of the alphabet the length implied.
        alphabet: &'static str,
        /// Byte offset of the first bad character.
        offset: usize,
    },
}

impl FromStr for InfoHash {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        match text.len() {
            40 => Ok(Self(hex_array(text)?)),
            32 => {
                let mut bytes = [0; 20];
                data_encoding::BASE32_NOPAD
                    .decode_mut(text.to_ascii_uppercase().as_bytes(), &mut bytes)
                    .map_err(|e| ParseIdError::Alphabet { alphabet: "Base32", offset: e.error.position })?;
                Ok(Self(bytes))
            }
            got => Err(ParseIdError::Length { expected: "40 (hex) or 32 (Base32)", got }),
        }
    }
}

impl FromStr for InfoHashV2 {
    type Err = ParseIdError;

    /// 64 hex digits, without the `1220` multihash prefix of a magnet link.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.len() != 64 {
            return Err(ParseIdError::Length { expected: "64 (hex)", got: text.len() });
        }
        Ok(Self(hex_array(text)?))
    }
}

/// Decodes exactly `2 * N` hex digits of either case; the caller has checked the length.
fn hex_array<const N: usize>(text: &str) -> Result<[u8; N], ParseIdError> {
    let mut bytes = [0; N];
    data_encoding::HEXLOWER_PERMISSIVE
        .decode_mut(text.as_bytes(), &mut bytes)
        .map_err(|e| ParseIdError::Alphabet { alphabet: "hex", offset: e.error.position })?;
    Ok(bytes)
}

macro_rules! hex_format {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
hex_format!(InfoHash, InfoHashV2);

/// Every hash a torrent is known by: v1, v2, or both for a hybrid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHashes {
    /// SHA-1 of `info`, for v1 and hybrid torrents.
    pub v1: Option<InfoHash>,
    /// SHA-256 of `info`, for v2 and hybrid torrents.
    pub v2: Option<InfoHashV2>,
}

impl InfoHashes {
    /// The hash to index and log by: v1 where there is one, else v2 truncated.
    ///
    /// With neither (no constructor of this crate makes such a value) it is the all-zero hash, which names no torrent.
    pub fn primary(&self) -> InfoHash {
        self.iter().next().unwrap_or(InfoHash([0; 20]))
    }

    /// Whether a handshake or announce with `hash` means this torrent.
    pub fn contains(&self, hash: InfoHash) -> bool {
        self.iter().any(|own| own == hash)
    }

    /// The wire hashes, v1 first: one announce or handshake name each.
    pub fn iter(&self) -> impl Iterator<Item = InfoHash> + use<> {
        self.v1.into_iter().chain(self.v2.map(|hash| hash.truncated()))
    }

    /// Whether `info` (raw bytes) hashes to every hash known here. False when none is known.
    pub fn matches(&self, info: &[u8]) -> bool {
        let v1 = self.v1.is_none_or(|hash| hash == InfoHash::of_info(info));
        let v2 = self.v2.is_none_or(|hash| hash == InfoHashV2::of_info(info));
        (self.v1.is_some() || self.v2.is_some()) && v1 && v2
    }
}

impl From<InfoHash> for InfoHashes {
    fn from(hash: InfoHash) -> Self {
        Self { v1: Some(hash), v2: None }
    }
}

/// The 20 bytes by which a peer names itself (BEP 3, BEP 20). Says nothing that may be trusted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 20]);

/// The Azureus-style prefix of this client's ids: `WF`, version 0.1.0.0.
const PEER_ID_PREFIX: [u8; 8] = *b"-WF0100-";

impl PeerId {
    /// Wraps 20 bytes as they came.
    pub const fn new(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// An id of this client: `-WF0100-` and 12 bytes of the caller's randomness.
    pub fn generate(random: [u8; 12]) -> Self {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&PEER_ID_PREFIX);
        bytes[8..].copy_from_slice(&random);
        Self(bytes)
    }

    /// The bytes as the wire carries them.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// Client name and version as far as the id tells (BEP 20): for people to read, never for decisions.
    ///
    /// Azureus style (`-qB4650-`) gives a name from a short table, or the two letters; anything else gives the
    /// printable part of the first eight bytes.
    pub fn client(&self) -> String {
        let id = &self.0;
        if id[0] == b'-' && id[7] == b'-' && id[1..7].iter().all(u8::is_ascii_alphanumeric) {
            let code = String::from_utf8_lossy(&id[1..3]).into_owned();
            let name = CLIENT_NAMES.iter().find(|(known, _)| *known == code).map_or(&*code, |(_, name)| name);
            return format!("{name} {}", azureus_version(&id[3..7]));
        }
        let printable: String =
            id[..8].iter().map(|&b| if b.is_ascii_graphic() { char::from(b) } else { '.' }).collect();
        format!("unknown ({printable})")
    }
}

/// Two-letter codes seen in today's swarms (BEP 20 and the clients' own documentation).
const CLIENT_NAMES: [(&str, &str); 19] = [
    ("7T", "aTorrent"),
    ("A2", "aria2"),
    ("AZ", "Vuze"),
    ("BC", "BitComet"),
    ("BI", "BiglyBT"),
    ("BT", "BitTorrent"),
    ("DE", "Deluge"),
    ("FD", "Free Download Manager"),
    ("KT", "KTorrent"),
    ("LT", "libtorrent"),
    ("TR", "Transmission"),
    ("TX", "Tixati"),
    ("UT", "uTorrent"),
    ("WD", "WebTorrent Desktop"),
    ("WF", "wtfs"),
    ("WW", "WebTorrent"),
    ("lt", "rTorrent"),
    ("qB", "qBittorrent"),
    ("rQ", "rqbit"),
];

/// Four version characters as `4.6.5`; trailing zeros beyond the second part say nothing and are left out.
fn azureus_version(digits: &[u8]) -> String {
    let part = |&b: &u8| char::from(b).to_digit(36).map_or_else(|| "?".into(), |d| d.to_string());
    let mut parts: Vec<String> = digits.iter().map(part).collect();
    while parts.len() > 2 && parts.last().is_some_and(|p| p == "0") {
        parts.pop();
    }
    parts.join(".")
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in &self.0 {
            match byte {
                b'%' => f.write_str("%25")?,
                b if b.is_ascii_graphic() => write!(f, "{}", char::from(b))?,
                b => write!(f, "%{b:02x}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_hash_reads_hex_and_base32_of_either_case() {
        let hex = "d0d14c926e6e99761a2fdcff27b403d96376eff6";
        let hash: InfoHash = hex.parse().unwrap();
        assert_eq!(hash.to_string(), hex);
        assert_eq!(format!("{hash:?}"), hex);
        assert_eq!(hex.to_uppercase().parse(), Ok(hash));
        let base32 = data_encoding::BASE32_NOPAD.encode(hash.as_bytes());
        assert_eq!(base32.parse(), Ok(hash));
        assert_eq!(base32.to_lowercase().parse(), Ok(hash));
    }

    #[test]
    fn bad_info_hashes_say_what_is_wrong() {
        let wrong = |text: &str| text.parse::<InfoHash>().unwrap_err().to_string();
        assert_eq!(wrong("abc"), "an info hash has 40 (hex) or 32 (Base32) characters, this has 3");
        assert_eq!(wrong(&format!("{}zz", "0".repeat(38))), "not hex: bad character at offset 38");
        assert_eq!(wrong(&format!("{}1", "A".repeat(31))), "not Base32: bad character at offset 31");
        assert_eq!(wrong(&"ä".repeat(20)), "not hex: bad character at offset 0");
        let v2 = "00".parse::<InfoHashV2>().unwrap_err().to_string();
        assert_eq!(v2, "an info hash has 64 (hex) characters, this has 2");
    }

    #[test]
    fn a_hybrid_is_known_by_both_wire_hashes_v1_first() {
        let hashes = InfoHashes { v1: Some(InfoHash::of_info(b"de")), v2: Some(InfoHashV2::of_info(b"de")) };
        let short = hashes.v2.unwrap().truncated();
        assert_eq!(hashes.primary(), hashes.v1.unwrap());
        assert!(hashes.contains(short) && hashes.contains(hashes.primary()));
        assert!(!hashes.contains(InfoHash::new([0; 20])));
        assert_eq!(hashes.iter().collect::<Vec<_>>(), [hashes.primary(), short]);
        assert!(hashes.matches(b"de"));
        assert!(!hashes.matches(b"le"));
        assert!(!InfoHashes { v1: None, v2: None }.matches(b"de"));
        assert_eq!(InfoHashes { v1: None, v2: hashes.v2 }.primary(), short);
    }

    #[test]
    fn hashes_are_of_the_bytes_as_they_came() {
        assert_eq!(InfoHash::of_info(b"abc").to_string(), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(
            InfoHashV2::of_info(b"abc").to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn peer_ids_name_their_client() {
        let id = |text: &[u8; 20]| PeerId::new(*text).client();
        assert_eq!(id(b"-qB4650-aaaaaaaaaaaa"), "qBittorrent 4.6.5");
        assert_eq!(id(b"-LT20A0-aaaaaaaaaaaa"), "libtorrent 2.0.10");
        assert_eq!(id(b"-ZZ1000-aaaaaaaaaaaa"), "ZZ 1.0");
        assert_eq!(id(b"M7-9-2--\x00\x01aaaaaaaaaa"), "unknown (M7-9-2--)");
        assert_eq!(id(&[0xff; 20]), "unknown (........)");
        assert_eq!(PeerId::generate(*b"0123456789ab").client(), "wtfs 0.1");
        assert_eq!(PeerId::generate([0; 12]).to_string(), format!("-WF0100-{}", "%00".repeat(12)));
    }
}
