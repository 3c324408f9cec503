//! How many block requests to keep outstanding at one source, and how long to wait for a block.
//!
//! The window is `rate x (least latency + queue time)`: enough to keep the path full (bandwidth times delay) plus a
//! short queue at the source. The queue is what absorbs jitter and lets a faster path show itself; it is also what an
//! urgent block has to wait behind, so it is measured in time and kept small.
//!
//! ```text
//! Slow start --(rate stops growing | queue too long | ceiling)--> Steady --(latency floor is stale)--> Probing
//!     ^                                                              ^---------------(fresh floor)--------'
//!     '--(first block after)-- Snubbed <--(time-out and no block for as long)-- any
//! ```
//!
//! - *Rate* is the highest of the last `RATE_ROUNDS` rounds (about a round trip each), so one lost TCP segment does
//!   not halve the window. Rounds in which we did not ask for enough only ever raise it.
//! - *Least latency* is a floor, never a mean: a mean would include our own queue, and the window would feed
//!   on itself. The floor is refreshed by [`Phase::Probing`]: for one round trip the queue is left to drain, which costs no
//!   throughput because the path itself stays full.
//!
//! The caller keeps the requests; this type only counts them. It must report each request it sends once with
//! [`Pipeline::handle_sent`] and its end once: block, rejection, or withdrawal.

use core::time::Duration;

use crate::time::Moment;

/// Bytes of a full block; only used to turn bytes into requests.
const BLOCK_BYTES: f64 = 16_384.0;

/// Requests outstanding at a source of which nothing is known.
///
/// 128 KiB is more than a fresh TCP connection carries in its first three round trips (14, 28, 56 KiB), so it is not
/// what slows the start on a long path; at a source of 100 kB/s it is 1.3 s of queue, gone after the first round.
const INITIAL_WINDOW: usize = 8;

/// One block on its way and one waiting behind it: with fewer, the source idles for a round trip after each block.
const FLOOR: usize = 2;

/// Rounds over which the highest rate is kept. BBR keeps ten; eight forget a peer that slowed down a little sooner.
const RATE_ROUNDS: usize = 8;

/// The least duration of a round. Below it the grain of socket reads (a read returns up to 16 blocks at once) would
/// show as rate.
const LEAST_ROUND: Duration = Duration::from_millis(10);

/// Growth per round that counts as growth during slow start (BBR's 25 %).
const GROWTH: f64 = 1.25;

/// Rounds without growth that end slow start: one may be a loss, two a pause of the source.
const FLAT_ROUNDS: u8 = 3;

/// Blocks whose latency makes a new floor at the end of a probe. Several, because one may have met a slow disk.
const PROBE_SAMPLES: u8 = 8;

/// Request time-out before anything was measured: a source that has not sent its first block after ten seconds is
/// no help to a reader, and TCP itself has by then retried four times.
const INITIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Two seconds ride out a TCP retransmission time-out (1 s at first) and a spinning disk that wakes up.
const LEAST_TIMEOUT: Duration = Duration::from_secs(2);

/// The time-out of the classic clients; a block that took longer is lost to every reader.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What an unmeasured source is expected to take for a block: a transatlantic round trip, a seek and the transfer.
const UNKNOWN_LATENCY: Duration = Duration::from_millis(500);

/// The least margin after which a block counts as late; below lies the grain of schedulers and timers.
const LEAST_LATENESS: Duration = Duration::from_millis(10);

/// What a [`Pipeline`] can be told at its start.
#[derive(Debug, Clone)]
pub struct PipelineConfig {
    /// How much sending time to keep queued at the source on top of the path's own delay. It bounds both how long an
    /// urgent block waits and how much jitter is absorbed: below some 50 ms Wi-Fi paths idle, above some 300 ms
    /// seeks feel slow.
    pub queue_time: Duration,
    /// The most requests outstanding, whatever was measured. 500 blocks are 8 MB: 500 MB/s at 16 ms. Higher costs memory
    /// at both ends; many clients refuse more than 250 and say so with `reqq`.
    pub ceiling: usize,
    /// How long the latency floor is trusted before the queue is drained to measure it again.
    pub probe_interval: Duration,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        Self { queue_time: Duration::from_millis(150), ceiling: 500, probe_interval: Duration::from_secs(10) }
    }
}

/// Where a pipeline stands; for status displays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The window grows by one for each block, so it doubles each round trip.
    SlowStart,
    /// The window follows rate and latency.
    Steady,
    /// As steady, without a queue, until the latency floor is known afresh.
    Probing,
    /// The source has left a request unanswered for longer than the time-out: one request at a time.
    Snubbed,
}

/// A span over which the rate is measured.
#[derive(Debug, Clone)]
struct Round {
    start: Moment,
    bytes: u64,
    /// Started with nothing on the way, so it contains a delay without data: a lower bound only.
    is_cold: bool,
}

/// The latency floor and its renewal.
#[derive(Debug, Clone, Default)]
struct LatencyFloor {
    least: Option<Duration>,
    /// When a block last came within a tenth of the floor.
    refreshed: Moment,
    /// While probing: since when the queue is short enough, the least latency since, and the samples to go.
    drained_at: Option<Moment>,
    candidate: Option<Duration>,
    samples_left: u8,
}

/// Mean and deviation of the latency, as TCP keeps them (RFC 6298).
#[derive(Debug, Clone, Default)]
struct LatencyMean {
    mean_s: Option<f64>,
    deviation_s: f64,
}

/// The request window of one source. See the module's documentation.
#[derive(Debug, Clone)]
pub struct Pipeline {
    config: PipelineConfig,
    phase: Phase,
    /// Window of slow start; in the other phases it follows from the measurements.
    window: usize,
    remote_limit: usize,
    /// Learnt from rejections: the most the source takes at once. Creeps up again.
    learnt_limit: usize,
    outstanding: usize,
    /// Highest `outstanding` in this round and in the one before.
    peaks: [usize; 2],
    round: Option<Round>,
    rates: [f64; RATE_ROUNDS],
    flat_rounds: u8,
    floor: LatencyFloor,
    latency: LatencyMean,
    /// Consecutive time-outs: each doubles the time-out, the next block resets it.
    backoff: u32,
    last_progress: Moment,
}

impl Pipeline {
    /// A pipeline in slow start at a source of which nothing is known.
    #[must_use]
    pub fn new(now: Moment, config: PipelineConfig) -> Self {
        Self {
            config,
            phase: Phase::SlowStart,
            window: INITIAL_WINDOW,
            remote_limit: usize::MAX,
            learnt_limit: usize::MAX,
            outstanding: 0,
            peaks: [0; 2],
            round: None,
            rates: [0.0; RATE_ROUNDS],
            flat_rounds: 0,
            floor: LatencyFloor { refreshed: now, ..LatencyFloor::default() },
            latency: LatencyMean::default(),
            backoff: 0,
            last_progress: now,
        }
    }

    /// The most requests to have outstanding now. At least one, at most the ceiling and the source's own limit.
    #[must_use]
    pub fn window(&self) -> usize {
        let limit = self.limit();
        let wanted = match self.phase {
            Phase::Snubbed => return 1,
            Phase::SlowStart => self.window,
            Phase::Steady => self.blocks_in(self.floor.least.unwrap_or_default() + self.config.queue_time),
            Phase::Probing => self.blocks_in(self.floor.least.unwrap_or_default()),
        };
        wanted.max(FLOOR).min(limit)
    }

    /// The most requests the source takes at once, whatever the window: our ceiling, what it said (`reqq`), or what its
    /// rejections taught.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.config.ceiling.min(self.remote_limit).min(self.learnt_limit).max(1)
    }

    /// How many requests may be sent now: the window less what is outstanding.
    #[must_use]
    pub fn free(&self) -> usize {
        self.window().saturating_sub(self.outstanding)
    }

    /// Requests sent whose end was not reported yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Where the pipeline stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the source lets requests lie: nothing has come since one timed out.
    #[must_use]
    pub fn is_snubbed(&self) -> bool {
        self.phase == Phase::Snubbed
    }

    /// The rate the source was seen to deliver when asked for enough, in bytes per second; 0 before the first round.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.best_rate() as u64
    }

    /// The lowest latency from request to block, which is what an empty queue would give.
    #[must_use]
    pub fn least_latency(&self) -> Option<Duration> {
        self.floor.least
    }

    /// When a block that is requested now can be expected: the latency floor plus the blocks that are ahead of it.
    /// Half a second while nothing is known.
    #[must_use]
    pub fn expected_latency(&self) -> Duration {
        match self.floor.least {
            Some(least) if !self.is_snubbed() => least.max(self.drain_time()),
            Some(least) => least.max(self.request_timeout()),
            // Silent from the start: whoever is merely slow comes first.
            None if self.is_snubbed() => self.request_timeout(),
            None => UNKNOWN_LATENCY,
        }
    }

    /// How long after its request a block is so late that a reader who waits for it is better off asking a second
    /// source too: the expected latency and three mean deviations, but no more than twice what is expected. On a path
    /// that loses packets the deviation is made of retransmissions, which are the very thing not to be waited for.
    #[must_use]
    pub fn late_after(&self) -> Duration {
        let expected = self.expected_latency();
        let margin = seconds(3.0 * self.latency.deviation_s).min(expected).max(LEAST_LATENESS);
        expected.saturating_add(margin)
    }

    /// How long to wait for a block before giving its request up, 2 to 60 s: mean and four deviations (RFC 6298), or
    /// twice the time that all outstanding blocks need, doubled for each time-out since the last block.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        let measured = match self.latency.mean_s {
            None => INITIAL_TIMEOUT,
            Some(mean) => {
                seconds(mean + 4.0 * self.latency.deviation_s).max(self.drain_time().saturating_mul(2))
            }
        };
        let measured = measured.clamp(LEAST_TIMEOUT, LONGEST_TIMEOUT);
        // Six doublings lead from the least time-out past the longest.
        measured.saturating_mul(1 << self.backoff.min(6)).min(LONGEST_TIMEOUT)
    }

    /// The source said how many requests it queues (`reqq` of its extended handshake, BEP 10).
    pub fn set_remote_limit(&mut self, reqq: u32) {
        self.remote_limit = usize::try_from(reqq).unwrap_or(usize::MAX).max(1);
    }

    /// `count` requests were sent at `now`.
    pub fn handle_sent(&mut self, now: Moment, count: usize) {
        if count == 0 {
            return;
        }
        if self.outstanding == 0 {
            self.round = Some(Round { start: now, bytes: 0, is_cold: true });
            // The clock of "no block for so long" starts with the first request after a pause.
            self.last_progress = self.last_progress.max(now);
        }
        self.outstanding = self.outstanding.saturating_add(count);
        self.peaks[0] = self.peaks[0].max(self.outstanding);
    }

    /// A block of `bytes` arrived for an outstanding request, `latency` after it was sent.
    pub fn handle_block(&mut self, now: Moment, bytes: u32, latency: Duration) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.latency.add(latency, self.peaks[0].max(self.peaks[1]));
        self.handle_latency(now, latency);
        self.handle_progress(now);
        if self.phase == Phase::SlowStart && self.was_window_used() && self.window < self.config.ceiling {
            self.window += 1;
        }
        self.handle_delivered(now, bytes);
    }

    /// A block arrived whose request had been withdrawn. It says nothing of latency, but the source lives, and the bytes
    /// were part of its rate.
    pub fn handle_stray_block(&mut self, now: Moment, bytes: u32) {
        self.handle_progress(now);
        self.handle_delivered(now, bytes);
    }

    /// An outstanding request is older than [`Pipeline::request_timeout`].
    ///
    /// The request stays outstanding until it is withdrawn or answered. A source that sent no block for as long is
    /// snubbed; one that still sends, but slower than it did, loses its rate and its window with it.
    pub fn handle_timeout(&mut self, now: Moment) {
        let silence = now.saturating_sub(self.last_progress);
        let is_silent = silence >= self.request_timeout();
        self.backoff = self.backoff.saturating_add(1);
        self.floor.end_probe(now);
        if is_silent {
            self.phase = Phase::Snubbed;
        } else if self.phase != Phase::Snubbed {
            for rate in &mut self.rates {
                *rate /= 2.0;
            }
            self.window = (self.window / 2).max(FLOOR);
            if self.floor.least.is_some() && self.best_rate() > 0.0 {
                self.phase = Phase::Steady;
            }
        }
    }

    /// The source refused an outstanding request although it has not choked us (BEP 6): its queue is full. Report
    /// the rejections that follow a choke with [`Pipeline::handle_withdrawn`].
    pub fn handle_reject(&mut self, now: Moment) {
        self.handle_withdrawn(1);
        self.handle_progress(now);
        self.learnt_limit = self.outstanding.clamp(FLOOR, self.learnt_limit.max(FLOOR));
        if self.phase == Phase::SlowStart && self.best_rate() > 0.0 {
            self.phase = Phase::Steady;
        }
    }

    /// `count` outstanding requests ended without an answer: cancelled, given up, or dropped by a choke.
    pub fn handle_withdrawn(&mut self, count: usize) {
        self.outstanding = self.outstanding.saturating_sub(count);
    }

    fn best_rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    /// Blocks that the source delivers in `time`, rounded up.
    fn blocks_in(&self, time: Duration) -> usize {
        (self.best_rate() * time.as_secs_f64() / BLOCK_BYTES).ceil() as usize
    }

    /// How long the source needs for everything outstanding and one block more.
    fn drain_time(&self) -> Duration {
        let rate = self.best_rate();
        if rate <= 0.0 {
            return Duration::ZERO;
        }
        seconds((self.outstanding as f64 + 1.0) * BLOCK_BYTES / rate)
    }

    /// Whether what is measured is the source's doing and not a lack of requests (TCP's rule for a used window).
    fn was_window_used(&self) -> bool {
        self.peaks[0].max(self.peaks[1]).saturating_mul(2) >= self.window()
    }

    fn handle_progress(&mut self, now: Moment) {
        self.last_progress = self.last_progress.max(now);
        self.backoff = 0;
        if self.phase == Phase::Snubbed {
            // What was measured before the silence need not hold any more.
            self.phase = Phase::SlowStart;
            self.window = FLOOR;
            self.flat_rounds = 0;
            self.rates = [0.0; RATE_ROUNDS];
            self.round = Some(Round { start: now, bytes: 0, is_cold: true });
        }
    }

    fn handle_latency(&mut self, now: Moment, latency: Duration) {
        let least = self.floor.least.map_or(latency, |least| least.min(latency));
        self.floor.least = Some(least);
        if latency <= least + least / 10 {
            self.floor.refreshed = self.floor.refreshed.max(now);
        }
        match self.phase {
            Phase::SlowStart => {
                // The queue is twice as long as it should be: the path was full a round trip ago.
                if latency > least + self.config.queue_time * 2 && self.best_rate() > 0.0 {
                    self.phase = Phase::Steady;
                }
            }
            Phase::Steady => {
                let age = now.saturating_sub(self.floor.refreshed);
                if age >= self.config.probe_interval {
                    self.phase = Phase::Probing;
                    self.floor.start_probe();
                }
            }
            Phase::Probing => {
                let is_drained = self.outstanding <= self.window();
                if self.floor.probe(now, latency, is_drained) {
                    self.phase = Phase::Steady;
                }
            }
            Phase::Snubbed => {}
        }
    }

    fn handle_delivered(&mut self, now: Moment, bytes: u32) {
        let least = self.floor.least.unwrap_or_default();
        let Some(round) = &mut self.round else { return };
        round.bytes += u64::from(bytes);
        let elapsed = now.saturating_sub(round.start);
        if elapsed < least.max(LEAST_ROUND) {
            return;
        }
        let rate = round.bytes as f64 / elapsed.as_secs_f64();
        let is_lower_bound = round.is_cold || !self.was_window_used();
        self.round = Some(Round { start: now, bytes: 0, is_cold: false });
        let best = self.best_rate();
        if self.phase == Phase::SlowStart && !is_lower_bound {
            self.flat_rounds = if rate > best * GROWTH { 0 } else { self.flat_rounds + 1 };
            if self.flat_rounds >= FLAT_ROUNDS {
                self.phase = Phase::Steady;
            }
        }
        if !is_lower_bound || rate > best {
            self.rates.rotate_right(1);
            self.rates[0] = rate;
        }
        self.peaks = [self.outstanding, self.peaks[0]];
        // One more per round: a source that was short of memory once is not held to it for ever.
        self.learnt_limit = self.learnt_limit.saturating_add(1);
    }
}

impl LatencyFloor {
    fn start_probe(&mut self) {
        self.drained_at = None;
        self.candidate = None;
        self.samples_left = PROBE_SAMPLES;
    }

    fn end_probe(&mut self, now: Moment) {
        self.refreshed = self.refreshed.max(now);
        self.drained_at = None;
        self.candidate = None;
    }

    /// Takes a latency into the probe; true when the probe is over and the floor is fresh.
    fn probe(&mut self, now: Moment, latency: Duration, is_drained: bool) -> bool {
        let Some(drained_at) = self.drained_at else {
            if is_drained {
                self.drained_at = Some(now);
            }
            return false;
        };
        // Only blocks that were requested behind a short queue tell the path's own delay.
        if now.saturating_sub(latency) < drained_at {
            return false;
        }
        self.candidate = Some(self.candidate.map_or(latency, |least| least.min(latency)));
        self.samples_left = self.samples_left.saturating_sub(1);
        if self.samples_left > 0 {
            return false;
        }
        self.least = self.candidate;
        self.end_probe(now);
        true
    }
}

impl LatencyMean {
    /// RFC 6298 takes one sample per round trip; with `flight` samples in it the gains shrink accordingly
    /// (RFC 7323, appendix G), else the deviation would only remember the last few blocks.
    fn add(&mut self, latency: Duration, flight: usize) {
        let sample = latency.as_secs_f64();
        let Some(mean) = self.mean_s else {
            self.mean_s = Some(sample);
            self.deviation_s = sample / 2.0;
            return;
        };
        let per_round = (flight as f64 / 2.0).max(1.0);
        self.deviation_s += ((sample - mean).abs() - self.deviation_s) / (4.0 * per_round);
        self.mean_s = Some(mean + (sample - mean) / (8.0 * per_round));
    }
}

/// A duration out of a computed number of seconds; never panics.
fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.max(0.0)).unwrap_or(LONGEST_TIMEOUT)
}

#[cfg(test)]
mod tests;
