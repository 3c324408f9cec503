//! A map that keeps what was used last, up to a weight. Pure.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

#[derive(Debug)]
struct Kept<V> {
    value: V,
    weight: usize,
    used: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    kept: HashMap<K, Kept<V>>,
    weight: usize,
    weight_max: usize,
    uses: u64,
}

impl<K: Eq + Hash + Clone, V> Recent<K, V> {
    pub(crate) fn new(weight_max: usize) -> Self {
        Self { kept: HashMap::new(), weight: 0, weight_max, uses: 0 }
    }

    /// A value, which is used by this.
    pub(crate) fn find<Q>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.uses += 1;
        let kept = self.kept.get_mut(key)?;
        kept.used = self.uses;
        Some(&kept.value)
    }

    /// Keeps a value. What weighs more than all may is kept alone.
    pub(crate) fn put(&mut self, key: K, value: V, weight: usize) {
        self.remove(&key);
        self.uses += 1;
        self.weight += weight;
        if self.weight > self.weight_max {
            self.make_room();
        }
        self.kept.insert(key, Kept { value, weight, used: self.uses });
    }

    pub(crate) fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some(kept) = self.kept.remove(key) {
            self.weight -= kept.weight;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Takes out the longest unused until a tenth is free, so that not each `put` looks at all.
    fn make_room(&mut self) {
        let mut by_use: Vec<(u64, K)> =
            self.kept.iter().map(|(key, kept)| (kept.used, key.clone())).collect();
        by_use.sort_unstable_by_key(|(used, _)| *used);
        for (_, key) in by_use {
            if self.weight <= self.weight_max / 10 * 9 {
                break;
            }
            self.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut recent = Recent::new(100);
        for n in 0..10 {
            recent.put(n, n, 10);
        }
        assert_eq!(recent.find(&0), Some(&0));
        recent.put(10, 10, 10);
        assert_eq!((recent.find(&0).copied(), recent.find(&10).copied()), (Some(0), Some(10)));
        assert_eq!((recent.find(&1).copied(), recent.len()), (None, 9));
        recent.put(10, 11, 5);
        assert_eq!((recent.find(&10).copied(), recent.weight), (Some(11), 85));
    }

    #[test]
    fn what_is_too_heavy_is_kept_alone() {
        let mut recent = Recent::new(100);
        recent.put(1, (), 10);
        recent.put(2, (), 1000);
        assert_eq!((recent.len(), recent.find(&2).is_some()), (1, true));
        recent.put(3, (), 10);
        assert_eq!((recent.len(), recent.weight, recent.find(&3).is_some()), (1, 10, true));
    }
}
