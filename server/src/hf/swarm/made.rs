//! The torrent of a revision or a file: what is in it, and how its pieces are cut. Pure.
//!
//! Two hubs must make the same info hashes, whatever their addresses, clocks and settings: everything here follows from
//! the names, lengths and hashes of the files, and changing any of it is a break with all other hubs.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wtfs_proto::hf::{Commit, ContentId, FilePath, Repo, RepoTree, TreeFile};
use wtfs_proto::metainfo::{FileHashes, HybridBuilder, Metainfo, MetainfoError, Privacy, choose_piece_bytes};
use wtfs_torrent::hf::blobs::PieceHashes;

/// Pieces of less cost more hashes than they spare waiting.
const PIECE_BYTES_MIN: u32 = 256 << 10;

/// Who reads a little of a file waits for a piece of it, if it knows v1 alone.
const PIECE_BYTES_MAX: u32 = 4 << 20;

/// Who may have a torrent. What it holds may be the same; its info hash is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Reach {
    /// Everybody, as the repository.
    Open,
    /// Who may read the repository.
    Closed,
}

/// What a torrent is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) repo: Repo,
    pub(super) commit: Commit,
    /// One file; the whole revision when none.
    pub(super) path: Option<FilePath>,
    pub(super) reach: Reach,
}

/// A file of a torrent, and the blob that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) path: FilePath,
    pub(super) id: ContentId,
    pub(super) bytes: u64,
}

/// Length of the pieces of a file's torrent, and of a revision's whose longest file it is: so its hashes are made once,
/// in the pass that verifies it.
pub(crate) fn piece_bytes(longest_bytes: u64) -> u32 {
    choose_piece_bytes(longest_bytes).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)
}

/// The files of a revision's torrent.
pub(super) fn parts(tree: &RepoTree) -> Arc<[Part]> {
    tree.files().iter().map(part).collect()
}

pub(super) fn part(file: &TreeFile) -> Part {
    Part { path: file.path.clone(), id: file.id, bytes: file.bytes }
}

/// Bytes of all files. What is longer than can be counted, by the word of somebody who makes lengths up, is as long as can be.
pub(super) fn total_bytes(parts: &[Part]) -> u64 {
    parts.iter().fold(0, |sum, part| sum.saturating_add(part.bytes))
}

/// Length of the pieces of a torrent of these files.
pub(super) fn piece_bytes_of(parts: &[Part]) -> u32 {
    piece_bytes(parts.iter().map(|part| part.bytes).max().unwrap_or(0))
}

/// Makes the torrent. `hashes` are those of all blobs but empty ones, for pieces of [`piece_bytes_of`].
///
/// # Errors
/// [`MetainfoError`] when the files make no torrent, as names do that a torrent keeps for itself.
pub(super) fn metainfo(
    key: &Key,
    parts: &[Part],
    hashes: &HashMap<ContentId, Arc<PieceHashes>>,
) -> Result<Metainfo, MetainfoError> {
    let piece_bytes = piece_bytes_of(parts);
    let builder = match &key.path {
        Some(path) => HybridBuilder::single_file(path.file_name(), piece_bytes),
        None => HybridBuilder::directory(&key.commit.to_string(), piece_bytes),
    };
    let mut builder = builder.with_privacy(match key.reach {
        Reach::Open => Privacy::Public,
        Reach::Closed => Privacy::Private,
    });
    for part in parts {
        let path = part.path.to_torrent_path();
        let path = match key.path {
            // A single file's path is its name.
            Some(_) => wtfs_proto::path::TorrentPath::from_components([path.file_name()])
                .map_err(|source| MetainfoError::UnsafeName { entry: path.to_string(), source })?,
            None => path,
        };
        // Without its hashes the torrent is refused when it is read back.
        builder.push(
            path,
            part.bytes,
            hashes.get(&part.id).map_or_else(none, |hashes| FileHashes {
                v1: hashes.v1.clone(),
                v1_last_padded: hashes.v1_last_padded,
                root: hashes.v2_root,
                layer: hashes.v2_layer.clone(),
            }),
        );
    }
    builder.finish()
}

fn none() -> FileHashes {
    FileHashes { v1: Vec::new(), v1_last_padded: [0; 20], root: [0; 32], layer: Vec::new() }
}

/// A torrent as it is remembered, beside its metainfo.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    repo: String,
    commit: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    closed: bool,
    files: Vec<(String, String, u64)>,
}

impl Record {
    pub(super) fn new(key: &Key, parts: &[Part]) -> Self {
        let files = parts.iter().map(|part| (part.path.to_string(), part.id.to_string(), part.bytes));
        Self {
            repo: key.repo.to_string(),
            commit: key.commit.to_string(),
            path: key.path.as_ref().map(FilePath::to_string),
            closed: key.reach == Reach::Closed,
            files: files.collect(),
        }
    }

    /// What it says; `None` if it is not what was written.
    pub(super) fn read(&self) -> Option<(Key, Arc<[Part]>)> {
        let path = match &self.path {
            Some(path) => Some(FilePath::parse(path).ok()?),
            None => None,
        };
        let reach = if self.closed { Reach::Closed } else { Reach::Open };
        let key = Key { repo: Repo::parse(&self.repo).ok()?, commit: self.commit.parse().ok()?, path, reach };
        let files = self.files.iter().map(|(path, id, bytes)| {
            Some(Part { path: FilePath::parse(path).ok()?, id: id.parse().ok()?, bytes: *bytes })
        });
        Some((key, files.collect::<Option<_>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(path: &str, bytes: u64) -> Part {
        let path = FilePath::parse(path).expect("a path");
        Part { path, id: ContentId::GitSha1([bytes as u8; 20]), bytes }
    }

    #[test]
    fn a_revisions_pieces_are_those_of_its_longest_file() {
        assert_eq!(piece_bytes(0), 256 << 10);
        assert_eq!(piece_bytes(500 << 20), 256 << 10);
        assert_eq!(piece_bytes((500 << 20) + 1), 512 << 10);
        assert_eq!(piece_bytes(5_000_000_000), 4 << 20);
        assert_eq!(piece_bytes(1 << 40), 4 << 20);
        assert_eq!(piece_bytes_of(&[part("a", 1), part("b", 3 << 30)]), piece_bytes(3 << 30));
        assert_eq!(total_bytes(&[part("a", 1), part("b", 2)]), 3);
        assert_eq!(total_bytes(&["a", "b", "c"].map(|path| part(path, i64::MAX as u64))), u64::MAX);
    }

    #[test]
    fn what_is_remembered_is_read_back() {
        let repo = Repo::parse("datasets/org/name").expect("a repository");
        let parts = [part("a/b", 1), part("c", 2)];
        let mut text = String::new();
        for reach in [Reach::Closed, Reach::Open] {
            let key = Key { repo: repo.clone(), commit: Commit([7; 20]), path: None, reach };
            text = serde_json::to_string(&Record::new(&key, &parts)).expect("written");
            let record: Record = serde_json::from_str(&text).expect("read");
            let (read, files) = record.read().expect("what was written");
            assert_eq!((read, &files[..]), (key, &parts[..]));
        }
        let hostile = text.replace("a/b", "../b");
        assert!(serde_json::from_str::<Record>(&hostile).expect("JSON").read().is_none());
    }
}
