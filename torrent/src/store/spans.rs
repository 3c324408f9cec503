//! Moving bytes between slices and a file at given positions: all of them, or an error.
//!
//! Owns the loops around `pwritev`, `pread` and `preadv2` that short transfers and signals force, and the walk from a piece to
//! the files that it lies in.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::fd::AsFd;

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags};
use wtfs_proto::geometry::{FileIndex, Geometry, PieceIndex};

use super::{StoreError, TryRead};

/// Slices handed to one `pwritev`: far below the kernel's limit of 1,024, and 4 MiB of blocks at once.
const SLICES_AT_ONCE: usize = 256;

/// Reads a range of a piece out of the files that it lies in, by `read_file`; padding is zeros.
///
/// # Errors
/// [`StoreError::Range`] when the range is not the piece's or not as long as `buf`, and those of `read_file`.
pub(super) fn read_piece(
    geometry: &Geometry,
    piece: PieceIndex,
    range: Range<u32>,
    buf: &mut [u8],
    read_file: impl Fn(FileIndex, u64, &mut [u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    check_piece_range(geometry, piece, &range, buf.len())?;
    let mut rest = buf;
    for span in geometry.spans(piece, range) {
        let here = usize::try_from(span.bytes).unwrap_or(usize::MAX).min(rest.len());
        let (now, later) = rest.split_at_mut(here);
        if span.is_pad {
            now.fill(0);
        } else {
            read_file(span.file, span.file_offset, now)?;
        }
        rest = later;
    }
    Ok(())
}

/// Checks a range of a piece against the piece and the buffer.
pub(super) fn check_piece_range(
    geometry: &Geometry,
    piece: PieceIndex,
    range: &Range<u32>,
    len: usize,
) -> Result<(), StoreError> {
    let end = u64::from(geometry.piece_len(piece));
    let wanted = u64::from(range.end.saturating_sub(range.start));
    if wanted != len as u64 || u64::from(range.end) > end || range.start > range.end {
        return Err(StoreError::Range { offset: u64::from(range.start), len: len as u64, end });
    }
    Ok(())
}

/// Why bytes did not get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransferError {
    /// The system refused.
    Errno(Errno),
    /// The file ends, or takes no more, before the transfer does.
    Short,
}

impl From<Errno> for TransferError {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// The parts of `blocks`, read as one string of bytes, that lie in `range`.
pub(super) fn slices_of(blocks: &[Bytes], range: Range<u64>) -> impl Iterator<Item = &[u8]> {
    let mut begin = 0_u64;
    blocks.iter().filter_map(move |block| {
        let start = begin;
        begin += block.len() as u64;
        let from = range.start.clamp(start, begin) - start;
        let to = range.end.clamp(start, begin) - start;
        // Both are at most the block's length, so they fit.
        let part = block.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)?;
        (!part.is_empty()).then_some(part)
    })
}

/// Writes all slices, one behind the other, from `offset` on.
pub(crate) fn write_all<'a>(
    fd: impl AsFd,
    slices: impl Iterator<Item = &'a [u8]>,
    mut offset: u64,
) -> Result<(), TransferError> {
    let mut all: Vec<IoSlice<'a>> = slices.map(IoSlice::new).collect();
    let mut rest = all.as_mut_slice();
    while !rest.is_empty() {
        let at_once = rest.len().min(SLICES_AT_ONCE);
        match rustix::io::pwritev(&fd, &rest[..at_once], offset) {
            Ok(0) => return Err(TransferError::Short),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Fills the buffer from `offset` on.
pub(crate) fn read_exact(fd: impl AsFd, mut buf: &mut [u8], mut offset: u64) -> Result<(), TransferError> {
    while !buf.is_empty() {
        match rustix::io::pread(&fd, &mut *buf, offset) {
            Ok(0) => return Err(TransferError::Short),
            Ok(read) => {
                offset += read as u64;
                buf = buf.get_mut(read..).unwrap_or_default();
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Fills the buffer if the page cache has it all.
pub(crate) fn try_read_exact(
    fd: impl AsFd,
    mut buf: &mut [u8],
    mut offset: u64,
) -> Result<TryRead, TransferError> {
    while !buf.is_empty() {
        match rustix::io::preadv2(&fd, &mut [IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT) {
            Ok(0) => return Err(TransferError::Short),
            Ok(read) => {
                offset += read as u64;
                buf = buf.get_mut(read..).unwrap_or_default();
            }
            Err(Errno::INTR) => {}
            // AGAIN is the answer asked for; the others come from kernels and file systems that cannot tell.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                return Ok(TryRead::WouldBlock);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(TryRead::Done)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn slices_cut_the_range_out_of_the_blocks() {
        let blocks = [Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"defg")];
        let cut = |range| slices_of(&blocks, range).collect::<Vec<_>>().concat();
        for start in 0..=7 {
            for end in start..=7 {
                assert_eq!(cut(start..end), b"abcdefg"[start as usize..end as usize]);
            }
        }
        assert_eq!(cut(5..99), b"fg");
    }

    #[test]
    fn more_slices_than_one_call_takes_are_all_written() {
        let file = tempfile::tempfile().unwrap();
        let blocks: Vec<Bytes> = (0..1000_u32).map(|i| Bytes::from(i.to_le_bytes().to_vec())).collect();
        write_all(&file, slices_of(&blocks, 0..4000), 10).unwrap();
        let mut read = vec![0; 4000];
        read_exact(&file, &mut read, 10).unwrap();
        assert_eq!(read, blocks.concat());
    }

    #[test]
    fn a_read_past_the_end_is_an_error_and_not_short() {
        let file = tempfile::tempfile().unwrap();
        write_all(&file, [b"abc".as_slice()].into_iter(), 0).unwrap();
        assert_eq!(read_exact(&file, &mut [0; 4], 0), Err(TransferError::Short));
    }
}
