//! What of a torrent is on the disk when a store opens, found without hashing what is known.
//!
//! The record vouches for its pieces, as far as the files still look like it: a piece is dropped when a file of it is
//! gone or too short, and is hashed again when a hole lies in it (a file that was removed and made anew, or lost its
//! blocks with the power) or when the data directory is another one than that of the record. Pieces in the journal are
//! hashed: what was written since the last checkpoint, and no more. So opening costs a `stat` and a look for holes for
//! each file of which something is present, whatever its size.
//!
//! Invariant: all that is returned as present was durable or was hashed just now.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicBool;

use rustix::fs::SeekFrom;
use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::geometry::{FileIndex, Geometry, PieceIndex};
use wtfs_proto::metainfo::Metainfo;

use super::StoreError;
use super::check::check_pieces;
use super::journal::Journal;
use super::layout;
use super::open_files::Access;
use super::record::{RecordFile, RootIdentity};
use super::root::DataRoot;

/// What was found.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) present: Bitfield,
    /// Present pieces that were hashed just now; nothing says that they are durable.
    pub(super) unsynced: Vec<PieceIndex>,
    /// Whether record and journal say something else than `present`.
    pub(super) is_stale: bool,
    /// Whether the record vouches for pieces that are not there. It must be replaced before anything is written: were
    /// a missing file made anew, it would vouch for zeros.
    pub(super) has_losses: bool,
    /// Files that hold some of their bytes, but end too early.
    pub(super) cut: Vec<FileIndex>,
    /// Absent pieces that were being written or given up: some of their bytes may take up space.
    pub(super) remains: Vec<PieceIndex>,
}

/// Finds what is present. Writes nothing.
pub(super) fn recover(
    metainfo: &Metainfo,
    root: &DataRoot,
    record_file: &RecordFile,
    journal: &Journal,
) -> Result<Recovered, StoreError> {
    let geometry = &metainfo.info.geometry;
    let piece_count = geometry.piece_count();
    let identity = root.identity().map(|(inode, path)| RootIdentity::new(inode, &path));
    let record = record_file.load();
    let recorded = record.as_ref().map_or_else(|| Bitfield::new(piece_count), |r| r.present.clone());
    let hinted = journal.replay(piece_count);

    let is_moved = record.as_ref().is_some_and(|r| identity.is_none_or(|own| !own.is_like(&r.root)));
    let mut trusted = if is_moved { Bitfield::new(piece_count) } else { recorded.clone() };
    let mut doubtful = hinted.clone();
    if is_moved {
        union(&mut doubtful, &recorded);
    }
    let cut = survey(metainfo, root, &mut trusted, &mut doubtful)?;
    subtract(&mut doubtful, &trusted);

    let mut unsynced = Vec::new();
    if doubtful.count_ones() > 0 {
        tracing::info!(
            torrent = %metainfo.hashes.primary(),
            pieces = doubtful.count_ones(),
            "hashing pieces that were written since the last checkpoint or whose files changed"
        );
        let report = check_pieces(metainfo, root, &doubtful, &|_, _| {}, &AtomicBool::new(false))?;
        unsynced.extend(report.present.iter_ones().filter_map(|piece| geometry.piece(piece)));
        union(&mut trusted, &report.present);
    }
    let present = trusted;
    let losses = recorded.iter_ones().filter(|&piece| !present.get(piece)).count();
    if losses > 0 {
        tracing::warn!(
            torrent = %metainfo.hashes.primary(),
            pieces = losses,
            "pieces are no longer on the disk as recorded and will be fetched again when needed"
        );
    }
    let is_stale = losses > 0 || is_moved || !unsynced.is_empty() || hinted.count_ones() > 0;
    let remains = hinted.iter_ones().filter(|&piece| !present.get(piece));
    let remains = remains.filter_map(|piece| geometry.piece(piece)).collect();
    Ok(Recovered { present, unsynced, is_stale, has_losses: losses > 0, cut, remains })
}

/// Takes out the pieces whose files cannot hold them, and moves those with holes from `trusted` to `doubtful`. Returns
/// the files that end too early.
fn survey(
    metainfo: &Metainfo,
    root: &DataRoot,
    trusted: &mut Bitfield,
    doubtful: &mut Bitfield,
) -> Result<Vec<FileIndex>, StoreError> {
    let info = &metainfo.info;
    let geometry = &info.geometry;
    let mut cut = Vec::new();
    for file in geometry.files() {
        if layout::entry_of(info, file).is_none_or(|entry| entry.is_pad) {
            continue;
        }
        let place = FilePlace::new(geometry, file);
        let is_claimed = |piece: PieceIndex| trusted.get(piece.get()) || doubtful.get(piece.get());
        if !geometry.pieces_of(file, 0..place.bytes).any(is_claimed) {
            continue;
        }
        let found = match root.open(&layout::path_of(info, file), Access::Read) {
            Ok(found) => found,
            Err(error @ StoreError::WrongType { .. }) => {
                tracing::warn!(%error, "a file of the torrent is something else now");
                None
            }
            Err(error) => return Err(error),
        };
        let found_bytes = found.as_ref().map_or(0, |found| found.bytes);
        for piece in geometry.pieces_of(file, found_bytes..place.bytes) {
            trusted.clear(piece.get());
            doubtful.clear(piece.get());
        }
        if let Some(found) = found {
            if found_bytes < place.bytes {
                cut.push(file);
            }
            for hole in place.runs(geometry, trusted).into_iter().flat_map(|run| holes(&found.fd, run)) {
                for piece in geometry.pieces_of(file, hole) {
                    if trusted.clear(piece.get()) {
                        doubtful.set(piece.get());
                    }
                }
            }
        }
    }
    Ok(cut)
}

/// A file in the torrent's address space.
#[derive(Debug, Clone, Copy)]
struct FilePlace {
    file: FileIndex,
    start: u64,
    bytes: u64,
}

impl FilePlace {
    fn new(geometry: &Geometry, file: FileIndex) -> Self {
        let start = geometry
            .locate(file, 0)
            .map_or(0, |(piece, begin)| geometry.piece_offset(piece) + u64::from(begin));
        Self { file, start, bytes: geometry.file_len(file) }
    }

    /// The ranges of the file that lie in pieces of the set, joined where they meet.
    fn runs(&self, geometry: &Geometry, pieces: &Bitfield) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for piece in geometry.pieces_of(self.file, 0..self.bytes).filter(|piece| pieces.get(piece.get())) {
            let offset = geometry.piece_offset(piece);
            let begin = offset.saturating_sub(self.start);
            let end = (offset + u64::from(geometry.piece_len(piece)) - self.start).min(self.bytes);
            match runs.last_mut() {
                Some(last) if last.end == begin => last.end = end,
                _ => runs.push(begin..end),
            }
        }
        runs
    }
}

/// The holes in a range of a file. A file system that cannot tell has none.
fn holes(fd: impl AsFd, range: Range<u64>) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let Ok(hole) = rustix::fs::seek(&fd, SeekFrom::Hole(at)) else { break };
        if hole >= range.end {
            break;
        }
        // No data behind the hole is an error, ENXIO: it lasts to the end.
        let data = rustix::fs::seek(&fd, SeekFrom::Data(hole)).unwrap_or(range.end).min(range.end);
        found.push(hole..data);
        at = data.max(at + 1);
    }
    found
}

fn union(set: &mut Bitfield, other: &Bitfield) {
    for bit in other.iter_ones() {
        set.set(bit);
    }
}

fn subtract(set: &mut Bitfield, other: &Bitfield) {
    for bit in other.iter_ones() {
        set.clear(bit);
    }
}
