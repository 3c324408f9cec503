//! A repository as the emulator keeps it: commits over trees of files, the names that point at them, and who may read.
//!
//! Commits are values: their ids follow from what they hold and from their parent, so that two emulators that are
//! given the same things name them alike.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use super::content::{Content, hex};

/// Files larger than this lie in LFS, whatever they are called.
pub(super) const LFS_ABOVE_BYTES: u64 = 10 << 20;
/// Files with these endings lie in LFS, however small they are.
const LFS_ENDINGS: &[&str] = &[
    ".safetensors",
    ".bin",
    ".gguf",
    ".onnx",
    ".pt",
    ".pth",
    ".parquet",
    ".zip",
    ".gz",
    ".model",
    ".h5",
    ".npz",
    ".msgpack",
    ".arrow",
];

/// What kind of repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RepoKind {
    /// At the root of the site.
    Model,
    /// Below `datasets/`.
    Dataset,
    /// Below `spaces/`.
    Space,
}

impl RepoKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Model, Self::Dataset, Self::Space];

    /// As in `/api/models/…`.
    #[must_use]
    pub fn api(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
            Self::Space => "spaces",
        }
    }

    /// What stands before the id in URLs of files.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
            Self::Space => "spaces/",
        }
    }

    pub(super) fn of_api(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.api() == word)
    }
}

/// Who may read a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Public,
    /// Metadata is public; content is for those who were granted it.
    Gated,
    /// For those who were granted it; to others it does not exist.
    Private,
    /// For nobody.
    Disabled,
}

/// A file as a commit holds it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) content: Content,
    pub(super) bytes: u64,
    /// What git calls the blob: of LFS the pointer's.
    pub(super) oid: String,
    pub(super) lfs: Option<Lfs>,
}

/// What a file in LFS has besides.
#[derive(Clone, Debug)]
pub(super) struct Lfs {
    pub(super) sha256: String,
    pub(super) pointer: String,
    /// Made up: it only has to be 64 hex digits and not the sha256.
    pub(super) xet_hash: String,
}

impl Entry {
    pub(super) fn new(path: &str, content: Content) -> Self {
        let bytes = content.len();
        let hashes = content.hashes();
        let is_lfs = bytes > LFS_ABOVE_BYTES || LFS_ENDINGS.iter().any(|ending| path.ends_with(ending));
        if !is_lfs {
            return Self { content, bytes, oid: hashes.git_sha1, lfs: None };
        }
        let pointer = format!(
            "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {bytes}\n",
            hashes.sha256
        );
        let oid = Content::from(pointer.as_str()).git_sha1();
        let xet_hash = hex(&Sha256::digest(format!("xet {}", hashes.sha256)));
        let lfs = Lfs { sha256: hashes.sha256, pointer, xet_hash };
        Self { content, bytes, oid, lfs: Some(lfs) }
    }

    /// The hash that names the content: of LFS the sha256, else git's.
    pub(super) fn etag(&self) -> &str {
        self.lfs.as_ref().map_or(&self.oid, |lfs| &lfs.sha256)
    }
}

/// What files lie where.
pub(super) type Tree = BTreeMap<String, Arc<Entry>>;

/// One commit.
#[derive(Clone, Debug)]
pub(super) struct Commit {
    pub(super) sha: String,
    pub(super) parent: Option<String>,
    pub(super) title: String,
    pub(super) date: String,
    pub(super) files: Tree,
}

impl Commit {
    /// All directories, without the root.
    pub(super) fn directories(&self) -> BTreeSet<&str> {
        let mut all = BTreeSet::new();
        for path in self.files.keys() {
            all.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
        }
        all
    }

    /// A stable id of a directory; not git's.
    pub(super) fn directory_oid(&self, path: &str) -> String {
        let mut hash = Sha1::new();
        hash.update(format!("directory {path}\0"));
        for (name, entry) in &self.files {
            if name.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')) {
                hash.update(format!("{name}\0{}\0", entry.oid));
            }
        }
        hex(&hash.finalize())
    }
}

/// One repository.
#[derive(Clone, Debug)]
pub(super) struct Repo {
    pub(super) kind: RepoKind,
    pub(super) id: String,
    pub(super) access: Access,
    /// Tokens that were granted access.
    pub(super) granted: HashSet<String>,
    /// Other ids by which it is asked for: earlier names, the canonical one.
    pub(super) aliases: Vec<String>,
    pub(super) commits: BTreeMap<String, Commit>,
    /// Full names, such as `refs/heads/main`.
    pub(super) refs: BTreeMap<String, String>,
}

impl Repo {
    pub(super) fn new(kind: RepoKind, id: &str) -> Self {
        Self {
            kind,
            id: id.to_owned(),
            access: Access::Public,
            granted: HashSet::new(),
            aliases: Vec::new(),
            commits: BTreeMap::new(),
            refs: BTreeMap::new(),
        }
    }

    /// Adds a commit on top of another and gives its id; no name points at it yet.
    pub(super) fn add_commit(&mut self, parent: Option<String>, title: &str, files: Tree) -> String {
        let mut hash = Sha1::new();
        hash.update(format!("{}{}\0{parent:?}\0{title}\0", self.kind.prefix(), self.id));
        for (path, entry) in &files {
            hash.update(format!("{path}\0{}\0", entry.oid));
        }
        let sha = hex(&hash.finalize());
        let minute = self.commits.len() % 60;
        let date = format!("2024-05-01T12:{minute:02}:00.000Z");
        let commit = Commit { sha: sha.clone(), parent, title: title.to_owned(), date, files };
        self.commits.insert(sha.clone(), commit);
        sha
    }

    /// The commit that a revision means: a branch, a tag, a full ref, or a commit's id.
    pub(super) fn resolve(&self, revision: &str) -> Option<&Commit> {
        let named = ["refs/heads/", "refs/tags/", "refs/convert/", "", "refs/"]
            .iter()
            .find_map(|prefix| self.refs.get(&format!("{prefix}{revision}")));
        self.commits.get(named.map_or(revision, String::as_str))
    }
}
