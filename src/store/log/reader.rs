//! The port of readers: a log that cannot be written.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::TryFutureExt;
use tokio::sync::watch;

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::event::{RecordedEvent, StoredEvent};
use crate::id::{CommitId, EventType, Position, StreamId, Version};
#[cfg(doc)]
use crate::store::log::query::Select;
use crate::store::log::query::{Filter, Page, Query};

/// Reads the log. A relay, a worker or a report gets a reader: it cannot write.
///
/// [`EventReaderExt`] adds a method for each kind of query.
#[async_trait]
pub trait EventReader: Send + Sync + 'static {
    /// Hands the events of one stream to `visitor`, in version order, each borrowed from the store's buffer.
    ///
    /// The stream is never held in memory as a whole. If [`Replay::snapshot`] names a fingerprint and the store has such a
    /// snapshot no later than the end asked for, the visitor gets it first and then only the events after it.
    ///
    /// # Errors
    /// The visitor's error as it is, otherwise a [read error](crate::Error#read-errors).
    async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()>;

    /// Returns the events that `query` asks for, whole and with their positions.
    ///
    /// On a server, an event gets its position after its commit. `read` first gives positions to the commits it can see, so it returns
    /// every event whose append returned before the call. A session that may only read, as on a replica, cannot do so: it returns only
    /// the events that have positions. A page of a stream then ends before the stream does, and [`replay`](Self::replay) sees more.
    ///
    /// [`PAGE_BYTES`](crate::store::PAGE_BYTES) limits a page of [`Select::Log`] alone. Any other page is complete: fewer events than the
    /// limit means that there are no more.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors). [`ErrorKind::Corrupt`] names the position of a damaged row.
    async fn read(&self, query: Query<'_>) -> Result<Page>;

    /// Returns the position of the last event in the log; zero if it is empty.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn head(&self) -> Result<Position>;

    /// Returns the position of the last event of a commit; `None` while its events have no positions yet.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn position_of(&self, commit: CommitId) -> Result<Option<Position>>;

    /// Returns a signal that the log has grown. It may miss the appends of other processes: poll as well, more slowly.
    fn watch_head(&self) -> watch::Receiver<Position>;
}

/// Asks an [`EventReader`] each kind of [`Query`]. Every reader has these methods; no store writes them.
pub trait EventReaderExt: EventReader {
    /// Returns at most `limit` events after a position that pass `filter`, in log order. A page of large events is
    /// [shorter](crate::store::PAGE_BYTES).
    ///
    /// # Errors
    /// As [`read`](EventReader::read).
    fn read_all<'r>(
        &'r self,
        after: Position,
        limit: usize,
        filter: &'r Filter,
    ) -> impl Future<Output = Result<Page>> + Send {
        self.read(Query::log(after, filter).with_limit(limit))
    }

    /// Returns at most `limit` events of one stream after a version, in version order.
    ///
    /// # Errors
    /// As [`read`](EventReader::read).
    fn read_stream<'r>(
        &'r self,
        stream: &'r StreamId,
        after: Version,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<RecordedEvent>>> + Send {
        self.read(Query::stream(stream, after).with_limit(limit)).map_ok(|page| page.events)
    }

    /// Returns the newest events of one type, newest first, at most `limit`.
    ///
    /// # Errors
    /// As [`read`](EventReader::read).
    fn newest<'r>(
        &'r self,
        event_type: &'r EventType,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<RecordedEvent>>> + Send {
        self.read(Query::newest(event_type).with_limit(limit)).map_ok(|page| page.events)
    }

    /// Returns the first events recorded later than `time`, in log order, at most `limit`.
    ///
    /// # Errors
    /// As [`read`](EventReader::read).
    fn recorded_after(
        &self,
        time: DateTime<Utc>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<RecordedEvent>>> + Send {
        self.read(Query::recorded_after(time).with_limit(limit)).map_ok(|page| page.events)
    }
}

impl<R: EventReader + ?Sized> EventReaderExt for R {}

/// Which events of a stream, and whether a snapshot may stand for the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
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

    /// Sets where the replay ends.
    pub const fn with_up_to(mut self, end: UpTo) -> Self {
        self.up_to = end;
        self
    }

    /// Lets a snapshot with this fingerprint stand for the first events.
    pub const fn with_snapshot(mut self, fingerprint: u64) -> Self {
        self.snapshot = Some(fingerprint);
        self
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

impl UpTo {
    /// Returns whether an event comes before the end.
    pub fn includes(self, version: Version, recorded_at: DateTime<Utc>) -> bool {
        match self {
            Self::Head => true,
            Self::Version(end) => version <= end,
            Self::Time(end) => recorded_at <= end,
        }
    }

    /// Returns whether a snapshot at `version` may stand for the events before it. It never may if the replay ends at a time, since the time
    /// of a snapshot's last event is not stored.
    pub fn allows_snapshot(self, version: Version) -> bool {
        match self {
            Self::Head => true,
            Self::Version(end) => version <= end,
            Self::Time(_) => false,
        }
    }
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
