//! The inboxes of reactions in memory.

use async_trait::async_trait;

use crate::error::Result;
use crate::id::{EventId, Position, ProjectionName};
use crate::store::memory::model::MemoryReadModel;
use crate::store::model::inbox::InboxStore;

#[async_trait]
impl<T: Clone + Send + Sync + 'static> InboxStore for MemoryReadModel<T> {
    async fn take(&self, _: &mut T, reaction: &ProjectionName, event: EventId) -> Result<bool> {
        let entry = (reaction.clone(), event);
        if self.read().tables.handled.contains(&entry) {
            return Ok(false);
        }
        self.turns.staged("take", |staged| staged.handled.insert(entry))
    }

    async fn begin_after(&self, reaction: &ProjectionName, position: Position) -> Result<Position> {
        Ok(*self.write().tables.starts.entry(reaction.clone()).or_insert(position))
    }
}
