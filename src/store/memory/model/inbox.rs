//! The inboxes of reactions in memory.

use crate::error::Result;
use crate::id::{EventId, Position, ProjectionName};
use crate::store::memory::model::MemoryReadModel;

impl<T: Clone + Send + Sync + 'static> MemoryReadModel<T> {
    pub(crate) fn record_handled(&self, reaction: &ProjectionName, event: EventId) -> Result<bool> {
        let entry = (reaction.clone(), event);
        if self.read().tables.handled.contains(&entry) {
            return Ok(false);
        }
        self.turns.staged("mark_handled", |staged| staged.handled.insert(entry))
    }

    pub(crate) fn record_start(&self, reaction: &ProjectionName, position: Position) -> Position {
        *self.write().tables.starts.entry(reaction.clone()).or_insert(position)
    }
}
