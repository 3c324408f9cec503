//! One direction of a network path as a value: packets go in, and come out later, in order, or never.
//!
//! It owns the packets under way and the decisions about them: a bottleneck with a rate and a queue in bytes that
//! drops its tail, then loss, then a constant delay. It never reads a clock, a device or a source of randomness: the
//! caller tells the time, and the seed fixes every loss, so a run can be had again. The binary `path-emulator` joins
//! two of these to two network namespaces, for kernels that have no netem.
//!
//! Invariant: packets come out in the order in which they went in, each at most once, and the memory is that of
//! [`Profile::in_flight_bytes`], taken once: nothing is allocated for a packet.

use std::{collections::VecDeque, time::Duration};

/// The largest packet a path carries, in bytes.
pub const PACKET_BYTES_MAX: usize = 65_535;

/// What a path does to the packets of one direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// From the end of the bottleneck to the other side.
    pub delay: Duration,
    /// The share of packets that are lost, from 0 to 1, each for itself.
    pub loss: f64,
    /// Bytes a second through the bottleneck; `None` for no bottleneck.
    pub rate_bytes: Option<u64>,
    /// Bytes that may wait for the bottleneck; a packet that would make it more is dropped.
    pub queue_bytes: u64,
    /// Memory for the packets under way. When it is full [`Direction::slot`] has no room: the sender has to wait.
    pub in_flight_bytes: usize,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            loss: 0.0,
            rate_bytes: None,
            queue_bytes: 1 << 20,
            in_flight_bytes: 64 << 20,
        }
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It will come out.
    Carried,
    /// The path lost it.
    Lost,
    /// The queue of the bottleneck was full.
    QueueFull,
}

/// Packets by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that came out or will.
    pub carried: u64,
    /// Their bytes.
    pub carried_bytes: u64,
    /// Packets that were lost by chance.
    pub lost: u64,
    /// Packets that found the queue full.
    pub queue_full: u64,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    due: Duration,
    start: usize,
    len: usize,
}

/// One direction of a path. Time is told as the duration since any fixed start, and never goes back.
#[derive(Debug)]
pub struct Direction {
    profile: Profile,
    /// Bodies of the packets under way, each in one stretch; `packets` says where.
    ring: Box<[u8]>,
    /// Where the next body goes.
    tail: usize,
    packets: VecDeque<Packet>,
    /// When the bottleneck has sent all it was given.
    bottleneck_free: Duration,
    random: u64,
    counters: Counters,
}

impl Direction {
    /// An idle path.
    ///
    /// # Panics
    /// When the loss is not from 0 to 1, the rate is zero, or there is no memory for two packets.
    #[must_use]
    pub fn new(profile: Profile, seed: u64) -> Self {
        assert!((0.0..=1.0).contains(&profile.loss), "a loss of {}", profile.loss);
        assert!(profile.rate_bytes != Some(0), "a rate of nothing carries nothing");
        assert!(profile.in_flight_bytes > 2 * PACKET_BYTES_MAX, "no memory for two packets");
        let ring = vec![0; profile.in_flight_bytes].into_boxed_slice();
        Self {
            profile,
            ring,
            tail: 0,
            packets: VecDeque::new(),
            bottleneck_free: Duration::ZERO,
            random: seed,
            counters: Counters::default(),
        }
    }

    /// Room for one packet of up to [`PACKET_BYTES_MAX`], to be filled before [`Direction::commit`]; `None` when the
    /// memory is full.
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        let Some(head) = self.packets.front().map(|packet| packet.start) else {
            self.tail = 0;
            return Some(&mut self.ring[..PACKET_BYTES_MAX]);
        };
        if self.tail >= head && self.ring.len() - self.tail < PACKET_BYTES_MAX {
            // Bodies are never split: what is left at the end stays unused until the head has passed it.
            if head <= PACKET_BYTES_MAX {
                return None;
            }
            self.tail = 0;
        }
        // One byte stays free between tail and head, or a full ring would look like one that begins anew.
        if self.tail < head && head - self.tail <= PACKET_BYTES_MAX {
            return None;
        }
        Some(&mut self.ring[self.tail..self.tail + PACKET_BYTES_MAX])
    }

    /// Sends the first `len` bytes of the last [`Direction::slot`].
    ///
    /// # Panics
    /// When `len` is zero or more than a packet may have.
    pub fn commit(&mut self, now: Duration, len: usize) -> Fate {
        assert!((1..=PACKET_BYTES_MAX).contains(&len), "a packet of {len} bytes");
        let fate = self.decide(now, len);
        match fate {
            Fate::Carried => {
                let due = self.bottleneck_free.max(now) + self.profile.delay;
                self.packets.push_back(Packet { due, start: self.tail, len });
                self.tail += len;
                self.counters.carried += 1;
                self.counters.carried_bytes += len as u64;
            }
            Fate::Lost => self.counters.lost += 1,
            Fate::QueueFull => self.counters.queue_full += 1,
        }
        fate
    }

    fn decide(&mut self, now: Duration, len: usize) -> Fate {
        let is_lost = self.next_random() < self.profile.loss;
        if let Some(rate) = self.profile.rate_bytes {
            let waiting = self.bottleneck_free.saturating_sub(now);
            let waiting_bytes = waiting.as_nanos() * u128::from(rate) / 1_000_000_000;
            if waiting_bytes + len as u128 > u128::from(self.profile.queue_bytes) {
                return Fate::QueueFull;
            }
            let takes = Duration::from_nanos(len as u64 * 1_000_000_000 / rate);
            self.bottleneck_free = self.bottleneck_free.max(now) + takes;
        }
        // Behind the bottleneck: a lost packet has used its share of the rate, as on a real line.
        if is_lost { Fate::Lost } else { Fate::Carried }
    }

    /// `SplitMix64`, as a number from 0 to below 1.
    fn next_random(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / 2.0_f64.powi(64)
    }

    /// The next packet, if its time has come; it stays until [`Direction::pop`].
    #[must_use]
    pub fn due(&self, now: Duration) -> Option<&[u8]> {
        let packet = self.packets.front().filter(|packet| packet.due <= now)?;
        Some(&self.ring[packet.start..packet.start + packet.len])
    }

    /// Takes the packet that [`Direction::due`] showed off the path.
    pub fn pop(&mut self) {
        self.packets.pop_front();
    }

    /// When the next packet comes out; `None` when none is under way.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.packets.front().map(|packet| packet.due)
    }

    /// What became of the packets so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn send(path: &mut Direction, now: Duration, body: &[u8]) -> Option<Fate> {
        path.slot()?[..body.len()].copy_from_slice(body);
        Some(path.commit(now, body.len()))
    }

    fn receive(path: &mut Direction, now: Duration) -> Option<Vec<u8>> {
        let body = path.due(now)?.to_vec();
        path.pop();
        Some(body)
    }

    #[test]
    fn a_packet_comes_out_after_the_delay_and_not_before() {
        let mut path = Direction::new(Profile { delay: 10 * MS, ..Profile::default() }, 1);
        assert_eq!(send(&mut path, 5 * MS, b"one"), Some(Fate::Carried));
        assert_eq!(path.next_due(), Some(15 * MS));
        assert_eq!(receive(&mut path, 14 * MS), None);
        assert_eq!(receive(&mut path, 15 * MS), Some(b"one".to_vec()));
        assert_eq!(path.next_due(), None);
    }

    #[test]
    fn a_rate_spaces_packets_and_its_queue_drops_the_tail() {
        let profile =
            Profile { rate_bytes: Some(1_000_000), queue_bytes: 3000, delay: MS, ..Profile::default() };
        let mut path = Direction::new(profile, 1);
        let fates: Vec<_> = (0..5).map(|_| send(&mut path, Duration::ZERO, &[7; 1000])).collect();
        let carried = Some(Fate::Carried);
        let full = Some(Fate::QueueFull);
        assert_eq!(fates, [carried, carried, carried, full, full]);
        for n in 1..=3 {
            assert_eq!(path.next_due(), Some(n * MS + MS), "one millisecond for each thousand bytes");
            path.pop();
        }
        // Half of the queue has drained by then.
        assert_eq!(send(&mut path, Duration::from_micros(1500), &[7; 1000]), carried);
        assert_eq!(path.next_due(), Some(4 * MS + MS));
    }

    #[test]
    fn losses_are_as_many_as_asked_for_and_the_same_for_the_same_seed() {
        let fates = |seed| {
            let mut path = Direction::new(Profile { loss: 0.01, ..Profile::default() }, seed);
            let fates: Vec<_> = (0..100_000)
                .map(|_| {
                    let fate = send(&mut path, Duration::ZERO, b"x");
                    path.pop();
                    fate
                })
                .collect();
            (fates, path.counters())
        };
        let (first, counters) = fates(1);
        assert!((900..1100).contains(&counters.lost), "{counters:?}");
        assert_eq!(counters.carried + counters.lost, 100_000);
        assert_eq!(first, fates(1).0);
        assert_ne!(first, fates(2).0);
    }

    #[test]
    fn all_is_lost_or_nothing_at_the_ends_of_the_scale() {
        for (loss, fate) in [(0.0, Fate::Carried), (1.0, Fate::Lost)] {
            let mut path = Direction::new(Profile { loss, ..Profile::default() }, 3);
            assert!((0..1000).all(|_| send(&mut path, Duration::ZERO, b"x") == Some(fate)));
        }
    }

    #[test]
    fn bodies_survive_any_mixture_of_sending_and_receiving_in_order_and_in_bounded_memory() {
        for seed in 0..20 {
            let profile = Profile { in_flight_bytes: 4 * PACKET_BYTES_MAX + 17, ..Profile::default() };
            let mut path = Direction::new(profile, seed);
            let mut random = crate::ramp::Ramp::new(seed).bytes(0, 30_000).into_iter();
            let (mut sent, mut received, mut refused) = (0_u32, 0_u32, 0_u32);
            let body = |n: u32| {
                let len = 4 + (n.wrapping_mul(7919) as usize) % (PACKET_BYTES_MAX - 4);
                let mut body = vec![n.to_le_bytes()[0]; len];
                body[..4].copy_from_slice(&n.to_le_bytes());
                body
            };
            while let Some(choice) = random.next().filter(|_| sent < 2000) {
                if choice < 140 {
                    match send(&mut path, Duration::ZERO, &body(sent)) {
                        Some(fate) => {
                            assert_eq!(fate, Fate::Carried);
                            sent += 1;
                        }
                        None => refused += 1,
                    }
                } else if let Some(found) = receive(&mut path, Duration::ZERO) {
                    assert!(found == body(received), "packet {received}, seed {seed}");
                    received += 1;
                }
            }
            while let Some(found) = receive(&mut path, Duration::ZERO) {
                assert!(found == body(received), "packet {received}, seed {seed}");
                received += 1;
            }
            assert_eq!(sent, received);
            assert!(refused > 0 && sent > 200, "the memory was never full: {sent} sent");
        }
    }
}
