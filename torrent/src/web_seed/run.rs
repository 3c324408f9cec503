//! A run of blocks as one stream of bytes: where its parts lie at the seed, and how the stream is cut into blocks again.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use tokio_util::sync::CancellationToken;
use wtfs_proto::geometry::{BLOCK_BYTES, FileIndex, Geometry, PieceIndex};
use wtfs_proto::swarm::picker::BlockKey;

use super::address::Dialect;

/// Where some of a run's bytes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// In a padding file: nobody is asked.
    Zeros { bytes: u64 },
    /// In a file.
    File { file: FileIndex, offset: u64, bytes: u64 },
    /// In a piece, for seeds that are asked for pieces.
    Piece { piece: PieceIndex, begin: u32, bytes: u64 },
}

impl Part {
    pub(super) fn bytes(self) -> u64 {
        match self {
            Self::Zeros { bytes } | Self::File { bytes, .. } | Self::Piece { bytes, .. } => bytes,
        }
    }
}

/// The parts of blocks that follow each other.
fn parts(blocks: &[BlockKey], dialect: Dialect, geometry: &Geometry) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for key in blocks {
        let begin = key.block * BLOCK_BYTES;
        let length = geometry.block_len(key.piece, key.block);
        match dialect {
            Dialect::Pieces => {
                push(&mut parts, Part::Piece { piece: key.piece, begin, bytes: u64::from(length) });
            }
            Dialect::Files => {
                for span in geometry.spans(key.piece, begin..begin + length) {
                    let bytes = u64::from(span.bytes);
                    let part = if span.is_pad {
                        Part::Zeros { bytes }
                    } else {
                        Part::File { file: span.file, offset: span.file_offset, bytes }
                    };
                    push(&mut parts, part);
                }
            }
        }
    }
    parts
}

/// Appends a part, or makes the last one longer.
fn push(parts: &mut Vec<Part>, part: Part) {
    match (parts.last_mut(), part) {
        (Some(Part::Zeros { bytes }), Part::Zeros { bytes: more }) => *bytes += more,
        (Some(Part::File { file, offset, bytes }), Part::File { file: next, offset: at, bytes: more })
            if *file == next && *offset + *bytes == at =>
        {
            *bytes += more;
        }
        (Some(Part::Piece { piece, begin, bytes }), Part::Piece { piece: next, begin: at, bytes: more })
            if *piece == next && u64::from(*begin) + *bytes == u64::from(at) =>
        {
            *bytes += more;
        }
        _ => parts.push(part),
    }
}

/// A run under way; shared by who fetches it and who may cancel it.
#[derive(Debug)]
pub(super) struct Run {
    /// In the order of the torrent, none left out in between.
    pub(super) blocks: Vec<BlockKey>,
    pub(super) parts: Vec<Part>,
    pub(super) cancel: CancellationToken,
    /// Blocks handed on so far, from the first.
    delivered: AtomicUsize,
    /// Blocks still wanted, from the first: those behind need not be read.
    wanted: AtomicUsize,
    /// When its last bytes came, in milliseconds of the seed's clock.
    moved_ms: AtomicU64,
}

impl Run {
    pub(super) fn new(
        blocks: Vec<BlockKey>,
        dialect: Dialect,
        geometry: &Geometry,
        cancel: CancellationToken,
        now_ms: u64,
    ) -> Self {
        Self {
            parts: parts(&blocks, dialect, geometry),
            wanted: AtomicUsize::new(blocks.len()),
            delivered: AtomicUsize::new(0),
            moved_ms: AtomicU64::new(now_ms),
            blocks,
            cancel,
        }
    }

    pub(super) fn delivered(&self) -> usize {
        self.delivered.load(Ordering::Relaxed)
    }

    pub(super) fn handle_moved(&self, now_ms: u64) {
        self.moved_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(super) fn handle_delivered(&self, count: usize) {
        self.delivered.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn moved_ms(&self) -> u64 {
        self.moved_ms.load(Ordering::Relaxed)
    }

    /// Only the first `wanted` blocks are still of use.
    pub(super) fn set_wanted(&self, wanted: usize) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Whether all that is of use was handed on.
    pub(super) fn is_enough(&self) -> bool {
        self.delivered() >= self.wanted.load(Ordering::Relaxed)
    }

    /// What was not handed on.
    pub(super) fn left(&self) -> &[BlockKey] {
        self.blocks.get(self.delivered()..).unwrap_or_default()
    }
}

/// Cuts a stream of bytes into blocks. Copies only blocks that came in pieces.
#[derive(Debug)]
pub(super) struct Cutter {
    lengths: std::vec::IntoIter<u32>,
    /// Of the block at hand; 0 behind the last one.
    length: usize,
    part: BytesMut,
}

impl Cutter {
    pub(super) fn new(blocks: &[BlockKey], geometry: &Geometry) -> Self {
        let lengths: Vec<u32> = blocks.iter().map(|key| geometry.block_len(key.piece, key.block)).collect();
        let mut lengths = lengths.into_iter();
        let length = lengths.next().unwrap_or(0) as usize;
        Self { lengths, length, part: BytesMut::new() }
    }

    /// Takes the next bytes; returns the blocks that are whole now. Bytes behind the last block are dropped.
    pub(super) fn push(&mut self, mut bytes: Bytes) -> Vec<Bytes> {
        let mut whole = Vec::new();
        while !bytes.is_empty() && self.length > 0 {
            let lacking = self.length - self.part.len();
            if bytes.len() < lacking {
                self.part.reserve(lacking);
                self.part.extend_from_slice(&bytes);
                break;
            }
            let rest = bytes.split_off(lacking);
            if self.part.is_empty() {
                whole.push(bytes);
            } else {
                self.part.extend_from_slice(&bytes);
                whole.push(self.part.split().freeze());
            }
            bytes = rest;
            self.length = self.lengths.next().unwrap_or(0) as usize;
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wtfs_proto::geometry::{Alignment, FileLayout};

    use super::*;

    fn geometry(files: &[(u64, bool)], alignment: Alignment) -> Geometry {
        let files: Vec<FileLayout> =
            files.iter().map(|&(bytes, is_pad)| FileLayout { bytes, alignment, is_pad }).collect();
        Geometry::new(32 << 10, &files).expect("valid")
    }

    fn all_blocks(geometry: &Geometry) -> Vec<BlockKey> {
        let of = |piece| (0..geometry.block_count(piece)).map(move |block| BlockKey { piece, block });
        geometry.pieces().flat_map(of).collect()
    }

    #[test]
    fn parts_span_pieces_and_go_from_file_to_file_without_asking_for_padding() {
        let files = [(40_000, false), (25_536, true), (0, false), (70_000, false)];
        let geometry = geometry(&files, Alignment::Packed);
        let file = |at| geometry.file(at).expect("a file");
        let found = parts(&all_blocks(&geometry), Dialect::Files, &geometry);
        let expected = [
            Part::File { file: file(0), offset: 0, bytes: 40_000 },
            Part::Zeros { bytes: 25_536 },
            Part::File { file: file(3), offset: 0, bytes: 70_000 },
        ];
        assert_eq!(found, expected);
        let second = parts(&all_blocks(&geometry)[1..2], Dialect::Files, &geometry);
        assert_eq!(second, [Part::File { file: file(0), offset: 16_384, bytes: 16_384 }]);
    }

    #[test]
    fn files_that_begin_at_a_piece_leave_no_bytes_between() {
        let geometry = geometry(&[(40_000, false), (70_000, false)], Alignment::PieceStart);
        let file = |at| geometry.file(at).expect("a file");
        let found = parts(&all_blocks(&geometry), Dialect::Files, &geometry);
        let expected = [
            Part::File { file: file(0), offset: 0, bytes: 40_000 },
            Part::File { file: file(1), offset: 0, bytes: 70_000 },
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn seeds_asked_for_pieces_get_one_part_a_piece() {
        let geometry = geometry(&[(50_000, false)], Alignment::Packed);
        let found = parts(&all_blocks(&geometry), Dialect::Pieces, &geometry);
        let piece = |at| geometry.piece(at).expect("a piece");
        let expected = [
            Part::Piece { piece: piece(0), begin: 0, bytes: 32_768 },
            Part::Piece { piece: piece(1), begin: 0, bytes: 17_232 },
        ];
        assert_eq!(found, expected);
    }

    proptest! {
        #[test]
        fn a_stream_is_cut_into_the_same_blocks_however_it_arrives(
            files in proptest::collection::vec((0_u64..60_000, any::<bool>()), 1..6),
            steps in proptest::collection::vec(1_usize..50_000, 1..20),
        ) {
            let total: u64 = files.iter().map(|(bytes, _)| bytes).sum();
            prop_assume!(total > 0);
            let geometry = geometry(&files, Alignment::Packed);
            let blocks = all_blocks(&geometry);
            let found = parts(&blocks, Dialect::Files, &geometry);
            prop_assert_eq!(found.iter().map(|part| part.bytes()).sum::<u64>(), total);
            let content: Vec<u8> = (0..total).map(|at| (at % 251) as u8).collect();
            let mut cutter = Cutter::new(&blocks, &geometry);
            let mut cut = Vec::new();
            let mut rest = Bytes::from(content.clone());
            for step in steps.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let next = rest.split_to((*step).min(rest.len()));
                cut.extend(cutter.push(next));
            }
            prop_assert_eq!(cut.len(), blocks.len());
            for (key, bytes) in blocks.iter().zip(&cut) {
                prop_assert_eq!(bytes.len(), geometry.block_len(key.piece, key.block) as usize);
            }
            prop_assert_eq!(cut.concat(), content);
        }
    }
}
