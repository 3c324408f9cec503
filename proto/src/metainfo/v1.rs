//! The v1 half of an `info` dictionary (BEP 3, BEP 47): `length` or `files`, and the hashes in `pieces`.

use super::error::MetainfoError;
use super::files::{FileEntry, raw_components};
use super::{Layout, MAX_FILES};
use crate::bencode::{Dict, Value};
use crate::path::{TorrentPath, printable};

/// The files in the order in which their bytes follow each other, pads included.
///
/// With both `files` and `length` the list counts, as in libtorrent.
pub(super) fn files(info: &Dict<'_>, name: &str) -> Result<(Layout, Vec<FileEntry>), MetainfoError> {
    let Some(list) = info.get("files") else {
        let path = TorrentPath::from_components([name])
            .map_err(|source| MetainfoError::UnsafeName { entry: printable([name]), source })?;
        return Ok((Layout::SingleFile, vec![FileEntry::parse(path, info)?]));
    };
    let list = list.as_list().ok_or_else(|| MetainfoError::wrong("files", "a list"))?;
    if list.is_empty() {
        return Err(MetainfoError::wrong("files", "at least one file"));
    }
    if list.len() > MAX_FILES {
        return Err(MetainfoError::TooMany { what: "files", limit: MAX_FILES as u64 });
    }
    let files: Result<_, _> = list.iter().enumerate().map(|(at, entry)| file(at, entry)).collect();
    Ok((Layout::Directory, files?))
}

fn file(at: usize, entry: &Value<'_>) -> Result<FileEntry, MetainfoError> {
    let dict = entry.as_dict().ok_or_else(|| MetainfoError::wrong(format!("files[{at}]"), "a dictionary"))?;
    FileEntry::parse(path(at, dict)?, dict)
}

/// `path.utf-8` where it is there and is UTF-8, else `path`.
fn path(at: usize, dict: &Dict<'_>) -> Result<TorrentPath, MetainfoError> {
    let utf8 = dict
        .get_list("path.utf-8")
        .and_then(raw_components)
        .filter(|list| list.iter().all(|component| std::str::from_utf8(component).is_ok()));
    let raw = match utf8 {
        Some(raw) => raw,
        None => {
            let list =
                dict.get("path").ok_or_else(|| MetainfoError::missing(format!("path of files[{at}]")))?;
            list.as_list()
                .and_then(raw_components)
                .ok_or_else(|| MetainfoError::wrong(format!("path of files[{at}]"), "a list of strings"))?
        }
    };
    TorrentPath::from_components(&raw).map_err(|source| {
        let entry = if raw.is_empty() { format!("files[{at}]") } else { printable(&raw) };
        MetainfoError::UnsafeName { entry, source }
    })
}
