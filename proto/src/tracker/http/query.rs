//! Query strings of trackers: binary values, percent-encoded byte by byte.
//!
//! Not for URLs in general: values need not be text, and a parameter may come several times. A `+` reads as a space,
//! which is how form encoders write one; a plus sign is always escaped by the clients there are.
//!
//! Invariant: values borrow the query and are decoded on demand, so a long query costs nothing beyond itself.

use std::borrow::Cow;
use std::str::FromStr;

/// Encodes bytes: letters, digits and `-._~` stand for themselves (RFC 3986), all others as `%XX`.
pub(super) fn percent_encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    let mut out = String::with_capacity(bytes.len() * 3);
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    out
}

/// The parameters of a query with their values as they are written.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// All values of one parameter, in their order.
pub(super) fn all<'a>(query: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    pairs(query).filter(move |(own, _)| *own == name).map(|(_, value)| value)
}

/// The bytes that a value stands for, one by one; `None` in place of a `%` that two hex digits do not follow.
fn decoded(value: &str) -> impl Iterator<Item = Option<u8>> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = value.bytes();
    std::iter::from_fn(move || {
        Some(match bytes.next()? {
            b'%' => match (digit(bytes.next()), digit(bytes.next())) {
                (Some(high), Some(low)) => Some(high << 4 | low),
                _ => None,
            },
            b'+' => Some(b' '),
            byte => Some(byte),
        })
    })
}

/// Decodes a value; `None` when a `%` is not followed by two hex digits.
pub(super) fn percent_decode(value: &str) -> Option<Vec<u8>> {
    decoded(value).collect()
}

/// A value of exactly 20 bytes.
pub(super) fn twenty(value: &str) -> Option<[u8; 20]> {
    let mut bytes = [0; 20];
    let mut found = decoded(value);
    for byte in &mut bytes {
        *byte = found.next()??;
    }
    found.next().is_none().then_some(bytes)
}

/// A value that is UTF-8.
pub(super) fn text(value: &str) -> Option<Cow<'_, str>> {
    if !value.contains(['%', '+']) {
        return Some(Cow::Borrowed(value));
    }
    percent_decode(value).and_then(|bytes| String::from_utf8(bytes).ok()).map(Cow::Owned)
}

/// A value that is a number in range.
pub(super) fn number<N: FromStr>(value: &str) -> Option<N> {
    text(value)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_that_is_not_encoded_properly_is_none() {
        for bad in ["%", "%4", "%4x", "%+1", "%é1"] {
            assert_eq!(percent_decode(bad), None, "{bad}");
        }
        assert_eq!(percent_decode("a+b%2Bc%2b").as_deref(), Some(&b"a b+c+"[..]));
    }

    #[test]
    fn a_parameter_may_come_several_times_or_without_a_value() {
        let query = "a=1&b&a=2&ab=3&a=%";
        assert_eq!(all(query, "a").collect::<Vec<_>>(), ["1", "2", "%"]);
        assert_eq!(all(query, "b").collect::<Vec<_>>(), [""]);
        assert_eq!(all(query, "c").next(), None);
        assert_eq!(number::<u8>("3"), Some(3));
        assert_eq!(number::<u8>("%33"), Some(3));
        for wrong in ["", "256", "%", "+3", "x"] {
            assert_eq!(number::<u8>(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn twenty_bytes_are_twenty_neither_more_nor_fewer() {
        assert_eq!(twenty(&"%61".repeat(20)), Some([b'a'; 20]));
        for wrong in ["a".repeat(19), "a".repeat(21), format!("{}%6", "a".repeat(19)), "%".repeat(20)] {
            assert_eq!(twenty(&wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes: Vec<u8>) {
            let encoded = percent_encode(&bytes);
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic() && !b"&=+#?".contains(&byte)));
            prop_assert_eq!(percent_decode(&encoded), Some(bytes));
        }
    }
}
