//! Divides the blocks that a `read()` waits for among the sources, so that the last of them comes soonest.
//!
//! The picker gives each source what it asks for; whoever asks first would be given the whole piece, and a read would
//! take as long as one connection takes to carry a mebibyte, with twenty-nine idle beside it. A share here is a bound on
//! the first round of asking; what no share covers is left to the rounds after it.
//!
//! Invariant: no share exceeds its source's room, and together they are what there is to ask for or all the room.

use core::cmp::Reverse;
use core::time::Duration;
use std::collections::BinaryHeap;

use crate::geometry::BLOCK_BYTES;

/// Differences below this are not worth another source: waking a second connection costs as much, and a piece from a
/// single source is soonest blamed if it is bad.
const GRAIN: Duration = Duration::from_millis(4);

/// The rate of a source that has not been measured yet: a slow home line.
const UNKNOWN_RATE: u64 = 1 << 20;

/// What is known of one source.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// From a request to its block, when nothing else is asked for.
    pub latency: Duration,
    /// Bytes a second that it was seen to give; 0 if it was not measured.
    pub rate: u64,
    /// Requests it has not answered yet.
    pub outstanding: usize,
    /// Requests that it may be sent.
    pub room: usize,
}

impl Capacity {
    /// When the block after `share` others will be here.
    fn finish(&self, share: usize) -> Duration {
        let rate = if self.rate == 0 { UNKNOWN_RATE } else { self.rate };
        let queued = (self.outstanding + share + 1) as u64 * u64::from(BLOCK_BYTES);
        let sending = queued.saturating_mul(1_000_000) / rate;
        self.latency.saturating_add(Duration::from_micros(sending)).max(GRAIN)
    }
}

/// How many of `blocks` to ask of each source, in the order of `sources`. Between sources that would be done at the
/// same time the earlier one is taken.
#[must_use]
pub fn shares(blocks: usize, sources: &[Capacity]) -> Vec<usize> {
    let mut shares = vec![0; sources.len()];
    let mut next: BinaryHeap<Reverse<(Duration, usize)>> = sources
        .iter()
        .enumerate()
        .filter(|(_, source)| source.room > 0)
        .map(|(index, source)| Reverse((source.finish(0), index)))
        .collect();
    for _ in 0..blocks {
        let Some(Reverse((_, index))) = next.pop() else { break };
        shares[index] += 1;
        let source = &sources[index];
        if shares[index] < source.room {
            next.push(Reverse((source.finish(shares[index]), index)));
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(latency_ms: u64, mb_per_s: u64) -> Capacity {
        Capacity {
            latency: Duration::from_millis(latency_ms),
            rate: mb_per_s * 1_000_000,
            outstanding: 0,
            room: 500,
        }
    }

    #[test]
    fn a_source_that_is_done_at_once_is_asked_for_everything() {
        assert_eq!(shares(64, &[source(0, 500), source(0, 500), source(0, 500)]), [64, 0, 0]);
    }

    #[test]
    fn equal_sources_far_away_share_evenly() {
        let shares = shares(64, &[source(20, 1); 30]);
        assert!(shares.iter().all(|share| (2..=3).contains(share)), "{shares:?}");
    }

    #[test]
    fn sources_of_which_nothing_is_known_share_evenly() {
        let shares = shares(64, &[Capacity { rate: 0, ..source(500, 0) }; 4]);
        assert_eq!(shares, [16; 4]);
    }

    #[test]
    fn a_fast_source_takes_more_and_a_busy_or_distant_one_less() {
        let got = shares(60, &[source(20, 10), source(20, 2)]);
        assert_eq!(got, [50, 10]);
        let busy = Capacity { outstanding: 100, ..source(20, 2) };
        assert_eq!(shares(60, &[source(20, 10), busy]), [60, 0]);
        assert_eq!(shares(10, &[source(20, 10), source(900, 100)]), [10, 0]);
    }

    proptest! {
        #[test]
        fn shares_fill_the_room_or_cover_the_blocks_and_no_move_would_end_sooner(
            blocks in 0_usize..300,
            known in prop::collection::vec((0_u64..400, 0_u64..50, 0_usize..20, 0_usize..80), 0..12),
        ) {
            let sources: Vec<Capacity> = known
                .into_iter()
                .map(|(ms, rate, outstanding, room)| Capacity { outstanding, room, ..source(ms, rate) })
                .collect();
            let shares = shares(blocks, &sources);
            let room: usize = sources.iter().map(|source| source.room).sum();
            prop_assert_eq!(shares.iter().sum::<usize>(), blocks.min(room));
            for (share, source) in shares.iter().zip(&sources) {
                prop_assert!(*share <= source.room);
            }
            let used = |i: &usize| shares[*i] > 0;
            let last = (0..sources.len()).filter(used).map(|i| sources[i].finish(shares[i] - 1)).max();
            for (share, source) in shares.iter().zip(&sources) {
                if *share < source.room && let Some(last) = last {
                    prop_assert!(source.finish(*share) >= last);
                }
            }
        }
    }
}
