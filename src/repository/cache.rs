//! The recently used aggregates of a repository.

use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;

use moka::sync::Cache;
use tokio::sync::Mutex;

use crate::id::AggregateId;
use crate::repository::fold::Loaded;

/// An aggregate's slot in the cache. The lock makes the commands on the aggregate take turns.
pub(super) type Slot<A> = Mutex<Option<Loaded<A>>>;

/// A slot without the type of its aggregate: the cache is compiled once, and not for each type.
type AnySlot = Arc<dyn Any + Send + Sync>;

/// The slots of a repository. Those that were not used for the longest time are dropped first.
pub(super) struct Slots<A> {
    cache: Cache<AggregateId, AnySlot>,
    aggregate: PhantomData<fn() -> A>,
}

impl<A: Send + Sync + 'static> Slots<A> {
    pub(super) fn new(capacity: u64) -> Self {
        Self { cache: Cache::new(capacity), aggregate: PhantomData }
    }

    /// Returns the slot of an aggregate, which is empty if it is new.
    pub(super) fn slot(&self, id: &AggregateId) -> Arc<Slot<A>> {
        let slot = find_or_insert(&self.cache, id, || Arc::new(Slot::<A>::default()));
        // Every slot of this cache has this type.
        slot.downcast().unwrap_or_default()
    }
}

fn find_or_insert(cache: &Cache<AggregateId, AnySlot>, id: &AggregateId, empty: fn() -> AnySlot) -> AnySlot {
    cache.get_with_by_ref(id, empty)
}
