//! What a torrent does once its metadata is known: pieces wanted, in flight, being verified, stored.
//!
//! Joins the pure picker with the blocks' bytes and with the reads that wait. Verifying and storing run on the disk
//! pool; their outcome comes back as a message. Blocks that can be verified alone (BEP 52) take the way of `leaves`
//! besides. Invariant: the buffers hold exactly the received blocks of the pieces that the picker calls partial.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use wtfs_proto::blame::BlockDigest;
use wtfs_proto::geometry::PieceIndex;
use wtfs_proto::merkle::Hash;
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
    pub(super) is_dirty: bool,
    pub(super) is_checkpointing: bool,
    pub(super) was_complete: bool,
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
            // The store may have found something to settle when it was opened.
            is_dirty: true,
            is_checkpointing: false,
            content,
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
    pub(super) fn take_jobs(&mut self) -> Vec<Vec<Gathered>> {
        let mut jobs: Vec<Vec<Gathered>> = Vec::new();
        let mut room = 0;
        let (ready, waiting) = self.leaves.split_ready(&self.content, std::mem::take(&mut self.complete));
        self.complete = waiting;
        for gathered in ready {
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

/// Verifies and stores. Blocking; runs on the disk pool.
pub(super) fn store_pieces(content: &Content, job: Vec<Gathered>) -> Vec<(Gathered, Outcome)> {
    let store_one = |gathered: &Gathered| {
        match check_piece(&content.metainfo, gathered) {
            Verdict::Good => {}
            Verdict::Bad => return Outcome::BadHash,
            Verdict::BadBlocks(bad) => return Outcome::BadBlocks(bad),
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
