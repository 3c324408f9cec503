//! Making torrents: `info` from a list of files and their hashes, and the `.torrent` around it.
//!
//! What comes out has been read back by [`Metainfo::from_info`], so nothing can be made here that this crate, and with
//! it every other careful client, would refuse.

use bytes::Bytes;

use super::{FileEntry, Layout, Metainfo, MetainfoError, outer};
use crate::bencode::{DictEncoder, Encoder};
use crate::geometry::{Alignment, BLOCK_BYTES, Geometry};
use crate::path::{TorrentPath, printable};

/// Largest piece [`choose_piece_bytes`] picks. A reader waits for a whole piece before its first byte.
const MAX_CHOSEN_PIECE_BYTES: u32 = 16 << 20;

/// Pieces not to be exceeded while the piece size is free to grow: a `.torrent` of some 40 KB.
const CHOSEN_PIECES: u64 = 2000;

/// A piece size for `total` bytes: the power of two that makes 1,000 to 2,000 pieces, between 16 KiB and 16 MiB.
pub fn choose_piece_bytes(total: u64) -> u32 {
    let wanted =
        total.div_ceil(CHOSEN_PIECES).clamp(u64::from(BLOCK_BYTES), u64::from(MAX_CHOSEN_PIECE_BYTES));
    // Within the clamp, both bounds of which are powers of two.
    u32::try_from(wanted.next_power_of_two()).unwrap_or(MAX_CHOSEN_PIECE_BYTES)
}

/// Whether peers may come from elsewhere than the torrent's trackers (BEP 27).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Privacy {
    /// From anywhere.
    #[default]
    Public,
    /// Only from the trackers.
    Private,
}

/// Makes a v1 `info` dictionary: first the files, then (hashing happens elsewhere, along [`InfoBuilder::geometry`])
/// the hashes.
#[derive(Debug, Clone)]
pub struct InfoBuilder {
    name: String,
    piece_bytes: u32,
    layout: Layout,
    files: Vec<FileEntry>,
    privacy: Privacy,
    source: Option<String>,
}

impl InfoBuilder {
    /// A torrent of one file called `name`.
    ///
    /// # Errors
    /// [`MetainfoError::UnsafeName`] if no file may have that name.
    pub fn single_file(name: &str, bytes: u64, piece_bytes: u32) -> Result<Self, MetainfoError> {
        let path = TorrentPath::from_components([name])
            .map_err(|source| MetainfoError::UnsafeName { entry: printable([name]), source })?;
        let mut builder = Self::directory(name, piece_bytes);
        builder.layout = Layout::SingleFile;
        builder.files.push(FileEntry::new(path, bytes));
        Ok(builder)
    }

    /// A torrent of a directory called `name`, still empty.
    pub fn directory(name: &str, piece_bytes: u32) -> Self {
        Self {
            name: name.to_owned(),
            piece_bytes,
            layout: Layout::Directory,
            files: Vec::new(),
            privacy: Privacy::Public,
            source: None,
        }
    }

    /// Adds a file behind those already there. In a torrent of a single file it takes that file's place, and its
    /// path must be the name.
    pub fn push(&mut self, file: FileEntry) {
        if self.layout == Layout::SingleFile {
            self.files.clear();
        }
        self.files.push(file);
    }

    /// Public or private; public unless said.
    pub const fn with_privacy(mut self, privacy: Privacy) -> Self {
        self.privacy = privacy;
        self
    }

    /// Sets the `source` tag.
    pub fn with_source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The files so far.
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// Where the pieces lie that are to be hashed.
    ///
    /// # Errors
    /// [`MetainfoError`] if the numbers make no torrent.
    pub fn geometry(&self) -> Result<Geometry, MetainfoError> {
        super::geometry(&self.files, self.piece_bytes, Alignment::Packed)
    }

    /// The bytes of `info`; `pieces` is the SHA-1 of each piece in order, 20 bytes each.
    ///
    /// # Errors
    /// Whatever [`Metainfo::from_info`] says to the result: clashing or unsafe names, no files, the wrong number of
    /// hashes, numbers out of range.
    pub fn finish(&self, pieces: &[u8]) -> Result<Vec<u8>, MetainfoError> {
        let mut out = Encoder::new();
        out.dict(|info| {
            info.bytes("name", &self.name);
            info.int("piece length", i64::from(self.piece_bytes));
            info.bytes("pieces", pieces);
            match (self.layout, &self.files[..]) {
                (Layout::SingleFile, [file]) => properties(info, file),
                _ => info.list("files", |list| {
                    for file in &self.files {
                        list.dict(|entry| {
                            properties(entry, file);
                            entry.list("path", |path| components(path, &file.path));
                        });
                    }
                }),
            }
            if self.privacy == Privacy::Private {
                info.int("private", 1);
            }
            if let Some(source) = &self.source {
                info.bytes("source", source);
            }
        });
        let info = out.finish();
        Metainfo::from_info(Bytes::from(info.clone()), Vec::new(), Vec::new())?;
        Ok(info)
    }
}

fn properties(entry: &mut DictEncoder, file: &FileEntry) {
    // Lengths that do not fit are refused when the result is read back.
    entry.int("length", i64::try_from(file.bytes).unwrap_or(-1));
    let attr = file.attr();
    if !attr.is_empty() {
        entry.bytes("attr", attr);
    }
    if let Some(target) = &file.symlink {
        entry.list("symlink path", |path| components(path, target));
    }
    if let Some(sha1) = &file.sha1 {
        entry.bytes("sha1", sha1);
    }
}

fn components(list: &mut Encoder, path: &TorrentPath) {
    path.components().iter().for_each(|component| list.bytes(component));
}

/// Puts the outer keys around a finished `info`.
#[derive(Debug, Clone)]
pub struct MetainfoBuilder {
    metainfo: Metainfo,
}

impl MetainfoBuilder {
    /// Starts from the bytes of `info`, made by [`InfoBuilder::finish`] or come from elsewhere.
    ///
    /// # Errors
    /// As [`Metainfo::from_info`].
    pub fn new(info: impl Into<Bytes>) -> Result<Self, MetainfoError> {
        Ok(Self { metainfo: Metainfo::from_info(info.into(), Vec::new(), Vec::new())? })
    }

    /// Trackers in tiers (BEP 12), in place of those set before. Empty and repeated ones are dropped.
    pub fn with_announce(mut self, tiers: Vec<Vec<String>>) -> Self {
        self.metainfo.announce = outer::clean_tiers(tiers);
        self
    }

    /// Web seeds (BEP 19), in place of those set before.
    pub fn with_web_seeds(mut self, urls: Vec<String>) -> Self {
        self.metainfo.url_list = outer::clean_urls(urls);
        self
    }

    /// A text for people.
    pub fn with_comment(mut self, comment: impl Into<String>) -> Self {
        self.metainfo.comment = Some(comment.into());
        self
    }

    /// The program's name and version.
    pub fn with_created_by(mut self, program: impl Into<String>) -> Self {
        self.metainfo.created_by = Some(program.into());
        self
    }

    /// The time of making: seconds since 1970. The caller has the clock.
    pub const fn with_creation_date(mut self, seconds: i64) -> Self {
        self.metainfo.creation_date = Some(seconds);
        self
    }

    /// The torrent; [`Metainfo::to_bytes`] is the file.
    pub fn finish(self) -> Metainfo {
        self.metainfo
    }
}
