//! When each part of a partial blob was used last, so that a blob larger than the cache can be read through it.
//!
//! In memory only: a blob that nobody reads goes as a whole.

use std::collections::HashMap;
use std::ops::Range;

/// What is given up at once: small beside any cache, and few enough to keep count of in the largest blob.
const SEGMENT_BYTES: u64 = 8 << 20;

/// By the budget's clock, by the number of the segment.
#[derive(Debug, Default)]
pub(super) struct SegmentUses {
    touched: HashMap<u64, u32>,
}

/// The bytes of a segment; the last one of a blob is shorter.
pub(super) fn range_of(segment: u64) -> Range<u64> {
    let start = segment.saturating_mul(SEGMENT_BYTES);
    start..start.saturating_add(SEGMENT_BYTES)
}

impl SegmentUses {
    pub(super) fn touch(&mut self, range: &Range<u64>, now: u32) {
        for segment in range.start / SEGMENT_BYTES..range.end.div_ceil(SEGMENT_BYTES) {
            self.touched.insert(segment, now);
        }
    }

    pub(super) fn forget(&mut self, segment: u64) {
        self.touched.remove(&segment);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.touched.iter().map(|(segment, touched)| (*segment, *touched))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_touches_the_segments_that_it_lies_in() {
        let mut uses = SegmentUses::default();
        uses.touch(&(SEGMENT_BYTES - 1..SEGMENT_BYTES + 1), 5);
        uses.touch(&(SEGMENT_BYTES..2 * SEGMENT_BYTES), 7);
        let mut all: Vec<_> = uses.iter().collect();
        all.sort_unstable();
        assert_eq!(all, [(0, 5), (1, 7)]);
        uses.forget(0);
        assert_eq!(uses.iter().count(), 1);
        assert!(range_of(u64::MAX).is_empty(), "no overflow");
    }
}
