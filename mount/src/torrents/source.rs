//! What the tree needs from a torrent; the engine's handle is one, a test's stand-in another.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use wtfs_proto::geometry::FileIndex;
use wtfs_proto::id::InfoHash;
use wtfs_proto::metainfo::Metainfo;

use crate::content::{BoxFuture, Content};
use crate::errno::FsError;

/// How much of a torrent is local.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Pieces verified and stored.
    pub pieces_present: u32,
    /// Pieces in all.
    pub pieces: u32,
}

/// A torrent as a source of entries. No method but [`TorrentSource::arrival`] may wait for anything.
pub trait TorrentSource: fmt::Debug + Send + Sync + 'static {
    /// What names its swarm.
    fn info_hash(&self) -> InfoHash;

    /// Its name, or what a magnet says it is.
    fn name(&self) -> String;

    /// The metainfo, once it is known.
    fn metainfo(&self) -> Option<Arc<Metainfo>>;

    /// Completes with the metainfo when it is known, or with the reason why it never will be.
    fn arrival(&self) -> BoxFuture<'static, Result<Arc<Metainfo>, String>>;

    /// In words: what it waits for, and from whom. Lines of text.
    fn describe_wait(&self) -> String;

    /// How much is local.
    fn progress(&self) -> Progress;

    /// How many bytes of a file are local.
    fn local_bytes(&self, file: FileIndex) -> u64;

    /// Which bytes of a file are local, in order and joined where they touch; the first `limit` ranges.
    fn local_ranges(&self, file: FileIndex, limit: usize) -> Vec<Range<u64>>;

    /// Content for a new handle.
    ///
    /// # Errors
    /// When the file cannot be opened.
    fn open(&self, file: FileIndex) -> Result<Arc<dyn Content>, FsError>;
}
