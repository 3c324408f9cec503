//! The content that is shared: bytes that follow from their offset, cut into pieces with real hashes.
//!
//! Every eight bytes are the mixed number of their place, so a byte from any other place is a wrong byte. Contents are
//! made once for all swarms of a run.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use sha1::{Digest, Sha1};
use wtfs_proto::geometry::{Alignment, BLOCK_BYTES, FileIndex, FileLayout, Geometry, PieceIndex};
use wtfs_proto::wire::message::BlockRequest;

use super::random::mix;

#[derive(Debug)]
pub(crate) struct Torrent {
    pub(crate) geometry: Arc<Geometry>,
    pub(crate) file: FileIndex,
    content: Bytes,
    hashes: Vec<[u8; 20]>,
}

/// Contents that stress different things.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// Many pieces of two blocks, the last a little short.
    Small,
    /// Pieces whose last block is short (v1 allows any piece length).
    Ragged,
    /// Few pieces of many blocks: a piece takes several sources.
    Long,
    /// Large enough that random reads do not look like a sequence.
    Wide,
}

impl Torrent {
    pub(crate) fn of(shape: Shape) -> Arc<Self> {
        static MADE: [OnceLock<Arc<Torrent>>; 4] = [const { OnceLock::new() }; 4];
        let (piece_bytes, bytes) = match shape {
            Shape::Small => (2 * BLOCK_BYTES, 96 * 2 * BLOCK_BYTES - 100),
            Shape::Ragged => (40_000, 61 * 40_000),
            Shape::Long => (16 * BLOCK_BYTES, 24 * 16 * BLOCK_BYTES - BLOCK_BYTES - 1),
            Shape::Wide => (4 * BLOCK_BYTES, 64 << 20),
        };
        MADE[shape as usize].get_or_init(|| Arc::new(Self::make(piece_bytes, bytes))).clone()
    }

    fn make(piece_bytes: u32, bytes: u32) -> Self {
        let words = u64::from(bytes).div_ceil(8);
        let mut content: Vec<u8> = (0..words).flat_map(|word| mix(word).to_le_bytes()).collect();
        content.truncate(bytes as usize);
        let layout = FileLayout { bytes: u64::from(bytes), alignment: Alignment::Packed, is_pad: false };
        let geometry = Geometry::new(piece_bytes, &[layout]).expect("a valid geometry");
        let hashes = content.chunks(piece_bytes as usize).map(|piece| Sha1::digest(piece).into()).collect();
        let file = geometry.file(0).expect("there is one file");
        Self { geometry: Arc::new(geometry), file, content: content.into(), hashes }
    }

    pub(crate) fn total_bytes(&self) -> u64 {
        self.geometry.total_bytes()
    }

    pub(crate) fn piece_count(&self) -> u32 {
        self.geometry.piece_count()
    }

    pub(crate) fn piece_len(&self, piece: u32) -> u64 {
        self.geometry.piece(piece).map_or(0, |piece| u64::from(self.geometry.piece_len(piece)))
    }

    /// The true bytes of a range.
    pub(crate) fn range(&self, range: Range<u64>) -> Bytes {
        self.content.slice(range.start as usize..range.end as usize)
    }

    /// The true bytes of a piece.
    pub(crate) fn piece(&self, piece: PieceIndex) -> Bytes {
        let start = self.geometry.piece_offset(piece);
        self.range(start..start + u64::from(self.geometry.piece_len(piece)))
    }

    /// The true answer to a request.
    pub(crate) fn block(&self, request: BlockRequest) -> Bytes {
        let piece = self
            .geometry
            .check_request(request.piece, request.begin, request.length)
            .expect("nobody asks for what is not in the torrent");
        self.piece(piece).slice(request.begin as usize..(request.begin + request.length) as usize)
    }

    pub(crate) fn is_piece(&self, piece: PieceIndex, blocks: &[Bytes]) -> bool {
        let mut hasher = Sha1::new();
        for block in blocks {
            hasher.update(block);
        }
        let hash: [u8; 20] = hasher.finalize().into();
        self.hashes[piece.get() as usize] == hash
    }

    /// The pieces that a range of the file lies in.
    pub(crate) fn pieces_of(&self, range: Range<u64>) -> Range<u32> {
        let pieces = self.geometry.pieces_of(self.file, range);
        match (pieces.first(), pieces.last_piece()) {
            (Some(first), Some(last)) => first.get()..last.get() + 1,
            _ => 0..0,
        }
    }
}
