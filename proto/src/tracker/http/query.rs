//! Query strings of trackers: binary values, percent-encoded byte by byte.
//!
//! Not for URLs in general: values need not be text, and a parameter may come several times. A `+` reads as a space,
//! which is how form encoders write one; a plus sign is always escaped by the clients there are.
//!
//! Invariant: `Pairs` borrows the query and decodes on demand, so a long query costs nothing beyond itself.

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

/// Decodes a value; `None` when a `%` is not followed by two hex digits.
fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => digit(bytes.next())? << 4 | digit(bytes.next())?,
            b'+' => b' ',
            byte => byte,
        });
    }
    Some(out)
}

/// The parameters of a query, decoded when asked for.
pub(super) struct Pairs<'a> {
    query: &'a str,
}

impl<'a> Pairs<'a> {
    pub(super) const fn new(query: &'a str) -> Self {
        Self { query }
    }

    /// All values of a parameter in their order; `None` for one that is not percent-encoded properly.
    pub(super) fn all<'n>(&self, name: &'n str) -> impl Iterator<Item = Option<Vec<u8>>> + use<'a, 'n> {
        self.raw(name).map(percent_decode)
    }

    /// All values of a parameter as they are written.
    fn raw<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        let pairs = self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(move |(own, _)| *own == name).map(|(_, value)| value)
    }

    /// The first value of a parameter.
    pub(super) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.all(name).next().flatten()
    }

    /// Whether the first value of a parameter is written just so.
    pub(super) fn is(&self, name: &str, value: &str) -> bool {
        self.raw(name).next() == Some(value)
    }

    /// The first value of a parameter, if it is UTF-8.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.bytes(name).and_then(|bytes| String::from_utf8(bytes).ok())
    }

    /// The first value of a parameter, if it is a number in range.
    pub(super) fn number<N: FromStr>(&self, name: &str) -> Option<N> {
        self.text(name)?.parse().ok()
    }
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
        let pairs = Pairs::new("a=1&b&a=2&ab=3&a=%");
        assert_eq!(pairs.all("a").collect::<Vec<_>>(), [Some(b"1".to_vec()), Some(b"2".to_vec()), None]);
        assert_eq!(pairs.bytes("b"), Some(vec![]));
        assert_eq!(pairs.bytes("c"), None);
        assert_eq!(pairs.number::<u8>("ab"), Some(3));
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
