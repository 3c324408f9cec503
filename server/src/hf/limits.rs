//! How many downloads of files that are not here yet one client may have under way. What is here costs upstream nothing
//! and is not counted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

type Taken = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// The places of all clients. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    of_one: usize,
    taken: Taken,
}

/// One download's place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    client: IpAddr,
    taken: Taken,
}

impl Limits {
    pub(crate) fn new(of_one: usize) -> Self {
        Self { of_one: of_one.max(1), taken: Arc::default() }
    }

    /// A place for a client, if it has one left. A network of IPv6 counts as one client: one host has all of it.
    pub(crate) fn take(&self, client: IpAddr) -> Option<Place> {
        let client = match client.to_canonical() {
            IpAddr::V6(addr) => Ipv6Addr::from_bits(addr.to_bits() & (u128::MAX << 64)).into(),
            v4 => v4,
        };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(client).or_insert(0);
        if *count >= self.of_one {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Place { client, taken: self.taken.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = taken.entry(self.client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_with_its_share_under_way_waits_and_others_do_not() {
        let limits = Limits::new(2);
        let take = |addr: &str| limits.take(addr.parse().expect("an address"));
        let first = take("10.0.0.1").expect("free");
        let _second = take("::ffff:10.0.0.1").expect("free");
        assert!(take("10.0.0.1").is_none() && take("10.0.0.2").is_some());
        drop(first);
        assert!(take("10.0.0.1").is_some());
        let _both = (take("2001:db8::1").expect("free"), take("2001:db8::2").expect("free"));
        assert!(take("2001:db8::3").is_none());
        assert_eq!(limits.taken.lock().expect("whole").len(), 2);
    }
}
