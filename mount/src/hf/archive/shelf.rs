//! Small files that may be lost and must not lie: each is whole and as it was written, or is not there at all.
//!
//! One is replaced by rename after it is durable, and begins with the hash of the rest: a torn, damaged or foreign one is
//! told in the log and taken away. Bounded in number and in bytes: those that were used longest ago go. Whatever is
//! lost costs a question. Others of this machine's users cannot read them. All of it blocks on the disk.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use wtfs_proto::hf::ContentId;

/// What each begins with, and the number of the format; the hash and a line's end follow.
const MARK: &[u8] = b"wtfs names 2 ";

/// How the files are called; what others leave here is not read.
const ENDING: &str = "kept";

/// Larger ones are neither written nor read: a million entries of a tree are some 250 MB.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// How much stands on a shelf.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// See the module's documentation. Its files are in folders, one deep.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
    limits: Limits,
    /// What stands there, once it was counted. One that is replaced counts twice until it is counted again.
    held: Mutex<Option<Limits>>,
}

/// Why a file counts for nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is too large")]
    TooLarge,
    #[error("it is torn or damaged")]
    Damaged,
}

impl Shelf {
    pub(super) fn new(dir: PathBuf, limits: Limits) -> Self {
        Self { dir, limits, held: Mutex::default() }
    }

    /// Where the file `name` of a folder is.
    pub(super) fn place(&self, folder: &str, name: &str) -> PathBuf {
        self.dir.join(folder).join(format!("{name}.{ENDING}"))
    }

    /// What a file holds; `None` when there is none, or none that can be used, which is told and taken away.
    pub(super) fn read(&self, path: &Path) -> Option<Vec<u8>> {
        read(path).unwrap_or_else(|error| {
            self.discard(path, &error);
            None
        })
    }

    /// Says that a file is of no use, and takes it away.
    pub(super) fn discard(&self, path: &Path, why: &dyn std::fmt::Display) {
        tracing::warn!("{}, which keeps what a hub said, cannot be used: {why}", path.display());
        let _asked_anew_either_way = fs::remove_file(path);
    }

    /// Notes that a file was of use.
    pub(super) fn touch(&self, path: &Path) {
        // One whose time stays goes sooner.
        let _older_than_it_is = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Puts a file there, in place of what it was, and makes room where there is too much.
    pub(super) fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let bytes = content.len() as u64;
        if bytes > FILE_BYTES_MAX.min(self.limits.bytes) {
            return Err(io::Error::other("it is too large to be kept"));
        }
        self.replace(path, content)?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = match *held {
            Some(Limits { files, bytes: before }) => {
                Limits { files: files + 1, bytes: before.saturating_add(bytes) }
            }
            None => sum(&self.files()),
        };
        *held = Some(if self.is_too_much(now) { self.make_room(path) } else { now });
        Ok(())
    }

    /// Whole or not at all, also over a power cut.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        if !folder.is_dir() {
            fs::create_dir_all(folder)?;
            sync(&self.dir)?;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let draft = folder.join(format!(".{}-{number}.new", std::process::id()));
        let written = (|| {
            let mut options = File::options();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(MARK)?;
            writeln!(file, "{}", hash(content))?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&draft, path)?;
            sync(folder)
        })();
        if written.is_err() {
            let _nothing_to_lose = fs::remove_file(&draft);
        }
        written
    }

    fn is_too_much(&self, held: Limits) -> bool {
        held.files > self.limits.files || held.bytes > self.limits.bytes
    }

    /// Takes away what was used longest ago, but not `newest`; somewhat more than has to be, since all is gone through.
    fn make_room(&self, newest: &Path) -> Limits {
        let mut files = self.files();
        let mut left = sum(&files);
        let wanted = Limits {
            files: self.limits.files - self.limits.files / 8,
            bytes: self.limits.bytes - self.limits.bytes / 8,
        };
        if !self.is_too_much(left) {
            return left;
        }
        files.sort_by_key(|(used, ..)| *used);
        for (_, bytes, path) in files {
            if left.files <= wanted.files && left.bytes <= wanted.bytes {
                break;
            }
            if path != newest && fs::remove_file(&path).is_ok() {
                left = Limits { files: left.files - 1, bytes: left.bytes.saturating_sub(bytes) };
                // Only one that is empty goes.
                let _more_in_it = path.parent().map(fs::remove_dir);
            }
        }
        left
    }

    /// All there is, drafts that a crash left too: when each was used, how long it is and where.
    fn files(&self) -> Vec<(SystemTime, u64, PathBuf)> {
        let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
        let files = entries(&self.dir).flat_map(|folder| entries(&folder.path()).collect::<Vec<_>>());
        let describe = |file: fs::DirEntry| {
            let about = file.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((about.modified().ok()?, about.len(), file.path()))
        };
        files.filter_map(describe).collect()
    }

    /// The files that can be read, one after the other.
    pub(super) fn places(&self) -> impl Iterator<Item = PathBuf> {
        let entries =
            |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let files = entries(self.dir.clone()).flat_map(entries);
        files.filter(|path| path.extension().is_some_and(|ending| ending == ENDING))
    }

    /// Takes a folder away, if it is there.
    pub(super) fn forget(&self, folder: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.dir.join(folder)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn sum(files: &[(SystemTime, u64, PathBuf)]) -> Limits {
    let bytes = files.iter().fold(0_u64, |sum, (_, bytes, _)| sum.saturating_add(*bytes));
    Limits { files: files.len() as u64, bytes }
}

fn hash(content: &[u8]) -> ContentId {
    ContentId::Sha256(Sha256::digest(content).into())
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// What a file holds, if there is one.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, Unreadable> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let limit = FILE_BYTES_MAX + 1024;
    if file.metadata()?.len() > limit {
        return Err(Unreadable::TooLarge);
    }
    let mut text = Vec::new();
    // It may grow meanwhile.
    file.take(limit).read_to_end(&mut text)?;
    let line = text.iter().position(|byte| *byte == b'\n').ok_or(Unreadable::Damaged)?;
    let content = text.split_off(line + 1);
    let named = text[..line].strip_prefix(MARK);
    let is_it = named == Some(hash(&content).to_string().as_bytes());
    if is_it { Ok(Some(content)) } else { Err(Unreadable::Damaged) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const WIDE: Limits = Limits { files: 100, bytes: 1 << 20 };

    #[test]
    fn a_file_that_is_torn_or_changed_in_any_byte_counts_for_nothing_and_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let shelf = Shelf::new(dir.path().join("x"), WIDE);
        let path = shelf.place("folder", "name");
        assert_eq!(shelf.read(&path), None);
        shelf.write(&path, b"what a hub said").expect("written");
        assert_eq!(shelf.read(&path).expect("kept"), b"what a hub said");
        let whole = fs::read(&path).expect("there");
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            for damaged in [&whole[..at], &changed] {
                fs::write(&path, damaged).expect("damaged");
                assert_eq!(shelf.read(&path), None, "at {at}");
                assert!(!path.exists());
            }
        }
        shelf.write(&path, b"again").expect("written");
        assert_eq!(shelf.read(&path).expect("kept"), b"again");
    }

    #[test]
    fn what_was_used_longest_ago_goes_where_there_is_too_much() {
        let dir = tempfile::tempdir().expect("a directory");
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (limits, content) in [
            (Limits { files: 8, bytes: 1 << 20 }, &b"short"[..]),
            (Limits { files: 1000, bytes: 8 * 1080 + 100 }, &[7; 1000][..]),
        ] {
            let shelf = Shelf::new(dir.path().join(limits.files.to_string()), limits);
            let place = |number: u64| shelf.place(&format!("folder-{number}"), "name");
            for number in 0..8 {
                shelf.write(&place(number), content).expect("written");
                let used = start + Duration::from_secs(number);
                File::open(place(number)).and_then(|file| file.set_modified(used)).expect("aged");
            }
            // The oldest was of use a moment ago.
            shelf.touch(&place(0));
            shelf.write(&place(8), content).expect("written");
            let held: Vec<u64> = (0..9).filter(|number| place(*number).exists()).collect();
            assert_eq!(held, [0, 3, 4, 5, 6, 7, 8], "{limits:?}");
            assert!(!dir.path().join(limits.files.to_string()).join("folder-1").exists());
            assert!(shelf.write(&place(9), &vec![0; 2 << 20]).is_err() && !place(9).exists());
        }
    }
}
