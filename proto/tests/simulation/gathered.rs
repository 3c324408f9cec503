//! Received blocks on their way from the picker to the store, and the words in which wrong ones are traced.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use wtfs_proto::blame::{BlockDigest, BlockEvidence};
use wtfs_proto::geometry::PieceIndex;
use wtfs_proto::swarm::picker::Contested;

use super::network::NodeId;

/// The received blocks of one piece, and who sent which.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) piece: PieceIndex,
    pub(crate) blocks: Vec<Bytes>,
    pub(crate) from: Vec<Option<NodeId>>,
    /// An earlier attempt failed when its first block came: digests are needed even if this one is good.
    pub(crate) contested: Contested,
}

impl Gathered {
    pub(crate) fn new(piece: PieceIndex, count: u32, contested: Contested) -> Self {
        let count = count as usize;
        Self { piece, blocks: vec![Bytes::new(); count], from: vec![None; count], contested }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.len() as u64).sum()
    }

    pub(crate) fn digests(&self) -> Vec<BlockDigest> {
        self.blocks.iter().map(digest).collect()
    }

    pub(crate) fn evidence(&self) -> Vec<BlockEvidence<NodeId>> {
        let blocks = self.from.iter().zip(self.digests()).zip(0..);
        blocks
            .filter_map(|((source, digest), block)| {
                let source = (*source)?;
                Some(BlockEvidence { block, source, digest })
            })
            .collect()
    }
}

fn digest(block: &Bytes) -> BlockDigest {
    let full: [u8; 32] = Sha256::digest(block).into();
    let mut short = [0; 16];
    short.copy_from_slice(&full[..16]);
    BlockDigest(short)
}
