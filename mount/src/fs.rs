//! The file operations, without a kernel in sight.
//!
//! [`FileSystem`] turns what the kernel asks into questions to the two ports and keeps the table of open files. It
//! only sequences: names are the [`Tree`]'s, bytes the [`Content`](crate::Content)'s, and a read that would have to wait
//! is handed back as [`ReadStep::Later`] for somebody who may wait. Nothing here blocks.

use std::ffi::OsStr;
use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use wtfs_proto::id::InfoHash;

use crate::content::BoxFuture;
use crate::errno::FsError;
use crate::handles::{HandleId, HandleTable, OpenFile};
use crate::inode::InodeNo;
use crate::tree::{Cookie, Node, NodeKind, Tree, Volume};

/// Bound on open files of one mount. A loader that maps every shard of every model stays far below; a runaway program
/// gets `ENFILE` before the table costs more than some tens of MiB.
const MAX_HANDLES: usize = 262_144;

/// No kernel asks for more in one read (its limit is 1 MiB by default, a few MiB with a raised sysctl).
const MAX_READ_BYTES: u32 = 16 << 20;

/// What `statfs` says a name may have. The kernel itself stops only at 1,024 bytes.
pub(crate) const MAX_NAME_BYTES: usize = 255;

/// Longest value the kernel takes for an extended attribute (XATTR_SIZE_MAX).
const MAX_ATTRIBUTE_BYTES: usize = 65_536;

/// Positions of `.` and `..`; a tree's cookies come behind them.
const DOT_ENTRIES: u64 = 2;

/// What a program wants to do with a file it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenIntent {
    Read,
    Write,
}

/// How far a read came without waiting.
#[derive(Debug)]
pub(crate) enum ReadStep {
    Ready(Bytes),
    /// To be continued with [`read_waiting`] by somebody who may wait; the range is clamped to the file already.
    Later {
        file: Arc<OpenFile>,
        offset: u64,
        len: u32,
    },
}

/// How far a look-up came without waiting.
pub(crate) enum LookupStep {
    Found(Node),
    /// To be waited for by somebody who may.
    Later(BoxFuture<'static, Result<Node, FsError>>),
}

impl fmt::Debug for LookupStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(node) => f.debug_tuple("Found").field(node).finish(),
            Self::Later(_) => f.debug_struct("Later").finish_non_exhaustive(),
        }
    }
}

/// The answer to a question for an extended attribute.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AttributeReply {
    /// The caller asked how large a buffer it needs.
    Size(u32),
    Value(Vec<u8>),
}

/// What `lseek` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seek {
    Data,
    Hole,
}

/// An entry for `readdir`, with the offset at which the listing goes on behind it.
#[derive(Debug)]
pub(crate) struct DirEntry<'a> {
    pub(crate) offset: u64,
    pub(crate) name: &'a OsStr,
    pub(crate) node: Node,
}

#[derive(Debug)]
pub(crate) struct FileSystem {
    tree: Arc<dyn Tree>,
    handles: HandleTable,
}

impl FileSystem {
    pub(crate) fn new(tree: Arc<dyn Tree>) -> Self {
        Self { tree, handles: HandleTable::new(MAX_HANDLES) }
    }

    /// Finds what is known; otherwise says where to look further.
    pub(crate) fn lookup(&self, parent: u64, name: &OsStr) -> Result<LookupStep, FsError> {
        if name.len() > MAX_NAME_BYTES {
            return Err(FsError::NameTooLong);
        }
        let parent = number(parent)?;
        match self.tree.lookup(parent, name) {
            Ok(node) => Ok(LookupStep::Found(node)),
            Err(FsError::NotFound) => {
                self.tree.search(parent, name).map(LookupStep::Later).ok_or(FsError::NotFound)
            }
            Err(error) => Err(error),
        }
    }

    /// Who is to be told of entries that are shown to the kernel, for a look-up that is answered later.
    pub(crate) fn tree(&self) -> Arc<dyn Tree> {
        Arc::clone(&self.tree)
    }

    /// The kernel is told of an entry. Before it is: it may forget it at once.
    pub(crate) fn told(&self, node: &Node) {
        self.tree.told(node.ino);
    }

    pub(crate) fn forgotten(&self, ino: u64, times: u64) {
        if let Ok(ino) = number(ino) {
            self.tree.forgotten(ino, times);
        }
    }

    /// An open file answers for itself when its entry has left the tree.
    pub(crate) fn attributes(&self, ino: u64, handle: Option<HandleId>) -> Result<Node, FsError> {
        let known = self.node(ino);
        match (known, handle) {
            (Err(FsError::Stale), Some(handle)) => Ok(self.handles.find(handle)?.node.clone()),
            (known, _) => known,
        }
    }

    pub(crate) fn read_link(&self, ino: u64) -> Result<PathBuf, FsError> {
        self.tree.read_link(number(ino)?)
    }

    pub(crate) fn open(&self, ino: u64, intent: OpenIntent) -> Result<(HandleId, Arc<OpenFile>), FsError> {
        if intent == OpenIntent::Write {
            return Err(FsError::ReadOnly);
        }
        let node = self.node(ino)?;
        let content = self.tree.open(node.ino)?;
        let file = Arc::new(OpenFile { node, content });
        let handle = self.handles.insert(Arc::clone(&file))?;
        Ok((handle, file))
    }

    pub(crate) fn open_directory(&self, ino: u64) -> Result<Node, FsError> {
        let node = self.node(ino)?;
        if node.kind == NodeKind::Directory { Ok(node) } else { Err(FsError::NotADirectory) }
    }

    /// The file that was open, if it was.
    pub(crate) fn release(&self, handle: HandleId) -> Option<Arc<OpenFile>> {
        self.handles.remove(handle)
    }

    /// Reads what can be had at once; otherwise says what is left to do.
    pub(crate) fn read(&self, handle: HandleId, offset: u64, len: u32) -> Result<ReadStep, FsError> {
        let file = self.handles.find(handle)?;
        if len > MAX_READ_BYTES {
            return Err(FsError::InvalidArgument);
        }
        let left = file.content.len().saturating_sub(offset);
        let len = u32::try_from(left).map_or(len, |left| left.min(len));
        if len == 0 {
            return Ok(ReadStep::Ready(Bytes::new()));
        }
        match file.content.try_read_at(offset, len) {
            Some(bytes) => Ok(ReadStep::Ready(exactly(bytes, len)?)),
            None => Ok(ReadStep::Later { file, offset, len }),
        }
    }

    /// Lists `dir` behind `offset` until `add` says that its buffer is full.
    pub(crate) fn list(
        &self,
        dir: u64,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        let node = self.open_directory(dir)?;
        if offset < 1 {
            let entry = DirEntry { offset: 1, name: OsStr::new("."), node: node.clone() };
            if add(entry).is_break() {
                return Ok(());
            }
        }
        if offset < DOT_ENTRIES {
            let parent = self.tree.node(node.parent).unwrap_or_else(|| node.clone());
            let entry = DirEntry { offset: DOT_ENTRIES, name: OsStr::new(".."), node: parent };
            if add(entry).is_break() {
                return Ok(());
            }
        }
        let after = Cookie(offset.saturating_sub(DOT_ENTRIES));
        self.tree.list(node.ino, after, &mut |listed| {
            let offset = listed.cookie.0.saturating_add(DOT_ENTRIES);
            add(DirEntry { offset, name: listed.name, node: listed.node })
        })
    }

    /// `capacity` 0 asks for the size only.
    pub(crate) fn attribute(&self, ino: u64, name: &OsStr, capacity: u32) -> Result<AttributeReply, FsError> {
        let node = self.node(ino)?;
        let value = self.tree.attribute(node.ino, name).ok_or(FsError::NoAttribute)?;
        fit(value, capacity)
    }

    pub(crate) fn attribute_names(&self, ino: u64, capacity: u32) -> Result<AttributeReply, FsError> {
        let node = self.node(ino)?;
        let mut list = Vec::new();
        for name in self.tree.attribute_names(node.ino) {
            list.extend_from_slice(name.as_bytes());
            list.push(0);
        }
        fit(list, capacity)
    }

    /// All of a file is data, also what is not local yet. Reporting the rest as holes would make `cp`, `tar -S` and
    /// `rsync -S` write zeros in its place without reading it, and `grep` call every cold text file binary. What is
    /// local is told by an extended attribute, which no program takes for something else.
    pub(crate) fn seek(&self, handle: HandleId, offset: i64, seek: Seek) -> Result<i64, FsError> {
        let file = self.handles.find(handle)?;
        let size = i64::try_from(file.content.len()).unwrap_or(i64::MAX);
        if offset < 0 || offset >= size {
            return Err(FsError::BeyondEnd);
        }
        match seek {
            Seek::Data => Ok(offset),
            Seek::Hole => Ok(size),
        }
    }

    /// The torrent whose entry `name` in `parent` is; only the root has such.
    pub(crate) fn torrent_at(&self, parent: u64, name: &OsStr) -> Option<InfoHash> {
        if parent == InodeNo::ROOT.get() { self.tree.torrent_at(name) } else { None }
    }

    /// Whether lines can be written into this file.
    pub(crate) fn takes_lines(&self, ino: u64) -> bool {
        self.tree.lines_file().is_some_and(|file| file.get() == ino)
    }

    pub(crate) fn volume(&self) -> Volume {
        self.tree.volume()
    }

    fn node(&self, ino: u64) -> Result<Node, FsError> {
        self.tree.node(number(ino)?).ok_or(FsError::Stale)
    }
}

/// Completes a [`ReadStep::Later`].
pub(crate) async fn read_waiting(file: &OpenFile, offset: u64, len: u32) -> Result<Bytes, FsError> {
    exactly(file.content.read_at(offset, len).await?, len)
}

/// The kernel fills a short answer up with zeros, and they would stay in its page cache: a content that answers short
/// has failed.
fn exactly(bytes: Bytes, len: u32) -> Result<Bytes, FsError> {
    if bytes.len() == len as usize {
        Ok(bytes)
    } else {
        Err(FsError::io(WrongLength { wanted: len, found: bytes.len() }))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("content gave {found} bytes where {wanted} were asked for")]
struct WrongLength {
    wanted: u32,
    found: usize,
}

fn number(ino: u64) -> Result<InodeNo, FsError> {
    InodeNo::new(ino).ok_or(FsError::Stale)
}

fn fit(value: Vec<u8>, capacity: u32) -> Result<AttributeReply, FsError> {
    let size = u32::try_from(value.len()).unwrap_or(u32::MAX);
    if value.len() > MAX_ATTRIBUTE_BYTES || (capacity != 0 && capacity < size) {
        Err(FsError::BufferTooSmall)
    } else if capacity == 0 {
        Ok(AttributeReply::Size(size))
    } else {
        Ok(AttributeReply::Value(value))
    }
}

#[cfg(test)]
#[path = "fs/tests.rs"]
mod tests;
