//! Which pieces and blobs go: those that were used longest ago, over all torrents, and no more than need be.
//!
//! Pure. Keeps only as many candidates as are needed, so that choosing some out of millions costs little memory.
//!
//! Invariant: what is kept is the shortest run of the oldest candidates so far that comes to `need` bytes, or all of
//! them while they come to less.

use std::collections::{BTreeMap, BinaryHeap};

/// A piece that may go. The order of the fields is the order in which they go; the torrent's number and the piece break
/// ties, so that neighbours go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    /// When it was used last.
    pub(super) touched: u32,
    /// Which torrent it is of, as the caller numbers them; blobs come behind all torrents.
    pub(super) torrent: usize,
    pub(super) piece: u32,
    pub(super) bytes: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Victims {
    need: u64,
    bytes: u64,
    chosen: BinaryHeap<Candidate>,
}

impl Victims {
    pub(super) fn new(need: u64) -> Self {
        Self { need, bytes: 0, chosen: BinaryHeap::new() }
    }

    pub(super) fn offer(&mut self, candidate: Candidate) {
        if self.bytes >= self.need && self.chosen.peek().is_none_or(|newest| candidate >= *newest) {
            return;
        }
        self.bytes += candidate.bytes;
        self.chosen.push(candidate);
        while let Some(newest) = self.chosen.peek()
            && self.bytes - newest.bytes >= self.need
        {
            self.bytes -= newest.bytes;
            self.chosen.pop();
        }
    }

    /// The pieces of each torrent, in their order within it.
    pub(super) fn into_batches(self) -> BTreeMap<usize, Vec<u32>> {
        let mut batches: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for candidate in self.chosen {
            batches.entry(candidate.torrent).or_default().push(candidate.piece);
        }
        for pieces in batches.values_mut() {
            pieces.sort_unstable();
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn choose(need: u64, all: &[Candidate]) -> Vec<Candidate> {
        let mut victims = Victims::new(need);
        all.iter().for_each(|candidate| victims.offer(*candidate));
        victims.chosen.into_sorted_vec()
    }

    #[test]
    fn the_oldest_go_first_over_all_torrents() {
        let candidate = |touched, torrent, piece| Candidate { touched, torrent, piece, bytes: 10 };
        let all = [
            candidate(5, 0, 0),
            candidate(1, 0, 1),
            candidate(3, 1, 0),
            candidate(2, 1, 9),
            candidate(2, 1, 4),
        ];
        let mut victims = Victims::new(31);
        all.iter().for_each(|candidate| victims.offer(*candidate));
        assert_eq!(victims.into_batches(), [(0, vec![1]), (1, vec![0, 4, 9])].into());
        assert!(choose(0, &all).is_empty());
        assert_eq!(choose(1, &all), [candidate(1, 0, 1)]);
        assert_eq!(choose(u64::MAX, &all).len(), all.len());
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_what_sorting_everything_would_choose(
            touched in prop::collection::vec((0..20_u32, 0..3_usize, 1..50_u64), 0..60),
            need in 0..800_u64,
        ) {
            let all: Vec<Candidate> = touched
                .iter()
                .enumerate()
                .map(|(piece, (touched, torrent, bytes))| Candidate {
                    touched: *touched,
                    torrent: *torrent,
                    piece: piece as u32,
                    bytes: *bytes,
                })
                .collect();
            let mut sorted = all.clone();
            sorted.sort_unstable();
            let mut sum = 0;
            let expected: Vec<Candidate> = sorted
                .into_iter()
                .take_while(|candidate| {
                    let is_needed = sum < need;
                    sum += candidate.bytes;
                    is_needed
                })
                .collect();
            prop_assert_eq!(choose(need, &all), expected);
        }
    }
}
