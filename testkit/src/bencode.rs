//! A small bencode writer and reader, apart from the product's own.
//!
//! The writer writes dictionaries in the order given, sorted or not: tests need both. The reader is for what peers
//! under test send and gives `None` for anything odd.

/// A bencoded value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `i..e`
    Int(i64),
    /// `n:...`
    Bytes(Vec<u8>),
    /// `l..e`
    List(Vec<Self>),
    /// `d..e`, in the order of writing.
    Dict(Vec<(Vec<u8>, Self)>),
}

/// Deeper values are not read.
const MAX_DEPTH: usize = 32;

impl Value {
    /// A byte string.
    #[must_use]
    pub fn bytes(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bytes(bytes.as_ref().to_vec())
    }

    /// A dictionary, written in the order given.
    #[must_use]
    pub fn dict<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::Dict(entries.into_iter().map(|(k, v)| (k.as_bytes().to_vec(), v)).collect())
    }

    /// The entry of a dictionary.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Dict(entries) => entries.iter().find(|(k, _)| k == key.as_bytes()).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The number, if it is one.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// The byte string, if it is one.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The encoded form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Int(n) => out.extend_from_slice(format!("i{n}e").as_bytes()),
            Self::Bytes(bytes) => encode_bytes(bytes, out),
            Self::List(values) => {
                out.push(b'l');
                values.iter().for_each(|v| v.encode_into(out));
                out.push(b'e');
            }
            Self::Dict(entries) => {
                out.push(b'd');
                for (key, value) in entries {
                    encode_bytes(key, out);
                    value.encode_into(out);
                }
                out.push(b'e');
            }
        }
    }

    /// Reads one value from the front; gives it and how many bytes it took.
    #[must_use]
    pub fn decode_prefix(input: &[u8]) -> Option<(Self, usize)> {
        let mut at = 0;
        let value = decode(input, &mut at, 0)?;
        Some((value, at))
    }
}

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
}

fn decode(input: &[u8], at: &mut usize, depth: usize) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    match input.get(*at)? {
        b'i' => {
            *at += 1;
            let text = until(input, at, b'e')?;
            Some(Value::Int(text.parse().ok()?))
        }
        b'l' => {
            *at += 1;
            let mut values = Vec::new();
            while *input.get(*at)? != b'e' {
                values.push(decode(input, at, depth + 1)?);
            }
            *at += 1;
            Some(Value::List(values))
        }
        b'd' => {
            *at += 1;
            let mut entries = Vec::new();
            while *input.get(*at)? != b'e' {
                let Value::Bytes(key) = decode(input, at, depth + 1)? else { return None };
                entries.push((key, decode(input, at, depth + 1)?));
            }
            *at += 1;
            Some(Value::Dict(entries))
        }
        b'0'..=b'9' => {
            let len: usize = until(input, at, b':')?.parse().ok()?;
            let bytes = input.get(*at..at.checked_add(len)?)?;
            *at += len;
            Some(Value::bytes(bytes))
        }
        _ => None,
    }
}

fn until<'a>(input: &'a [u8], at: &mut usize, end: u8) -> Option<&'a str> {
    let rest = input.get(*at..)?;
    let len = rest.iter().take(24).position(|&b| b == end)?;
    *at += len + 1;
    std::str::from_utf8(&rest[..len]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let value = Value::dict([
            ("a", Value::Int(-3)),
            ("b", Value::List(vec![Value::bytes("xyz"), Value::dict([("", Value::Int(0))])])),
        ]);
        let bytes = value.encode();
        assert_eq!(bytes, b"d1:ai-3e1:bl3:xyzd0:i0eeee");
        assert_eq!(Value::decode_prefix(&[&bytes[..], b"tail"].concat()), Some((value, bytes.len())));
    }

    #[test]
    fn cut_or_odd_input_is_refused() {
        for input in ["", "i1", "5:abc", "l", "d1:a", "di1ei2ee", "x", "99999999999999999999:a"] {
            assert_eq!(Value::decode_prefix(input.as_bytes()), None, "{input}");
        }
    }
}
