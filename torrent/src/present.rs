//! Which pieces are verified and stored, readable from any thread without a lock.
//!
//! The torrent's task and its storing jobs set bits; readers, uploads and the status look at them. A bit is set only
//! after the piece's bytes can be read back from the store.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use wtfs_proto::bitfield::Bitfield;

/// One bit a piece; see the module's documentation.
#[derive(Debug)]
pub(crate) struct PresentMap {
    words: Box<[AtomicU64]>,
    len: u32,
    count: AtomicU32,
}

impl PresentMap {
    pub(crate) fn new(present: &Bitfield) -> Self {
        let len = present.len();
        let map = Self {
            words: (0..(len as usize).div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            len,
            count: AtomicU32::new(0),
        };
        for piece in present.iter_ones() {
            map.set(piece);
        }
        map
    }

    pub(crate) fn get(&self, piece: u32) -> bool {
        self.words
            .get(piece as usize / 64)
            .is_some_and(|word| word.load(Ordering::Acquire) & (1 << (piece % 64)) != 0)
    }

    pub(crate) fn set(&self, piece: u32) {
        if let Some(word) = self.words.get(piece as usize / 64) {
            let bit = 1 << (piece % 64);
            if word.fetch_or(bit, Ordering::AcqRel) & bit == 0 {
                self.count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn clear(&self, piece: u32) {
        if let Some(word) = self.words.get(piece as usize / 64) {
            let bit = 1 << (piece % 64);
            if word.fetch_and(!bit, Ordering::AcqRel) & bit != 0 {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn has_all(&self, pieces: Range<u32>) -> bool {
        pieces.is_empty() || (pieces.end <= self.len && self.find(pieces.clone(), !0) == pieces.end)
    }

    /// How many pieces of the range are present.
    pub(crate) fn count_in(&self, pieces: Range<u32>) -> u32 {
        let mut count = 0;
        let mut at = pieces.start;
        while at < pieces.end {
            let Some(word) = self.words.get(at as usize / 64) else { break };
            let bits = (64 - at % 64).min(pieces.end - at);
            let rest = word.load(Ordering::Acquire) >> (at % 64);
            count += (rest & (!0 >> (64 - bits))).count_ones();
            at += bits;
        }
        count
    }

    /// The first run of present pieces within the range.
    pub(crate) fn next_run(&self, within: Range<u32>) -> Option<Range<u32>> {
        let end = within.end.min(self.len);
        let first = self.find(within.start..end, 0);
        (first < end).then(|| first..self.find(first..end, !0))
    }

    /// The first piece of the range that is present (`flip` all zeros) or missing (all ones); its end if there is none.
    fn find(&self, within: Range<u32>, flip: u64) -> u32 {
        let mut at = within.start;
        while at < within.end {
            let Some(word) = self.words.get(at as usize / 64) else { break };
            let rest = (word.load(Ordering::Acquire) ^ flip) >> (at % 64);
            if rest != 0 {
                return (at + rest.trailing_zeros()).min(within.end);
            }
            at = (at / 64 + 1) * 64;
        }
        within.end
    }

    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count() == self.len
    }

    pub(crate) fn to_bitfield(&self) -> Bitfield {
        let mut bits = Bitfield::new(self.len);
        for piece in (0..self.len).filter(|piece| self.get(*piece)) {
            bits.set(piece);
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_round_trip_and_are_counted_once() {
        let mut bits = Bitfield::new(130);
        bits.set(0);
        bits.set(129);
        let map = PresentMap::new(&bits);
        map.set(129);
        map.set(64);
        assert_eq!(map.count(), 3);
        assert!(map.has_all(64..65) && !map.has_all(64..66) && map.has_all(5..5));
        map.clear(0);
        map.clear(0);
        assert_eq!(map.count(), 2);
        assert_eq!(map.to_bitfield().iter_ones().collect::<Vec<_>>(), [64, 129]);
        map.set(4000);
        assert!(!map.get(4000) && !map.is_full());
    }
}
