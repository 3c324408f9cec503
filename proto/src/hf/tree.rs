//! The files of a repository at a commit, with the length and hash of each: one listing answers what exists, what does
//! not, how long it is, and what its bytes must hash to.
//!
//! Invariant of a [`RepoTree`]: files and directories are sorted by the bytes of their paths and no path stands twice; no
//! file lies below another; every directory that a file is in is there. Entries that break this, or whose path is not
//! safe, are left out and counted: git makes none.

use std::collections::BTreeMap;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use super::{Commit, ContentId, FilePath};

/// Longest length that a file system can give a file.
const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// Text that a tree may hold. A path counts once for each directory that it lies in, for each of those may be one of its
/// own: a listing of deep paths would else become a thousand times as long in memory.
const TEXT_BYTES_MAX: usize = 256 << 20;

/// A file of a revision.
#[derive(Debug, Clone)]
pub struct TreeFile {
    /// Where it is.
    pub path: FilePath,
    /// Its length.
    pub bytes: u64,
    /// The hash of its content.
    pub id: ContentId,
    /// What git calls it: the pointer, for a file in LFS.
    pub git_oid: [u8; 20],
    /// Set for a file in LFS.
    pub lfs: Option<Lfs>,
    /// What scanners said, as the Hub writes it, when the listing was asked for more than the usual.
    pub security: Option<Box<RawValue>>,
    /// The commit that changed it last, likewise.
    pub last_commit: Option<Box<RawValue>>,
}

/// What is particular to a file in LFS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lfs {
    /// Length of the pointer that git holds in its place.
    pub pointer_bytes: u64,
}

/// A directory of a revision.
#[derive(Debug, Clone)]
pub struct TreeDirectory {
    /// Where it is.
    pub path: FilePath,
    /// What git calls it; zeros when the listing named only what is in it.
    pub oid: [u8; 20],
    /// The commit that changed it last, when asked for.
    pub last_commit: Option<Box<RawValue>>,
}

/// An entry of a listing.
#[derive(Debug, Clone, Copy)]
pub enum TreeEntry<'a> {
    /// A file.
    File(&'a TreeFile),
    /// A directory.
    Directory(&'a TreeDirectory),
}

impl TreeEntry<'_> {
    /// Where it is.
    pub fn path(&self) -> &FilePath {
        match self {
            Self::File(file) => &file.path,
            Self::Directory(directory) => &directory.path,
        }
    }
}

/// How far down a listing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What is in the directory itself.
    Children,
    /// All below it.
    All,
}

/// Why a page of a listing cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TreeError {
    /// Not an array of entries.
    #[error("it is no listing: {0}")]
    Json(#[from] serde_json::Error),
    /// A hash that is none.
    #[error("the '{field}' of an entry is no hash")]
    Hash {
        /// Which field.
        field: &'static str,
    },
    /// A file without a length or hash.
    #[error("an entry has no '{field}'")]
    Missing {
        /// Which field.
        field: &'static str,
    },
    /// More than any repository.
    #[error("it is longer than that of any repository")]
    TooLong,
}

/// The pages of a listing, collected.
#[derive(Debug, Default)]
pub struct TreePages {
    files: Vec<TreeFile>,
    directories: BTreeMap<FilePath, TreeDirectory>,
    refused: usize,
    text_bytes: usize,
}

/// All files of a repository at a commit.
#[derive(Debug, Clone)]
pub struct RepoTree {
    /// At which commit.
    pub commit: Commit,
    files: Vec<TreeFile>,
    directories: Vec<TreeDirectory>,
    refused: usize,
}

/// An entry as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Wire<'a> {
    #[serde(rename = "type")]
    kind: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    path: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs: Option<WireLfs>,
    #[serde(borrow, rename = "lastCommit", skip_serializing_if = "Option::is_none")]
    last_commit: Option<&'a RawValue>,
    #[serde(borrow, rename = "securityFileStatus", skip_serializing_if = "Option::is_none")]
    security: Option<&'a RawValue>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WireLfs {
    oid: String,
    size: u64,
    #[serde(rename = "pointerSize", default)]
    pointer_size: u64,
}

/// A whole tree as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct WireTree<'a> {
    commit: String,
    #[serde(borrow)]
    entries: &'a RawValue,
}

impl TreePages {
    /// Takes one page, and says how many entries it had.
    ///
    /// # Errors
    /// [`TreeError`]; what the page had so far stays.
    pub fn push(&mut self, page: &[u8]) -> Result<usize, TreeError> {
        let entries: Vec<Wire<'_>> = serde_json::from_slice(page)?;
        let count = entries.len();
        for entry in entries {
            let Ok(path) = FilePath::parse(&entry.path) else {
                self.refused += 1;
                continue;
            };
            let told = [entry.last_commit, entry.security].into_iter().flatten().map(|raw| raw.get().len());
            let text = entry.path.len().saturating_mul(path.segments().count());
            self.text_bytes = told.fold(self.text_bytes.saturating_add(text), usize::saturating_add);
            if self.text_bytes > TEXT_BYTES_MAX {
                return Err(TreeError::TooLong);
            }
            let own = |raw: Option<&RawValue>| raw.map(ToOwned::to_owned);
            let oid = entry.oid.ok_or(TreeError::Missing { field: "oid" }).and_then(|oid| hash(&oid, "oid"));
            match &*entry.kind {
                "directory" => {
                    let directory = TreeDirectory { path, oid: oid?, last_commit: own(entry.last_commit) };
                    self.directories.insert(directory.path.clone(), directory);
                }
                "file" => {
                    let git_oid = oid?;
                    let (bytes, id, lfs) = match entry.lfs {
                        Some(lfs) => {
                            let id = ContentId::Sha256(hash(&lfs.oid, "lfs.oid")?);
                            (lfs.size, id, Some(Lfs { pointer_bytes: lfs.pointer_size }))
                        }
                        None => {
                            let bytes = entry.size.ok_or(TreeError::Missing { field: "size" })?;
                            (bytes, ContentId::GitSha1(git_oid), None)
                        }
                    };
                    if bytes > FILE_BYTES_MAX {
                        self.refused += 1;
                        continue;
                    }
                    let (security, last_commit) = (own(entry.security), own(entry.last_commit));
                    self.files.push(TreeFile { path, bytes, id, git_oid, lfs, security, last_commit });
                }
                // A submodule, say: there is nothing of it here.
                _ => self.refused += 1,
            }
        }
        Ok(count)
    }

    /// Entries so far.
    pub fn len(&self) -> usize {
        self.files.len() + self.directories.len()
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tree of all pages.
    pub fn finish(self, commit: Commit) -> RepoTree {
        let Self { mut files, mut directories, mut refused, text_bytes: _ } = self;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let before = files.len();
        files.dedup_by(|later, first| later.path == first.path);
        let paths: Vec<FilePath> = files.iter().map(|file| file.path.clone()).collect();
        let is_file = |path: &FilePath| paths.binary_search(path).is_ok();
        files.retain(|file| !ancestors(&file.path).any(|directory| is_file(&directory)));
        refused += before - files.len();
        directories.retain(|path, _| !is_file(path) && !ancestors(path).any(|directory| is_file(&directory)));
        let named: Vec<FilePath> = directories.keys().cloned().collect();
        for path in files.iter().map(|file| &file.path).chain(&named) {
            for path in ancestors(path) {
                let implied = || TreeDirectory { path: path.clone(), oid: [0; 20], last_commit: None };
                directories.entry(path.clone()).or_insert_with(implied);
            }
        }
        RepoTree { commit, files, directories: directories.into_values().collect(), refused }
    }
}

/// The directories a path is in, innermost first.
fn ancestors(path: &FilePath) -> impl Iterator<Item = FilePath> {
    std::iter::successors(path.parent(), FilePath::parent)
}

fn hash<const N: usize>(text: &str, field: &'static str) -> Result<[u8; N], TreeError> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| TreeError::Hash { field })?;
    bytes.try_into().map_err(|_| TreeError::Hash { field })
}

impl RepoTree {
    /// All files, sorted by the bytes of their paths.
    pub fn files(&self) -> &[TreeFile] {
        &self.files
    }

    /// All directories but the top one, sorted likewise.
    pub fn directories(&self) -> &[TreeDirectory] {
        &self.directories
    }

    /// Entries that were left out, because their names cannot be used or they are neither files nor directories.
    pub fn refused(&self) -> usize {
        self.refused
    }

    /// Bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }

    /// The file of this path.
    pub fn find(&self, path: &str) -> Option<&TreeFile> {
        let at = self.files.binary_search_by(|file| file.path.as_str().cmp(path)).ok()?;
        Some(&self.files[at])
    }

    /// The directory of this path.
    pub fn find_directory(&self, path: &str) -> Option<&TreeDirectory> {
        let at = self.directories.binary_search_by(|directory| directory.path.as_str().cmp(path)).ok()?;
        Some(&self.directories[at])
    }

    /// What is in a directory, or in all of it without one, sorted by path; `None` when there is no such directory.
    pub fn list(&self, directory: Option<&FilePath>, depth: Depth) -> Option<Vec<TreeEntry<'_>>> {
        if let Some(directory) = directory {
            self.find_directory(directory.as_str())?;
        }
        let is_in = |path: &FilePath| match depth {
            Depth::All => directory.is_none_or(|directory| path.is_below(directory)),
            Depth::Children => match directory {
                Some(directory) => {
                    path.as_str().rsplit_once('/').is_some_and(|(parent, _)| parent == directory.as_str())
                }
                None => !path.as_str().contains('/'),
            },
        };
        let files = self.files.iter().map(TreeEntry::File);
        let directories = self.directories.iter().map(TreeEntry::Directory);
        let mut entries: Vec<_> = directories.chain(files).filter(|entry| is_in(entry.path())).collect();
        entries.sort_by(|a, b| a.path().cmp(b.path()));
        Some(entries)
    }

    /// The whole tree as it is kept on disk; [`Self::from_json`] reads it.
    pub fn to_json(&self) -> String {
        let entries = self.list(None, Depth::All).unwrap_or_default();
        format!(r#"{{"commit":"{}","entries":{}}}"#, self.commit, entries_to_json(entries))
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// [`TreeError`] when it did not.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TreeError> {
        let tree: WireTree<'_> = serde_json::from_slice(bytes)?;
        let commit = tree.commit.parse().map_err(|_| TreeError::Hash { field: "commit" })?;
        let mut pages = TreePages::default();
        pages.push(tree.entries.get().as_bytes())?;
        Ok(pages.finish(commit))
    }
}

/// Entries as the Hub lists them: the body of a page of `/tree` and of `/paths-info`, without what belongs to Xet.
pub fn entries_to_json<'a>(entries: impl IntoIterator<Item = TreeEntry<'a>>) -> String {
    let wire: Vec<Wire<'_>> = entries.into_iter().map(|entry| wire(&entry)).collect();
    serde_json::to_string(&wire).expect("text, numbers and JSON are JSON")
}

fn wire<'a>(entry: &TreeEntry<'a>) -> Wire<'a> {
    match entry {
        TreeEntry::Directory(directory) => Wire {
            kind: "directory".into(),
            oid: Some(HEXLOWER.encode(&directory.oid)),
            size: Some(0),
            path: directory.path.as_str().into(),
            lfs: None,
            last_commit: directory.last_commit.as_deref(),
            security: None,
        },
        TreeEntry::File(file) => Wire {
            kind: "file".into(),
            oid: Some(HEXLOWER.encode(&file.git_oid)),
            size: Some(file.bytes),
            path: file.path.as_str().into(),
            lfs: file.lfs.map(|lfs| WireLfs {
                oid: file.id.to_string(),
                size: file.bytes,
                pointer_size: lfs.pointer_bytes,
            }),
            last_commit: file.last_commit.as_deref(),
            security: file.security.as_deref(),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COMMIT: Commit = Commit([7; 20]);

    fn file(path: &str, bytes: u64) -> String {
        format!(
            r#"{{"type":"file","oid":"{}","size":{bytes},"path":{}}}"#,
            "0c".repeat(20),
            serde_json::json!(path)
        )
    }

    fn tree(entries: &[String]) -> RepoTree {
        let mut pages = TreePages::default();
        pages.push(format!("[{}]", entries.join(",")).as_bytes()).expect("a page");
        pages.finish(COMMIT)
    }

    fn paths(tree: &RepoTree) -> Vec<&str> {
        tree.files().iter().map(|file| file.path.as_str()).collect()
    }

    #[test]
    fn files_of_git_and_of_lfs_have_their_lengths_and_hashes() {
        let lfs = format!(
            r#"{{"type":"file","oid":"{}","size":9,"path":"w","lfs":{{"oid":"{}","size":1000,"pointerSize":135}},"xetHash":"x"}}"#,
            "0c".repeat(20),
            "ab".repeat(32)
        );
        let tree = tree(&[lfs, file("a", 3)]);
        let weights = tree.find("w").expect("listed");
        assert_eq!((weights.bytes, weights.id), (1000, ContentId::Sha256([0xab; 32])));
        assert_eq!(weights.lfs, Some(Lfs { pointer_bytes: 135 }));
        let small = tree.find("a").expect("listed");
        assert_eq!((small.bytes, small.id, small.lfs), (3, ContentId::GitSha1([0x0c; 20]), None));
        assert_eq!((tree.total_bytes(), tree.find("b").is_none()), (1003, true));
        let json = entries_to_json(tree.list(None, Depth::All).expect("all"));
        assert!(!json.contains("xet") && json.contains(r#""pointerSize":135"#), "{json}");
    }

    #[test]
    fn a_listing_goes_as_deep_as_is_asked() {
        let tree = tree(&[file("b/c/d", 1), file("a", 1), file("b/x", 1), file("b-", 1)]);
        let list = |directory: Option<&str>, depth| {
            let directory = directory.map(|text| FilePath::parse(text).expect("a path"));
            let entries = tree.list(directory.as_ref(), depth)?;
            Some(entries.iter().map(|entry| entry.path().to_string()).collect::<Vec<_>>())
        };
        let some = |paths: &[&str]| Some(paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
        assert_eq!(list(None, Depth::Children), some(&["a", "b", "b-"]));
        assert_eq!(list(None, Depth::All), some(&["a", "b", "b-", "b/c", "b/c/d", "b/x"]));
        assert_eq!(list(Some("b"), Depth::Children), some(&["b/c", "b/x"]));
        assert_eq!(list(Some("b"), Depth::All), some(&["b/c", "b/c/d", "b/x"]));
        assert_eq!((list(Some("a"), Depth::All), list(Some("c"), Depth::All)), (None, None));
    }

    #[test]
    fn hostile_entries_are_left_out_and_counted() {
        let odd = [
            file("../x", 1),
            file("/etc/passwd", 1),
            file("a\\b", 1),
            file("x/./y", 1),
            file("a", 1),
            file("a", 2),
            file("a/b", 3),
            r#"{"type":"commit","oid":"x","path":"sub"}"#.to_owned(),
            file("longer than a disk", u64::MAX),
            file("ok", 1),
        ];
        let tree = tree(&odd);
        assert_eq!((paths(&tree), tree.refused()), (vec!["a", "ok"], 8));
        assert_eq!(tree.find("a").map(|file| file.bytes), Some(1));
        assert!(tree.directories().is_empty());
    }

    #[test]
    fn a_listing_of_deep_paths_ends_before_its_directories_fill_the_memory() {
        let deep = |n: usize| file(&format!("{n:04}{}", "/x".repeat(2000)), 1);
        let page = format!("[{}]", (0..100).map(deep).collect::<Vec<_>>().join(","));
        assert!(page.len() < 1 << 20);
        assert!(matches!(TreePages::default().push(page.as_bytes()), Err(TreeError::TooLong)));
    }

    #[test]
    fn a_page_without_hashes_or_lengths_is_refused() {
        for page in [
            "",
            "{}",
            "<html>",
            r#"{"error":"x"}"#,
            r#"[{"type":"file","path":"a","size":1}]"#,
            r#"[{"type":"file","path":"a","oid":"zz","size":1}]"#,
            &format!(r#"[{{"type":"file","path":"a","oid":"{}"}}]"#, "0c".repeat(20)),
            &format!(r#"[{{"type":"file","path":"a","oid":"{}","size":-1}}]"#, "0c".repeat(20)),
            &"[".repeat(100_000),
        ] {
            assert!(TreePages::default().push(page.as_bytes()).is_err(), "{page:.60}");
        }
    }

    #[test]
    fn what_is_kept_is_read_back_with_what_was_asked_for_besides() {
        let more = file("b/c", 4).replace(
            "\"size\"",
            r#""lastCommit":{"id":"x","date":"d"},"securityFileStatus":{"status":"safe"},"size""#,
        );
        let tree = tree(&[file("a", 3), more]);
        let json = tree.to_json();
        assert!(json.contains(r#""lastCommit":{"id":"x","date":"d"}"#) && json.contains("safe"), "{json}");
        let read = RepoTree::from_json(json.as_bytes()).expect("read");
        assert_eq!((read.to_json(), read.commit), (json, COMMIT));
        assert!(RepoTree::from_json(b"{}").is_err());
    }

    proptest! {
        #[test]
        fn a_tree_can_always_be_laid_out_as_files_and_directories(
            raw in prop::collection::vec("[ab/.]{1,5}", 0..12)
        ) {
            let entries: Vec<String> = raw.iter().map(|path| file(path, 1)).collect();
            let tree = tree(&entries);
            for file in tree.files() {
                prop_assert!(tree.find_directory(file.path.as_str()).is_none());
                for directory in ancestors(&file.path) {
                    prop_assert!(tree.find(directory.as_str()).is_none());
                    prop_assert!(tree.find_directory(directory.as_str()).is_some());
                }
            }
            prop_assert!(tree.files().is_sorted_by(|a, b| a.path < b.path));
            prop_assert_eq!(tree.files().len() + tree.refused(), raw.len());
        }

        #[test]
        fn no_page_makes_trouble(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = TreePages::default().push(&bytes);
        }
    }
}
