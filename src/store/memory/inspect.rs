//! Keeps the seals of a log in memory. A verification reads the events through the reader's port.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::finding::{Examine, Finding};
use crate::id::{AggregateId, AggregateType, Position, StreamId};
use crate::store::log::inspect::Inspect;
use crate::store::log::seal::Seal;
use crate::store::memory::log::MemoryStore;
use crate::store::memory::model::MemoryReadModel;

#[async_trait]
impl<T: Send + Sync + 'static> Inspect for MemoryStore<T> {
    async fn snapshots(
        &self,
        aggregate_type: &AggregateType,
        after: Option<&AggregateId>,
        limit: usize,
    ) -> Result<Option<Vec<AggregateId>>> {
        let state = self.log.read();
        let of_type = state.snapshots.keys().filter(|stream| stream.aggregate_type() == aggregate_type);
        let mut ids: Vec<_> = of_type.map(StreamId::aggregate_id).filter(|id| Some(*id) > after).cloned().collect();
        ids.sort_unstable();
        ids.truncate(limit);
        Ok(Some(ids))
    }

    async fn seals(&self, after: Position, limit: usize) -> Result<Option<Vec<Seal>>> {
        let state = self.log.read();
        Ok(Some(state.seals.values().filter(|seal| seal.last > after).take(limit).cloned().collect()))
    }

    async fn last_seal(&self) -> Result<Option<Seal>> {
        Ok(self.log.read().seals.values().next_back().cloned())
    }

    async fn add_seal(&self, seal: &Seal) -> Result<()> {
        self.log.write().seals.entry(seal.first).or_insert_with(|| seal.clone());
        Ok(())
    }
}

/// Nothing outside of the process can break a promise of a log in memory.
#[async_trait]
impl<T: Send + Sync + 'static> Examine for MemoryStore<T> {
    fn part(&self) -> String {
        "log in memory".into()
    }

    async fn examine(&self, _: Duration) -> Option<Vec<Finding>> {
        Some(Vec::new())
    }
}

/// As for the log.
#[async_trait]
impl<T: Send + Sync + 'static> Examine for MemoryReadModel<T> {
    fn part(&self) -> String {
        "read models in memory".into()
    }

    async fn examine(&self, _: Duration) -> Option<Vec<Finding>> {
        Some(Vec::new())
    }
}
