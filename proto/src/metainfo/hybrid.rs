//! Making hybrid torrents from hashes that were made elsewhere: v1 and v2 over the same files (BEP 52), without a look at
//! any byte.
//!
//! The result depends on the names, lengths and hashes alone, so that whoever makes the torrent of the same files makes the
//! same info hashes: files stand in the order of the v2 tree, each begins a piece, and between them lies padding (BEP 47)
//! exactly as long as that takes; after the last there is none.

use bytes::Bytes;

use super::builder::Privacy;
use super::{Layout, Metainfo, MetainfoError};
use crate::bencode::{DictEncoder, Encoder, Limits};
use crate::path::TorrentPath;

/// The hashes of one file, for pieces of the torrent's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHashes {
    /// SHA-1 of each piece, the last one of the bytes that there are.
    pub v1: Vec<[u8; 20]>,
    /// SHA-1 of the last piece filled up with zeros.
    pub v1_last_padded: [u8; 20],
    /// Root of the file's hash tree.
    pub root: [u8; 32],
    /// The tree's layer of pieces; empty for a file not longer than a piece.
    pub layer: Vec<[u8; 32]>,
}

#[derive(Debug, Clone)]
struct HashedFile {
    path: TorrentPath,
    bytes: u64,
    hashes: FileHashes,
}

/// Makes a hybrid torrent.
#[derive(Debug, Clone)]
pub struct HybridBuilder {
    name: String,
    piece_bytes: u32,
    layout: Layout,
    privacy: Privacy,
    files: Vec<HashedFile>,
}

impl HybridBuilder {
    /// A torrent of a directory called `name`, still empty.
    pub fn directory(name: &str, piece_bytes: u32) -> Self {
        let (name, files) = (name.to_owned(), Vec::new());
        Self { name, piece_bytes, layout: Layout::Directory, privacy: Privacy::Public, files }
    }

    /// A torrent of the one file that [`Self::push`] adds, whose path must be `name`.
    pub fn single_file(name: &str, piece_bytes: u32) -> Self {
        Self { layout: Layout::SingleFile, ..Self::directory(name, piece_bytes) }
    }

    /// Public or private; public unless said.
    pub const fn with_privacy(mut self, privacy: Privacy) -> Self {
        self.privacy = privacy;
        self
    }

    /// Adds a file, in any order.
    pub fn push(&mut self, path: TorrentPath, bytes: u64, hashes: FileHashes) {
        self.files.push(HashedFile { path, bytes, hashes });
    }

    /// The torrent, with its piece layers and without trackers.
    ///
    /// # Errors
    /// Whatever [`Metainfo::parse`] says to the result: clashing or unsafe names, no files, the wrong number of
    /// hashes, layers that do not lead to their root.
    pub fn finish(mut self) -> Result<Metainfo, MetainfoError> {
        let deepest = Limits::METAINFO.depth;
        // No reader takes such a tree, and writing it goes as deep.
        if self.files.iter().any(|file| file.path.components().len() > deepest as usize) {
            return Err(MetainfoError::TooMany { what: "directories in a path", limit: deepest.into() });
        }
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        let files: Vec<&HashedFile> = self.files.iter().collect();
        let mut info = Encoder::new();
        info.dict(|info| {
            info.dict("file tree", |tree| directory(tree, &files, 0));
            match (self.layout, &files[..]) {
                (Layout::SingleFile, [file]) => length(info, file.bytes),
                _ => info.list("files", |list| self.v1_files(list)),
            }
            info.int("meta version", 2);
            info.bytes("name", &self.name);
            info.int("piece length", i64::from(self.piece_bytes));
            info.bytes("pieces", self.v1_pieces());
            if self.privacy == Privacy::Private {
                info.int("private", 1);
            }
        });
        let mut metainfo = Metainfo::from_info(Bytes::from(info.finish()), Vec::new(), Vec::new())?;
        let long = self.files.iter().filter(|file| file.bytes > u64::from(self.piece_bytes));
        let mut layers: Vec<([u8; 32], Bytes)> = long
            .map(|file| (file.hashes.root, Bytes::copy_from_slice(file.hashes.layer.as_flattened())))
            .collect();
        layers.sort();
        layers.dedup();
        metainfo.piece_layers = layers;
        // Read back, which checks the layers too.
        Metainfo::parse(&metainfo.to_bytes())
    }

    fn v1_files(&self, list: &mut Encoder) {
        // No length at all is refused when the result is read back.
        let piece_bytes = u64::from(self.piece_bytes).max(1);
        let mut offset = 0_u64;
        for file in &self.files {
            let beyond = offset % piece_bytes;
            if file.bytes > 0 && beyond > 0 {
                let pad = piece_bytes - beyond;
                offset = offset.saturating_add(pad);
                list.dict(|entry| {
                    entry.bytes("attr", "p");
                    length(entry, pad);
                    entry.list("path", |path| {
                        path.bytes(".pad");
                        path.bytes(pad.to_string());
                    });
                });
            }
            offset = offset.saturating_add(file.bytes);
            list.dict(|entry| {
                length(entry, file.bytes);
                entry.list("path", |path| {
                    file.path.components().iter().for_each(|component| path.bytes(component));
                });
            });
        }
    }

    fn v1_pieces(&self) -> Vec<u8> {
        let mut pieces = Vec::new();
        let mut content = self.files.iter().filter(|file| file.bytes > 0).peekable();
        while let Some(file) = content.next() {
            let FileHashes { v1, v1_last_padded, .. } = &file.hashes;
            match v1.split_last() {
                // What follows begins a piece of its own.
                Some((_, whole)) if content.peek().is_some() => {
                    pieces.extend_from_slice(whole.as_flattened());
                    pieces.extend_from_slice(v1_last_padded);
                }
                _ => pieces.extend_from_slice(v1.as_flattened()),
            }
        }
        pieces
    }
}

/// Lengths that do not fit are refused when the result is read back.
fn length(entry: &mut DictEncoder, bytes: u64) {
    entry.int("length", i64::try_from(bytes).unwrap_or(-1));
}

/// The part of the tree in which all of these sorted files lie, `depth` components down.
fn directory(tree: &mut DictEncoder, files: &[&HashedFile], depth: usize) {
    let name = |file: &HashedFile| file.path.components().get(depth).cloned().unwrap_or_default();
    for group in files.chunk_by(|a, b| name(a) == name(b)) {
        let Some(first) = group.first() else { continue };
        tree.dict(name(first), |node| {
            // Names that stand twice, or are a file and a directory, miss here and are refused when read back.
            if first.path.components().len() == depth + 1 {
                node.dict("", |properties| {
                    length(properties, first.bytes);
                    if first.bytes > 0 {
                        properties.bytes("pieces root", first.hashes.root);
                    }
                });
                return;
            }
            directory(node, group, depth + 1);
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha1::{Digest as _, Sha1};

    use super::*;
    use crate::geometry::BLOCK_BYTES;
    use crate::merkle;
    use crate::metainfo::Version;

    const PIECE_BYTES: u32 = 2 * BLOCK_BYTES;

    fn content(seed: u8, bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at as u8).wrapping_mul(seed).wrapping_add(seed)).collect()
    }

    fn hashes(content: &[u8]) -> FileHashes {
        let pieces: Vec<&[u8]> = content.chunks(PIECE_BYTES as usize).collect();
        let mut last = pieces.last().map(|last| last.to_vec()).unwrap_or_default();
        last.resize(PIECE_BYTES as usize, 0);
        let leaves: Vec<_> = content.chunks(BLOCK_BYTES as usize).map(merkle::hash_block).collect();
        let height = (PIECE_BYTES / BLOCK_BYTES).ilog2();
        let layer: Vec<_> = leaves
            .chunks((PIECE_BYTES / BLOCK_BYTES) as usize)
            .map(|leaves| merkle::piece_node(leaves, height))
            .collect();
        FileHashes {
            v1: pieces.iter().map(|piece| Sha1::digest(piece).into()).collect(),
            v1_last_padded: Sha1::digest(last).into(),
            root: merkle::root(&leaves),
            layer: if pieces.len() > 1 { layer } else { Vec::new() },
        }
    }

    fn path(text: &str) -> TorrentPath {
        TorrentPath::from_components(text.split('/')).expect("a path")
    }

    fn built(files: &[(&str, usize)]) -> Result<Metainfo, MetainfoError> {
        let mut builder = HybridBuilder::directory("d", PIECE_BYTES);
        for (seed, (name, bytes)) in (1..).zip(files) {
            builder.push(path(name), *bytes as u64, hashes(&content(seed, *bytes)));
        }
        builder.finish()
    }

    #[test]
    fn files_begin_pieces_with_padding_between_and_none_at_the_end() {
        let files = [("b", 40_000), ("a/x", 70_000), ("a-", 5), ("e", 0), ("f", 32_768), ("z", 100)];
        let metainfo = built(&files).expect("a torrent");
        assert_eq!(metainfo.info.version, Version::Hybrid);
        let listed: Vec<(String, u64)> =
            metainfo.info.files.iter().map(|file| (file.path.to_string(), file.bytes)).collect();
        let expected: [(&str, u64); 9] = [
            ("a/x", 70_000),
            (".pad/28304", 28_304),
            ("a-", 5),
            (".pad/32763", 32_763),
            ("b", 40_000),
            ("e", 0),
            (".pad/25536", 25_536),
            ("f", 32_768),
            ("z", 100),
        ];
        assert_eq!(listed, expected.map(|(name, bytes)| (name.to_owned(), bytes)));
        assert_eq!(metainfo.piece_layers.len(), 2, "of the files longer than a piece");
        let mut whole = Vec::new();
        for (entry, _) in metainfo.info.files.iter().zip(0..) {
            let at = files.iter().position(|(name, _)| *name == entry.path.to_string());
            let bytes = usize::try_from(entry.bytes).expect("small");
            whole.extend(at.map_or(vec![0; bytes], |at| content(at as u8 + 1, bytes)));
        }
        let pieces: Vec<u8> = whole
            .chunks(PIECE_BYTES as usize)
            .flat_map(|piece| <[u8; 20]>::from(Sha1::digest(piece)))
            .collect();
        assert_eq!(metainfo.info.pieces, pieces);
    }

    #[test]
    fn a_single_file_stands_alone() {
        let mut builder = HybridBuilder::single_file("a.bin", PIECE_BYTES).with_privacy(Privacy::Private);
        builder.push(path("a.bin"), 100_000, hashes(&content(3, 100_000)));
        let metainfo = builder.finish().expect("a torrent");
        assert_eq!((metainfo.info.layout, metainfo.info.version), (Layout::SingleFile, Version::Hybrid));
        assert!(metainfo.info.is_private && metainfo.hashes.v1.is_some() && metainfo.hashes.v2.is_some());
    }

    #[test]
    fn what_makes_no_torrent_is_refused() {
        assert!(built(&[]).is_err());
        assert!(built(&[("a", 5), ("a", 5)]).is_err());
        assert!(built(&[("a", 5), ("a/b", 5)]).is_err());
        let mut builder = HybridBuilder::directory("d", PIECE_BYTES);
        let mut wrong = hashes(&content(1, 100_000));
        wrong.layer[1] = [0; 32];
        builder.push(path("a"), 100_000, wrong);
        assert!(builder.finish().is_err(), "a layer that does not lead to its root");
    }

    #[test]
    fn numbers_and_paths_beyond_reason_are_refused_and_harm_nobody() {
        let made = |piece_bytes: u32, name: &str, bytes: u64| {
            let mut builder = HybridBuilder::directory("d", piece_bytes);
            builder.push(path(name), bytes, hashes(&content(1, 5)));
            builder.push(path("z"), 5, hashes(&content(2, 5)));
            builder.finish()
        };
        assert!(made(PIECE_BYTES, "a", 5).is_ok());
        assert!(made(0, "a", 5).is_err());
        assert!(made(PIECE_BYTES, "a", u64::MAX).is_err());
        // A thread of the engine has a stack of 2 MiB.
        let deep = std::thread::Builder::new().stack_size(512 << 10).spawn(move || {
            let deepest = vec!["x"; 2048].join("/");
            matches!(made(PIECE_BYTES, &deepest, 5), Err(MetainfoError::TooMany { .. }))
        });
        assert!(deep.expect("a thread").join().expect("no panic"));
        assert!(made(PIECE_BYTES, &vec!["x"; 100].join("/"), 5).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_order_in_which_files_come_does_not_matter(
            sizes in prop::collection::btree_map("[a-c]/[a-c]{1,2}|[d-f-]{1,2}", 1_usize..70_000, 1..6)
        ) {
            let forward: Vec<(&str, usize)> = sizes.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
            let build = |files: Vec<(usize, (&str, usize))>| {
                let mut builder = HybridBuilder::directory("d", PIECE_BYTES);
                for (seed, (name, bytes)) in files {
                    builder.push(path(name), bytes as u64, hashes(&content(seed as u8, bytes)));
                }
                builder.finish()
            };
            let numbered: Vec<_> = forward.into_iter().enumerate().collect();
            let one = build(numbered.clone()).expect("a torrent");
            let other = build(numbered.into_iter().rev().collect()).expect("a torrent");
            prop_assert_eq!(one.hashes, other.hashes);
            prop_assert_eq!(one.info.display_total(), sizes.values().map(|bytes| *bytes as u64).sum::<u64>());
        }
    }
}
