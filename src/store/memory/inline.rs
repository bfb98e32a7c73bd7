//! Projections within the appends to a log in memory. Their checkpoints are kept as a worker keeps them, and so is their order.

use std::sync::Arc;

use async_trait::async_trait;

use crate::error::{ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::{Position, ProjectionName};
use crate::store::log::append::{Append, Appended};
use crate::store::log::group_commit::{BatchAppend, GroupCommit};
use crate::store::log::inline::{Inline, InlineStore, Inlines, wanted};
use crate::store::log::judge::{Verdict, judge, record};
use crate::store::memory::log::{MemoryLog, MemoryStore};
use crate::store::memory::model::MemoryReadModel;
use crate::store::memory::model::committed::Tables;
use crate::store::model::progress::in_aggregate_order;

/// Events that are read and applied at a time where the model is behind.
const BATCH: usize = 1_000;

#[async_trait]
impl<T: Clone + Send + Sync + 'static> InlineStore for MemoryStore<T> {
    type Tx = T;

    async fn with_inline(&self, inline: Arc<dyn Inline<T>>) -> Result<Self> {
        let (log, models) = (self.log.clone(), self.models.clone());
        let set_up = InlineLog { log, models, inlines: Inlines::none().and(inline.clone()) };
        set_up.set_up(&*inline).await?;
        let inlines = self.inlines.and(inline);
        let commits = GroupCommit::new(Arc::new(InlineLog { inlines: inlines.clone(), ..set_up.clone() }));
        Ok(Self { log: self.log.clone(), commits: Arc::new(commits), models: self.models.clone(), inlines })
    }
}

/// Appends whose events are applied to a model, both or neither.
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

/// One at a time: there is no disk whose speed a larger commit would save, and a failing projection refuses no other append.
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
    /// Runs the set-up of a projection and brings it to the end of the log, in one transaction.
    async fn set_up(&self, inline: &dyn Inline<T>) -> Result<()> {
        let turn = self.models.turns.take("inline").await?;
        let projection = inline.projection();
        let before = self.models.read().value.clone();
        if self.models.read().tables.parking.get(projection).is_some_and(|parking| !parking.parked.is_empty()) {
            let problem = format!("projection {projection} has parked aggregates: it cannot go on inline");
            return Err(ErrorKind::Invalid(problem).into());
        }
        let (head, mut value) = (self.log.read().head(), T::clone(&before));
        let apply = async {
            inline.set_up(&mut value).await?;
            self.catch_up(inline, &mut value, head).await
        };
        let staged = turn.run(apply).await?;
        let mut committed = self.models.write();
        committed.commit(value, staged);
        self.moved(&mut committed.tables, head);
        Ok(())
    }

    async fn append(&self, append: Append) -> Result<Appended> {
        let turn = self.models.turns.take("append").await?;
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
            let staged = turn.run(self.apply(&mut value, head, &events)).await?;
            let mut state = self.log.write();
            // A handle without projections appended meanwhile: this append is judged again, after that one.
            if state.head() != head {
                continue;
            }
            let appended = state.append_at(append, |_| recorded_at)?;
            let mut committed = self.models.write();
            committed.commit(value, staged);
            self.moved(&mut committed.tables, state.head());
            self.log.head.send_replace(state.head());
            return Ok(appended);
        }
    }

    /// Applies the events that follow `head`, after what was appended past the projections.
    async fn apply(&self, value: &mut T, head: Position, events: &[RecordedEvent]) -> Result<()> {
        for inline in self.inlines.iter() {
            self.catch_up(&**inline, value, head).await?;
            apply_wanted(&**inline, value, events).await?;
        }
        Ok(())
    }

    /// Brings a projection to `head`.
    async fn catch_up(&self, inline: &dyn Inline<T>, value: &mut T, head: Position) -> Result<()> {
        let mut at = self.checkpoint(inline.projection(), head)?;
        while at < head {
            let events: Vec<_> = {
                let state = self.log.read();
                let index = |position: Position| usize::try_from(position.get()).unwrap_or(usize::MAX);
                state.events[index(at)..index(head)].iter().take(BATCH).cloned().collect()
            };
            at = at.plus(events.len() as u64);
            apply_wanted(inline, value, &events).await?;
        }
        Ok(())
    }

    /// Where a projection is, which must be in log order and not beyond `head`.
    fn checkpoint(&self, projection: &ProjectionName, head: Position) -> Result<Position> {
        let tables = &self.models.read().tables;
        if tables.progress.contains_key(projection) {
            return Err(in_aggregate_order(projection));
        }
        let checkpoint = tables.checkpoint(projection);
        if checkpoint > head {
            let projection = projection.clone();
            return Err(ErrorKind::CheckpointAhead { projection, checkpoint, head }.into());
        }
        Ok(checkpoint)
    }

    fn moved(&self, tables: &mut Tables, head: Position) {
        for inline in self.inlines.iter() {
            tables.checkpoints.insert(inline.projection().clone(), head);
        }
    }
}

async fn apply_wanted<T: 'static>(inline: &dyn Inline<T>, value: &mut T, events: &[RecordedEvent]) -> Result<()> {
    let wanted = wanted(inline.filter(), events);
    if wanted.is_empty() { Ok(()) } else { inline.apply(value, wanted).await }
}
