//! What the tree needs from whoever knows repositories; the engine's client is one, a test's stand-in another.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use wtfs_proto::hf::{Commit, Repo, RepoTree, Revision, TreeFile};

use crate::content::{BoxFuture, Content};
use crate::errno::{Cause, FsError};

/// A repository at one commit: all that a mount needs to show it.
#[derive(Debug, Clone)]
pub struct RepoRevision {
    /// Under its canonical name; another one than was asked for after a renaming.
    pub repo: Repo,
    /// What it is pinned to.
    pub commit: Commit,
    /// When it was last changed, as its hub says; the same each time.
    pub modified: SystemTime,
    /// Whether anybody may read it. What is not public is never shared with other machines.
    pub is_public: bool,
    /// Its files, by name and hash.
    pub tree: Arc<RepoTree>,
}

/// Why a repository cannot be shown. The text says what to do next.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RepoError {
    /// There is no such repository, or none that this user may know of.
    #[error("{0}")]
    NoRepo(Cause),
    /// There is no such branch, tag or commit in it.
    #[error("{0}")]
    NoRevision(Cause),
    /// A token is missing, or its owner was not let in.
    #[error("{0}")]
    Denied(Cause),
    /// Nobody who knows could be asked, and nothing is known from before.
    #[error("{0}")]
    Unreachable(Cause),
    /// What was answered is no tree of files.
    #[error("{0}")]
    Garbage(Cause),
}

impl RepoError {
    /// Whether it is known that there is nothing of that name.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::NoRepo(_) | Self::NoRevision(_))
    }
}

impl From<RepoError> for FsError {
    fn from(error: RepoError) -> Self {
        match error {
            RepoError::NoRepo(_) | RepoError::NoRevision(_) => Self::NotFound,
            RepoError::Denied(cause) => Self::Denied(cause),
            RepoError::Unreachable(cause) | RepoError::Garbage(cause) => Self::Io(cause),
        }
    }
}

/// Which bytes of a file are local, and whether they were checked against its hash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Local {
    /// Bytes on this machine.
    pub bytes: u64,
    /// All of them, and checked.
    pub is_verified: bool,
}

/// Repositories as a source of entries and bytes. Only [`RepoSource::resolve`] may wait for anything.
pub trait RepoSource: fmt::Debug + Send + Sync + 'static {
    /// Finds out which commit `revision` is now and what it holds. Where nobody can be asked, what is known from before
    /// is the answer. Ends by itself.
    fn resolve(&self, repo: Repo, revision: Revision) -> BoxFuture<'static, Result<RepoRevision, RepoError>>;

    /// Which commit `revision` is now, where that costs no more than one question; nothing else changes by it. Ends by
    /// itself.
    fn look(&self, repo: Repo, revision: Revision) -> BoxFuture<'static, Option<Commit>>;

    /// Whether a file was pinned by a person.
    fn is_pinned(&self, file: &TreeFile) -> bool;

    /// What was resolved before, perhaps by an earlier process: shown in listings, resolved when it is entered.
    fn remembered(&self) -> Vec<(Repo, Revision)>;

    /// How much of a file is local.
    fn local(&self, file: &TreeFile) -> Local;

    /// Which bytes of a file are local, in order and joined where they touch; the first `limit` ranges.
    fn local_ranges(&self, file: &TreeFile, limit: usize) -> Vec<Range<u64>>;

    /// Content for a new handle.
    ///
    /// # Errors
    /// When the file cannot be opened.
    fn open(&self, revision: &RepoRevision, file: &TreeFile) -> Result<Arc<dyn Content>, FsError>;
}
