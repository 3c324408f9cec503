//! How many downloads of files that are not here yet one client may have under way. What is here costs upstream nothing
//! and is not counted. Who has all places taken waits for one: many machines may come by one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many may wait for each place; more are refused at once.
const WAITING_FOR_EACH: usize = 15;

type Taken = Arc<Mutex<HashMap<IpAddr, Seats>>>;

/// The places of one client.
#[derive(Debug)]
struct Seats {
    places: Arc<Semaphore>,
    /// Who has one or waits for one.
    guests: usize,
}

/// The places of all clients. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    of_one: usize,
    taken: Taken,
}

/// One download's place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    _guest: Guest,
}

/// Who has a place or waits for one.
#[derive(Debug)]
struct Guest {
    client: IpAddr,
    taken: Taken,
}

/// What counts as one client: an address, or a network of IPv6, for one host has all of it.
pub(crate) fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(addr) => Ipv6Addr::from_bits(addr.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

impl Limits {
    pub(crate) fn new(of_one: usize) -> Self {
        Self { of_one: of_one.clamp(1, Semaphore::MAX_PERMITS >> 8), taken: Arc::default() }
    }

    /// A place for a client ([`network_of`]), if one is free within `patience`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn take(&self, client: IpAddr, patience: Duration) -> Option<Place> {
        let client = network_of(client);
        let (places, guest) = {
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Seats { places: Arc::new(Semaphore::new(self.of_one)), guests: 0 };
            let seats = taken.entry(client).or_insert_with(new);
            if seats.guests >= self.of_one * (1 + WAITING_FOR_EACH) {
                return None;
            }
            seats.guests += 1;
            (seats.places.clone(), Guest { client, taken: self.taken.clone() })
        };
        let permit = tokio::time::timeout(patience, places.acquire_owned()).await.ok()?.ok()?;
        Some(Place { _permit: permit, _guest: guest })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut seats) = taken.entry(self.client) {
            seats.get_mut().guests -= 1;
            if seats.get().guests == 0 {
                seats.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn take(limits: &Limits, addr: &str) -> Option<Place> {
        limits.take(addr.parse().expect("an address"), Duration::ZERO).await
    }

    #[tokio::test]
    async fn a_client_with_its_share_under_way_waits_and_others_do_not() {
        let limits = Limits::new(2);
        let first = take(&limits, "10.0.0.1").await.expect("free");
        let _second = take(&limits, "::ffff:10.0.0.1").await.expect("free");
        assert!(take(&limits, "10.0.0.1").await.is_none() && take(&limits, "10.0.0.2").await.is_some());
        drop(first);
        assert!(take(&limits, "10.0.0.1").await.is_some());
        let _one = take(&limits, "2001:db8::1").await.expect("free");
        let _other = take(&limits, "2001:db8::2").await.expect("free");
        assert!(take(&limits, "2001:db8::3").await.is_none());
        assert_eq!(limits.taken.lock().expect("whole").len(), 2);
    }

    #[tokio::test]
    async fn who_waits_has_the_place_that_becomes_free() {
        let limits = Limits::new(1);
        let first = take(&limits, "10.0.0.1").await.expect("free");
        let waiting = limits.clone();
        let next = tokio::spawn(async move {
            waiting.take("10.0.0.1".parse().expect("an address"), Duration::from_secs(600)).await
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(next.await.expect("it ends").is_some());
        assert!(limits.taken.lock().expect("whole").is_empty());
    }

    #[tokio::test]
    async fn no_more_wait_than_may() {
        let limits = Limits::new(1);
        let client: IpAddr = "10.0.0.1".parse().expect("an address");
        let _first = take(&limits, "10.0.0.1").await.expect("free");
        let mut waiting = Vec::new();
        for _ in 0..WAITING_FOR_EACH {
            let limits = limits.clone();
            waiting.push(tokio::spawn(async move { limits.take(client, Duration::from_secs(600)).await }));
        }
        while limits.taken.lock().expect("whole")[&client].guests <= WAITING_FOR_EACH {
            tokio::task::yield_now().await;
        }
        assert!(limits.take(client, Duration::from_secs(600)).await.is_none());
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
