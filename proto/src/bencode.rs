//! Bencode (BEP 3): a borrowed tree with raw spans, and a writer that can only write the canonical form.
//!
//! Reading is lenient where clients in the wild are, strict where leniency would be ambiguous:
//!
//! - Keys of a dictionary may come unsorted, and twice: the first of equal keys wins, as in libtorrent. The tree keeps
//!   the order of the input, and a dictionary keeps the bytes it was read from ([`Dict::raw`]): an info hash is the
//!   hash of those bytes, never of a re-encoding.
//! - Leading zeros (`i03e`, `03:abc`), `-0`, an empty integer, and integers beyond 64 bits are refused.
//! - Depth and number of nodes are limited ([`Limits`]); a length is compared with the bytes at hand before anything is
//!   made of it. So memory stays a small multiple of the input, and hostile nesting cannot exhaust the stack.
//!
//! Nothing is copied: byte strings borrow from the input.

mod decode;
mod encode;

pub use decode::{DecodeError, Limits, decode, decode_prefix, decode_prefix_with, decode_with};
pub use encode::{DictEncoder, Encoder};

/// One bencoded value, borrowing from the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// `i…e`
    Int(i64),
    /// `<length>:…`
    Bytes(&'a [u8]),
    /// `l…e`
    List(Vec<Self>),
    /// `d…e`
    Dict(Dict<'a>),
}

impl<'a> Value<'a> {
    /// The integer, if it is one.
    pub const fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The byte string, if it is one.
    pub const fn as_bytes(&self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The byte string as text, if it is one and is UTF-8.
    pub fn as_str(&self) -> Option<&'a str> {
        self.as_bytes().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// The items, if it is a list.
    pub fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// The dictionary, if it is one.
    pub const fn as_dict(&self) -> Option<&Dict<'a>> {
        match self {
            Self::Dict(dict) => Some(dict),
            _ => None,
        }
    }

    /// What kind of value it is, for messages.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Int(_) => "an integer",
            Self::Bytes(_) => "a string",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
        }
    }
}

/// A dictionary: its entries in the order they came, and the bytes it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dict<'a> {
    raw: &'a [u8],
    entries: Vec<(&'a [u8], Value<'a>)>,
}

impl<'a> Dict<'a> {
    /// The bytes from `d` to `e`, both included, as they stand in the input.
    pub const fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The value of `key`; of equal keys the first. Linear in the number of entries.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<&Value<'a>> {
        let key = key.as_ref();
        self.entries.iter().find(|(own, _)| *own == key).map(|(_, value)| value)
    }

    /// The integer under `key`; `None` if missing or of another kind.
    pub fn get_int(&self, key: impl AsRef<[u8]>) -> Option<i64> {
        self.get(key).and_then(Value::as_int)
    }

    /// The byte string under `key`; `None` if missing or of another kind.
    pub fn get_bytes(&self, key: impl AsRef<[u8]>) -> Option<&'a [u8]> {
        self.get(key).and_then(Value::as_bytes)
    }

    /// The text under `key`; `None` if missing, of another kind, or not UTF-8.
    pub fn get_str(&self, key: impl AsRef<[u8]>) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    /// The list under `key`; `None` if missing or of another kind.
    pub fn get_list(&self, key: impl AsRef<[u8]>) -> Option<&[Value<'a>]> {
        self.get(key).and_then(Value::as_list)
    }

    /// The dictionary under `key`; `None` if missing or of another kind.
    pub fn get_dict(&self, key: impl AsRef<[u8]>) -> Option<&Self> {
        self.get(key).and_then(Value::as_dict)
    }

    /// All entries in the order they came, equal keys included.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &Value<'a>)> {
        self.entries.iter().map(|(key, value)| (*key, value))
    }

    /// Number of entries, equal keys included.
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod second_opinion_tests;
