//! A sorted map in layers, which is cheap to clone.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// A sorted map that is cheap to clone: a stack of sorted maps, in which each map overrides the maps below it. `None` marks a removed key.
///
/// Invariant: each layer has more than twice as many entries as the layer above it. Therefore there are few layers, and the number of times
/// that an entry is copied is about the number of layers.
#[derive(Debug, Clone)]
pub(crate) struct Layered<K, V>(Vec<Arc<BTreeMap<K, Option<V>>>>);

impl<K, V> Default for Layered<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord + Clone, V: Clone> Layered<K, V> {
    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.iter().rev().find_map(|layer| layer.get(key)).and_then(Option::as_ref)
    }

    /// Sets the keys of `changes` that have a value and removes the other ones.
    pub(crate) fn change(&mut self, mut changes: BTreeMap<K, Option<V>>) {
        while let Some(below) = self.0.pop_if(|below| below.len() <= 2 * changes.len()) {
            let mut merged = Arc::unwrap_or_clone(below);
            merged.append(&mut changes);
            changes = merged;
        }
        if self.0.is_empty() {
            changes.retain(|_, value| value.is_some());
        }
        if !changes.is_empty() {
            self.0.push(Arc::new(changes));
        }
    }

    /// Returns the entries after `key`, in order.
    pub(crate) fn after(&self, mut key: K) -> impl Iterator<Item = (&K, &V)> {
        // `min_by_key` returns the first of equal keys, so iterate from the top layer down.
        let next = move || {
            let heads = self.0.iter().rev();
            let heads = heads.filter_map(|layer| layer.range((Bound::Excluded(&key), Bound::Unbounded)).next());
            let (next, value) = heads.min_by_key(|(next, _)| *next)?;
            key = next.clone();
            Some((next, value.as_ref()))
        };
        std::iter::from_fn(next).filter_map(|(key, value)| Some((key, value?)))
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    /// The `SplitMix64` generator.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) % limit
        }

        /// Returns changes to up to 19 of 60 keys. A third of them are removals.
        fn batch(&mut self) -> BTreeMap<u64, Option<u64>> {
            (0..self.below(20)).map(|_| (self.below(60), (self.below(3) > 0).then(|| self.below(256)))).collect()
        }
    }

    fn check_random_batches(seed: u64) {
        let mut random = Random(seed);
        let (mut layered, mut map) = (Layered::default(), BTreeMap::new());
        for _ in 0..random.below(30) {
            let batch = random.batch();
            layered.change(batch.clone());
            for (key, value) in batch {
                match value {
                    Some(value) => drop(map.insert(key, value)),
                    None => drop(map.remove(&key)),
                }
            }
            assert!(layered.0.is_sorted_by(|below, above| below.len() > 2 * above.len()), "seed {seed}");
            assert!((0..60).all(|key| layered.get(&key) == map.get(&key)), "seed {seed}");
            for start in [0, 7, 30] {
                let expected = map.range((Bound::Excluded(start), Bound::Unbounded));
                assert!(layered.after(start).eq(expected), "seed {seed}, after {start}");
            }
        }
    }

    #[test]
    fn layered_map_matches_a_plain_map() {
        // Each run uses different batches. A failure names the seed that reproduces it.
        let first = RandomState::new().hash_one(0);
        for case in 0..256 {
            check_random_batches(first.wrapping_add(case));
        }
    }
}
