//! safetensors: eight bytes of header length (little endian), a JSON object, then the data.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Header, Tensors};

const LENGTH_BYTES: u64 = 8;

#[derive(Deserialize)]
struct Entry {
    data_offsets: [u64; 2],
}

pub(super) fn read(beginning: &[u8], file_bytes: u64) -> Header {
    let Some((length, rest)) = beginning.split_first_chunk::<8>() else {
        return Header::Need(LENGTH_BYTES);
    };
    let length = u64::from_le_bytes(*length);
    let Some(data) = length.checked_add(LENGTH_BYTES).filter(|data| *data <= file_bytes) else {
        return Header::Unusable;
    };
    let Some(json) = usize::try_from(length).ok().and_then(|length| rest.get(..length)) else {
        return Header::Need(data);
    };
    let Ok(entries) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(json) else {
        return Header::Unusable;
    };
    // `__metadata__` is no tensor and has no offsets.
    let offsets = entries.values().filter_map(|entry| serde_json::from_str::<Entry>(entry.get()).ok());
    let ranges: Vec<Range<u64>> = offsets
        .map(|Entry { data_offsets: [from, to] }| data.saturating_add(from)..data.saturating_add(to))
        .collect();
    Header::Tensors(Tensors::new(ranges, file_bytes))
}
