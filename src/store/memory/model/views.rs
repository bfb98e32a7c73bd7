//! Views in memory: for what fits there, with a snapshot so that a restart need not replay the log.

mod snapshot;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::Result;
use crate::id::{Generation, ProjectionName, ViewKey};
use crate::store::memory::model::MemoryReadModel;
use crate::store::model::views::{Changes, Switch, ViewId, ViewPage, ViewRow, ViewStore, still_live};

/// The rows of views, in memory: the value of a [`MemoryReadModel`].
///
/// A clone costs next to nothing, whatever the number of rows, and later changes do not touch it: so readers see the rows as of one batch.
#[derive(Debug, Clone, Default)]
pub struct MemoryViews {
    views: BTreeMap<ViewId, Rows>,
    live: BTreeMap<ProjectionName, Generation>,
}

/// The rows of one generation by key, and the entries of their fields: field, value, key.
#[derive(Debug, Clone, Default)]
struct Rows {
    rows: Layered<String, Arc<ViewRow>>,
    entries: Layered<(String, String, String), ()>,
}

impl MemoryViews {
    /// No rows.
    pub fn new() -> Self {
        Self::default()
    }

    fn live(&self, view: &ProjectionName) -> Generation {
        self.live.get(view).copied().unwrap_or(ViewId::FIRST)
    }

    fn rows(&self, view: &ProjectionName, generation: Option<Generation>) -> Result<Option<&Rows>> {
        Ok(self.views.get(&ViewId::new(view.as_str(), generation.unwrap_or_else(|| self.live(view)))?))
    }
}

impl Rows {
    fn save(&mut self, changes: &Changes<'_>) {
        let key = |row: &ViewRow| row.key.as_str().to_owned();
        let kept = changes.kept.iter().map(|row| (key(row), Some(Arc::new((*row).clone()))));
        let removed = changes.removed.iter().map(|row| (key(row), None));
        self.rows.change(kept.chain(removed).collect());
        let lost = changes.lost.iter().map(|entry| (entry, None));
        let won = changes.won.iter().map(|entry| (entry, Some(())));
        let entry = |(field, value, key): (&str, &str, &ViewKey)| (field.into(), value.into(), key.as_str().into());
        self.entries.change(lost.chain(won).map(|(&lost_or_won, there)| (entry(lost_or_won), there)).collect());
    }

    fn page(&self, page: &ViewPage) -> Vec<ViewRow> {
        let after = page.after_key().to_owned();
        let Some((field, value)) = &page.of else {
            return self.rows.after(after).take(page.limit).map(|(_, row)| ViewRow::clone(row)).collect();
        };
        let entries = self.entries.after((field.clone(), value.clone(), after));
        let keys = entries.take_while(|((f, v, _), ())| (f, v) == (field, value)).map(|((.., key), ())| key);
        keys.filter_map(|key| self.rows.get(key)).take(page.limit).map(|row| ViewRow::clone(row)).collect()
    }
}

#[async_trait]
impl ViewStore for MemoryReadModel<MemoryViews> {
    async fn load(&self, tx: &mut MemoryViews, view: &ViewId, keys: &[ViewKey]) -> Result<Vec<ViewRow>> {
        let rows = tx.views.entry(view.clone()).or_default();
        let row = |key: &ViewKey| rows.rows.get(key.as_str()).map(|row| ViewRow::clone(row));
        Ok(keys.iter().map(|key| row(key).unwrap_or_else(|| ViewRow::empty(key.clone()))).collect())
    }

    async fn save(&self, tx: &mut MemoryViews, view: &ViewId, before: &[ViewRow], after: &[ViewRow]) -> Result<()> {
        tx.views.entry(view.clone()).or_default().save(&Changes::between(before, after));
        Ok(())
    }

    async fn clear(&self, tx: &mut MemoryViews, view: &ViewId) -> Result<()> {
        tx.views.remove(view);
        Ok(())
    }

    async fn go_live(&self, view: &ViewId, when: Switch) -> Result<Generation> {
        let _turn = self.turn.lock().await;
        let mut committed = self.write();
        let live = ViewId::new(view.view().as_str(), committed.value.live(view.view()))?;
        when.check(view, committed.checkpoint(view.projection()), committed.checkpoint(live.projection()))?;
        let mut value = MemoryViews::clone(&committed.value);
        value.live.insert(view.view().clone(), view.generation());
        committed.value = Arc::new(value);
        Ok(live.generation())
    }

    /// All of it at once: it costs no more than a row.
    async fn take_away(&self, view: &ViewId, _: usize) -> Result<bool> {
        let _turn = self.turn.lock().await;
        let mut committed = self.write();
        if committed.value.live(view.view()) == view.generation() {
            return Err(still_live(view));
        }
        let mut value = MemoryViews::clone(&committed.value);
        value.views.remove(view);
        committed.value = Arc::new(value);
        committed.forget(view.projection());
        Ok(true)
    }

    async fn live(&self, view: &ProjectionName) -> Result<Generation> {
        Ok(self.value().live(view))
    }

    async fn rows(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        keys: &[ViewKey],
    ) -> Result<Vec<ViewRow>> {
        let value = self.value();
        let Some(rows) = value.rows(view, generation)? else { return Ok(Vec::new()) };
        let found = keys.iter().filter_map(|key| rows.rows.get(key.as_str()));
        Ok(found.map(|row| ViewRow::clone(row)).collect())
    }

    async fn page(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        page: &ViewPage,
    ) -> Result<Vec<ViewRow>> {
        Ok(self.value().rows(view, generation)?.map_or_else(Vec::new, |rows| rows.page(page)))
    }
}

/// A sorted map whose clone is cheap: sorted maps on top of each other, each over what the ones below it say. `None` is what is gone.
///
/// Invariant: each layer has more than twice as many entries as the one above it. So there are few, and an entry is copied about as often as
/// there are layers.
#[derive(Debug, Clone)]
struct Layered<K, V>(Vec<Arc<BTreeMap<K, Option<V>>>>);

impl<K, V> Default for Layered<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord + Clone, V: Clone> Layered<K, V> {
    fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0.iter().rev().find_map(|layer| layer.get(key)).and_then(Option::as_ref)
    }

    fn change(&mut self, mut changes: BTreeMap<K, Option<V>>) {
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

    /// What comes after a key, in order.
    fn after(&self, mut key: K) -> impl Iterator<Item = (&K, &V)> {
        // The uppermost layer that has the next key comes first, so that it is taken of several that are equal.
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

    /// `SplitMix64`.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) % limit
        }

        /// Up to 19 keys of 60; a third of them are removed.
        fn batch(&mut self) -> BTreeMap<u64, Option<u64>> {
            (0..self.below(20)).map(|_| (self.below(60), (self.below(3) > 0).then(|| self.below(256)))).collect()
        }
    }

    fn layers_equal_one_map_after_random_batches(seed: u64) {
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
    fn layers_say_what_one_map_says() {
        // Other batches in each run; a failure names the seed that repeats it.
        let first = RandomState::new().hash_one(0);
        for case in 0..256 {
            layers_equal_one_map_after_random_batches(first.wrapping_add(case));
        }
    }
}
