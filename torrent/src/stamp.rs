//! What tells that a file is as it was: which one it is, how long, and when it was last written.
//!
//! Not a proof: who writes into a file and sets its time back is not noticed. The device is left out, because its
//! number may be another one after the next boot.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

/// A file as it was when it was looked at; whatever differs later means that it changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Its inode number.
    pub inode: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was last written: seconds since 1970.
    pub modified_s: i64,
    /// And nanoseconds of that second.
    pub modified_ns: i64,
}

impl Stamp {
    /// Of what a path or an open file says of itself.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
        }
    }

    pub(crate) fn of_stat(stat: &Stat) -> Self {
        Self {
            inode: stat.st_ino,
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            modified_s: stat.st_mtime,
            modified_ns: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_path_and_an_open_file_give_the_same_stamp_until_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"abc").unwrap();
        let before = Stamp::of(&path.metadata().unwrap());
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(Stamp::of_stat(&rustix::fs::fstat(&file).unwrap()), before);
        file.write_all(b"d").unwrap();
        assert_ne!(Stamp::of_stat(&rustix::fs::fstat(&file).unwrap()), before);
    }
}
