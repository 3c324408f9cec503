//! Where the tensors lie in a file of model weights, read from its header: safetensors and GGUF.
//!
//! A hint for read-ahead and nothing else: whoever touches the beginning of a tensor will most likely want the rest
//! of it, even if the tensors are loaded in an order of their own. A header that lies costs some bytes fetched in vain,
//! never a wrong one. Sources: the format section of the safetensors repository; `docs/gguf.md` of ggml.
//!
//! Invariant: tensors are sorted, lie within the file, and do not overlap.

use std::ops::Range;

mod gguf;
mod safetensors;

/// The longest header looked at. A safetensors header may be 100 MB, but those of real models stay below 1 MB;
/// GGUF headers hold the tokenizer and reach some 20 MB.
pub const MAX_HEADER_BYTES: u64 = 32 << 20;

/// Tensors kept of one file. The largest models have some hundred thousand over all their shards.
const MAX_TENSORS: usize = 200_000;

/// A format of model weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.safetensors`
    Safetensors,
    /// `.gguf`
    Gguf,
}

impl Format {
    /// The format that a file's name promises.
    pub fn of_name(name: &str) -> Option<Self> {
        let (_, extension) = name.rsplit_once('.')?;
        match extension.to_ascii_lowercase().as_str() {
            "safetensors" => Some(Self::Safetensors),
            "gguf" => Some(Self::Gguf),
            _ => None,
        }
    }
}

/// What came of the beginning of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// The header is whole.
    Tensors(Tensors),
    /// The header is longer: look again with at least this many bytes of the file, or with all of it.
    Need(u64),
    /// It is not a header of this format, or one that makes no sense.
    Unusable,
}

/// The tensors of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tensors {
    ranges: Vec<Range<u64>>,
}

impl Tensors {
    /// Sorts, clips to the file and drops what is empty or overlaps what comes before.
    fn new(mut ranges: Vec<Range<u64>>, file_bytes: u64) -> Self {
        ranges.truncate(MAX_TENSORS);
        ranges.sort_unstable_by_key(|range| (range.start, range.end));
        let mut end = 0;
        ranges.retain_mut(|range| {
            range.start = range.start.max(end);
            range.end = range.end.min(file_bytes);
            if range.start < range.end {
                end = range.end;
            }
            range.start < range.end
        });
        Self { ranges }
    }

    /// The tensor that holds a byte of the file.
    pub fn at(&self, offset: u64) -> Option<Range<u64>> {
        let after = self.ranges.partition_point(|range| range.start <= offset);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        range.contains(&offset).then(|| range.clone())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

/// Reads the header of a file of `file_bytes` from its first bytes.
pub fn read_header(format: Format, beginning: &[u8], file_bytes: u64) -> Header {
    let header = match format {
        Format::Safetensors => safetensors::read(beginning, file_bytes),
        Format::Gguf => gguf::read(beginning, file_bytes),
    };
    match header {
        Header::Need(bytes) if bytes > MAX_HEADER_BYTES || bytes > file_bytes => Header::Unusable,
        other => other,
    }
}

#[cfg(test)]
mod tests;
