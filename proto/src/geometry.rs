//! Where each byte of a torrent lies: all arithmetic between pieces, blocks, files and offsets.
//!
//! Owns the mapping in both directions (file range -> pieces, piece range -> file spans) for packed layouts
//! (BEP 3 and hybrids, whose padding files are files) and for layouts in which each file begins on a piece boundary
//! (BEP 52). Never touches bytes, knows no names and no hashes.
//!
//! Invariant: a [`PieceIndex`] or [`FileIndex`] is only made by a [`Geometry`] and is in range for it, so nothing
//! downstream checks a bound again. Numbers from a peer enter through [`Geometry::check_request`] and
//! [`Geometry::check_block`] alone. An index of another torrent is a bug of the caller, yet never a panic: lengths
//! are then zero and ranges empty.

use std::fmt;
use std::ops::Range;

/// Size of the unit that is requested from peers: 16 KiB, which every client accepts (BEP 3).
pub const BLOCK_BYTES: u32 = 16 * 1024;

/// Largest length of one request that is answered: libtorrent and others refuse more than 128 KiB too.
pub const MAX_REQUEST_BYTES: u32 = 128 * 1024;

/// Index of a piece, in range for the [`Geometry`] that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(u32);

impl PieceIndex {
    /// The number as it goes on the wire.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "piece {}", self.0)
    }
}

impl fmt::Display for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Index of a file in the order of the metainfo, padding files counted; in range for the [`Geometry`] that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileIndex(u32);

impl FileIndex {
    /// The position in the metainfo's list of files.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for FileIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {}", self.0)
    }
}

impl fmt::Display for FileIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a file begins relative to the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alignment {
    /// Right behind the previous file, in the middle of a piece if need be (BEP 3).
    Packed,
    /// On the next piece boundary; the last piece of the previous file is short (BEP 52).
    PieceStart,
}

/// One file as the geometry needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLayout {
    /// Length of the file.
    pub bytes: u64,
    /// Where it begins.
    pub alignment: Alignment,
    /// Whether it is a padding file (BEP 47): zeros that are never stored.
    pub is_pad: bool,
}

/// A part of a piece that lies in one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSpan {
    /// The file.
    pub file: FileIndex,
    /// Where the span begins in the file, in bytes.
    pub file_offset: u64,
    /// Where the span begins in the piece, in bytes.
    pub piece_begin: u32,
    /// Length of the span; never zero.
    pub bytes: u32,
    /// Whether the file is padding, whose bytes are zeros and never stored.
    pub is_pad: bool,
}

/// Why files and a piece size do not make a torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GeometryError {
    /// A piece of no bytes.
    #[error("the piece size is zero")]
    ZeroPieceBytes,
    /// More files than an index can name.
    #[error("{count} files, at most {} are possible", u32::MAX)]
    TooManyFiles {
        /// How many there are.
        count: usize,
    },
    /// More pieces than an index can name.
    #[error("{count} pieces, at most {} are possible", u32::MAX)]
    TooManyPieces {
        /// How many there would be.
        count: u64,
    },
    /// The sum of the lengths does not fit.
    #[error("the files' lengths add up to more than 2^63 bytes (at file {file})")]
    TooLong {
        /// Position of the file at which the sum passes the limit.
        file: usize,
    },
}

/// Why a request of a peer cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The torrent has no such piece.
    #[error("piece {piece} was requested, the torrent has {piece_count}")]
    NoSuchPiece {
        /// The requested piece.
        piece: u32,
        /// How many pieces there are.
        piece_count: u32,
    },
    /// Nothing, or more than 128 KiB.
    #[error("{len} bytes were requested at once, expected 1 to {MAX_REQUEST_BYTES}")]
    Length {
        /// The requested length.
        len: u32,
    },
    /// The range passes the end of the piece.
    #[error("bytes {begin}+{len} were requested of a piece of {piece_len} bytes")]
    OutsidePiece {
        /// First requested byte.
        begin: u32,
        /// The requested length.
        len: u32,
        /// Length of the piece.
        piece_len: u32,
    },
}

/// A file's place in the torrent's address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Placement {
    start: u64,
    bytes: u64,
}

/// A file that has bytes. Empty files are left out, so that a million of them cost a look-up nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    start: u64,
    end: u64,
    file: FileIndex,
    is_pad: bool,
}

/// Whether the address space has holes behind short pieces in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Density {
    Dense,
    Gapped,
}

/// The layout of one torrent. Immutable; share it in an `Arc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    piece_bytes: u32,
    piece_count: u32,
    /// End of the last file in the address space.
    address_end: u64,
    total_bytes: u64,
    density: Density,
    files: Box<[Placement]>,
    extents: Box<[Extent]>,
}

impl Geometry {
    /// Lays the files out in their order.
    ///
    /// A torrent of no bytes has no pieces. An empty file takes no place whatever its alignment (BEP 52).
    ///
    /// # Errors
    /// When the piece size is zero or an index or a length would overflow.
    pub fn new(piece_bytes: u32, files: &[FileLayout]) -> Result<Self, GeometryError> {
        if piece_bytes == 0 {
            return Err(GeometryError::ZeroPieceBytes);
        }
        if u32::try_from(files.len()).is_err() {
            return Err(GeometryError::TooManyFiles { count: files.len() });
        }
        let piece = u64::from(piece_bytes);
        let mut placements = Vec::with_capacity(files.len());
        let mut extents = Vec::with_capacity(files.len());
        let mut density = Density::Dense;
        let mut end = 0_u64;
        let mut total_bytes = 0_u64;
        for (position, (index, layout)) in (0_u32..).zip(files).enumerate() {
            let too_long = GeometryError::TooLong { file: position };
            let mut start = end;
            if layout.alignment == Alignment::PieceStart && layout.bytes > 0 {
                start = end.div_ceil(piece).checked_mul(piece).ok_or(too_long)?;
                if start != end {
                    density = Density::Gapped;
                }
            }
            placements.push(Placement { start, bytes: layout.bytes });
            if layout.bytes == 0 {
                continue;
            }
            end = start.checked_add(layout.bytes).filter(|&end| end <= 1 << 63).ok_or(too_long)?;
            total_bytes += layout.bytes;
            extents.push(Extent { start, end, file: FileIndex(index), is_pad: layout.is_pad });
        }
        let count = end.div_ceil(piece);
        let piece_count = u32::try_from(count).map_err(|_| GeometryError::TooManyPieces { count })?;
        Ok(Self {
            piece_bytes,
            piece_count,
            address_end: end,
            total_bytes,
            density,
            files: placements.into_boxed_slice(),
            extents: extents.into_boxed_slice(),
        })
    }

    /// Number of pieces.
    pub const fn piece_count(&self) -> u32 {
        self.piece_count
    }

    /// Nominal piece size in bytes; the last piece, and in aligned layouts the last of each file, may be shorter.
    pub const fn piece_bytes(&self) -> u32 {
        self.piece_bytes
    }

    /// Sum of the lengths of all pieces, padding files counted: what a complete download transfers.
    pub const fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Number of files, padding and empty files counted.
    pub const fn file_count(&self) -> usize {
        self.files.len()
    }

    /// The index of a piece, if the torrent has it.
    pub fn piece(&self, piece: u32) -> Option<PieceIndex> {
        (piece < self.piece_count).then_some(PieceIndex(piece))
    }

    /// The index of a file, if the torrent has it.
    pub fn file(&self, file: usize) -> Option<FileIndex> {
        if file >= self.files.len() {
            return None;
        }
        u32::try_from(file).ok().map(FileIndex)
    }

    /// All pieces in order.
    pub fn pieces(&self) -> PieceRange {
        PieceRange { next: 0, end: self.piece_count }
    }

    /// All files in order.
    pub fn files(&self) -> impl ExactSizeIterator<Item = FileIndex> + use<> {
        // `new` refuses more files than u32 can count.
        let count = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        FileRange { next: 0, end: count }
    }

    /// Length of the piece in bytes.
    pub fn piece_len(&self, piece: PieceIndex) -> u32 {
        let start = self.piece_offset(piece);
        let end = match self.density {
            Density::Dense => self.address_end,
            Density::Gapped => {
                // The last file that begins before the piece's end decides: holes are only at the ends of pieces.
                let after = self.extents.partition_point(|e| e.start < start + u64::from(self.piece_bytes));
                after.checked_sub(1).and_then(|last| self.extents.get(last)).map_or(0, |e| e.end)
            }
        };
        let len = end.saturating_sub(start).min(u64::from(self.piece_bytes));
        u32::try_from(len).unwrap_or(self.piece_bytes)
    }

    /// Where the piece begins in the torrent's address space, in bytes: index times the nominal piece size.
    pub fn piece_offset(&self, piece: PieceIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.piece_bytes)
    }

    /// Number of 16 KiB blocks in the piece, the short last one counted.
    pub fn block_count(&self, piece: PieceIndex) -> u32 {
        self.piece_len(piece).div_ceil(BLOCK_BYTES)
    }

    /// Length of a block in bytes; zero past the end of the piece.
    pub fn block_len(&self, piece: PieceIndex, block: u32) -> u32 {
        let begin = u64::from(block) * u64::from(BLOCK_BYTES);
        let left = u64::from(self.piece_len(piece)).saturating_sub(begin).min(u64::from(BLOCK_BYTES));
        u32::try_from(left).unwrap_or(BLOCK_BYTES)
    }

    /// Length of the file in bytes.
    pub fn file_len(&self, file: FileIndex) -> u64 {
        self.placement(file).map_or(0, |placed| placed.bytes)
    }

    /// The piece that holds a byte of a file, and where in the piece; `None` at or past the file's end.
    pub fn locate(&self, file: FileIndex, offset: u64) -> Option<(PieceIndex, u32)> {
        let placed = self.placement(file).filter(|placed| offset < placed.bytes)?;
        let address = placed.start + offset;
        let piece = u32::try_from(address / u64::from(self.piece_bytes)).ok()?;
        let begin = u32::try_from(address % u64::from(self.piece_bytes)).ok()?;
        Some((PieceIndex(piece), begin))
    }

    /// The pieces that hold a range of a file's bytes; the range is clamped to the file.
    pub fn pieces_of(&self, file: FileIndex, range: Range<u64>) -> PieceRange {
        let last = range.end.min(self.file_len(file)).checked_sub(1).filter(|&last| range.start <= last);
        let ends = last.and_then(|last| Some((self.locate(file, range.start)?, self.locate(file, last)?)));
        match ends {
            Some(((first, _), (last, _))) => PieceRange { next: first.0, end: last.0 + 1 },
            None => PieceRange { next: 0, end: 0 },
        }
    }

    /// The file spans that a range of a piece's bytes covers, in order; the range is clamped to the piece.
    ///
    /// The spans join without a hole and without overlap: their lengths add up to the clamped range. The first is
    /// found in O(log files).
    pub fn spans(&self, piece: PieceIndex, range: Range<u32>) -> impl Iterator<Item = FileSpan> + '_ {
        let offset = self.piece_offset(piece);
        let begin = offset + u64::from(range.start);
        let end = offset + u64::from(range.end.min(self.piece_len(piece)));
        let first = self.extents.partition_point(|extent| extent.end <= begin);
        self.extents.iter().skip(first).take_while(move |extent| extent.start < end && begin < end).map(
            move |extent| {
                let start = extent.start.max(begin);
                FileSpan {
                    file: extent.file,
                    file_offset: start - extent.start,
                    // Both lie inside one piece, whose size is a u32.
                    piece_begin: u32::try_from(start - offset).unwrap_or(u32::MAX),
                    bytes: u32::try_from(extent.end.min(end) - start).unwrap_or(u32::MAX),
                    is_pad: extent.is_pad,
                }
            },
        )
    }

    /// Checks a request that came from a peer: 1 byte to 128 KiB, all inside one piece.
    ///
    /// # Errors
    /// Says which of the three numbers is wrong and what was possible.
    pub fn check_request(&self, piece: u32, begin: u32, len: u32) -> Result<PieceIndex, RequestError> {
        let index =
            self.piece(piece).ok_or(RequestError::NoSuchPiece { piece, piece_count: self.piece_count })?;
        if len == 0 || len > MAX_REQUEST_BYTES {
            return Err(RequestError::Length { len });
        }
        let piece_len = self.piece_len(index);
        match begin.checked_add(len) {
            Some(end) if end <= piece_len => Ok(index),
            _ => Err(RequestError::OutsidePiece { begin, len, piece_len }),
        }
    }

    /// The block that bytes from a peer are, if they are exactly one of this torrent's 16 KiB blocks.
    pub fn check_block(&self, piece: u32, begin: u32, len: u32) -> Option<(PieceIndex, u32)> {
        let index = self.piece(piece)?;
        let block = begin / BLOCK_BYTES;
        let is_block = begin.is_multiple_of(BLOCK_BYTES) && len > 0 && len == self.block_len(index, block);
        is_block.then_some((index, block))
    }

    fn placement(&self, file: FileIndex) -> Option<Placement> {
        self.files.get(usize::try_from(file.0).ok()?).copied()
    }
}

/// A run of pieces; iterates over them from either end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceRange {
    next: u32,
    end: u32,
}

impl PieceRange {
    /// Whether no piece is left.
    pub const fn is_empty(&self) -> bool {
        self.next >= self.end
    }

    /// The first piece that is left.
    pub fn first(&self) -> Option<PieceIndex> {
        (!self.is_empty()).then_some(PieceIndex(self.next))
    }

    /// The last piece that is left.
    pub fn last_piece(&self) -> Option<PieceIndex> {
        (!self.is_empty()).then(|| PieceIndex(self.end - 1))
    }

    /// How many pieces are left.
    pub const fn len(&self) -> u32 {
        self.end.saturating_sub(self.next)
    }

    /// Whether the piece is one of them.
    pub const fn contains(&self, piece: PieceIndex) -> bool {
        self.next <= piece.0 && piece.0 < self.end
    }
}

impl Iterator for PieceRange {
    type Item = PieceIndex;

    fn next(&mut self) -> Option<PieceIndex> {
        let piece = self.first()?;
        self.next += 1;
        Some(piece)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = usize::try_from(self.len()).unwrap_or(usize::MAX);
        (len, Some(len))
    }
}

impl DoubleEndedIterator for PieceRange {
    fn next_back(&mut self) -> Option<PieceIndex> {
        let piece = self.last_piece()?;
        self.end -= 1;
        Some(piece)
    }
}

struct FileRange {
    next: u32,
    end: u32,
}

impl Iterator for FileRange {
    type Item = FileIndex;

    fn next(&mut self) -> Option<FileIndex> {
        let file = (self.next < self.end).then_some(FileIndex(self.next))?;
        self.next += 1;
        Some(file)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
        (len, Some(len))
    }
}

impl ExactSizeIterator for FileRange {}

#[cfg(test)]
mod tests;
