//! The port through which the hub's routes see torrents, and what is behind one: files that lie ready, or the engine.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use wtfs_proto::geometry::FileIndex;
use wtfs_proto::hub::TorrentEntry;
use wtfs_proto::id::InfoHash;
use wtfs_proto::metainfo::{Layout, Metainfo};
use wtfs_torrent::store::SealedFiles;
use wtfs_torrent::{OpenError, Torrent};

use crate::webseed::Source;

/// Something that has torrents. Its methods answer at once.
pub(crate) trait Library: std::fmt::Debug + Send + Sync + 'static {
    /// All of them, and what is to become one, in an order that stays.
    fn list(&self) -> Vec<TorrentEntry>;

    /// One by any of its info hashes, if its metadata is known.
    fn by_hash(&self, info_hash: InfoHash) -> Option<Arc<Item>>;

    /// One by its name; the first, where several have it.
    fn by_name(&self, name: &str) -> Option<Arc<Item>>;
}

/// Where a torrent's bytes are.
#[derive(Debug)]
pub(crate) enum Backing {
    /// In files that were hashed.
    Sealed(Arc<SealedFiles>),
    /// With the engine, which fetches what is missing.
    Engine(Torrent),
}

/// A torrent that can be served.
#[derive(Debug)]
pub(crate) struct Item {
    metainfo: Arc<Metainfo>,
    backing: Backing,
    modified: Option<SystemTime>,
    /// Made at the first look-up: most torrents are asked for piece by piece by their peers, not by path.
    paths: OnceLock<HashMap<String, u32>>,
}

impl Item {
    /// A torrent whose files lie ready. `modified_s` is when the youngest was written, in seconds since 1970.
    pub(crate) fn sealed(files: Arc<SealedFiles>, modified_s: i64) -> Self {
        let modified =
            u64::try_from(modified_s).ok().map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s));
        let metainfo = files.metainfo().clone();
        Self { metainfo, backing: Backing::Sealed(files), modified, paths: OnceLock::new() }
    }

    /// A torrent of the engine; `None` while its metadata is missing.
    pub(crate) fn of_engine(torrent: Torrent) -> Option<Self> {
        let metainfo = torrent.metainfo()?;
        Some(Self { metainfo, backing: Backing::Engine(torrent), modified: None, paths: OnceLock::new() })
    }

    pub(crate) fn metainfo(&self) -> &Arc<Metainfo> {
        &self.metainfo
    }

    pub(crate) fn info_hash(&self) -> InfoHash {
        self.metainfo.hashes.primary()
    }

    pub(crate) fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// The file at a path that begins with the torrent's name.
    pub(crate) fn file_at(&self, path: &str) -> Option<FileIndex> {
        let info = &self.metainfo.info;
        let index = match (info.layout, path.split_once('/')) {
            (Layout::SingleFile, None) => (path == info.name).then_some(0)?,
            (Layout::Directory, Some((name, below))) if name == info.name => *self.paths().get(below)?,
            _ => return None,
        };
        info.geometry.file(usize::try_from(index).ok()?)
    }

    /// The file of a torrent that is one file and no directory.
    pub(crate) fn sole_file(&self) -> Option<FileIndex> {
        let info = &self.metainfo.info;
        if info.layout == Layout::SingleFile { info.geometry.file(0) } else { None }
    }

    fn paths(&self) -> &HashMap<String, u32> {
        self.paths.get_or_init(|| {
            let files = self.metainfo.info.files.iter().zip(0..);
            let served = files.filter(|(entry, _)| !entry.is_pad && entry.symlink.is_none());
            served.map(|(entry, index)| (entry.path.to_string(), index)).collect()
        })
    }

    /// Opens a file of it. May look at the disk, on a thread for that.
    ///
    /// # Errors
    /// [`Missing`] when the file is not what was hashed, or gone.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn open(&self, file: FileIndex) -> Result<Source, Missing> {
        match &self.backing {
            Backing::Sealed(files) => {
                if let Ok(Some(opened)) = files.opened(file) {
                    return Ok(Source::File(opened));
                }
                let files = files.clone();
                let opened = tokio::task::spawn_blocking(move || files.open(file)).await;
                match opened {
                    Ok(Ok(opened)) => Ok(Source::File(opened)),
                    Ok(Err(error)) => {
                        tracing::info!(%error, "a shared file is not served any more");
                        Err(Missing)
                    }
                    Err(_lost) => Err(Missing),
                }
            }
            Backing::Engine(torrent) => {
                let reader = match torrent.open(file) {
                    Ok(reader) => reader,
                    Err(OpenError::NoSuchFile | OpenError::NotReady) | Err(_) => return Err(Missing),
                };
                if !reader.is_whole() {
                    return Ok(Source::Reader(reader));
                }
                let whole = reader.clone();
                let held = tokio::task::spawn_blocking(move || whole.data_file()).await;
                match held {
                    Ok(Some(held)) => Ok(Source::File(Arc::new(held))),
                    _ => Ok(Source::Reader(reader)),
                }
            }
        }
    }
}

/// The file cannot be served (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing;
