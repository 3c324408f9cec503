//! Finding what a torrent is made of: files and links below a root, in the order of their paths' bytes.
//!
//! Follows no symbolic link below the root (the root itself may be one: the user named it). Owns the rules for names and
//! links; reads no content. The order is that of the whole paths with their slashes, compared as bytes, as `sort` in
//! the C locale has it.

use std::fs::{FileType, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use wtfs_proto::metainfo::{FileEntry, MAX_FILES, MetainfoError};
use wtfs_proto::path::TorrentPath;

use super::{CreateError, HiddenFiles, SymbolicLinks};
use crate::stamp::Stamp;

/// What the root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
}

/// One file or link of the torrent to be.
#[derive(Debug)]
pub(super) struct SourceFile {
    pub(super) entry: FileEntry,
    pub(super) path: PathBuf,
    pub(super) stamp: Stamp,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) files: Vec<SourceFile>,
}

impl Tree {
    pub(super) fn walk(root: &Path, hidden: HiddenFiles, links: SymbolicLinks) -> Result<Self, CreateError> {
        let metadata = root.metadata().map_err(CreateError::at("open", root))?;
        let name = name_of(root)?;
        if metadata.is_file() {
            let path = torrent_path(std::slice::from_ref(&name))?;
            let files = vec![source_file(path, root.to_path_buf(), &metadata)];
            return Ok(Self { name, kind: Kind::File, files });
        }
        if !metadata.is_dir() {
            return Err(CreateError::NotAFile { path: root.to_path_buf() });
        }
        let mut walk =
            Walk { hidden, links, files: Vec::new(), left: vec![(root.to_path_buf(), Vec::new())] };
        while let Some((dir, components)) = walk.left.pop() {
            walk.list(&dir, &components)?;
        }
        let mut files = walk.files;
        files.sort_by_cached_key(|file| file.entry.path.to_string().into_bytes());
        Ok(Self { name, kind: Kind::Directory, files })
    }
}

struct Walk {
    hidden: HiddenFiles,
    links: SymbolicLinks,
    files: Vec<SourceFile>,
    /// Directories still to be listed, with their components below the root.
    left: Vec<(PathBuf, Vec<String>)>,
}

impl Walk {
    fn list(&mut self, dir: &Path, components: &[String]) -> Result<(), CreateError> {
        for found in std::fs::read_dir(dir).map_err(CreateError::at("list", dir))? {
            let found = found.map_err(CreateError::at("list", dir))?;
            let path = found.path();
            let name = found.file_name();
            let is_hidden = name.as_encoded_bytes().starts_with(b".");
            if is_hidden && self.hidden != HiddenFiles::Include {
                continue;
            }
            if self.hidden == HiddenFiles::SkipWithUnfinished && is_unfinished(&name.to_string_lossy()) {
                continue;
            }
            // Of the entry itself: does not follow links.
            let metadata = found.metadata().map_err(CreateError::at("stat", &path))?;
            let kind: FileType = metadata.file_type();
            if kind.is_symlink() && self.links == SymbolicLinks::Skip {
                continue;
            }
            let name = name.into_string().map_err(|_| CreateError::NotUtf8 { path: path.clone() })?;
            let mut below = components.to_vec();
            below.push(name);
            if kind.is_dir() {
                self.left.push((path, below));
                continue;
            }
            let in_torrent = torrent_path(&below)?;
            let file = if kind.is_symlink() {
                let target = match link_target(&path, components) {
                    Err(CreateError::LinkLeaves { .. }) if self.links == SymbolicLinks::KeepInside => {
                        continue;
                    }
                    target => target?,
                };
                let entry = FileEntry::link(in_torrent, target);
                SourceFile { entry, path, stamp: Stamp::of(&metadata) }
            } else if kind.is_file() {
                source_file(in_torrent, path, &metadata)
            } else {
                return Err(CreateError::NotAFile { path });
            };
            self.files.push(file);
            if self.files.len() > MAX_FILES {
                return Err(MetainfoError::TooMany { what: "files", limit: MAX_FILES as u64 }.into());
            }
        }
        Ok(())
    }
}

/// Whether programs give such names to files that they are not done with.
pub(super) fn is_unfinished(name: &str) -> bool {
    const ENDINGS: &[&str] = &[
        "~",
        ".part",
        ".partial",
        ".tmp",
        ".temp",
        ".crdownload",
        ".download",
        ".aria2",
        ".swp",
        ".!qB",
        ".!ut",
        ".incomplete",
    ];
    ENDINGS.iter().any(|ending| name.ends_with(ending)) || (name.starts_with('#') && name.ends_with('#'))
}

fn source_file(in_torrent: TorrentPath, path: PathBuf, metadata: &Metadata) -> SourceFile {
    let mut entry = FileEntry::new(in_torrent, metadata.len());
    entry.is_executable = metadata.mode() & 0o100 != 0;
    SourceFile { entry, path, stamp: Stamp::of(metadata) }
}

/// Where a link leads, from the root; `dir` are the components of the directory that it lies in. By names alone: `..`
/// behind another link is taken as the parent by name.
fn link_target(link: &Path, dir: &[String]) -> Result<TorrentPath, CreateError> {
    let target = std::fs::read_link(link).map_err(CreateError::at("read", link))?;
    let leaves = || CreateError::LinkLeaves { path: link.to_path_buf(), target: target.clone() };
    let mut components = dir.to_vec();
    for component in target.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(components.pop().ok_or_else(leaves)?),
            Component::Normal(name) => {
                let name = name.to_str().ok_or_else(|| CreateError::NotUtf8 { path: link.to_path_buf() })?;
                components.push(name.to_owned());
            }
            Component::RootDir | Component::Prefix(_) => return Err(leaves()),
        }
    }
    if components.is_empty() { Err(leaves()) } else { torrent_path(&components) }
}

/// Names off a file system break no rule but those of length.
fn torrent_path(components: &[String]) -> Result<TorrentPath, CreateError> {
    TorrentPath::from_components(components)
        .map_err(|source| MetainfoError::UnsafeName { entry: components.join("/"), source }.into())
}

fn name_of(root: &Path) -> Result<String, CreateError> {
    let named = match root.file_name() {
        Some(name) => Some(name.to_owned()),
        // `.`, `..` and the like.
        None => {
            let canonical = root.canonicalize().map_err(CreateError::at("open", root))?;
            canonical.file_name().map(ToOwned::to_owned)
        }
    };
    let name = named.unwrap_or_else(|| "root".into());
    name.into_string().map_err(|_| CreateError::NotUtf8 { path: root.to_path_buf() })
}
