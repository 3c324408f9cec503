//! What to fetch ahead of the reads of one open file handle.
//!
//! A handle is not one reader: page faults of a memory-mapped loader with several threads arrive on one handle, and the
//! kernel sends the requests of even a single `cat` in parallel and out of order. So reads are sorted into streams, each
//! with a window of its own. Every decision is made from offsets alone:
//!
//! - *forward* and *backward* streams: two adjoining reads start one. The window doubles as the reader makes progress,
//!   up to the size the caller derives from bandwidth and delay. A read that skips or falls back by no more than
//!   2 MiB belongs to the stream; what was skipped stays wanted.
//! - *strided* streams: three reads in arithmetic progression start one; the next strides are predicted.
//! - anything else is random access and plans nothing.
//!
//! A stream that is no longer read while others are is parked: it plans nothing until it is read again. That is
//! what a seek looks like from here.
//!
//! Invariants: planned ranges lie inside the file, do not overlap, and together never exceed the largest window;
//! at most `max_streams` streams are remembered.

mod recent;
mod stream;

use core::ops::Range;
use core::time::Duration;

use self::recent::RecentReads;
use self::stream::{Advance, Stream};
use crate::time::Moment;

/// A parked stream has missed this many reads for each active stream: streams read in turn miss `active - 1` between two
/// of their own, and a factor of four forgives threads that are scheduled unevenly.
const MISSES_PER_STREAM: u64 = 4;

/// Reads elsewhere that any stream survives, so that a look at an index in between costs nothing.
const LEAST_MISSES: u64 = 8;

/// A stream untouched for so long is forgotten. A video player that fills its buffer pauses for ten seconds or so.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// Ranges in a plan. A plan is gone through by the engine each time it changes; more ranges than that are of
/// no use before the next one.
const MAX_RANGES: usize = 128;

/// The limits of a [`Readahead`].
#[derive(Debug, Clone)]
pub struct ReadaheadConfig {
    /// Window of a stream just recognised, in bytes. 512 KiB are four FUSE requests: what the kernel asks for next anyway.
    pub initial_window: u64,
    /// Largest window, and the most that all streams plan together, in bytes. 32 MiB keep 1 GB/s busy for 32 ms or
    /// 100 MB/s for 320 ms; larger windows waste more when a reader stops.
    pub max_window: u64,
    /// Streams remembered. A loader has about one thread per core; below 4, two `cat`s with a seek in between compete.
    pub max_streams: usize,
    /// What fetching a single byte costs, in bytes: the piece length, or 16 KiB if blocks can be verified alone. It
    /// bounds how many strides are predicted.
    pub granule_bytes: u64,
}

impl Default for ReadaheadConfig {
    fn default() -> Self {
        Self { initial_window: 512 << 10, max_window: 32 << 20, max_streams: 16, granule_bytes: 1 << 20 }
    }
}

/// What the stream that was just read looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Nothing that can be continued.
    Random,
    /// Ascending without gaps.
    Forward,
    /// Descending without gaps.
    Backward,
    /// Constant distance between reads, in either direction.
    Strided,
}

/// What is wanted ahead of the reader; it replaces the plan before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Ranges of the file in bytes, the most urgent first, each wanted from its start on. Empty: nothing is wanted
    /// ahead any more.
    pub ranges: Vec<Range<u64>>,
    /// How the read that led to this plan was understood.
    pub pattern: Pattern,
}

impl Plan {
    /// The sum of all ranges, in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }
}

/// The read-ahead state of one open handle. See the module's documentation.
#[derive(Debug, Clone)]
pub struct Readahead {
    config: ReadaheadConfig,
    file_bytes: u64,
    streams: Vec<Stream>,
    recent: RecentReads,
    reads: u64,
}

impl Readahead {
    /// The state of a handle just opened on a file of `file_bytes`.
    #[must_use]
    pub fn new(file_bytes: u64, config: ReadaheadConfig) -> Self {
        Self { config, file_bytes, streams: Vec::new(), recent: RecentReads::default(), reads: 0 }
    }

    /// Sets the largest window, in bytes: about bandwidth times delay of all sources together. Zero switches
    /// read-ahead off. It takes effect with the next plan.
    pub fn set_max_window(&mut self, bytes: u64) {
        self.config.max_window = bytes;
    }

    /// A read of `len` bytes at `offset` was asked for. Call it for every read in the order of arrival, whether its data is
    /// local or not.
    ///
    /// Returns the new plan if it changed by enough to act on; `None` leaves the last one standing. Windows move in
    /// steps of an eighth, so that a reader of small pages does not make a plan for each page.
    pub fn handle_read(&mut self, now: Moment, offset: u64, len: u32) -> Option<Plan> {
        let end = offset.saturating_add(u64::from(len)).min(self.file_bytes);
        if offset >= end {
            return None;
        }
        self.reads += 1;
        let read = offset..end;
        let mut is_changed = self.forget_idle(now);
        let (pattern, advance) = self.sort_in(&read, now);
        is_changed |= advance == Advance::Replan;
        is_changed |= self.park_missed();
        is_changed.then(|| Plan { ranges: self.ranges(), pattern })
    }

    /// How many streams are planned for now.
    #[must_use]
    pub fn active_streams(&self) -> usize {
        self.streams.iter().filter(|stream| stream.is_active()).count()
    }

    /// Finds the stream of a read, or makes one.
    fn sort_in(&mut self, read: &Range<u64>, now: Moment) -> (Pattern, Advance) {
        let nearest = |streams: &[Stream], wants: fn(&Stream) -> bool| {
            let streams = streams.iter().enumerate().filter(|(_, stream)| wants(stream));
            let near = streams.filter_map(|(index, stream)| Some((stream.distance(read)?, index)));
            near.min().map(|(distance, index)| (index, distance))
        };
        let established = nearest(&self.streams, Stream::is_established);
        let candidate = nearest(&self.streams, Stream::is_candidate);
        let is_adjoining = candidate.is_some_and(|(_, distance)| distance == 0);
        if let Some((index, distance)) = established
            && (distance == 0 || !is_adjoining)
        {
            return self.advance(index, read, now);
        }
        let found = if is_adjoining { None } else { self.discover(read) };
        self.recent.push(read);
        if let Some(stream) = found {
            self.streams.retain(|old| !(old.is_candidate() && old.lies_in(&stream)));
            let pattern = stream.pattern();
            let index = self.slot(stream);
            self.streams[index].touch(self.reads, now);
            return (pattern, Advance::Replan);
        }
        if let Some((index, _)) = candidate {
            return self.advance(index, read, now);
        }
        let index = self.slot(Stream::candidate(read));
        self.streams[index].touch(self.reads, now);
        (Pattern::Random, Advance::Keep)
    }

    /// Looks for a stream that several unconnected reads make with this one. Dense clusters come first, because requests out
    /// of order are full of chance progressions; strides come before near misses (which the caller tries next), else a
    /// stride of 200 KiB would pass for a sloppy sequence.
    fn discover(&self, read: &Range<u64>) -> Option<Stream> {
        if let Some(cluster) = self.recent.cluster_with(read) {
            return Some(Stream::sequence(&cluster, &self.config));
        }
        self.recent.stride_to(read).map(|stride| Stream::strided(read, stride))
    }

    fn advance(&mut self, index: usize, read: &Range<u64>, now: Moment) -> (Pattern, Advance) {
        let stream = &mut self.streams[index];
        let advance = stream.advance(read, &self.config);
        stream.touch(self.reads, now);
        let pattern = stream.pattern();
        let twin = |(other, stream): (usize, &Stream)| {
            (other != index && stream.is_one_with(&self.streams[index])).then_some(other)
        };
        match self.streams.iter().enumerate().find_map(twin) {
            Some(other) => {
                let twin = self.streams[other].clone();
                self.streams[index].absorb(&twin);
                self.streams.swap_remove(other);
                (pattern, Advance::Replan)
            }
            None => (pattern, advance),
        }
    }

    /// Puts a new stream in: into a free place, else in place of the candidate that was read the longest ago, else of the
    /// stream. So one random reader cannot push the streams of the others out.
    fn slot(&mut self, stream: Stream) -> usize {
        if self.streams.len() < self.config.max_streams.max(1) {
            self.streams.push(stream);
            return self.streams.len() - 1;
        }
        let oldest = self.streams.iter().enumerate().min_by_key(|(_, old)| (old.is_active(), old.touched()));
        let index = oldest.map_or(0, |(index, _)| index);
        self.streams[index] = stream;
        index
    }

    fn forget_idle(&mut self, now: Moment) -> bool {
        let active = self.active_streams();
        self.streams.retain(|stream| stream.idle(now) < FORGET_AFTER);
        active != self.active_streams()
    }

    fn park_missed(&mut self) -> bool {
        let active = u64::try_from(self.active_streams()).unwrap_or(u64::MAX);
        let allowed = active.saturating_mul(MISSES_PER_STREAM).max(LEAST_MISSES);
        let mut is_changed = false;
        for stream in &mut self.streams {
            if stream.is_active() && self.reads - stream.touched() > allowed {
                stream.park();
                is_changed = true;
            }
        }
        is_changed
    }

    /// All that is wanted, the stream read last first. Active streams share the largest window equally.
    fn ranges(&mut self) -> Vec<Range<u64>> {
        let mut budget = self.config.max_window;
        let active = u64::try_from(self.active_streams()).unwrap_or(u64::MAX).max(1);
        let share = budget / active;
        let mut order: Vec<&mut Stream> =
            self.streams.iter_mut().filter(|stream| stream.is_active()).collect();
        order.sort_by_key(|stream| core::cmp::Reverse(stream.touched()));
        let mut ranges = Vec::new();
        for stream in order {
            for range in stream.plan(share, self.file_bytes, self.config.granule_bytes) {
                add_range(&mut ranges, range, &mut budget);
            }
        }
        ranges
    }
}

/// Adds what of `range` is not planned yet, as far as the budget goes.
fn add_range(ranges: &mut Vec<Range<u64>>, range: Range<u64>, budget: &mut u64) {
    let mut rest = range;
    while rest.start < rest.end && *budget > 0 && ranges.len() < MAX_RANGES {
        let covering = ranges.iter().find(|old| old.contains(&rest.start));
        if let Some(old) = covering {
            rest.start = old.end;
            continue;
        }
        let next = ranges.iter().map(|old| old.start).filter(|start| *start > rest.start).min();
        let end = rest.end.min(next.unwrap_or(u64::MAX)).min(rest.start.saturating_add(*budget));
        *budget -= end - rest.start;
        ranges.push(rest.start..end);
        rest.start = end;
    }
}

#[cfg(test)]
mod tests;
