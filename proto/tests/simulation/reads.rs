//! The reads of one node: what a reader wants next, and who waits for which pieces.
//!
//! Invariant: a read that was begun is ended once, with data, with a time-out, or by its reader.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use wtfs_proto::swarm::DemandId;
use wtfs_proto::time::Moment;

use super::random::Random;

/// How a reader moves through the file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Movement {
    /// From a place onwards, this many reads at once, as the kernel's read-ahead sends them.
    Sequential { parallel: usize },
    /// Anywhere, one read at a time.
    Random,
    /// Sequential, with a seek now and then.
    Seeking,
}

/// What a reader does.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) movement: Movement,
    pub(crate) reads_left: usize,
    pub(crate) read_bytes: u64,
    pub(crate) position: u64,
    /// In percent of all reads.
    pub(crate) withdrawn: u64,
}

impl Script {
    pub(crate) fn parallel(&self) -> usize {
        match self.movement {
            Movement::Sequential { parallel } => parallel,
            Movement::Random | Movement::Seeking => 1,
        }
    }

    /// The next range to read.
    pub(crate) fn advance(&mut self, total_bytes: u64, random: &mut Random) -> Option<Range<u64>> {
        self.reads_left = self.reads_left.checked_sub(1)?;
        let is_jump = match self.movement {
            Movement::Sequential { .. } => false,
            Movement::Random => true,
            Movement::Seeking => random.is_hit(8),
        };
        if is_jump || self.position >= total_bytes {
            self.position = random.below(total_bytes);
        }
        let start = self.position;
        self.position = start + self.read_bytes;
        Some(start..self.position.min(total_bytes))
    }
}

#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) range: Range<u64>,
    pub(crate) pieces: Range<u32>,
    pub(crate) since: Moment,
    pub(crate) progress_at: Moment,
}

/// The reads that wait, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    pub(crate) waiting: BTreeMap<DemandId, Waiting>,
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    pub(crate) timed_out: u64,
}

impl Reads {
    pub(crate) fn begin(&mut self, range: Range<u64>, pieces: Range<u32>, now: Moment) -> DemandId {
        self.begun += 1;
        // Zero names the read-ahead.
        let id = DemandId(self.begun);
        self.waiting.insert(id, Waiting { range, pieces, since: now, progress_at: now });
        id
    }

    pub(crate) fn end(&mut self, id: DemandId) -> Option<Waiting> {
        let read = self.waiting.remove(&id)?;
        self.ended += 1;
        Some(read)
    }

    /// A piece came: notes the progress and names the reads that lack nothing any more.
    pub(crate) fn handle_stored(
        &mut self,
        piece: u32,
        now: Moment,
        is_present: impl Fn(u32) -> bool,
    ) -> Vec<DemandId> {
        let mut done = Vec::new();
        for (id, read) in self.waiting.iter_mut().filter(|(_, read)| read.pieces.contains(&piece)) {
            read.progress_at = now;
            if read.pieces.clone().all(&is_present) {
                done.push(*id);
            }
        }
        done
    }

    /// The reads for which nothing moved for `timeout`.
    pub(crate) fn stuck(
        &mut self,
        now: Moment,
        timeout: Duration,
        last_block_at: impl Fn(u32) -> Option<Moment>,
    ) -> Vec<DemandId> {
        for read in self.waiting.values_mut() {
            let newest = read.pieces.clone().filter_map(&last_block_at).max();
            read.progress_at = read.progress_at.max(newest.unwrap_or_default());
        }
        let is_stuck = |read: &Waiting| now.saturating_sub(read.progress_at) >= timeout;
        self.waiting.iter().filter(|(_, read)| is_stuck(read)).map(|(id, _)| *id).collect()
    }

    pub(crate) fn wants(&self, piece: u32) -> bool {
        self.waiting.values().any(|read| read.pieces.contains(&piece))
    }
}
