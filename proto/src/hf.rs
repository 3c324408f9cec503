//! Hugging Face repositories as values: their names, revisions and files, the JSON and headers of the Hub API in both
//! directions, and the URLs and routes in between.
//!
//! What comes from a server, a client or a repository is a stranger's: a value of these types was checked when it was
//! made, so that it can be put into a URL or joined to a directory without another look. Nothing here asks anybody.

mod content;
mod error_code;
mod file_path;
mod headers;
mod info;
mod repo;
mod revision;
mod route;
mod source;
mod tree;
mod urls;

pub use content::{ContentId, NotAnId};
pub use error_code::{DISABLED_MESSAGE, ErrorCode};
pub use file_path::{FilePath, FilePathError};
pub use headers::{ContentRange, link_of_next, next_link, rate_limit_wait};
pub use info::{InfoError, RepoInfo, clean};
pub use repo::{MAX_REPO_ID_BYTES, NameError, Repo, RepoId, RepoKind};
pub use revision::{Commit, MAX_REVISION_BYTES, NotACommit, Revision, RevisionError};
pub use route::{RepoRoute, Route, RouteError};
pub use source::{HfSource, SourceError};
pub use tree::{
    Depth, Lfs, RepoTree, TreeDirectory, TreeEntry, TreeError, TreeFile, TreePages, entries_to_json,
};
pub use urls::{decode_segment, encode_path, encode_segment};
