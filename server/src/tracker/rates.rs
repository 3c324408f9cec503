//! How often each client may ask, in a table that never grows.
//!
//! Owns one moment for each client that asked lately: when it will have paid for what it asked (the generic cell rate
//! algorithm, which is a token bucket in one number). Is told the time.
//!
//! Invariant: the memory is fixed at the start. Where more clients come than there is room for, the one that has asked
//! least is forgotten, which lets it ask a little more: never less.

use std::time::Duration;

use wtfs_proto::time::Moment;

/// Clients that are remembered. At 16 bytes each that is 1 MiB.
const CLIENTS: usize = 1 << 16;

/// Places at which a client may be remembered.
const WAYS: usize = 8;

#[derive(Debug, Clone, Copy, Default)]
struct Client {
    number: u64,
    paid_ns: u64,
}

/// A rate with a burst.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// Nanoseconds that one request costs.
    cost_ns: u64,
    /// Nanoseconds that may be owed.
    credit_ns: u64,
}

impl Rate {
    /// So many per second, and so many at once (at least one). `None` for no limit, which 0 stands for.
    pub(crate) fn new(per_second: u32, burst: u32) -> Option<Self> {
        let cost_ns = 1_000_000_000_u64.checked_div(u64::from(per_second))?;
        Some(Self { cost_ns, credit_ns: cost_ns * u64::from(burst.max(1)) })
    }

    /// Charges one request that has been served already. Gives how long to wait before the next.
    pub(crate) fn charge_served(&self, now: Moment, paid_ns: &mut u64) -> Duration {
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        *paid_ns = (*paid_ns).max(now_ns).saturating_add(self.cost_ns);
        Duration::from_nanos(paid_ns.saturating_sub(now_ns).saturating_sub(self.credit_ns))
    }

    /// Charges one request to an account that is paid up to a moment; nothing when it has to wait.
    ///
    /// # Errors
    /// How long to wait until the same request would pass.
    pub(crate) fn charge(&self, now: Moment, paid_ns: &mut u64) -> Result<(), Duration> {
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let paid = (*paid_ns).max(now_ns).saturating_add(self.cost_ns);
        match paid.saturating_sub(now_ns).checked_sub(self.credit_ns) {
            Some(over @ 1..) => Err(Duration::from_nanos(over)),
            _ => {
                *paid_ns = paid;
                Ok(())
            }
        }
    }
}

/// The accounts of many clients.
#[derive(Debug)]
pub(crate) struct Rates {
    rate: Option<Rate>,
    clients: Vec<Client>,
    secret: u64,
}

impl Rates {
    /// Without a rate everything passes. `secret` keeps strangers from choosing whose place they take.
    pub(crate) fn new(rate: Option<Rate>, secret: u64) -> Self {
        let clients = if rate.is_some() { vec![Client::default(); CLIENTS] } else { Vec::new() };
        Self { rate, clients, secret }
    }

    /// Charges one request to a client.
    ///
    /// # Errors
    /// How long it has to wait.
    pub(crate) fn charge(&mut self, now: Moment, client: u64) -> Result<(), Duration> {
        let Some(rate) = self.rate else { return Ok(()) };
        let mixed = u128::from(client ^ self.secret) * u128::from(self.secret | 1);
        let number = (mixed as u64) ^ (mixed >> 64) as u64;
        let row = number as usize % (CLIENTS / WAYS) * WAYS;
        let places = &mut self.clients[row..row + WAYS];
        // The number is of the client as good as certainly: the multiplication is odd, and the rest is mixed in.
        if let Some(known) = places.iter_mut().find(|place| place.number == number) {
            return rate.charge(now, &mut known.paid_ns);
        }
        let least = places.iter_mut().min_by_key(|place| place.paid_ns);
        match least {
            Some(place) => {
                *place = Client { number, paid_ns: 0 };
                rate.charge(now, &mut place.paid_ns)
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: u64 = 0x9E37_79B9_7F4A_7C15;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let mut rates = Rates::new(Rate::new(10, 5), SECRET);
        let mut now = Moment::from_secs(100);
        for _ in 0..5 {
            assert_eq!(rates.charge(now, 1), Ok(()));
        }
        assert_eq!(rates.charge(now, 1), Err(Duration::from_millis(100)));
        assert_eq!(rates.charge(now, 2), Ok(()));
        now += Duration::from_millis(100);
        assert_eq!(rates.charge(now, 1), Ok(()));
        assert!(rates.charge(now, 1).is_err());
    }

    #[test]
    fn no_rate_is_no_limit_and_takes_no_memory() {
        let mut rates = Rates::new(Rate::new(0, 5), SECRET);
        assert!((0..10_000).all(|_| rates.charge(Moment::ZERO, 1).is_ok()));
        assert_eq!(rates.clients.capacity(), 0);
    }

    #[test]
    fn a_flood_of_clients_does_not_stop_one_from_being_limited_or_from_asking() {
        let mut rates = Rates::new(Rate::new(1, 10), SECRET);
        for client in 0..1_000_000_u64 {
            assert_eq!(rates.charge(Moment::ZERO, client << 16), Ok(()));
        }
        assert_eq!(rates.clients.len(), CLIENTS);
        let passed = (0..1000).filter(|_| rates.charge(Moment::ZERO, 7).is_ok()).count();
        assert_eq!(passed, 10);
    }

    #[test]
    fn who_waits_after_each_as_told_keeps_to_the_rate() {
        let rate = Rate::new(10, 5).expect("a limit");
        let (mut now, mut paid_ns) = (Moment::from_secs(100), 0);
        for _ in 0..105 {
            now += rate.charge_served(now, &mut paid_ns);
        }
        assert_eq!(now, Moment::from_secs(110));
    }

    proptest! {
        #[test]
        fn no_more_passes_than_burst_and_rate_allow(
            per_second in 1_u32..1000, burst in 1_u32..50, pauses_ms in prop::collection::vec(0_u64..200, 1..200),
        ) {
            let rate = Rate::new(per_second, burst).expect("a limit");
            let (mut now, mut paid_ns, mut passed) = (Moment::from_secs(5), 0, 0_u64);
            for pause in &pauses_ms {
                now += Duration::from_millis(*pause);
                match rate.charge(now, &mut paid_ns) {
                    Ok(()) => passed += 1,
                    Err(wait) => {
                        let mut later = paid_ns;
                        prop_assert_eq!(rate.charge(now + wait, &mut later), Ok(()));
                    }
                }
            }
            let elapsed_ms: u64 = pauses_ms.iter().sum();
            // The cost of one is rounded down to nanoseconds.
            let allowed = u64::from(burst) + elapsed_ms * u64::from(per_second) / 1000 + 1;
            prop_assert!(passed <= allowed, "{} of {}", passed, allowed);
        }
    }
}
