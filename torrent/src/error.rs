//! The errors of the engine's operations, one enum an operation, and whose fault each is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::store::StoreError;

/// Whose fault an error is: what to retry, to report and at which level follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nobody could give the data.
    Network,
    /// This machine's disk or memory.
    Local,
    /// Whoever called.
    Caller,
}

/// Why a read got no data.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No progress was made for too long.
    #[error(
        "no data for piece {piece} in {} s: {sources} of {connected} connected peers have it",
        waited.as_secs()
    )]
    Timeout {
        /// The first piece that is missing.
        piece: u32,
        /// Connected sources that have it.
        sources: usize,
        /// Connected sources.
        connected: usize,
        /// How long nothing moved.
        waited: Duration,
    },
    /// The disk is full, so that what was fetched cannot be kept.
    #[error("no space left for what was fetched; free some or choose another cache directory")]
    NoSpace,
    /// The store cannot be read or written.
    #[error("the store failed: {0}")]
    Store(Arc<StoreError>),
    /// Something is missing and the session has no network.
    #[error("piece {piece} is not on this machine, and the session is offline")]
    Offline {
        /// The first piece that is missing.
        piece: u32,
    },
    /// The torrent was removed or the session is shutting down.
    #[error("the torrent was closed")]
    Closed,
}

impl ReadError {
    /// Whether the same read may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::NoSpace)
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Timeout { .. } => Fault::Network,
            Self::NoSpace | Self::Store(_) => Fault::Local,
            Self::Closed | Self::Offline { .. } => Fault::Caller,
        }
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSpace { .. } => Self::NoSpace,
            error => Self::Store(Arc::new(error)),
        }
    }
}

/// Why a file or torrent cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The metadata is still missing.
    #[error("the torrent's metadata has not arrived yet")]
    NotReady,
    /// The index names no file, or names a symbolic link or padding.
    #[error("the torrent has no such file")]
    NoSuchFile,
    /// The torrent cannot be used.
    #[error("{0}")]
    Failed(String),
    /// The torrent was removed or the session is shutting down.
    #[error("the torrent was closed")]
    Closed,
}

/// Why a file could not be pinned or unpinned.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// The metadata is still missing.
    #[error("the torrent's metadata has not arrived yet")]
    NotReady,
    /// The index names no file, or names a symbolic link or padding.
    #[error("the torrent has no such file")]
    NoSuchFile,
    /// The pin could not be saved.
    #[error("the pin could not be saved: {0}")]
    Store(Arc<StoreError>),
    /// The session is shutting down.
    #[error("the torrent was closed")]
    Closed,
}

/// Why a session could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The port is taken, or the address is not ours.
    #[error("cannot listen on {addr}: {source}; choose another with --listen")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// The cache directory cannot be made or written.
    #[error("cannot use the cache directory {}: {source}; choose another with --cache-dir", path.display())]
    CacheDir {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The HTTP client cannot be set up.
    #[error("cannot set up HTTP: {0}")]
    Http(#[from] crate::http::HttpError),
    /// An extension has a name that cannot be told to peers.
    #[error("an extension cannot be offered: {0}")]
    Extension(#[from] wtfs_proto::wire::extended::RegisterError),
}

/// Why a torrent could not be added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// The session has it already.
    #[error("the torrent {0} is there already")]
    Duplicate(wtfs_proto::id::InfoHash),
    /// Its data or its record cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The session is shutting down.
    #[error("the session is closed")]
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timed_out_read_says_what_was_missing_and_who_had_it() {
        let error =
            ReadError::Timeout { piece: 7, sources: 0, connected: 3, waited: Duration::from_secs(60) };
        assert_eq!(error.to_string(), "no data for piece 7 in 60 s: 0 of 3 connected peers have it");
        assert!(error.is_retryable());
        assert_eq!(error.fault(), Fault::Network);
        assert_eq!(ReadError::Closed.fault(), Fault::Caller);
    }
}
