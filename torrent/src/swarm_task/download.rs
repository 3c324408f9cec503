//! What a torrent does once its metadata is known: pieces wanted, in flight, being verified, stored.
//!
//! Joins the pure picker with the blocks' bytes and with the reads that wait. Verifying and storing run on the disk
//! pool; their outcome comes back as a message. Blocks that can be verified alone (BEP 52) take the way of `leaves`
//! besides. Invariant: the buffers hold exactly the received blocks of the pieces that the picker calls partial.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use wtfs_proto::blame::BlockDigest;
use wtfs_proto::geometry::{BLOCK_BYTES, PieceIndex};
use wtfs_proto::merkle::Hash;
use wtfs_proto::swarm::Urgency;
use wtfs_proto::swarm::picker::{BlockKey, Picker, Receipt, SourceId};
use wtfs_proto::time::Moment;

use super::demands::Demands;
use super::leaves::{BlockCheck, Leaves, Verdict, check_piece};
use super::suspects::{Contributor, digest};
use crate::store::StoreError;
use crate::torrent::Content;

/// Small pieces are verified and stored together up to this size: a job each would cost more than its work.
const JOB_BYTES: usize = 1 << 20;

/// After the disk was full only reads are fetched for, for this long.
const FULL_DISK_PAUSE: Moment = Moment::from_secs(5);

/// Received blocks of one piece, and who sent which.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) piece: PieceIndex,
    pub(super) blocks: Vec<Bytes>,
    pub(super) from: Vec<Option<Contributor>>,
    /// Which blocks were verified alone.
    pub(super) checks: Vec<BlockCheck>,
    /// The hashes of its blocks, if they are known when it is complete.
    pub(super) leaves: Option<Arc<[Hash]>>,
    /// An earlier attempt failed: the digests are needed even if this one is good.
    pub(super) is_contested: bool,
    /// Digests of the blocks; made by the storing job where they are needed.
    pub(super) digests: Vec<BlockDigest>,
    /// A read waits for it: it is told as soon as the piece is verified.
    is_awaited: bool,
}

impl Gathered {
    /// These bytes of the piece, which is complete.
    fn bytes(blocks: &[Bytes], range: &Range<u32>) -> Option<Bytes> {
        let (first, last) = (range.start / BLOCK_BYTES, range.end.saturating_sub(1) / BLOCK_BYTES);
        let part = |block: u32| {
            let begin = block * BLOCK_BYTES;
            let from = range.start.saturating_sub(begin) as usize;
            let to = (range.end - begin).min(BLOCK_BYTES) as usize;
            let block = blocks.get(block as usize)?;
            (from <= to && to <= block.len()).then(|| block.slice(from..to))
        };
        if first == last {
            return part(first);
        }
        let mut bytes = BytesMut::with_capacity(range.len());
        for block in first..=last {
            bytes.extend_from_slice(&part(block)?);
        }
        Some(bytes.freeze())
    }
}

/// What became of a gathered piece.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Verified, stored, and marked present.
    Stored,
    /// Its hash is wrong.
    BadHash,
    /// These blocks of it are wrong, and no others. None if the torrent's own hashes disagree.
    BadBlocks(Vec<u32>),
    /// It could not be stored.
    NotStored(StoreError),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Download {
    pub(super) content: Arc<Content>,
    pub(super) picker: Picker,
    pub(super) demands: Demands,
    pub(super) leaves: Leaves,
    pub(super) gathering: HashMap<u32, Gathered>,
    complete: Vec<Gathered>,
    pub(super) paused_until: Moment,
    /// A piece did not fit: until then reads wait until theirs does, for what is kept nowhere would be fetched again for
    /// each of them.
    pub(super) full_disk_until: Moment,
    /// Why the last piece could not be stored; `None` once one was.
    pub(super) not_stored: Option<String>,
    pub(super) is_dirty: bool,
    pub(super) is_checkpointing: bool,
    pub(super) was_complete: bool,
}

/// Who sees in the status what cannot be stored, and says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watcher {
    /// Whoever has all of it fetched.
    Caller,
    Nobody,
}

impl Download {
    pub(super) fn new(content: Arc<Content>, budget_bytes: u64) -> Self {
        let present = content.present.to_bitfield();
        let geometry = Arc::new(content.geometry().clone());
        let picker = Picker::new(geometry, &present, budget_bytes);
        Self {
            was_complete: picker.is_complete(),
            picker,
            demands: Demands::default(),
            leaves: Leaves::new(&content),
            gathering: HashMap::new(),
            complete: Vec::new(),
            paused_until: Moment::ZERO,
            full_disk_until: Moment::ZERO,
            not_stored: None,
            // The store may have found something to settle when it was opened.
            is_dirty: true,
            is_checkpointing: false,
            content,
        }
    }

    /// Remembers why a piece could not be stored. A disk that is full refuses each of the pieces under way, and the record
    /// besides: one line in the log is enough for all, and none is needed where somebody looks at the status.
    pub(super) fn handle_not_stored(&mut self, piece: PieceIndex, error: &StoreError, watcher: Watcher) {
        let is_told = self.not_stored.replace(error.to_string()).is_some() || watcher == Watcher::Caller;
        let piece = piece.get();
        match error {
            _ if is_told => tracing::debug!(piece, %error, "a piece could not be stored"),
            StoreError::NoSpace { .. } => tracing::error!(piece, "{error}; make room on that disk"),
            _ => tracing::error!(piece, %error, "a piece could not be stored"),
        }
    }

    /// The same of the record. Pieces have not failed yet where it is the first to find the disk full; if none does, the
    /// last attempt to write it tells.
    pub(super) fn handle_not_recorded(&self, error: &StoreError, watcher: Watcher) {
        let will_be_told = watcher == Watcher::Caller && matches!(error, StoreError::NoSpace { .. });
        if will_be_told || (self.not_stored.is_some() && error.is_of_full_disk()) {
            tracing::debug!(%error, "the record could not be written");
        } else {
            tracing::error!(%error, "the record could not be written; what is new will be hashed again");
        }
    }

    /// Takes a block that fits the geometry.
    pub(super) fn handle_block(
        &mut self,
        source: SourceId,
        from: Contributor,
        key: BlockKey,
        data: Bytes,
        now: Moment,
    ) -> Receipt {
        let receipt = self.picker.handle_block(source, key, now);
        if let Receipt::Accepted { is_piece_complete, .. } = receipt {
            let piece = key.piece.get();
            let count = self.content.geometry().block_count(key.piece) as usize;
            let gathered = self.gathering.entry(piece).or_insert_with(|| Gathered {
                piece: key.piece,
                blocks: vec![Bytes::new(); count],
                from: vec![None; count],
                checks: vec![BlockCheck::None; count],
                leaves: None,
                is_contested: self.picker.is_contested(piece),
                digests: Vec::new(),
                is_awaited: false,
            });
            if let Some(block) = gathered.blocks.get_mut(key.block as usize) {
                *block = data;
                gathered.from[key.block as usize] = Some(from);
            }
            if is_piece_complete && let Some(gathered) = self.gathering.remove(&piece) {
                self.complete.push(gathered);
            }
        }
        receipt
    }

    /// Pieces to verify and store, grouped into jobs.
    pub(super) fn take_jobs(&mut self, now: Moment) -> Vec<Vec<Gathered>> {
        let mut jobs: Vec<Vec<Gathered>> = Vec::new();
        let mut room = 0;
        let (ready, waiting) = self.leaves.split_ready(&self.content, std::mem::take(&mut self.complete));
        self.complete = waiting;
        for mut gathered in ready {
            // A read that is answered from memory is to find its bytes again.
            gathered.is_awaited = now >= self.full_disk_until
                && self.content.ledger.has_disk_to_spare()
                && self.picker.urgency(gathered.piece) == Some(Urgency::Read);
            let bytes: usize = gathered.blocks.iter().map(Bytes::len).sum();
            match jobs.last_mut() {
                Some(job) if bytes <= room => job.push(gathered),
                _ => {
                    room = JOB_BYTES;
                    jobs.push(vec![gathered]);
                }
            }
            room = room.saturating_sub(bytes);
        }
        jobs
    }

    /// A piece is verified and about to be stored: reads that wait for bytes of it need not wait for the disk.
    pub(super) fn handle_verified(&mut self, piece: PieceIndex, blocks: &[Bytes], now: Moment) {
        let copy = |range: Range<u32>| Gathered::bytes(blocks, &range);
        let (_, done) = self.demands.handle_verified(piece.get(), copy, now);
        for id in done {
            self.picker.clear_demand(id);
        }
    }

    /// Stores a verified piece once more, with the next jobs.
    pub(super) fn store_again(&mut self, gathered: Gathered) {
        self.complete.push(gathered);
    }

    /// Drops partial pieces that nobody wants any more.
    pub(super) fn drop_abandoned(&mut self, now: Moment) {
        for piece in self.picker.abandoned(now) {
            self.gathering.remove(&piece.get());
            self.picker.handle_failed(piece);
            self.forget_leaves(piece.get());
        }
    }

    /// The disk is full: leaves off everything that no read waits for.
    pub(super) fn pause(&mut self, now: Moment) {
        self.paused_until = now + FULL_DISK_PAUSE;
    }
}

/// Verifies and stores. Blocking; runs on the disk pool. `tell` is told of each verified piece that a read waits for,
/// before it is written: on a machine that has to find memory for the page cache that takes 2 ms for a mebibyte.
pub(super) fn store_pieces(
    content: &Content,
    job: Vec<Gathered>,
    tell: impl Fn(PieceIndex, &[Bytes]),
) -> Vec<(Gathered, Outcome)> {
    let store_one = |gathered: &Gathered| {
        match check_piece(&content.metainfo, gathered) {
            Verdict::Good => {}
            Verdict::Bad => return Outcome::BadHash,
            Verdict::BadBlocks(bad) => return Outcome::BadBlocks(bad),
        }
        if gathered.is_awaited {
            tell(gathered.piece, &gathered.blocks);
        }
        match content.store.write_piece(gathered.piece, &gathered.blocks) {
            Ok(()) => {
                content.mark_present(gathered.piece);
                Outcome::Stored
            }
            Err(error) => Outcome::NotStored(error),
        }
    };
    job.into_iter()
        .map(|mut gathered| {
            let outcome = store_one(&gathered);
            if gathered.is_contested || matches!(outcome, Outcome::BadHash) {
                gathered.digests = gathered.blocks.iter().map(digest).collect();
            }
            if !matches!(outcome, Outcome::NotStored(StoreError::NoSpace { .. })) {
                gathered.blocks.clear();
            }
            (gathered, outcome)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_piece_are_taken_across_its_blocks_and_not_beyond_it() {
        let content: Vec<u8> = (0..40_000_u32).map(|n| (n % 251) as u8).collect();
        let blocks: Vec<Bytes> = content.chunks(BLOCK_BYTES as usize).map(Bytes::copy_from_slice).collect();
        for range in [0..1, 0..16_384, 16_383..16_385, 5..40_000, 32_768..40_000, 39_999..40_000] {
            let bytes = Gathered::bytes(&blocks, &range);
            let expected = &content[range.start as usize..range.end as usize];
            assert_eq!(bytes.as_deref(), Some(expected), "{range:?}");
        }
        assert_eq!(Gathered::bytes(&blocks, &(39_999..40_001)), None);
        assert_eq!(Gathered::bytes(&blocks, &(50_000..50_001)), None);
    }
}
