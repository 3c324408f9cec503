//! A repository at a commit as files and directories, and the places of a mount where it stands.
//!
//! One revision may stand in several places: under its name, under a revision's name, in the view shaped like the
//! clients' cache. Its files are the same files in all of them, with one number each, so that the kernel keeps their bytes
//! once; directories have numbers of their own in each place, since the kernel lets a directory be in one place only.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use wtfs_proto::hf::TreeFile;

use crate::catalog::{Catalog, CatalogError, Executable, Leaf};
use crate::content::{BackingFile, BoxFuture, Content};
use crate::errno::FsError;
use crate::hf::source::{RepoRevision, RepoSource};
use crate::inode::{InodeNo, TreeTag};
use crate::tree::{Caching, Node, NodeKind};

/// A revision's files.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) revision: RepoRevision,
    pub(super) catalog: Catalog,
    usage: Usage,
}

/// Who reads from it, which is not replaced by a newer one; and who knows of it, which is not forgotten.
#[derive(Debug)]
struct Usage {
    open: AtomicU32,
    /// When a file was opened or closed.
    last: Mutex<Option<Instant>>,
    /// When it was looked at in any way.
    looked: Mutex<Instant>,
    /// How often the kernel was told of a number of it that it has not forgotten since.
    known: AtomicU64,
    /// Whether the kernel was asked to forget it, and nobody looked at it since.
    is_asked_back: AtomicBool,
}

impl Usage {
    fn new() -> Self {
        Self {
            open: AtomicU32::new(0),
            last: Mutex::new(None),
            looked: Mutex::new(Instant::now()),
            known: AtomicU64::new(0),
            is_asked_back: AtomicBool::new(false),
        }
    }
}

impl Shown {
    /// Takes some ten milliseconds for tens of thousands of files.
    pub(super) fn build(tag: TreeTag, revision: RepoRevision) -> Result<Self, CatalogError> {
        let leaves = revision.tree.files().iter().zip(0_u32..).map(|(file, number)| {
            let path = file.path.segments().map(str::to_owned).collect();
            (path, Leaf::File { file: number, bytes: file.bytes, executable: Executable::No })
        });
        let seed = seed(&revision);
        let catalog = Catalog::build(tag, seed.as_bytes(), revision.modified, leaves)?;
        Ok(Self { revision, catalog, usage: Usage::new() })
    }

    /// The file with this number, and its place in the catalog.
    pub(super) fn file(&self, ino: InodeNo) -> Option<(u32, &TreeFile)> {
        let index = self.catalog.find(ino)?;
        Some((index, self.file_at(index)?))
    }

    fn file_at(&self, index: u32) -> Option<&TreeFile> {
        self.revision.tree.files().get(self.catalog.entry(index)?.file()? as usize)
    }

    /// A file's attributes; they are the same in each place but for the directory it is in.
    pub(super) fn file_node(&self, index: u32, parent: InodeNo, source: &dyn RepoSource) -> Option<Node> {
        let entry = self.catalog.entry(index)?;
        let local_bytes = self.file_at(index).map_or(0, |file| source.local(file).bytes).min(entry.bytes());
        let caching = if local_bytes < entry.bytes() { Caching::Filling } else { Caching::Immutable };
        Some(Node {
            ino: self.catalog.ino(entry),
            parent,
            kind: entry.kind(),
            bytes: entry.bytes(),
            local_bytes,
            permissions: entry.permissions(),
            links: entry.links(),
            modified: self.catalog.modified(),
            caching,
        })
    }

    /// Whether nobody has a file of it open, nor had for `quiet`: a loader opens one shard after the other.
    pub(super) fn is_idle(&self, now: Instant, quiet: Duration) -> bool {
        let last = *self.usage.last.lock().unwrap_or_else(PoisonError::into_inner);
        self.usage.open.load(Ordering::Acquire) == 0
            && last.is_none_or(|last| now.saturating_duration_since(last) >= quiet)
    }

    /// Somebody looked at it.
    pub(super) fn is_used(&self) {
        *self.usage.looked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.usage.is_asked_back.store(false, Ordering::Release);
    }

    /// When somebody looked at it last.
    pub(super) fn last_use(&self) -> Instant {
        *self.usage.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing of it is open, and nobody looked at it for `rest`.
    pub(super) fn is_unused(&self, now: Instant, rest: Duration) -> bool {
        self.usage.open.load(Ordering::Acquire) == 0 && now.saturating_duration_since(self.last_use()) >= rest
    }

    /// The kernel is told of a number of it.
    pub(super) fn is_told(&self) {
        self.usage.known.fetch_add(1, Ordering::AcqRel);
    }

    /// The kernel forgets a number of it that it was told of so often.
    pub(super) fn is_forgotten(&self, times: u64) {
        let less = |known: u64| Some(known.saturating_sub(times));
        // The closure always has a value to set.
        let _known_before = self.usage.known.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// Whether the kernel knows a number of it.
    pub(super) fn is_known(&self) -> bool {
        self.usage.known.load(Ordering::Acquire) > 0
    }

    /// Says once that the kernel is to be asked to forget it, until somebody looks at it again.
    pub(super) fn ask_back(&self) -> bool {
        !self.usage.is_asked_back.swap(true, Ordering::AcqRel)
    }

    fn touch(&self) {
        self.is_used();
        *self.usage.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// What decides the numbers of a revision's files.
pub(super) fn seed(revision: &RepoRevision) -> String {
    format!("hf:{}@{}", revision.repo, revision.commit)
}

/// Where a revision stands.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) shown: Arc<Shown>,
    /// Of the numbers of its directories.
    pub(super) tag: TreeTag,
    /// The directory that it is in.
    pub(super) parent: InodeNo,
    /// The directory of the revision that stands here.
    pub(super) top: u32,
    /// From the mount's root, with a slash before each name.
    pub(super) path: Box<str>,
}

impl Place {
    /// Whether it is the mount's root itself.
    fn is_root(&self) -> bool {
        self.parent == InodeNo::ROOT && self.tag == ROOT_TAG
    }

    /// The index of one of its directories.
    pub(super) fn find(&self, ino: InodeNo) -> Option<u32> {
        if self.is_root() && ino == InodeNo::ROOT {
            return Some(self.top);
        }
        let catalog = &self.shown.catalog;
        let index = catalog.find(InodeNo::of(catalog.tag(), ino.get() as u32))?;
        catalog.children(index).map(|_| index)
    }

    fn directory_ino(&self, index: u32) -> Option<InodeNo> {
        if self.is_root() && index == self.top {
            return Some(InodeNo::ROOT);
        }
        let catalog = &self.shown.catalog;
        Some(InodeNo::of(self.tag, catalog.ino(catalog.entry(index)?).get() as u32))
    }

    /// What stands here itself.
    pub(super) fn top_node(&self, source: &dyn RepoSource) -> Option<Node> {
        self.node(self.top, source)
    }

    pub(super) fn node(&self, index: u32, source: &dyn RepoSource) -> Option<Node> {
        let catalog = &self.shown.catalog;
        let entry = catalog.entry(index)?;
        if entry.kind() != NodeKind::Directory {
            return self.shown.file_node(index, self.directory_ino(entry.parent())?, source);
        }
        let is_top = index == self.top;
        Some(Node {
            ino: self.directory_ino(index)?,
            parent: if is_top { self.parent } else { self.directory_ino(entry.parent())? },
            kind: NodeKind::Directory,
            bytes: 0,
            local_bytes: 0,
            permissions: entry.permissions(),
            links: entry.links(),
            modified: catalog.modified(),
            // The name may stand for another commit later; below it nothing changes.
            caching: if is_top { Caching::Volatile } else { Caching::Immutable },
        })
    }

    /// Its name in the directory that it is in.
    pub(super) fn name(&self) -> &OsStr {
        OsStr::new(self.path.rsplit('/').next().unwrap_or_default())
    }
}

/// The tag of a place that is the mount's root. Its directories' numbers hang on it; the root's own is the kernel's.
pub(super) const ROOT_TAG: TreeTag = match TreeTag::new(u32::MAX) {
    Some(tag) => tag,
    None => unreachable!(),
};

/// An open file's content, counted as long as it is open.
#[derive(Debug)]
pub(super) struct Opened {
    content: Arc<dyn Content>,
    shown: Arc<Shown>,
}

impl Opened {
    pub(super) fn new(shown: Arc<Shown>, content: Arc<dyn Content>) -> Self {
        shown.usage.open.fetch_add(1, Ordering::AcqRel);
        shown.touch();
        Self { content, shown }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.shown.touch();
        self.shown.usage.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Content for Opened {
    fn len(&self) -> u64 {
        self.content.len()
    }

    fn try_read_at(&self, offset: u64, len: u32) -> Option<Bytes> {
        self.content.try_read_at(offset, len)
    }

    fn read_at(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, FsError>> {
        self.content.read_at(offset, len)
    }

    fn is_as_before(&self) -> bool {
        self.content.is_as_before()
    }

    fn is_backed(&self) -> bool {
        self.content.is_backed()
    }

    fn backing_file(&self) -> Option<BackingFile> {
        self.content.backing_file()
    }
}
