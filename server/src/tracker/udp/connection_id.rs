//! Connection ids that need no memory: a keyed hash of the client's address.
//!
//! Owns two keys. A key is used for two minutes to issue ids and for two more to accept them, so that an id is good for
//! two minutes at least (BEP 15 has clients use one for a minute) and four at most.
//!
//! Invariant: who has not received an id at an address cannot name it.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use wtfs_proto::time::Moment;

/// How long a key issues ids.
const PERIOD: Duration = Duration::from_secs(120);

/// The keys, and since when the newer one is used.
#[derive(Debug)]
pub(super) struct ConnectionIds {
    current: RandomState,
    previous: RandomState,
    since: Moment,
}

impl ConnectionIds {
    pub(super) fn new(now: Moment) -> Self {
        Self { current: RandomState::new(), previous: RandomState::new(), since: now }
    }

    /// The id of a client.
    pub(super) fn issue(&mut self, now: Moment, ip: IpAddr) -> u64 {
        self.rotate(now);
        self.current.hash_one(ip)
    }

    /// Whether a client was given this id lately.
    pub(super) fn is_issued(&mut self, now: Moment, ip: IpAddr, id: u64) -> bool {
        self.rotate(now);
        id == self.current.hash_one(ip) || id == self.previous.hash_one(ip)
    }

    fn rotate(&mut self, now: Moment) {
        let age = now.saturating_sub(self.since);
        if age < PERIOD {
            return;
        }
        self.previous = std::mem::take(&mut self.current);
        if age >= 2 * PERIOD {
            // Nobody has asked for so long that the key before is too old as well.
            self.previous = RandomState::new();
        }
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_good_for_two_minutes_from_its_address_alone() {
        let (one, other) = (IpAddr::from([1, 2, 3, 4]), IpAddr::from([1, 2, 3, 5]));
        let start = Moment::from_secs(1000);
        let mut ids = ConnectionIds::new(start);
        let late = start + PERIOD - Duration::from_secs(1);
        let id = ids.issue(late, one);
        assert!(ids.is_issued(late, one, id));
        assert!(!ids.is_issued(late, other, id));
        assert!(!ids.is_issued(late, one, id ^ 1));
        assert!(ids.is_issued(late + PERIOD, one, id), "two minutes later");
        assert_ne!(ids.issue(late + PERIOD, one), id, "the key is another");
        assert!(!ids.is_issued(late + 2 * PERIOD, one, id), "four minutes later");
    }

    #[test]
    fn a_quiet_time_makes_old_ids_void() {
        let ip = IpAddr::from([1, 2, 3, 4]);
        let mut ids = ConnectionIds::new(Moment::ZERO);
        let id = ids.issue(Moment::ZERO, ip);
        assert!(!ids.is_issued(2 * PERIOD, ip, id));
    }
}
