//! The adapter between fuser and [`FileSystem`]: it translates, and decides nothing but the kernel's settings.
//!
//! fuser calls these methods on its few threads, so none of them waits: a read that has to moves, with its reply, into a
//! task. Whatever would change something answers `EROFS`, but for what [`Errands`] take: a `.torrent` or a line that is
//! written, the removal of an entry.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::errno::{FsError, Loudness};
use crate::fs::{
    AttributeReply, DirEntry, FileSystem, LookupStep, MAX_NAME_BYTES, OpenIntent, ReadStep, Seek,
};
use crate::handles::HandleId;
use crate::inbox::Inbox;
use crate::reads::{Reads, WaitingRead};
use crate::session::Passthrough;
use crate::tree::{Caching, Node, NodeKind};

mod errands;
mod opening;

pub(crate) use errands::Errands;
pub(crate) use opening::Opens;

/// Requests the kernel may have in flight on behalf of read-ahead and page faults, which is how nearly all reads come.
/// The most there is: what is over the limit queues inside the kernel, where nobody can schedule or interrupt it, and a
/// queue full of stalled reads (256 of them suffice at a limit of 256) keeps reads of local bytes waiting for ever.
/// Memory is bounded by the budget of the reads instead.
const MAX_BACKGROUND: u16 = u16::MAX;

/// Size of one request: the most the kernel takes (256 pages) without a raised sysctl.
const MAX_REQUEST_BYTES: u32 = 1 << 20;

/// For what never changes. A day rather than for ever, so that a mistake heals.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// For files that are being filled: names and bytes stand, the share that is local moves.
const SHORT: Duration = Duration::from_secs(1);

/// Unit of `st_blocks`, fixed by POSIX tradition.
const STAT_BLOCK_BYTES: u64 = 512;

/// Unit of `statfs` numbers.
const VOLUME_BLOCK_BYTES: u32 = 4096;

/// Numbers are hashes of what they stand for and are never given to something else.
const GENERATION: Generation = Generation(0);

/// How many file systems may be stacked above the data files, this one counted. One: data files on an overlay are
/// read through this process, but the mount itself can be the lower layer of an overlay, as containers want it.
const STACK_DEPTH: u32 = 1;

#[derive(Debug)]
pub(crate) struct Adapter {
    pub(crate) fs: FileSystem,
    pub(crate) reads: Arc<Reads>,
    pub(crate) opens: Opens,
    /// Missing where nothing can be written.
    pub(crate) errands: Option<Errands>,
    pub(crate) passthrough: Passthrough,
    pub(crate) owner: Owner,
}

/// Whose everything in the mount is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    fn attr(self, node: &Node) -> FileAttr {
        FileAttr {
            ino: INodeNo(node.ino.get()),
            size: node.bytes,
            blocks: blocks(node),
            atime: node.modified,
            mtime: node.modified,
            ctime: node.modified,
            crtime: node.modified,
            kind: file_type(node.kind),
            perm: node.permissions,
            nlink: node.links,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: MAX_REQUEST_BYTES,
            flags: 0,
        }
    }
}

impl Adapter {
    fn attr(&self, node: &Node) -> FileAttr {
        let attr = self.owner.attr(node);
        FileAttr { perm: attr.perm | self.write_permission(node), ..attr }
    }

    /// The kernel asks the permissions before it asks us: where something can be added and removed its owner may write.
    fn write_permission(&self, node: &Node) -> u16 {
        if self.errands.is_some() && node.ino == crate::inode::InodeNo::ROOT { 0o200 } else { 0 }
    }

    /// A file that is being written into the root.
    fn letter(&self, ino: INodeNo) -> Option<Node> {
        self.errands.as_ref()?.inbox.node(crate::inode::InodeNo::new(ino.0)?)
    }

    /// Those who take what is written through this handle.
    fn taker(&self, handle: HandleId) -> Option<&Errands> {
        self.errands.as_ref().filter(|_| Inbox::owns(handle))
    }

    fn find_name(&self, parent: INodeNo, name: &OsStr) -> Result<LookupStep, FsError> {
        let found = self.fs.lookup(parent.0, name);
        match (&self.errands, found) {
            (Some(errands), Err(FsError::NotFound)) if parent == INodeNo::ROOT => {
                errands.inbox.lookup(name).map(LookupStep::Found).ok_or(FsError::NotFound)
            }
            (_, found) => found,
        }
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removal =
            self.errands.as_ref().and_then(|errands| Some((errands, self.fs.torrent_at(parent.0, name)?)));
        match removal {
            Some((errands, torrent)) => errands.remove(torrent, move |outcome| done(outcome, reply)),
            None => reply.error(self.read_only()),
        }
    }

    /// Opens the file that takes lines.
    fn open_lines(&self, errands: &Errands, reply: ReplyOpen) {
        match errands.inbox.open_lines() {
            Ok(handle) => reply.opened(FileHandle(handle.0), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn read_only(&self) -> Errno {
        errno(&FsError::ReadOnly)
    }
}

/// At least one block for a file that has bytes: `tar -S` takes a file without blocks for all zeros and does not read it.
fn blocks(node: &Node) -> u64 {
    match node.kind {
        NodeKind::File if node.bytes > 0 => {
            node.local_bytes.min(node.bytes).div_ceil(STAT_BLOCK_BYTES).max(1)
        }
        NodeKind::File | NodeKind::Directory | NodeKind::Symlink => 0,
    }
}

fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::Directory => FileType::Directory,
        NodeKind::File => FileType::RegularFile,
        NodeKind::Symlink => FileType::Symlink,
    }
}

fn name_lifetime(node: &Node) -> Duration {
    match node.caching {
        Caching::Immutable | Caching::Filling => LONG,
        Caching::Volatile => Duration::ZERO,
    }
}

fn attr_lifetime(node: &Node) -> Duration {
    match node.caching {
        Caching::Immutable => LONG,
        Caching::Filling => SHORT,
        Caching::Volatile => Duration::ZERO,
    }
}

/// Direct I/O only where content changes by itself: a shared mapping fails under it.
fn open_flags(node: &Node) -> FopenFlags {
    let kept = match (node.caching, node.kind) {
        (Caching::Volatile, NodeKind::Directory) => FopenFlags::empty(),
        (Caching::Volatile, NodeKind::File | NodeKind::Symlink) => FopenFlags::FOPEN_DIRECT_IO,
        (Caching::Immutable, NodeKind::Directory) => {
            FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR
        }
        (Caching::Immutable | Caching::Filling, _) => FopenFlags::FOPEN_KEEP_CACHE,
    };
    // Nothing is ever written, so nothing is to be flushed at close.
    kept | FopenFlags::FOPEN_NOFLUSH
}

fn errno(error: &FsError) -> Errno {
    match error.loudness() {
        Loudness::Warn => tracing::warn!(errno = error.errno(), "{error}"),
        Loudness::Quiet => tracing::trace!(errno = error.errno(), "{error}"),
    }
    Errno::from_i32(error.errno())
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // What a kernel does not know it does without; none of these is needed for a right answer.
        for wish in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_PARALLEL_DIROPS,
            // For every part of a listing, not by the kernel's guess (READDIRPLUS_AUTO): `ls -l` reads the whole
            // listing before it looks at the first entry, and then looked each up by a request of its own.
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_MAX_PAGES,
        ] {
            let _unknown_to_this_kernel = config.add_capabilities(wish);
        }
        if self.passthrough == Passthrough::WherePossible
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(STACK_DEPTH).is_ok()
        {
            self.opens.allow_passthrough();
        }
        let _previous = config.set_max_background(MAX_BACKGROUND);
        let _previous = config.set_max_write(MAX_REQUEST_BYTES);
        if let Err(most) = config.set_max_readahead(u32::MAX) {
            let _previous = config.set_max_readahead(most);
        }
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find_name(parent, name) {
            Ok(LookupStep::Found(node)) => {
                self.fs.told(&node);
                found(&node, &self.attr(&node), reply);
            }
            Ok(LookupStep::Later(search)) => {
                let (owner, tree) = (self.owner, self.fs.tree());
                self.reads.start_search(search, name, req.pid(), move |outcome| match outcome {
                    Ok(node) => {
                        tree.told(node.ino);
                        found(&node, &owner.attr(&node), reply);
                    }
                    // Logged where it happened.
                    Err(error) => reply.error(Errno::from_i32(error.errno())),
                });
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forgotten(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.fs.attributes(ino.0, fh.map(|fh| HandleId(fh.0))) {
            Ok(node) => reply.attr(&attr_lifetime(&node), &self.attr(&node)),
            Err(error) => match self.letter(ino) {
                Some(node) => reply.attr(&attr_lifetime(&node), &self.attr(&node)),
                None => reply.error(errno(&error)),
            },
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.fs.read_link(ino.0) {
            Ok(target) => reply.data(target.as_os_str().as_encoded_bytes()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let intent = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => OpenIntent::Read,
            OpenAccMode::O_WRONLY | OpenAccMode::O_RDWR => OpenIntent::Write,
        };
        if intent == OpenIntent::Write
            && let Some(errands) = &self.errands
            && self.fs.takes_lines(ino.0)
        {
            return self.open_lines(errands, reply);
        }
        match self.fs.open(ino.0, intent) {
            Ok((handle, file)) => {
                let mut flags = open_flags(&file.node);
                if !file.content.is_as_before() {
                    flags.remove(FopenFlags::FOPEN_KEEP_CACHE);
                }
                self.opens.answer(&file, handle, flags, reply);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn read(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let handle = HandleId(fh.0);
        match self.fs.read(handle, offset, size) {
            Ok(ReadStep::Ready(bytes)) => reply.data(&bytes),
            Ok(ReadStep::Later { file, offset, len }) => {
                let read = WaitingRead { file, handle, offset, len, caller: req.pid() };
                self.reads.start(read, move |outcome| match outcome {
                    Ok(bytes) => reply.data(&bytes),
                    // Logged where it happened, inside the span of the read.
                    Err(error) => reply.error(Errno::from_i32(error.errno())),
                });
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let handle = HandleId(fh.0);
        if let Some(file) = self.fs.release(handle) {
            self.opens.closed(&file);
        }
        match self.taker(handle) {
            // Nobody hears the outcome of a release; it is in the log.
            Some(errands) => errands.run(errands.inbox.release(handle), move |_| reply.ok()),
            None => reply.ok(),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let handle = HandleId(fh.0);
        match self.taker(handle) {
            Some(errands) => errands.run(errands.inbox.flush(handle), move |outcome| done(outcome, reply)),
            None => reply.ok(),
        }
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.fs.open_directory(ino.0) {
            Ok(node) => reply.opened(FileHandle(0), open_flags(&node)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.fs.list(ino.0, offset, &mut |DirEntry { offset, name, node }| {
            let is_full = reply.add(INodeNo(node.ino.get()), offset, file_type(node.kind), name);
            if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.fs.list(ino.0, offset, &mut |DirEntry { offset, name, node }| {
            // One lifetime for name and attributes here: the shorter.
            let (attr, lifetime) = (self.attr(&node), attr_lifetime(&node));
            let is_full = reply.add(attr.ino, offset, name, &lifetime, &attr, GENERATION);
            if is_full {
                return ControlFlow::Break(());
            }
            // These two the kernel knows already.
            if name != "." && name != ".." {
                self.fs.told(&node);
            }
            ControlFlow::Continue(())
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let volume = self.fs.volume();
        let unit = u64::from(VOLUME_BLOCK_BYTES);
        let free = volume.free_bytes / unit;
        let total = volume.total_bytes.div_ceil(unit).saturating_add(free);
        let name_bytes = MAX_NAME_BYTES as u32;
        reply.statfs(
            total,
            free,
            free,
            volume.entries,
            0,
            VOLUME_BLOCK_BYTES,
            name_bytes,
            VOLUME_BLOCK_BYTES,
        );
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        reply_attribute(self.fs.attribute(ino.0, name, size), reply);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        reply_attribute(self.fs.attribute_names(ino.0, size), reply);
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let sought = match whence {
            libc::SEEK_DATA => self.fs.seek(HandleId(fh.0), offset, Seek::Data),
            libc::SEEK_HOLE => self.fs.seek(HandleId(fh.0), offset, Seek::Hole),
            // The kernel does the others itself.
            _ => Err(FsError::InvalidArgument),
        };
        match sought {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(errno(&error)),
        }
    }

    // What would change something.

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let Some(errands) = &self.errands else { return reply.error(self.read_only()) };
        // A shell truncates what it writes to. Times and modes of what passes through matter to nobody.
        let taken = match (self.letter(ino), size) {
            (Some(letter), Some(size)) => errands.inbox.resize(letter.ino, size),
            (Some(_), None) => Ok(()),
            (None, Some(0)) if self.fs.takes_lines(ino.0) => Ok(()),
            (None, _) => Err(FsError::ReadOnly),
        };
        let node = match self.letter(ino) {
            Some(letter) => Ok(letter),
            None => self.fs.attributes(ino.0, None),
        };
        match taken.and(node) {
            Ok(node) => reply.attr(&attr_lifetime(&node), &self.attr(&node)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(self.read_only());
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(self.read_only());
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    /// Also of a directory that is not empty: the entry of a torrent is removed as a whole or not at all.
    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(self.read_only());
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(self.read_only());
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(self.read_only());
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let created = match &self.errands {
            Some(errands) if parent == INodeNo::ROOT => errands.inbox.create(name),
            Some(_) | None => Err(FsError::ReadOnly),
        };
        match created {
            Ok((handle, node)) => reply.created(
                &name_lifetime(&node),
                &self.attr(&node),
                GENERATION,
                FileHandle(handle.0),
                FopenFlags::FOPEN_DIRECT_IO,
            ),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let handle = HandleId(fh.0);
        let Some(errands) = self.taker(handle) else { return reply.error(self.read_only()) };
        // The kernel writes no more than a request holds.
        let count = u32::try_from(data.len()).unwrap_or(u32::MAX);
        match errands.inbox.write(handle, offset, data) {
            Ok(errand) => errands.run(errand, move |outcome| match outcome {
                Ok(()) => reply.written(count),
                Err(error) => reply.error(errno(&error)),
            }),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn setxattr(&self, _: &Request, ino: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        let refusal = if self.letter(ino).is_some() { FsError::NotSupported } else { FsError::ReadOnly };
        reply.error(errno(&refusal));
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(self.read_only());
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(self.read_only());
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(self.read_only());
    }
}

fn found(node: &Node, attr: &FileAttr, reply: ReplyEntry) {
    reply.entry_with_ttls(&attr_lifetime(node), &name_lifetime(node), attr, GENERATION);
}

fn done(outcome: Result<(), FsError>, reply: ReplyEmpty) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

fn reply_attribute(outcome: Result<AttributeReply, FsError>, reply: ReplyXattr) {
    match outcome {
        Ok(AttributeReply::Size(size)) => reply.size(size),
        Ok(AttributeReply::Value(value)) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
}
