//! The bytes of a repository's file, from a blob: what is here at once, the rest as it is asked for.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use wtfs_proto::hf::Repo;
use wtfs_torrent::HeldFile;
use wtfs_torrent::hf::blobs::{Blob, BlobError, BlobOrigin, OriginFault};
use wtfs_torrent::hf::{Token, UpstreamError};

use crate::content::{BackingFile, BoxFuture, Content};
use crate::errno::FsError;
use crate::hf::repositories::advice;

/// Fetched in one step of a range.
const STEP_BYTES: u64 = 1 << 20;

/// One file of a repository: its blob, and whom to ask for what is missing of it.
pub struct RepoFile {
    pub(super) blob: Blob,
    pub(super) origin: Arc<dyn BlobOrigin>,
    /// For the log: repository, commit and path.
    pub(super) label: String,
    pub(super) repo: Repo,
    /// Where a person finds the repository.
    pub(super) endpoint: String,
    pub(super) token: Option<Token>,
    /// Whether nothing of it was thrown away since it was opened before.
    pub(super) is_as_before: bool,
}

impl fmt::Debug for RepoFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RepoFile").field("file", &self.label).finish_non_exhaustive()
    }
}

/// Why a file of a repository could not be read, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {}{advice}", self.reason())]
pub struct Unread {
    file: String,
    advice: String,
    /// What went wrong.
    #[source]
    pub error: BlobError,
}

impl Unread {
    /// What an origin says names its host, and the file is named already.
    fn reason(&self) -> &dyn fmt::Display {
        match &self.error {
            BlobError::Origin { error, .. } => error,
            error => error,
        }
    }
}

impl RepoFile {
    /// How much of it is local, in bytes.
    pub fn local_bytes(&self) -> u64 {
        if self.blob.is_whole() { self.blob.len() } else { self.blob.present_bytes() }
    }

    /// Fetches all of it and verifies it. `None` when it was given up for others at that very moment.
    ///
    /// # Errors
    /// [`Unread`].
    ///
    /// # Cancel safety
    /// Dropped, the fetch goes on in the background.
    pub async fn fetch(&self) -> Result<Option<HeldFile>, Unread> {
        if !self.blob.is_whole() {
            self.blob.fetch_all(&self.origin);
            self.blob.whole().await.map_err(|error| self.unread(error))?;
        }
        let blob = self.blob.clone();
        Ok(tokio::task::spawn_blocking(move || blob.file()).await.ok().flatten())
    }

    /// Fetches a range of it; `done` is told of each stretch. What came stays.
    ///
    /// # Errors
    /// [`Unread`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn fetch_range(&self, range: Range<u64>, done: impl Fn(u64)) -> Result<(), Unread> {
        self.blob.expect(range.clone());
        let mut at = range.start;
        while at < range.end {
            let step = u32::try_from((range.end - at).min(STEP_BYTES)).unwrap_or(u32::MAX);
            let read = self.blob.read_at(at, step, &self.origin).await.map_err(|error| self.unread(error))?;
            if read.is_empty() {
                break;
            }
            at += read.len() as u64;
            done(read.len() as u64);
        }
        Ok(())
    }

    fn unread(&self, error: BlobError) -> Unread {
        let origin = error.origin();
        let upstream = origin.and_then(|origin| origin.source.as_ref()?.downcast_ref::<UpstreamError>());
        let advice = match (&error, upstream) {
            (_, Some(upstream)) => advice(&self.endpoint, &self.repo, upstream, self.token.as_ref()),
            (BlobError::Corrupt, None) => {
                "; the hub's copy is damaged: try another hub with --hub or --hf-endpoint".into()
            }
            (BlobError::Replaced, None) => "; open the file again".into(),
            (BlobError::NoSpace, None) => "; free some, or let the cache hold less with --cache-size".into(),
            (BlobError::Offline, None) => "; do without --offline to fetch it".into(),
            _ => String::new(),
        };
        Unread { file: self.label.clone(), advice, error }
    }

    fn failed(&self, error: BlobError) -> FsError {
        let is_refused = error.origin().is_some_and(|origin| origin.fault == OriginFault::Forbidden);
        let (is_late, is_full) =
            (matches!(error, BlobError::Timeout { .. }), matches!(error, BlobError::NoSpace));
        let cause = Arc::new(self.unread(error));
        match (is_refused, is_late, is_full) {
            (true, ..) => FsError::Denied(cause),
            (_, true, _) => FsError::TimedOut(cause),
            (.., true) => FsError::NoSpace(cause),
            _ => FsError::Io(cause),
        }
    }
}

impl Content for RepoFile {
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

    fn is_as_before(&self) -> bool {
        self.is_as_before
    }

    fn is_backed(&self) -> bool {
        self.blob.is_whole()
    }

    fn backing_file(&self) -> Option<BackingFile> {
        let held = self.blob.file()?;
        Some(BackingFile { file: held.file, guard: Box::new(held.hold) })
    }
}
