//! How much of a connection may be sent and not yet acknowledged. Pure: told the time and what the channel reports.
//!
//! SCTP's own congestion control finds out how much a path takes by losing some of it, and a lost tail costs a
//! retransmission time-out of a second, which this library cannot be told to shorten. So less is put in flight than it
//! would: what is always allowed fits the smallest socket buffer a peer may have, and more is given only where the path
//! is shown to need it: one and a half times what arrives in a round trip without a queue (rate times the smallest round
//! trip seen). Time spent in queues, ours or the network's, so never earns more.

use std::time::{Duration, Instant};

use super::policy::InFlightLimits;

/// A limit lowered after a stall is raised again, twofold each time this has passed.
const FORGIVEN: Duration = Duration::from_secs(10);

/// Bytes in flight, and how many there may be.
#[derive(Debug)]
pub(super) struct InFlight {
    limits: InFlightLimits,
    cap: usize,
    /// What `cap` may rise to; lower than `limits.max_bytes` after a stall.
    ceiling: usize,
    sent: u64,
    acknowledged: u64,
    round: Option<Round>,
    round_trip: Option<Duration>,
    moved: Instant,
    ceiling_set: Instant,
}

/// From sending a byte until it is acknowledged.
#[derive(Debug, Clone, Copy)]
struct Round {
    ends_at: u64,
    began: Instant,
    acknowledged: u64,
    /// Whether more would have been sent, had it been allowed: else its rate says nothing of the path.
    is_full: bool,
}

impl InFlight {
    pub(super) fn new(limits: InFlightLimits, now: Instant) -> Self {
        Self {
            limits,
            cap: limits.start_bytes,
            ceiling: limits.max_bytes,
            sent: 0,
            acknowledged: 0,
            round: None,
            round_trip: None,
            moved: now,
            ceiling_set: now,
        }
    }

    /// Whether `bytes` more may be sent. Anything may when nothing is in flight.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let in_flight = self.sent.saturating_sub(self.acknowledged);
        in_flight == 0 || in_flight + bytes as u64 <= self.cap as u64
    }

    /// A message was handed to the channel.
    pub(super) fn on_sent(&mut self, now: Instant, bytes: usize) {
        if self.sent == self.acknowledged {
            // Silence before it is no stall.
            self.moved = now;
        }
        self.sent += bytes as u64;
        if self.round.is_none() {
            self.round = Some(Round {
                ends_at: self.sent,
                began: now,
                acknowledged: self.acknowledged,
                is_full: false,
            });
        }
    }

    /// A message has to wait.
    pub(super) fn on_full(&mut self) {
        if let Some(round) = &mut self.round {
            round.is_full = true;
        }
    }

    /// The channel still holds `outstanding` bytes.
    pub(super) fn on_outstanding(&mut self, now: Instant, outstanding: usize) {
        let acknowledged = self.sent.saturating_sub(outstanding as u64);
        if acknowledged > self.acknowledged || outstanding == 0 {
            self.acknowledged = self.acknowledged.max(acknowledged);
            self.moved = now;
            if let Some(round) = self.round.filter(|round| self.acknowledged >= round.ends_at) {
                self.round = None;
                self.end_round(now, round);
            }
        } else if now.saturating_duration_since(self.moved) >= self.limits.stall {
            self.ceiling = (self.cap / 2).max(self.limits.start_bytes);
            self.cap = self.ceiling;
            self.moved = now;
            self.ceiling_set = now;
            // Its time is the stall's, not the path's.
            self.round = None;
        }
    }

    fn end_round(&mut self, now: Instant, round: Round) {
        let took = now.saturating_duration_since(round.began).max(Duration::from_micros(1));
        let round_trip = self.round_trip.map_or(took, |least| least.min(took));
        self.round_trip = Some(round_trip);
        if self.ceiling < self.limits.max_bytes && now.saturating_duration_since(self.ceiling_set) >= FORGIVEN
        {
            self.ceiling = self.ceiling.saturating_mul(2).min(self.limits.max_bytes);
            self.ceiling_set = now;
        }
        if !round.is_full {
            return;
        }
        let arrived = self.acknowledged.saturating_sub(round.acknowledged);
        let in_round_trip = arrived as f64 * round_trip.as_secs_f64() / took.as_secs_f64();
        let wanted = (in_round_trip * 1.5) as usize;
        self.cap = if wanted > self.cap {
            wanted
        } else {
            // One slow round is not yet a slower path.
            self.cap - (self.cap - wanted) / 8
        }
        .clamp(self.limits.start_bytes, self.ceiling);
    }

    /// How much there may be now.
    pub(super) fn cap(&self) -> usize {
        self.cap
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const MESSAGE: usize = 16_397;

    /// Sends for `lasts` over a path of `rate` bytes a second and `delay` both ways together, as fast as allowed.
    /// Returns bytes that arrived and the longest queue, in bytes.
    fn send(
        flight: &mut InFlight,
        start: Instant,
        rate: f64,
        delay: Duration,
        lasts: Duration,
    ) -> (u64, usize) {
        let mut now = start;
        let mut idle_at = start;
        let mut acks: VecDeque<Instant> = VecDeque::new();
        let (mut arrived, mut queue) = (0, 0);
        while now < start + lasts {
            while acks.front().is_some_and(|at| *at <= now) {
                acks.pop_front();
                arrived += MESSAGE as u64;
                flight.on_outstanding(now, acks.len() * MESSAGE);
            }
            while flight.has_room(MESSAGE) {
                flight.on_sent(now, MESSAGE);
                idle_at = idle_at.max(now) + Duration::from_secs_f64(MESSAGE as f64 / rate);
                acks.push_back(idle_at + delay);
                queue = queue.max(((idle_at - now).as_secs_f64() * rate) as usize);
            }
            flight.on_full();
            now = acks.front().copied().unwrap_or(now).max(now + Duration::from_micros(20));
        }
        (arrived, queue)
    }

    fn flight() -> (InFlight, Instant) {
        let now = Instant::now();
        (InFlight::new(InFlightLimits::default(), now), now)
    }

    #[test]
    fn a_far_and_fast_path_is_filled() {
        let (mut flight, now) = flight();
        let second = Duration::from_secs(1);
        let (arrived, _) = send(&mut flight, now, 1e8, Duration::from_millis(20), 3 * second);
        assert!(arrived > 200_000_000, "{arrived} in 3 s at 100 MB/s; cap {}", flight.cap());
    }

    #[test]
    fn a_slow_path_is_filled_without_a_long_queue() {
        let (mut flight, now) = flight();
        let lasts = Duration::from_secs(5);
        let (arrived, queue) = send(&mut flight, now, 12.5e6, Duration::from_millis(20), lasts);
        assert!(arrived > 55_000_000, "{arrived} in 5 s at 12.5 MB/s; cap {}", flight.cap());
        // A home router keeps about as much.
        assert!(queue < 250_000, "queue of {queue}; cap {}", flight.cap());
    }

    #[test]
    fn a_near_path_keeps_the_first_cap() {
        let (mut flight, now) = flight();
        send(&mut flight, now, 1e8, Duration::from_micros(100), Duration::from_secs(2));
        assert_eq!(flight.cap(), InFlightLimits::default().start_bytes);
    }

    #[test]
    fn a_stall_halves_what_is_allowed_and_time_gives_it_back() {
        let (mut flight, now) = flight();
        send(&mut flight, now, 1e8, Duration::from_millis(20), Duration::from_secs(2));
        let before = flight.cap();
        assert!(before > 1 << 20);
        let later = now + Duration::from_secs(3);
        flight.on_sent(later, MESSAGE);
        let outstanding = (flight.sent - flight.acknowledged) as usize;
        flight.on_outstanding(later + Duration::from_secs(1), outstanding);
        assert_eq!(flight.cap(), before / 2);
        flight.on_outstanding(later + Duration::from_secs(1), 0);
        send(
            &mut flight,
            later + Duration::from_secs(2),
            1e8,
            Duration::from_millis(20),
            Duration::from_secs(30),
        );
        assert!(flight.cap() > before / 2, "{}", flight.cap());
    }

    #[test]
    fn a_lone_message_longer_than_the_cap_goes_out() {
        let (flight, _) = flight();
        assert!(flight.has_room(10 << 20));
    }
}
