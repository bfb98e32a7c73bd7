//! The deadlines of process managers in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::Result;
use crate::id::ProjectionName;
use crate::store::memory::model::MemoryReadModel;
use crate::store::model::deadlines::{Deadline, DeadlineChange, DeadlineStore};

#[async_trait]
impl<T: Clone + Send + Sync + 'static> DeadlineStore for MemoryReadModel<T> {
    async fn change_deadlines(&self, _: &mut T, process: &ProjectionName, changes: &[DeadlineChange]) -> Result<()> {
        let change = (process.clone(), changes.to_vec());
        self.transactions.staged("change_deadlines", |staged| staged.deadlines.push(change))
    }

    async fn settle_deadlines(&self, process: &ProjectionName, changes: &[DeadlineChange]) -> Result<()> {
        let _transaction = self.transactions.begin("settle_deadlines").await?;
        self.write().tables.change_deadlines(process, changes);
        Ok(())
    }

    async fn due_deadlines(&self, process: &ProjectionName, now: DateTime<Utc>, limit: usize) -> Result<Vec<Deadline>> {
        let tables = &self.read().tables;
        let own = tables.deadlines.get(process).into_iter().flat_map(BTreeMap::values);
        let mut due: Vec<_> = own.filter(|deadline| deadline.at <= now).collect();
        due.sort_by_key(|deadline| deadline.at);
        Ok(due.into_iter().take(limit).cloned().collect())
    }

    async fn postpone_deadline(
        &self,
        process: &ProjectionName,
        id: Uuid,
        until: DateTime<Utc>,
        _error: &str,
    ) -> Result<()> {
        let _transaction = self.transactions.begin("postpone_deadline").await?;
        if let Some(deadline) = self.write().tables.deadlines.get_mut(process).and_then(|own| own.get_mut(&id)) {
            deadline.at = until;
            deadline.attempts += 1;
        }
        Ok(())
    }
}
