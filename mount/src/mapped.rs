//! Reading a file as a memory-mapped loader does: by page faults, not by `read()`.
//!
//! For the demonstration and for tests, which must stay free of unsafe code. Bytes are copied out of the mapping before
//! they are handed over, so no reference into memory that the file system fills ever exists.
//!
//! A page that cannot be had is a SIGBUS to the process, as for any mapped file: only call this in a process that may
//! end, on a file that nobody truncates.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A whole file, mapped shared and read-only.
#[derive(Debug)]
pub struct MappedFile {
    start: *mut std::ffi::c_void,
    bytes: usize,
}

impl MappedFile {
    /// Maps `path`.
    ///
    /// # Errors
    /// The file cannot be opened or mapped; an empty file cannot be.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        // SAFETY: a null hint lets the kernel choose the place, so no existing mapping is replaced.
        let start =
            unsafe { mmap(std::ptr::null_mut(), bytes, ProtFlags::READ, MapFlags::SHARED, &file, 0)? };
        Ok(Self { start, bytes })
    }

    /// Length of the file when it was mapped.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Always false: an empty file cannot be mapped.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Fills `into` from `offset`; returns how many bytes there were, fewer only at the end of the file.
    pub fn copy_at(&self, offset: usize, into: &mut [u8]) -> usize {
        let count = self.bytes.saturating_sub(offset).min(into.len());
        if count > 0 {
            // SAFETY: `offset + count` is within the mapping, which lives as long as `self`; `into` is a distinct
            // allocation of at least `count` bytes.
            unsafe {
                std::ptr::copy_nonoverlapping(self.start.cast::<u8>().add(offset), into.as_mut_ptr(), count);
            }
        }
        count
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `open`, and no reference into it is ever given out.
        let unmapped = unsafe { munmap(self.start, self.bytes) };
        debug_assert!(unmapped.is_ok(), "the mapping was ours");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_reads_as_it_was_written() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let written: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(file.path(), &written).expect("written");
        let mapped = MappedFile::open(file.path()).expect("mapped");
        let mut buffer = [0; 300];
        assert_eq!(mapped.copy_at(4000, &mut buffer), 300);
        assert_eq!(buffer[..], written[4000..4300]);
        assert_eq!(mapped.copy_at(9_900, &mut buffer), 100);
        assert_eq!(buffer[..100], written[9_900..]);
        assert_eq!(mapped.copy_at(20_000, &mut buffer), 0);
        assert_eq!(mapped.len(), written.len());
    }

    #[test]
    fn an_empty_file_cannot_be_mapped() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(MappedFile::open(file.path()).is_err());
    }
}
