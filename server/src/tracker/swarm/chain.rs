//! A slab whose entries stand in a row from the one touched longest ago to the one touched last.
//!
//! Owns the entries and their order; says nothing of time. Looking at the oldest is all that expiry takes.
//!
//! Invariant: an index stays the same while its entry lives; a freed one is used again before the slab grows.

use std::ops::{Index, IndexMut};

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Node<T> {
    older: u32,
    newer: u32,
    value: T,
}

/// Entries by index, in the order of their last touch.
#[derive(Debug)]
pub(super) struct Chain<T> {
    nodes: Vec<Node<T>>,
    oldest: u32,
    newest: u32,
    /// The first of the free nodes, which are linked by `newer`.
    free: u32,
    len: usize,
}

impl<T> Default for Chain<T> {
    fn default() -> Self {
        Self { nodes: Vec::new(), oldest: NONE, newest: NONE, free: NONE, len: 0 }
    }
}

impl<T: Default> Chain<T> {
    /// How many entries there are.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Adds an entry as the newest. `None` when there are as many as an index can tell apart.
    pub(super) fn insert(&mut self, value: T) -> Option<u32> {
        let node = Node { older: NONE, newer: NONE, value };
        let index = if self.free == NONE {
            let index = u32::try_from(self.nodes.len()).ok().filter(|&index| index != NONE)?;
            self.nodes.push(node);
            index
        } else {
            let index = self.free;
            self.free = self.nodes[index as usize].newer;
            self.nodes[index as usize] = node;
            index
        };
        self.link_newest(index);
        self.len += 1;
        Some(index)
    }

    /// Takes an entry out. Its index must be of a living entry.
    pub(super) fn remove(&mut self, index: u32) -> T {
        self.unlink(index);
        let node = &mut self.nodes[index as usize];
        let value = std::mem::take(&mut node.value);
        node.newer = self.free;
        self.free = index;
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
        }
        value
    }

    /// Makes an entry the newest.
    pub(super) fn touch(&mut self, index: u32) {
        if self.newest != index {
            self.unlink(index);
            self.link_newest(index);
        }
    }

    /// The entry touched longest ago.
    pub(super) fn oldest(&self) -> Option<(u32, &T)> {
        (self.oldest != NONE).then(|| (self.oldest, &self[self.oldest]))
    }

    /// All entries, from the oldest on.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> + '_ {
        let mut at = self.oldest;
        std::iter::from_fn(move || {
            let node = self.nodes.get(at as usize)?;
            at = node.newer;
            Some(&node.value)
        })
    }

    /// Bytes on the heap, without what the entries own.
    pub(super) fn heap_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node<T>>()
    }

    fn unlink(&mut self, index: u32) {
        let (older, newer) = (self.nodes[index as usize].older, self.nodes[index as usize].newer);
        match self.nodes.get_mut(older as usize) {
            Some(node) => node.newer = newer,
            None => self.oldest = newer,
        }
        match self.nodes.get_mut(newer as usize) {
            Some(node) => node.older = older,
            None => self.newest = older,
        }
    }

    fn link_newest(&mut self, index: u32) {
        let older = std::mem::replace(&mut self.newest, index);
        match self.nodes.get_mut(older as usize) {
            Some(node) => node.newer = index,
            None => self.oldest = index,
        }
        let node = &mut self.nodes[index as usize];
        (node.older, node.newer) = (older, NONE);
    }
}

impl<T> Index<u32> for Chain<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        &self.nodes[index as usize].value
    }
}

impl<T> IndexMut<u32> for Chain<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.nodes[index as usize].value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_keeps_the_order_that_a_list_would_keep(steps in prop::collection::vec((0_u8..3, 0_usize..20), 0..200)) {
            let mut chain = Chain::default();
            let mut model: Vec<(u32, usize)> = Vec::new();
            for (at, (step, place)) in steps.into_iter().enumerate() {
                match step {
                    0 => model.push((chain.insert(at).expect("room"), at)),
                    1 if !model.is_empty() => {
                        let (index, value) = model.remove(place % model.len());
                        prop_assert_eq!(chain.remove(index), value);
                    }
                    2 if !model.is_empty() => {
                        let entry = model.remove(place % model.len());
                        chain.touch(entry.0);
                        model.push(entry);
                    }
                    _ => (),
                }
                prop_assert_eq!(chain.len(), model.len());
                let values: Vec<usize> = model.iter().map(|(_, value)| *value).collect();
                prop_assert_eq!(chain.iter().copied().collect::<Vec<_>>(), values);
                prop_assert_eq!(chain.oldest().map(|(index, _)| index), model.first().map(|(index, _)| *index));
                prop_assert!(model.iter().all(|(index, value)| chain[*index] == *value));
            }
        }
    }
}
