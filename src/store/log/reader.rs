//! The port of readers: a log that cannot be written.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::watch;

use crate::error::Result;
use crate::event::{RecordedEvent, StoredEvent};
use crate::id::{CommitId, EventType, Position, StreamId, Version};
use crate::store::log::query::{Filter, Page};

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

    /// At most `limit` events after a position that pass the filter, in log order. Fewer where they are large: see [`PAGE_BYTES`](crate::store::PAGE_BYTES).
    ///
    /// # Errors
    /// What reading met; [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) names the position of a damaged row.
    async fn read_all(&self, after: Position, limit: usize, filter: &Filter) -> Result<Page>;

    /// At most `limit` events of one stream after a version, in version order, whole. On a server, an event comes as soon as it has a
    /// position.
    ///
    /// # Errors
    /// What reading met; [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) names a damaged row.
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
    fn watch_head(&self) -> watch::Receiver<Position>;
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
