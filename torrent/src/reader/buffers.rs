//! The buffers that reads are answered in, used again and again.
//!
//! A fresh buffer of a mebibyte costs more than its allocation: the kernel finds and clears a page for each 4 KiB of
//! it, or it is cleared here. Those kept stay as they were written last. Invariant: of a buffer no more is seen than was
//! asked for, and whoever takes it fills all of that or drops it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Kept at most: as many as are being filled or handed to the kernel at once, which a few threads do.
const MAX_KEPT: usize = 8;

/// Larger ones are not kept. Nothing larger is read by the kernel in one request.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// Smaller ones are not kept: the allocator has those at hand, and clearing them is nothing.
const MIN_KEPT_BYTES: usize = 32 * 1024;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// Each initialised over its whole length.
    kept: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// A buffer of `len` bytes. What is in it is of no meaning.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let is_kept = (MIN_KEPT_BYTES..=MAX_KEPT_BYTES).contains(&len);
        let kept = if is_kept { self.kept().pop() } else { None };
        let bytes = match kept {
            Some(mut bytes) => {
                if bytes.len() < len {
                    // What it holds need not be copied into a larger one.
                    bytes = vec![0; len];
                }
                bytes
            }
            None => vec![0; len],
        };
        Buffer { bytes, len, home: is_kept.then(|| self.clone()) }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer that goes back to where it came from when dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// At least `len` bytes.
    bytes: Vec<u8>,
    len: usize,
    home: Option<Arc<Buffers>>,
}

impl Buffer {
    /// What was filled in, shared from now on; the buffer goes back once the last share is dropped.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(home) = &self.home else { return };
        let mut kept = home.kept();
        if kept.len() < MAX_KEPT {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 256 * 1024;

    fn filled(buffers: &Arc<Buffers>, len: usize, with: u8) -> Bytes {
        let mut buffer = buffers.take(len);
        buffer.as_mut().fill(with);
        buffer.freeze()
    }

    #[test]
    fn a_buffer_is_used_again_only_once_nobody_holds_its_bytes() {
        let buffers = Arc::new(Buffers::default());
        let first = filled(&buffers, LARGE, 1);
        let part = first.slice(10..20);
        let at = first.as_ptr();
        drop(first);
        let second = filled(&buffers, LARGE, 2);
        assert_ne!(second.as_ptr(), at);
        assert_eq!(part.as_ref(), [1; 10]);
        drop(part);
        let third = filled(&buffers, LARGE, 3);
        assert_eq!(third.as_ptr(), at);
        assert!(second.iter().all(|byte| *byte == 2));
    }

    #[test]
    fn every_buffer_is_as_long_as_asked_for_whatever_it_was_before() {
        let buffers = Arc::new(Buffers::default());
        for len in [LARGE, MIN_KEPT_BYTES, LARGE + 1, 0, 5, MAX_KEPT_BYTES, LARGE, MAX_KEPT_BYTES + 1, 1] {
            assert_eq!(buffers.take(len).as_ref().len(), len);
            assert_eq!(filled(&buffers, len, 7).len(), len);
        }
    }

    #[test]
    fn no_more_are_kept_than_the_bound_and_none_that_are_too_large_or_small() {
        let buffers = Arc::new(Buffers::default());
        let many: Vec<Bytes> = (0..3 * MAX_KEPT).map(|_| filled(&buffers, LARGE, 0)).collect();
        drop(many);
        assert_eq!(buffers.kept().len(), MAX_KEPT);
        let buffers = Arc::new(Buffers::default());
        drop(filled(&buffers, MAX_KEPT_BYTES + 1, 0));
        drop(filled(&buffers, MIN_KEPT_BYTES - 1, 0));
        assert!(buffers.kept().is_empty());
    }
}
