//! Who sent wrong bytes: joins gathered pieces with proto's rules of blame.
//!
//! Peers are named by their IP address, so that reconnecting is no pardon, those over WebRTC by their id besides (see
//! `bans`); web seeds by their place in the torrent's list.

use std::net::IpAddr;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use wtfs_proto::blame::{Blame, BlockDigest, BlockEvidence};
use wtfs_proto::geometry::PieceIndex;
use wtfs_proto::id::PeerId;
use wtfs_proto::swarm::picker::Contested;

use super::download::Gathered;

/// Who may be to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Contributor {
    /// Whoever is at this address.
    Peer(IpAddr),
    /// Who calls itself so at an address that it shares with others: a peer over WebRTC.
    Channel(IpAddr, PeerId),
    /// A web seed, by its number.
    WebSeed(u16),
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    blame: Blame<Contributor>,
}

impl Suspects {
    /// Whether an earlier failure of the piece is not cleared up: it is to be fetched from one source alone.
    pub(super) fn contested(&self, piece: PieceIndex) -> Contested {
        if self.blame.is_contested(piece) { Contested::Yes } else { Contested::No }
    }

    /// A piece failed its hash; returns whom to ban.
    pub(super) fn handle_bad(&mut self, gathered: &Gathered) -> Vec<Contributor> {
        let blocks = gathered.from.iter().zip(&gathered.digests).zip(0..);
        let evidence = blocks
            .filter_map(|((from, digest), block)| {
                let source = (*from)?;
                Some(BlockEvidence { block, source, digest: *digest })
            })
            .collect();
        let count = u32::try_from(gathered.from.len()).unwrap_or(u32::MAX);
        self.blame.handle_failed(gathered.piece, count, evidence).into_iter().collect()
    }

    /// A piece verified; returns whom to ban for what they sent of it before.
    pub(super) fn handle_good(&mut self, gathered: &Gathered) -> Vec<Contributor> {
        self.blame.handle_verified(gathered.piece, &gathered.digests)
    }

    /// Somebody was banned for another reason.
    pub(super) fn forget(&mut self, who: Contributor) {
        self.blame.forget_source(who);
    }
}

/// Tells contents of blocks apart; collision resistant, as [`BlockDigest`] asks for.
pub(super) fn digest(block: &Bytes) -> BlockDigest {
    let full: [u8; 32] = Sha256::digest(block).into();
    let mut short = [0; 16];
    short.copy_from_slice(&full[..16]);
    BlockDigest(short)
}
