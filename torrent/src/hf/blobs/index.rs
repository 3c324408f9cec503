//! What there is of all blobs: which are whole, how much each takes up, when each was used last; and who works on one now.
//!
//! In memory, made from one look at the directory when the session opens; nothing is hashed for it. Invariants: the sum of
//! what is stored here is what the budget counts of the blobs; at most one [`State`] is alive for a blob of a length.

use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use wtfs_proto::hf::ContentId;

use super::place::{Found, FoundKind};
use super::state::State;

/// A blob and the length that somebody says it has.
pub(super) type Key = (ContentId, u64);

/// What there is of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: FoundKind,
    /// Bytes that the budget counts.
    pub(super) stored: u64,
    /// By the budget's clock.
    pub(super) touched: u32,
    /// Whether that is new since it was saved.
    is_touched: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: BTreeMap<Key, Entry>,
    live: HashMap<Key, Weak<State>>,
    /// Being removed.
    going: HashSet<Key>,
}

/// A change of what is stored, for the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) old: u64,
    pub(super) new: u64,
}

/// Sums for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) whole: u64,
    pub(super) whole_bytes: u64,
    pub(super) partial: u64,
    pub(super) partial_bytes: u64,
}

impl Index {
    /// Takes over what was found on the disk; returns how many bytes it is. A partial file of a blob that is whole too is
    /// returned as one to remove.
    pub(super) fn fill(&mut self, found: Vec<Found>, age: impl Fn(SystemTime) -> u32) -> (u64, Vec<Key>) {
        let mut doubles = Vec::new();
        let mut sum = 0;
        for found in found {
            let key = (found.id, found.bytes);
            let entry = Entry {
                kind: found.kind,
                stored: found.disk_bytes,
                touched: age(found.used_at),
                is_touched: false,
            };
            // Whole ones are found first.
            match self.entries.entry(key) {
                MapEntry::Occupied(_) => doubles.push(key),
                MapEntry::Vacant(place) => {
                    sum += entry.stored;
                    place.insert(entry);
                }
            }
        }
        (sum, doubles)
    }

    pub(super) fn entry(&self, key: &Key) -> Option<Entry> {
        self.entries.get(key).copied()
    }

    /// Whether the blob is whole in another length: then who says this one is wrong.
    pub(super) fn is_whole_otherwise(&self, key: &Key) -> bool {
        let same_id = self.entries.range((key.0, 0)..=(key.0, u64::MAX));
        same_id.into_iter().any(|(other, entry)| other.1 != key.1 && entry.kind == FoundKind::Whole)
    }

    /// Says what there is of a blob now.
    #[must_use]
    pub(super) fn set(&mut self, key: Key, kind: FoundKind, stored: u64, now: u32) -> Change {
        let new = Entry { kind, stored, touched: now, is_touched: true };
        let old = self.entries.insert(key, new).map_or(0, |entry| entry.stored);
        Change { old, new: stored }
    }

    /// More of a partial blob is stored.
    #[must_use]
    pub(super) fn grow(&mut self, key: Key, by: u64, now: u32) -> Change {
        let old = self.entries.get(&key).map_or(0, |entry| entry.stored);
        self.set(key, FoundKind::Partial, old + by, now)
    }

    /// Less of a partial blob is stored.
    #[must_use]
    pub(super) fn shrink(&mut self, key: Key, by: u64) -> Change {
        match self.entries.get_mut(&key) {
            Some(entry) => {
                let old = entry.stored;
                entry.stored = old.saturating_sub(by);
                Change { old, new: entry.stored }
            }
            None => Change { old: 0, new: 0 },
        }
    }

    /// There is nothing of a blob any more.
    #[must_use]
    pub(super) fn remove(&mut self, key: &Key) -> Change {
        Change { old: self.entries.remove(key).map_or(0, |entry| entry.stored), new: 0 }
    }

    pub(super) fn touch(&mut self, key: &Key, now: u32) {
        if let Some(entry) = self.entries.get_mut(key)
            && entry.touched != now
        {
            (entry.touched, entry.is_touched) = (now, true);
        }
    }

    /// The state of a blob, made if there is none alive.
    pub(super) fn state(&mut self, key: Key, make: impl FnOnce(Option<Entry>) -> Arc<State>) -> Arc<State> {
        if let Some(state) = self.live.get(&key).and_then(Weak::upgrade) {
            return state;
        }
        let state = make(self.entries.get(&key).copied());
        self.live.insert(key, Arc::downgrade(&state));
        state
    }

    pub(super) fn live(&self, key: &Key) -> Option<Arc<State>> {
        self.live.get(key).and_then(Weak::upgrade)
    }

    pub(super) fn all_live(&self) -> Vec<Arc<State>> {
        self.live.values().filter_map(Weak::upgrade).collect()
    }

    /// Forgets states that are gone.
    pub(super) fn sweep(&mut self) {
        self.live.retain(|_, state| state.strong_count() > 0);
    }

    /// Every blob there is, for who chooses what goes.
    pub(super) fn all(&self) -> Vec<(Key, Entry)> {
        self.entries.iter().map(|(key, entry)| (*key, *entry)).collect()
    }

    /// A blob is about to be removed, or is.
    pub(super) fn set_going(&mut self, key: Key, going: Going) {
        match going {
            Going::Begins => self.going.insert(key),
            Going::Over => self.going.remove(&key),
        };
    }

    pub(super) fn is_going(&self, key: &Key) -> bool {
        self.going.contains(key)
    }

    /// The blobs that were used since the last time, and when.
    pub(super) fn take_touched(&mut self) -> Vec<(Key, FoundKind, u32)> {
        let touched = self.entries.iter_mut().filter(|(_, entry)| entry.is_touched);
        touched
            .map(|(key, entry)| {
                entry.is_touched = false;
                (*key, entry.kind, entry.touched)
            })
            .collect()
    }

    pub(super) fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for entry in self.entries.values() {
            match entry.kind {
                FoundKind::Whole => {
                    sums.whole += 1;
                    sums.whole_bytes += entry.stored;
                }
                FoundKind::Partial => {
                    sums.partial += 1;
                    sums.partial_bytes += entry.stored;
                }
            }
        }
        sums
    }
}

/// Whether a removal begins or is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Going {
    Begins,
    Over,
}
