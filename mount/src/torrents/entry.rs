//! One torrent's place in the root: first a text that says what is awaited, then its tree.

use std::sync::Arc;
use std::time::SystemTime;

use tokio_util::sync::{CancellationToken, DropGuard};
use wtfs_proto::geometry::FileIndex;
use wtfs_proto::metainfo::{Layout, Metainfo};

use crate::attributes::{RANGES_MAX, percent, ranges_text};
use crate::catalog::{Catalog, CatalogError, Executable, Leaf, modified_from};
use crate::content::{Content, MemoryContent};
use crate::errno::FsError;
use crate::inode::{InodeNo, TreeTag};
use crate::torrents::names::{self, NameShape};
use crate::torrents::source::TorrentSource;
use crate::tree::{Caching, Node, NodeKind};

/// Of an entry that waits: says so to whoever only sees the name.
const WAITING: &str = ".waiting-for-metadata";

/// Of an entry that will never be one.
const FAILED: &str = ".failed";

/// The slot of the text's inode number; catalogs use others.
const TEXT_SLOT: u32 = 1;

/// What a torrent shows now. Replaced as a whole, never changed.
#[derive(Debug)]
pub(super) enum View {
    /// Its metadata is missing.
    Waiting { since: SystemTime },
    /// Its metadata never came, or makes no tree.
    Failed { message: String },
    /// Its tree; `top` is the entry that stands in the root.
    Ready { catalog: Arc<Catalog>, metainfo: Arc<Metainfo>, top: u32 },
}

/// A torrent in the root.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) tag: TreeTag,
    pub(super) name: String,
    pub(super) source: Arc<dyn TorrentSource>,
    pub(super) view: View,
    /// Ends the wait for metadata when the torrent is removed.
    pub(super) _waiting: Arc<DropGuard>,
}

/// A guard that ends the wait, and the token that says so.
pub(super) fn wait_guard() -> (Arc<DropGuard>, CancellationToken) {
    let token = CancellationToken::new();
    (Arc::new(token.clone().drop_guard()), token)
}

impl View {
    /// Builds the tree. Takes some ten milliseconds for tens of thousands of files.
    pub(super) fn build(tag: TreeTag, source: &dyn TorrentSource, metainfo: Arc<Metainfo>) -> Self {
        match build_catalog(tag, source, &metainfo) {
            Ok(catalog) => {
                let only = catalog.children(Catalog::ROOT).map_or(Catalog::ROOT, |children| children.start);
                let top = match metainfo.info.layout {
                    Layout::SingleFile if !catalog.is_empty() => only,
                    Layout::SingleFile | Layout::Directory => Catalog::ROOT,
                };
                Self::Ready { catalog: Arc::new(catalog), metainfo, top }
            }
            Err(error) => Self::Failed { message: format!("its files make no tree: {error}") },
        }
    }

    /// The name it would like, and how to tell it from another of that name.
    pub(super) fn wish(&self, source: &dyn TorrentSource) -> (String, NameShape) {
        let name = || names::tame(&source.name(), &source.info_hash().to_string());
        match self {
            Self::Waiting { .. } => (names::fitted(&name(), WAITING), NameShape::File),
            Self::Failed { .. } => (names::fitted(&name(), FAILED), NameShape::File),
            Self::Ready { catalog, metainfo, top } => {
                let shape = match catalog.entry(*top).map(crate::catalog::Entry::kind) {
                    Some(NodeKind::File | NodeKind::Symlink) => NameShape::File,
                    Some(NodeKind::Directory) | None => NameShape::Directory,
                };
                (names::tame(&metainfo.info.name, &source.info_hash().to_string()), shape)
            }
        }
    }

    fn text(&self, source: &dyn TorrentSource) -> Option<String> {
        let (name, hash) = (source.name(), source.info_hash());
        match self {
            Self::Waiting { since } => {
                let waited = since.elapsed().unwrap_or_default().as_secs();
                let details = source.describe_wait();
                Some(format!(
                    "{name}\n{hash}\n\nWaiting for the metadata (names, sizes and hashes of the files) for {waited} s.\n\
                     This file gives way to the torrent's own entry when it arrives.\n\n{details}"
                ))
            }
            Self::Failed { message } => {
                Some(format!("{name}\n{hash}\n\nThis torrent cannot be shown: {message}\n"))
            }
            Self::Ready { .. } => None,
        }
    }
}

fn build_catalog(
    tag: TreeTag,
    source: &dyn TorrentSource,
    metainfo: &Metainfo,
) -> Result<Catalog, CatalogError> {
    let shown = metainfo.info.files.iter().zip(0_u32..).filter(|(file, _)| !file.is_pad);
    let leaves = shown.map(|(file, number)| {
        let leaf = match &file.symlink {
            Some(target) => Leaf::Symlink { target: target.components().to_vec() },
            None => Leaf::File {
                file: number,
                bytes: file.bytes,
                executable: if file.is_executable { Executable::Yes } else { Executable::No },
            },
        };
        (file.path.components().to_vec(), leaf)
    });
    let modified = modified_from(metainfo.creation_date);
    Catalog::build(tag, source.info_hash().as_bytes(), modified, leaves)
}

impl Place {
    /// The number of what stands in the root.
    fn top_ino(&self) -> Option<InodeNo> {
        match &self.view {
            View::Waiting { .. } | View::Failed { .. } => Some(InodeNo::of(self.tag, TEXT_SLOT)),
            View::Ready { catalog, top, .. } => Some(catalog.ino(catalog.entry(*top)?)),
        }
    }

    /// What stands in the root.
    pub(super) fn top(&self) -> Option<Node> {
        self.node(self.top_ino()?)
    }

    /// The index of a visible entry of the tree.
    pub(super) fn find(&self, ino: InodeNo) -> Option<(&Catalog, u32)> {
        match &self.view {
            View::Ready { catalog, top, .. } => {
                let index = catalog.find(ino)?;
                // The root directory of a single file is not shown.
                (index >= *top).then_some((catalog.as_ref(), index))
            }
            View::Waiting { .. } | View::Failed { .. } => None,
        }
    }

    pub(super) fn node(&self, ino: InodeNo) -> Option<Node> {
        if let Some((catalog, index)) = self.find(ino) {
            return self.catalog_node(catalog, index);
        }
        let text = self.view.text(self.source.as_ref())?;
        (self.top_ino() == Some(ino)).then(|| text_node(ino, text.len() as u64))
    }

    /// The node at an index of the tree.
    pub(super) fn catalog_node(&self, catalog: &Catalog, index: u32) -> Option<Node> {
        let entry = catalog.entry(index)?;
        let is_top = self.top_ino() == Some(catalog.ino(entry));
        let parent = if is_top { InodeNo::ROOT } else { catalog.ino(catalog.entry(entry.parent())?) };
        let local_bytes =
            self.file_index(entry.file()).map_or(entry.bytes(), |file| self.source.local_bytes(file));
        let caching = if local_bytes < entry.bytes() { Caching::Filling } else { Caching::Immutable };
        Some(Node {
            ino: catalog.ino(entry),
            parent,
            kind: entry.kind(),
            bytes: entry.bytes(),
            local_bytes,
            permissions: entry.permissions(),
            links: entry.links(),
            modified: catalog.modified(),
            caching,
        })
    }

    fn file_index(&self, number: Option<u32>) -> Option<FileIndex> {
        match &self.view {
            View::Ready { metainfo, .. } => metainfo.info.geometry.file(number? as usize),
            View::Waiting { .. } | View::Failed { .. } => None,
        }
    }

    pub(super) fn open(&self, ino: InodeNo) -> Result<Arc<dyn Content>, FsError> {
        match (self.find(ino), self.view.text(self.source.as_ref())) {
            (Some((catalog, index)), _) => {
                let entry = catalog.entry(index).ok_or(FsError::Stale)?;
                match entry.kind() {
                    NodeKind::Directory => Err(FsError::IsADirectory),
                    NodeKind::Symlink => Err(FsError::InvalidArgument),
                    NodeKind::File => self.source.open(self.file_index(entry.file()).ok_or(FsError::Stale)?),
                }
            }
            (None, Some(text)) if self.top_ino() == Some(ino) => Ok(Arc::new(MemoryContent::new(text))),
            (None, _) => Err(FsError::Stale),
        }
    }

    /// `user.wtfs.*` of an entry; names and values together, in the order they are listed.
    pub(super) fn attributes(&self, ino: InodeNo) -> Vec<(&'static str, String)> {
        let mut found = vec![("user.wtfs.infohash", self.source.info_hash().to_string())];
        let (View::Ready { metainfo, .. }, Some((catalog, index))) = (&self.view, self.find(ino)) else {
            return found;
        };
        let progress = self.source.progress();
        found.push(("user.wtfs.piece_size", metainfo.info.piece_bytes.to_string()));
        if let Some(file) = catalog.entry(index).and_then(|entry| self.file_index(entry.file())) {
            let (local, bytes) = (self.source.local_bytes(file), metainfo.info.geometry.file_len(file));
            found.push(("user.wtfs.file_index", file.get().to_string()));
            found.push(("user.wtfs.verified_bytes", local.to_string()));
            found.push((
                "user.wtfs.verified_ranges",
                ranges_text(&self.source.local_ranges(file, RANGES_MAX + 1)),
            ));
            found.push(("user.wtfs.progress", percent(local, bytes)));
        } else {
            found.push(("user.wtfs.pieces_verified", progress.pieces_present.to_string()));
            found.push(("user.wtfs.pieces", progress.pieces.to_string()));
            found.push((
                "user.wtfs.progress",
                percent(progress.pieces_present.into(), progress.pieces.into()),
            ));
        }
        found
    }
}

fn text_node(ino: InodeNo, bytes: u64) -> Node {
    Node {
        ino,
        parent: InodeNo::ROOT,
        kind: NodeKind::File,
        bytes,
        local_bytes: bytes,
        permissions: 0o444,
        links: 1,
        modified: modified_from(None),
        caching: Caching::Volatile,
    }
}
