//! A hash table of indices: finds a slab's entry by what the entry says, in 8 bytes a slot.
//!
//! Owns pairs of a hash and an index; what lies at an index is the caller's, who is asked whether it is the right one.
//! The caller's hash must be keyed with a secret, since strangers choose what is hashed.
//!
//! Invariant: linear probing over a power of two, never more than three quarters full; a removed entry leaves no gap
//! between another and its home.

const EMPTY: u32 = u32::MAX;
const LEAST_SLOTS: usize = 8;

#[derive(Debug, Clone, Copy)]
struct Slot {
    hash: u32,
    index: u32,
}

const FREE: Slot = Slot { hash: 0, index: EMPTY };

/// Indices by hash. Several entries may have the same hash.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    used: usize,
}

impl Table {
    /// All indices that were inserted with this hash.
    pub(super) fn all(&self, hash: u32) -> impl Iterator<Item = u32> + '_ {
        let mask = self.slots.len().wrapping_sub(1);
        let home = hash as usize;
        (0..self.slots.len())
            .map(move |step| self.slots[home.wrapping_add(step) & mask])
            .take_while(|slot| slot.index != EMPTY)
            .filter(move |slot| slot.hash == hash)
            .map(|slot| slot.index)
    }

    /// Adds an index, which is not [`u32::MAX`].
    pub(super) fn insert(&mut self, hash: u32, index: u32) {
        debug_assert_ne!(index, EMPTY);
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            self.resize((self.slots.len() * 2).max(LEAST_SLOTS));
        }
        self.put(Slot { hash, index });
        self.used += 1;
    }

    /// Takes an index out again; nothing happens if it is not there.
    pub(super) fn remove(&mut self, hash: u32, index: u32) {
        let mask = self.slots.len().wrapping_sub(1);
        let probes = (0..self.slots.len()).map(|step| (hash as usize).wrapping_add(step) & mask);
        let mut probes = probes.take_while(|&at| self.slots[at].index != EMPTY);
        let Some(mut hole) = probes.find(|&at| self.slots[at].index == index) else { return };
        // What comes behind moves up, unless it would leave its home behind it.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot.index == EMPTY {
                break;
            }
            let from_home = at.wrapping_sub(slot.hash as usize) & mask;
            let from_hole = at.wrapping_sub(hole) & mask;
            if from_home >= from_hole {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = FREE;
        self.used -= 1;
        if self.slots.len() > LEAST_SLOTS && self.used * 8 < self.slots.len() {
            self.resize(self.slots.len() / 2);
        }
    }

    fn put(&mut self, slot: Slot) {
        let mask = self.slots.len() - 1;
        let mut at = slot.hash as usize & mask;
        while self.slots[at].index != EMPTY {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }

    fn resize(&mut self, slots: usize) {
        let old = std::mem::replace(&mut self.slots, vec![FREE; slots]);
        for slot in old.into_iter().filter(|slot| slot.index != EMPTY) {
            self.put(slot);
        }
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Few hashes, at both ends of the range: long runs, and runs that wrap around.
    fn hash_of(index: u32) -> u32 {
        let hash = index % 6;
        if hash.is_multiple_of(2) { hash } else { u32::MAX - hash }
    }

    proptest! {
        #[test]
        fn it_holds_what_a_set_would_hold(steps in prop::collection::vec((0_u32..60, any::<bool>()), 0..300)) {
            let mut table = Table::default();
            let mut model = BTreeSet::new();
            for (index, is_insert) in steps {
                if !is_insert {
                    table.remove(hash_of(index), index);
                    model.remove(&index);
                } else if model.insert(index) {
                    table.insert(hash_of(index), index);
                }
                for hash in (0..6).map(hash_of) {
                    let found: BTreeSet<u32> = table.all(hash).collect();
                    let wanted: BTreeSet<u32> =
                        model.iter().copied().filter(|index| hash_of(*index) == hash).collect();
                    prop_assert_eq!(found, wanted);
                }
            }
        }
    }

    #[test]
    fn an_emptied_table_gives_its_memory_back() {
        let mut table = Table::default();
        assert_eq!(table.all(7).count(), 0);
        table.remove(7, 7);
        (0..10_000).for_each(|index| table.insert(index * 7, index));
        let full = table.heap_bytes();
        (0..10_000).for_each(|index| table.remove(index * 7, index));
        assert_eq!(table.used, 0);
        assert!(table.heap_bytes() < full / 100, "{} of {full}", table.heap_bytes());
    }
}
