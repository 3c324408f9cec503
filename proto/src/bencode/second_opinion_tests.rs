//! The writer and the reader against `serde_bencode`, which knows nothing of ours.
//!
//! It is not used beyond tests: its reader recurses without a limit, and about a kilobyte of nested lists overflows a
//! thread's stack.

use std::collections::HashMap;

use proptest::prelude::*;
use serde_bencode::value::Value as Theirs;

use super::{Value, decode};

fn theirs() -> impl Strategy<Value = Theirs> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..12);
    let leaf = prop_oneof![any::<i64>().prop_map(Theirs::Int), bytes().prop_map(Theirs::Bytes)];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Theirs::List),
            prop::collection::hash_map(bytes(), inner, 0..6).prop_map(Theirs::Dict),
        ]
    })
}

fn same(ours: &Value<'_>, theirs: &Theirs) -> bool {
    match (ours, theirs) {
        (Value::Int(ours), Theirs::Int(theirs)) => ours == theirs,
        (Value::Bytes(ours), Theirs::Bytes(theirs)) => ours == theirs,
        (Value::List(ours), Theirs::List(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same(ours, theirs))
        }
        (Value::Dict(ours), Theirs::Dict(theirs)) => {
            let theirs: &HashMap<Vec<u8>, Theirs> = theirs;
            ours.len() == theirs.len()
                && ours.iter().all(|(key, ours)| theirs.get(key).is_some_and(|theirs| same(ours, theirs)))
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn what_the_other_writes_is_read_here_and_written_back_the_same(value in theirs()) {
        let written = serde_bencode::to_bytes(&value).expect("it writes its own values");
        let read = decode(&written).expect("it is bencode");
        prop_assert!(same(&read, &value));
        let mut out = super::Encoder::new();
        out.value(&read);
        prop_assert_eq!(out.finish(), written);
    }
}
