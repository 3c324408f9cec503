//! What a torrent is: the `info` dictionary of v1 (BEP 3), v2 (BEP 52) and hybrids in one set of types, and the
//! `.torrent` file around it.
//!
//! Invariant: a value of [`Info`] is consistent and safe. Names stay inside their directory and do not clash, the
//! hashes fit the pieces, the numbers fit the limits below, and [`Info::geometry`] was made from the same list of
//! files. Everything else in this project relies on that and checks no name again.
//!
//! `info` is never re-encoded. Its bytes are kept as they came ([`Metainfo::info_bytes`]); hashes are taken of them, and
//! they go out again unchanged. What stands outside `info` is not covered by any hash and only advice: entries that make
//! no sense are skipped, not refused.
//!
//! Memory: a few hundred bytes for each file at worst, and the input itself, which the result keeps alive.

mod builder;
mod error;
mod files;
mod hybrid;
mod outer;
mod v1;
mod v2;

use bytes::Bytes;

pub use builder::{InfoBuilder, MetainfoBuilder, Privacy, choose_piece_bytes};
pub use error::MetainfoError;
pub use files::FileEntry;
pub use hybrid::{FileHashes, HybridBuilder};

use crate::bencode::{self, Dict, Limits};
use crate::geometry::{Alignment, BLOCK_BYTES, FileLayout, Geometry, PieceIndex};
use crate::id::{InfoHash, InfoHashV2, InfoHashes};
use crate::path::{printable, safe_component};

/// Most files of one torrent.
pub const MAX_FILES: usize = 2_000_000;

/// Most pieces: 80 MiB of v1 hashes. At 16 MiB a piece this is 64 TiB.
pub const MAX_PIECES: u32 = 4 << 20;

/// Longest piece. Anything near it is useless (no byte is trusted before its whole piece is there) but seen.
pub const MAX_PIECE_BYTES: u32 = 512 << 20;

/// Most bytes of content: numbers stay exact in every language that reads our JSON.
pub const MAX_TOTAL_BYTES: u64 = 1 << 53;

/// Somewhat less than a whole file may have, so that what peers gave can be written as a `.torrent` and read again.
const INFO_LIMITS: Limits =
    Limits { depth: Limits::METAINFO.depth - 1, nodes: Limits::METAINFO.nodes / 4 * 3 };

/// A torrent: `info`, its raw bytes and hashes, and what a `.torrent` says beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metainfo {
    /// The parsed `info` dictionary.
    pub info: Info,
    /// `info` as it came, from `d` to `e`; what `ut_metadata` serves (BEP 9).
    pub info_bytes: Bytes,
    /// Hashes of `info_bytes`: v1, v2, or both for a hybrid.
    pub hashes: InfoHashes,
    /// Trackers in tiers (BEP 12); a lone `announce` becomes one tier. No URL stands twice.
    pub announce: Vec<Vec<String>>,
    /// Web seeds (BEP 19).
    pub url_list: Vec<String>,
    /// HTTP seeds (BEP 17).
    pub http_seeds: Vec<String>,
    /// When the torrent was made: seconds since 1970, as the maker claims.
    pub creation_date: Option<i64>,
    /// Free text for people.
    pub comment: Option<String>,
    /// The program that made it.
    pub created_by: Option<String>,
    /// DHT nodes to start from (BEP 5).
    pub nodes: Vec<(String, u16)>,
    /// For v2: root of a file, and the checked hashes of its pieces, 32 bytes each. Only files longer than one piece
    /// have them, and they may be missing: peers can be asked for them later.
    pub piece_layers: Vec<([u8; 32], Bytes)>,
}

/// The `info` dictionary: what the hash stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Suggested name of the file or directory; one safe component.
    pub name: String,
    /// Nominal length of a piece in bytes.
    pub piece_bytes: u32,
    /// Which hashes it has.
    pub version: Version,
    /// The files in the order of their bytes, pads included; never empty.
    pub files: Vec<FileEntry>,
    /// SHA-1 of each piece, 20 bytes each; empty for v2 only.
    pub pieces: Bytes,
    /// Peers only from the trackers listed (BEP 27).
    pub is_private: bool,
    /// A tag some trackers put in to make the hash their own.
    pub source: Option<String>,
    /// Whether `name` is the file or a directory.
    pub layout: Layout,
    /// Where each byte lies.
    pub geometry: Geometry,
}

/// Which kinds of hashes a torrent has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// SHA-1 of pieces (BEP 3).
    V1,
    /// SHA-256 trees of files (BEP 52).
    V2,
    /// Both, over the same files.
    Hybrid,
}

/// What a torrent's name names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// The one file.
    SingleFile,
    /// The directory the files are in (even if it is one file).
    Directory,
}

impl Metainfo {
    /// Reads a `.torrent` file.
    ///
    /// Bytes after the outer dictionary are ignored, as in libtorrent: editors and servers append line ends, and no
    /// hash covers them.
    ///
    /// # Errors
    /// [`MetainfoError`] if it is not bencode, has no usable `info`, or names files that may not be written.
    pub fn parse(input: &[u8]) -> Result<Self, MetainfoError> {
        let whole = Bytes::copy_from_slice(input);
        let (root, _) = bencode::decode_prefix_with(&whole, Limits::METAINFO)?;
        let root = root.as_dict().ok_or_else(|| MetainfoError::wrong("the file", "a dictionary"))?;
        let info = root.get("info").ok_or_else(|| MetainfoError::missing("info"))?;
        let info = info.as_dict().ok_or_else(|| MetainfoError::wrong("info", "a dictionary"))?;
        let mut metainfo = Self::from_dict(info, whole.slice_ref(info.raw()))?;
        outer::read(&mut metainfo, root);
        if let (true, Some(layers)) = (metainfo.hashes.v2.is_some(), root.get_dict("piece layers")) {
            let Info { files, geometry, .. } = &metainfo.info;
            metainfo.piece_layers = v2::piece_layers(layers, &whole, files, geometry)?;
        }
        Ok(metainfo)
    }

    /// A torrent from the bytes of its `info` alone, as peers give them (BEP 9), with the trackers (one tier each
    /// list) and web seeds known from elsewhere.
    ///
    /// The caller has compared the hash; the bytes are the whole dictionary and nothing else.
    ///
    /// # Errors
    /// As [`Metainfo::parse`]; trailing bytes are an error here, for the hash covers them.
    pub fn from_info(
        info: Bytes,
        trackers: Vec<Vec<String>>,
        web_seeds: Vec<String>,
    ) -> Result<Self, MetainfoError> {
        let root = bencode::decode_with(&info, INFO_LIMITS)?;
        let dict = root.as_dict().ok_or_else(|| MetainfoError::wrong("info", "a dictionary"))?;
        let mut metainfo = Self::from_dict(dict, info.clone())?;
        metainfo.announce = outer::clean_tiers(trackers);
        metainfo.url_list = outer::clean_urls(web_seeds);
        Ok(metainfo)
    }

    fn from_dict(dict: &Dict<'_>, info_bytes: Bytes) -> Result<Self, MetainfoError> {
        let info = Info::parse(dict, &info_bytes)?;
        let v1 = (info.version != Version::V2).then(|| InfoHash::of_info(&info_bytes));
        let v2 = (info.version != Version::V1).then(|| InfoHashV2::of_info(&info_bytes));
        Ok(Self {
            info,
            info_bytes,
            hashes: InfoHashes { v1, v2 },
            announce: Vec::new(),
            url_list: Vec::new(),
            http_seeds: Vec::new(),
            creation_date: None,
            comment: None,
            created_by: None,
            nodes: Vec::new(),
            piece_layers: Vec::new(),
        })
    }

    /// A `.torrent` file with `info` exactly as it came. Keys outside `info` that this type does not hold are lost.
    pub fn to_bytes(&self) -> Vec<u8> {
        outer::write(self)
    }

    /// The piece hashes of a v2 file longer than one piece, if they are here.
    pub fn piece_layer(&self, root: &[u8; 32]) -> Option<&Bytes> {
        let layers = &self.piece_layers;
        // They come from a dictionary, which is sorted in all but odd torrents.
        let sorted = layers.binary_search_by(|(own, _)| own.cmp(root)).ok();
        let at = sorted.or_else(|| layers.iter().position(|(own, _)| own == root))?;
        layers.get(at).map(|(_, layer)| layer)
    }
}

impl Info {
    /// Reads the dictionary; `raw` are its bytes, which [`Info::pieces`] shares.
    fn parse(dict: &Dict<'_>, raw: &Bytes) -> Result<Self, MetainfoError> {
        let version = version(dict)?;
        let name = name(dict)?;
        let piece_bytes = piece_bytes(dict, version)?;
        let (layout, files) = match version {
            Version::V1 => v1::files(dict, &name)?,
            Version::V2 => v2::files(dict, &name)?,
            Version::Hybrid => {
                let (layout, mut files) = v1::files(dict, &name)?;
                let (_, tree) = v2::files(dict, &name)?;
                v2::join_hybrid(&mut files, &tree, piece_bytes)?;
                (layout, files)
            }
        };
        files::check_names(&files)?;
        if layout == Layout::SingleFile && files.iter().any(|file| file.symlink.is_some()) {
            return Err(MetainfoError::LinkLeavesTorrent { entry: printable([&name]) });
        }
        let alignment = if version == Version::V2 { Alignment::PieceStart } else { Alignment::Packed };
        let geometry = geometry(&files, piece_bytes, alignment)?;
        let pieces = if version == Version::V2 { Bytes::new() } else { piece_hashes(dict, raw, &geometry)? };
        Ok(Self {
            name,
            piece_bytes,
            version,
            files,
            pieces,
            is_private: dict.get_int("private") == Some(1),
            source: dict.get_bytes("source").map(|source| String::from_utf8_lossy(source).into_owned()),
            layout,
            geometry,
        })
    }

    /// The SHA-1 of a piece; `None` for v2 only.
    pub fn piece_hash(&self, piece: PieceIndex) -> Option<&[u8; 20]> {
        let (hashes, _) = self.pieces.as_chunks::<20>();
        hashes.get(piece.get() as usize)
    }

    /// Bytes of all files that are shown: the total without pads.
    pub fn display_total(&self) -> u64 {
        self.files.iter().filter(|file| !file.is_pad).map(|file| file.bytes).sum()
    }
}

fn version(dict: &Dict<'_>) -> Result<Version, MetainfoError> {
    match dict.get("meta version") {
        // As in libtorrent: without the version a file tree means nothing.
        None => Ok(Version::V1),
        Some(version) => match version.as_int() {
            Some(1) => Ok(Version::V1),
            Some(2) if dict.get("pieces").is_some() => Ok(Version::Hybrid),
            Some(2) => Ok(Version::V2),
            _ => Err(MetainfoError::wrong("meta version", "1 or 2")),
        },
    }
}

/// `name.utf-8` where it is there and is UTF-8, else `name`.
fn name(dict: &Dict<'_>) -> Result<String, MetainfoError> {
    let raw = match dict.get_str("name.utf-8") {
        Some(name) => name.as_bytes(),
        None => {
            let name = dict.get("name").ok_or_else(|| MetainfoError::missing("name"))?;
            name.as_bytes().ok_or_else(|| MetainfoError::wrong("name", "a string"))?
        }
    };
    safe_component(raw).map_err(|source| MetainfoError::UnsafeName { entry: printable([raw]), source })
}

fn piece_bytes(dict: &Dict<'_>, version: Version) -> Result<u32, MetainfoError> {
    let value = dict.get("piece length").ok_or_else(|| MetainfoError::missing("piece length"))?;
    let in_range = |bytes: &u32| (1..=MAX_PIECE_BYTES).contains(bytes);
    let bytes = value
        .as_int()
        .and_then(|bytes| u32::try_from(bytes).ok())
        .filter(in_range)
        .ok_or_else(|| MetainfoError::wrong("piece length", "an integer from 1 to 536870912"))?;
    if version != Version::V1 && !(bytes.is_power_of_two() && bytes >= BLOCK_BYTES) {
        return Err(MetainfoError::wrong("piece length", "a power of two of at least 16384 (v2)"));
    }
    Ok(bytes)
}

fn geometry(files: &[FileEntry], piece_bytes: u32, alignment: Alignment) -> Result<Geometry, MetainfoError> {
    let total = files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.bytes));
    if total.is_none_or(|total| total > MAX_TOTAL_BYTES) {
        return Err(MetainfoError::TooMany { what: "bytes of content", limit: MAX_TOTAL_BYTES });
    }
    let layouts: Vec<FileLayout> = files.iter().map(|file| file.layout(alignment)).collect();
    let geometry = Geometry::new(piece_bytes, &layouts)?;
    if geometry.piece_count() > MAX_PIECES {
        return Err(MetainfoError::TooMany { what: "pieces", limit: u64::from(MAX_PIECES) });
    }
    Ok(geometry)
}

fn piece_hashes(dict: &Dict<'_>, raw: &Bytes, geometry: &Geometry) -> Result<Bytes, MetainfoError> {
    let pieces = dict.get("pieces").ok_or_else(|| MetainfoError::missing("pieces"))?;
    let pieces = pieces.as_bytes().ok_or_else(|| MetainfoError::wrong("pieces", "a string"))?;
    if pieces.len() as u64 != u64::from(geometry.piece_count()) * 20 {
        return Err(MetainfoError::PieceHashes { bytes: pieces.len(), pieces: geometry.piece_count() });
    }
    Ok(raw.slice_ref(pieces))
}

#[cfg(test)]
mod tests;
