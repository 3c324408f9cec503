//! Why a blob could not be read.

use std::sync::Arc;
use std::time::Duration;

use super::origin::{OriginError, OriginFault};
use crate::store::StoreError;

/// Why a blob could not be read. Cheap to clone: all who wait for one fetch get the same.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The origin does not give it, for good or after several tries.
    #[error("{from}: {error}")]
    Origin {
        /// [`BlobOrigin::describe`](super::BlobOrigin::describe).
        from: Arc<str>,
        /// What it said.
        error: OriginError,
    },
    /// Nothing of it arrived for so long.
    #[error("nothing arrived for {} s", waited.as_secs())]
    Timeout {
        /// The read time-out.
        waited: Duration,
    },
    /// It is not here, and nobody may be asked.
    #[error("it is not here, and there is no network")]
    Offline,
    /// What the origin gives is not what the blob's hash says; so twice. Nothing of it is kept.
    #[error("what was fetched is not what its hash says")]
    Corrupt,
    /// What this reader read of it turned out not to be what the hash says, and was thrown away: it must begin again
    /// with another [`Blob`](super::Blob), and forget what it has.
    #[error("what was read before is not what its hash says, and was thrown away")]
    Replaced,
    /// The disk is full, and nothing can go.
    #[error("no space left on the cache's disk")]
    NoSpace,
    /// The disk does not work.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// Pieces of a torrent cannot have this length.
    #[error("pieces of {piece_bytes} bytes: a power of two of at least 16 KiB is needed")]
    PieceLength {
        /// What was asked for.
        piece_bytes: u32,
    },
    /// The session is closed.
    #[error("the session is closed")]
    Closed,
}

impl BlobError {
    /// Whether the same read may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Origin { error, .. } => error.fault == OriginFault::Transient,
            Self::Timeout { .. } | Self::NoSpace | Self::Corrupt => true,
            Self::Store(error) => error.is_retryable(),
            Self::Offline | Self::Replaced | Self::PieceLength { .. } | Self::Closed => false,
        }
    }

    /// What the origin said, if it was the origin.
    pub fn origin(&self) -> Option<&OriginError> {
        match self {
            Self::Origin { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<StoreError> for BlobError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSpace { .. } => Self::NoSpace,
            error => Self::Store(Arc::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_who_failed_and_whether_to_come_again() {
        let origin = |fault| BlobError::Origin {
            from: "hub.example".into(),
            error: OriginError::new(fault, "429 Too Many Requests"),
        };
        let texts = [
            (origin(OriginFault::Transient), "hub.example: 429 Too Many Requests", true),
            (origin(OriginFault::Forbidden), "hub.example: 429 Too Many Requests", false),
            (BlobError::Timeout { waited: Duration::from_secs(60) }, "nothing arrived for 60 s", true),
            (BlobError::Offline, "it is not here, and there is no network", false),
            (BlobError::Corrupt, "what was fetched is not what its hash says", true),
            (
                BlobError::Replaced,
                "what was read before is not what its hash says, and was thrown away",
                false,
            ),
            (BlobError::NoSpace, "no space left on the cache's disk", true),
            (StoreError::Cancelled.into(), "cancelled", true),
            (
                BlobError::PieceLength { piece_bytes: 3 },
                "pieces of 3 bytes: a power of two of at least 16 KiB is needed",
                false,
            ),
            (BlobError::Closed, "the session is closed", false),
        ];
        for (error, text, is_retryable) in texts {
            assert_eq!((error.to_string().as_str(), error.is_retryable()), (text, is_retryable));
        }
    }
}
