//! What a person writes to name a repository: `hf://org/repo`, `hf://datasets/org/name@v1/sub`.

use std::fmt;

use thiserror::Error;

use super::{
    FilePath, FilePathError, NameError, Repo, RepoId, RepoKind, Revision, RevisionError, decode_segment,
};

/// A repository, or a part of one, as it was typed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HfSource {
    /// Which repository.
    pub repo: Repo,
    /// At which revision, when one was named.
    pub revision: Option<Revision>,
    /// Which file or directory of it, when not all.
    pub path: Option<FilePath>,
}

/// Why a text names no repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It begins otherwise.
    #[error("it does not begin with hf://")]
    Scheme,
    /// The repository's id.
    #[error(transparent)]
    Name(#[from] NameError),
    /// What follows the `@`.
    #[error(transparent)]
    Revision(#[from] RevisionError),
    /// What follows the repository.
    #[error("a path in the repository: {0}")]
    Path(#[from] FilePathError),
}

impl HfSource {
    /// Whether a text is meant as one: it begins with `hf://`.
    pub fn is_meant_by(text: &str) -> bool {
        text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("hf://"))
    }

    /// Reads `hf://[datasets/|spaces/|models/][org/]repo[@revision][/path]`.
    ///
    /// A revision with slashes is written with `%2F`, but for `refs/pr/N` and `refs/convert/NAME`. An id of one component
    /// can be followed by a path only after a revision: `hf://gpt2@main/config.json`, since `gpt2/config.json` could be a
    /// repository.
    ///
    /// # Errors
    /// [`SourceError`] for the first part that is wrong.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        if !Self::is_meant_by(text) {
            return Err(SourceError::Scheme);
        }
        let rest = text[5..].trim_end_matches('/');
        let (kind, rest) = RepoKind::ALL
            .into_iter()
            .find_map(|kind| Some((kind, rest.strip_prefix(kind.api())?.strip_prefix('/')?)))
            .unwrap_or((RepoKind::Model, rest));
        // An `@` further on belongs to the name of a file.
        let head = rest.match_indices('/').nth(1).map_or(rest.len(), |(at, _)| at);
        let (id, revision, path) = match rest[..head].find('@') {
            Some(at) => {
                let (revision, path) = split_revision(&rest[at + 1..]);
                (&rest[..at], Some(revision), path)
            }
            None => (&rest[..head], None, rest.get(head + 1..)),
        };
        let revision = revision.map(|text| {
            let decoded = decode_segment(text).ok_or(RevisionError::Characters)?;
            Revision::parse(&decoded)
        });
        Ok(Self {
            repo: Repo { kind, id: RepoId::parse(id)? },
            revision: revision.transpose()?,
            path: path.map(FilePath::parse).transpose()?,
        })
    }
}

/// The revision at the beginning of `text`, and what follows.
fn split_revision(text: &str) -> (&str, Option<&str>) {
    let parts = if text.starts_with("refs/pr/") || text.starts_with("refs/convert/") { 3 } else { 1 };
    match text.match_indices('/').nth(parts - 1) {
        Some((at, _)) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

impl fmt::Display for HfSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf://{}", self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{}", revision.as_str().replace('/', "%2F"))?;
        }
        if let Some(path) = &self.path {
            write!(f, "/{path}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(text: &str) -> (String, Option<String>, Option<String>) {
        let source = HfSource::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let revision = source.revision.map(|revision| revision.to_string());
        (source.repo.to_string(), revision, source.path.map(|path| path.to_string()))
    }

    #[test]
    fn repositories_revisions_and_paths_are_told_apart() {
        let some = |text: &str| Some(text.to_owned());
        let cases = [
            ("hf://gpt2", "gpt2", None, None),
            ("HF://org/name/", "org/name", None, None),
            ("hf://models/org/name", "org/name", None, None),
            ("hf://datasets/squad@v1", "datasets/squad", some("v1"), None),
            ("hf://spaces/org/name/src/app.py", "spaces/org/name", None, some("src/app.py")),
            ("hf://gpt2@main/config.json", "gpt2", some("main"), some("config.json")),
            ("hf://o/n@refs%2Fpr%2F1/a b", "o/n", some("refs/pr/1"), some("a b")),
            ("hf://o/n@refs/pr/1/a/b", "o/n", some("refs/pr/1"), some("a/b")),
            ("hf://o/n@refs/convert/parquet", "o/n", some("refs/convert/parquet"), None),
            ("hf://o/n/a@b", "o/n", None, some("a@b")),
        ];
        for (text, repo, revision, path) in cases {
            assert_eq!(parts(text), (repo.to_owned(), revision, path), "{text}");
        }
    }

    #[test]
    fn what_names_no_repository_is_refused() {
        for text in [
            "",
            "hf:/a",
            "gpt2",
            "hf://",
            "hf://datasets",
            "hf://a/../b",
            "hf://o/n@",
            "hf://o/n@a%2e%2e",
            "hf://o/n/../x",
            "hf://o/n//x",
            "hf://ü/n",
            "https://huggingface.co/gpt2",
        ] {
            assert!(HfSource::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_read_the_same_when_written(text in "hf://[a-c@/%2Frefspr.\\-]{0,24}") {
            if let Ok(source) = HfSource::parse(&text) {
                let needs_revision = source.repo.id.owner().is_none() && source.revision.is_none();
                prop_assert!(!(needs_revision && source.path.is_some()));
                prop_assert_eq!(HfSource::parse(&source.to_string()), Ok(source));
            }
        }
    }
}
