//! What is remembered of shared files over restarts: their torrents, and the stamps they were hashed under.
//!
//! One file a torrent, `<info hash>-<place>.shared`: a line of JSON, then the info dictionary. Written beside and renamed, so
//! that a killed process leaves the old or the new one. It is not synced: what power takes away is hashed again, because
//! the dictionary must have the hash that the line says, and the stamps must be those of the files. So a damaged record
//! costs time and never truth.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wtfs_proto::id::InfoHash;
use wtfs_proto::metainfo::Metainfo;
use wtfs_torrent::Stamp;

const VERSION: u32 = 1;
const ENDING: &str = ".shared";

/// No record of an honest torrent is longer: four million hashes and two million paths.
const RECORD_BYTES_MAX: u64 = 1 << 30;

/// Which entry of which root.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) root: PathBuf,
    pub(super) name: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    #[serde(flatten)]
    place: Place,
    info_hash: String,
    /// In the order of the torrent's files, links left out.
    files: Vec<Stamp>,
}

/// Where one is, and what must be so for it to hold.
#[derive(Debug, Clone)]
struct Known {
    path: PathBuf,
    files: Vec<Stamp>,
}

/// The directory of records.
#[derive(Debug)]
pub(super) struct Records {
    dir: PathBuf,
    known: HashMap<Place, Known>,
}

impl Records {
    /// Reads the heads of all records. Blocks. What cannot be read is passed over.
    ///
    /// # Errors
    /// When the directory cannot be made or listed.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let mut known = HashMap::new();
        for found in fs::read_dir(&dir)? {
            let path = found?.path();
            if !path.as_os_str().as_encoded_bytes().ends_with(ENDING.as_bytes()) {
                continue;
            }
            match head_of(&path) {
                Ok(head) => drop(known.insert(head.place, Known { path, files: head.files })),
                Err(error) => {
                    tracing::info!(path = %path.display(), %error, "a record of a shared file is passed over");
                }
            }
        }
        Ok(Self { dir, known })
    }

    /// The torrent of an entry whose files have these stamps. Blocks.
    pub(super) fn find(&self, place: &Place, stamps: &[Stamp]) -> Option<Metainfo> {
        let known = self.known.get(place).filter(|known| known.files == stamps)?;
        match metainfo_of(&known.path) {
            Ok(metainfo) => Some(metainfo),
            Err(error) => {
                tracing::info!(path = %known.path.display(), %error, "hashed again: its record cannot be used");
                None
            }
        }
    }

    /// A torrent of files with these stamps that stood elsewhere: they were moved, with all their bytes. Blocks.
    pub(super) fn find_moved(&self, place: &Place, stamps: &[Stamp]) -> Option<Metainfo> {
        let mut others = self.known.iter().filter(|(other, known)| *other != place && known.files == stamps);
        others.find_map(|(_, known)| metainfo_of(&known.path).ok())
    }

    /// Remembers a torrent in place of what the entry was before. Blocks.
    ///
    /// # Errors
    /// When it cannot be written; the old record then holds, and no longer fits the files.
    pub(super) fn keep(&mut self, place: &Place, metainfo: &Metainfo, stamps: &[Stamp]) -> io::Result<()> {
        let info_hash = metainfo.hashes.primary().to_string();
        // The same torrent may stand in two roots.
        let mut hasher = DefaultHasher::new();
        place.hash(&mut hasher);
        let path = self.dir.join(format!("{info_hash}-{:016x}{ENDING}", hasher.finish()));
        let head = Head { version: VERSION, place: place.clone(), info_hash, files: stamps.to_vec() };
        let mut record = serde_json::to_vec(&head)?;
        record.push(b'\n');
        record.extend_from_slice(&metainfo.info_bytes);
        let beside = path.with_extension("new");
        fs::write(&beside, record)?;
        fs::rename(&beside, &path)?;
        let before = self.known.insert(place.clone(), Known { path: path.clone(), files: stamps.to_vec() });
        if let Some(before) = before.filter(|before| before.path != path) {
            remove(&before.path);
        }
        Ok(())
    }

    /// Forgets all entries of a root but these. Blocks.
    pub(super) fn retain(&mut self, root: &Path, names: &HashSet<String>) {
        let is_gone = |place: &Place| place.root == root && !names.contains(&place.name);
        for (_, known) in self.known.extract_if(|place, _| is_gone(place)) {
            remove(&known.path);
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(path = %path.display(), %error, "an old record stays");
        }
        _ => {}
    }
}

fn head_of(path: &Path) -> io::Result<Head> {
    let mut line = Vec::new();
    BufReader::new(fs::File::open(path)?).take(RECORD_BYTES_MAX).read_until(b'\n', &mut line)?;
    let head: Head = serde_json::from_slice(&line)?;
    if head.version != VERSION {
        return Err(io::Error::other(format!("version {} is not {VERSION}", head.version)));
    }
    Ok(head)
}

fn metainfo_of(path: &Path) -> io::Result<Metainfo> {
    let mut reader = BufReader::new(fs::File::open(path)?).take(RECORD_BYTES_MAX);
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    let head: Head = serde_json::from_slice(&line)?;
    let mut info = Vec::new();
    reader.read_to_end(&mut info)?;
    let metainfo =
        Metainfo::from_info(Bytes::from(info), Vec::new(), Vec::new()).map_err(io::Error::other)?;
    let expected: InfoHash = head.info_hash.parse().map_err(io::Error::other)?;
    if !metainfo.hashes.contains(expected) {
        return Err(io::Error::other("its info dictionary is damaged"));
    }
    Ok(metainfo)
}

#[cfg(test)]
mod tests {
    use wtfs_proto::metainfo::{InfoBuilder, MetainfoBuilder};

    use super::*;

    fn metainfo(fill: u8) -> Metainfo {
        let info = InfoBuilder::single_file("a", 100, 16_384).expect("a name");
        MetainfoBuilder::new(info.finish(&[fill; 20]).expect("an info")).expect("valid").finish()
    }

    fn stamp(inode: u64) -> Stamp {
        Stamp { inode, bytes: 100, modified_s: 5, modified_ns: 6 }
    }

    fn place() -> Place {
        Place { root: "/r".into(), name: "a".into() }
    }

    #[test]
    fn a_torrent_is_found_again_for_the_same_files_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut records = Records::open(dir.path().join("new")).expect("made");
        records.keep(&place(), &metainfo(1), &[stamp(1)]).expect("kept");
        let again = Records::open(dir.path().join("new")).expect("read");
        let found = again.find(&place(), &[stamp(1)]).expect("known");
        assert_eq!(found.hashes, metainfo(1).hashes);
        assert!(again.find(&place(), &[stamp(2)]).is_none());
        let elsewhere = Place { name: "b".into(), ..place() };
        assert!(again.find(&elsewhere, &[stamp(1)]).is_none());
        assert_eq!(again.find_moved(&elsewhere, &[stamp(1)]).map(|found| found.hashes), Some(found.hashes));
        assert!(again.find_moved(&elsewhere, &[stamp(2)]).is_none());
    }

    #[test]
    fn a_new_record_takes_the_place_of_the_old_and_a_forgotten_one_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut records = Records::open(dir.path().into()).expect("made");
        records.keep(&place(), &metainfo(1), &[stamp(1)]).expect("kept");
        records.keep(&place(), &metainfo(2), &[stamp(2)]).expect("kept");
        let count = || fs::read_dir(dir.path()).expect("listed").count();
        assert_eq!(count(), 1);
        records.retain(Path::new("/elsewhere"), &HashSet::new());
        records.retain(Path::new("/r"), &HashSet::from(["a".to_owned()]));
        assert_eq!(count(), 1);
        records.retain(Path::new("/r"), &HashSet::from(["b".to_owned()]));
        assert_eq!(count(), 0);
    }

    #[test]
    fn a_damaged_record_is_as_good_as_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut records = Records::open(dir.path().into()).expect("made");
        records.keep(&place(), &metainfo(1), &[stamp(1)]).expect("kept");
        let path = records.known[&place()].path.clone();
        let whole = fs::read(&path).expect("read");
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).expect("written");
            let found = Records::open(dir.path().into()).expect("read").find(&place(), &[stamp(1)]);
            assert!(found.is_none(), "cut at {cut}");
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().expect("not empty") ^= 1;
        *flipped.get_mut(whole.len() - 10).expect("long") ^= 1;
        fs::write(&path, &flipped).expect("written");
        assert!(Records::open(dir.path().into()).expect("read").find(&place(), &[stamp(1)]).is_none());
    }
}
