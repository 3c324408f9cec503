//! How many connections to strangers may be under way, of all trackers' sockets together, and who gets the next.
//!
//! A connection that is being made costs sockets and a place among those the session may have, whether anything comes of
//! it or not, and a torrent may name many trackers that make up peers. So each socket has places that are its own, and the
//! rest is shared: of that nobody gets more than an equal part. However many trackers are hostile, the peers of an honest
//! one still get in.
//!
//! Pure but for its lock. Invariant: there are never more places than `own * sockets + shared`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What there is to share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portions {
    /// Places that are a socket's own.
    pub(super) own: usize,
    /// Places for whoever comes first, in equal parts.
    pub(super) shared: usize,
}

/// All sockets' places. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Shares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    portions: Portions,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sockets: usize,
    /// Of the shared places those that are taken.
    shared: usize,
}

/// One socket's part.
#[derive(Debug)]
pub(super) struct Share {
    all: Shares,
    /// Its places that are taken.
    taken: Arc<Mutex<usize>>,
}

/// A place; dropped, it is free.
#[derive(Debug)]
pub(super) struct Place {
    all: Shares,
    taken: Arc<Mutex<usize>>,
}

impl Shares {
    pub(super) fn new(portions: Portions) -> Self {
        Self(Arc::new(Inner { portions, state: Mutex::default() }))
    }

    /// Another socket takes part, as long as its share is there.
    pub(super) fn join(&self) -> Share {
        lock(&self.0.state).sockets += 1;
        Share { all: self.clone(), taken: Arc::default() }
    }
}

impl Share {
    /// A place, if there is one now.
    pub(super) fn take(&self) -> Option<Place> {
        let Inner { portions, state } = &*self.all.0;
        let (mut taken, mut state) = (lock(&self.taken), lock(state));
        if *taken >= portions.own {
            let part = (portions.shared / state.sockets.max(1)).max(1);
            if state.shared >= portions.shared || *taken - portions.own >= part {
                return None;
            }
            state.shared += 1;
        }
        *taken += 1;
        Some(Place { all: self.all.clone(), taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        lock(&self.all.0.state).sockets -= 1;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Inner { portions, state } = &*self.all.0;
        let (mut taken, mut state) = (lock(&self.taken), lock(state));
        *taken -= 1;
        // Those beyond its own are given back first.
        if *taken >= portions.own {
            state.shared -= 1;
        }
    }
}

/// Each step is a plain assignment: a panic leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(share: &Share) -> Vec<Place> {
        std::iter::from_fn(|| share.take()).collect()
    }

    #[test]
    fn who_is_alone_gets_all_there_is() {
        let shares = Shares::new(Portions { own: 1, shared: 64 });
        let alone = shares.join();
        let places = take_all(&alone);
        assert_eq!(places.len(), 65);
        drop(places);
        assert_eq!(take_all(&alone).len(), 65);
    }

    #[test]
    fn however_many_are_greedy_who_comes_last_gets_in_at_once() {
        let shares = Shares::new(Portions { own: 1, shared: 8 });
        let greedy: Vec<_> = (0..63).map(|_| shares.join()).collect();
        let held: Vec<_> = greedy.iter().map(take_all).collect();
        assert_eq!(held.iter().map(Vec::len).sum::<usize>(), 63 + 8);
        let honest = shares.join();
        let place = honest.take();
        assert!(place.is_some());
        assert!(honest.take().is_none());
        drop(place);
        assert!(honest.take().is_some());
    }

    #[test]
    fn who_has_more_than_an_equal_part_gets_no_more_until_it_has_less() {
        let shares = Shares::new(Portions { own: 1, shared: 8 });
        let first = shares.join();
        let mut places = take_all(&first);
        assert_eq!(places.len(), 9);
        let second = shares.join();
        let mut others = take_all(&second);
        assert_eq!(others.len(), 1, "its own");
        // Of what is freed the one that was greedy gets nothing until the other has as much.
        while places.len() > 5 {
            places.pop();
            assert!(first.take().is_none());
            others.extend(second.take());
        }
        assert_eq!(others.len(), 5);
        assert!(second.take().is_none());
        drop(others);
        drop(second);
        places.extend(take_all(&first));
        assert_eq!(places.len(), 9);
    }

    #[test]
    fn places_outlive_their_share_and_are_counted_until_they_go() {
        let shares = Shares::new(Portions { own: 1, shared: 2 });
        let gone = shares.join();
        let places = take_all(&gone);
        drop(gone);
        let next = shares.join();
        assert_eq!(take_all(&next).len(), 1);
        drop(places);
        assert_eq!(take_all(&next).len(), 3);
    }
}
