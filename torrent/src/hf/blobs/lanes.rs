//! How many requests go to origins at once, and who goes first.
//!
//! Every request holds a [`Lane`]: one place of its origin's site, and one of the memory that its bytes take on their way to
//! the disk. What reads wait for has places of its own at each site, and whoever fetches for later, or has had its turn,
//! gives its lane up while a read waits for one ([`Lane::is_wanted`]).
//!
//! Invariant: no more lanes than the memory allows, whatever the number of blobs, readers and sites.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::board::Class;

/// Bytes of one flight between the network and the disk: one batch that arrives while another is written.
pub(super) const BATCH_BYTES: u64 = 512 << 10;

/// Requests to one site at once. Upstreams that count connections allow more; a slow one gains nothing by more.
const MAX_PER_SITE: usize = 32;

/// Of those, for what no read waits for.
const MAX_BACKGROUND_PER_SITE: usize = 20;

/// Flights at once over all sites, whatever the memory.
const FLIGHTS: std::ops::RangeInclusive<u64> = 4..=64;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Lanes {
    memory: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    sites: Mutex<HashMap<String, Weak<Site>>>,
}

#[derive(Debug)]
struct Site {
    all: Arc<Semaphore>,
    background: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// The right to one request. Dropped, the next one goes.
#[derive(Debug)]
pub(super) struct Lane {
    site: Arc<Site>,
    waiting: Arc<AtomicUsize>,
    _places: (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>),
}

impl Lanes {
    /// Lanes for as many flights as `memory_bytes` hold.
    pub(super) fn new(memory_bytes: u64) -> Self {
        let flights = (memory_bytes / (2 * BATCH_BYTES)).clamp(*FLIGHTS.start(), *FLIGHTS.end());
        Self {
            memory: Arc::new(Semaphore::new(usize::try_from(flights).unwrap_or(1))),
            waiting: Arc::default(),
            sites: Mutex::default(),
        }
    }

    /// Waits for a lane to a site.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn take(&self, site: &str, class: Class) -> Lane {
        let site = self.site(site);
        let _waits = (class == Class::Demand)
            .then(|| (Waits::begin(site.waiting.clone()), Waits::begin(self.waiting.clone())));
        // None of these is ever closed.
        let background = match class {
            Class::Demand => None,
            Class::Ahead | Class::Fill => site.background.clone().acquire_owned().await.ok(),
        };
        let place = site.all.clone().acquire_owned().await.ok();
        let memory = self.memory.clone().acquire_owned().await.ok();
        Lane { site, waiting: self.waiting.clone(), _places: (background, place, memory) }
    }

    fn site(&self, name: &str) -> Arc<Site> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(site) = sites.get(name).and_then(Weak::upgrade) {
            return site;
        }
        sites.retain(|_, site| site.strong_count() > 0);
        let site = Arc::new(Site {
            all: Arc::new(Semaphore::new(MAX_PER_SITE)),
            background: Arc::new(Semaphore::new(MAX_BACKGROUND_PER_SITE)),
            waiting: Arc::default(),
        });
        sites.insert(name.to_owned(), Arc::downgrade(&site));
        site
    }
}

impl Lane {
    /// Whether a read waits for a lane that this one may be in the way of.
    pub(super) fn is_wanted(&self) -> bool {
        let is_full = |places: &Semaphore| places.available_permits() == 0;
        (self.site.waiting.load(Ordering::Relaxed) > 0 && is_full(&self.site.all))
            || self.waiting.load(Ordering::Relaxed) > self.site.waiting.load(Ordering::Relaxed)
    }
}

/// Counts one who waits, for as long as it lives.
struct Waits(Arc<AtomicUsize>);

impl Waits {
    fn begin(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn background_leaves_places_for_reads_and_is_told_when_a_read_waits() {
        let lanes = Lanes::new(u64::MAX);
        let take = |class| lanes.take("a", class).now_or_never();
        let mut held: Vec<Lane> = (0..MAX_BACKGROUND_PER_SITE).filter_map(|_| take(Class::Fill)).collect();
        assert_eq!(held.len(), MAX_BACKGROUND_PER_SITE);
        assert!(take(Class::Ahead).is_none());
        held.extend((MAX_BACKGROUND_PER_SITE..MAX_PER_SITE).filter_map(|_| take(Class::Demand)));
        assert_eq!(held.len(), MAX_PER_SITE);
        assert!(!held[0].is_wanted());
        let mut waiting = Box::pin(lanes.take("a", Class::Demand));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(held[0].is_wanted());
        assert!(lanes.take("b", Class::Demand).now_or_never().is_some(), "another site has its own");
        held.pop();
        assert!(waiting.as_mut().now_or_never().is_some());
        assert!(!held[0].is_wanted());
    }

    #[test]
    fn memory_bounds_all_sites_together() {
        let lanes = Lanes::new(0);
        let sites = ["a", "b", "c", "d"];
        let held: Vec<Lane> =
            sites.iter().filter_map(|site| lanes.take(site, Class::Demand).now_or_never()).collect();
        assert_eq!(held.len() as u64, *FLIGHTS.start());
        let mut waiting = Box::pin(lanes.take("e", Class::Demand));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(held[0].is_wanted());
    }
}
