//! Torrents as a directory: the FUSE side of wtfs.
//!
//! ```text
//!  kernel ── fuse.rs ── fs.rs ──┬── tree.rs     port: names      ◄── torrents.rs, hf.rs + catalog.rs
//!                │              ├── content.rs  port: bytes      ◄── torrents.rs (wtfs_torrent::FileReader)
//!                │              └── handles.rs, errno.rs
//!                ├── fuse/errands.rs, inbox.rs, control.rs   what users ask for by writing into the mount
//!                ├── fuse/opening.rs, modes.rs  complete local files: the kernel reads them alone
//!                └── reads.rs ── interrupt.rs, timeouts.rs   reads that wait: a task each, and each ends
//!  session.rs: mounting, threads, unmounting        changes.rs: names the kernel must forget
//! ```
//!
//! What holds:
//! - A thread that serves the kernel never waits for a disk, the network or a lock held across either. A read that would
//!   have to becomes a task that owns the reply.
//! - Every read ends: with its bytes, the content's error, `EINTR` when a signal awaits the caller, or `ENOTCONN` when the
//!   mount goes away. Dropping it withdraws the demand.
//! - Never a short answer before the end of a file, never zeros in place of missing bytes, and no hole reported where
//!   bytes are merely not local yet.
//! - Names from a torrent cannot leave their directory. Numbers and times are the same after a restart.
//! - [`errno`](FsError::errno) is the only place where an error becomes a number.
#![deny(missing_docs)]

mod attributes;
mod catalog;
mod changes;
mod content;
mod control;
mod errno;
mod fs;
mod fuse;
mod handles;
mod hf;
mod inbox;
mod inode;
mod interrupt;
mod mapped;
mod modes;
mod mountinfo;
mod reads;
mod session;
mod timeouts;
mod torrents;
mod tree;

pub use catalog::{Catalog, CatalogError, Entry, Executable, Leaf, modified_from};
pub use changes::Changes;
pub use content::{BackingFile, BoxFuture, Content, MemoryContent};
pub use control::Control;
pub use errno::{Cause, FsError};
pub use hf::{
    ChoiceError, Chosen, HfTree, HfTreeConfig, Local, Pinned, Reach, RepoError, RepoFile, RepoRevision,
    RepoSource, Repositories, RepositoriesConfig, RootError, SwarmConfig, Traffic, Unread,
};
pub use inode::{InodeNo, TreeTag};
pub use mapped::MappedFile;
pub use mountinfo::{MountedAt, list_mounts, unescape_octal};
pub use session::{
    Audience, Mount, MountConfig, MountError, Passthrough, UnmountError, Unmounted, check_mount_point,
    unmount_path,
};
pub use torrents::{ControlFile, EntryError, Progress, TorrentSource, TorrentTree};
pub use tree::{Caching, Cookie, Listed, Node, NodeKind, Tree, Volume};
