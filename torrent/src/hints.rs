//! Read-ahead by what a file of model weights says of itself.
//!
//! Loaders take tensors whole, but often in an order of their own: the second read of a tensor would tell that it is
//! being read through, the header tells at the first. Owns the parsed header of one open file; a file without one has
//! no hints. Wrong hints cost bytes, never truth: see [`wtfs_proto::weights`].

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use wtfs_proto::weights::{Format, Tensors};

/// A read this near to the beginning of a tensor is taken for its first. Loaders that map files fault in up to this
/// much around the first byte.
const BEGINNING_BYTES: u64 = 256 * 1024;

/// How much of a tensor is wanted at its first read; what comes after is sequential, and seen to be.
const WINDOW_BYTES: u64 = 8 << 20;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Hints {
    format: Option<Format>,
    is_asked_for: AtomicBool,
    tensors: OnceLock<Tensors>,
}

impl Hints {
    pub(crate) fn of_file(name: &str) -> Self {
        let is_asked_for = AtomicBool::new(false);
        Self { format: Format::of_name(name), is_asked_for, tensors: OnceLock::new() }
    }

    /// The format to read the header in; the first caller only, who is to do it.
    pub(crate) fn take_format(&self) -> Option<Format> {
        let format = self.format?;
        (!self.is_asked_for.swap(true, Ordering::Relaxed)).then_some(format)
    }

    pub(crate) fn set(&self, tensors: Tensors) {
        tracing::debug!(tensors = tensors.len(), "read-ahead knows the tensors");
        // Only who took the format sets it.
        let _again = self.tensors.set(tensors);
    }

    /// What a read at `offset` will most likely go on to: the rest of the tensor it begins, as far as a window goes.
    pub(crate) fn after(&self, offset: u64) -> Option<Range<u64>> {
        let tensor = self.tensors.get()?.at(offset)?;
        let is_beginning = offset - tensor.start < BEGINNING_BYTES;
        is_beginning.then(|| offset..tensor.end.min(offset + WINDOW_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use wtfs_proto::weights::{Header, read_header};

    use super::*;

    #[test]
    fn the_first_read_of_a_tensor_wants_the_rest_of_it_and_a_later_one_nothing() {
        let json = br#"{"a":{"data_offsets":[0,1000000]},"b":{"data_offsets":[1000000,90000000]}}"#;
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(json);
        let data = file.len() as u64;
        let hints = Hints::of_file("x.safetensors");
        assert_eq!(hints.after(data), None);
        assert_eq!((hints.take_format(), hints.take_format()), (Some(Format::Safetensors), None));
        let Header::Tensors(tensors) = read_header(Format::Safetensors, &file, data + 90_000_000) else {
            panic!("a valid header")
        };
        hints.set(tensors);
        assert_eq!(hints.after(data + 10), Some(data + 10..data + 1_000_000));
        assert_eq!(hints.after(data + 1_000_000), Some(data + 1_000_000..data + 1_000_000 + WINDOW_BYTES));
        assert_eq!(hints.after(data + 50_000_000), None);
        assert_eq!(Hints::of_file("x.bin").take_format(), None);
    }
}
