//! The inboxes of reactions in memory.

use crate::error::Result;
use crate::id::mark::Mark;
use crate::id::{EventId, ProjectionName};
use crate::store::memory::model::MemoryReadModel;

impl<T: Clone + Send + Sync + 'static> MemoryReadModel<T> {
    /// Stages the inbox entry of an event. Returns whether the event is new.
    pub(crate) fn record_handled(&self, reaction: &ProjectionName, event: EventId) -> Result<bool> {
        let entry = (reaction.clone(), event);
        if self.read().tables.handled.contains(&entry) {
            return Ok(false);
        }
        self.transactions.staged("mark_handled", |staged| staged.handled.insert(entry))
    }

    /// Stores the place after which a reaction starts, unless one is stored. Returns the stored place.
    pub(crate) fn record_start(&self, reaction: &ProjectionName, mark: Mark) -> Mark {
        *self.write().tables.starts.entry(reaction.clone()).or_insert(mark)
    }
}
