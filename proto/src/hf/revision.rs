//! Which state of a repository: a commit, or a name that a commit is looked up by.
//!
//! A [`Commit`] never changes what it means; any other [`Revision`] may from one moment to the next.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use thiserror::Error;

/// Longest revision in bytes.
pub const MAX_REVISION_BYTES: usize = 255;

/// The hash of a git commit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Commit(pub [u8; 20]);

/// A text that is not 40 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a commit is 40 hexadecimal digits")]
pub struct NotACommit;

impl FromStr for Commit {
    type Err = NotACommit;

    fn from_str(text: &str) -> Result<Self, NotACommit> {
        if text.len() != 40 {
            return Err(NotACommit);
        }
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| NotACommit)?;
        bytes.try_into().map(Self).map_err(|_| NotACommit)
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RevisionError {
    /// Nothing there, or an empty part between slashes.
    #[error("a revision, or a part of it, is empty")]
    Empty,
    /// Longer than any ref.
    #[error("a revision has {bytes} bytes, at most {MAX_REVISION_BYTES} are possible")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A character outside the set.
    #[error("a revision has only letters, digits and '_', '-', '.', '/', '+', '@'")]
    Characters,
    /// A part that means a directory by position, or `..`, which git refuses too.
    #[error("a revision has no '..' and no part '.'")]
    Dots,
}

/// A branch, tag, ref (`refs/pr/1`) or commit, as a client names it.
///
/// Invariant: its parts between slashes are not empty, not `.`, and hold no `..`. A commit is written in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(Box<str>);

impl Revision {
    /// Checks a revision, decoded already.
    ///
    /// # Errors
    /// [`RevisionError`] for the first rule broken.
    pub fn parse(text: &str) -> Result<Self, RevisionError> {
        if text.len() > MAX_REVISION_BYTES {
            return Err(RevisionError::TooLong { bytes: text.len() });
        }
        if !text.chars().all(|c| c.is_alphanumeric() || "_-./+@".contains(c)) {
            return Err(RevisionError::Characters);
        }
        if text.contains("..") || text.split('/').any(|part| part == ".") {
            return Err(RevisionError::Dots);
        }
        if text.split('/').any(str::is_empty) {
            return Err(RevisionError::Empty);
        }
        Ok(text.parse::<Commit>().map_or_else(|_| Self(text.into()), Self::from))
    }

    /// The branch that is meant when none is named.
    pub fn main() -> Self {
        Self("main".into())
    }

    /// The name, or the commit in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The commit, when it is one by itself.
    pub fn commit(&self) -> Option<Commit> {
        self.0.parse().ok()
    }
}

impl From<Commit> for Revision {
    fn from(commit: Commit) -> Self {
        Self(commit.to_string().into())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_tags_refs_and_commits_are_read() {
        for text in ["main", "v1.0+cu", "refs/pr/1", "refs/convert/parquet", "feature/x@2", "größe"] {
            let revision = Revision::parse(text).expect(text);
            assert_eq!((revision.as_str(), revision.commit()), (text, None));
        }
        let commit = "0123456789ABCDEF0123456789abcdef01234567";
        let revision = Revision::parse(commit).expect("a commit");
        assert_eq!(revision.as_str(), commit.to_lowercase());
        assert_eq!(revision.commit().expect("a commit").to_string(), commit.to_lowercase());
        assert_eq!(Revision::from(revision.commit().expect("a commit")), revision);
    }

    #[test]
    fn revisions_that_leave_a_directory_or_a_url_are_refused() {
        let long = "x".repeat(256);
        let cases = [
            ("", RevisionError::Empty),
            ("/main", RevisionError::Empty),
            ("main/", RevisionError::Empty),
            ("a//b", RevisionError::Empty),
            ("..", RevisionError::Dots),
            ("refs/../x", RevisionError::Dots),
            ("a..b", RevisionError::Dots),
            ("./x", RevisionError::Dots),
            ("a b", RevisionError::Characters),
            ("a%2fb", RevisionError::Characters),
            ("a?b", RevisionError::Characters),
            ("a\0", RevisionError::Characters),
            ("a\\b", RevisionError::Characters),
            (long.as_str(), RevisionError::TooLong { bytes: 256 }),
        ];
        for (text, error) in cases {
            assert_eq!(Revision::parse(text), Err(error), "{text:?}");
            assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn a_commit_has_forty_digits() {
        for text in ["", "abc", &"g".repeat(40), &"a".repeat(41), &"a".repeat(64)] {
            assert_eq!(text.parse::<Commit>(), Err(NotACommit));
        }
    }
}
