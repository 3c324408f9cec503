//! The port for bytes: what a mount needs from whoever owns a file's content.
//!
//! One [`Content`] belongs to one open handle, so an implementation may keep read-ahead state in it. Reads of one handle
//! come in parallel and in any order; no method may block a thread.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::errno::FsError;

/// A boxed future, sendable between the runtime's threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A complete file on disk with a content's bytes, for the kernel to read from.
#[derive(Debug)]
pub struct BackingFile {
    /// Opened read-only; its bytes and its length are exactly the content's.
    pub file: File,
    /// Dropped when nobody reads from the file any more; until then its owner keeps the file as it is.
    pub guard: Box<dyn fmt::Debug + Send + Sync>,
}

/// The bytes behind one open file.
pub trait Content: fmt::Debug + Send + Sync + 'static {
    /// Size in bytes. Fixed for as long as the handle is open.
    fn len(&self) -> u64;

    /// True when there is nothing to read at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes if they can be had without any waiting, not even for a disk; called on a kernel-facing thread.
    ///
    /// `Some` must hold exactly `len` bytes, or those up to the end of the file.
    fn try_read_at(&self, offset: u64, len: u32) -> Option<Bytes>;

    /// The bytes, however long it takes: `len` of them, or those up to the end of the file, never fewer.
    ///
    /// # Errors
    /// When the bytes cannot be had. An implementation ends by itself at its own deadline.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the demand for the bytes.
    fn read_at(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, FsError>>;

    /// Whether what the kernel has kept of the file since it was last open are still its bytes. False once after they
    /// turned out not to be: the kernel is then told to forget them.
    fn is_as_before(&self) -> bool {
        true
    }

    /// Whether [`Content::backing_file`] is worth asking now: all bytes are in one file on disk. Never waits.
    fn is_backed(&self) -> bool {
        false
    }

    /// The file that holds all of the bytes, if there is one. May block on the disk; called from the pool for
    /// blocking work.
    fn backing_file(&self) -> Option<BackingFile> {
        None
    }
}

/// Bytes already in memory: control files, and stand-ins for what is not there yet.
#[derive(Debug, Clone)]
pub struct MemoryContent(Bytes);

impl MemoryContent {
    /// Content with exactly these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    fn range(&self, offset: u64, len: u32) -> Bytes {
        let size = self.0.len();
        let start = usize::try_from(offset).map_or(size, |offset| offset.min(size));
        let end = start.saturating_add(len as usize).min(size);
        self.0.slice(start..end)
    }
}

impl Content for MemoryContent {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn try_read_at(&self, offset: u64, len: u32) -> Option<Bytes> {
        Some(self.range(offset, len))
    }

    fn read_at(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, FsError>> {
        let bytes = self.range(offset, len);
        Box::pin(async move { Ok(bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_content_ends_at_its_end_for_any_offset() {
        let content = MemoryContent::new(&b"hello"[..]);
        assert_eq!(content.try_read_at(1, 3).as_deref(), Some(&b"ell"[..]));
        assert_eq!(content.try_read_at(4, u32::MAX).as_deref(), Some(&b"o"[..]));
        assert_eq!(content.try_read_at(5, 1).as_deref(), Some(&b""[..]));
        assert_eq!(content.try_read_at(u64::MAX, u32::MAX).as_deref(), Some(&b""[..]));
    }
}
