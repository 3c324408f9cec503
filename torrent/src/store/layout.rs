//! Where a torrent's files lie below the data directory: the natural layout, `<name>` or `<name>/<path>`.
//!
//! The components come from the metainfo, which holds only paths that stay inside the torrent.

use std::path::{Path, PathBuf};

use wtfs_proto::geometry::FileIndex;
use wtfs_proto::metainfo::{FileEntry, Info, Layout};

/// The entry of a file.
pub(super) fn entry_of(info: &Info, file: FileIndex) -> Option<&FileEntry> {
    info.files.get(usize::try_from(file.get()).ok()?)
}

/// The file's path relative to the data directory.
pub(super) fn path_of(info: &Info, file: FileIndex) -> PathBuf {
    entry_of(info, file).map(|entry| path_of_entry(info, entry)).unwrap_or_default()
}

/// As [`path_of`], for an entry at hand.
pub(super) fn path_of_entry(info: &Info, entry: &FileEntry) -> PathBuf {
    match info.layout {
        Layout::SingleFile => entry.path.to_relative_path(),
        Layout::Directory => Path::new(&info.name).join(entry.path.to_relative_path()),
    }
}
