//! Which repository: its kind and its id, as huggingface.co allows them.
//!
//! Invariant: a [`RepoId`] has one or two components of ASCII letters, digits, `_`, `-` and `.`, none of which begins or
//! ends with a dot or dash, and is none of the words that routes begin with. It can be joined to a directory.

use std::fmt;

use thiserror::Error;

/// Longest id in bytes, both components and the slash.
pub const MAX_REPO_ID_BYTES: usize = 96;

/// First components that are routes, never owners or canonical names.
const RESERVED: &[&str] = &["api", "datasets", "spaces", "models", "kernels", "buckets", "v2", "hf"];

/// Second components that are verbs of routes, never names.
pub(super) const VERBS: &[&str] = &[
    "auth-check",
    "blob",
    "commits",
    "paths-info",
    "raw",
    "refs",
    "resolve",
    "revision",
    "tree",
    "treesize",
    "xet-read-token",
    "discussions",
];

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RepoKind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
    /// An application.
    Space,
}

impl RepoKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Model, Self::Dataset, Self::Space];

    /// Its word in URLs of the API: `models`.
    pub const fn api(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
            Self::Space => "spaces",
        }
    }

    /// What stands before the id in other URLs: nothing for a model, `datasets/`.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
            Self::Space => "spaces/",
        }
    }

    /// The kind of its word in the API.
    pub fn of_api(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.api() == word)
    }
}

/// Why a text is no repository's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing there.
    #[error("a repository's name is empty")]
    Empty,
    /// Longer than the Hub allows.
    #[error("a repository's name has {bytes} bytes, at most {MAX_REPO_ID_BYTES} are possible")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Something else than a name, or an owner and a name.
    #[error("a repository is named name or owner/name")]
    Components,
    /// A character outside the set.
    #[error(
        "a repository's name has only letters, digits, '-', '_' and '.', and neither begins nor ends with '-' or '.'"
    )]
    Characters,
    /// `--` or `..`, which the Hub and its caches keep for themselves.
    #[error("a repository's name has no '--' and no '..'")]
    Doubled,
    /// It ends as a git remote does.
    #[error("a repository's name does not end in '.git'")]
    Git,
    /// A word that routes are made of.
    #[error("'{0}' is a part of the Hub's addresses, not a name")]
    Reserved(&'static str),
}

/// The id of a repository: `owner/name`, or `name` alone for the old canonical ones. Case counts here, although the Hub
/// finds a repository whatever the case and redirects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoId(Box<str>);

impl RepoId {
    /// Checks an id.
    ///
    /// # Errors
    /// [`NameError`] for the first rule broken.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_REPO_ID_BYTES {
            return Err(NameError::TooLong { bytes: text.len() });
        }
        let (owner, name) = match text.split_once('/') {
            Some((owner, name)) => (Some(owner), name),
            None => (None, text),
        };
        if name.contains('/') || name.is_empty() || owner == Some("") {
            return Err(NameError::Components);
        }
        for component in owner.into_iter().chain([name]) {
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if !component.chars().all(|c| is_word(c) || c == '-' || c == '.')
                || !component.starts_with(is_word)
                || !component.ends_with(is_word)
            {
                return Err(NameError::Characters);
            }
        }
        if text.contains("--") || text.contains("..") {
            return Err(NameError::Doubled);
        }
        if text.len() >= 4 && text.as_bytes()[text.len() - 4..].eq_ignore_ascii_case(b".git") {
            return Err(NameError::Git);
        }
        let first = owner.unwrap_or(name);
        if let Some(word) = RESERVED.iter().find(|word| first.eq_ignore_ascii_case(word)) {
            return Err(NameError::Reserved(word));
        }
        if owner.is_some()
            && let Some(word) = VERBS.iter().find(|word| name == **word)
        {
            return Err(NameError::Reserved(word));
        }
        Ok(Self(text.into()))
    }

    /// The id as the Hub writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The user or organisation; canonical repositories have none.
    pub fn owner(&self) -> Option<&str> {
        Some(self.0.split_once('/')?.0)
    }

    /// The name below its owner.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, name)| name)
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A repository: two of different kinds may have one id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repo {
    /// What it holds.
    pub kind: RepoKind,
    /// Its id.
    pub id: RepoId,
}

impl Repo {
    /// A model.
    pub const fn model(id: RepoId) -> Self {
        Self { kind: RepoKind::Model, id }
    }

    /// Reads what [`fmt::Display`] writes: `org/name`, `datasets/org/name`, `spaces/name`.
    ///
    /// # Errors
    /// [`NameError`] for the id.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        for kind in [RepoKind::Dataset, RepoKind::Space] {
            if let Some(id) = text.strip_prefix(kind.prefix()) {
                return Ok(Self { kind, id: RepoId::parse(id)? });
            }
        }
        Ok(Self::model(RepoId::parse(text)?))
    }
}

impl fmt::Display for Repo {
    /// As in URLs: `org/name`, `datasets/org/name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.prefix(), self.id)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_as_the_hub_has_them_are_read() {
        for text in ["gpt2", "openai-community/gpt2", "a/b", "TheBloke/Llama-2-7B-GGUF", "_x/y_1.0", "x.y/z"]
        {
            let id = RepoId::parse(text).expect(text);
            assert_eq!(id.as_str(), text);
        }
        let id = RepoId::parse("org/name").expect("an id");
        assert_eq!((id.owner(), id.name()), (Some("org"), "name"));
        let id = RepoId::parse("gpt2").expect("an id");
        assert_eq!((id.owner(), id.name()), (None, "gpt2"));
    }

    #[test]
    fn names_that_directories_and_routes_use_otherwise_are_refused() {
        let long = "x".repeat(97);
        let cases = [
            ("", NameError::Empty),
            (long.as_str(), NameError::TooLong { bytes: 97 }),
            ("a/b/c", NameError::Components),
            ("/a", NameError::Components),
            ("a/", NameError::Components),
            (".git", NameError::Characters),
            (".Trash", NameError::Characters),
            ("..", NameError::Characters),
            ("a/..", NameError::Characters),
            ("a b", NameError::Characters),
            ("a%2fb", NameError::Characters),
            ("ü/x", NameError::Characters),
            ("a\0", NameError::Characters),
            ("a\\b", NameError::Characters),
            ("org/-x", NameError::Characters),
            ("a--b", NameError::Doubled),
            ("a/b..c", NameError::Doubled),
            ("a/b.git", NameError::Git),
            ("b.GIT", NameError::Git),
            ("datasets", NameError::Reserved("datasets")),
            ("API/x", NameError::Reserved("api")),
            ("gpt2/refs", NameError::Reserved("refs")),
            ("x/resolve", NameError::Reserved("resolve")),
        ];
        for (text, error) in cases {
            assert_eq!(RepoId::parse(text), Err(error), "{text:?}");
            assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn a_repository_is_written_as_in_urls_and_read_back() {
        for text in ["gpt2", "org/name", "datasets/squad", "datasets/org/name", "spaces/org/name"] {
            assert_eq!(Repo::parse(text).expect(text).to_string(), text);
        }
        assert!(Repo::parse("datasets").is_err());
        assert!(Repo::parse("datasets/a/b/c").is_err());
        assert_eq!(RepoKind::of_api("datasets"), Some(RepoKind::Dataset));
        assert_eq!(RepoKind::of_api("buckets"), None);
    }

    proptest! {
        #[test]
        fn an_id_joined_to_a_directory_stays_in_it(text in prop_oneof!["[a.\\-/%_]{0,8}", "\\PC{0,100}"]) {
            if let Ok(id) = RepoId::parse(&text) {
                prop_assert!(Path::new(id.as_str()).components().all(|c| matches!(c, Component::Normal(_))));
                prop_assert!(!id.as_str().contains('@') && id.as_str().len() <= MAX_REPO_ID_BYTES);
            }
        }
    }
}
