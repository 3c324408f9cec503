//! Addresses we could connect to, and when to try which.
//!
//! Owns the list and its back-off; never connects. Invariant: it holds at most [`MAX_CANDIDATES`] addresses, an
//! address at most once, and never a banned one.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use wtfs_proto::time::Moment;

use super::bans::Known;

/// Enough for any swarm a reader needs; trackers and peers may send any number.
const MAX_CANDIDATES: usize = 2000;

/// Addresses that are not talked to again; the oldest is forgotten first.
const MAX_BANNED: usize = 4096;

const FIRST_RETRY: Moment = Moment::from_secs(1);
const LONGEST_RETRY: Moment = Moment::from_secs(300);
/// Peers the user named are there for a reason: they are tried often for as long as it takes.
const LONGEST_RETRY_GIVEN: Moment = Moment::from_secs(10);
/// While a read waits, nobody is left untried for longer than this.
const LONGEST_RETRY_NEEDED: Moment = Moment::from_secs(3);

/// Where an address came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// The user, or the magnet's `x.pe`.
    Given,
    /// A tracker.
    Tracker,
    /// Another peer (BEP 11).
    Exchange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Busy,
}

#[derive(Debug)]
struct Candidate {
    origin: Origin,
    state: State,
    failures: u32,
    retry_at: Moment,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Candidates {
    known: HashMap<SocketAddr, Candidate>,
    banned: Known<IpAddr>,
}

impl Default for Candidates {
    fn default() -> Self {
        Self { known: HashMap::new(), banned: Known::new(MAX_BANNED) }
    }
}

impl Candidates {
    pub(super) fn add(&mut self, addr: SocketAddr, origin: Origin) {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let is_useless = addr.port() == 0 || addr.ip().is_unspecified() || addr.ip().is_multicast();
        if is_useless || self.banned.contains(&addr.ip()) {
            return;
        }
        if let Some(known) = self.known.get_mut(&addr) {
            known.origin = known.origin.min(origin);
            return;
        }
        if self.known.len() >= MAX_CANDIDATES {
            let worst = self
                .known
                .iter()
                .filter(|(_, c)| c.state == State::Idle && c.failures > 0 && c.origin > Origin::Given)
                .max_by_key(|(_, c)| c.failures)
                .map(|(addr, _)| *addr);
            match worst {
                Some(worst) => self.known.remove(&worst),
                None => return,
            };
        }
        let candidate = Candidate { origin, state: State::Idle, failures: 0, retry_at: Moment::ZERO };
        self.known.insert(addr, candidate);
    }

    /// Up to `most` addresses to connect to now; they count as busy until reported.
    pub(super) fn take(&mut self, now: Moment, most: usize, is_needed: bool) -> Vec<SocketAddr> {
        let mut due: Vec<(u32, Origin, SocketAddr)> = self
            .known
            .iter()
            .filter(|(_, c)| c.state == State::Idle && c.is_due(now, is_needed))
            .map(|(addr, c)| (c.failures, c.origin, *addr))
            .collect();
        due.sort_unstable();
        due.truncate(most);
        for (_, _, addr) in &due {
            if let Some(candidate) = self.known.get_mut(addr) {
                candidate.state = State::Busy;
            }
        }
        due.into_iter().map(|(_, _, addr)| addr).collect()
    }

    /// The connection was made; it stays busy until [`Self::handle_closed`].
    pub(super) fn handle_connected(&mut self, addr: SocketAddr) {
        if let Some(candidate) = self.known.get_mut(&addr) {
            candidate.state = State::Busy;
            candidate.failures = 0;
        }
    }

    /// No connection came about, or one ended.
    pub(super) fn handle_closed(&mut self, addr: SocketAddr, now: Moment) {
        if let Some(candidate) = self.known.get_mut(&addr) {
            candidate.state = State::Idle;
            let wait = FIRST_RETRY * 2_u32.saturating_pow(candidate.failures.min(16));
            candidate.retry_at = now + wait.min(candidate.longest_retry());
            candidate.failures = candidate.failures.saturating_add(1);
        }
    }

    /// It is ourselves, or of no use: never try it again.
    pub(super) fn forget(&mut self, addr: SocketAddr) {
        self.known.remove(&addr);
    }

    /// Never talk to this address again.
    pub(super) fn ban(&mut self, ip: IpAddr) {
        self.banned.add(ip);
        self.known.retain(|addr, _| addr.ip() != ip);
    }

    pub(super) fn is_banned(&self, ip: IpAddr) -> bool {
        self.banned.contains(&ip)
    }

    /// When the next address is to be tried, if any is known.
    pub(super) fn next_retry(&self) -> Option<Moment> {
        self.known.values().filter(|c| c.state == State::Idle).map(|c| c.retry_at).min()
    }

    /// Addresses that are not connected.
    pub(super) fn idle_count(&self) -> usize {
        self.known.values().filter(|c| c.state == State::Idle).count()
    }
}

impl Candidate {
    fn longest_retry(&self) -> Moment {
        if self.origin == Origin::Given { LONGEST_RETRY_GIVEN } else { LONGEST_RETRY }
    }

    fn is_due(&self, now: Moment, is_needed: bool) -> bool {
        let ahead = self.retry_at.saturating_sub(now);
        // A wait that was long when it began is cut short once somebody waits for data.
        let patience =
            if is_needed { self.longest_retry().saturating_sub(LONGEST_RETRY_NEEDED) } else { Moment::ZERO };
        ahead <= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 6881))
    }

    #[test]
    fn an_address_is_tried_once_at_a_time_and_backs_off() {
        let mut c = Candidates::default();
        c.add(addr(1), Origin::Tracker);
        c.add(addr(1), Origin::Exchange);
        assert_eq!(c.take(Moment::ZERO, 9, false), [addr(1)]);
        assert!(c.take(Moment::ZERO, 9, false).is_empty());
        c.handle_closed(addr(1), Moment::ZERO);
        assert!(c.take(Moment::from_millis(900), 9, false).is_empty());
        assert_eq!(c.take(Moment::from_secs(1), 9, false), [addr(1)]);
        c.handle_closed(addr(1), Moment::from_secs(1));
        assert!(c.take(Moment::from_secs(2), 9, false).is_empty());
        assert_eq!(c.take(Moment::from_secs(3), 9, false), [addr(1)]);
    }

    #[test]
    fn given_addresses_come_first_and_banned_ones_never() {
        let mut c = Candidates::default();
        c.add(addr(1), Origin::Exchange);
        c.add(addr(2), Origin::Given);
        c.add(addr(3), Origin::Tracker);
        assert_eq!(c.take(Moment::ZERO, 2, false), [addr(2), addr(3)]);
        c.ban(addr(1).ip());
        c.add(addr(1), Origin::Given);
        assert!(c.take(Moment::ZERO, 9, false).is_empty());
    }

    #[test]
    fn the_list_is_bounded() {
        let mut c = Candidates::default();
        for n in 0..5000 {
            c.add(addr(n), Origin::Tracker);
        }
        assert_eq!(c.idle_count(), MAX_CANDIDATES);
        c.add(SocketAddr::from(([0, 0, 0, 0], 1)), Origin::Given);
        c.add(SocketAddr::from(([1, 1, 1, 1], 0)), Origin::Given);
        assert_eq!(c.idle_count(), MAX_CANDIDATES);
    }
}
