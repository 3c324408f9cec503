//! The port for control through the mount: what users ask for by writing into it, and who carries it out.
//!
//! A mount without a [`Control`] cannot be written to at all. With one, exactly three things are taken: a `.torrent`
//! copied into the root, lines written into `.wtfs/add`, and the removal of an entry of the root.

use std::fmt;

use bytes::Bytes;
use wtfs_proto::id::InfoHash;

use crate::content::BoxFuture;

/// Carries out what users ask for through the mount.
///
/// Each method completes when the request is carried out, or with the reason why it cannot be, in words for the person
/// who asked: the program that asked sees `EINVAL` (`EBUSY` for a removal), the log the words. None of them may block a thread.
///
/// # Cancel safety
/// The future of an addition is dropped when the mount is taken down meanwhile; that of a removal never is.
pub trait Control: fmt::Debug + Send + Sync + 'static {
    /// Adds the torrent that a `.torrent` file describes. Not parsed yet; at most 32 MiB.
    fn add_torrent(&self, bytes: Bytes) -> BoxFuture<'_, Result<(), String>>;

    /// Adds what a line names: a magnet link, a URL, a path, an info hash. Never empty, without white space around.
    fn add_source(&self, text: String) -> BoxFuture<'_, Result<(), String>>;

    /// Removes a torrent, from the engine and from the tree.
    fn remove_entry(&self, torrent: InfoHash) -> BoxFuture<'_, Result<(), String>>;
}
