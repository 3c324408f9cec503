//! The last reads that belong to no established stream, in which strides and jumbled sequences are looked for.

use core::ops::Range;
use std::collections::VecDeque;

use super::stream::{Direction, JITTER};

/// Reads remembered: enough to find a stride among 16 interleaved readers (which needs two reads of each), few enough
/// that looking at all pairs takes about a microsecond.
const REMEMBERED: usize = 32;

/// Shorter strides are not worth leaving the gaps out: a gap of eight blocks costs less than the request it saves.
const LEAST_STRIDE: u64 = 128 << 10;

/// Reads that make a cluster, and the share of their hull they must cover (one part in so many): 12 requests in flight
/// in any order show as four reads in a third of their hull at the worst, while anything sparser may be strides.
const CLUSTER_READS: usize = 4;
const CLUSTER_DENSITY: u64 = 3;

/// The last reads, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct RecentReads {
    reads: VecDeque<Range<u64>>,
}

/// Reads close together in time and place: a sequence whose requests arrived in disorder.
#[derive(Debug)]
pub(super) struct Cluster {
    /// In ascending order.
    pub(super) reads: Vec<Range<u64>>,
    pub(super) direction: Direction,
}

impl RecentReads {
    pub(super) fn push(&mut self, read: &Range<u64>) {
        if self.reads.len() == REMEMBERED {
            self.reads.pop_front();
        }
        self.reads.push_back(read.clone());
    }

    /// The distance `d` such that reads at `start - 2d` and then at `start - d` came before; the shortest pause wins.
    pub(super) fn stride_to(&self, read: &Range<u64>) -> Option<i64> {
        let least = LEAST_STRIDE.max((read.end - read.start).saturating_mul(2));
        for (index, middle) in self.reads.iter().map(|read| read.start).enumerate().rev() {
            if read.start.abs_diff(middle) < least {
                continue;
            }
            // middle - (read - middle): the start of the one before, if it is not below zero.
            let Some(first) = middle.checked_add(middle).and_then(|twice| twice.checked_sub(read.start))
            else {
                continue;
            };
            if self.reads.iter().take(index).any(|read| read.start == first) {
                return i64::try_from(i128::from(read.start) - i128::from(middle)).ok();
            }
        }
        None
    }

    /// The cluster that a read completes, if there is one. It moves the way its later reads lie from its earlier ones.
    pub(super) fn cluster_with(&self, read: &Range<u64>) -> Option<Cluster> {
        let is_near = |old: &&Range<u64>| old.start.abs_diff(read.start) <= JITTER && old.start != read.start;
        let mut reads: Vec<Range<u64>> = self.reads.iter().filter(is_near).cloned().collect();
        if reads.len() + 1 < CLUSTER_READS {
            return None;
        }
        reads.push(read.clone());
        let (early, late) = reads.split_at(reads.len() / 2);
        let mean = |part: &[Range<u64>]| {
            part.iter().map(|read| u128::from(read.start)).sum::<u128>() / (part.len() as u128).max(1)
        };
        let direction = if mean(late) >= mean(early) { Direction::Up } else { Direction::Down };
        reads.sort_by_key(|read| read.start);
        // The same page over and over is no sequence.
        reads.dedup_by_key(|read| read.start);
        if reads.len() < CLUSTER_READS {
            return None;
        }
        let covered: u64 = reads.iter().map(|read| read.end - read.start).sum();
        let first = reads.first()?.start;
        let last = reads.iter().map(|read| read.end).max()?;
        let is_dense = covered.saturating_mul(CLUSTER_DENSITY) >= last - first;
        is_dense.then_some(Cluster { reads, direction })
    }
}
