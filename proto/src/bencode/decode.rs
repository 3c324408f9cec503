//! The reader: recursive descent over a slice, with a depth limit, a node limit, and an offset in every error.

use thiserror::Error;

use super::{Dict, Value};

/// How deep and how large a tree may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Lists and dictionaries inside each other. Above a few hundred the stack would be at risk.
    pub depth: u32,
    /// Values in all. One costs about 40 bytes of memory, its keys 16 more, and as little as 2 bytes of input.
    pub nodes: u32,
}

impl Limits {
    /// For messages of peers and trackers: far above any honest one, some tens of MiB of memory at worst.
    pub const MESSAGE: Self = Self { depth: 64, nodes: 1 << 18 };

    /// For torrents: room for about a million files in one tree.
    pub const METAINFO: Self = Self { depth: 128, nodes: 1 << 22 };
}

impl Default for Limits {
    fn default() -> Self {
        Self::MESSAGE
    }
}

/// Why bytes are not bencode, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input stops inside a value.
    #[error("the data ends at offset {offset}, expected {expected}")]
    UnexpectedEnd {
        /// The length of the input.
        offset: usize,
        /// What should have come.
        expected: &'static str,
    },
    /// A byte that cannot stand here.
    #[error("byte {found:#04x} at offset {offset}, expected {expected}")]
    UnexpectedByte {
        /// Where it stands.
        offset: usize,
        /// What should have come.
        expected: &'static str,
        /// The byte.
        found: u8,
    },
    /// `i03e`, `i-0e` or `03:abc`: a second way to write a number.
    #[error("a number with a leading zero or a negative zero at offset {offset}")]
    NotCanonical {
        /// Where the digits begin.
        offset: usize,
    },
    /// A number that does not fit 64 bits (or a length that does not fit memory).
    #[error("the number at offset {offset} is too large")]
    Overflow {
        /// Where the digits begin.
        offset: usize,
    },
    /// A string longer than what is left.
    #[error("a string of {length} bytes at offset {offset}, but only {available} bytes follow")]
    StringTooLong {
        /// Where its length begins.
        offset: usize,
        /// The length it claims.
        length: u64,
        /// Bytes left after the colon.
        available: usize,
    },
    /// More lists and dictionaries inside each other than allowed.
    #[error("nested deeper than {limit} at offset {offset}")]
    TooDeep {
        /// Where the one too many begins.
        offset: usize,
        /// [`Limits::depth`].
        limit: u32,
    },
    /// More values than allowed.
    #[error("more than {limit} values, at offset {offset}")]
    TooManyValues {
        /// Where the one too many begins.
        offset: usize,
        /// [`Limits::nodes`].
        limit: u32,
    },
    /// Bytes after the one value.
    #[error("{bytes} bytes after the end of the value at offset {offset}")]
    Trailing {
        /// Where the value ended.
        offset: usize,
        /// How many bytes are left.
        bytes: usize,
    },
}

impl DecodeError {
    /// Byte offset in the input that the error is about.
    pub const fn offset(&self) -> usize {
        match self {
            Self::UnexpectedEnd { offset, .. }
            | Self::UnexpectedByte { offset, .. }
            | Self::NotCanonical { offset }
            | Self::Overflow { offset }
            | Self::StringTooLong { offset, .. }
            | Self::TooDeep { offset, .. }
            | Self::TooManyValues { offset, .. }
            | Self::Trailing { offset, .. } => *offset,
        }
    }
}

/// Reads one value that is the whole of `input`, within [`Limits::MESSAGE`].
///
/// # Errors
/// [`DecodeError`] with the offset; bytes after the value are an error too.
pub fn decode(input: &[u8]) -> Result<Value<'_>, DecodeError> {
    decode_with(input, Limits::MESSAGE)
}

/// Reads one value that is the whole of `input`, within `limits`.
///
/// # Errors
/// As [`decode`].
pub fn decode_with(input: &[u8], limits: Limits) -> Result<Value<'_>, DecodeError> {
    let mut reader = Reader::new(input, limits);
    let value = reader.value(limits.depth)?;
    match input.len() - reader.at {
        0 => Ok(value),
        bytes => Err(DecodeError::Trailing { offset: reader.at, bytes }),
    }
}

/// Reads one value at the start of `input` and says how many bytes it took (`ut_metadata` puts data behind a
/// dictionary, BEP 9). Within [`Limits::MESSAGE`].
///
/// # Errors
/// As [`decode`], but bytes after the value are the caller's.
pub fn decode_prefix(input: &[u8]) -> Result<(Value<'_>, usize), DecodeError> {
    decode_prefix_with(input, Limits::MESSAGE)
}

/// As [`decode_prefix`], within `limits`.
///
/// # Errors
/// As [`decode_prefix`].
pub fn decode_prefix_with(input: &[u8], limits: Limits) -> Result<(Value<'_>, usize), DecodeError> {
    let mut reader = Reader::new(input, limits);
    let value = reader.value(limits.depth)?;
    Ok((value, reader.at))
}

const ANY_VALUE: &str = "a value (i, l, d or a digit)";
const ITEM_OR_END: &str = "a value or e";

struct Reader<'a> {
    input: &'a [u8],
    at: usize,
    limits: Limits,
    nodes_left: u32,
}

impl<'a> Reader<'a> {
    const fn new(input: &'a [u8], limits: Limits) -> Self {
        Self { input, at: 0, limits, nodes_left: limits.nodes }
    }

    fn peek(&self, expected: &'static str) -> Result<u8, DecodeError> {
        let end = DecodeError::UnexpectedEnd { offset: self.input.len(), expected };
        self.input.get(self.at).copied().ok_or(end)
    }

    fn unexpected(&self, expected: &'static str, found: u8) -> DecodeError {
        DecodeError::UnexpectedByte { offset: self.at, expected, found }
    }

    fn value(&mut self, depth_left: u32) -> Result<Value<'a>, DecodeError> {
        self.nodes_left = self
            .nodes_left
            .checked_sub(1)
            .ok_or(DecodeError::TooManyValues { offset: self.at, limit: self.limits.nodes })?;
        match self.peek(ANY_VALUE)? {
            b'i' => self.int().map(Value::Int),
            b'0'..=b'9' => self.string().map(Value::Bytes),
            b'l' => self.list(self.descend(depth_left)?).map(Value::List),
            b'd' => self.dict(self.descend(depth_left)?).map(Value::Dict),
            found => Err(self.unexpected(ANY_VALUE, found)),
        }
    }

    fn descend(&self, depth_left: u32) -> Result<u32, DecodeError> {
        let too_deep = DecodeError::TooDeep { offset: self.at, limit: self.limits.depth };
        depth_left.checked_sub(1).ok_or(too_deep)
    }

    fn list(&mut self, depth_left: u32) -> Result<Vec<Value<'a>>, DecodeError> {
        self.at += 1;
        let mut items = Vec::new();
        while self.peek(ITEM_OR_END)? != b'e' {
            items.push(self.value(depth_left)?);
        }
        self.at += 1;
        Ok(items)
    }

    fn dict(&mut self, depth_left: u32) -> Result<Dict<'a>, DecodeError> {
        const KEY_OR_END: &str = "a key (a string) or e";
        let start = self.at;
        self.at += 1;
        let mut entries = Vec::new();
        loop {
            match self.peek(KEY_OR_END)? {
                b'e' => break,
                b'0'..=b'9' => {
                    let key = self.string()?;
                    entries.push((key, self.value(depth_left)?));
                }
                found => return Err(self.unexpected(KEY_OR_END, found)),
            }
        }
        self.at += 1;
        Ok(Dict { raw: &self.input[start..self.at], entries })
    }

    fn int(&mut self) -> Result<i64, DecodeError> {
        self.at += 1;
        let start = self.at;
        let is_negative = self.peek("a digit or -")? == b'-';
        if is_negative {
            self.at += 1;
        }
        let magnitude = self.digits(start, b'e', "a digit or e")?;
        if is_negative && magnitude == 0 {
            return Err(DecodeError::NotCanonical { offset: start });
        }
        let signed =
            if is_negative { 0_i64.checked_sub_unsigned(magnitude) } else { magnitude.try_into().ok() };
        signed.ok_or(DecodeError::Overflow { offset: start })
    }

    fn string(&mut self) -> Result<&'a [u8], DecodeError> {
        let start = self.at;
        let length = self.digits(start, b':', "a digit or :")?;
        let rest = &self.input[self.at..];
        let too_long = DecodeError::StringTooLong { offset: start, length, available: rest.len() };
        let length = usize::try_from(length).ok().filter(|&n| n <= rest.len()).ok_or(too_long)?;
        self.at += length;
        Ok(&rest[..length])
    }

    /// One canonical unsigned number and the byte `end` behind it. `start` is where errors about the number point.
    fn digits(&mut self, start: usize, end: u8, expected: &'static str) -> Result<u64, DecodeError> {
        let first = self.peek("a digit")?;
        if !first.is_ascii_digit() {
            return Err(self.unexpected("a digit", first));
        }
        let first_at = self.at;
        let mut number = 0_u64;
        loop {
            match self.peek(expected)? {
                digit @ b'0'..=b'9' => {
                    number = number
                        .checked_mul(10)
                        .and_then(|n| n.checked_add(u64::from(digit - b'0')))
                        .ok_or(DecodeError::Overflow { offset: start })?;
                }
                byte if byte == end => break,
                byte => return Err(self.unexpected(expected, byte)),
            }
            self.at += 1;
        }
        if first == b'0' && self.at - first_at > 1 {
            return Err(DecodeError::NotCanonical { offset: start });
        }
        self.at += 1;
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dict(input: &[u8]) -> Value<'_> {
        decode(input).unwrap()
    }

    #[test]
    fn the_examples_of_bep_3_decode() {
        assert_eq!(decode(b"4:spam"), Ok(Value::Bytes(b"spam")));
        assert_eq!(decode(b"0:"), Ok(Value::Bytes(b"")));
        assert_eq!(decode(b"i3e"), Ok(Value::Int(3)));
        assert_eq!(decode(b"i-3e"), Ok(Value::Int(-3)));
        assert_eq!(decode(b"i0e"), Ok(Value::Int(0)));
        let list = Value::List(vec![Value::Bytes(b"spam"), Value::Bytes(b"eggs")]);
        assert_eq!(decode(b"l4:spam4:eggse"), Ok(list.clone()));
        let value = dict(b"d3:cow3:moo4:spam4:eggse");
        assert_eq!(value.as_dict().unwrap().get_str("cow"), Some("moo"));
        assert_eq!(dict(b"d4:spaml4:spam4:eggsee").as_dict().unwrap().get("spam"), Some(&list));
    }

    #[test]
    fn a_dictionary_keeps_the_bytes_it_was_read_from() {
        let value = dict(b"d4:infod1:zi1e1:ai2ee1:xi0ee");
        let info = value.as_dict().unwrap().get_dict("info").unwrap();
        assert_eq!(info.raw(), b"d1:zi1e1:ai2ee", "unsorted keys stay as they came");
        assert_eq!(info.len(), 2);
    }

    #[test]
    fn of_equal_keys_the_first_wins_and_all_are_listed() {
        let value = dict(b"d1:ai1e1:ai2ee");
        let dict = value.as_dict().unwrap();
        assert_eq!(dict.get_int("a"), Some(1));
        assert_eq!(dict.iter().filter_map(|(_, v)| v.as_int()).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn integers_of_64_bits_pass_and_longer_ones_do_not() {
        assert_eq!(decode(b"i9223372036854775807e"), Ok(Value::Int(i64::MAX)));
        assert_eq!(decode(b"i-9223372036854775808e"), Ok(Value::Int(i64::MIN)));
        for long in ["i9223372036854775808e", "i-9223372036854775809e", "i99999999999999999999999e"] {
            assert_eq!(decode(long.as_bytes()), Err(DecodeError::Overflow { offset: 1 }), "{long}");
        }
    }

    #[test]
    fn every_error_names_its_place_and_its_expectation() {
        let cases: [(&[u8], &str); 20] = [
            (b"", "the data ends at offset 0, expected a value (i, l, d or a digit)"),
            (b"x", "byte 0x78 at offset 0, expected a value (i, l, d or a digit)"),
            (b"i", "the data ends at offset 1, expected a digit or -"),
            (b"ie", "byte 0x65 at offset 1, expected a digit"),
            (b"i-e", "byte 0x65 at offset 2, expected a digit"),
            (b"i+1e", "byte 0x2b at offset 1, expected a digit"),
            (b"i1", "the data ends at offset 2, expected a digit or e"),
            (b"i1.5e", "byte 0x2e at offset 2, expected a digit or e"),
            (b"i03e", "a number with a leading zero or a negative zero at offset 1"),
            (b"i-0e", "a number with a leading zero or a negative zero at offset 1"),
            (b"i-01e", "a number with a leading zero or a negative zero at offset 1"),
            (b"03:abc", "a number with a leading zero or a negative zero at offset 0"),
            (b"5:abc", "a string of 5 bytes at offset 0, but only 3 bytes follow"),
            (
                b"18446744073709551615:",
                "a string of 18446744073709551615 bytes at offset 0, but only 0 bytes follow",
            ),
            (b"18446744073709551616:", "the number at offset 0 is too large"),
            (b"l", "the data ends at offset 1, expected a value or e"),
            (b"d", "the data ends at offset 1, expected a key (a string) or e"),
            (b"di1ei2ee", "byte 0x69 at offset 1, expected a key (a string) or e"),
            (b"d1:ae", "byte 0x65 at offset 4, expected a value (i, l, d or a digit)"),
            (b"i1ei2e", "3 bytes after the end of the value at offset 3"),
        ];
        for (input, message) in cases {
            let error = decode(input).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert!(error.offset() <= input.len());
        }
    }

    #[test]
    fn hostile_nesting_is_refused_without_recursing_into_it() {
        let limit = Limits::MESSAGE.depth;
        let nested = |n: usize| [vec![b'l'; n], vec![b'e'; n]].concat();
        assert!(decode(&nested(64)).is_ok());
        let error = decode(&nested(65)).unwrap_err();
        assert_eq!(error, DecodeError::TooDeep { offset: 64, limit });
        assert_eq!(error.to_string(), "nested deeper than 64 at offset 64");
        let bomb = b"d0:".repeat(1_000_000);
        assert_eq!(decode(&bomb), Err(DecodeError::TooDeep { offset: 3 * 64, limit }));
    }

    #[test]
    fn the_number_of_values_is_limited() {
        let limits = Limits { depth: 2, nodes: 3 };
        assert!(decode_with(b"llelee", limits).is_ok());
        let error = decode_with(b"llelelee", limits).unwrap_err();
        assert_eq!(error, DecodeError::TooManyValues { offset: 5, limit: 3 });
        assert_eq!(error.to_string(), "more than 3 values, at offset 5");
    }

    #[test]
    fn a_prefix_leaves_the_rest_to_the_caller() {
        let (value, used) = decode_prefix(b"d8:msg_typei1eedata").unwrap();
        assert_eq!(value.as_dict().unwrap().get_int("msg_type"), Some(1));
        assert_eq!(used, 15);
    }
}
