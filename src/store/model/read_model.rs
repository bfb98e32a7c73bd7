//! The port of read models: a projection's writes and its checkpoint, in one transaction.

use std::collections::HashMap;

use async_trait::async_trait;
use futures::future::BoxFuture;

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::id::{EventId, Position, ProjectionName, StreamId, Version};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::parking::{Parking, Step};
#[cfg(doc)]
use crate::store::model::progress::Progress;
use crate::store::model::progress::Turn;

/// The work of a projection inside its transaction.
pub type Work<Tx> = Box<dyn for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<()>> + Send>;

/// Stores read models, each in one transaction with the checkpoint of the projection that writes it.
///
/// A projection keeps one of two orders, and its first [`commit`](Self::commit) or [`begin`](Self::begin) decides which:
/// - *Log order*: one checkpoint, moved by [`commit`](Self::commit) with compare-and-set.
/// - *Per-aggregate order*: one [`Progress`] row per aggregate, locked by [`turn`](Self::turn). The checkpoint is the swept
///   position: nothing up to there is missing.
///
/// A reaction also has an inbox: a checkpoint may be set back, the events that were [handled](Self::mark_handled) stay known.
#[async_trait]
pub trait ReadModel: Send + Sync + 'static {
    /// The transaction a projection writes through. It may be a trait object, so that one projection runs on several databases.
    type Tx: Send + ?Sized + 'static;

    /// Returns the position up to which `projection` has applied everything except parked aggregates: the head of the log if appends
    /// apply it inline, zero if it never ran or is being deleted.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn checkpoint(&self, projection: &ProjectionName) -> Result<Position>;

    /// Returns the state of `projection`: [`ProjectionState::Running`] if it never ran.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn state(&self, projection: &ProjectionName) -> Result<ProjectionState>;

    /// Returns the parked aggregates of `projection`. Their count of changes is never newer than the rows, so a [`Step`] that is
    /// based on it and succeeds knew the rows as they were.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn parking(&self, projection: &ProjectionName) -> Result<Parking>;

    /// Makes a parked aggregate due immediately with a fresh retry budget, even if it is dead. The process that runs the
    /// projection retries it at its next sweep. Returns whether the aggregate was parked.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still write.
    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool>;

    /// Runs `work`, moves the checkpoint and changes the parking as `step` says, in one transaction.
    ///
    /// # Errors
    /// [`ErrorKind::CheckpointMoved`] if checkpoint or parking are not where the step starts, [`ErrorKind::Invalid`] if the
    /// projection has per-aggregate order or its [state](Self::state) is not [`ProjectionState::Running`], and the error of `work`. If the database itself caused that error, the kind is
    /// [`ErrorKind::Transient`], [`ErrorKind::Full`] or [`ErrorKind::ReadOnly`], with the error as its source. Nothing was changed in
    /// any of these cases.
    ///
    /// # Cancel safety
    /// A dropped call may still commit, but never in part.
    async fn commit(&self, step: Step, work: Work<Self::Tx>) -> Result<()>;

    /// Gives `projection` per-aggregate order and runs `work`, its set-up, in one transaction. A worker calls this at every start.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the projection has applied events in log order: then nothing records which aggregate's events are
    /// applied. Otherwise as [`commit`](Self::commit).
    ///
    /// # Cancel safety
    /// A dropped call may still commit.
    async fn begin(&self, projection: &ProjectionName, work: Work<Self::Tx>) -> Result<()>;

    /// Returns [`Progress::seen`] of these aggregates, without locks. An aggregate that is missing from the result is at zero. The
    /// versions may be outdated when the call returns, but are never too large.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn seen(&self, projection: &ProjectionName, streams: &[StreamId]) -> Result<HashMap<StreamId, Version>>;

    /// Locks the progress rows of these aggregates in key order, runs `turn` on them and commits its changes to the rows, the parking
    /// and the read model in one transaction. The rows reach `turn` in key order, each aggregate once.
    ///
    /// # Errors
    /// As [`commit`](Self::commit), except for the checkpoint. Nothing was changed then.
    ///
    /// # Cancel safety
    /// A dropped call may still commit, but never in part.
    async fn turn(&self, projection: &ProjectionName, streams: Vec<StreamId>, turn: Turn<Self::Tx>) -> Result<()>;

    /// Moves the swept position forward to `to`, never backward, and returns where it is now.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still move it.
    async fn sweep(&self, projection: &ProjectionName, to: Position) -> Result<Position>;

    /// Marks an event as handled in the inbox of `reaction`, inside the reaction's transaction. Returns whether it is the first time.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors), with the database's error as its source.
    async fn mark_handled(&self, tx: &mut Self::Tx, reaction: &ProjectionName, event: EventId) -> Result<bool>;

    /// Stores the position after which `reaction` starts, unless one is stored already. Returns the stored position.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still store it.
    async fn start_after(&self, reaction: &ProjectionName, position: Position) -> Result<Position>;

    /// Waits for the calls in flight, then closes the database for every handle of this read model. Later calls fail. A read model
    /// that shares its connections with a log, such as [`SqliteStore::read_model`](crate::SqliteStore::read_model), closes the log's
    /// connections. The default does nothing, as in memory.
    ///
    /// # Errors
    /// [`ErrorKind::Backend`] if the database fails while closing.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
