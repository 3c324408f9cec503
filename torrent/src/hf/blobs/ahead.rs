//! What one reader will read next: by the pattern of its reads, or because it said so.
//!
//! The pattern is `wtfs_proto::readahead`'s. Where a reader goes on and on, a request may reach far past the window, so that
//! a long stream takes few requests; what is behind the window waits until the window gets there (`board.rs`).

use std::ops::Range;

use wtfs_proto::readahead::{Pattern, Readahead, ReadaheadConfig};

use crate::clock::Clock;

/// The window of a reader that said what it reads, from its first read on.
const FIRST_EXPECTED_BYTES: u64 = 4 << 20;

/// A window this long belongs to a stream that will go on.
const STREAM_BYTES: u64 = 8 << 20;

/// How far the requests of such a stream reach, in windows.
const REACH_WINDOWS: u64 = 16;

/// What one request of it asks for at most.
const MAX_REACH_BYTES: u64 = 1 << 30;

/// What is worth fetching now, and how far one request may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) ranges: Vec<Range<u64>>,
    pub(super) reach: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct ReadAhead {
    policy: Readahead,
    clock: Clock,
    bytes: u64,
    max_window: u64,
    expected: Option<Expected>,
}

/// What a reader said that it will read.
#[derive(Debug)]
struct Expected {
    range: Range<u64>,
    /// Bytes of it that it has read.
    read: u64,
}

impl ReadAhead {
    pub(super) fn new(bytes: u64, max_window: u64) -> Self {
        let config = ReadaheadConfig { max_window, granule_bytes: super::BLOCK_BYTES, ..Default::default() };
        let policy = Readahead::new(bytes, config);
        Self { policy, clock: Clock::start(), bytes, max_window, expected: None }
    }

    pub(super) fn expect(&mut self, range: Range<u64>) {
        self.expected = Some(Expected { range, read: 0 });
    }

    /// Notes a read; returns what is wanted from now on when that changed.
    pub(super) fn handle_read(&mut self, read: &Range<u64>) -> Option<Window> {
        if self.max_window == 0 {
            return None;
        }
        if let Some(expected) = &mut self.expected
            && expected.range.contains(&read.start)
        {
            expected.read += read.end - read.start;
            let window =
                (2 * expected.read).clamp(FIRST_EXPECTED_BYTES.min(self.max_window), self.max_window);
            let end = read.end.saturating_add(window).min(expected.range.end);
            let reach = expected.range.end.min(read.end.saturating_add(MAX_REACH_BYTES));
            let ranges = Some(read.end..end).filter(|range| !range.is_empty()).into_iter().collect();
            return Some(Window { ranges, reach });
        }
        let len = u32::try_from(read.end - read.start).unwrap_or(u32::MAX);
        let plan = self.policy.handle_read(self.clock.now(), read.start, len)?;
        let first = plan.ranges.first().cloned().unwrap_or(0..0);
        let window = first.end - first.start;
        let is_stream = plan.pattern == Pattern::Forward && window >= STREAM_BYTES.min(self.max_window);
        let further = if is_stream { (window * REACH_WINDOWS).min(MAX_REACH_BYTES) } else { 0 };
        Some(Window { ranges: plan.ranges, reach: first.end.saturating_add(further).min(self.bytes) })
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_reader_that_said_so_has_a_window_from_its_first_read_on_and_reaches_to_the_end() {
        let mut ahead = ReadAhead::new(1 << 40, 32 * MIB);
        ahead.expect(10 * MIB..100 * MIB);
        let read = |ahead: &mut ReadAhead, at: u64| ahead.handle_read(&(at..at + MIB)).expect("changed");
        let first = read(&mut ahead, 10 * MIB);
        assert_eq!(first, Window { ranges: vec![11 * MIB..15 * MIB], reach: 100 * MIB });
        let mut last = first;
        for at in 11..99 {
            let next = read(&mut ahead, at * MIB);
            assert!(next.ranges[0].end >= last.ranges[0].end);
            last = next;
        }
        assert_eq!(last, Window { ranges: vec![99 * MIB..100 * MIB], reach: 100 * MIB });
        assert_eq!(read(&mut ahead, 99 * MIB).ranges, []);
    }

    #[test]
    fn a_stream_is_found_and_reaches_far_and_random_reads_want_nothing() {
        let mut ahead = ReadAhead::new(1 << 40, 32 * MIB);
        let mut last = None;
        for at in 0..100 {
            last = ahead.handle_read(&(at * MIB..(at + 1) * MIB)).or(last);
        }
        let last = last.expect("a stream");
        assert!(last.reach > last.ranges[0].end + 100 * MIB, "{last:?}");
        let mut ahead = ReadAhead::new(1 << 40, 32 * MIB);
        for at in [5_000, 900, 70_000, 31, 44_444] {
            let window = ahead.handle_read(&(at * MIB..at * MIB + 4096));
            assert!(window.is_none_or(|window| window.ranges.is_empty()));
        }
    }

    #[test]
    fn without_a_window_nothing_is_read_ahead() {
        let mut ahead = ReadAhead::new(1 << 30, 0);
        ahead.expect(0..1 << 30);
        assert_eq!(ahead.handle_read(&(0..MIB)), None);
    }
}
