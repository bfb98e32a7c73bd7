//! Deadlines in memory: for tests, and for processes that may be forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::Result;
use crate::id::ProjectionName;
use crate::store::memory::model::MemoryReadModel;
use crate::store::model::deadlines::{Deadline, DeadlineChange, DeadlineStore, parts};

/// What a [`MemoryReadModel`] holds for process managers.
#[derive(Debug, Clone, Default)]
pub struct MemoryDeadlines(BTreeMap<(ProjectionName, Uuid), Deadline>);

impl MemoryDeadlines {
    fn change(&mut self, process: &ProjectionName, changes: &[DeadlineChange]) {
        let (set, ended) = parts(changes);
        for deadline in set {
            self.0.entry((process.clone(), deadline.id)).or_insert_with(|| deadline.clone());
        }
        for id in ended {
            self.0.remove(&(process.clone(), id));
        }
    }
}

impl MemoryReadModel<MemoryDeadlines> {
    /// For process managers.
    pub fn deadlines() -> Self {
        Self::new(MemoryDeadlines::default())
    }

    async fn edit(&self, edit: impl FnOnce(&mut MemoryDeadlines)) {
        let _turn = self.turn.lock().await;
        let mut committed = self.write();
        let mut value = MemoryDeadlines::clone(&committed.value);
        edit(&mut value);
        committed.value = Arc::new(value);
    }
}

#[async_trait]
impl DeadlineStore for MemoryReadModel<MemoryDeadlines> {
    async fn change_deadlines(
        &self,
        tx: &mut MemoryDeadlines,
        process: &ProjectionName,
        changes: &[DeadlineChange],
    ) -> Result<()> {
        tx.change(process, changes);
        Ok(())
    }

    async fn settle_deadlines(&self, process: &ProjectionName, changes: &[DeadlineChange]) -> Result<()> {
        self.edit(|deadlines| deadlines.change(process, changes)).await;
        Ok(())
    }

    async fn due_deadlines(&self, process: &ProjectionName, now: DateTime<Utc>, limit: usize) -> Result<Vec<Deadline>> {
        let value = self.value();
        let due = value.0.iter().filter(|((of, _), deadline)| of == process && deadline.at <= now);
        let mut due: Vec<_> = due.map(|(_, deadline)| deadline.clone()).collect();
        due.sort_by_key(|deadline| deadline.at);
        due.truncate(limit);
        Ok(due)
    }

    async fn postpone_deadline(
        &self,
        process: &ProjectionName,
        id: Uuid,
        until: DateTime<Utc>,
        _error: &str,
    ) -> Result<()> {
        self.edit(|deadlines| {
            if let Some(deadline) = deadlines.0.get_mut(&(process.clone(), id)) {
                deadline.at = until;
                deadline.attempts += 1;
            }
        })
        .await;
        Ok(())
    }
}
