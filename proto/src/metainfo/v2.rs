//! The v2 half of an `info` dictionary (BEP 52): the `file tree`, its agreement with the v1 list in a hybrid, and the
//! `piece layers` that stand beside `info`.

use std::collections::HashMap;

use bytes::Bytes;

use super::error::MetainfoError;
use super::files::FileEntry;
use super::{Layout, MAX_FILES};
use crate::bencode::Dict;
use crate::geometry::{BLOCK_BYTES, Geometry};
use crate::merkle;
use crate::path::{TorrentPath, printable, safe_component};

/// The files in the order of the tree, which is the order of their pieces.
///
/// One file at the top that has the torrent's own name is a torrent of a single file; anything else is a directory.
pub(super) fn files(info: &Dict<'_>, name: &str) -> Result<(Layout, Vec<FileEntry>), MetainfoError> {
    let tree = info.get("file tree").ok_or_else(|| MetainfoError::missing("file tree"))?;
    let tree = tree.as_dict().ok_or_else(|| MetainfoError::wrong("file tree", "a dictionary"))?;
    let mut files = Vec::new();
    directory(tree, &mut Vec::new(), &mut files)?;
    match &files[..] {
        [] => Err(MetainfoError::wrong("file tree", "at least one file")),
        [only] if only.path.components() == [name] => Ok((Layout::SingleFile, files)),
        _ => Ok((Layout::Directory, files)),
    }
}

/// Recursion is as deep as the decoder let the tree be.
fn directory(
    tree: &Dict<'_>,
    above: &mut Vec<String>,
    files: &mut Vec<FileEntry>,
) -> Result<(), MetainfoError> {
    for (raw, value) in tree.iter() {
        let component = safe_component(raw).map_err(|source| {
            let entry = printable(above.iter().map(String::as_bytes).chain([raw]));
            MetainfoError::UnsafeName { entry, source }
        })?;
        above.push(component);
        let not_a_dict = || MetainfoError::wrong(printable(&*above), "a dictionary");
        let node = value.as_dict().ok_or_else(not_a_dict)?;
        match node.get("") {
            None => directory(node, above, files)?,
            Some(_) if node.len() > 1 => {
                let below = node.iter().map(|(key, _)| key).find(|key| !key.is_empty()).unwrap_or_default();
                let file = printable(&*above);
                let entry = printable(above.iter().map(String::as_bytes).chain([below]));
                return Err(MetainfoError::FileAsDirectory { file, entry });
            }
            Some(properties) => files.push(file(above, properties.as_dict().ok_or_else(not_a_dict)?)?),
        }
        if files.len() > MAX_FILES {
            return Err(MetainfoError::TooMany { what: "files", limit: MAX_FILES as u64 });
        }
        above.pop();
    }
    Ok(())
}

fn file(path: &[String], properties: &Dict<'_>) -> Result<FileEntry, MetainfoError> {
    let path = TorrentPath::from_components(path)
        .map_err(|source| MetainfoError::UnsafeName { entry: printable(path), source })?;
    let mut file = FileEntry::parse(path, properties)?;
    // BEP 52 has no pads; one would be a hole in a torrent whose pieces belong to one file each.
    file.is_pad = false;
    if file.bytes > 0 {
        let key = || format!("pieces root of '{}'", printable(file.path.components()));
        let root = properties.get("pieces root").ok_or_else(|| MetainfoError::missing(key()))?;
        let root = root.as_bytes().and_then(|root| root.try_into().ok());
        file.root = Some(root.ok_or_else(|| MetainfoError::wrong(key(), "32 bytes"))?);
    }
    Ok(file)
}

/// Gives the v1 files of a hybrid the roots of the v2 tree, if both halves describe the same files in the same places.
///
/// Whoever knows only one half must get the same bytes (BEP 52), so any difference refuses the torrent.
pub(super) fn join_hybrid(
    files: &mut [FileEntry],
    tree: &[FileEntry],
    piece_bytes: u32,
) -> Result<(), MetainfoError> {
    let mut tree = tree.iter();
    let mut offset = 0_u64;
    for file in files {
        let start = offset;
        offset = offset.saturating_add(file.bytes);
        if file.is_pad {
            continue;
        }
        let differs =
            |problem| MetainfoError::Inconsistent { entry: printable(file.path.components()), problem };
        let twin = tree.next().ok_or_else(|| differs("missing in the v2 tree"))?;
        if twin.path != file.path {
            return Err(differs("another name in the v2 tree"));
        }
        if twin.bytes != file.bytes || twin.symlink != file.symlink {
            return Err(differs("another length or link in the v2 tree"));
        }
        if file.bytes > 0 && !start.is_multiple_of(u64::from(piece_bytes)) {
            return Err(differs("does not begin on a piece boundary"));
        }
        file.root = twin.root;
    }
    match tree.next() {
        None => Ok(()),
        Some(extra) => Err(MetainfoError::Inconsistent {
            entry: printable(extra.path.components()),
            problem: "missing in the v1 list",
        }),
    }
}

/// The piece hashes of all files longer than a piece, each checked against its file's root.
///
/// Layers may be missing (a magnet's metadata comes without; peers give them later), and layers of unknown roots are
/// dropped. A layer that is there and wrong refuses the torrent. Files of equal content share a root and a layer.
pub(super) fn piece_layers(
    layers: &Dict<'_>,
    whole: &Bytes,
    files: &[FileEntry],
    geometry: &Geometry,
) -> Result<Vec<([u8; 32], Bytes)>, MetainfoError> {
    let piece_bytes = u64::from(geometry.piece_bytes());
    let height = (geometry.piece_bytes() / BLOCK_BYTES).ilog2();
    let mut by_root: HashMap<[u8; 32], &FileEntry> = HashMap::new();
    for file in files.iter().filter(|file| file.bytes > piece_bytes) {
        let Some(root) = file.root else { continue };
        let first = by_root.entry(root).or_insert(file);
        if first.bytes != file.bytes {
            let entry = printable(file.path.components());
            return Err(MetainfoError::PieceLayer {
                entry,
                problem: "are those of a file of another length",
            });
        }
    }
    let mut checked = Vec::new();
    for (root, layer) in layers.iter() {
        let root: Result<[u8; 32], _> = root.try_into();
        // Taken out, so that of equal keys only the first counts.
        let Some((root, file)) = root.ok().and_then(|root| by_root.remove_entry(&root)) else { continue };
        let wrong = |problem| MetainfoError::PieceLayer { entry: printable(file.path.components()), problem };
        let layer = layer.as_bytes().ok_or_else(|| wrong("are not a string"))?;
        let (hashes, rest) = layer.as_chunks::<32>();
        if !rest.is_empty() || hashes.len() as u64 != file.bytes.div_ceil(piece_bytes) {
            return Err(wrong("have not 32 bytes for each piece"));
        }
        if merkle::root_of_layer(hashes, height) != root {
            return Err(wrong("do not hash to its root"));
        }
        checked.push((root, whole.slice_ref(layer)));
    }
    Ok(checked)
}
