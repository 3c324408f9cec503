//! A directory for one test, gone when the test ends.
//!
//! Mounts below it are detached before anything is removed: removing must never walk into a mounted file
//! system, and a mount that outlives its test would make the next `ls /tmp` hang.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A directory that is removed with all it holds when it is dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: Option<tempfile::TempDir>,
}

impl Scratch {
    /// Makes a directory whose name begins with `name`, under the system's temporary directory.
    ///
    /// # Panics
    /// When that is impossible.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix(&format!("wtfs-{name}-"))
            .tempdir()
            .expect("the temporary directory can be written");
        Self { dir: Some(dir) }
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.as_ref().expect("taken only in drop").path()
    }

    /// A path below it, which need not exist.
    #[must_use]
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path().join(path)
    }

    /// Makes a directory below it and gives its path.
    ///
    /// # Panics
    /// When that is impossible.
    #[must_use]
    pub fn subdir(&self, path: impl AsRef<Path>) -> PathBuf {
        let dir = self.join(path);
        fs::create_dir_all(&dir).expect("a directory in the scratch directory can be made");
        dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for mount in mounts_below(self.path()) {
            detach(&mount);
        }
        if std::env::var_os("WTFS_TEST_KEEP").is_some()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("kept {}", dir.keep().display());
        }
    }
}

/// Mount points at or below `dir`, the deepest first.
#[must_use]
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .filter(|point| point.starts_with(dir))
        .collect();
    found.reverse();
    found
}

/// True when something is mounted exactly at `dir`. Asks the kernel's table, never the mount itself, so it
/// cannot hang.
#[must_use]
pub fn is_mount_point(dir: &Path) -> bool {
    mounts_below(dir).iter().any(|point| point == dir)
}

/// Detaches a mount at once, even a busy or dead one. Failing is no error: it may be gone already.
pub fn detach(dir: &Path) {
    let tools: [(&str, &[&str]); 2] = [("umount", &["-l"]), ("fusermount3", &["-u", "-z"])];
    for (tool, args) in tools {
        let done = Command::new(tool).args(args).arg(dir).output();
        if done.is_ok_and(|out| out.status.success()) {
            return;
        }
    }
}

/// The kernel writes blanks and the like in mountinfo as three octal digits.
fn unescape(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if bytes[at] == b'\\' => {
                out.push(byte);
                at += 4;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_gone_with_all_it_held() {
        let scratch = Scratch::new("unit");
        let kept = scratch.subdir("a/b");
        fs::write(kept.join("f"), b"x").expect("can be written");
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn escapes_of_the_mount_table_are_undone() {
        assert_eq!(unescape("/a\\040b\\134c"), PathBuf::from("/a b\\c"));
        assert_eq!(unescape("/plain"), PathBuf::from("/plain"));
    }

    #[test]
    fn the_root_is_a_mount_point_and_a_fresh_directory_is_none() {
        let scratch = Scratch::new("unit");
        assert!(is_mount_point(Path::new("/proc")));
        assert!(!is_mount_point(scratch.path()));
    }
}
