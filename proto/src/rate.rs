//! Byte rates: how fast something moves ([`RateMeter`]) and how fast it may move ([`TokenBucket`]).
//!
//! Both are plain values that are told the time. Neither reads a clock, sleeps or allocates; a caller that has to
//! wait is told for how long and does the waiting itself.
//!
//! Invariant: a moment earlier than the last one seen counts as the last one, so a clock that stutters can neither
//! mint tokens nor make a rate negative.

use core::time::Duration;

use crate::time::Moment;

/// Default averaging time of a [`RateMeter`].
///
/// Two rounds of the choker (10 s each): long enough that one burst does not decide who is unchoked, short enough
/// that a peer that stops sending has lost two thirds of its standing when the round after next is held.
pub const DEFAULT_AVERAGING: Duration = Duration::from_secs(20);

/// The least time the bytes of a young meter are spread over.
///
/// Without it the first block of a connection would show an infinite rate.
const LEAST_SPAN: Duration = Duration::from_millis(250);

/// Exponentially weighted mean of a byte rate.
///
/// Bytes recorded `t` ago weigh `exp(-t / averaging)`. While the meter is younger than its averaging time, the mean is
/// taken over its age, so a new peer is not shown slower than it is. A pause simply decays the rate: what is shown
/// afterwards is the mean over the averaging time, pause included.
#[derive(Debug, Clone)]
pub struct RateMeter {
    averaging_s: f64,
    /// Decayed bytes divided by the averaging time, as of `updated`.
    weighted: f64,
    started: Option<Moment>,
    updated: Moment,
    total_bytes: u64,
}

impl Default for RateMeter {
    fn default() -> Self {
        Self::new(DEFAULT_AVERAGING)
    }
}

impl RateMeter {
    /// A meter that has seen nothing. `averaging` is the time after which a byte weighs 1/e; at least 1 ms is used.
    #[must_use]
    pub fn new(averaging: Duration) -> Self {
        Self {
            averaging_s: averaging.as_secs_f64().max(1e-3),
            weighted: 0.0,
            started: None,
            updated: Moment::ZERO,
            total_bytes: 0,
        }
    }

    /// Records that `bytes` moved at `now`.
    pub fn handle_bytes(&mut self, now: Moment, bytes: u64) {
        if self.started.is_none() {
            self.started = Some(now);
            self.updated = now;
        }
        self.weighted *= self.decay(now);
        self.updated = self.updated.max(now);
        self.weighted += bytes as f64 / self.averaging_s;
        self.total_bytes = self.total_bytes.saturating_add(bytes);
    }

    /// The rate at `now`, in bytes per second.
    #[must_use]
    pub fn rate(&self, now: Moment) -> u64 {
        let Some(started) = self.started else { return 0 };
        let age_s = now.max(self.updated).saturating_sub(started).max(LEAST_SPAN).as_secs_f64();
        let seen = 1.0 - (-age_s / self.averaging_s).exp();
        // `as` saturates, and the quotient is finite: `seen` is above zero because the age has a floor.
        (self.weighted * self.decay(now) / seen) as u64
    }

    /// All bytes ever recorded.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    fn decay(&self, now: Moment) -> f64 {
        (-now.saturating_sub(self.updated).as_secs_f64() / self.averaging_s).exp()
    }
}

/// How much may pass at once by default: what the limit allows in this time.
///
/// A tenth of a second is longer than any timer's grain, so the limit is reached in spite of late wake-ups, and short
/// enough that the bursts of a limited session do not fill a home router's queue.
const DEFAULT_BURST: Duration = Duration::from_millis(100);

/// The least default burst: one 16 KiB block, the unit in which everything moves.
const LEAST_BURST_BYTES: u64 = 16 * 1024;

/// How long a caller is told to wait while the limit is zero; the limit may be raised meanwhile.
const CLOSED_RETRY: Duration = Duration::from_secs(1);

const NANOS_PER_S: i128 = 1_000_000_000;

/// A limit in bytes per second with a bounded burst.
///
/// Levels are kept in byte-nanoseconds per second as integers: nothing is lost to rounding however small the steps, so
/// the long-run rate is exactly the limit. An amount larger than the burst passes when the bucket is full and
/// leaves a debt behind, which later takes wait for.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    limit: Option<Limit>,
}

#[derive(Debug, Clone)]
struct Limit {
    bytes_per_s: u64,
    burst_bytes: u64,
    /// Bytes times 10^9; negative is a debt.
    level: i128,
    updated: Moment,
}

impl TokenBucket {
    /// A bucket that lets everything pass.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self { limit: None }
    }

    /// A full bucket. `bytes_per_s`: `None` is no limit, `Some(0)` lets nothing pass. The burst is a tenth of a second's
    /// worth, at least one 16 KiB block.
    #[must_use]
    pub fn new(now: Moment, bytes_per_s: Option<u64>) -> Self {
        let burst = |rate: u64| {
            let bytes = u128::from(rate) * DEFAULT_BURST.as_nanos() / NANOS_PER_S.unsigned_abs();
            u64::try_from(bytes).unwrap_or(u64::MAX).max(LEAST_BURST_BYTES)
        };
        match bytes_per_s {
            None => Self::unlimited(),
            Some(rate) => Self::with_burst(now, rate, burst(rate)),
        }
    }

    /// A full bucket with a burst of its own, in bytes (at least 1 is used).
    #[must_use]
    pub fn with_burst(now: Moment, bytes_per_s: u64, burst_bytes: u64) -> Self {
        let burst_bytes = burst_bytes.max(1);
        let level = i128::from(burst_bytes) * NANOS_PER_S;
        Self { limit: Some(Limit { bytes_per_s, burst_bytes, level, updated: now }) }
    }

    /// Changes the limit. A debt is kept, so that changing the limit often is not a way around it; savings above
    /// the new burst are lost.
    pub fn set_limit(&mut self, now: Moment, bytes_per_s: Option<u64>) {
        let old_level = self.limit.as_mut().map(|limit| {
            limit.refill(now);
            limit.level
        });
        *self = Self::new(now, bytes_per_s);
        if let (Some(limit), Some(level)) = (&mut self.limit, old_level) {
            limit.level = limit.level.min(level);
        }
    }

    /// The limit in bytes per second; `None` is no limit.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        self.limit.as_ref().map(|limit| limit.bytes_per_s)
    }

    /// Takes `bytes` out of the bucket, all or nothing.
    ///
    /// # Errors
    /// The time to wait until the same call would succeed, if nobody else takes meanwhile. It is never zero.
    pub fn take(&mut self, now: Moment, bytes: u64) -> Result<(), Duration> {
        let Some(limit) = &mut self.limit else { return Ok(()) };
        if bytes == 0 {
            return Ok(());
        }
        limit.refill(now);
        if limit.bytes_per_s == 0 {
            return Err(CLOSED_RETRY);
        }
        let needed = i128::from(bytes.min(limit.burst_bytes)) * NANOS_PER_S;
        if limit.level >= needed {
            limit.level -= i128::from(bytes) * NANOS_PER_S;
            return Ok(());
        }
        // One token is bytes_per_s units a nanosecond, so the quotient is nanoseconds; rounded up, never early.
        let missing = (needed - limit.level).unsigned_abs();
        let nanos = missing.div_ceil(u128::from(limit.bytes_per_s));
        Err(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Returns bytes that were taken but did not move after all.
    pub fn give_back(&mut self, bytes: u64) {
        if let Some(limit) = &mut self.limit {
            limit.level = (limit.level + i128::from(bytes) * NANOS_PER_S).min(limit.full());
        }
    }
}

impl Limit {
    fn full(&self) -> i128 {
        i128::from(self.burst_bytes) * NANOS_PER_S
    }

    fn refill(&mut self, now: Moment) {
        let elapsed = now.saturating_sub(self.updated).as_nanos();
        self.updated = self.updated.max(now);
        // A duration has fewer than 2^94 nanoseconds and the limit 2^64: the product may pass 2^127, hence saturating.
        let gained =
            i128::try_from(elapsed).unwrap_or(i128::MAX).saturating_mul(i128::from(self.bytes_per_s));
        self.level = self.level.saturating_add(gained).min(self.full());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_steady_stream_shows_its_rate_from_the_start() {
        let mut meter = RateMeter::default();
        for tick in 0..3_000_u32 {
            meter.handle_bytes(tick * 10 * MS, 10_000);
            if tick >= 100 {
                let rate = meter.rate(tick * 10 * MS);
                assert!((980_000..1_020_000).contains(&rate), "tick {tick}: {rate}");
            }
        }
        assert_eq!(meter.total_bytes(), 30_000_000);
    }

    #[test]
    fn a_pause_decays_the_rate_and_does_not_blow_it_up_afterwards() {
        let mut meter = RateMeter::new(Duration::from_secs(2));
        for tick in 0..1_000_u32 {
            meter.handle_bytes(tick * 10 * MS, 10_000);
        }
        assert!(meter.rate(Duration::from_secs(60)) < 10);
        meter.handle_bytes(Duration::from_secs(60), 10_000);
        let rate = meter.rate(Duration::from_secs(60));
        assert!((4_000..6_000).contains(&rate), "10 kB over an averaging time of 2 s: {rate}");
    }

    #[test]
    fn an_unused_meter_and_a_first_block_are_finite() {
        let mut meter = RateMeter::default();
        assert_eq!(meter.rate(Duration::from_secs(9)), 0);
        meter.handle_bytes(Duration::from_secs(9), 16_384);
        assert!(meter.rate(Duration::from_secs(9)) <= 4 * 16_384 + 2_000);
        meter.handle_bytes(Duration::from_secs(1), 16_384);
        assert!(meter.rate(Duration::ZERO) > 0);
    }

    #[test]
    fn a_full_bucket_passes_its_burst_and_then_makes_the_caller_wait() {
        let mut bucket = TokenBucket::with_burst(Moment::ZERO, 1_000_000, 50_000);
        assert_eq!(bucket.take(Moment::ZERO, 50_000), Ok(()));
        assert_eq!(bucket.take(Moment::ZERO, 10_000), Err(10 * MS));
        assert_eq!(bucket.take(10 * MS, 10_000), Ok(()));
    }

    #[test]
    fn more_than_the_burst_passes_as_a_debt() {
        let mut bucket = TokenBucket::with_burst(Moment::ZERO, 1_000_000, 10_000);
        assert_eq!(bucket.take(Moment::ZERO, 110_000), Ok(()));
        assert_eq!(bucket.take(Moment::ZERO, 1), Err(Duration::from_nanos(100_001_000)));
    }

    #[test]
    fn bytes_given_back_can_be_taken_again_but_never_exceed_the_burst() {
        let mut bucket = TokenBucket::with_burst(Moment::ZERO, 1_000, 10_000);
        assert_eq!(bucket.take(Moment::ZERO, 10_000), Ok(()));
        bucket.give_back(4_000);
        assert_eq!(bucket.take(Moment::ZERO, 4_000), Ok(()));
        bucket.give_back(1_000_000);
        assert_eq!(bucket.take(Moment::ZERO, 10_000), Ok(()));
        assert!(bucket.take(Moment::ZERO, 1).is_err());
    }

    #[test]
    fn no_limit_always_passes_and_a_limit_of_zero_never_does() {
        let mut open = TokenBucket::new(Moment::ZERO, None);
        assert_eq!(open.take(Moment::ZERO, u64::MAX), Ok(()));
        let mut closed = TokenBucket::new(Moment::ZERO, Some(0));
        assert_eq!(closed.take(Duration::from_secs(1_000_000), 1), Err(CLOSED_RETRY));
        assert_eq!(closed.take(Moment::ZERO, 0), Ok(()));
    }

    #[test]
    fn changing_the_limit_keeps_the_debt() {
        let mut bucket = TokenBucket::with_burst(Moment::ZERO, 1_000, 1_000);
        assert_eq!(bucket.take(Moment::ZERO, 11_000), Ok(()));
        bucket.set_limit(Moment::ZERO, Some(10_000));
        assert_eq!(bucket.limit(), Some(10_000));
        assert!(bucket.take(Duration::from_millis(999), 16_384).is_err());
        bucket.set_limit(Moment::ZERO, None);
        assert_eq!(bucket.take(Moment::ZERO, u64::MAX), Ok(()));
    }

    proptest! {
        /// In any interval no more passes than burst + limit x time, and whoever waits as told gets through.
        #[test]
        fn a_bucket_holds_its_limit_and_keeps_its_promises(
            rate in 1_u64..1 << 40,
            burst in 1_u64..1 << 24,
            takes in prop::collection::vec((0_u64..1 << 22, 0_u64..50_000_000), 1..60),
        ) {
            let mut now = Moment::ZERO;
            let mut bucket = TokenBucket::with_burst(now, rate, burst);
            let mut passed = 0_u128;
            for (bytes, pause_ns) in takes {
                now += Duration::from_nanos(pause_ns);
                if let Err(wait) = bucket.take(now, bytes) {
                    prop_assert!(wait > Duration::ZERO);
                    now += wait;
                    prop_assert_eq!(bucket.take(now, bytes), Ok(()));
                }
                // The last take may have left a debt of at most its own size.
                let allowed = u128::from(burst.max(bytes)) + u128::from(rate) * now.as_nanos() / 1_000_000_000;
                passed += u128::from(bytes);
                prop_assert!(passed <= allowed + 1, "{} > {}", passed, allowed);
            }
        }

        #[test]
        fn a_meter_never_shows_more_than_all_its_bytes_in_the_least_span(
            records in prop::collection::vec((0_u64..10_000, 0_u64..1 << 30), 1..50),
        ) {
            let mut meter = RateMeter::default();
            let mut now = Moment::ZERO;
            for (pause_ms, bytes) in records {
                now += Duration::from_millis(pause_ms);
                meter.handle_bytes(now, bytes);
                prop_assert!(meter.rate(now) as f64 <= meter.total_bytes() as f64 * 4.1 + 1.0);
            }
        }
    }
}
