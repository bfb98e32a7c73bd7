//! Read models in memory.

pub(crate) mod deadlines;
pub(crate) mod inbox;
pub(crate) mod views;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use tokio::sync::Mutex;

use crate::error::Result;
use crate::id::{Position, ProjectionName, StreamId, Version};
use crate::store::memory::model::inbox::Inboxes;
use crate::store::model::checkpoint::{CheckpointStore, Work};
use crate::store::model::parking::{Parking, ParkingChange, Step};
use crate::store::model::progress::{
    ProgressStore, Row, Turn, changes, in_aggregate_order, in_key_order, in_log_order, progress_of,
};

/// A read model in memory: a value and the checkpoints of the projections that keep it. Cloning gives another handle.
///
/// Readers get the value as of the last committed batch and never see half a batch. The price is one clone of the value per
/// batch: for a large model use a type whose clone is cheap, or a database.
#[derive(Debug, Default)]
pub struct MemoryReadModel<T> {
    committed: Arc<RwLock<Committed<T>>>,
    /// Held by whoever changes the value: the model is one, so they cannot go on beside each other.
    turn: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct Committed<T> {
    value: Arc<T>,
    checkpoints: HashMap<ProjectionName, Position>,
    parking: HashMap<ProjectionName, Parking>,
    /// Of the projections with order per aggregate.
    progress: HashMap<ProjectionName, HashMap<StreamId, Row>>,
    inboxes: Inboxes,
}

impl<T> Clone for MemoryReadModel<T> {
    fn clone(&self) -> Self {
        Self { committed: self.committed.clone(), turn: self.turn.clone() }
    }
}

impl<T> MemoryReadModel<T> {
    /// A model that starts from `value`.
    pub fn new(value: T) -> Self {
        let committed = Committed {
            value: Arc::new(value),
            checkpoints: HashMap::new(),
            parking: HashMap::new(),
            progress: HashMap::new(),
            inboxes: Inboxes::default(),
        };
        Self { committed: Arc::new(RwLock::new(committed)), turn: Arc::default() }
    }

    /// The value as of the last committed batch.
    pub fn value(&self) -> Arc<T> {
        self.read().value.clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, Committed<T>> {
        self.committed.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Committed<T>> {
        self.committed.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Committed<T> {
    fn check(&self, step: &Step) -> Result<()> {
        if self.progress.contains_key(&step.projection) {
            return Err(in_aggregate_order(&step.projection));
        }
        let actual = self.checkpoint(&step.projection);
        let changes = self.parking.get(&step.projection).map_or(0, |parking| parking.changes);
        if (actual, changes) == (step.from, step.changes) { Ok(()) } else { Err(step.moved(actual)) }
    }

    fn checkpoint(&self, projection: &ProjectionName) -> Position {
        self.checkpoints.get(projection).copied().unwrap_or_default()
    }

    /// As if the projection had never run.
    fn forget(&mut self, projection: &ProjectionName) {
        self.checkpoints.remove(projection);
        self.parking.remove(projection);
        self.progress.remove(projection);
    }

    fn take(&mut self, step: Step) {
        let changes = step.changes_after();
        self.park(&step.projection, step.parking).changes = changes;
        self.checkpoints.insert(step.projection, step.to);
    }

    fn park(&mut self, projection: &ProjectionName, changes: Vec<ParkingChange>) -> &mut Parking {
        let parking = self.parking.entry(projection.clone()).or_default();
        for change in changes {
            let stream = change.stream().clone();
            parking.parked.retain(|parked| parked.stream != stream);
            if let ParkingChange::Park(parked) = change {
                parking.parked.push(parked);
            }
        }
        parking.parked.sort_by_key(|parked| parked.from_position);
        parking
    }

    fn replace(&mut self, value: T) {
        self.value = Arc::new(value);
        self.inboxes.commit();
    }
}

#[async_trait]
impl<T: Clone + Send + Sync + 'static> CheckpointStore for MemoryReadModel<T> {
    type Tx = T;

    async fn checkpoint(&self, projection: &ProjectionName) -> Result<Position> {
        Ok(self.read().checkpoint(projection))
    }

    async fn parking(&self, projection: &ProjectionName) -> Result<Parking> {
        Ok(self.read().parking.get(projection).cloned().unwrap_or_default())
    }

    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool> {
        let mut committed = self.write();
        let mut parked = committed.parking.get_mut(projection).into_iter().flat_map(|parking| &mut parking.parked);
        let Some(parked) = parked.find(|parked| parked.stream == *stream) else { return Ok(false) };
        parked.revive();
        Ok(true)
    }

    async fn advance(&self, step: Step, work: Work<T>) -> Result<()> {
        let _turn = self.turn.lock().await;
        let before = {
            let mut committed = self.write();
            committed.inboxes.begin();
            committed.check(&step)?;
            committed.value.clone()
        };
        let mut value = T::clone(&before);
        work(&mut value).await?;
        let mut committed = self.write();
        committed.check(&step)?;
        committed.replace(value);
        committed.take(step);
        Ok(())
    }
}

#[async_trait]
impl<T: Clone + Send + Sync + 'static> ProgressStore for MemoryReadModel<T> {
    async fn begin(&self, projection: &ProjectionName, work: Work<T>) -> Result<()> {
        let _turn = self.turn.lock().await;
        let before = {
            let mut committed = self.write();
            committed.inboxes.begin();
            let is_new = committed.checkpoints.get(projection).is_none_or(|checkpoint| *checkpoint == Position::ZERO);
            if !is_new && !committed.progress.contains_key(projection) {
                return Err(in_log_order(projection));
            }
            committed.value.clone()
        };
        let mut value = T::clone(&before);
        work(&mut value).await?;
        let mut committed = self.write();
        committed.replace(value);
        committed.progress.entry(projection.clone()).or_default();
        Ok(())
    }

    async fn seen(&self, projection: &ProjectionName, streams: &[StreamId]) -> Result<HashMap<StreamId, Version>> {
        let committed = self.read();
        let Some(rows) = committed.progress.get(projection) else { return Ok(HashMap::new()) };
        let seen = streams.iter().filter_map(|stream| Some((stream.clone(), rows.get(stream)?.1)));
        Ok(seen.collect())
    }

    async fn progress(&self, projection: &ProjectionName, streams: Vec<StreamId>, turn: Turn<T>) -> Result<()> {
        let _turn = self.turn.lock().await;
        let (before, rows) = {
            let mut committed = self.write();
            committed.inboxes.begin();
            let parked = committed.parking.get(projection).map_or(&[] as &[_], |parking| &parking.parked);
            let streams = in_key_order(streams);
            let parked =
                parked.iter().filter(|parked| streams.binary_search(&parked.stream).is_ok()).cloned().collect();
            let none = HashMap::new();
            let rows = committed.progress.get(projection).unwrap_or(&none);
            (committed.value.clone(), progress_of(streams, rows, parked)?)
        };
        let (mut value, mut after) = (T::clone(&before), rows.clone());
        turn(&mut value, &mut after).await?;
        let mut committed = self.write();
        committed.replace(value);
        let (changed, parking) = changes(&rows, &after);
        let rows = committed.progress.entry(projection.clone()).or_default();
        rows.extend(changed.into_iter().map(|row| (row.stream.clone(), (row.applied, row.seen))));
        committed.park(projection, parking);
        Ok(())
    }

    async fn sweep(&self, projection: &ProjectionName, to: Position) -> Result<Position> {
        let mut committed = self.write();
        let swept = committed.checkpoints.entry(projection.clone()).or_default();
        *swept = to.max(*swept);
        Ok(*swept)
    }
}
