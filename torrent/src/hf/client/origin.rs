//! A file of a hub as an origin of blobs: the one place where an error of the hub becomes what blobs do about it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use wtfs_proto::hf::{Commit, ErrorCode, FilePath, Repo};

use super::{RangeBody, Token, Upstream, UpstreamError};
use crate::hf::blobs::{BlobBody, BlobOrigin, OriginError, OriginFault};

/// A file of a repository at a commit, fetched in the name of one token or of nobody.
#[derive(Clone)]
pub struct UpstreamFile {
    upstream: Upstream,
    repo: Repo,
    commit: Commit,
    path: FilePath,
    bytes: u64,
    token: Option<Token>,
}

impl UpstreamFile {
    /// The file; `bytes` is its length by the listing.
    pub fn new(
        upstream: Upstream,
        repo: Repo,
        commit: Commit,
        path: FilePath,
        bytes: u64,
        token: Option<Token>,
    ) -> Self {
        Self { upstream, repo, commit, path, bytes, token }
    }
}

impl fmt::Debug for UpstreamFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UpstreamFile").field(&self.describe()).finish()
    }
}

impl BlobOrigin for UpstreamFile {
    fn open(&self, range: Range<u64>) -> BoxFuture<'_, Result<Box<dyn BlobBody>, OriginError>> {
        Box::pin(async move {
            let token = self.token.as_ref();
            let body =
                self.upstream.open(&self.repo, self.commit, &self.path, range, self.bytes, token).await?;
            Ok(Box::new(body) as Box<dyn BlobBody>)
        })
    }

    fn describe(&self) -> String {
        format!("{}: {}@{}/{}", self.upstream.host(), self.repo, self.commit, self.path)
    }

    fn site(&self) -> String {
        self.upstream.host()
    }
}

impl BlobBody for RangeBody {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Bytes, OriginError>>> {
        Box::pin(async move { Some(Self::next(self).await?.map_err(OriginError::from)) })
    }
}

impl From<UpstreamError> for OriginError {
    fn from(error: UpstreamError) -> Self {
        let retry_after = error.retry_after();
        Self::with_source(fault(&error), Arc::new(error)).retry_after(retry_after)
    }
}

fn fault(error: &UpstreamError) -> OriginFault {
    match error {
        UpstreamError::RateLimited { .. }
        | UpstreamError::Unavailable { .. }
        | UpstreamError::Expired { .. }
        | UpstreamError::Unreachable(_)
        | UpstreamError::Timeout { .. }
        | UpstreamError::CutShort { .. } => OriginFault::Transient,
        // A repository that is gone is one that this caller may not see any more: others may.
        UpstreamError::NotFound { code: ErrorCode::RepoNotFound, .. }
        | UpstreamError::Gated { .. }
        | UpstreamError::Disabled { .. }
        | UpstreamError::Unauthorized { .. }
        | UpstreamError::Forbidden { .. } => OriginFault::Forbidden,
        UpstreamError::NotFound { .. } => OriginFault::Gone,
        UpstreamError::Refused { .. } | UpstreamError::Garbage { .. } | UpstreamError::TooLarge { .. } => {
            OriginFault::Lying
        }
    }
}
