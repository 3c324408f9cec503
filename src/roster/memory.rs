//! What was added to a mount point while it was mounted, kept for its next start.
//!
//! One small file a mount point, `mounts/<hash of the mount point>.json` of the state directory, replaced by rename, and
//! beside it a directory with the `.torrent` of each entry that has one: where a torrent was added from may be gone by
//! then. The file names nothing that is not saved yet. What cannot be understood is left alone with a warning.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wtfs_proto::id::InfoHash;
use wtfs_proto::magnet::Magnet;
use wtfs_proto::metainfo::Metainfo;
use wtfs_torrent::Source;
use wtfs_torrent::resolve::MAX_METAINFO_BYTES;

/// No file of this kind is longer: some ten thousand magnet links.
const FILE_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Listed {
    mount_point: String,
    torrents: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    info_hash: String,
    /// `None`: its `.torrent` is saved.
    magnet: Option<String>,
}

/// The memory of one mount point. Every change is on disk when its method returns; blocks for a few milliseconds.
#[derive(Debug)]
pub(crate) struct Memory {
    file: PathBuf,
    torrents: PathBuf,
    listed: Listed,
}

impl Memory {
    /// Of this mount point, below the state directory. Reads what is there.
    pub(crate) fn open(state: &Path, mount_point: &Path) -> Self {
        let name = format!("{:016x}", fnv1a(mount_point.as_os_str().as_bytes()));
        let dir = state.join("mounts");
        let file = dir.join(format!("{name}.json"));
        let listed = match read(&file) {
            Ok(listed) => listed,
            Err(error) => {
                let file = file.display();
                tracing::warn!(%file, %error, "what was added before cannot be read; it is not added again");
                None
            }
        };
        let mut listed = listed.unwrap_or_default();
        listed.mount_point = mount_point.to_string_lossy().into_owned();
        Self { file, torrents: dir.join(name), listed }
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// What is there cannot be removed.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.listed.torrents.clear();
        absent_is_fine(fs::remove_file(&self.file))?;
        absent_is_fine(fs::remove_dir_all(&self.torrents))
    }

    /// What was remembered, in the order in which it was added. An entry that cannot be used any more is left out with a
    /// warning, and stays remembered.
    pub(crate) fn sources(&self) -> Vec<(InfoHash, Source)> {
        let read = |entry: &Entry| match self.source(entry) {
            Ok(source) => Some(source),
            Err(error) => {
                let torrent = &entry.info_hash;
                tracing::warn!(torrent, %error, "a torrent that was added before cannot be added again");
                None
            }
        };
        self.listed.torrents.iter().filter_map(read).collect()
    }

    fn source(&self, entry: &Entry) -> io::Result<(InfoHash, Source)> {
        let hash: InfoHash = entry.info_hash.parse().map_err(io::Error::other)?;
        let source = match &entry.magnet {
            Some(magnet) => Source::Magnet(Box::new(Magnet::parse(magnet).map_err(io::Error::other)?)),
            None => {
                let path = self.torrent_file(hash);
                if fs::metadata(&path)?.len() > MAX_METAINFO_BYTES as u64 {
                    return Err(io::Error::other("it is too large"));
                }
                Source::Metainfo(Box::new(Metainfo::parse(&fs::read(path)?).map_err(io::Error::other)?))
            }
        };
        Ok((hash, source))
    }

    /// Remembers a torrent; one that is remembered already is replaced.
    ///
    /// # Errors
    /// It cannot be written; nothing has changed then.
    pub(crate) fn remember(&mut self, hash: InfoHash, source: &Source) -> io::Result<()> {
        let magnet = match source {
            Source::Magnet(magnet) => Some(magnet.to_string()),
            Source::Metainfo(metainfo) => {
                fs::create_dir_all(&self.torrents)?;
                replace(&self.torrent_file(hash), &metainfo.to_bytes())?;
                None
            }
        };
        let entry = Entry { info_hash: hash.to_string(), magnet };
        let mut torrents = self.without(hash);
        torrents.push(entry);
        self.store(torrents)
    }

    /// Forgets a torrent; that none is remembered is fine.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn forget(&mut self, hash: InfoHash) -> io::Result<()> {
        let torrents = self.without(hash);
        if torrents.len() == self.listed.torrents.len() {
            return Ok(());
        }
        self.store(torrents)?;
        absent_is_fine(fs::remove_file(self.torrent_file(hash)))
    }

    fn without(&self, hash: InfoHash) -> Vec<Entry> {
        let hash = hash.to_string();
        self.listed.torrents.iter().filter(|entry| entry.info_hash != hash).cloned().collect()
    }

    fn store(&mut self, torrents: Vec<Entry>) -> io::Result<()> {
        let listed = Listed { mount_point: self.listed.mount_point.clone(), torrents };
        if let Some(dir) = self.file.parent() {
            fs::create_dir_all(dir)?;
        }
        replace(&self.file, &serde_json::to_vec_pretty(&listed).map_err(io::Error::other)?)?;
        self.listed = listed;
        Ok(())
    }

    fn torrent_file(&self, hash: InfoHash) -> PathBuf {
        self.torrents.join(format!("{hash}.torrent"))
    }
}

fn read(file: &Path) -> io::Result<Option<Listed>> {
    match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => return Err(io::Error::other("it is too large")),
        Ok(_) => {}
    }
    serde_json::from_slice(&fs::read(file)?).map(Some).map_err(io::Error::other)
}

/// Whole or not at all, also over a power cut.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut draft = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    draft.write_all(bytes)?;
    draft.as_file().sync_all()?;
    draft.persist(path)?;
    fs::File::open(dir)?.sync_all()
}

fn absent_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Fowler, Noll and Vo's hash, 1a, 64 bits: the same in every version, and nobody gains by a collision.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use wtfs_proto::metainfo::FileEntry;
    use wtfs_proto::metainfo::{InfoBuilder, MetainfoBuilder};
    use wtfs_proto::path::TorrentPath;

    use super::*;

    fn metainfo(name: &str) -> Metainfo {
        let mut info = InfoBuilder::directory(name, 16 << 10);
        info.push(FileEntry::new(TorrentPath::from_components(["a"]).expect("a path"), 1));
        MetainfoBuilder::new(info.finish(&[0; 20]).expect("built")).expect("valid").finish()
    }

    fn magnet(digit: char) -> (InfoHash, Source) {
        let hash: InfoHash = digit.to_string().repeat(40).parse().expect("a hash");
        let magnet = Magnet::parse(&format!("magnet:?xt=urn:btih:{hash}&dn=x")).expect("a magnet");
        (hash, Source::Magnet(Box::new(magnet)))
    }

    fn hashes(memory: &Memory) -> Vec<InfoHash> {
        memory.sources().into_iter().map(|(hash, _)| hash).collect()
    }

    #[test]
    fn what_was_added_is_there_at_the_next_start_in_its_order() {
        let state = tempfile::tempdir().expect("a directory");
        let place = Path::new("/mnt/models");
        let metainfo = metainfo("one");
        let torrent = metainfo.hashes.primary();
        let (linked, magnet) = magnet('a');
        let mut memory = Memory::open(state.path(), place);
        memory.remember(torrent, &Source::Metainfo(Box::new(metainfo.clone()))).expect("written");
        memory.remember(linked, &magnet).expect("written");
        memory.remember(linked, &magnet).expect("written again");

        let again = Memory::open(state.path(), place);
        let sources = again.sources();
        assert_eq!(hashes(&again), [torrent, linked]);
        assert!(matches!(&sources[0].1, Source::Metainfo(found) if found.info.name == metainfo.info.name));
        assert!(hashes(&Memory::open(state.path(), Path::new("/mnt/other"))).is_empty());
    }

    #[test]
    fn what_was_removed_is_forgotten_with_its_torrent_file() {
        let state = tempfile::tempdir().expect("a directory");
        let metainfo = metainfo("one");
        let torrent = metainfo.hashes.primary();
        let mut memory = Memory::open(state.path(), Path::new("/mnt"));
        memory.remember(torrent, &Source::Metainfo(Box::new(metainfo))).expect("written");
        let saved = memory.torrent_file(torrent);
        assert!(saved.exists());
        memory.forget(torrent).expect("written");
        memory.forget(torrent).expect("twice is fine");
        assert!(!saved.exists());
        assert!(hashes(&Memory::open(state.path(), Path::new("/mnt"))).is_empty());
    }

    #[test]
    fn a_bad_entry_does_not_take_the_others_along() {
        let state = tempfile::tempdir().expect("a directory");
        let mut memory = Memory::open(state.path(), Path::new("/mnt"));
        let broken = metainfo("broken");
        let broken_hash = broken.hashes.primary();
        let (good, magnet) = magnet('b');
        memory.remember(broken_hash, &Source::Metainfo(Box::new(broken))).expect("written");
        memory.remember(good, &magnet).expect("written");
        fs::write(memory.torrent_file(broken_hash), "no torrent").expect("written");
        assert_eq!(hashes(&Memory::open(state.path(), Path::new("/mnt"))), [good]);
    }

    #[test]
    fn a_file_that_is_no_list_is_no_obstacle() {
        let state = tempfile::tempdir().expect("a directory");
        let mut memory = Memory::open(state.path(), Path::new("/mnt"));
        let (hash, magnet) = magnet('c');
        memory.remember(hash, &magnet).expect("written");
        fs::write(&memory.file, "{").expect("written");
        let mut memory = Memory::open(state.path(), Path::new("/mnt"));
        assert!(hashes(&memory).is_empty());
        memory.remember(hash, &magnet).expect("written");
        memory.clear().expect("removed");
        memory.clear().expect("twice is fine");
        assert!(hashes(&Memory::open(state.path(), Path::new("/mnt"))).is_empty());
    }

    #[test]
    fn the_name_of_the_file_is_the_same_in_every_version() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
