//! A set of bytes of a blob, as ranges.
//!
//! Pure. Invariant: ranges are not empty, do not overlap and do not touch, so that equal sets look alike; what a blob is
//! read by in order is one range however long it is.

use std::collections::BTreeMap;
use std::ops::Range;

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RangeSet {
    /// Start to end.
    by_start: BTreeMap<u64, u64>,
    bytes: u64,
}

impl RangeSet {
    /// Adds a range; returns how many bytes of it were not there.
    pub(super) fn insert(&mut self, range: Range<u64>) -> u64 {
        if range.start >= range.end {
            return 0;
        }
        let Range { mut start, mut end } = range;
        let mut swallowed = 0;
        // From the right: the last range that begins at or before the end, as long as it reaches the start.
        while let Some((&from, &to)) = self.by_start.range(..=end).next_back() {
            if to < start {
                break;
            }
            self.by_start.remove(&from);
            swallowed += to - from;
            start = start.min(from);
            end = end.max(to);
        }
        self.by_start.insert(start, end);
        let added = (end - start) - swallowed;
        self.bytes += added;
        added
    }

    /// Takes a range out; returns how many bytes of it were there.
    pub(super) fn remove(&mut self, range: Range<u64>) -> u64 {
        if range.start >= range.end {
            return 0;
        }
        let mut removed = 0;
        while let Some((&from, &to)) = self.by_start.range(..range.end).next_back() {
            if to <= range.start {
                break;
            }
            self.by_start.remove(&from);
            if to > range.end {
                self.by_start.insert(range.end, to);
            }
            if from < range.start {
                self.by_start.insert(from, range.start);
            }
            removed += to.min(range.end) - from.max(range.start);
        }
        self.bytes -= removed;
        removed
    }

    /// How many bytes it has.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn contains(&self, at: u64) -> bool {
        self.end_of_run(at) > at
    }

    /// Whether it has all of a range; of an empty one it does.
    pub(super) fn covers(&self, range: &Range<u64>) -> bool {
        range.start >= range.end || self.end_of_run(range.start) >= range.end
    }

    /// Where the run of bytes that begins at or before `at` and reaches it ends: `at` when that byte is missing.
    pub(super) fn end_of_run(&self, at: u64) -> u64 {
        match self.by_start.range(..=at).next_back() {
            Some((_, &end)) => end.max(at),
            None => at,
        }
    }

    /// The first byte at or after `at` that it has.
    pub(super) fn next_from(&self, at: u64) -> Option<u64> {
        if self.contains(at) {
            return Some(at);
        }
        self.by_start.range(at..).next().map(|(&start, _)| start)
    }

    /// The first run of missing bytes within a range.
    pub(super) fn first_gap(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let start = self.end_of_run(range.start);
        if start >= range.end {
            return None;
        }
        let end = self.next_from(start).unwrap_or(u64::MAX).min(range.end);
        Some(start..end)
    }

    /// Whether it has any byte of a range.
    pub(super) fn covers_any(&self, range: &Range<u64>) -> bool {
        self.next_from(range.start).is_some_and(|next| next < range.end)
    }

    /// How many bytes of a range are missing.
    pub(super) fn gaps(&self, range: &Range<u64>) -> u64 {
        let mut missing = 0;
        let mut at = range.start;
        while let Some(gap) = self.first_gap(&(at..range.end)) {
            missing += gap.end - gap.start;
            at = gap.end;
        }
        missing
    }

    /// The ranges in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.by_start.iter().map(|(&start, &end)| start..end)
    }

    /// How many ranges it is made of.
    pub(super) fn runs(&self) -> usize {
        self.by_start.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(set: &[bool], range: Range<u64>) -> &[bool] {
        &set[range.start as usize..range.end as usize]
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_list_of_flags(
            steps in prop::collection::vec((any::<bool>(), 0..60_u64, 0..20_u64), 0..40),
            asked in prop::collection::vec((0..70_u64, 0..20_u64), 0..10),
        ) {
            let mut flags = vec![false; 100];
            let mut set = RangeSet::default();
            for (is_in, start, len) in steps {
                let range = start..start + len;
                let changed = naive(&flags, range.clone()).iter().filter(|flag| **flag != is_in).count() as u64;
                flags[start as usize..(start + len) as usize].fill(is_in);
                let told = if is_in { set.insert(range) } else { set.remove(range) };
                prop_assert_eq!(told, changed);
            }
            prop_assert_eq!(set.bytes(), flags.iter().filter(|flag| **flag).count() as u64);
            let runs: Vec<_> = set.iter().collect();
            prop_assert_eq!(set.runs(), runs.len());
            prop_assert!(runs.iter().all(|run| run.start < run.end));
            prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
            for run in runs {
                prop_assert!(naive(&flags, run).iter().all(|flag| *flag));
            }
            for (start, len) in asked {
                let range = start..start + len;
                let expected = naive(&flags, range.clone());
                prop_assert_eq!(set.covers(&range), expected.iter().all(|flag| *flag));
                prop_assert_eq!(set.contains(start), flags[start as usize]);
                prop_assert_eq!(set.covers_any(&range), expected.iter().any(|flag| *flag));
                prop_assert_eq!(set.gaps(&range), expected.iter().filter(|flag| !**flag).count() as u64);
                let next = flags[start as usize..].iter().position(|flag| *flag);
                prop_assert_eq!(set.next_from(start), next.map(|at| start + at as u64));
                let first = expected.iter().position(|flag| !*flag);
                let gap = first.map(|from| {
                    let len = expected[from..].iter().position(|flag| *flag).unwrap_or(expected.len() - from);
                    start + from as u64..start + (from + len) as u64
                });
                prop_assert_eq!(set.first_gap(&range), gap);
            }
        }
    }
}
