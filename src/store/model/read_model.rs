//! The port for read models: the writes of a projection and its checkpoint, in one transaction.

use std::collections::HashMap;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::error::{ErrorKind, Result};
use crate::id::mark::Mark;
use crate::id::{EventId, Position, ProjectionName, StreamId, Version};
use crate::store::model::checkpoint::{ProjectionState, ProjectionStatus};
use crate::store::model::interventions::{AuditEntry, By, Intervention, Pause};
use crate::store::model::listing::{HandledEvent, ProgressRow};
use crate::store::model::names;
use crate::store::model::parking::{Parked, Parking, Step};
use crate::store::model::processors::RegisteredProcessor;
#[cfg(doc)]
use crate::store::model::progress::Progress;
use crate::store::model::progress::{Seen, Turn};
use crate::store::model::pruning::{InboxPruning, ReactionStart};
use crate::store::model::skipped::Skipped;
use crate::store::size::StoreSize;

/// The work of a projection inside its transaction.
pub type Work<Tx> = Box<dyn for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<()>> + Send>;

/// Stores read models. A change to a read model and the checkpoint of its projection commit in one transaction.
///
/// A projection uses one of two orders, and its first [`commit`](Self::commit) or [`begin`](Self::begin) decides which:
/// - *Log order*: one checkpoint, which [`commit`](Self::commit) moves with compare-and-set.
/// - *Per-aggregate order*: one [`Progress`] row per aggregate, which [`turn`](Self::turn) locks. The checkpoint is the swept position:
///   no event up to it is missing.
///
/// A reaction also has an inbox of the events that it has [handled](Self::mark_handled). They stay in the inbox even if the checkpoint is
/// set back.
///
/// # Examples
/// ```
/// use retell::store::{ReadModel, Step};
/// use retell::{ProjectionName, prelude::*};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let models = MemoryReadModel::with_value(0_u32);
/// let totals = ProjectionName::new("totals")?;
/// let step = Step::new(&totals, Position::ZERO, Position::new(3));
/// models.commit(step, Box::new(|total| Box::pin(async move {
///     *total += 3;
///     Ok(())
/// }))).await?;
/// assert_eq!((*models.value(), models.checkpoint(&totals).await?), (3, Position::new(3)));
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[async_trait]
pub trait ReadModel: Send + Sync + 'static {
    /// The transaction that a projection writes through. It may be a trait object, so that one projection runs on several databases.
    type Tx: Send + ?Sized + 'static;

    /// Returns the place up to which `projection` has applied everything except parked aggregates. It is the head of the log, without its event,
    /// if appends apply the projection inline, and [`Mark::START`] if the projection never ran or is being deleted.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn mark(&self, projection: &ProjectionName) -> Result<Mark>;

    /// Returns the position of the [mark](Self::mark), for operators and for programs that wait for a projection.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownProjection`] as [`check_name`](Self::check_name), otherwise the errors of [`mark`](Self::mark).
    async fn checkpoint(&self, projection: &ProjectionName) -> Result<Position> {
        let mark = self.mark(projection).await?;
        if mark == Mark::START {
            self.check_name(projection).await?;
        }
        Ok(mark.position)
    }

    /// Returns the names of all projections, views, reactions and processes that have run on this read model, sorted. `None` if it cannot list
    /// them, as in the default implementation.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn names(&self) -> Result<Option<Vec<ProjectionName>>> {
        Ok(None)
    }

    /// Returns the first `limit` projections by name that have a checkpoint, with their [`mark`](Self::mark), order and
    /// [`state`](Self::state).
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn projections(&self, limit: usize) -> Result<Vec<ProjectionStatus>>;

    /// Refuses a name that is misspelt: one that has never run on this read model, and that this process does not run. A read model calls this
    /// where it finds no trace of a projection.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownProjection`] with the names that have run, otherwise a [read error](crate::Error#read-errors).
    async fn check_name(&self, projection: &ProjectionName) -> Result<()> {
        if names::is_run_here(projection.as_str()) {
            return Ok(());
        }
        match self.names().await? {
            Some(known) if !known.contains(projection) => {
                Err(ErrorKind::UnknownProjection { projection: projection.clone(), known }.into())
            }
            _ => Ok(()),
        }
    }

    /// Returns the state of `projection`: [`ProjectionState::Running`] if it has not started yet.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownProjection`] as [`check_name`](Self::check_name), otherwise a [read error](crate::Error#read-errors).
    async fn state(&self, projection: &ProjectionName) -> Result<ProjectionState>;

    /// Returns the parked aggregates of `projection`. [`Parking::changes`] is never newer than the rows, so a [`Step`] that is based on it
    /// succeeds only if it knows the current rows.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownProjection`] as [`check_name`](Self::check_name), otherwise a [read error](crate::Error#read-errors).
    async fn parking(&self, projection: &ProjectionName) -> Result<Parking>;

    /// Returns the first `limit` parked aggregates of `projection` by [`Parked::from_position`], or only the one of `stream`. Unlike
    /// [`parking`](Self::parking), reads a bounded number of rows, by an index, and accepts a name that never ran.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn parked(&self, projection: &ProjectionName, stream: Option<&StreamId>, limit: usize)
    -> Result<Vec<Parked>>;

    /// Makes a parked aggregate due immediately with a fresh retry budget, even if it is dead. The worker of the projection retries it at
    /// its next sweep. Returns whether the aggregate was parked.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownProjection`] as [`check_name`](Self::check_name), otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still write.
    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool>;

    /// Runs `work`, moves the checkpoint and parks and releases aggregates as `step` says, in one transaction.
    ///
    /// # Errors
    /// - [`ErrorKind::CheckpointMoved`] if the checkpoint, the parked aggregates or the [processors](Self::processors) have changed since the
    ///   worker read them.
    /// - [`ErrorKind::Invalid`] if the projection has per-aggregate order or its [state](Self::state) is not [`ProjectionState::Running`].
    /// - The error of `work`. If the database caused that error, the kind is [`ErrorKind::Transient`], [`ErrorKind::Full`] or
    ///   [`ErrorKind::ReadOnly`], with the error of `work` as its source.
    ///
    /// Nothing was changed in any of these cases.
    ///
    /// # Cancel safety
    /// A dropped call may still commit, but never in part.
    async fn commit(&self, step: Step, work: Work<Self::Tx>) -> Result<()>;

    /// Gives `projection` per-aggregate order and runs its set-up, `work`, in one transaction. A worker calls this at every start.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the projection has applied events in log order, because the store then has no progress per aggregate, and
    /// [`ErrorKind::Paused`] if it is [paused](Self::pause) or [retired](Self::retire). Otherwise the errors of [`commit`](Self::commit).
    ///
    /// # Cancel safety
    /// A dropped call may still commit.
    async fn begin(&self, projection: &ProjectionName, work: Work<Self::Tx>) -> Result<()>;

    /// Returns [`Progress::seen`] of the aggregates `streams`, and the events there, without locks. An aggregate that is missing from the result
    /// is at zero. The versions may be out of date when the call returns, but they are never too large.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn seen(&self, projection: &ProjectionName, streams: &[StreamId]) -> Result<HashMap<StreamId, Seen>>;

    /// Locks the progress rows of the aggregates `streams` in key order, runs `turn` on them, and commits its changes to the rows, the
    /// parked aggregates and the read model in one transaction. `turn` gets the rows in key order, each aggregate once.
    ///
    /// # Errors
    /// [`ErrorKind::ProcessorsChanged`] if the count of [changes](Parking::changes) is not `changes`. Otherwise the errors of
    /// [`commit`](Self::commit), except [`ErrorKind::CheckpointMoved`]. Nothing was changed then.
    ///
    /// # Cancel safety
    /// A dropped call may still commit, but never in part.
    async fn turn(
        &self,
        projection: &ProjectionName,
        changes: u64,
        streams: Vec<StreamId>,
        turn: Turn<Self::Tx>,
    ) -> Result<()>;

    /// Moves the swept position to `to` if it is at `from`, and returns the swept position. It is another one if another worker has moved it, or
    /// if the read model was restored from a backup.
    ///
    /// # Errors
    /// [`ErrorKind::ProcessorsChanged`] as [`turn`](Self::turn), otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still move the swept position.
    async fn sweep(&self, projection: &ProjectionName, changes: u64, from: Mark, to: Mark) -> Result<Mark>;

    /// Registers which events this release of `projection` reads, unless a release with the same filter is registered. A new registration
    /// increments [`Parking::changes`] in the same transaction: a worker that does not know it can commit nothing. A worker calls this at every
    /// start.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still register it.
    async fn register_processor(&self, projection: &ProjectionName, processor: &RegisteredProcessor) -> Result<()>;

    /// Returns the registered releases of `projection`, in the order of their registration. The last one decides which events the projection
    /// needs: a worker of an older release waits at those that it does not read, and leaves them to the newer one.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn processors(&self, projection: &ProjectionName) -> Result<Vec<RegisteredProcessor>>;

    /// Removes a registration, and returns whether it was there. For an operator, after a release was rolled back permanently: the workers of the
    /// older one no longer wait for its events, and pass over them. Increments [`Parking::changes`] in the same transaction.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still remove it.
    async fn forget_processor(&self, projection: &ProjectionName, processor: &RegisteredProcessor) -> Result<bool>;

    /// Makes the change `intervention` of the operator `by` to `projection`, and writes its [record](Self::audit), in one transaction. Returns
    /// whether it changed anything; if not, nothing is recorded. [`pause`](Self::pause), [`retire`](Self::retire),
    /// [`resume`](Self::resume), [`skip_parked`](Self::skip_parked) and the functions of [`operate`](crate::operate) call it.
    ///
    /// The default refuses: a read model that does not keep interventions works in every other way.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownProjection`] as [`check_name`](Self::check_name), [`ErrorKind::Invalid`] if the read model keeps no interventions,
    /// if a text of `by` [does not fit](By::check), or for a pause or a retirement of a projection that appends apply inline, [`ErrorKind::NotParked`] for a
    /// skip, otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still make the change.
    async fn intervene(&self, projection: &ProjectionName, intervention: Intervention, by: &By) -> Result<bool> {
        let problem =
            format!("this read model keeps no interventions: {} of {projection} by {}", intervention.action(), by.who);
        Err(ErrorKind::Invalid(problem).into())
    }

    /// Pauses `projection`: once this call has returned, no transaction of its workers commits, in any process, until it is
    /// [resumed](Self::resume). The pause is stored, so workers that start later wait, too. Returns `false` if the projection was paused
    /// before; the operator and the reason of that pause stay.
    ///
    /// The call waits for the transactions in progress. If it fails with a transient error after the pause was stored, a transaction may still
    /// be in progress: call it again. Each generation of a view is paused by its own name.
    ///
    /// # Errors
    /// The errors of [`intervene`](Self::intervene).
    ///
    /// # Cancel safety
    /// A dropped call may still pause the projection.
    ///
    /// # Examples
    /// ```
    /// use retell::store::{By, Step};
    /// use retell::{ErrorKind, ProjectionName, ReadModel, prelude::*};
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let (models, totals) = (MemoryReadModel::new(), ProjectionName::new("totals")?);
    /// let step = || Step::new(&totals, Position::ZERO, Position::new(3));
    /// models.commit(Step::new(&totals, Position::ZERO, Position::ZERO), Box::new(|_| Box::pin(async { Ok(()) }))).await?;
    /// assert!(models.pause(&totals, &By::new("ada", "the warehouse moves")).await?);
    /// let refused = models.commit(step(), Box::new(|_| Box::pin(async { Ok(()) }))).await;
    /// assert!(matches!(refused.unwrap_err().kind(), ErrorKind::CheckpointMoved { .. }));
    /// assert!(models.resume(&totals, &By::new("ada", "it has moved")).await?);
    /// # Ok::<(), BoxError>(())
    /// # }).unwrap();
    /// ```
    async fn pause(&self, projection: &ProjectionName, by: &By) -> Result<bool> {
        self.intervene(projection, Intervention::Pause, by).await
    }

    /// Retires `projection`: [pauses](Self::pause) it, and the pause is meant to be final, because no program has the projection any more. It is
    /// behind from now on, and needs no attention. Nothing is deleted, and [`resume`](Self::resume) ends the retirement. If the projection is paused,
    /// the retirement replaces the pause, with the operator and the reason. Returns `false` if it was retired before; a pause of a retired projection
    /// changes nothing, too.
    ///
    /// # Errors
    /// The errors of [`intervene`](Self::intervene).
    ///
    /// # Cancel safety
    /// A dropped call may still retire the projection.
    async fn retire(&self, projection: &ProjectionName, by: &By) -> Result<bool> {
        self.intervene(projection, Intervention::Retire, by).await
    }

    /// Ends the pause or the retirement of `projection`. Its workers continue within one [sweep interval](crate::WorkerOptions::with_sweep).
    /// Returns `false` if it was neither paused nor retired.
    ///
    /// # Errors
    /// The errors of [`intervene`](Self::intervene).
    ///
    /// # Cancel safety
    /// A dropped call may still resume the projection.
    async fn resume(&self, projection: &ProjectionName, by: &By) -> Result<bool> {
        self.intervene(projection, Intervention::Resume, by).await
    }

    /// Skips the event at `version` of `stream`, on which `projection` has parked the aggregate, and makes the aggregate due: the worker applies
    /// its next events in order. The row that skips the event is never deleted. Every replay skips the event, too: a
    /// [`reset`](Self::reset), and each other generation of a view. Returns `false` if the event is skipped already.
    ///
    /// # Errors
    /// [`ErrorKind::NotParked`] if the aggregate is not parked from exactly `version`, otherwise the errors of [`intervene`](Self::intervene).
    ///
    /// # Cancel safety
    /// A dropped call may still skip the event.
    async fn skip_parked(
        &self,
        projection: &ProjectionName,
        stream: &StreamId,
        version: Version,
        by: &By,
    ) -> Result<bool> {
        let skip = Intervention::SkipParked { stream: stream.clone(), version, event_id: None };
        self.intervene(projection, skip, by).await
    }

    /// Returns the pause or the retirement of `projection`; `None` if there is none, as in the default implementation.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn paused(&self, _projection: &ProjectionName) -> Result<Option<Pause>> {
        Ok(None)
    }

    /// Returns the first `limit` rows that skip events of `projection`, or withdraw a skip, the oldest first; those of `stream` only, if there is
    /// one. The generations of a view share their rows. The default implementation returns none.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn skipped(
        &self,
        _projection: &ProjectionName,
        _stream: Option<&StreamId>,
        _limit: usize,
    ) -> Result<Vec<Skipped>> {
        Ok(Vec::new())
    }

    /// Returns the last `limit` records of interventions, the newest first; only those before the number `before`, if there is one. The default
    /// implementation returns none.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn audit(&self, _limit: usize, _before: Option<u64>) -> Result<Vec<AuditEntry>> {
        Ok(Vec::new())
    }

    /// Writes the record of a change that was made outside of this read model. The default refuses.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the read model keeps no interventions, otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still write.
    async fn record(&self, entry: &AuditEntry) -> Result<()> {
        let problem = format!("this read model keeps no interventions: {} of {}", entry.action, entry.target);
        Err(ErrorKind::Invalid(problem).into())
    }

    /// Moves `projection` to `to`, forward or backward, forgets its parked aggregates and its progress with each aggregate, and runs `work`, all in
    /// one transaction. `work` makes the read model match `to`: for the beginning of the log, it deletes all rows.
    ///
    /// For an operator, after a worker has stopped with [`ErrorKind::HistoryChanged`]. A reaction keeps its inbox, so it handles no event again;
    /// if `to` is not the beginning of the log, the reaction begins after it, and handles again what was [pruned](Self::prune_inbox) after it. Workers in log order may run and continue from `to`. Stop the workers
    /// of a projection with per-aggregate order first.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownProjection`] as [`check_name`](Self::check_name), [`ErrorKind::Invalid`] if the [state](Self::state) is not
    /// [`ProjectionState::Running`], or if the projection has per-aggregate order and `to` is not the beginning of the log. Otherwise the errors of [`commit`](Self::commit).
    ///
    /// # Cancel safety
    /// A dropped call may still commit, but never in part.
    async fn reset(&self, projection: &ProjectionName, to: Mark, work: Work<Self::Tx>) -> Result<()>;

    /// Moves `projection` as [`reset`](Self::reset), and records who does it and why in the same transaction. A store that keeps an audit records
    /// a `reset` as one by this program. The default implementation records nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if a text of `by` is not valid, otherwise the errors of [`reset`](Self::reset).
    ///
    /// # Cancel safety
    /// A dropped call may still commit, but never in part.
    async fn reset_by(&self, projection: &ProjectionName, to: Mark, work: Work<Self::Tx>, by: &By) -> Result<()> {
        by.check()?;
        self.reset(projection, to, work).await
    }

    /// Marks `event` as handled in the inbox of `reaction`, inside the transaction `tx` of the reaction. Returns whether the event was new.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors), with the database's error as its source.
    async fn mark_handled(&self, tx: &mut Self::Tx, reaction: &ProjectionName, event: EventId) -> Result<bool>;

    /// Stores `mark` as the place after which `reaction` starts, unless one is already stored. Returns the stored place.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still store the position.
    async fn start_after(&self, reaction: &ProjectionName, mark: Mark) -> Result<Mark>;

    /// Returns the first `limit` reactions by name that have a [start](Self::start_after); `None` if the read model does not list them, as in the
    /// default implementation.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn reactions(&self, _limit: usize) -> Result<Option<Vec<ReactionStart>>> {
        Ok(None)
    }

    /// Returns how many of `events` are in the inbox of `reaction`. The default returns 0.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn count_handled(&self, _reaction: &ProjectionName, _events: &[EventId]) -> Result<u64> {
        Ok(0)
    }

    /// Deletes rows of an inbox, lets the reaction start after them, and writes the record if there were any, in one transaction. Returns the
    /// number of deleted rows. The start moves only forward, so the reaction handles none of these events again. The default refuses.
    ///
    /// # Errors
    /// [`ErrorKind::Unsafe`] as [`InboxPruning::check`], [`ErrorKind::Invalid`] if the read model cannot prune inboxes or if a text of
    /// [`InboxPruning::by`] [does not fit](By::check), otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still delete the rows, but never without moving the start.
    async fn prune_inbox(&self, pruning: &InboxPruning) -> Result<u64> {
        Err(ErrorKind::Invalid(format!("this read model cannot prune the inbox of {}", pruning.reaction)).into())
    }

    /// Returns the first `limit` rows of progress after `after`, in an order of the read model's own; from the first one if there is none. `None` if
    /// the read model does not list them, as in the default implementation.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn list_progress(&self, _after: Option<&ProgressRow>, _limit: usize) -> Result<Option<Vec<ProgressRow>>> {
        Ok(None)
    }

    /// Returns the first `limit` rows of all inboxes after `after`, as [`list_progress`](Self::list_progress).
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn list_handled(&self, _after: Option<&HandledEvent>, _limit: usize) -> Result<Option<Vec<HandledEvent>>> {
        Ok(None)
    }

    /// Returns how large the tables of the read models are. Cheap: from statistics, or counted up to a limit. `None` if the read model does not
    /// know, as in the default implementation.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn size(&self) -> Result<Option<StoreSize>> {
        Ok(None)
    }

    /// Waits for the calls in flight, then closes the database for every handle of this read model. Later calls fail.
    ///
    /// A read model that shares its connections with a log, such as [`SqliteStore::read_model`](crate::SqliteStore::read_model), also
    /// closes the connections of the log. The default implementation does nothing, as for a model in memory.
    ///
    /// # Errors
    /// [`ErrorKind::Backend`] if the database fails while closing.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
