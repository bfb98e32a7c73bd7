//! Inboxes in memory, beside a model of any type.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;

use crate::error::Result;
use crate::id::{EventId, Position, ProjectionName};
use crate::store::memory::model::MemoryReadModel;
use crate::store::model::inbox::InboxStore;

/// The inboxes of all reactions of a model.
#[derive(Debug, Default)]
pub(crate) struct Inboxes {
    had: HashSet<(ProjectionName, EventId)>,
    /// Taken in the transaction at hand: there is one at a time.
    taken: Vec<(ProjectionName, EventId)>,
    begun: HashMap<ProjectionName, Position>,
}

impl Inboxes {
    /// Forgets what a transaction has taken that did not commit.
    pub(crate) fn begin(&mut self) {
        self.taken.clear();
    }

    pub(crate) fn commit(&mut self) {
        self.had.extend(self.taken.drain(..));
    }

    fn take(&mut self, reaction: &ProjectionName, event: EventId) -> bool {
        let entry = (reaction.clone(), event);
        let is_new = !self.had.contains(&entry) && !self.taken.contains(&entry);
        if is_new {
            self.taken.push(entry);
        }
        is_new
    }
}

#[async_trait]
impl<T: Clone + Send + Sync + 'static> InboxStore for MemoryReadModel<T> {
    async fn take(&self, _: &mut T, reaction: &ProjectionName, event: EventId) -> Result<bool> {
        Ok(self.write().inboxes.take(reaction, event))
    }

    async fn begin_after(&self, reaction: &ProjectionName, position: Position) -> Result<Position> {
        Ok(*self.write().inboxes.begun.entry(reaction.clone()).or_insert(position))
    }
}
