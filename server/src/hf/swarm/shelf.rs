//! The torrents of repositories, kept on disk: so that a restart hashes nothing, and a torrent stays known when its files
//! had to go.
//!
//! Two files each, by a hash of what it is of: the metainfo, and beside it which blobs it is made of. The second is
//! written last, and what does not fit together is as if it were not there. Blocks on the disk.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wtfs_proto::hf::ContentId;
use wtfs_proto::merkle::hash_block;
use wtfs_proto::metainfo::Metainfo;

use super::made::{Key, Part, Reach, Record, total_bytes};

/// Longest file that is read back: the metainfo of a hundred thousand files is some 30 MB.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
}

/// A torrent that was found.
#[derive(Debug)]
pub(super) struct KeptTorrent {
    pub(super) key: Key,
    pub(super) parts: Arc<[Part]>,
    pub(super) metainfo: Metainfo,
}

impl Shelf {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Everything that was kept; at most so many.
    pub(super) fn all(&self, most: usize) -> Vec<KeptTorrent> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        let names = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let records = names.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        records.filter_map(|path| self.read(&path)).take(most).collect()
    }

    fn read(&self, record: &Path) -> Option<KeptTorrent> {
        let read = || {
            let (key, parts) = serde_json::from_slice::<Record>(&read_bounded(record)?).ok()?.read()?;
            let metainfo = Metainfo::parse(&read_bounded(&record.with_extension("torrent"))?).ok()?;
            let total = total_bytes(&parts);
            let is_right = record == self.path(&key)
                && metainfo.info.display_total() == total
                && metainfo.info.is_private == (key.reach == Reach::Closed);
            is_right.then_some(KeptTorrent { key, parts, metainfo })
        };
        let found = read();
        if found.is_none() {
            tracing::warn!(path = %record.display(), "a kept torrent cannot be read; it is made again when asked for");
        }
        found
    }

    /// Keeps one.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn keep(&self, key: &Key, parts: &[Part], metainfo: &Metainfo) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let path = self.path(key);
        write(&path.with_extension("torrent"), &metainfo.to_bytes())?;
        write(&path, &serde_json::to_vec(&Record::new(key, parts)).map_err(io::Error::other)?)
    }

    /// Forgets one.
    pub(super) fn forget(&self, key: &Key) {
        let path = self.path(key);
        for path in [path.with_extension("torrent"), path] {
            // Not there is what is wanted.
            let _ = fs::remove_file(path);
        }
    }

    fn path(&self, key: &Key) -> PathBuf {
        let path = key.path.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut text = format!("{}@{}/{path}", key.repo, key.commit);
        if key.reach == Reach::Closed {
            // No path holds it.
            text.push('\0');
        }
        self.dir.join(format!("{}.json", ContentId::Sha256(hash_block(text.as_bytes()))))
    }
}

fn read_bounded(path: &Path) -> Option<Vec<u8>> {
    let is_fine = path.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() <= FILE_BYTES_MAX);
    if is_fine { fs::read(path).ok() } else { None }
}

/// Whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}
