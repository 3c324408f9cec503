//! The bytes of a repository's file, from a blob: what is here at once, the rest as it is asked for.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use wtfs_proto::hf::Repo;
use wtfs_torrent::hf::UpstreamError;
use wtfs_torrent::hf::blobs::{Blob, BlobError, BlobOrigin, OriginFault};

use crate::content::{BackingFile, BoxFuture, Content};
use crate::errno::FsError;
use crate::hf::repositories::Repositories;

/// One open file of a repository.
pub(super) struct BlobContent {
    blob: Blob,
    origin: Arc<dyn BlobOrigin>,
    /// For the log.
    label: String,
    repositories: Repositories,
    repo: Repo,
}

impl fmt::Debug for BlobContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobContent").field("file", &self.label).finish_non_exhaustive()
    }
}

/// Why a file of a repository could not be read, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {error}{advice}")]
struct Unread {
    file: String,
    advice: String,
    #[source]
    error: BlobError,
}

impl BlobContent {
    pub(super) fn new(
        blob: Blob,
        origin: Arc<dyn BlobOrigin>,
        label: String,
        repositories: Repositories,
        repo: Repo,
    ) -> Self {
        Self { blob, origin, label, repositories, repo }
    }

    fn failed(&self, error: BlobError) -> FsError {
        let origin = error.origin();
        let upstream = origin.and_then(|origin| origin.source.as_ref()?.downcast_ref::<UpstreamError>());
        let advice = match (&error, upstream) {
            (_, Some(upstream)) => self.repositories.advice(&self.repo, upstream),
            (BlobError::Corrupt, None) => {
                "; the hub's copy is damaged: try another hub with --hub or --hf-endpoint".into()
            }
            (BlobError::Replaced, None) => "; open the file again".into(),
            (BlobError::NoSpace, None) => "; free some, or allow less with --cache-size".into(),
            (BlobError::Offline, None) => "; mount without --offline to fetch it".into(),
            _ => String::new(),
        };
        let is_refused = origin.is_some_and(|origin| origin.fault == OriginFault::Forbidden);
        let is_late = matches!(error, BlobError::Timeout { .. });
        let is_full = matches!(error, BlobError::NoSpace);
        let cause = Arc::new(Unread { file: self.label.clone(), advice, error });
        match (is_refused, is_late, is_full) {
            (true, ..) => FsError::Denied(cause),
            (_, true, _) => FsError::TimedOut(cause),
            (.., true) => FsError::NoSpace(cause),
            _ => FsError::Io(cause),
        }
    }
}

impl Content for BlobContent {
    fn len(&self) -> u64 {
        self.blob.len()
    }

    fn try_read_at(&self, offset: u64, len: u32) -> Option<Bytes> {
        self.blob.try_read_at(offset, len)
    }

    fn read_at(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, FsError>> {
        Box::pin(async move {
            let read = self.blob.read_at(offset, len, &self.origin).await;
            read.map_err(|error| self.failed(error))
        })
    }

    fn is_backed(&self) -> bool {
        self.blob.is_whole()
    }

    fn backing_file(&self) -> Option<BackingFile> {
        let held = self.blob.file()?;
        Some(BackingFile { file: held.file, guard: Box::new(held.hold) })
    }
}
