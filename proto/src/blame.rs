//! Who sent the bad bytes of a piece that failed its hash.
//!
//! A v1 piece is verified as a whole, so a failure alone proves nothing when several sources contributed. This type
//! remembers, for each such failure, a digest of each block and who sent it. When the piece verifies later, the
//! blocks that differ from the good ones name the liars.
//!
//! The rule is that only proof bans: a source is banned if all blocks of a failed piece came from it alone, or if one of
//! its blocks is known to differ from the verified data. Having taken part in failures makes a source *suspect*, never
//! guilty: else a liar could have honest sources banned by mixing with them. The engine should fetch contested
//! pieces and those of suspects from one source at a time; each such piece then either clears or convicts.
//!
//! Memory is bounded: the oldest failures are forgotten first, and with them the suspicion they cast.
//! Nothing is hashed here; the caller passes digests, and only needs the good ones where [`Blame::is_contested`] says so.

use core::hash::Hash;
use std::collections::{HashMap, HashSet, VecDeque};

use crate::geometry::PieceIndex;

/// Blocks remembered over all pieces: 64 failed pieces of 16 MiB, in some 4 MB.
const MAX_BLOCKS: usize = 64 * 1024;

/// Failures remembered for one piece. If four attempts failed, then four sets of sources are under suspicion and the
/// next one should be fetched from a single source.
const MAX_ATTEMPTS: usize = 4;

/// A digest of the content of one block, to tell two contents apart.
///
/// It must be collision resistant, or a liar can craft a bad block that passes for the good one and so clear itself.
/// 128 bits of SHA-256 or of a keyed hash do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockDigest(pub [u8; 16]);

/// One block of a failed piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockEvidence<S> {
    /// Number of the block within its piece.
    pub block: u32,
    /// Who sent it. The key should outlive the connection (an address, a URL), so that reconnecting is no pardon.
    pub source: S,
    /// What was sent.
    pub digest: BlockDigest,
}

/// The evidence of one piece, attempt by attempt.
#[derive(Debug, Clone)]
struct Case<S> {
    attempts: VecDeque<Vec<BlockEvidence<S>>>,
}

impl<S: Copy + Eq + Hash> Case<S> {
    fn blocks(&self) -> usize {
        self.attempts.iter().map(Vec::len).sum()
    }

    fn sources(&self) -> HashSet<S> {
        self.attempts.iter().flatten().map(|evidence| evidence.source).collect()
    }
}

/// The failed pieces of one torrent that are not cleared up yet. See the module's documentation.
#[derive(Debug, Clone)]
pub struct Blame<S> {
    cases: HashMap<PieceIndex, Case<S>>,
    /// Pieces of `cases`, the one that failed first in front.
    order: VecDeque<PieceIndex>,
    /// How many cases each source is part of; never zero.
    suspicion: HashMap<S, usize>,
    blocks: usize,
}

impl<S> Default for Blame<S> {
    fn default() -> Self {
        Self { cases: HashMap::new(), order: VecDeque::new(), suspicion: HashMap::new(), blocks: 0 }
    }
}

impl<S: Copy + Eq + Hash> Blame<S> {
    /// No failures yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A piece of `block_count` blocks failed its hash. `evidence` lists the blocks it was made of, each once; blocks of
    /// unknown origin (kept from an earlier run) are left out.
    ///
    /// Returns whom to ban: the one source of all blocks, if there is only one. The evidence is kept otherwise.
    pub fn handle_failed(
        &mut self,
        piece: PieceIndex,
        block_count: u32,
        evidence: Vec<BlockEvidence<S>>,
    ) -> Option<S> {
        let first = evidence.first()?.source;
        let is_complete = u32::try_from(evidence.len()).is_ok_and(|known| known >= block_count);
        if is_complete && evidence.iter().all(|block| block.source == first) {
            self.forget_source(first);
            return Some(first);
        }
        let mut case = self.take(piece).unwrap_or(Case { attempts: VecDeque::new() });
        if case.attempts.len() == MAX_ATTEMPTS {
            case.attempts.pop_front();
        }
        case.attempts.push_back(evidence);
        self.put(piece, case);
        while self.blocks > MAX_BLOCKS {
            let Some(oldest) = self.order.front().copied() else { break };
            self.take(oldest);
        }
        None
    }

    /// A piece verified. `good` holds the digests of its blocks in order; it is only looked at if the piece is contested.
    ///
    /// Returns whom to ban: all who had sent a block that differs. The others of this piece are cleared of it.
    pub fn handle_verified(&mut self, piece: PieceIndex, good: &[BlockDigest]) -> Vec<S> {
        let Some(case) = self.take(piece) else { return Vec::new() };
        let mut banned = Vec::new();
        for evidence in case.attempts.iter().flatten() {
            let truth = usize::try_from(evidence.block).ok().and_then(|block| good.get(block));
            if truth.is_some_and(|digest| *digest != evidence.digest) && !banned.contains(&evidence.source) {
                banned.push(evidence.source);
            }
        }
        for source in &banned {
            self.forget_source(*source);
        }
        banned
    }

    /// Whether a failure of this piece is waiting to be cleared up: fetch it from one source alone if possible, and pass the
    /// digests of its blocks when it verifies.
    #[must_use]
    pub fn is_contested(&self, piece: PieceIndex) -> bool {
        self.cases.contains_key(&piece)
    }

    /// In how many failures that are not cleared up the source took part.
    #[must_use]
    pub fn suspicion(&self, source: S) -> usize {
        self.suspicion.get(&source).copied().unwrap_or(0)
    }

    /// Drops all evidence against a source, because it is banned anyway. What others sent stays.
    pub fn forget_source(&mut self, source: S) {
        if self.suspicion.remove(&source).is_none() {
            return;
        }
        for case in self.cases.values_mut() {
            for attempt in &mut case.attempts {
                let before = attempt.len();
                attempt.retain(|evidence| evidence.source != source);
                self.blocks -= before - attempt.len();
            }
            case.attempts.retain(|attempt| !attempt.is_empty());
        }
        self.cases.retain(|_, case| !case.attempts.is_empty());
        self.order.retain(|piece| self.cases.contains_key(piece));
    }

    fn take(&mut self, piece: PieceIndex) -> Option<Case<S>> {
        let case = self.cases.remove(&piece)?;
        self.order.retain(|other| *other != piece);
        self.blocks -= case.blocks();
        for source in case.sources() {
            if let Some(count) = self.suspicion.get_mut(&source) {
                *count -= 1;
                if *count == 0 {
                    self.suspicion.remove(&source);
                }
            }
        }
        Some(case)
    }

    fn put(&mut self, piece: PieceIndex, case: Case<S>) {
        self.blocks += case.blocks();
        for source in case.sources() {
            *self.suspicion.entry(source).or_insert(0) += 1;
        }
        self.order.push_back(piece);
        self.cases.insert(piece, case);
    }
}

#[cfg(test)]
mod tests;
