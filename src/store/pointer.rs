//! Implements the storage ports for `Arc<S>`: a program that chooses its store at startup holds an `Arc<dyn EventStore>` and uses it like
//! any other store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::watch;
use uuid::Uuid;

use crate::error::Result;
use crate::id::mark::Mark;
use crate::id::{
    ClaimScope, ClaimValue, EventId, EventType, Fence, Generation, IdempotencyKey, Position, ProjectionName, StreamId,
    ViewKey,
};
use crate::store::log::append::{Append, Appended, KeyedOutcome};
use crate::store::log::archive::{Archive, ArchivedKey, ClaimVisitor, Parts};
use crate::store::log::blocker::Blocker;
use crate::store::log::event_store::{EventStore, Snapshot};
use crate::store::log::fault::Fault;
use crate::store::log::inline::{Inline, InlineStore};
use crate::store::log::inspect::{Cursor, Inspect, LogRow};
use crate::store::log::keys::KeyRow;
use crate::store::log::query::{Page, Query};
use crate::store::log::reader::{EventReader, Replay, Visitor};
use crate::store::log::relay::{RelayStatus, RelayStore};
use crate::store::log::seal::Seal;
use crate::store::log::shapes::RegisteredShape;
use crate::store::log::token::Token;
use crate::store::model::checkpoint::{ProjectionState, ProjectionStatus};
use crate::store::model::deadlines::{Deadline, DeadlineChange, DeadlineStore};
use crate::store::model::interventions::{AuditEntry, By, Intervention, Pause};
use crate::store::model::listing::{HandledEvent, ProgressRow};
use crate::store::model::parking::{Parked, Parking, Step};
use crate::store::model::processors::RegisteredProcessor;
use crate::store::model::progress::{Seen, Turn};
use crate::store::model::pruning::{InboxPruning, ReactionStart};
use crate::store::model::read_model::{ReadModel, Work};
use crate::store::model::skipped::Skipped;
use crate::store::model::views::{Switch, ViewId, ViewPage, ViewRow, ViewStore};
use crate::store::size::StoreSize;

/// Implements a port for `Arc<S>`: each method calls the method of `S`. List the async methods first.
macro_rules! forward {
    ($port:ident {
        $(type $associated:ident;)?
        $(async fn $method:ident(&self $(, $argument:ident: $type:ty)* $(,)?) -> $returned:ty;)*
        $(fn $plain:ident(&self) -> $plainly:ty;)*
    }) => {
        #[async_trait]
        impl<S: $port + ?Sized> $port for Arc<S> {
            $(type $associated = S::$associated;)?

            $(async fn $method(&self $(, $argument: $type)*) -> $returned {
                (**self).$method($($argument),*).await
            })*

            $(fn $plain(&self) -> $plainly {
                (**self).$plain()
            })*
        }
    };
}

forward! {
    EventReader {
        async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()>;
        async fn read(&self, query: Query<'_>) -> Result<Page>;
        async fn head(&self) -> Result<Position>;
        async fn position_of(&self, token: Token) -> Result<Option<Position>>;
        async fn unsequenced(&self) -> Result<u64>;
        async fn size(&self) -> Result<Option<StoreSize>>;
        async fn blockers(&self, limit: usize) -> Result<Vec<Blocker>>;
        async fn registered_shapes(&self) -> Result<Vec<RegisteredShape>>;
        async fn next_event_type(&self, after: Option<&EventType>) -> Result<Option<EventType>>;
        fn watch_head(&self) -> watch::Receiver<Position>;
    }
}

forward! {
    Inspect {
        async fn rows(&self, from: Cursor, limit: usize) -> Result<Option<Vec<LogRow>>>;
        async fn strays(&self, limit: usize) -> Result<Option<Vec<Fault>>>;
        async fn seals(&self, after: Position, limit: usize) -> Result<Option<Vec<Seal>>>;
        async fn last_seal(&self) -> Result<Option<Seal>>;
        async fn add_seal(&self, seal: &Seal) -> Result<()>;
        async fn keys(&self, after: &str, limit: usize) -> Result<Option<Vec<KeyRow>>>;
        async fn delete_keys(&self, after: &str, last: &str, through: Position) -> Result<u64>;
        async fn old_commits(&self, before: DateTime<Utc>, limit: usize) -> Result<Option<u64>>;
        async fn delete_old_commits(&self, before: DateTime<Utc>, limit: usize) -> Result<u64>;
    }
}

forward! {
    Archive {
        async fn claims(&self, visitor: &mut dyn ClaimVisitor) -> Result<bool>;
        async fn archived_keys(&self, through: Position, after: Option<&IdempotencyKey>, limit: usize) -> Result<Option<Vec<ArchivedKey>>>;
        async fn import(&self, head: Position, parts: &mut dyn Parts) -> Result<()>;
    }
}

forward! {
    EventStore {
        async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()>;
        async fn register_shapes(&self, shapes: &[RegisteredShape]) -> Result<()>;
        async fn append(&self, append: Append) -> Result<Appended>;
        async fn find_by_key(&self, key: &IdempotencyKey) -> Result<Option<KeyedOutcome>>;
        async fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>>;
        async fn close(&self) -> Result<()>;
    }
}

forward! {
    RelayStore {
        async fn mark(&self, relay: &str) -> Result<Mark>;
        async fn relays(&self) -> Result<Option<Vec<String>>>;
        async fn relay_statuses(&self, limit: usize) -> Result<Option<Vec<RelayStatus>>>;
        async fn advance(&self, relay: &str, to: Mark, fence: Fence) -> Result<()>;
        async fn reset(&self, relay: &str, to: Mark) -> Result<()>;
        async fn reset_by(&self, relay: &str, to: Mark, by: &By) -> Result<()>;
        async fn relay_audit(&self, limit: usize, before: Option<u64>) -> Result<Vec<AuditEntry>>;
        async fn acquire_lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<Option<Fence>>;
        async fn release_lease(&self, name: &str, holder: Uuid) -> Result<()>;
    }
}

forward! {
    ReadModel {
        type Tx;
        async fn mark(&self, projection: &ProjectionName) -> Result<Mark>;
        async fn names(&self) -> Result<Option<Vec<ProjectionName>>>;
        async fn projections(&self, limit: usize) -> Result<Vec<ProjectionStatus>>;
        async fn state(&self, projection: &ProjectionName) -> Result<ProjectionState>;
        async fn parking(&self, projection: &ProjectionName) -> Result<Parking>;
        async fn parked(&self, projection: &ProjectionName, stream: Option<&StreamId>, limit: usize) -> Result<Vec<Parked>>;
        async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool>;
        async fn commit(&self, step: Step, work: Work<Self::Tx>) -> Result<()>;
        async fn begin(&self, projection: &ProjectionName, work: Work<Self::Tx>) -> Result<()>;
        async fn seen(&self, projection: &ProjectionName, streams: &[StreamId]) -> Result<HashMap<StreamId, Seen>>;
        async fn turn(&self, projection: &ProjectionName, changes: u64, streams: Vec<StreamId>, turn: Turn<Self::Tx>) -> Result<()>;
        async fn sweep(&self, projection: &ProjectionName, changes: u64, from: Mark, to: Mark) -> Result<Mark>;
        async fn register_processor(&self, projection: &ProjectionName, processor: &RegisteredProcessor) -> Result<()>;
        async fn processors(&self, projection: &ProjectionName) -> Result<Vec<RegisteredProcessor>>;
        async fn forget_processor(&self, projection: &ProjectionName, processor: &RegisteredProcessor) -> Result<bool>;
        async fn intervene(&self, projection: &ProjectionName, intervention: Intervention, by: &By) -> Result<bool>;
        async fn paused(&self, projection: &ProjectionName) -> Result<Option<Pause>>;
        async fn skipped(&self, projection: &ProjectionName, stream: Option<&StreamId>, limit: usize) -> Result<Vec<Skipped>>;
        async fn audit(&self, limit: usize, before: Option<u64>) -> Result<Vec<AuditEntry>>;
        async fn reset(&self, projection: &ProjectionName, to: Mark, work: Work<Self::Tx>) -> Result<()>;
        async fn reset_by(&self, projection: &ProjectionName, to: Mark, work: Work<Self::Tx>, by: &By) -> Result<()>;
        async fn mark_handled(&self, tx: &mut Self::Tx, reaction: &ProjectionName, event: EventId) -> Result<bool>;
        async fn start_after(&self, reaction: &ProjectionName, mark: Mark) -> Result<Mark>;
        async fn record(&self, entry: &AuditEntry) -> Result<()>;
        async fn reactions(&self, limit: usize) -> Result<Option<Vec<ReactionStart>>>;
        async fn count_handled(&self, reaction: &ProjectionName, events: &[EventId]) -> Result<u64>;
        async fn prune_inbox(&self, pruning: &InboxPruning) -> Result<u64>;
        async fn list_progress(&self, after: Option<&ProgressRow>, limit: usize) -> Result<Option<Vec<ProgressRow>>>;
        async fn list_handled(&self, after: Option<&HandledEvent>, limit: usize) -> Result<Option<Vec<HandledEvent>>>;
        async fn size(&self) -> Result<Option<StoreSize>>;
        async fn close(&self) -> Result<()>;
    }
}

forward! {
    ViewStore {
        async fn load_rows(&self, tx: &mut Self::Tx, view: &ViewId, keys: &[ViewKey]) -> Result<Vec<ViewRow>>;
        async fn save_rows(
            &self,
            tx: &mut Self::Tx,
            view: &ViewId,
            before: &[ViewRow],
            after: &[ViewRow],
        ) -> Result<()>;
        async fn insert_rows(&self, tx: &mut Self::Tx, view: &ViewId, rows: &[ViewRow]) -> Result<()>;
        async fn clear_rows(&self, tx: &mut Self::Tx, view: &ViewId) -> Result<()>;
        async fn promote(&self, view: &ViewId, when: Switch) -> Result<Generation>;
        async fn promote_by(&self, view: &ViewId, when: Switch, by: &By) -> Result<Generation>;
        async fn delete_generation(&self, view: &ViewId, rows: usize) -> Result<bool>;
        async fn delete_generation_by(&self, view: &ViewId, rows: usize, by: &By) -> Result<bool>;
        async fn live_generation(&self, view: &ProjectionName) -> Result<Generation>;
        async fn rows(
            &self,
            view: &ProjectionName,
            generation: Option<Generation>,
            keys: &[ViewKey],
        ) -> Result<Vec<ViewRow>>;
        async fn page(
            &self,
            view: &ProjectionName,
            generation: Option<Generation>,
            page: &ViewPage,
        ) -> Result<Vec<ViewRow>>;
    }
}

forward! {
    DeadlineStore {
        async fn change_deadlines(
            &self,
            tx: &mut Self::Tx,
            process: &ProjectionName,
            changes: &[DeadlineChange],
        ) -> Result<()>;
        async fn settle_deadlines(&self, process: &ProjectionName, changes: &[DeadlineChange]) -> Result<()>;
        async fn due_deadlines(
            &self,
            process: &ProjectionName,
            now: DateTime<Utc>,
            limit: usize,
        ) -> Result<Vec<Deadline>>;
        async fn postpone_deadline(
            &self,
            process: &ProjectionName,
            id: Uuid,
            until: DateTime<Utc>,
            error: &str,
        ) -> Result<()>;
    }
}

/// Wraps the new handle that `with_inline` returns in its own `Arc`.
#[async_trait]
impl<S: InlineStore> InlineStore for Arc<S> {
    type Tx = S::Tx;

    async fn with_inline(&self, inline: Arc<dyn Inline<Self::Tx>>) -> Result<Self> {
        (**self).with_inline(inline).await.map(Arc::new)
    }
}
