//! The port for readers: a log that cannot be written to.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::TryFutureExt;
use tokio::sync::watch;

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::event::{RecordedEvent, StoredEvent};
use crate::id::mark::Mark;
use crate::id::{CorrelationId, EventId, EventType, Position, StreamId, Version};
use crate::store::log::blocker::Blocker;
#[cfg(doc)]
use crate::store::log::query::Select;
use crate::store::log::query::{Filter, Page, Query};
use crate::store::log::shapes::RegisteredShape;
use crate::store::log::token::Token;
use crate::store::size::StoreSize;

/// Reads the log. A relay, a worker or a report gets an `EventReader`, so it cannot write.
///
/// [`EventReaderExt`] adds a method for each kind of query.
#[async_trait]
pub trait EventReader: Send + Sync + 'static {
    /// Passes the events of one stream to `visitor`, in version order, each borrowed from the store's buffer.
    ///
    /// The store never holds the whole stream in memory. If [`Replay::snapshot`] names a fingerprint and the store has a snapshot with that
    /// fingerprint that is not beyond [`Replay::up_to`], the visitor gets the snapshot first and then only the events after it. A snapshot
    /// counts only if the log has its event under its version.
    ///
    /// # Errors
    /// The error of the visitor, unchanged; [`ErrorKind::HistoryChanged`], before any call of the visitor, if the stream does not have the
    /// event [`Replay::after_event`]; otherwise a [read error](crate::Error#read-errors).
    async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()>;

    /// Returns the events that `query` asks for, complete and with their positions.
    ///
    /// On a database server, an event gets its position after its commit. `read` first assigns positions to the commits it can see, so it
    /// returns every event whose append returned before the call. A read-only session, for example on a replica, cannot assign positions
    /// and returns only the events that have one. A page of a stream may then end before the stream does, and [`replay`](Self::replay)
    /// returns more events than `read`.
    ///
    /// [`PAGE_BYTES`](crate::store::PAGE_BYTES) limits only pages of [`Select::Log`]. For every other query, a page with fewer events than
    /// the limit means that there are no more.
    ///
    /// # Errors
    /// [`ErrorKind::HistoryChanged`] if the query starts after a [`Mark`] whose event is not in the log at its position, and
    /// [`ErrorKind::Transient`] instead if this is a replica that has not reached it. Otherwise a [read error](crate::Error#read-errors);
    /// [`ErrorKind::Corrupt`] names the position of a damaged row.
    async fn read(&self, query: Query<'_>) -> Result<Page>;

    /// Returns the position of the last event in the log; zero if it is empty.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn head(&self) -> Result<Position>;

    /// Returns the position of the last event of an append; `None` while its events have no positions yet. Also returns `None` if the log lost
    /// the commit and has not written as many commits again.
    ///
    /// # Errors
    /// [`ErrorKind::HistoryChanged`] if the log has other events under the commit's number, otherwise a
    /// [read error](crate::Error#read-errors).
    async fn position_of(&self, token: Token) -> Result<Option<Position>>;

    /// Returns the number of commits that are visible and have no position yet. If it stays above zero, nothing reads the end of the log.
    ///
    /// The default is zero, for stores whose appends assign their positions themselves.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn unsequenced(&self) -> Result<u64> {
        Ok(0)
    }

    /// Returns how large the tables of the log are. Cheap: from statistics, or counted up to a limit. `None` if the store does not know, as in the
    /// default implementation.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn size(&self) -> Result<Option<StoreSize>> {
        Ok(None)
    }

    /// Returns the sessions whose open transactions can keep commits from getting positions, the oldest transaction first, at most `limit`.
    ///
    /// The default is an empty list, for stores whose appends assign their positions themselves. A store also returns one if its database user
    /// may not see other sessions.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn blockers(&self, limit: usize) -> Result<Vec<Blocker>> {
        let _ = limit;
        Ok(Vec::new())
    }

    /// Returns the wire shapes of events that programs have [registered](crate::registry::Registry::register) with this log: what a newer release
    /// writes, and what a program without the types can read payloads by.
    ///
    /// A store that keeps none returns an empty list. Then a worker takes an event of a newer release for a damaged one.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn registered_shapes(&self) -> Result<Vec<RegisteredShape>>;

    /// Returns the first event type after `after`, in the order of bytes, that the log has an event of; `None` if there is none. The event may
    /// be without a position yet.
    ///
    /// A store finds it by an index of event types, in a time that does not depend on the number of events.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn next_event_type(&self, after: Option<&EventType>) -> Result<Option<EventType>>;

    /// Returns a receiver that is notified when the log grows. It may miss appends of other processes, so also poll at a longer interval.
    fn watch_head(&self) -> watch::Receiver<Position>;
}

/// Adds a method for each kind of [`Query`]. Every [`EventReader`] has these methods; a store does not implement them.
///
/// # Examples
/// ```
/// use retell::prelude::*;
///
/// #[derive(Debug, Event, serde::Serialize, serde::Deserialize)]
/// enum ShelfEvent {
///     #[event("shelf.filled")]
///     Filled { books: u32 },
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// log.append_events(("shelf", "1"), ExpectedVersion::NoStream, [ShelfEvent::Filled { books: 12 }]).await?;
/// let page = log.read_all(Position::ZERO, 100, &Filter::all()).await?;
/// assert_eq!((page.events.len(), page.through), (1, Position::new(1)));
/// let stream = log.read_stream(&StreamId::parse("shelf", "1")?, Version::ZERO, 100).await?;
/// assert_eq!(stream, page.events);
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
pub trait EventReaderExt: EventReader {
    /// Returns at most `limit` events after the place `after` that pass `filter`, in log order. A page of large events is
    /// [shorter](crate::store::PAGE_BYTES).
    ///
    /// # Errors
    /// The errors of [`read`](EventReader::read).
    fn read_all<'r>(
        &'r self,
        after: impl Into<Mark>,
        limit: usize,
        filter: &'r Filter,
    ) -> impl Future<Output = Result<Page>> + Send {
        self.read(Query::log(after, filter).with_limit(limit))
    }

    /// Returns the place of the event at `position`. Its event is unknown if the log ends before it.
    ///
    /// # Errors
    /// The errors of [`read`](EventReader::read).
    fn mark_at(&self, position: Position) -> impl Future<Output = Result<Mark>> + Send {
        async move {
            let Some(before) = position.get().checked_sub(1) else { return Ok(Mark::START) };
            let all = Filter::all();
            let page = self.read(Query::log(Position::new(before), &all).with_limit(1)).await?;
            Ok(page.events.first().map_or(position.into(), RecordedEvent::mark))
        }
    }

    /// Checks that the log has the event of `mark` at its position.
    ///
    /// # Errors
    /// [`ErrorKind::HistoryChanged`] if it has not, otherwise the errors of [`read`](EventReader::read).
    fn check(&self, mark: Mark) -> impl Future<Output = Result<()>> + Send {
        async move {
            let all = Filter::all();
            self.read(Query::log(mark, &all).with_limit(1)).await.map(drop)
        }
    }

    /// Returns at most `limit` events of `stream` after the version `after`, in version order.
    ///
    /// # Errors
    /// The errors of [`read`](EventReader::read).
    fn read_stream<'r>(
        &'r self,
        stream: &'r StreamId,
        after: Version,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<RecordedEvent>>> + Send {
        self.read(Query::stream(stream, after).with_limit(limit)).map_ok(|page| page.events)
    }

    /// Returns the newest `limit` events of one type, newest first.
    ///
    /// # Errors
    /// The errors of [`read`](EventReader::read).
    fn newest<'r>(
        &'r self,
        event_type: &'r EventType,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<RecordedEvent>>> + Send {
        self.read(Query::newest(event_type).with_limit(limit)).map_ok(|page| page.events)
    }

    /// Returns every event type that the log has an event of, in the order of bytes. Reads the store once for each of them.
    ///
    /// # Errors
    /// The errors of [`next_event_type`](EventReader::next_event_type).
    fn event_types(&self) -> impl Future<Output = Result<Vec<EventType>>> + Send {
        async move {
            let mut types = Vec::new();
            while let Some(next) = self.next_event_type(types.last()).await? {
                types.push(next);
            }
            Ok(types)
        }
    }

    /// Returns the event with this `id`; `None` if the log does not have it, or if its commit has no position yet.
    ///
    /// # Errors
    /// The errors of [`read`](EventReader::read).
    fn event(&self, id: EventId) -> impl Future<Output = Result<Option<RecordedEvent>>> + Send {
        self.read(Query::event(id)).map_ok(|page| page.events.into_iter().next())
    }

    /// Returns the event at `position`; `None` if there is none.
    ///
    /// # Errors
    /// The errors of [`read`](EventReader::read).
    fn event_at(&self, position: Position) -> impl Future<Output = Result<Option<RecordedEvent>>> + Send {
        let before = Position::new(position.get().saturating_sub(1));
        async move {
            let page = self.read_all(before, 1, &Filter::all()).await?;
            Ok(page.events.into_iter().find(|event| event.position == position))
        }
    }

    /// Returns the first `limit` events of the request with the correlation id `id` after the position `after`, in log order. See
    /// [`Query::chain`].
    ///
    /// # Errors
    /// The errors of [`read`](EventReader::read).
    fn read_chain(
        &self,
        id: CorrelationId,
        after: Position,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<RecordedEvent>>> + Send {
        self.read(Query::chain(id, after).with_limit(limit)).map_ok(|page| page.events)
    }

    /// Returns the first `limit` events recorded later than `time`, in log order.
    ///
    /// # Errors
    /// The errors of [`read`](EventReader::read).
    fn recorded_after(
        &self,
        time: DateTime<Utc>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<RecordedEvent>>> + Send {
        self.read(Query::recorded_after(time).with_limit(limit)).map_ok(|page| page.events)
    }
}

impl<R: EventReader + ?Sized> EventReaderExt for R {}

/// The events of a stream that a replay returns, and whether a snapshot may replace the first of them.
///
/// # Examples
/// ```
/// use retell::store::{Replay, UpTo};
/// use retell::Version;
///
/// let replay = Replay::after(Version::new(3)).with_up_to(UpTo::Version(Version::new(5)));
/// assert_eq!(replay.snapshot, None);
/// assert_eq!(Replay::ALL.up_to, UpTo::Head);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replay {
    /// The replay starts after this version.
    pub after: Version,
    /// The id of the event at the version `after`, if the caller knows it. A replay fails if the stream has another event there, or none:
    /// the events that follow do not continue the caller's state. Such a replay may ignore [`snapshot`](Self::snapshot).
    pub after_event: Option<EventId>,
    /// The end of the replay.
    pub up_to: UpTo,
    /// The fingerprint of a snapshot that the replay may use; `None` to use no snapshot.
    pub snapshot: Option<u64>,
}

impl Replay {
    /// Replays every event of the stream.
    pub const ALL: Self = Self { after: Version::ZERO, after_event: None, up_to: UpTo::Head, snapshot: None };

    /// Replays every event after `version`.
    pub const fn after(version: Version) -> Self {
        Self { after: version, ..Self::ALL }
    }

    /// Requires the event at the version where the replay starts to have this id.
    pub const fn with_after_event(mut self, id: EventId) -> Self {
        self.after_event = Some(id);
        self
    }

    /// Sets the end of the replay.
    pub const fn with_up_to(mut self, end: UpTo) -> Self {
        self.up_to = end;
        self
    }

    /// Allows a snapshot with this `fingerprint` to replace the first events.
    pub const fn with_snapshot(mut self, fingerprint: u64) -> Self {
        self.snapshot = Some(fingerprint);
        self
    }
}

/// The end of a replay. [`Repository::load_at`](crate::Repository::load_at) loads an aggregate up to such an end.
///
/// # Examples
/// ```
/// use retell::{UpTo, Utc, Version};
///
/// assert!(UpTo::Version(Version::new(2)).allows_snapshot(Version::new(2)));
/// assert!(!UpTo::Version(Version::new(2)).allows_snapshot(Version::new(3)));
/// assert!(!UpTo::Time(Utc::now()).allows_snapshot(Version::new(2)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpTo {
    /// The newest event of the stream.
    Head,
    /// The event with this version.
    Version(Version),
    /// The last event of the stream recorded at or before this time. The replay includes every event before it, even one with a later time,
    /// which was recorded while the clock was wrong.
    Time(DateTime<Utc>),
}

impl UpTo {
    /// Returns whether a snapshot at `version` may replace the events up to `version`. Returns `false` for a replay that ends at a time, because
    /// a snapshot does not store the time of its last event: a store that finds the last version first may use a snapshot up to that version.
    pub fn allows_snapshot(self, version: Version) -> bool {
        match self {
            Self::Head => true,
            Self::Version(end) => version <= end,
            Self::Time(_) => false,
        }
    }
}

/// Receives the snapshot and the events of one stream from [`EventReader::replay`].
///
/// # Examples
/// ```
/// use retell::event::StoredEvent;
/// use retell::store::{Replay, Visitor};
/// use retell::{EventId, prelude::*};
///
/// /// Counts the events of a stream.
/// struct Counter(usize);
///
/// impl Visitor for Counter {
///     fn snapshot(&mut self, _: Version, _: EventId, _: &[u8]) -> retell::Result<()> {
///         Ok(())
///     }
///
///     fn event(&mut self, _: Version, _: EventId, _: StoredEvent<'_>) -> retell::Result<()> {
///         self.0 += 1;
///         Ok(())
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let mut counter = Counter(0);
/// MemoryStore::new().replay(&StreamId::parse("shelf", "1")?, Replay::ALL, &mut counter).await?;
/// assert_eq!(counter.0, 0);
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
pub trait Visitor: Send {
    /// Receives the encoded state as of `version`, and the id of the event at that version. The store calls this before any event, at most once, and only if [`Replay::snapshot`]
    /// asks for it.
    ///
    /// # Errors
    /// An error ends the replay, and [`EventReader::replay`] returns it.
    fn snapshot(&mut self, version: Version, id: EventId, state: &[u8]) -> Result<()>;

    /// Receives the next event and its id.
    ///
    /// # Errors
    /// An error ends the replay, and [`EventReader::replay`] returns it.
    fn event(&mut self, version: Version, id: EventId, event: StoredEvent<'_>) -> Result<()>;
}
