//! Inline projections of a log in memory. They apply events in log order and move their checkpoints as a worker does.

use std::sync::Arc;

use async_trait::async_trait;

use crate::error::{ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::mark::Mark;
use crate::id::{Position, ProjectionName};
use crate::store::log::append::{Append, Appended};
use crate::store::log::group_commit::{BatchAppend, GroupCommit};
use crate::store::log::inline::{Inline, InlineStore, Inlines, apply, set_up};
use crate::store::log::judge::{Verdict, judge, record};
use crate::store::log::mark::{changed, remembered_by};
use crate::store::memory::log::{MemoryLog, MemoryStore};
use crate::store::memory::model::MemoryReadModel;
use crate::store::memory::model::committed::Tables;
use crate::store::model::names;
use crate::store::model::progress::in_aggregate_order;

/// The number of events that a projection applies at a time while it catches up.
const BATCH: usize = 1_000;

#[async_trait]
impl<T: Clone + Send + Sync + 'static> InlineStore for MemoryStore<T> {
    type Tx = T;

    async fn with_inline(&self, inline: Arc<dyn Inline<T>>) -> Result<Self> {
        names::add(inline.projection().as_str());
        let (log, models) = (self.log.clone(), self.models.clone());
        let set_up = InlineLog { log, models, inlines: Inlines::none().and(inline.clone()) };
        set_up.set_up(&*inline).await?;
        let inlines = self.inlines.and(inline);
        let commits =
            GroupCommit::new(Arc::new(InlineLog { inlines: inlines.clone(), ..set_up.clone() })).with_name("memory");
        Ok(Self { log: self.log.clone(), commits: Arc::new(commits), models: self.models.clone(), inlines })
    }
}

/// A log whose appends also change a read model. An append and its changes commit together or not at all.
#[derive(Debug)]
struct InlineLog<T: 'static> {
    log: Arc<MemoryLog>,
    models: MemoryReadModel<T>,
    inlines: Inlines<T>,
}

impl<T: 'static> Clone for InlineLog<T> {
    fn clone(&self) -> Self {
        Self { log: self.log.clone(), models: self.models.clone(), inlines: self.inlines.clone() }
    }
}

/// Commits the appends of a batch one at a time. A shared commit would save no disk write, and this way a failing projection refuses no
/// other append.
#[async_trait]
impl<T: Clone + Send + Sync + 'static> BatchAppend for InlineLog<T> {
    async fn append_batch(&self, batch: Vec<Append>) -> Vec<Result<Appended>> {
        let mut results = Vec::with_capacity(batch.len());
        for append in batch {
            results.push(self.append(append).await);
        }
        results
    }
}

impl<T: Clone + Send + Sync + 'static> InlineLog<T> {
    /// Sets up a projection and applies the log to it up to the head, in one transaction.
    async fn set_up(&self, inline: &dyn Inline<T>) -> Result<()> {
        let transaction = self.models.transactions.begin("inline").await?;
        let projection = inline.projection();
        let before = self.models.read().value.clone();
        if self.models.read().tables.parking.get(projection).is_some_and(|parking| !parking.parked.is_empty()) {
            let problem = "has parked aggregates: release them before it is applied inline";
            let problem = format!("projection {projection} {problem}");
            return Err(ErrorKind::Invalid(problem).into());
        }
        self.models.read().tables.refuse_if_paused(projection)?;
        let (end, mut value) = (self.log.read().end(), T::clone(&before));
        let head = end.position;
        let apply = async {
            set_up(inline, &mut value).await?;
            self.catch_up(inline, &mut value, head).await
        };
        let staged = transaction.run(apply).await?;
        let mut committed = self.models.write();
        committed.commit(value, staged);
        self.move_checkpoints(&mut committed.tables, end);
        Ok(())
    }

    async fn append(&self, append: Append) -> Result<Appended> {
        let transaction = self.models.transactions.begin("append").await?;
        loop {
            let (head, recorded_at, events) = {
                let state = self.log.read();
                let Ok(verdict) = judge(&*state, &append);
                let versions = match verdict {
                    Verdict::Write(versions) => versions,
                    Verdict::Repeated(first) => return Ok(first),
                    Verdict::Refused(refusal) => return Err(refusal),
                };
                let (head, recorded_at) = (state.head(), state.next_time());
                (head, recorded_at, record(append.clone(), versions, head, recorded_at).0)
            };
            let before = self.models.read().value.clone();
            let mut value = T::clone(&before);
            let staged = transaction.run(self.apply(&mut value, head, &events)).await?;
            let mut state = self.log.write();
            // A handle without projections has appended in the meantime, so judge this append again.
            if state.head() != head {
                continue;
            }
            let appended = state.append_at(append, |_| recorded_at)?;
            let mut committed = self.models.write();
            committed.commit(value, staged);
            self.move_checkpoints(&mut committed.tables, state.end());
            self.log.head.send_replace(state.head());
            return Ok(appended);
        }
    }

    /// Applies to each projection first the events up to `head` that it has not applied, then `events`, which follow `head`.
    async fn apply(&self, value: &mut T, head: Position, events: &[RecordedEvent]) -> Result<()> {
        for inline in self.inlines.iter() {
            self.catch_up(&**inline, value, head).await?;
            apply(&**inline, value, events).await?;
        }
        Ok(())
    }

    /// Applies the events up to `head` that a projection has not applied.
    async fn catch_up(&self, inline: &dyn Inline<T>, value: &mut T, head: Position) -> Result<()> {
        let mut at = self.checkpoint(inline.projection())?;
        while at < head {
            let events: Vec<_> = {
                let state = self.log.read();
                let index = |position: Position| usize::try_from(position.get()).unwrap_or(usize::MAX);
                state.events[index(at)..index(head)].iter().take(BATCH).cloned().collect()
            };
            at = at.plus(events.len() as u64);
            apply(inline, value, &events).await?;
        }
        Ok(())
    }

    /// Returns the checkpoint of a projection. Refuses a projection with per-aggregate order or with a checkpoint that is not in the log.
    fn checkpoint(&self, projection: &ProjectionName) -> Result<Position> {
        // The lock of the model is free before the log is locked: an append locks the log first.
        let checkpoint = {
            let tables = &self.models.read().tables;
            if tables.progress.contains_key(projection) {
                return Err(in_aggregate_order(projection));
            }
            tables.checkpoint(projection)
        };
        let state = self.log.read();
        let found = state.mark_at(checkpoint.position).event_id;
        if checkpoint.event_id.is_some_and(|id| found != Some(id)) || checkpoint.position > state.head() {
            return Err(remembered_by(changed(checkpoint, found), || format!("projection {projection}"), "reset it"));
        }
        Ok(checkpoint.position)
    }

    fn move_checkpoints(&self, tables: &mut Tables, head: Mark) {
        for inline in self.inlines.iter() {
            tables.checkpoints.insert(inline.projection().clone(), head);
            tables.inline.insert(inline.projection().clone());
        }
    }
}
