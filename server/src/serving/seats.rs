//! How many connections there may be: in all, and from one address.
//!
//! A proxy has as many as it likes: behind it are many. An IPv6 network of 64 bits counts as one address, since one host has all of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::client_addr::TrustedProxies;

/// The places of a server.
#[derive(Debug, Clone)]
pub(crate) struct Seats {
    all: Arc<Semaphore>,
    of_one: usize,
    proxies: TrustedProxies,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place among all, not yet given to an address.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

/// One connection's place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    _place: Place,
    network: IpAddr,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Seats {
    pub(crate) fn new(all: usize, of_one: usize, proxies: TrustedProxies) -> Self {
        let all = Arc::new(Semaphore::new(all.clamp(1, Semaphore::MAX_PERMITS)));
        Self { all, of_one: of_one.max(1), proxies, taken: Arc::default() }
    }

    /// Waits for a place among all.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is taken.
    pub(crate) async fn place(&self) -> Option<Place> {
        // Never closed.
        self.all.clone().acquire_owned().await.ok().map(|permit| Place { _permit: permit })
    }

    /// A place among all if one is free now.
    pub(crate) fn try_place(&self) -> Option<Place> {
        self.all.clone().try_acquire_owned().ok().map(|permit| Place { _permit: permit })
    }

    /// How many places among all are free.
    pub(crate) fn free(&self) -> usize {
        self.all.available_permits()
    }

    /// Gives the place to an address, unless it has its share.
    pub(crate) fn seat(&self, place: Place, addr: IpAddr) -> Option<Seat> {
        let network = network(addr);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(network).or_insert(0);
        if *count >= self.of_one && !self.proxies.trusts(addr) {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Seat { _place: place, network, taken: self.taken.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = taken.entry(self.network) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

fn network(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => Ipv6Addr::from_bits(addr.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn place(seats: &Seats) -> Option<Place> {
        seats.place().now_or_never().flatten()
    }

    #[test]
    fn one_address_gets_its_share_and_no_more_until_one_is_free_again() {
        let seats = Seats::new(10, 2, TrustedProxies::default());
        let take = |addr: &str| seats.seat(place(&seats)?, addr.parse().expect("an address"));
        let first = take("10.0.0.1").expect("free");
        let _second = take("::ffff:10.0.0.1").expect("free");
        assert!(take("10.0.0.1").is_none());
        assert!(take("10.0.0.2").is_some());
        drop(first);
        assert!(take("10.0.0.1").is_some());
        let _third = take("2001:db8::1").expect("free");
        let _fourth = take("2001:db8::2").expect("free");
        assert!(take("2001:db8::3").is_none() && take("2001:db8:0:1::3").is_some());
        assert_eq!(seats.taken.lock().expect("whole").len(), 2);
    }

    #[test]
    fn a_proxy_is_not_counted() {
        let proxies = TrustedProxies::parse(["10.0.0.0/8"]).expect("a network");
        let seats = Seats::new(10, 1, proxies);
        let take = |addr: &str| seats.seat(place(&seats)?, addr.parse().expect("an address"));
        let seated = ["10.0.0.1", "10.0.0.1", "10.0.0.1", "11.0.0.1"].map(take);
        assert!(seated.iter().all(Option::is_some));
        assert!(take("11.0.0.1").is_none());
    }

    #[test]
    fn a_refused_address_takes_no_place_from_others() {
        let seats = Seats::new(2, 1, TrustedProxies::default());
        let one = "10.0.0.1".parse().expect("an address");
        let _seat = seats.seat(place(&seats).expect("free"), one).expect("free");
        assert!(seats.seat(place(&seats).expect("free"), one).is_none());
        let other = place(&seats).expect("free again");
        assert!(place(&seats).is_none());
        drop(other);
    }
}
