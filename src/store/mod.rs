//! The ports of storage. The store is the truth: what is not in it has not happened.

mod append;
mod claims;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod connections;
pub mod deadlines;
pub mod group_commit;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod health;
mod inbox;
mod inline;
mod lease;
pub mod memory;
#[cfg(feature = "mysql")]
pub mod mysql;
pub mod parking;
mod pointer;
#[cfg(feature = "postgres")]
pub mod postgres;
mod progress;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod views;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::error::{ErrorKind, Result};
use crate::event::{Event, EventTypes, RecordedEvent, StoredEvent};
use crate::id::{
    AggregateType, ClaimScope, ClaimValue, CommitId, EventType, Fence, IdempotencyKey, Position, ProjectionName,
    StreamId, Version,
};

#[cfg(any(feature = "postgres", feature = "mysql"))]
pub use health::{Health, OpenTransaction, OpenTransactions};

pub use append::{Append, Appended, KeptOutcome, Outcome, StreamAppend, Token};
pub use deadlines::{Deadline, DeadlineChange, DeadlineStore};
pub use inbox::InboxStore;
pub use inline::{Inline, InlineStore};
pub use lease::LeaseStore;
pub use parking::{Parked, Parking, Step};
pub use progress::{Progress, ProgressStore, Turn};
pub(crate) use views::GOING;
pub use views::{Fields, Switch, ViewId, ViewPage, ViewRow, ViewStore};

/// Largest payload of one event a store takes by default, in bytes: the largest message RabbitMQ 4 takes by default.
pub const MAX_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;

/// A page of the log ends with the event whose payload brings it to so many bytes, whatever was asked for: who reads page by page holds a
/// bounded part of the log, however large its events are.
pub const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// Reads the log. What a relay, a worker or a report gets: it cannot write.
#[async_trait]
pub trait EventReader: Send + Sync + 'static {
    /// Hands the events of one stream to `visitor`, in version order, each borrowed from the store's buffer.
    ///
    /// The stream is never held in memory as a whole. If [`Replay::snapshot`] names a fingerprint and the store has such a
    /// snapshot no later than the end asked for, the visitor gets it first and then only the events after it.
    ///
    /// # Errors
    /// What the visitor returns, as it is; otherwise what reading met.
    async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()>;

    /// At most `limit` events after a position that pass the filter, in log order. Fewer where they are large: see [`PAGE_BYTES`].
    ///
    /// # Errors
    /// What reading met; [`ErrorKind::Corrupt`] names the position of a damaged row.
    async fn read_all(&self, after: Position, limit: usize, filter: &Filter) -> Result<Page>;

    /// At most `limit` events of one stream after a version, in version order, whole. On a server, an event comes as soon as it has a
    /// position.
    ///
    /// # Errors
    /// What reading met; [`ErrorKind::Corrupt`] names a damaged row.
    async fn read_stream(&self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<RecordedEvent>>;

    /// The newest events of one type, newest first, at most `limit`.
    ///
    /// # Errors
    /// As [`read_all`](Self::read_all).
    async fn newest(&self, event_type: &EventType, limit: usize) -> Result<Vec<RecordedEvent>>;

    /// The first events recorded later than `time`, in log order, at most `limit`.
    ///
    /// # Errors
    /// As [`read_all`](Self::read_all).
    async fn recorded_after(&self, time: DateTime<Utc>, limit: usize) -> Result<Vec<RecordedEvent>>;

    /// The position of the last event in the log; zero if it is empty.
    ///
    /// # Errors
    /// What reading met.
    async fn head(&self) -> Result<Position>;

    /// The position of the last event of a commit; `None` while its events have no positions yet.
    ///
    /// # Errors
    /// What reading met.
    async fn position_of(&self, commit: CommitId) -> Result<Option<Position>>;

    /// Hints that the log has grown. It may miss the appends of other processes: poll as well, more slowly.
    fn grown(&self) -> watch::Receiver<Position>;
}

/// Which events of a stream, and whether a snapshot may stand for the first of them.
#[derive(Debug, Clone, Copy)]
pub struct Replay {
    /// Only events after this version.
    pub after: Version,
    /// Where to end.
    pub up_to: UpTo,
    /// The fingerprint a snapshot must have to be used; `None` to use no snapshot.
    pub snapshot: Option<u64>,
}

impl Replay {
    /// Every event of the stream.
    pub const ALL: Self = Self { after: Version::ZERO, up_to: UpTo::Head, snapshot: None };

    /// Every event after a version.
    pub const fn after(version: Version) -> Self {
        Self { after: version, ..Self::ALL }
    }
}

/// Where a replay ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpTo {
    /// At the stream's newest event.
    Head,
    /// With this version.
    Version(Version),
    /// With the last event recorded at this time or before.
    Time(DateTime<Utc>),
}

/// Receives one stream's snapshot and events.
pub trait Visitor: Send {
    /// The state as of `version`. Comes first, at most once, and only if the replay asked for it.
    ///
    /// # Errors
    /// Whatever ends the replay; the caller of [`EventReader::replay`] gets it back.
    fn snapshot(&mut self, version: Version, state: &[u8]) -> Result<()>;

    /// The next event.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot).
    fn event(&mut self, version: Version, event: StoredEvent<'_>) -> Result<()>;
}

/// Which events of the log. Empty lists let everything pass; both lists together must both be met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only events of these kinds of aggregate.
    pub aggregate_types: Vec<AggregateType>,
    /// Only events of these types.
    pub event_types: Vec<EventType>,
}

impl Filter {
    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// The events that `E` can hold.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a hand-written `Event` with no kind of event, or with a name no store accepts.
    pub fn of<E: Event>() -> Result<Self> {
        let EventTypes::Only(schemas) = E::TYPES else { return Ok(Self::all()) };
        if schemas.is_empty() {
            return Err(ErrorKind::Invalid("the event type holds no kind of event, so nothing can match".into()).into());
        }
        let event_types = schemas.iter().map(|schema| EventType::new(schema.name)).collect::<Result<_, _>>()?;
        Ok(Self { event_types, ..Self::default() })
    }

    /// All events of these kinds of aggregate, also of types that no one knows yet.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a name no store accepts.
    pub fn aggregates<'a>(types: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let aggregate_types = types.into_iter().map(AggregateType::new).collect::<Result<_, _>>()?;
        Ok(Self { aggregate_types, ..Self::default() })
    }

    /// Whether everything passes.
    pub fn is_all(&self) -> bool {
        self.aggregate_types.is_empty() && self.event_types.is_empty()
    }

    /// Whether an event passes.
    pub fn passes(&self, event: &RecordedEvent) -> bool {
        (self.aggregate_types.is_empty() || self.aggregate_types.contains(event.stream.aggregate_type()))
            && (self.event_types.is_empty() || self.event_types.contains(&event.event.event_type))
    }
}

/// A part of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The events that passed the filter.
    pub events: Vec<RecordedEvent>,
    /// Every event up to here has been looked at: the place to read on from.
    pub through: Position,
}

impl Page {
    /// Of events that were looked for up to `end`, unless the page was full before.
    fn of(events: Vec<RecordedEvent>, limit: usize, end: Position) -> Self {
        let full =
            events.len() >= limit || events.iter().map(RecordedEvent::payload_bytes).sum::<usize>() >= PAGE_BYTES;
        let through = events.last().filter(|_| full).map_or(end, |last| last.position);
        Self { events, through }
    }
}

/// Keeps the newest state of streams, so that loading need not replay them whole.
#[async_trait]
pub trait SnapshotStore: Send + Sync + 'static {
    /// Keeps a state, unless a newer one of the same fingerprint is there. One snapshot a stream is kept.
    ///
    /// # Errors
    /// What writing met. A lost snapshot costs time, never data.
    async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()>;
}

/// The state of a stream's aggregate as of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The last event in it.
    pub version: Version,
    /// The shape of the state.
    pub fingerprint: u64,
    /// The encoded state.
    pub state: Vec<u8>,
}

/// Appends to the log.
#[async_trait]
pub trait EventStore: EventReader + SnapshotStore {
    /// Makes the events durable, all or none.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if a stream is not at the version expected, [`ErrorKind::DuplicateEvent`] for an id that is in the log,
    /// [`ErrorKind::Taken`] for a value that another stream holds, [`ErrorKind::KeyReused`], [`ErrorKind::Full`],
    /// [`ErrorKind::ReadOnly`] and what [`Append::check`] refuses: nothing was written. Of several of them in one append the first of
    /// this list is reported: a conflict, a value that is taken, a duplicate id.
    /// After [`ErrorKind::Transient`] or [`ErrorKind::Backend`] the outcome is unknown: the idempotency key decides.
    ///
    /// # Cancel safety
    /// A dropped call may still write. The store stays usable.
    async fn append(&self, append: Append) -> Result<Appended>;

    /// What the append under this key did; `None` if there was none.
    ///
    /// # Errors
    /// What reading met.
    async fn outcome(&self, key: &IdempotencyKey) -> Result<Option<KeptOutcome>>;

    /// The stream that holds a value; `None` if it is free. Another append may change that at once: the append that reserves the value
    /// is what decides.
    ///
    /// # Errors
    /// What reading met.
    async fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>>;

    /// Waits for the appends under way, then lets go of the store. Later appends are refused.
    ///
    /// # Errors
    /// What closing met.
    async fn close(&self) -> Result<()>;
}

/// Where the relay has got to: the position up to which the broker has confirmed everything.
#[async_trait]
pub trait RelayCheckpoint: Send + Sync + 'static {
    /// The position this relay has confirmed; zero if it never ran.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a name that breaks the rules of all names: 1 to 255 bytes without NUL. Otherwise what reading met.
    async fn relayed(&self, relay: &str) -> Result<Position>;

    /// Moves the position forward; never backward. Keeps the fence, also where the position stays.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if this was called with a larger fence before: another relay has the lease now, and nothing was changed.
    /// Otherwise as [`relayed`](Self::relayed).
    ///
    /// # Cancel safety
    /// A dropped call may still move it.
    async fn set_relayed(&self, relay: &str, position: Position, fence: Fence) -> Result<()>;
}

/// What a relay keeps: its position, and the lease that lets one relay of a name lead. For a program that chooses its store when it starts:
/// an `Arc<dyn RelayStore>`.
pub trait RelayStore: RelayCheckpoint + LeaseStore {}

impl<S: RelayCheckpoint + LeaseStore + ?Sized> RelayStore for S {}

/// Judges what a store found after a write under a fence.
fn check_fence(relay: &str, fence: Fence, newest: Fence) -> Result<()> {
    if newest <= fence { Ok(()) } else { Err(ErrorKind::Fenced { relay: relay.to_owned(), fence, newest }.into()) }
}

/// What runs inside a projection's transaction.
pub type Work<Tx> = Box<dyn for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<()>> + Send>;

/// Where projections keep their read models, each together with its checkpoint.
#[async_trait]
pub trait CheckpointStore: Send + Sync + 'static {
    /// What a projection writes through. May be a trait object: then one projection runs on several databases.
    type Tx: Send + ?Sized + 'static;

    /// The position up to which a projection has applied everything, apart from what is parked; zero if it never ran.
    ///
    /// # Errors
    /// What reading met.
    async fn checkpoint(&self, projection: &ProjectionName) -> Result<Position>;

    /// The aggregates that a projection has parked. Their count of changes is at most as new as the rows: a [`Step`] that goes on from it
    /// and succeeds has known the rows as they were.
    ///
    /// # Errors
    /// What reading met.
    async fn parking(&self, projection: &ProjectionName) -> Result<Parking>;

    /// Has a parked aggregate tried again at once and with a fresh budget, also a dead one; by whichever process runs the projection, at
    /// its next sweep. Returns whether the aggregate was parked.
    ///
    /// # Errors
    /// What writing met.
    ///
    /// # Cancel safety
    /// A dropped call may still write.
    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool>;

    /// Runs `work`, moves the checkpoint and changes the parking as the step says, in one transaction.
    ///
    /// # Errors
    /// What `work` returns, unless the database beneath it is the trouble: then [`ErrorKind::Transient`], [`ErrorKind::Full`] or
    /// [`ErrorKind::ReadOnly`] with that error as its cause. [`ErrorKind::CheckpointMoved`] if checkpoint or parking are not what the step
    /// begins with. Nothing was changed then.
    ///
    /// # Cancel safety
    /// A dropped call may still commit, but never in part.
    async fn advance(&self, step: Step, work: Work<Self::Tx>) -> Result<()>;

    /// Waits for the calls under way, then lets go of the database, for every handle of this read model. Later calls are refused. One that
    /// lies beside a log, such as [`SqliteStore::read_model`](crate::SqliteStore::read_model), shares the log's connections, and closes
    /// them. By default, as in memory, there is nothing to let go of.
    ///
    /// # Errors
    /// What closing met.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
