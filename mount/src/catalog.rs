//! The immutable tree of one torrent: names to files, inode numbers, parents.
//!
//! Built once from the file list, then only read: no locks. A directory's children lie side by side, sorted by their
//! bytes, so a look-up is a binary search and a position in a listing is an index that never moves. Padding files are
//! not put in, so they do not show. Names come from a stranger: the builder refuses what cannot be a tree (a name
//! twice, a file that is also a directory, components that are no names) instead of trusting that somebody checked.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::inode::{InodeNo, PathHash, TreeTag};
use crate::tree::NodeKind;

/// Modification time, in seconds since 1970, for torrents that do not say when they were made: 2 July 2001, the first
/// release of BitTorrent. Not 0, because zip and some build tools refuse dates before 1980; not the time of mounting,
/// because it has to be the same tomorrow.
const UNDATED: i64 = 994_032_000;

/// 31 December 9999: dates behind it are noise, and some tools cannot print them.
const LATEST_DATE: i64 = 253_402_300_799;

/// Slots below this one stand for what a torrent shows before its metadata is there.
const FIRST_SLOT: u32 = 2;

/// The modification time for a torrent's `creation date` (seconds since 1970); a fixed one without a sensible date.
pub fn modified_from(creation_date: Option<i64>) -> SystemTime {
    let sensible = creation_date.filter(|seconds| (1..=LATEST_DATE).contains(seconds)).unwrap_or(UNDATED);
    SystemTime::UNIX_EPOCH + Duration::from_secs(sensible.unsigned_abs())
}

/// Why a file list is no tree. The path is the offending entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// Two entries of one name, or an entry below a file.
    #[error("entry {0:?} collides with another one")]
    Collision(String),
    /// An empty path, or a component that cannot be a name.
    #[error("entry {0:?} is not a path")]
    NotAPath(String),
    /// More entries than inode numbers can tell apart.
    #[error("too many entries")]
    TooMany,
}

/// Whether a file may be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executable {
    /// Mode 0555.
    Yes,
    /// Mode 0444.
    No,
}

/// What a leaf of the tree is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leaf {
    /// File number `file` of the torrent.
    File {
        /// Index in the torrent's file list, pads counted.
        file: u32,
        /// Size in bytes.
        bytes: u64,
        /// Whether it may be run.
        executable: Executable,
    },
    /// A link to the entry of this path, counted from the torrent's root.
    Symlink {
        /// Components of the target.
        target: Vec<String>,
    },
}

/// An entry of a [`Catalog`]. Indices are into the catalog it came from.
#[derive(Debug, Clone)]
pub struct Entry {
    name: Box<str>,
    parent: u32,
    slot: u32,
    detail: Detail,
}

#[derive(Debug, Clone)]
enum Detail {
    Directory { children: std::ops::Range<u32>, subdirectories: u32 },
    File { file: u32, bytes: u64, executable: Executable },
    Symlink { target: PathBuf },
}

/// The entries of one torrent. Entry 0 is its root directory.
#[derive(Debug)]
pub struct Catalog {
    tag: TreeTag,
    entries: Vec<Entry>,
    by_slot: HashMap<u32, u32>,
    total_bytes: u64,
    modified: SystemTime,
}

impl Catalog {
    /// Builds the tree. `seed` names the torrent (its info hash) and decides the inode numbers together with `tag`.
    ///
    /// # Errors
    /// When the entries do not form a tree.
    pub fn build(
        tag: TreeTag,
        seed: &[u8],
        modified: SystemTime,
        leaves: impl IntoIterator<Item = (Vec<String>, Leaf)>,
    ) -> Result<Self, CatalogError> {
        let mut leaves: Vec<(Vec<String>, Leaf)> = leaves.into_iter().collect();
        if leaves.len() > (u32::MAX / 2) as usize {
            return Err(CatalogError::TooMany);
        }
        for (path, _) in &leaves {
            if path.is_empty() || !path.iter().all(|name| is_name(name)) {
                return Err(CatalogError::NotAPath(path.join("/")));
            }
        }
        // By components, so that the entries of one directory follow each other whatever bytes their names hold.
        leaves.sort_by(|(a, _), (b, _)| a.cmp(b));
        Builder::new(tag, seed, modified).run(leaves)
    }

    /// The root directory's index.
    pub const ROOT: u32 = 0;

    /// The tag of its inode numbers.
    pub fn tag(&self) -> TreeTag {
        self.tag
    }

    /// Entries, the root counted.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.entries.len() <= 1
    }

    /// Sum of all files in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The time all entries were last changed.
    pub fn modified(&self) -> SystemTime {
        self.modified
    }

    /// The index of the entry with this number.
    pub fn find(&self, ino: InodeNo) -> Option<u32> {
        if ino.tag() != Some(self.tag) {
            return None;
        }
        self.by_slot.get(&(ino.get() as u32)).copied()
    }

    /// The index of `name` in the directory `parent`.
    pub fn lookup(&self, parent: u32, name: &OsStr) -> Option<u32> {
        let children = self.children(parent)?;
        let slice = self.entries.get(children.start as usize..children.end as usize)?;
        let found = slice.binary_search_by(|entry| entry.name.as_bytes().cmp(name.as_bytes())).ok()?;
        Some(children.start + found as u32)
    }

    /// The indices of a directory's entries; `None` for what is no directory.
    pub fn children(&self, index: u32) -> Option<std::ops::Range<u32>> {
        match &self.entries.get(index as usize)?.detail {
            Detail::Directory { children, .. } => Some(children.clone()),
            Detail::File { .. } | Detail::Symlink { .. } => None,
        }
    }

    /// The entry at an index.
    pub fn entry(&self, index: u32) -> Option<&Entry> {
        self.entries.get(index as usize)
    }

    /// The number of the entry at an index.
    pub fn ino(&self, entry: &Entry) -> InodeNo {
        InodeNo::of(self.tag, entry.slot)
    }
}

impl Entry {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The index of its directory; of the root: the root.
    pub fn parent(&self) -> u32 {
        self.parent
    }

    /// What it is.
    pub fn kind(&self) -> NodeKind {
        match self.detail {
            Detail::Directory { .. } => NodeKind::Directory,
            Detail::File { .. } => NodeKind::File,
            Detail::Symlink { .. } => NodeKind::Symlink,
        }
    }

    /// Its number in the torrent's file list.
    pub fn file(&self) -> Option<u32> {
        match self.detail {
            Detail::File { file, .. } => Some(file),
            Detail::Directory { .. } | Detail::Symlink { .. } => None,
        }
    }

    /// Where it points, relative to its own directory.
    pub fn target(&self) -> Option<&PathBuf> {
        match &self.detail {
            Detail::Symlink { target } => Some(target),
            Detail::Directory { .. } | Detail::File { .. } => None,
        }
    }

    /// Size in bytes: of the file, of the link's text, 0 for a directory.
    pub fn bytes(&self) -> u64 {
        match &self.detail {
            Detail::Directory { .. } => 0,
            Detail::File { bytes, .. } => *bytes,
            Detail::Symlink { target } => target.as_os_str().len() as u64,
        }
    }

    /// Permission bits.
    pub fn permissions(&self) -> u16 {
        match self.detail {
            Detail::Directory { .. } => 0o555,
            Detail::File { executable: Executable::Yes, .. } => 0o555,
            Detail::File { executable: Executable::No, .. } => 0o444,
            Detail::Symlink { .. } => 0o777,
        }
    }

    /// Names that lead here.
    pub fn links(&self) -> u32 {
        match self.detail {
            Detail::Directory { subdirectories, .. } => 2 + subdirectories,
            Detail::File { .. } | Detail::Symlink { .. } => 1,
        }
    }
}

/// True for what the kernel accepts as one component that stays where it is put.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.bytes().any(|b| b == b'/' || b == 0)
}

struct Builder {
    catalog: Catalog,
    hashes: Vec<PathHash>,
}

/// A directory whose entries are still to be made: its index, its depth, and its leaves in the sorted list.
struct Pending {
    index: u32,
    depth: usize,
    leaves: std::ops::Range<usize>,
}

impl Builder {
    fn new(tag: TreeTag, seed: &[u8], modified: SystemTime) -> Self {
        let catalog = Catalog { tag, entries: Vec::new(), by_slot: HashMap::new(), total_bytes: 0, modified };
        let mut builder = Self { catalog, hashes: Vec::new() };
        let root = Detail::Directory { children: 0..0, subdirectories: 0 };
        builder.push("", Catalog::ROOT, PathHash::new(seed), root);
        builder
    }

    /// Breadth first, so that the entries of one directory get neighbouring indices.
    fn run(mut self, leaves: Vec<(Vec<String>, Leaf)>) -> Result<Catalog, CatalogError> {
        let mut queue = std::collections::VecDeque::new();
        queue.push_back(Pending { index: Catalog::ROOT, depth: 0, leaves: 0..leaves.len() });
        while let Some(directory) = queue.pop_front() {
            self.fill(&directory, &leaves, &mut queue)?;
        }
        Ok(self.catalog)
    }

    fn fill(
        &mut self,
        directory: &Pending,
        leaves: &[(Vec<String>, Leaf)],
        queue: &mut std::collections::VecDeque<Pending>,
    ) -> Result<(), CatalogError> {
        let first = self.catalog.entries.len() as u32;
        let parent_hash = self.hashes[directory.index as usize];
        let mut subdirectories = 0;
        let mut at = directory.leaves.start;
        while at < directory.leaves.end {
            let (path, leaf) = &leaves[at];
            let name = path[directory.depth].as_str();
            let same = leaves[at..directory.leaves.end]
                .iter()
                .take_while(|(other, _)| other[directory.depth] == name)
                .count();
            let group = at..at + same;
            at = group.end;
            let hash = parent_hash.component(name.as_bytes());
            if path.len() == directory.depth + 1 {
                // Shorter paths sort first: whatever shares this name collides with it.
                if same > 1 {
                    return Err(CatalogError::Collision(leaves[group.start + 1].0.join("/")));
                }
                let detail = self.leaf(leaf, directory.depth);
                self.push(name, directory.index, hash, detail);
            } else {
                subdirectories += 1;
                let detail = Detail::Directory { children: 0..0, subdirectories: 0 };
                let index = self.push(name, directory.index, hash, detail);
                queue.push_back(Pending { index, depth: directory.depth + 1, leaves: group });
            }
        }
        let children = first..self.catalog.entries.len() as u32;
        self.catalog.entries[directory.index as usize].detail =
            Detail::Directory { children, subdirectories };
        Ok(())
    }

    fn leaf(&mut self, leaf: &Leaf, depth: usize) -> Detail {
        match leaf {
            Leaf::File { file, bytes, executable } => {
                self.catalog.total_bytes = self.catalog.total_bytes.saturating_add(*bytes);
                Detail::File { file: *file, bytes: *bytes, executable: *executable }
            }
            Leaf::Symlink { target } => Detail::Symlink { target: relative_target(depth, target) },
        }
    }

    fn push(&mut self, name: &str, parent: u32, hash: PathHash, detail: Detail) -> u32 {
        let index = self.catalog.entries.len() as u32;
        let slot = self.free_slot(hash);
        self.catalog.by_slot.insert(slot, index);
        self.catalog.entries.push(Entry { name: name.into(), parent, slot, detail });
        self.hashes.push(hash);
        index
    }

    /// The order of entries decides who keeps a contested number; it is the sorted order, so it is the same each time.
    fn free_slot(&self, hash: PathHash) -> u32 {
        let mut attempt = 0;
        loop {
            let slot = hash.finish(attempt) as u32;
            if slot >= FIRST_SLOT && !self.catalog.by_slot.contains_key(&slot) {
                return slot;
            }
            attempt += 1;
        }
    }
}

/// BEP 47 counts a link's target from the torrent's root; the kernel from the link's own directory. A component that is
/// no name makes the link point at itself-less nothing (an empty path component cannot leave the torrent).
fn relative_target(depth: usize, target: &[String]) -> PathBuf {
    let mut path = PathBuf::new();
    if !target.iter().all(|name| is_name(name)) {
        return PathBuf::from("refused-link-target");
    }
    path.extend(std::iter::repeat_n("..", depth));
    path.extend(target);
    path
}

#[cfg(test)]
#[path = "catalog/tests.rs"]
mod tests;
