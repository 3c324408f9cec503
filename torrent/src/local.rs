//! How much of one file is present, and which bytes of it: asked for each `stat`, so it must cost next to nothing.
//!
//! A file's pieces are whole but for those at its two ends, so the words of the present map are counted and only the
//! ends are looked at one by one. A directory of tens of thousands of files is listed without walking their pieces.

use std::ops::Range;

use wtfs_proto::geometry::{FileIndex, Geometry};

use crate::present::PresentMap;

/// The pieces of a file, and which of its bytes lie in each.
struct Pieces {
    first: u32,
    /// Exclusive.
    end: u32,
    /// Bytes of the first piece that lie before the file.
    skew: u64,
    piece_bytes: u64,
    len: u64,
}

impl Pieces {
    /// `None` for a file without bytes.
    fn of(geometry: &Geometry, file: FileIndex) -> Option<Self> {
        let len = geometry.file_len(file);
        let (first, skew) = geometry.locate(file, 0)?;
        let (last, _) = geometry.locate(file, len.checked_sub(1)?)?;
        let piece_bytes = u64::from(geometry.piece_bytes());
        Some(Self { first: first.get(), end: last.get() + 1, skew: u64::from(skew), piece_bytes, len })
    }

    /// The file's bytes in a run of its pieces.
    fn bytes(&self, pieces: Range<u32>) -> Range<u64> {
        let edge = |piece: u32| u64::from(piece - self.first) * self.piece_bytes;
        let start = edge(pieces.start).saturating_sub(self.skew);
        start..(edge(pieces.end).saturating_sub(self.skew)).min(self.len)
    }
}

/// How many bytes of the file are present.
pub(crate) fn bytes(geometry: &Geometry, present: &PresentMap, file: FileIndex) -> u64 {
    let Some(pieces) = Pieces::of(geometry, file) else { return 0 };
    let last = pieces.end - 1;
    let edge = |piece: u32| {
        let range = pieces.bytes(piece..piece + 1);
        if present.get(piece) { range.end - range.start } else { 0 }
    };
    if pieces.first == last {
        return edge(last);
    }
    let inner = u64::from(present.count_in(pieces.first + 1..last));
    edge(pieces.first) + inner * pieces.piece_bytes + edge(last)
}

/// The present parts of the file in order, as few ranges as there can be, at most `limit` of them.
pub(crate) fn ranges(
    geometry: &Geometry,
    present: &PresentMap,
    file: FileIndex,
    limit: usize,
) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let Some(pieces) = Pieces::of(geometry, file) else { return found };
    let mut at = pieces.first;
    while found.len() < limit {
        let Some(run) = present.next_run(at..pieces.end) else { break };
        at = run.end;
        found.push(pieces.bytes(run));
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wtfs_proto::bitfield::Bitfield;
    use wtfs_proto::geometry::{Alignment, FileLayout};

    use super::*;

    /// One byte at a time.
    fn naive(geometry: &Geometry, present: &PresentMap, file: FileIndex) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for at in 0..geometry.file_len(file) {
            let Some((piece, _)) = geometry.locate(file, at) else { continue };
            if !present.get(piece.get()) {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end == at => run.end += 1,
                _ => runs.push(at..at + 1),
            }
        }
        runs
    }

    proptest! {
        #[test]
        fn counting_by_words_is_counting_by_bytes(
            piece_bytes in 1_u32..40,
            lens in prop::collection::vec(0_u64..3_000, 1..8),
            alignment in prop_oneof![Just(Alignment::Packed), Just(Alignment::PieceStart)],
            seed in prop::collection::vec(any::<bool>(), 1..200),
        ) {
            let files: Vec<FileLayout> =
                lens.iter().map(|&bytes| FileLayout { bytes, alignment, is_pad: false }).collect();
            let geometry = Geometry::new(piece_bytes, &files);
            prop_assume!(geometry.is_ok());
            let geometry = geometry.expect("assumed");
            let mut bits = Bitfield::new(geometry.piece_count());
            for piece in 0..geometry.piece_count() {
                if seed[piece as usize % seed.len()] {
                    bits.set(piece);
                }
            }
            let present = PresentMap::new(&bits);
            for file in geometry.files() {
                let expected = naive(&geometry, &present, file);
                let total: u64 = expected.iter().map(|range| range.end - range.start).sum();
                prop_assert_eq!(bytes(&geometry, &present, file), total);
                prop_assert_eq!(&ranges(&geometry, &present, file, usize::MAX), &expected);
                let few = expected.len().min(2);
                prop_assert_eq!(&ranges(&geometry, &present, file, 2)[..], &expected[..few]);
            }
        }
    }
}
