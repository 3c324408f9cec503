//! The writer. Its shape makes it canonical: a dictionary gathers its entries and writes them sorted by raw key, each
//! key once, when it is closed; containers close themselves. There is no way to write something [`super::decode`]
//! would refuse, except through [`Encoder::raw`], whose caller answers for the bytes.

use std::collections::BTreeMap;

use super::Value;

/// Writes one value after the other into a buffer.
///
/// ```
/// use wtfs_proto::bencode::Encoder;
/// let mut out = Encoder::new();
/// out.dict(|d| {
///     d.bytes("spam", "eggs");
///     d.list("cow", |l| l.int(3));
/// });
/// assert_eq!(out.finish(), b"d3:cowli3ee4:spam4:eggse");
/// ```
#[derive(Debug, Default)]
pub struct Encoder {
    out: Vec<u8>,
}

impl Encoder {
    /// An empty buffer.
    pub const fn new() -> Self {
        Self { out: Vec::new() }
    }

    /// Writes an integer.
    pub fn int(&mut self, value: i64) {
        self.out.extend_from_slice(format!("i{value}e").as_bytes());
    }

    /// Writes a byte string.
    pub fn bytes(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
        self.out.extend_from_slice(bytes);
    }

    /// Writes a list of what `items` writes.
    pub fn list(&mut self, items: impl FnOnce(&mut Self)) {
        self.out.push(b'l');
        items(self);
        self.out.push(b'e');
    }

    /// Writes a dictionary of what `entries` puts into it, sorted by key.
    pub fn dict(&mut self, entries: impl FnOnce(&mut DictEncoder)) {
        let mut dict = DictEncoder::default();
        entries(&mut dict);
        self.out.push(b'd');
        for (key, value) in dict.entries {
            self.bytes(key);
            self.out.extend_from_slice(&value);
        }
        self.out.push(b'e');
    }

    /// Writes bytes that are already bencode, such as a raw `info` dictionary.
    pub fn raw(&mut self, bencoded: &[u8]) {
        self.out.extend_from_slice(bencoded);
    }

    /// Writes a tree in canonical form: keys sorted, of equal keys only the first.
    pub fn value(&mut self, value: &Value<'_>) {
        match value {
            Value::Int(int) => self.int(*int),
            Value::Bytes(bytes) => self.bytes(bytes),
            Value::List(items) => self.list(|list| items.iter().for_each(|item| list.value(item))),
            Value::Dict(dict) => self.dict(|out| {
                for (key, value) in dict.iter() {
                    out.entries.entry(key.to_vec()).or_insert_with(|| {
                        let mut one = Self::new();
                        one.value(value);
                        one.finish()
                    });
                }
            }),
        }
    }

    /// The bytes written.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// The entries of a dictionary being written, in any order; the last value given for a key stays.
#[derive(Debug, Default)]
pub struct DictEncoder {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl DictEncoder {
    /// Puts an integer under `key`.
    pub fn int(&mut self, key: impl AsRef<[u8]>, value: i64) {
        self.entry(key, |out| out.int(value));
    }

    /// Puts a byte string under `key`.
    pub fn bytes(&mut self, key: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) {
        self.entry(key, |out| out.bytes(bytes));
    }

    /// Puts a list under `key`.
    pub fn list(&mut self, key: impl AsRef<[u8]>, items: impl FnOnce(&mut Encoder)) {
        self.entry(key, |out| out.list(items));
    }

    /// Puts a dictionary under `key`.
    pub fn dict(&mut self, key: impl AsRef<[u8]>, entries: impl FnOnce(&mut Self)) {
        self.entry(key, |out| out.dict(entries));
    }

    /// Puts bytes that are already bencode under `key`.
    pub fn raw(&mut self, key: impl AsRef<[u8]>, bencoded: &[u8]) {
        self.entry(key, |out| out.raw(bencoded));
    }

    fn entry(&mut self, key: impl AsRef<[u8]>, write: impl FnOnce(&mut Encoder)) {
        let mut value = Encoder::new();
        write(&mut value);
        self.entries.insert(key.as_ref().to_vec(), value.finish());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Limits, decode, decode_prefix, decode_with};
    use super::*;

    #[test]
    fn keys_come_out_sorted_by_byte_and_once() {
        let mut out = Encoder::new();
        out.dict(|d| {
            d.int("b", 1);
            d.int([0xff], 2);
            d.int("B", 3);
            d.int("b", 4);
            d.raw("a", b"le");
            d.dict("c", |_| ());
        });
        assert_eq!(out.finish(), b"d1:Bi3e1:ale1:bi4e1:cde1:\xffi2ee");
    }

    #[test]
    fn re_encoding_sorts_and_keeps_the_first_of_equal_keys() {
        let mut out = Encoder::new();
        out.value(&decode(b"d1:bi1e1:ai2e1:bi3ee").unwrap());
        assert_eq!(out.finish(), b"d1:ai2e1:bi1ee");
    }

    /// An owned tree, because a borrowed one cannot be made out of nothing.
    #[derive(Debug, Clone)]
    enum Tree {
        Int(i64),
        Bytes(Vec<u8>),
        List(Vec<Self>),
        Dict(BTreeMap<Vec<u8>, Self>),
    }

    impl Tree {
        fn write(&self, out: &mut Encoder) {
            match self {
                Self::Int(value) => out.int(*value),
                Self::Bytes(bytes) => out.bytes(bytes),
                Self::List(items) => out.list(|list| items.iter().for_each(|item| item.write(list))),
                Self::Dict(entries) => out.dict(|dict| {
                    entries.iter().rev().for_each(|(key, value)| dict.entry(key, |out| value.write(out)));
                }),
            }
        }

        fn is_same_as(&self, value: &Value<'_>) -> bool {
            match (self, value) {
                (Self::Int(a), Value::Int(b)) => a == b,
                (Self::Bytes(a), Value::Bytes(b)) => a == b,
                (Self::List(a), Value::List(b)) => {
                    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_same_as(b))
                }
                (Self::Dict(a), Value::Dict(b)) => {
                    a.len() == b.len()
                        && a.iter().zip(b.iter()).all(|((k, a), (l, b))| k == l && a.is_same_as(b))
                }
                _ => false,
            }
        }
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let leaf = prop_oneof![any::<i64>().prop_map(Tree::Int), any::<Vec<u8>>().prop_map(Tree::Bytes)];
        leaf.prop_recursive(5, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Tree::List),
                prop::collection::btree_map(prop::collection::vec(any::<u8>(), 0..6), inner, 0..8)
                    .prop_map(Tree::Dict),
            ]
        })
    }

    /// Bytes that get past the first character more often than random ones do.
    fn bencode_like() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(&b"ilde0123459:-ax\xff"[..]), 0..64)
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_and_writes_the_same(tree in tree()) {
            let mut out = Encoder::new();
            tree.write(&mut out);
            let bytes = out.finish();
            let value = decode(&bytes).unwrap();
            prop_assert!(tree.is_same_as(&value));
            let mut again = Encoder::new();
            again.value(&value);
            prop_assert_eq!(again.finish(), bytes);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_errors_point_inside(
            bytes in prop_oneof![any::<Vec<u8>>(), bencode_like()]
        ) {
            if let Err(error) = decode(&bytes) {
                prop_assert!(error.offset() <= bytes.len());
            }
            if let Ok((_, used)) = decode_prefix(&bytes) {
                prop_assert!(decode_with(&bytes[..used], Limits::METAINFO).is_ok());
            }
        }

        #[test]
        fn a_cut_value_is_never_a_value(tree in tree(), cut in any::<prop::sample::Index>()) {
            let mut out = Encoder::new();
            tree.write(&mut out);
            let bytes = out.finish();
            prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
        }
    }
}
