//! Implements [`ReadModel`] in memory.

use std::collections::HashMap;

use async_trait::async_trait;

use crate::error::Result;
use crate::id::mark::Mark;
use crate::id::{EventId, ProjectionName, StreamId};
use crate::store::memory::audit::{add, newest};
use crate::store::memory::model::MemoryReadModel;
use crate::store::model::checkpoint::{ProjectionState, ProjectionStatus};
use crate::store::model::checkpoint_row::Checkpoint;
use crate::store::model::interventions::{AuditEntry, By, Intervention, Pause};
use crate::store::model::listing::{HandledEvent, ProgressRow};
use crate::store::model::parking::{Parked, Parking, Step};
use crate::store::model::processors::{RegisteredProcessor, check_changes};
use crate::store::model::progress::{Seen, Turn, changes, in_key_order, in_log_order, progress_of};
use crate::store::model::pruning::{InboxPruning, ReactionStart};
use crate::store::model::read_model::{ReadModel, Work};
use crate::store::model::skipped::Skipped;
use crate::store::size::StoreSize;

#[async_trait]
impl<T: Clone + Send + Sync + 'static> ReadModel for MemoryReadModel<T> {
    type Tx = T;

    async fn mark(&self, projection: &ProjectionName) -> Result<Mark> {
        Ok(self.read().tables.checkpoint(projection))
    }

    /// Returns [`ProjectionState::Running`] always: appends move the checkpoint of an inline projection as a worker does, and one call deletes
    /// a whole generation.
    async fn state(&self, projection: &ProjectionName) -> Result<ProjectionState> {
        self.check_name(projection).await?;
        Ok(ProjectionState::Running)
    }

    async fn names(&self) -> Result<Option<Vec<ProjectionName>>> {
        Ok(Some(self.read().tables.names()))
    }

    async fn parking(&self, projection: &ProjectionName) -> Result<Parking> {
        self.check_name(projection).await?;
        Ok(self.read().tables.parking.get(projection).cloned().unwrap_or_default())
    }

    async fn projections(&self, limit: usize) -> Result<Vec<ProjectionStatus>> {
        Ok(self.read().tables.projections(limit))
    }

    async fn parked(
        &self,
        projection: &ProjectionName,
        stream: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<Parked>> {
        let committed = self.read();
        let parked = committed.tables.parking.get(projection).into_iter().flat_map(|parking| &parking.parked);
        let wanted = parked.filter(|parked| stream.is_none_or(|stream| parked.stream == *stream));
        Ok(wanted.take(limit).cloned().collect())
    }

    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool> {
        self.check_name(projection).await?;
        Ok(self.write().tables.revive(projection, stream))
    }

    async fn commit(&self, step: Step, work: Work<T>) -> Result<()> {
        let transaction = self.transactions.begin("commit").await?;
        let before = {
            let committed = self.read();
            committed.tables.check(&step)?;
            committed.value.clone()
        };
        let mut value = T::clone(&before);
        let staged = transaction.run(async { work(&mut value).await }).await?;
        let mut committed = self.write();
        committed.tables.check(&step)?;
        committed.commit(value, staged);
        committed.tables.take(step);
        Ok(())
    }

    async fn begin(&self, projection: &ProjectionName, work: Work<T>) -> Result<()> {
        let transaction = self.transactions.begin("begin").await?;
        let before = {
            let committed = self.read();
            let is_new =
                committed.tables.checkpoints.get(projection).is_none_or(|checkpoint| *checkpoint == Mark::START);
            if !is_new && !committed.tables.progress.contains_key(projection) {
                return Err(in_log_order(projection));
            }
            committed.tables.refuse_if_paused(projection)?;
            committed.value.clone()
        };
        let mut value = T::clone(&before);
        let staged = transaction.run(async { work(&mut value).await }).await?;
        let mut committed = self.write();
        committed.tables.refuse_if_paused(projection)?;
        committed.commit(value, staged);
        committed.tables.progress.entry(projection.clone()).or_default();
        Ok(())
    }

    async fn seen(&self, projection: &ProjectionName, streams: &[StreamId]) -> Result<HashMap<StreamId, Seen>> {
        let committed = self.read();
        let Some(rows) = committed.tables.progress.get(projection) else { return Ok(HashMap::new()) };
        let seen = streams.iter().filter_map(|stream| Some((stream.clone(), Seen::of(*rows.get(stream)?))));
        Ok(seen.collect())
    }

    async fn turn(&self, projection: &ProjectionName, known: u64, streams: Vec<StreamId>, turn: Turn<T>) -> Result<()> {
        let transaction = self.transactions.begin("turn").await?;
        let (before, rows) = {
            let committed = self.read();
            check_changes(projection, known, committed.tables.changes(projection))?;
            let parked = committed.tables.parking.get(projection).map_or(&[] as &[_], |parking| &parking.parked);
            let streams = in_key_order(streams);
            let parked =
                parked.iter().filter(|parked| streams.binary_search(&parked.stream).is_ok()).cloned().collect();
            let none = HashMap::new();
            let rows = committed.tables.progress.get(projection).unwrap_or(&none);
            (committed.value.clone(), progress_of(streams, rows, parked)?)
        };
        let (mut value, mut after) = (T::clone(&before), rows.clone());
        let staged = transaction.run(async { turn(&mut value, &mut after).await }).await?;
        let mut committed = self.write();
        check_changes(projection, known, committed.tables.changes(projection))?;
        committed.commit(value, staged);
        let (changed, parking) = changes(&rows, &after);
        let rows = committed.tables.progress.entry(projection.clone()).or_default();
        rows.extend(changed.into_iter().map(|row| (row.stream.clone(), (row.applied, row.seen, row.seen_id))));
        committed.tables.park(projection, parking);
        Ok(())
    }

    async fn sweep(&self, projection: &ProjectionName, changes: u64, from: Mark, to: Mark) -> Result<Mark> {
        let mut committed = self.write();
        check_changes(projection, changes, committed.tables.changes(projection))?;
        let swept = committed.tables.checkpoints.entry(projection.clone()).or_default();
        if from.is_at(*swept) {
            *swept = to;
        }
        Ok(*swept)
    }

    async fn register_processor(&self, projection: &ProjectionName, processor: &RegisteredProcessor) -> Result<()> {
        let mut committed = self.write();
        let own = committed.tables.processors.entry(projection.clone()).or_default();
        if !own.iter().any(|known| known.is_same(processor)) {
            own.push(processor.clone());
            committed.tables.count_change(projection);
        }
        Ok(())
    }

    async fn processors(&self, projection: &ProjectionName) -> Result<Vec<RegisteredProcessor>> {
        Ok(self.read().tables.processors.get(projection).cloned().unwrap_or_default())
    }

    async fn forget_processor(&self, projection: &ProjectionName, processor: &RegisteredProcessor) -> Result<bool> {
        let mut committed = self.write();
        let own = committed.tables.processors.entry(projection.clone()).or_default();
        let Some(place) = own.iter().position(|known| known.is_same(processor)) else { return Ok(false) };
        own.remove(place);
        committed.tables.count_change(projection);
        Ok(true)
    }

    async fn intervene(&self, projection: &ProjectionName, intervention: Intervention, by: &By) -> Result<bool> {
        by.check()?;
        self.check_name(projection).await?;
        self.write().tables.intervene(projection, &intervention, by)
    }

    async fn paused(&self, projection: &ProjectionName) -> Result<Option<Pause>> {
        Ok(self.read().tables.pauses.get(projection).cloned())
    }

    async fn skipped(
        &self,
        projection: &ProjectionName,
        stream: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<Skipped>> {
        Ok(self.read().tables.skipped(projection, stream, limit))
    }

    async fn audit(&self, limit: usize, before: Option<u64>) -> Result<Vec<AuditEntry>> {
        Ok(newest(&self.read().tables.audit, limit, before))
    }

    async fn reset(&self, projection: &ProjectionName, to: Mark, work: Work<T>) -> Result<()> {
        self.reset_by(projection, to, work, &By::program("no reason given")).await
    }

    async fn reset_by(&self, projection: &ProjectionName, to: Mark, work: Work<T>, by: &By) -> Result<()> {
        by.check()?;
        self.check_name(projection).await?;
        let transaction = self.transactions.begin("reset").await?;
        let before = {
            let committed = self.read();
            let per_aggregate = committed.tables.progress.contains_key(projection);
            Checkpoint { per_aggregate, ..Checkpoint::default() }.reset(projection, to)?;
            committed.value.clone()
        };
        let mut value = T::clone(&before);
        let staged = transaction.run(async { work(&mut value).await }).await?;
        let mut committed = self.write();
        committed.commit(value, staged);
        committed.tables.reset(projection, to);
        add(&mut committed.tables.audit, AuditEntry::reset(projection, to.position, by));
        Ok(())
    }

    async fn mark_handled(&self, _: &mut T, reaction: &ProjectionName, event: EventId) -> Result<bool> {
        self.record_handled(reaction, event)
    }

    async fn start_after(&self, reaction: &ProjectionName, mark: Mark) -> Result<Mark> {
        Ok(self.record_start(reaction, mark))
    }

    async fn list_progress(&self, after: Option<&ProgressRow>, limit: usize) -> Result<Option<Vec<ProgressRow>>> {
        Ok(Some(self.read().tables.progress_after(after, limit)))
    }

    async fn list_handled(&self, after: Option<&HandledEvent>, limit: usize) -> Result<Option<Vec<HandledEvent>>> {
        Ok(Some(self.read().tables.handled_after(after, limit)))
    }

    async fn size(&self) -> Result<Option<StoreSize>> {
        Ok(Some(StoreSize::new(self.read().tables.sizes(), None)))
    }

    async fn record(&self, entry: &AuditEntry) -> Result<()> {
        entry.by.check()?;
        add(&mut self.write().tables.audit, entry.clone());
        Ok(())
    }

    async fn reactions(&self, limit: usize) -> Result<Option<Vec<ReactionStart>>> {
        Ok(Some(self.read().tables.reactions(limit)))
    }

    async fn count_handled(&self, reaction: &ProjectionName, events: &[EventId]) -> Result<u64> {
        let committed = self.read();
        let is_handled = |event: &&EventId| committed.tables.handled.contains(&(reaction.clone(), **event));
        Ok(events.iter().filter(is_handled).count() as u64)
    }

    async fn prune_inbox(&self, pruning: &InboxPruning) -> Result<u64> {
        pruning.by.check()?;
        let _transaction = self.transactions.begin("prune an inbox").await?;
        self.write().tables.prune_inbox(pruning)
    }
}
