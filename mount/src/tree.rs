//! The port for names: what a mount needs from whoever decides which entries exist.
//!
//! Every answer is immediate: no method waits for a disk, the network or a lock that is held across either, because they
//! run on the threads that serve the kernel, and one that waits stops `ls` for everybody. A tree that learns of entries
//! from the network says so with [`Tree::search`], which is waited for in a task.

use std::ffi::OsStr;
use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use wtfs_proto::id::InfoHash;

use crate::changes::Changes;
use crate::content::{BoxFuture, Content};
use crate::errno::FsError;
use crate::inode::InodeNo;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
}

/// How long what was said about an entry may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Caching {
    /// Nothing about it ever changes: the kernel may keep names, attributes and pages for as long as it likes.
    Immutable,
    /// Its bytes and size never change, but how much of it is local does.
    Filling,
    /// Contents change by themselves (control files, the root): asked for anew each time, read past the page cache.
    Volatile,
}

/// One entry's attributes, as they are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub ino: InodeNo,
    /// The directory it is in; of the root: the root.
    pub parent: InodeNo,
    /// What it is.
    pub kind: NodeKind,
    /// Size in bytes: content, or the target of a link; 0 for directories.
    pub bytes: u64,
    /// How many of these are local already.
    pub local_bytes: u64,
    /// Permission bits, such as `0o444`.
    pub permissions: u16,
    /// Names that lead here: 2 plus the subdirectories for a directory.
    pub links: u32,
    /// Last change; the same after a restart.
    pub modified: SystemTime,
    /// How long the above may be believed.
    pub caching: Caching,
}

/// A position in a directory's listing, given out by [`Tree::list`]; [`Cookie::START`] is before the first entry.
///
/// A position belongs to its entry for as long as the directory lives: entries that come or go meanwhile neither hide
/// others nor make them appear twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cookie(pub u64);

impl Cookie {
    /// Before the first entry.
    pub const START: Self = Self(0);
}

/// One entry as [`Tree::list`] shows it.
#[derive(Debug)]
pub struct Listed<'a> {
    /// The position of this entry; never [`Cookie::START`], and growing through the listing.
    pub cookie: Cookie,
    /// Its name, one path component.
    pub name: &'a OsStr,
    /// Its attributes.
    pub node: Node,
}

/// What `df` shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// Size of all content in bytes.
    pub total_bytes: u64,
    /// Room left for more local content in bytes.
    pub free_bytes: u64,
    /// How many entries there are.
    pub entries: u64,
}

/// The names of a mount.
pub trait Tree: fmt::Debug + Send + Sync + 'static {
    /// The entry with this number; `None` when there is none (any more).
    fn node(&self, ino: InodeNo) -> Option<Node>;

    /// The entry `name` in the directory `parent`. `.` and `..` are not asked for.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, or `Stale` for an unknown parent.
    fn lookup(&self, parent: InodeNo, name: &OsStr) -> Result<Node, FsError>;

    /// Looks for what [`Tree::lookup`] did not find, where that may take a while; asked only after it said `NotFound`.
    /// `None`: there is nowhere else to look, the entry does not exist.
    ///
    /// The future ends by itself; the mount has a deadline for it besides. Its entry is in the tree when it is done.
    ///
    /// # Cancel safety
    /// Dropped when the caller is interrupted or the mount goes away.
    fn search(&self, _parent: InodeNo, _name: &OsStr) -> Option<BoxFuture<'static, Result<Node, FsError>>> {
        None
    }

    /// Shows the entries of `dir` behind `after`, in order, until `visit` breaks. `.` and `..` are not among them.
    ///
    /// # Errors
    /// `NotADirectory`, or `Stale` for an unknown directory.
    fn list(
        &self,
        dir: InodeNo,
        after: Cookie,
        visit: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError>;

    /// Where the link points, relative to the directory it is in.
    ///
    /// # Errors
    /// `InvalidArgument` for anything but a link.
    fn read_link(&self, ino: InodeNo) -> Result<PathBuf, FsError>;

    /// The content of a file, for a new handle.
    ///
    /// # Errors
    /// `IsADirectory`, `Stale`, or why the content's owner refuses.
    fn open(&self, ino: InodeNo) -> Result<Arc<dyn Content>, FsError>;

    /// Names of the extended attributes; none unless a tree says otherwise.
    fn attribute_names(&self, _ino: InodeNo) -> Vec<String> {
        Vec::new()
    }

    /// One extended attribute.
    fn attribute(&self, _ino: InodeNo, _name: &OsStr) -> Option<Vec<u8>> {
        None
    }

    /// The torrent whose entry `name` in the root is, for a mount through which torrents are removed.
    fn torrent_at(&self, _name: &OsStr) -> Option<InfoHash> {
        None
    }

    /// The file that takes lines naming sources, if there is one.
    fn lines_file(&self) -> Option<InodeNo> {
        None
    }

    /// Numbers for `statfs`.
    fn volume(&self) -> Volume {
        Volume::default()
    }

    /// The kernel is told of this entry, and may use its number until it has forgotten it as often as it was told.
    fn told(&self, _ino: InodeNo) {}

    /// The kernel has forgotten that it was told of this number so often.
    fn forgotten(&self, _ino: InodeNo, _times: u64) {}

    /// Called once when the tree is mounted: `changes` is where it reports names that the kernel must forget.
    fn attach(&self, _changes: Changes) {}
}
