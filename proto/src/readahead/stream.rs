//! One stream of reads: where it is, where it goes, and how far ahead of it to fetch.

use core::ops::Range;
use core::time::Duration;

use smallvec::SmallVec;

use super::recent::Cluster;
use super::{Pattern, ReadaheadConfig};
use crate::time::Moment;

/// How far a read may skip ahead of a stream or fall behind it and still be part of it: the kernel has up to 16 requests of
/// 128 KiB in flight for one reader, and they arrive in any order.
pub(super) const JITTER: u64 = 2 << 20;

/// The same for a candidate, of which less is known: one missing 128 KiB request.
const CANDIDATE_JITTER: u64 = 256 << 10;

/// Skipped parts remembered: one for each request that can be in flight within the jitter. A reader that leaves more holes
/// does not come back for them.
const MAX_HOLES: usize = 16;

/// Jumps in a row, none filled in, after which a sequence is no sequence.
const MAX_JUMPS: u8 = 4;

/// Reads in a row at or behind the back of a stream after which it turns round.
const MAX_CONTRARY: u8 = 4;

/// A window doubles for a quarter of itself read, at most for this many bytes: from 512 KiB to 32 MiB in 1.4 MiB, eleven
/// reads of 128 KiB. Slower growth shows in the time to full speed, quicker growth in the waste of short reads.
const MAX_GROWTH_STEP: u64 = 256 << 10;

/// Strides predicted at first and at most. Few at first, because three reads may lie evenly by chance.
const FIRST_STRIDES: u32 = 2;
const MAX_STRIDES: u32 = 64;

/// Strides that may be skipped or come late.
const STRIDE_JITTER: i128 = 4;

/// A descending window is planned in this many ranges, nearest first, of at least one FUSE request each.
const BACKWARD_PARTS: u64 = 8;
const LEAST_PART: u64 = 128 << 10;

/// Whether a read changed what its stream wants by enough to make a new plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advance {
    Keep,
    Replan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Up,
    Down,
}

#[derive(Debug, Clone)]
enum Motion {
    /// Positive for reads that went up, negative for down; established at 2 and at -3, since two swapped requests
    /// look like a step back.
    Candidate {
        drift: i8,
    },
    Sequential(Direction),
    Strided {
        stride: i64,
        bytes: u64,
        ahead: u32,
    },
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    motion: Motion,
    /// From the lowest to the highest byte read; for a strided stream the last read.
    extent: Range<u64>,
    window: u64,
    /// Bytes read since the window last grew.
    progress: u64,
    /// Parts within the jitter that were skipped so far, oldest first.
    holes: SmallVec<[Range<u64>; MAX_HOLES]>,
    jumps: u8,
    /// Reads in a row, from the first that extended the stream at its back, that did not take it forward.
    contrary: u8,
    /// Where the plan was last made from.
    planned_from: u64,
    /// The window the plan was last made with: the own one, or the stream's share if that is less.
    planned_window: u64,
    is_parked: bool,
    touched: u64,
    touched_at: Moment,
}

impl Stream {
    pub(super) fn candidate(read: &Range<u64>) -> Self {
        Self::new(Motion::Candidate { drift: 0 }, read)
    }

    pub(super) fn strided(read: &Range<u64>, stride: i64) -> Self {
        let bytes = read.end - read.start;
        Self::new(Motion::Strided { stride, bytes, ahead: FIRST_STRIDES }, read)
    }

    /// A sequence that became apparent only after several of its reads; what lies between them is still wanted.
    pub(super) fn sequence(cluster: &Cluster, config: &ReadaheadConfig) -> Self {
        let first = cluster.reads.first().cloned().unwrap_or_default();
        let mut stream = Self::new(Motion::Sequential(cluster.direction), &first);
        for read in &cluster.reads {
            if read.start > stream.extent.end && stream.holes.len() < MAX_HOLES {
                stream.holes.push(stream.extent.end..read.start);
            }
            stream.extent.end = stream.extent.end.max(read.end);
        }
        stream.window = config.initial_window.min(config.max_window);
        stream
    }

    /// Whether the stream lies within another one.
    pub(super) fn lies_in(&self, other: &Self) -> bool {
        other.extent.start <= self.extent.start && self.extent.end <= other.extent.end
    }

    fn new(motion: Motion, read: &Range<u64>) -> Self {
        Self {
            motion,
            extent: read.clone(),
            window: 0,
            progress: 0,
            holes: SmallVec::new(),
            jumps: 0,
            contrary: 0,
            planned_from: 0,
            planned_window: 0,
            is_parked: false,
            touched: 0,
            touched_at: Moment::ZERO,
        }
    }

    pub(super) fn is_candidate(&self) -> bool {
        matches!(self.motion, Motion::Candidate { .. })
    }

    pub(super) fn is_established(&self) -> bool {
        !self.is_candidate()
    }

    /// Established and planned for.
    pub(super) fn is_active(&self) -> bool {
        self.is_established() && !self.is_parked
    }

    pub(super) fn pattern(&self) -> Pattern {
        match self.motion {
            Motion::Candidate { .. } => Pattern::Random,
            Motion::Sequential(Direction::Up) => Pattern::Forward,
            Motion::Sequential(Direction::Down) => Pattern::Backward,
            Motion::Strided { .. } => Pattern::Strided,
        }
    }

    /// The number of the read that was the last of this stream.
    pub(super) fn touched(&self) -> u64 {
        self.touched
    }

    pub(super) fn touch(&mut self, read_number: u64, now: Moment) {
        self.touched = read_number;
        self.touched_at = self.touched_at.max(now);
    }

    pub(super) fn idle(&self, now: Moment) -> Duration {
        now.saturating_sub(self.touched_at)
    }

    pub(super) fn park(&mut self) {
        self.is_parked = true;
    }

    /// How far a read is from continuing this stream; `None` if it is none of its reads. Zero is the very next read.
    pub(super) fn distance(&self, read: &Range<u64>) -> Option<u64> {
        let up = read.start.abs_diff(self.extent.end);
        let down = read.end.abs_diff(self.extent.start);
        match self.motion {
            Motion::Candidate { .. } => Some(up.min(down)).filter(|gap| *gap <= CANDIDATE_JITTER),
            Motion::Sequential(Direction::Up) => Some(up).filter(|gap| *gap <= JITTER),
            Motion::Sequential(Direction::Down) => Some(down).filter(|gap| *gap <= JITTER),
            // The farthest of all: requests out of order look strided at first, and the sequence must win in the end.
            Motion::Strided { stride, bytes, .. } => {
                let steps = self.strides_to(read, stride)?;
                let is_alike = read.end - read.start <= bytes.saturating_mul(2);
                (is_alike && steps.abs() <= STRIDE_JITTER).then_some(JITTER)
            }
        }
    }

    /// Whole strides from the last read to this one.
    fn strides_to(&self, read: &Range<u64>, stride: i64) -> Option<i128> {
        let gap = i128::from(read.start) - i128::from(self.extent.start);
        let stride = i128::from(stride);
        (stride != 0 && gap % stride == 0).then(|| gap / stride)
    }

    /// Takes a read that belongs to this stream.
    pub(super) fn advance(&mut self, read: &Range<u64>, config: &ReadaheadConfig) -> Advance {
        let was_parked = core::mem::take(&mut self.is_parked);
        if was_parked {
            self.window = (self.window / 2).max(config.initial_window);
        }
        let advance = match self.motion {
            Motion::Candidate { drift } => self.advance_candidate(read, drift, config),
            Motion::Sequential(direction) => self.advance_sequence(read, direction, config),
            Motion::Strided { stride, bytes, ahead } => match self.strides_to(read, stride) {
                Some(steps) if steps > 0 => {
                    let bytes = bytes.max(read.end - read.start);
                    self.motion =
                        Motion::Strided { stride, bytes, ahead: ahead.saturating_mul(2).min(MAX_STRIDES) };
                    self.extent = read.clone();
                    Advance::Replan
                }
                _ => Advance::Keep,
            },
        };
        if was_parked { Advance::Replan } else { advance }
    }

    fn advance_candidate(&mut self, read: &Range<u64>, drift: i8, config: &ReadaheadConfig) -> Advance {
        // A read that goes on exactly where the last one ended is proof enough.
        let step = match () {
            () if read.start == self.extent.end => 2,
            () if read.end > self.extent.end => 1,
            () if read.start < self.extent.start => -1,
            () => 0,
        };
        let drift = drift.saturating_add(step);
        self.extent = self.extent.start.min(read.start)..self.extent.end.max(read.end);
        if (-2..2).contains(&drift) {
            self.motion = Motion::Candidate { drift };
            return Advance::Keep;
        }
        let direction = if drift > 0 { Direction::Up } else { Direction::Down };
        self.motion = Motion::Sequential(direction);
        self.window = config.initial_window.min(config.max_window);
        Advance::Replan
    }

    fn advance_sequence(
        &mut self,
        read: &Range<u64>,
        direction: Direction,
        config: &ReadaheadConfig,
    ) -> Advance {
        let read_bytes = read.end - read.start;
        let (front, back) = match direction {
            Direction::Up => (read.end > self.extent.end, read.start < self.extent.start),
            Direction::Down => (read.start < self.extent.start, read.end > self.extent.end),
        };
        let filled = self.fill_holes(read);
        let skipped = match direction {
            Direction::Up => self.extent.end..read.start,
            Direction::Down => read.end..self.extent.start,
        };
        let gained = match (front, direction) {
            (false, _) => 0,
            (true, Direction::Up) => read.end - read.start.max(self.extent.end),
            (true, Direction::Down) => read.end.min(self.extent.start) - read.start,
        };
        self.extent = self.extent.start.min(read.start)..self.extent.end.max(read.end);
        if front && skipped.start < skipped.end {
            let is_jump = skipped.end - skipped.start >= read_bytes.saturating_mul(2).max(LEAST_PART);
            self.jumps = if is_jump { self.jumps + 1 } else { 0 };
            if self.jumps >= MAX_JUMPS {
                *self = Self::candidate(read);
                return Advance::Replan;
            }
            if self.holes.len() == MAX_HOLES {
                self.holes.remove(0);
            }
            self.holes.push(skipped);
        } else if front || filled > 0 {
            self.jumps = 0;
        }
        if front {
            self.contrary = 0;
        } else if back || self.contrary > 0 {
            // Requests that arrived in reverse order made a stream that seems to go the wrong way.
            self.contrary += 1;
            if self.contrary >= MAX_CONTRARY {
                *self = Self { window: self.window, ..Self::new(self.turned(direction), &self.extent) };
                return Advance::Replan;
            }
        }
        let frontier = self.frontier(direction);
        self.holes.retain(|hole| hole.start.abs_diff(frontier).min(hole.end.abs_diff(frontier)) <= JITTER);
        self.progress = self.progress.saturating_add(gained).saturating_add(filled);
        let has_grown = self.grow(config);
        let moved = frontier.abs_diff(self.planned_from);
        if has_grown || (gained > 0 && moved >= self.planned_window / 8) {
            Advance::Replan
        } else {
            Advance::Keep
        }
    }

    /// Whether this and another stream are one that looked like two because its requests came out of order.
    pub(super) fn is_one_with(&self, other: &Self) -> bool {
        match (&self.motion, &other.motion) {
            (Motion::Sequential(one), Motion::Sequential(two)) if one == two => {
                self.frontier(*one).abs_diff(other.frontier(*two)) <= JITTER
            }
            _ => false,
        }
    }

    /// Takes another stream of the same direction into this one. What lies between them is a hole.
    pub(super) fn absorb(&mut self, other: &Self) {
        let gap = if self.extent.start > other.extent.end {
            other.extent.end..self.extent.start
        } else {
            self.extent.end..other.extent.start
        };
        let holes = other.holes.iter().cloned().chain([gap]).filter(|hole| hole.start < hole.end);
        self.holes.extend(holes);
        self.holes.truncate(MAX_HOLES);
        self.extent = self.extent.start.min(other.extent.start)..self.extent.end.max(other.extent.end);
        self.window = self.window.max(other.window);
    }

    fn turned(&self, direction: Direction) -> Motion {
        Motion::Sequential(match direction {
            Direction::Up => Direction::Down,
            Direction::Down => Direction::Up,
        })
    }

    fn frontier(&self, direction: Direction) -> u64 {
        match direction {
            Direction::Up => self.extent.end,
            Direction::Down => self.extent.start,
        }
    }

    fn grow(&mut self, config: &ReadaheadConfig) -> bool {
        let before = self.window;
        self.window = self.window.min(config.max_window);
        loop {
            let step = (self.window / 4).clamp(1, MAX_GROWTH_STEP);
            if self.window >= config.max_window || self.window == 0 {
                self.progress = 0;
                break;
            }
            if self.progress < step {
                break;
            }
            self.progress -= step;
            self.window = self.window.saturating_mul(2).min(config.max_window);
        }
        self.window != before
    }

    /// Takes what is read out of the holes; returns how many bytes that was.
    fn fill_holes(&mut self, read: &Range<u64>) -> u64 {
        let mut filled = 0;
        let mut left: SmallVec<[Range<u64>; MAX_HOLES]> = SmallVec::new();
        for hole in self.holes.drain(..) {
            let start = hole.start.max(read.start);
            let end = hole.end.min(read.end);
            if start >= end {
                left.push(hole);
                continue;
            }
            filled += end - start;
            left.extend([hole.start..start, end..hole.end].into_iter().filter(|part| part.start < part.end));
        }
        left.truncate(MAX_HOLES);
        self.holes = left;
        filled
    }

    /// The ranges wanted ahead of this stream, most urgent first, about `share` bytes together.
    pub(super) fn plan(&mut self, share: u64, file_bytes: u64, granule_bytes: u64) -> Vec<Range<u64>> {
        let inside = |range: &Range<u64>| range.start < range.end && range.end <= file_bytes;
        match self.motion {
            Motion::Candidate { .. } => Vec::new(),
            Motion::Sequential(direction) => {
                let from = self.frontier(direction);
                self.planned_from = from;
                let mut ranges: Vec<Range<u64>> = self.holes.iter().cloned().collect();
                let window = self.window.min(share);
                self.planned_window = window;
                match direction {
                    Direction::Up => ranges.push(from..from.saturating_add(window).min(file_bytes)),
                    Direction::Down => ranges.extend(parts_down(from.saturating_sub(window)..from)),
                }
                ranges.retain(inside);
                ranges
            }
            Motion::Strided { stride, bytes, ahead } => {
                let cost = bytes.max(granule_bytes).max(1);
                let affordable = u32::try_from(share / cost).unwrap_or(u32::MAX).max(1);
                let starts = (1..=i64::from(ahead.min(affordable)))
                    .map_while(|step| self.extent.start.checked_add_signed(stride.checked_mul(step)?));
                starts
                    .map(|start| start..start.saturating_add(bytes).min(file_bytes))
                    .take_while(inside)
                    .collect()
            }
        }
    }
}

/// Cuts a window into parts, the highest first.
fn parts_down(window: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let part = ((window.end - window.start) / BACKWARD_PARTS).max(LEAST_PART);
    let mut end = window.end;
    core::iter::from_fn(move || {
        let start = end.saturating_sub(part).max(window.start);
        let range = start..end;
        end = start;
        (range.start < range.end).then_some(range)
    })
}
