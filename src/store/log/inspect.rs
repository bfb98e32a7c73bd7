//! The port for verification and operators: the rows of a log as they are stored, damaged ones included, and what appends never ask.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::claim::HeldValue;
use crate::error::{ErrorKind, Result};
use crate::id::{AggregateId, AggregateType, Position, StreamId};
use crate::store::log::fault::Fault;
use crate::store::log::keys::KeyRow;
use crate::store::log::reader::EventReader;
use crate::store::log::seal::Seal;
use crate::store::log::stored_row::StoredRow;

/// Gives the stored rows of a log to a verification, lists what appends never ask for, keeps seals, and deletes rows that nothing needs any more.
///
/// Every method has a default, so a store of your own needs only `impl Inspect for MyStore {}`. A verification then reads its events through
/// [`EventReader`] and names the checks that it could not do.
#[async_trait]
pub trait Inspect: EventReader {
    /// Returns the rows after `from`, in log order: at most those of `limit` commits, and fewer if they are large. An empty list is the end of
    /// the log. Returns `None` if the store does not give out its rows.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors). A damaged row is no error.
    async fn rows(&self, from: Cursor, limit: usize) -> Result<Option<Vec<LogRow>>> {
        let _ = (from, limit);
        Ok(None)
    }

    /// Returns at most `limit` faults of each kind that are not found along the log: events of no commit, claims without a stream, snapshots without
    /// an event, missing indexes. Returns `None` if the store does not look for them.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn strays(&self, limit: usize) -> Result<Option<Vec<Fault>>> {
        let _ = limit;
        Ok(None)
    }

    /// Returns the ids of the first `limit` aggregates of a type that have snapshots and follow `after`, in the order of their bytes. Returns `None`
    /// if the store does not list them.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn snapshots(
        &self,
        aggregate_type: &AggregateType,
        after: Option<&AggregateId>,
        limit: usize,
    ) -> Result<Option<Vec<AggregateId>>> {
        let _ = (aggregate_type, after, limit);
        Ok(None)
    }

    /// Returns the first `limit` unique values that `stream` holds, in the order of scope and value. Returns `None` if the store does not list
    /// them.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn held_values(&self, stream: &StreamId, limit: usize) -> Result<Option<Vec<HeldValue>>> {
        let _ = (stream, limit);
        Ok(None)
    }

    /// Returns the first `limit` seals that end after `after`, in log order. Returns `None` if the store keeps no seals.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn seals(&self, after: Position, limit: usize) -> Result<Option<Vec<Seal>>> {
        let _ = (after, limit);
        Ok(None)
    }

    /// Returns the last seal; `None` if there is none.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn last_seal(&self) -> Result<Option<Seal>> {
        Ok(None)
    }

    /// Stores a seal, unless the store has one that begins at the same position. Nothing changes a stored seal.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the store keeps no seals, otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still store the seal.
    async fn add_seal(&self, seal: &Seal) -> Result<()> {
        let _ = seal;
        Err(ErrorKind::Invalid("this store keeps no seals".into()).into())
    }

    /// Returns the first `limit` idempotency keys after `after`, in the order of their bytes. Returns `None` if the store does not list its keys.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn keys(&self, after: &str, limit: usize) -> Result<Option<Vec<KeyRow>>> {
        let _ = (after, limit);
        Ok(None)
    }

    /// Deletes the idempotency keys that are greater than `after` and not greater than `last`, if their events are at `through` or before. Keeps
    /// those [of processes](KeyRow::is_of_process). Returns the number of deleted keys.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the store does not list its keys, otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still delete them.
    async fn delete_keys(&self, after: &str, last: &str, through: Position) -> Result<u64> {
        let _ = (after, last, through);
        Err(ErrorKind::Invalid("this store does not list its idempotency keys".into()).into())
    }

    /// Returns the number of rows, up to `limit`, of commits that have got positions and were recorded before `before`. Only the sequencer read
    /// them. Returns `None` if the store keeps no such rows.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn old_commits(&self, before: DateTime<Utc>, limit: usize) -> Result<Option<u64>> {
        let _ = (before, limit);
        Ok(None)
    }

    /// Deletes the rows of [`old_commits`](Self::old_commits), at most `limit` of them, and returns their number.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the store keeps no such rows, otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still delete them.
    async fn delete_old_commits(&self, before: DateTime<Utc>, limit: usize) -> Result<u64> {
        let _ = (before, limit);
        Err(ErrorKind::Invalid("this store keeps no rows of commits that have positions".into()).into())
    }
}

/// A place among the rows of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// After this position.
    Position(Position),
    /// After this row.
    Row {
        /// The first position of its commit.
        first: i64,
        /// Its number in the commit.
        ordinal: i32,
    },
}

/// A row of the log: an event with its place, or a commit without events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// The first position of the commit.
    pub first: i64,
    /// The number of the event in its commit, from 1. Zero for a commit without events.
    pub ordinal: i32,
    /// The number of events that the commit has according to the order of the log; `ordinal` if the store does not keep that number.
    pub events: i32,
    /// Whether the event has the time of its commit. `true` if the store does not keep that time separately.
    pub is_on_time: bool,
    /// The position of the event before it in its stream; `None` if there is none.
    pub previous: Option<i64>,
    /// The event; `None` for a commit without events.
    pub event: Option<StoredRow>,
}

impl LogRow {
    /// Returns the position of the row.
    pub(crate) fn position(&self) -> u64 {
        u64::try_from(self.first + i64::from(self.ordinal.max(1)) - 1).unwrap_or(0)
    }

    /// Returns the place after this row.
    pub(crate) fn cursor(&self) -> Cursor {
        // A commit without events is one row.
        let ordinal = if self.event.is_some() { self.ordinal } else { i32::MAX };
        Cursor::Row { first: self.first, ordinal }
    }

    #[cfg(any(feature = "postgres", feature = "mysql"))]
    pub(crate) fn payload_bytes(&self) -> usize {
        self.event.as_ref().map_or(0, |event| event.payload.len())
    }
}
