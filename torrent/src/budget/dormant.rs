//! Data in the cache of torrents that this session does not have: it counts, and goes first.
//!
//! Left behind by torrents that were removed with their data kept, or that an earlier run had. It goes torrent by
//! torrent, the one that was used longest ago first; a torrent with a pinned file stays. Data that another process has
//! open is that process's to count and to give up.
//!
//! Nothing is taken from under anybody: a torrent's lock is held while its record is removed and its data moved out of
//! the way, and a torrent that this session adds waits in [`Dormant::wake`] for that to end. The record goes before
//! the data, so that a crash in between leaves data without a record and never the other way round.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use wtfs_proto::id::InfoHash;

use crate::session::data_dir;
use crate::store::{StateDir, StoreError};

/// Data that was moved out of the way and is being deleted is called so, with the torrent's hash behind it.
const GOING: &str = ".going-";

/// See the module's documentation. All methods block on the disk.
#[derive(Debug)]
pub(crate) struct Dormant {
    cache_dir: PathBuf,
    found: Mutex<Found>,
    /// Sum over `found`.
    bytes: AtomicU64,
    /// Held while one torrent's data is taken away. Taken before `found`.
    taking: Mutex<()>,
}

#[derive(Debug, Default)]
struct Found {
    /// Torrents of this session.
    awake: HashSet<InfoHash>,
    dormant: HashMap<InfoHash, Kept>,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    bytes: u64,
    used_at: SystemTime,
}

impl Dormant {
    pub(crate) fn new(cache_dir: PathBuf) -> Self {
        Self { cache_dir, found: Mutex::default(), bytes: AtomicU64::new(0), taking: Mutex::new(()) }
    }

    /// What it takes up on the disk, as of the last look. Never blocks.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The session has this torrent from now on: its data is no longer counted here, nor taken.
    pub(crate) fn wake(&self, torrent: InfoHash) {
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = self.found();
        found.awake.insert(torrent);
        found.dormant.remove(&torrent);
        self.sum_up(&found);
    }

    /// The session no longer has this torrent.
    pub(crate) fn sleep(&self, torrent: InfoHash) {
        self.found().awake.remove(&torrent);
        self.look_at(torrent);
    }

    /// Looks at all that is there.
    pub(crate) fn scan(&self) {
        let dir = self.cache_dir.join("data");
        let names = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let mut seen = HashSet::new();
        for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
            if name.starts_with(GOING) {
                delete(&dir.join(name));
            } else if let Ok(torrent) = name.parse() {
                seen.insert(torrent);
                self.look_at(torrent);
            }
        }
        let mut found = self.found();
        found.dormant.retain(|torrent, _| seen.contains(torrent));
        self.sum_up(&found);
    }

    fn look_at(&self, torrent: InfoHash) {
        if self.found().awake.contains(&torrent) {
            return;
        }
        let state = StateDir::in_cache(&self.cache_dir, torrent);
        let kept = (!state.is_open_elsewhere()).then(|| Kept {
            bytes: disk_bytes(&data_dir(&self.cache_dir, torrent)),
            used_at: state.used_at(),
        });
        let mut found = self.found();
        match kept {
            Some(kept) if kept.bytes > 0 && !found.awake.contains(&torrent) => {
                found.dormant.insert(torrent, kept);
            }
            _ => {
                found.dormant.remove(&torrent);
            }
        }
        self.sum_up(&found);
    }

    /// Frees at least so much, if there is as much; returns how many bytes it were.
    pub(super) fn evict(&self, need: u64) -> u64 {
        let mut all: Vec<(InfoHash, Kept)> =
            self.found().dormant.iter().map(|(torrent, kept)| (*torrent, *kept)).collect();
        all.sort_unstable_by_key(|(torrent, kept)| (kept.used_at, *torrent));
        let mut freed = 0;
        for (torrent, kept) in all {
            if freed >= need {
                break;
            }
            match self.take(torrent) {
                Ok(Taken::Yes) => {
                    tracing::info!(%torrent, bytes = kept.bytes, "gave up the data of a torrent that is not in use");
                    freed += kept.bytes;
                }
                Ok(Taken::No) => {}
                Err(error) => tracing::warn!(%torrent, %error, "data in the cache cannot be given up"),
            }
        }
        freed
    }

    fn take(&self, torrent: InfoHash) -> Result<Taken, StoreError> {
        let taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        if self.found().awake.contains(&torrent) {
            return Ok(Taken::No);
        }
        let state = StateDir::in_cache(&self.cache_dir, torrent);
        let data = data_dir(&self.cache_dir, torrent);
        let going = data.with_file_name(format!("{GOING}{torrent}"));
        let lock = match state.lock_to_evict() {
            Ok(lock) => lock,
            Err(StoreError::Locked { .. }) => {
                let mut found = self.found();
                found.dormant.remove(&torrent);
                self.sum_up(&found);
                return Ok(Taken::No);
            }
            Err(error) => return Err(error),
        };
        // A list that cannot be read may be of files that are precious.
        if !state.load_pins()?.is_empty() {
            return Ok(Taken::No);
        }
        state.remove_record()?;
        // What a crash left there.
        delete(&going);
        std::fs::rename(&data, &going).map_err(StoreError::at("move", &data))?;
        drop(lock);
        {
            let mut found = self.found();
            found.dormant.remove(&torrent);
            self.sum_up(&found);
        }
        drop(taking);
        delete(&going);
        Ok(Taken::Yes)
    }

    fn sum_up(&self, found: &Found) {
        self.bytes.store(found.dormant.values().map(|kept| kept.bytes).sum(), Ordering::Relaxed);
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        // Whole between any two statements.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a torrent's data is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    No,
}

fn delete(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %dir.display(), %error, "data that was given up cannot be deleted");
    }
}

/// The blocks of all files below a directory, in bytes. What cannot be looked at counts nothing.
fn disk_bytes(dir: &Path) -> u64 {
    let mut bytes = 0;
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => dirs.push(entry.path()),
                Ok(found) => bytes += found.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    struct Cache {
        dir: tempfile::TempDir,
    }

    impl Cache {
        fn state(&self, torrent: InfoHash) -> StateDir {
            StateDir::in_cache(self.dir.path(), torrent)
        }

        /// A torrent with so many blocks of data that was used so many seconds after the epoch.
        fn add(&self, number: u8, blocks: usize, used_at: u64) -> InfoHash {
            let torrent = InfoHash::new([number; 20]);
            let data = data_dir(self.dir.path(), torrent).join("deep/er");
            std::fs::create_dir_all(&data).unwrap();
            std::fs::write(data.join("file"), vec![1; blocks * 4096]).unwrap();
            let state = self.state(torrent);
            drop(state.lock_to_evict().unwrap());
            std::fs::write(state.path().join("record"), b"of these").unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(used_at);
            for name in ["lock", "record"] {
                let file = std::fs::File::options().write(true).open(state.path().join(name)).unwrap();
                file.set_modified(time).unwrap();
            }
            torrent
        }

        fn has(&self, torrent: InfoHash) -> bool {
            let has_data = data_dir(self.dir.path(), torrent).exists();
            assert_eq!(has_data, self.state(torrent).path().join("record").exists());
            has_data
        }
    }

    fn cache() -> (Cache, Dormant) {
        let dir = tempfile::tempdir().unwrap();
        let dormant = Dormant::new(dir.path().to_owned());
        (Cache { dir }, dormant)
    }

    #[test]
    fn the_torrents_used_longest_ago_go_and_no_more_than_need_be() {
        let (cache, dormant) = cache();
        let [old, new, middle] =
            [(1, 10, 100), (2, 20, 300), (3, 30, 200)].map(|(n, b, t)| cache.add(n, b, t));
        assert_eq!((dormant.bytes(), dormant.evict(1)), (0, 0), "nobody looked yet");
        dormant.scan();
        assert_eq!(dormant.bytes(), 60 * 4096);
        assert_eq!(dormant.evict(11 * 4096), 40 * 4096);
        assert!(!cache.has(old) && !cache.has(middle) && cache.has(new));
        assert_eq!(dormant.bytes(), 20 * 4096);
        assert_eq!(dormant.evict(u64::MAX), 20 * 4096);
        assert_eq!((dormant.bytes(), dormant.evict(u64::MAX)), (0, 0));
        assert_eq!(std::fs::read_dir(cache.dir.path().join("data")).unwrap().count(), 0);
    }

    #[test]
    fn what_the_session_has_what_another_has_open_and_what_is_pinned_stays() {
        let (cache, dormant) = cache();
        let [own, foreign, pinned] = [1, 2, 3].map(|n| cache.add(n, 5, 100));
        cache.state(pinned).save_pins(&[0]).unwrap();
        dormant.scan();
        dormant.wake(own);
        // Opened since the last look.
        let open = cache.state(foreign).lock_to_evict().unwrap();
        assert_eq!(dormant.evict(u64::MAX), 0);
        assert!([own, foreign, pinned].into_iter().all(|torrent| cache.has(torrent)));
        assert_eq!(dormant.bytes(), 5 * 4096, "the pinned one counts all the same");
        drop(open);
        dormant.sleep(own);
        dormant.scan();
        assert_eq!(dormant.evict(u64::MAX), 10 * 4096);
        assert!(cache.has(pinned) && !cache.has(own) && !cache.has(foreign));
    }

    #[test]
    fn what_a_crash_left_half_deleted_is_deleted() {
        let (cache, dormant) = cache();
        let going = cache.dir.path().join("data").join(format!("{GOING}{}", InfoHash::new([9; 20])));
        std::fs::create_dir_all(going.join("below")).unwrap();
        dormant.scan();
        assert!(!going.exists());
    }
}
