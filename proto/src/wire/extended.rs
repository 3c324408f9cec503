//! The extension protocol (BEP 10): its handshake, and which id means which extension on either side.
//!
//! Owns the `extended` message with id 0 and the two tables of names and ids. The built-in extensions and any of the
//! caller's own go through the same [`ExtensionRegistry`]. Does not know what an extension's payload means, except for
//! `lt_donthave` (BEP 54), which is four bytes.
//!
//! Invariant: an id is only ever valid in one direction. [`ExtensionRegistry`] gives the ids by which peers send to
//! us, [`RemoteExtensions`] those by which we send to one peer. Values from a peer are clipped to what is useful, and
//! a field of the wrong kind is as good as missing: no client fails a connection over one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use crate::bencode::{DecodeError, Dict, Encoder, Value, decode_prefix};
use crate::compact;

/// Id of the extension handshake inside `extended` messages.
pub const HANDSHAKE_ID: u8 = 0;

/// Name of the metadata exchange (BEP 9).
pub const UT_METADATA: &str = "ut_metadata";

/// Name of the peer exchange (BEP 11).
pub const UT_PEX: &str = "ut_pex";

/// Name of the message that takes a `have` back (BEP 54).
pub const LT_DONTHAVE: &str = "lt_donthave";

/// Longest extension name that is kept: names in use have up to 20 bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Most extensions of one peer that are kept: as many as there are ids.
pub const MAX_EXTENSIONS: usize = 255;

/// Longest client name that is kept, in bytes.
pub const MAX_CLIENT_BYTES: usize = 128;

/// Why an extension message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtendedError {
    /// The handshake is no bencode.
    #[error("an extension handshake that cannot be read: {0}")]
    Bencode(#[from] DecodeError),
    /// The handshake is another kind of value.
    #[error("the extension handshake is {found}, expected a dictionary")]
    NotADictionary {
        /// What it is.
        found: &'static str,
    },
    /// An `lt_donthave` of another size.
    #[error("an lt_donthave message of {found} bytes, expected 4")]
    DontHaveLength {
        /// The length that came.
        found: usize,
    },
}

/// What one side says about itself after the handshake. May come again later; then only what it names has changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtendedHandshake {
    /// `m`: by which id the sender wants to be sent each extension; 0 takes an extension back.
    pub messages: BTreeMap<String, u8>,
    /// `metadata_size`: bytes of the `info` dictionary (BEP 9). Unverified and unbounded.
    pub metadata_size: Option<u64>,
    /// `reqq`: how many requests the sender keeps before it drops some; never zero.
    pub request_queue: Option<u32>,
    /// `v`: the sender's name and version, for people to read; control characters are replaced.
    pub client: Option<String>,
    /// `p`: the port on which the sender accepts TCP connections.
    pub port: Option<u16>,
    /// `yourip`: the receiver's address as the sender sees it.
    pub your_ip: Option<IpAddr>,
    /// `ipv4`: an address of the sender.
    pub ipv4: Option<Ipv4Addr>,
    /// `ipv6`: an address of the sender.
    pub ipv6: Option<Ipv6Addr>,
    /// `upload_only`: the sender wants nothing more, complete or not (BEP 21).
    pub upload_only: Option<bool>,
}

impl ExtendedHandshake {
    /// The payload of the `extended` message with id [`HANDSHAKE_ID`].
    pub fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        out.dict(|dict| {
            dict.dict("m", |m| {
                for (name, id) in &self.messages {
                    m.int(name, i64::from(*id));
                }
            });
            if let Some(size) = self.metadata_size.and_then(|size| i64::try_from(size).ok()) {
                dict.int("metadata_size", size);
            }
            if let Some(requests) = self.request_queue {
                dict.int("reqq", i64::from(requests));
            }
            if let Some(client) = &self.client {
                dict.bytes("v", client);
            }
            if let Some(port) = self.port {
                dict.int("p", i64::from(port));
            }
            if let Some(ip) = self.your_ip {
                let mut bytes = Vec::new();
                compact::encode_ip(ip, &mut bytes);
                dict.bytes("yourip", bytes);
            }
            if let Some(ip) = self.ipv4 {
                dict.bytes("ipv4", ip.octets());
            }
            if let Some(ip) = self.ipv6 {
                dict.bytes("ipv6", ip.octets());
            }
            if let Some(is_upload_only) = self.upload_only {
                dict.int("upload_only", i64::from(is_upload_only));
            }
        });
        out.finish().into()
    }

    /// Reads the payload of an extension handshake. Bytes behind the dictionary are ignored, as other clients do.
    ///
    /// # Errors
    /// When the payload does not begin with a bencoded dictionary. A wrong or impossible field is left out instead.
    pub fn decode(payload: &[u8]) -> Result<Self, ExtendedError> {
        let (value, _) = decode_prefix(payload)?;
        let Value::Dict(dict) = &value else {
            return Err(ExtendedError::NotADictionary { found: value.kind() });
        };
        let positive = |key| dict.get_int(key).and_then(|n| u64::try_from(n).ok()).filter(|&n| n > 0);
        Ok(Self {
            messages: dict.get_dict("m").map(message_ids).unwrap_or_default(),
            metadata_size: positive("metadata_size"),
            request_queue: positive("reqq").map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            client: dict.get_bytes("v").map(client_name),
            port: positive("p").and_then(|n| u16::try_from(n).ok()),
            your_ip: dict.get_bytes("yourip").and_then(compact::decode_ip),
            ipv4: array(dict, "ipv4").map(Ipv4Addr::from),
            ipv6: array::<16>(dict, "ipv6").map(Ipv6Addr::from),
            upload_only: dict.get_int("upload_only").map(|n| n != 0),
        })
    }
}

fn message_ids(m: &Dict<'_>) -> BTreeMap<String, u8> {
    let mut messages = BTreeMap::new();
    for (name, id) in m.iter() {
        let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= MAX_NAME_BYTES);
        let id = id.as_int().and_then(|id| u8::try_from(id).ok());
        if let (Some(name), Some(id)) = (name, id)
            && messages.len() < MAX_EXTENSIONS
        {
            messages.entry(name.to_owned()).or_insert(id);
        }
    }
    messages
}

fn client_name(bytes: &[u8]) -> String {
    let clipped = bytes.get(..MAX_CLIENT_BYTES).unwrap_or(bytes);
    String::from_utf8_lossy(clipped).replace(char::is_control, "\u{fffd}")
}

fn array<const N: usize>(dict: &Dict<'_>, key: &str) -> Option<[u8; N]> {
    dict.get_bytes(key)?.try_into().ok()
}

/// The payload of an `lt_donthave` message (BEP 54): the sender no longer has this piece.
pub const fn encode_dont_have(piece: u32) -> [u8; 4] {
    piece.to_be_bytes()
}

/// Reads the payload of an `lt_donthave` message (BEP 54): the index of the lost piece, unchecked.
///
/// # Errors
/// When it is not exactly four bytes.
pub fn decode_dont_have(payload: &[u8]) -> Result<u32, ExtendedError> {
    let bytes = payload.try_into().map_err(|_| ExtendedError::DontHaveLength { found: payload.len() })?;
    Ok(u32::from_be_bytes(bytes))
}

/// Why an extension cannot be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Nothing, or more than peers keep.
    #[error("an extension name of {found} bytes, expected 1 to {MAX_NAME_BYTES}")]
    NameLength {
        /// Length of the name.
        found: usize,
    },
    /// All ids are given away.
    #[error("all {MAX_EXTENSIONS} extension ids are taken")]
    Full,
}

/// The extensions this side understands, and the ids by which peers send them here.
///
/// Ids count up from 1 in the order of registration and are never reused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtensionRegistry {
    /// The extension of id `i` is at `i - 1`.
    names: Vec<String>,
}

impl ExtensionRegistry {
    /// A registry that knows nothing.
    pub const fn new() -> Self {
        Self { names: Vec::new() }
    }

    /// A registry of `ut_metadata`, `ut_pex` and `lt_donthave`, in that order.
    pub fn with_built_ins() -> Self {
        Self { names: [UT_METADATA, UT_PEX, LT_DONTHAVE].map(str::to_owned).into() }
    }

    /// Adds an extension and returns its id; a name that is there already keeps its id.
    ///
    /// # Errors
    /// When the name is empty or too long, or when 255 are registered.
    pub fn register(&mut self, name: &str) -> Result<u8, RegisterError> {
        if let Some(id) = self.id(name) {
            return Ok(id);
        }
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(RegisterError::NameLength { found: name.len() });
        }
        let id = u8::try_from(self.names.len() + 1).map_err(|_| RegisterError::Full)?;
        self.names.push(name.to_owned());
        Ok(id)
    }

    /// The id by which peers send an extension here.
    pub fn id(&self, name: &str) -> Option<u8> {
        let at = self.names.iter().position(|own| own == name)?;
        u8::try_from(at + 1).ok()
    }

    /// The extension that a peer means by an id; `None` for 0 (the handshake) and for ids not given away.
    pub fn name(&self, id: u8) -> Option<&str> {
        self.names.get(usize::from(id).checked_sub(1)?).map(String::as_str)
    }

    /// The names and ids, for [`ExtendedHandshake::messages`]. A private torrent takes [`UT_PEX`] out (BEP 27).
    pub fn messages(&self) -> BTreeMap<String, u8> {
        (1..=u8::MAX).zip(&self.names).map(|(id, name)| (name.clone(), id)).collect()
    }
}

/// The extensions of one peer, and the ids by which it wants to be sent them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RemoteExtensions {
    ids: BTreeMap<String, u8>,
}

impl RemoteExtensions {
    /// A peer that has said nothing yet.
    pub const fn new() -> Self {
        Self { ids: BTreeMap::new() }
    }

    /// Takes in a handshake, the first or a later one: names it holds replace those known, id 0 removes one, others
    /// stay. At most [`MAX_EXTENSIONS`] are kept, however many handshakes come.
    pub fn update(&mut self, handshake: &ExtendedHandshake) {
        for (name, &id) in &handshake.messages {
            if id == 0 {
                self.ids.remove(name);
            } else if self.ids.contains_key(name) || self.ids.len() < MAX_EXTENSIONS {
                self.ids.insert(name.clone(), id);
            }
        }
    }

    /// The id by which to send an extension to this peer, if it understands it.
    pub fn id(&self, name: &str) -> Option<u8> {
        self.ids.get(name).copied()
    }

    /// The names of the extensions it understands.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.ids.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_bep_10_is_read() {
        let payload = b"d1:md11:LT_metadatai1e7:\xc2\xb5T_PEXi2ee1:pi6881e1:v13:\xc2\xb5Torrent 1.2e";
        let handshake = ExtendedHandshake::decode(payload).expect("the BEP's own example");
        let messages = [("LT_metadata".to_owned(), 1), ("µT_PEX".to_owned(), 2)].into();
        let client = Some("µTorrent 1.2".to_owned());
        let expected = ExtendedHandshake { messages, port: Some(6881), client, ..Default::default() };
        assert_eq!(handshake, expected);
        assert_eq!(&handshake.encode()[..], payload);
    }

    #[test]
    fn fields_of_the_wrong_kind_or_size_are_left_out() {
        let payload = b"d4:ipv43:abc13:metadata_sizei-1e1:mi5e1:pi70000e4:reqqi0e1:vi1e6:yourip5:abcdee";
        assert_eq!(ExtendedHandshake::decode(payload), Ok(ExtendedHandshake::default()));
    }

    #[test]
    fn ids_that_are_no_byte_and_names_that_are_no_text_are_left_out() {
        let payload = b"d1:md1:ai256e1:bi-1e1:c1:x1:di0e1:\xffi3e1:ei255eee";
        let handshake = ExtendedHandshake::decode(payload).expect("a dictionary");
        assert_eq!(handshake.messages, [("d".to_owned(), 0), ("e".to_owned(), 255)].into());
    }

    #[test]
    fn a_client_name_cannot_write_to_the_terminal() {
        let handshake = ExtendedHandshake::decode(b"d1:v6:a\x1b[31me").expect("a dictionary");
        assert_eq!(handshake.client.as_deref(), Some("a\u{fffd}[31m"));
        let long = [b"d1:v300:".as_slice(), &[b'x'; 300], b"e"].concat();
        let client = ExtendedHandshake::decode(&long).expect("a dictionary").client.expect("a name");
        assert_eq!(client.len(), MAX_CLIENT_BYTES);
    }

    #[test]
    fn what_is_no_dictionary_is_refused_with_its_kind() {
        let refused = |payload: &[u8]| ExtendedHandshake::decode(payload).expect_err("refused").to_string();
        assert_eq!(refused(b"le"), "the extension handshake is a list, expected a dictionary");
        assert!(refused(b"d1:m").starts_with("an extension handshake that cannot be read: "));
        assert!(refused(&b"l".repeat(100_000)).contains("nested deeper"));
    }

    #[test]
    fn the_registry_gives_custom_names_the_next_id() {
        let mut registry = ExtensionRegistry::with_built_ins();
        assert_eq!(registry.id(UT_METADATA), Some(1));
        assert_eq!(registry.register("wf_example"), Ok(4));
        assert_eq!(registry.register("wf_example"), Ok(4));
        assert_eq!(registry.register(UT_PEX), Ok(2));
        assert_eq!(registry.name(4), Some("wf_example"));
        assert_eq!((registry.name(0), registry.name(5), registry.id("other")), (None, None, None));
        assert_eq!(registry.messages().len(), 4);
        assert_eq!(registry.messages()[LT_DONTHAVE], 3);
    }

    #[test]
    fn the_registry_is_full_after_255_names() {
        let mut registry = ExtensionRegistry::new();
        for n in 1..=255_u8 {
            assert_eq!(registry.register(&format!("x{n}")), Ok(n));
        }
        assert_eq!(registry.register("one more"), Err(RegisterError::Full));
        assert_eq!(registry.name(255), Some("x255"));
        assert_eq!(registry.register(""), Err(RegisterError::NameLength { found: 0 }));
    }

    #[test]
    fn a_later_handshake_changes_only_what_it_names() {
        let says = |pairs: &[(&str, u8)]| ExtendedHandshake {
            messages: pairs.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect(),
            ..Default::default()
        };
        let mut remote = RemoteExtensions::new();
        remote.update(&says(&[(UT_METADATA, 3), (UT_PEX, 1)]));
        remote.update(&says(&[(UT_PEX, 0), (LT_DONTHAVE, 9)]));
        assert_eq!(remote.id(UT_METADATA), Some(3));
        assert_eq!(remote.id(UT_PEX), None);
        assert_eq!(remote.id(LT_DONTHAVE), Some(9));
    }

    #[test]
    fn a_peer_that_keeps_sending_names_is_bounded() {
        let mut remote = RemoteExtensions::new();
        for n in 0..1000 {
            let messages = [(format!("x{n}"), 1)].into();
            remote.update(&ExtendedHandshake { messages, ..Default::default() });
        }
        assert_eq!(remote.names().count(), MAX_EXTENSIONS);
    }

    #[test]
    fn dont_have_is_four_bytes() {
        assert_eq!(decode_dont_have(&encode_dont_have(70_000)), Ok(70_000));
        assert_eq!(decode_dont_have(&[0; 5]), Err(ExtendedError::DontHaveLength { found: 5 }));
    }

    proptest! {
        #[test]
        fn a_handshake_comes_back_as_it_was(
            messages in prop::collection::btree_map("[a-zA-Z_]{1,20}", any::<u8>(), 0..10),
            metadata_size in prop::option::of(1..=i64::MAX.unsigned_abs()),
            request_queue in prop::option::of(1_u32..),
            client in prop::option::of("[ -~]{0,40}"),
            port in prop::option::of(1_u16..),
            your_ip: Option<IpAddr>, ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>,
            upload_only: Option<bool>,
        ) {
            let sent = ExtendedHandshake {
                messages, metadata_size, request_queue, client, port, your_ip, ipv4, ipv6, upload_only,
            };
            prop_assert_eq!(ExtendedHandshake::decode(&sent.encode()), Ok(sent));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let framed = [b"d1:md".as_slice(), &bytes, b"ee"].concat();
            let _ = ExtendedHandshake::decode(&bytes);
            if let Ok(handshake) = ExtendedHandshake::decode(&framed) {
                prop_assert!(handshake.messages.len() <= MAX_EXTENSIONS);
            }
            prop_assert_eq!(decode_dont_have(&bytes).is_ok(), bytes.len() == 4);
        }
    }
}
