//! The files of a torrent: one entry of the list, and the rules that hold between entries.
//!
//! Invariant of a checked list: no two entries that are shown have one name, none is a directory of another, and every
//! link leads to a place inside the torrent. Padding files are never shown or stored, so their names are free (makers
//! give all pads of one length one name).

use super::error::MetainfoError;
use crate::bencode::{Dict, Value};
use crate::geometry::{Alignment, FileLayout};
use crate::path::{TorrentPath, printable};

/// One file of a torrent, as the metainfo lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Of a single file its name; in a directory the path below it.
    pub path: TorrentPath,
    /// Length of the content; zero for a link.
    pub bytes: u64,
    /// Padding between files (BEP 47): zeros, never stored and never shown.
    pub is_pad: bool,
    /// To be made executable (BEP 47).
    pub is_executable: bool,
    /// To be hidden where a system can (BEP 47).
    pub is_hidden: bool,
    /// For a symbolic link (BEP 47) the path it leads to, seen from the torrent's directory.
    pub symlink: Option<TorrentPath>,
    /// Root of the file's hash tree (BEP 52); `None` in v1 and for empty files.
    pub root: Option<[u8; 32]>,
    /// SHA-1 of the whole content (BEP 47), if the maker gave it. Informative only: pieces are what is verified.
    pub sha1: Option<[u8; 20]>,
}

impl FileEntry {
    /// A plain file of `bytes` bytes.
    pub const fn new(path: TorrentPath, bytes: u64) -> Self {
        Self {
            path,
            bytes,
            is_pad: false,
            is_executable: false,
            is_hidden: false,
            symlink: None,
            root: None,
            sha1: None,
        }
    }

    /// A symbolic link to `target`, which is a path from the torrent's directory.
    pub fn link(path: TorrentPath, target: TorrentPath) -> Self {
        let mut link = Self::new(path, 0);
        link.symlink = Some(target);
        link
    }

    /// How the geometry sees it.
    pub(crate) const fn layout(&self, alignment: Alignment) -> FileLayout {
        FileLayout { bytes: self.bytes, alignment, is_pad: self.is_pad }
    }

    /// The `attr` letters of this entry (BEP 47), empty for a plain file.
    pub(crate) fn attr(&self) -> String {
        let letters = [
            ('p', self.is_pad),
            ('x', self.is_executable),
            ('h', self.is_hidden),
            ('l', self.symlink.is_some()),
        ];
        letters.into_iter().filter_map(|(letter, is_set)| is_set.then_some(letter)).collect()
    }

    /// An entry whose `path` is known, from the dictionary that holds its `length` and BEP 47 keys: an element of
    /// `files`, an `info` of one file, or the properties of a file in a v2 tree.
    pub(crate) fn parse(path: TorrentPath, dict: &Dict<'_>) -> Result<Self, MetainfoError> {
        let key = |name: &str| format!("{name} of '{}'", printable(path.components()));
        let attr = dict.get_bytes("attr").unwrap_or_default();
        let symlink = if attr.contains(&b'l') { Some(parse_link(&path, dict)?) } else { None };
        let bytes = match dict.get("length") {
            // As in libtorrent: a link takes no part of the content, whatever its length says.
            _ if symlink.is_some() => 0,
            None => return Err(MetainfoError::missing(key("length"))),
            Some(length) => length
                .as_int()
                .and_then(|bytes| u64::try_from(bytes).ok())
                .ok_or_else(|| MetainfoError::wrong(key("length"), "an integer of 0 or more"))?,
        };
        Ok(Self {
            bytes,
            // BitComet's pads are older than BEP 47 and known by name alone.
            is_pad: attr.contains(&b'p') || path.file_name().starts_with("_____padding_file_"),
            is_executable: attr.contains(&b'x'),
            is_hidden: attr.contains(&b'h'),
            symlink,
            root: None,
            sha1: dict.get_bytes("sha1").and_then(|hash| hash.try_into().ok()),
            path,
        })
    }
}

fn parse_link(path: &TorrentPath, dict: &Dict<'_>) -> Result<TorrentPath, MetainfoError> {
    let Some(target) = dict.get_list("symlink path") else {
        return Err(MetainfoError::missing(format!("symlink path of '{}'", printable(path.components()))));
    };
    raw_components(target)
        .and_then(|target| TorrentPath::from_components(target).ok())
        .ok_or_else(|| MetainfoError::LinkLeavesTorrent { entry: printable(path.components()) })
}

/// The byte strings of a path list; `None` if one is not a byte string.
pub(crate) fn raw_components<'a>(list: &[Value<'a>]) -> Option<Vec<&'a [u8]>> {
    list.iter().map(Value::as_bytes).collect()
}

/// Checks the rules between entries.
pub(crate) fn check_names(files: &[FileEntry]) -> Result<(), MetainfoError> {
    let mut paths: Vec<&TorrentPath> = files.iter().filter(|f| !f.is_pad).map(|f| &f.path).collect();
    paths.sort_unstable();
    // Sorted by components, everything below a path stands right behind it, so neighbours are all there is to compare.
    for pair in paths.windows(2) {
        let [first, second] = pair else { continue };
        if first == second {
            return Err(MetainfoError::DuplicateName { entry: printable(first.components()) });
        }
        if first.is_parent_of(second) {
            let (file, entry) = (printable(first.components()), printable(second.components()));
            return Err(MetainfoError::FileAsDirectory { file, entry });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(path: &str) -> FileEntry {
        FileEntry::new(TorrentPath::from_components(path.split('/')).unwrap(), 1)
    }

    #[test]
    fn a_file_cannot_be_a_directory_even_with_names_between() {
        let files = ["a!/x", "a", "a b", "a/b/c"].map(entry);
        let error = check_names(&files).unwrap_err();
        assert_eq!(error, MetainfoError::FileAsDirectory { file: "a".into(), entry: "a/b/c".into() });
    }

    #[test]
    fn pads_may_share_a_name_and_files_may_not() {
        let mut files = ["a", "b", "a"].map(entry);
        assert_eq!(check_names(&files), Err(MetainfoError::DuplicateName { entry: "a".into() }));
        files[0].is_pad = true;
        assert_eq!(check_names(&files), Ok(()));
    }

    proptest! {
        #[test]
        fn names_are_accepted_exactly_when_a_file_system_could_hold_them(
            names in prop::collection::vec("[ab](/[ab!]){0,3}", 0..8)
        ) {
            let files: Vec<FileEntry> = names.iter().map(|name| entry(name)).collect();
            let clash = names.iter().enumerate().any(|(i, a)| {
                names.iter().enumerate().any(|(j, b)| i != j && (a == b || b.starts_with(&format!("{a}/"))))
            });
            prop_assert_eq!(check_names(&files).is_err(), clash);
        }
    }
}
