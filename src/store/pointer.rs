//! The ports of storage through an `Arc`: a program that chooses its store when it starts holds an `Arc<dyn EventStore>`, and hands it on
//! like any store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::watch;
use uuid::Uuid;

use crate::error::Result;
use crate::event::RecordedEvent;
use crate::id::{
    ClaimScope, ClaimValue, CommitId, EventId, EventType, Fence, Generation, IdempotencyKey, Position, ProjectionName,
    StreamId, Version, ViewKey,
};
use crate::store::log::append::{Append, Appended, KeptOutcome};
use crate::store::log::event_store::{EventStore, Snapshot};
use crate::store::log::query::{Filter, Page};
use crate::store::log::reader::{EventReader, Replay, Visitor};
use crate::store::log::relay::RelayStore;
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::parking::{Parking, Step};
use crate::store::model::progress::Turn;
use crate::store::model::read_model::{ReadModel, Work};
use crate::store::model::views::{Switch, ViewId, ViewPage, ViewRow, ViewStore};

#[async_trait]
impl<S: EventReader + ?Sized> EventReader for Arc<S> {
    async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()> {
        (**self).replay(stream, replay, visitor).await
    }

    async fn read_all(&self, after: Position, limit: usize, filter: &Filter) -> Result<Page> {
        (**self).read_all(after, limit, filter).await
    }

    async fn read_stream(&self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<RecordedEvent>> {
        (**self).read_stream(stream, after, limit).await
    }

    async fn newest(&self, event_type: &EventType, limit: usize) -> Result<Vec<RecordedEvent>> {
        (**self).newest(event_type, limit).await
    }

    async fn recorded_after(&self, time: DateTime<Utc>, limit: usize) -> Result<Vec<RecordedEvent>> {
        (**self).recorded_after(time, limit).await
    }

    async fn head(&self) -> Result<Position> {
        (**self).head().await
    }

    async fn position_of(&self, commit: CommitId) -> Result<Option<Position>> {
        (**self).position_of(commit).await
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        (**self).watch_head()
    }
}

#[async_trait]
impl<S: EventStore + ?Sized> EventStore for Arc<S> {
    async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        (**self).save_snapshot(stream, snapshot).await
    }

    async fn append(&self, append: Append) -> Result<Appended> {
        (**self).append(append).await
    }

    async fn find_by_key(&self, key: &IdempotencyKey) -> Result<Option<KeptOutcome>> {
        (**self).find_by_key(key).await
    }

    async fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>> {
        (**self).holder(scope, value).await
    }

    async fn close(&self) -> Result<()> {
        (**self).close().await
    }
}

#[async_trait]
impl<S: RelayStore + ?Sized> RelayStore for Arc<S> {
    async fn position(&self, relay: &str) -> Result<Position> {
        (**self).position(relay).await
    }

    async fn advance(&self, relay: &str, position: Position, fence: Fence) -> Result<()> {
        (**self).advance(relay, position, fence).await
    }

    async fn acquire_lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<Option<Fence>> {
        (**self).acquire_lease(name, holder, length).await
    }

    async fn release_lease(&self, name: &str, holder: Uuid) -> Result<()> {
        (**self).release_lease(name, holder).await
    }
}

#[async_trait]
impl<M: ReadModel + ?Sized> ReadModel for Arc<M> {
    type Tx = M::Tx;

    async fn checkpoint(&self, projection: &ProjectionName) -> Result<Position> {
        (**self).checkpoint(projection).await
    }

    async fn state(&self, projection: &ProjectionName) -> Result<ProjectionState> {
        (**self).state(projection).await
    }

    async fn parking(&self, projection: &ProjectionName) -> Result<Parking> {
        (**self).parking(projection).await
    }

    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool> {
        (**self).retry_parked(projection, stream).await
    }

    async fn commit(&self, step: Step, work: Work<Self::Tx>) -> Result<()> {
        (**self).commit(step, work).await
    }

    async fn begin(&self, projection: &ProjectionName, work: Work<Self::Tx>) -> Result<()> {
        (**self).begin(projection, work).await
    }

    async fn seen(&self, projection: &ProjectionName, streams: &[StreamId]) -> Result<HashMap<StreamId, Version>> {
        (**self).seen(projection, streams).await
    }

    async fn turn(&self, projection: &ProjectionName, streams: Vec<StreamId>, turn: Turn<Self::Tx>) -> Result<()> {
        (**self).turn(projection, streams, turn).await
    }

    async fn sweep(&self, projection: &ProjectionName, to: Position) -> Result<Position> {
        (**self).sweep(projection, to).await
    }

    async fn mark_handled(&self, tx: &mut Self::Tx, reaction: &ProjectionName, event: EventId) -> Result<bool> {
        (**self).mark_handled(tx, reaction, event).await
    }

    async fn start_after(&self, reaction: &ProjectionName, position: Position) -> Result<Position> {
        (**self).start_after(reaction, position).await
    }

    async fn close(&self) -> Result<()> {
        (**self).close().await
    }
}

#[async_trait]
impl<M: ViewStore + ?Sized> ViewStore for Arc<M> {
    async fn load_rows(&self, tx: &mut Self::Tx, view: &ViewId, keys: &[ViewKey]) -> Result<Vec<ViewRow>> {
        (**self).load_rows(tx, view, keys).await
    }

    async fn save_rows(&self, tx: &mut Self::Tx, view: &ViewId, before: &[ViewRow], after: &[ViewRow]) -> Result<()> {
        (**self).save_rows(tx, view, before, after).await
    }

    async fn insert_rows(&self, tx: &mut Self::Tx, view: &ViewId, rows: &[ViewRow]) -> Result<()> {
        (**self).insert_rows(tx, view, rows).await
    }

    async fn clear_rows(&self, tx: &mut Self::Tx, view: &ViewId) -> Result<()> {
        (**self).clear_rows(tx, view).await
    }

    async fn promote(&self, view: &ViewId, when: Switch) -> Result<Generation> {
        (**self).promote(view, when).await
    }

    async fn delete_generation(&self, view: &ViewId, rows: usize) -> Result<bool> {
        (**self).delete_generation(view, rows).await
    }

    async fn live_generation(&self, view: &ProjectionName) -> Result<Generation> {
        (**self).live_generation(view).await
    }

    async fn rows(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        keys: &[ViewKey],
    ) -> Result<Vec<ViewRow>> {
        (**self).rows(view, generation, keys).await
    }

    async fn page(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        page: &ViewPage,
    ) -> Result<Vec<ViewRow>> {
        (**self).page(view, generation, page).await
    }
}
