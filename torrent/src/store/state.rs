//! A torrent's state directory: its lock, the saved metainfo, and the names of the record and the journal.
//!
//! The directory is the process's own, apart from the data, so that the data directory holds nothing but the torrent's
//! files. Owns the rule that one store at a time works on a torrent.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;
use wtfs_proto::id::InfoHash;
use wtfs_proto::metainfo::Metainfo;

use super::StoreError;
use super::record::sync_parent;

/// Largest saved metainfo that is read back. 4 million pieces make 80 MB; file names and layers come on top.
const MAX_METAINFO_BYTES: u64 = 512 << 20;

/// Longest list of pinned files that is read back: 2 million files make 16 MB.
const MAX_PINS_BYTES: u64 = 32 << 20;

/// A lock that is held is tried again so often, so long apart: half a second in all.
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The state directory of one torrent. A path and nothing more: it may not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// A given directory.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The directory of a torrent in a cache: `<cache>/state/<info hash>`.
    pub fn in_cache(cache_dir: &Path, info_hash: InfoHash) -> Self {
        Self::new(cache_dir.join(STATES).join(info_hash.to_string()))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the metainfo as `metainfo.torrent`; it survives the death of the process now, and the loss of power after
    /// the first checkpoint of a store: at a start with many torrents each sync would count. What a loss of power leaves
    /// of it before that is found damaged. Makes the directory if need be; writes nothing when just that is saved.
    ///
    /// # Errors
    /// When it cannot be written; an older one is then still in place.
    pub fn save_metainfo(&self, metainfo: &Metainfo) -> Result<(), StoreError> {
        let (path, bytes) = (self.metainfo(), metainfo.to_bytes());
        let is_same_length = path.metadata().is_ok_and(|saved| saved.len() == bytes.len() as u64);
        if is_same_length && std::fs::read(&path).is_ok_and(|saved| saved == bytes) {
            return Ok(());
        }
        self.make()?;
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, &bytes).map_err(StoreError::at("write", &temporary))?;
        std::fs::rename(&temporary, &path).map_err(StoreError::at("replace", &path))
    }

    /// Makes a saved metainfo durable, up to its directory entry.
    pub(super) fn sync_metainfo(&self) -> Result<(), StoreError> {
        let path = self.metainfo();
        match File::open(&path).and_then(|file| file.sync_all()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(StoreError::from_io("sync", &path, error))
            }
            _ => Ok(()),
        }
    }

    /// The saved metainfo; `None` when there is none.
    ///
    /// # Errors
    /// [`StoreError::Metainfo`] when it is damaged.
    pub fn load_metainfo(&self) -> Result<Option<Metainfo>, StoreError> {
        let path = self.metainfo();
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_METAINFO_BYTES).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::from_io("read", &path, error)),
        }
        Metainfo::parse(&bytes).map(Some).map_err(|source| StoreError::Metainfo { path, source })
    }

    /// Removes the directory with all that is in it. No store may be open on it.
    ///
    /// # Errors
    /// When the system refuses; a missing directory is no error.
    pub fn remove(&self) -> Result<(), StoreError> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(StoreError::from_io("remove", &self.path, error))
            }
            _ => Ok(()),
        }
    }

    /// Keeps the numbers of the pinned files as `pins.json`; durable when this returns. Whoever calls it has the torrent
    /// open. Once there is a list, a shorter one takes no space of the disk: where everything is pinned and the disk is
    /// full, taking a pin back is the only way out.
    ///
    /// # Errors
    /// When it cannot be written; an older one is then still in place.
    pub(crate) fn save_pins(&self, files: &[u32]) -> Result<(), StoreError> {
        let text = serde_json::json!({ "files": files }).to_string();
        self.make()?;
        replace_file(&self.pins(), text.as_bytes(), b"{\"files\":[]}")
    }

    /// The numbers of the pinned files; none when none were saved.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn load_pins(&self) -> Result<Vec<u32>, StoreError> {
        #[derive(serde::Deserialize)]
        struct Saved {
            files: Vec<u32>,
        }
        let path = self.pins();
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_PINS_BYTES).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::from_io("read", &path, error)),
        }
        let saved: Saved = serde_json::from_slice(&bytes)
            .map_err(|error| StoreError::from_io("read", &path, error.into()))?;
        Ok(saved.files)
    }

    /// Keeps when the pieces were used last. Survives the death of the process, not surely the loss of power.
    ///
    /// # Errors
    /// When it cannot be written; an older one is then still in place.
    pub(crate) fn save_recency(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path.join("recency");
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, bytes).map_err(StoreError::at("write", &temporary))?;
        std::fs::rename(&temporary, &path).map_err(StoreError::at("replace", &path))
    }

    /// What [`StateDir::save_recency`] kept, if it can be read.
    pub(crate) fn load_recency(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(self.path.join("recency")).ok()?;
        file.take(MAX_PINS_BYTES).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn pins(&self) -> PathBuf {
        self.path.join("pins.json")
    }

    pub(super) fn make(&self) -> Result<(), StoreError> {
        std::fs::create_dir_all(&self.path).map_err(StoreError::at("create", &self.path))
    }

    pub(super) fn record(&self) -> PathBuf {
        self.path.join("record")
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    fn metainfo(&self) -> PathBuf {
        self.path.join("metainfo.torrent")
    }

    /// Takes the lock; held until the value is dropped, and freed by the system when the process dies. Waits a moment
    /// for it: another process may just look whether it is held, or be taking away what was there.
    pub(super) fn lock(&self) -> Result<Lock, StoreError> {
        for _ in 0..LOCK_ATTEMPTS {
            match self.try_lock() {
                Err(StoreError::Locked { .. }) => std::thread::sleep(LOCK_PAUSE),
                outcome => return outcome,
            }
        }
        self.try_lock()
    }

    /// Takes the lock of a torrent that nobody has open, to give up what it has.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when somebody has it open.
    pub(crate) fn lock_to_evict(&self) -> Result<Lock, StoreError> {
        let used_at = self.used_at();
        self.make()?;
        let lock = self.try_lock()?;
        // Looking is not using.
        let _older = lock.file.set_modified(used_at);
        Ok(lock)
    }

    /// Whether another process has the torrent open.
    pub(crate) fn is_open_elsewhere(&self) -> bool {
        let Ok(file) = File::open(self.path.join("lock")) else { return false };
        let is_free =
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) != Err(Errno::WOULDBLOCK);
        !is_free && holder(file) != Some(std::process::id())
    }

    /// When the torrent was opened or written last; the epoch if it never was.
    pub(crate) fn used_at(&self) -> SystemTime {
        let files = [self.path.join("lock"), self.record(), self.journal(), self.metainfo()];
        let times = files.iter().filter_map(|file| file.metadata().ok()?.modified().ok());
        times.max().unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Removes what says which pieces are there; durable when this returns. Whoever calls it has the lock.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn remove_record(&self) -> Result<(), StoreError> {
        for path in [self.record(), self.journal()] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(StoreError::from_io("remove", &path, error));
                }
                _ => {}
            }
        }
        sync_parent(&self.record())
    }

    fn try_lock(&self) -> Result<Lock, StoreError> {
        let path = self.path.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StoreError::at("open", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(StoreError::Locked { path, pid: holder(file) });
            }
            Err(errno) => return Err(StoreError::errno("lock", &path)(errno)),
        }
        // Only for the message that another process shows: a full disk must not keep the torrent from opening.
        let pid = std::process::id();
        if let Err(error) = file.set_len(0).and_then(|()| writeln!(file, "{pid}")) {
            tracing::debug!(path = %path.display(), %error, "the lock does not name its holder");
        }
        Ok(Lock { file })
    }
}

/// Replaces a file as a whole so that a crash leaves the old or the new one; durable when this returns. The writer must
/// be the only one. The old file stays as the next temporary one, whose blocks are written over; `blank` is what may
/// stand in the place of an old file when there is none.
pub(crate) fn replace_file(path: &Path, contents: &[u8], blank: &[u8]) -> Result<(), StoreError> {
    let temporary = path.with_extension("tmp");
    if !path.exists() {
        let mut old = blank.to_vec();
        old.resize(contents.len().max(blank.len()), b' ');
        std::fs::write(path, old).map_err(StoreError::at("create", path))?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&temporary)
        .map_err(StoreError::at("create", &temporary))?;
    file.write_all(contents).map_err(StoreError::at("write", &temporary))?;
    file.set_len(contents.len() as u64).map_err(StoreError::at("cut", &temporary))?;
    file.sync_all().map_err(StoreError::at("sync", &temporary))?;
    // Not every file system can exchange names.
    if rustix::fs::renameat_with(CWD, &temporary, CWD, path, RenameFlags::EXCHANGE).is_err() {
        std::fs::rename(&temporary, path).map_err(StoreError::at("replace", path))?;
    }
    sync_parent(path)
}

/// Who holds a lock, as its file says.
fn holder(lock: File) -> Option<u32> {
    let mut text = String::new();
    lock.take(16).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok())
}

/// A held lock.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A process that is being started by another thread has the lock too until it becomes another program.
        let _unlocked = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

const STATES: &str = "state";

/// The state directories in a cache that hold a saved metainfo, in the order of their names.
///
/// # Errors
/// When the cache cannot be listed; a cache that does not exist has none.
pub fn list_states(cache_dir: &Path) -> Result<Vec<StateDir>, StoreError> {
    let states = cache_dir.join(STATES);
    let entries = match std::fs::read_dir(&states) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::from_io("list", &states, error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StoreError::at("list", &states))?;
        let is_hash = entry.file_name().to_str().is_some_and(|name| name.parse::<InfoHash>().is_ok());
        let state = StateDir::new(entry.path());
        if is_hash && state.metainfo().is_file() {
            found.push(state);
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::fixture::{Sample, entry};

    #[test]
    fn saved_torrents_are_listed_and_read_back() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(list_states(cache.path()).unwrap(), []);
        let mut saved = Vec::new();
        for bytes in [1, 2] {
            let metainfo = Sample::new(10, vec![entry("f", bytes)]).metainfo;
            let state = StateDir::in_cache(cache.path(), metainfo.hashes.primary());
            assert_eq!(state.load_metainfo().unwrap(), None);
            state.save_metainfo(&metainfo).unwrap();
            let inode = || std::os::unix::fs::MetadataExt::ino(&state.metainfo().metadata().unwrap());
            let written = inode();
            state.save_metainfo(&metainfo).unwrap();
            assert_eq!(inode(), written, "written again");
            std::fs::write(state.metainfo(), b"damaged").unwrap();
            state.save_metainfo(&metainfo).unwrap();
            assert_eq!(state.load_metainfo().unwrap().as_ref(), Some(&*metainfo));
            saved.push(state);
        }
        // A state without metainfo (a magnet that never got it) and a stranger are no torrents.
        StateDir::in_cache(cache.path(), InfoHash::new([1; 20])).make().unwrap();
        std::fs::create_dir(cache.path().join(STATES).join("stranger")).unwrap();
        saved.sort_by(|a, b| a.path.cmp(&b.path));
        assert_eq!(list_states(cache.path()).unwrap(), saved);
        saved[0].remove().unwrap();
        saved[0].remove().unwrap();
        assert_eq!(list_states(cache.path()).unwrap(), saved[1..]);
    }

    #[test]
    fn a_damaged_metainfo_is_an_error_that_names_the_file() {
        let cache = tempfile::tempdir().unwrap();
        let state = StateDir::new(cache.path().join("s"));
        state.make().unwrap();
        std::fs::write(state.metainfo(), b"d4:infod").unwrap();
        let error = state.load_metainfo().unwrap_err();
        assert!(matches!(&error, StoreError::Metainfo { path, .. } if *path == state.metainfo()), "{error}");
    }
}
