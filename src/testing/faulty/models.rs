//! A read model whose transactions fail before or after their commit.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::id::mark::Mark;
use crate::id::{EventId, Generation, ProjectionName, StreamId, ViewKey};
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
use crate::testing::faulty::script::seeded;
use crate::testing::read_model::Counting;

/// The fault that [`FaultyModels`] applies to one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitFault {
    /// No fault: the transaction commits.
    Commit,
    /// The transaction is rolled back after its work is done, and the caller gets a transient error.
    Refuse,
    /// The transaction commits, but the response is lost: the caller gets a transient error.
    LoseAnswer,
    /// The program dies before the commit: nothing is kept, and the call never returns.
    DieBefore,
    /// The program dies after the commit: everything is kept, and the call never returns.
    DieAfter,
}

impl CommitFault {
    /// Every fault.
    pub const ALL: [Self; 5] = [Self::Commit, Self::Refuse, Self::LoseAnswer, Self::DieBefore, Self::DieAfter];

    /// Returns `count` random faults. The same seed always gives the same faults.
    pub fn seeded(seed: u64, count: usize) -> Vec<Self> {
        seeded(&Self::ALL, seed, count)
    }

    fn is_before(self) -> bool {
        matches!(self, Self::Refuse | Self::DieBefore)
    }
}

/// A read model that applies a script of faults, one per transaction. Transactions beyond the end of the script commit. Clones share the
/// script.
///
/// Every change of the read model is a transaction: a worker's registration, a projection's setup, each of its batches, a step that only moves the checkpoint, and
/// so on. Reads never fail.
///
/// # Examples
/// A worker dies between a commit and its response. The next worker continues after the committed events.
/// ```
/// # use retell::store::Append;
/// # use retell::testing::store::{events, stream};
/// # use retell::{AnyEvent, BoxError, Envelope, EventStore, ExpectedVersion, MemoryReadModel, MemoryStore, Projection, ReadModel, Worker};
/// # use retell::async_trait;
/// # struct Count;
/// # #[async_trait]
/// # impl Projection for Count {
/// #     const NAME: &'static str = "count";
/// #     type Event = AnyEvent;
/// #     type Tx = u64;
/// #     async fn apply(&self, count: &mut u64, _: Envelope<AnyEvent>) -> Result<(), BoxError> { *count += 1; Ok(()) }
/// # }
/// use retell::testing::faulty::{CommitFault, FaultyModels};
/// use tokio_util::sync::CancellationToken;
///
/// # #[tokio::main]
/// # async fn main() -> retell::Result<()> {
/// # let log = MemoryStore::new();
/// # log.append(Append::new(stream("a"), ExpectedVersion::Any, events(5))).await?;
/// let models = MemoryReadModel::with_value(0);
/// // The first transactions are the registration of the worker and the projection's setup.
/// let script = [CommitFault::Commit, CommitFault::Commit, CommitFault::DieAfter];
/// let faulty = FaultyModels::new(models.clone(), script);
/// let (worker, stop) = (Worker::new(Count, log.clone(), faulty.clone()), CancellationToken::new());
/// tokio::select! {
///     ended = worker.run(stop.clone()) => unreachable!("the worker dies before it ends: {ended:?}"),
///     () = faulty.died() => assert_eq!(*models.value(), 5),
/// }
/// Worker::new(Count, log, faulty).catch_up().await?;
/// assert_eq!(*models.value(), 5);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct FaultyModels<M> {
    inner: M,
    script: Arc<Mutex<VecDeque<CommitFault>>>,
    died: Arc<Notify>,
}

impl<M> FaultyModels<M> {
    /// Wraps `inner` and applies the faults of `script` to its transactions.
    pub fn new(inner: M, script: impl IntoIterator<Item = CommitFault>) -> Self {
        let script = Arc::new(Mutex::new(script.into_iter().collect()));
        Self { inner, script, died: Arc::default() }
    }

    /// Returns the wrapped read model.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    /// Waits until a transaction simulates the death of the program. Then drop the worker that ran in it, and start another one.
    ///
    /// # Cancel safety
    /// This method is cancel safe: the next call reports a death that no call has reported yet.
    pub async fn died(&self) {
        self.died.notified().await;
    }

    fn next(&self) -> CommitFault {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or(CommitFault::Commit)
    }

    /// Applies the next fault to a change that the read model makes in its own transaction.
    async fn change<T>(&self, change: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let fault = self.next();
        let changed = if fault.is_before() { Err(lost()) } else { change.await };
        self.answer(fault, changed).await
    }

    /// Returns the caller's response to a transaction that has ended, as `fault` demands.
    async fn answer<T>(&self, fault: CommitFault, ended: Result<T>) -> Result<T> {
        match fault {
            CommitFault::Commit | CommitFault::Refuse => ended,
            CommitFault::LoseAnswer => ended.and(Err(lost())),
            CommitFault::DieBefore | CommitFault::DieAfter => {
                self.died.notify_one();
                pending().await
            }
        }
    }
}

fn lost() -> Error {
    ErrorKind::Transient("commit: the connection was lost on purpose".into()).into()
}

/// Returns `work`, followed by an error if `fault` comes before the commit.
fn failing_work<Tx: Send + ?Sized + 'static>(work: Work<Tx>, fault: CommitFault) -> Work<Tx> {
    if !fault.is_before() {
        return work;
    }
    Box::new(|tx| async move { work(tx).await.and(Err(lost())) }.boxed())
}

/// As [`failing_work`], for a turn.
fn failing_turn<Tx: Send + ?Sized + 'static>(turn: Turn<Tx>, fault: CommitFault) -> Turn<Tx> {
    if !fault.is_before() {
        return turn;
    }
    Box::new(|tx, rows| async move { turn(tx, rows).await.and(Err(lost())) }.boxed())
}

#[async_trait]
impl<M: ReadModel> ReadModel for FaultyModels<M> {
    type Tx = M::Tx;

    async fn mark(&self, projection: &ProjectionName) -> Result<Mark> {
        self.inner.mark(projection).await
    }

    async fn state(&self, projection: &ProjectionName) -> Result<ProjectionState> {
        self.inner.state(projection).await
    }

    async fn names(&self) -> Result<Option<Vec<ProjectionName>>> {
        self.inner.names().await
    }

    async fn projections(&self, limit: usize) -> Result<Vec<ProjectionStatus>> {
        self.inner.projections(limit).await
    }

    async fn parked(
        &self,
        projection: &ProjectionName,
        stream: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<Parked>> {
        self.inner.parked(projection, stream, limit).await
    }

    async fn parking(&self, projection: &ProjectionName) -> Result<Parking> {
        self.inner.parking(projection).await
    }

    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool> {
        self.change(self.inner.retry_parked(projection, stream)).await
    }

    async fn commit(&self, step: Step, work: Work<Self::Tx>) -> Result<()> {
        let fault = self.next();
        let advanced = self.inner.commit(step, failing_work(work, fault)).await;
        self.answer(fault, advanced).await
    }

    async fn begin(&self, projection: &ProjectionName, work: Work<Self::Tx>) -> Result<()> {
        let fault = self.next();
        let begun = self.inner.begin(projection, failing_work(work, fault)).await;
        self.answer(fault, begun).await
    }

    async fn seen(&self, projection: &ProjectionName, streams: &[StreamId]) -> Result<HashMap<StreamId, Seen>> {
        self.inner.seen(projection, streams).await
    }

    async fn turn(
        &self,
        projection: &ProjectionName,
        changes: u64,
        streams: Vec<StreamId>,
        turn: Turn<Self::Tx>,
    ) -> Result<()> {
        let fault = self.next();
        let ended = self.inner.turn(projection, changes, streams, failing_turn(turn, fault)).await;
        self.answer(fault, ended).await
    }

    async fn sweep(&self, projection: &ProjectionName, changes: u64, from: Mark, to: Mark) -> Result<Mark> {
        self.change(self.inner.sweep(projection, changes, from, to)).await
    }

    async fn register_processor(&self, projection: &ProjectionName, processor: &RegisteredProcessor) -> Result<()> {
        self.change(self.inner.register_processor(projection, processor)).await
    }

    async fn processors(&self, projection: &ProjectionName) -> Result<Vec<RegisteredProcessor>> {
        self.inner.processors(projection).await
    }

    async fn forget_processor(&self, projection: &ProjectionName, processor: &RegisteredProcessor) -> Result<bool> {
        self.change(self.inner.forget_processor(projection, processor)).await
    }

    async fn intervene(&self, projection: &ProjectionName, intervention: Intervention, by: &By) -> Result<bool> {
        self.change(self.inner.intervene(projection, intervention, by)).await
    }

    async fn paused(&self, projection: &ProjectionName) -> Result<Option<Pause>> {
        self.inner.paused(projection).await
    }

    async fn skipped(
        &self,
        projection: &ProjectionName,
        stream: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<Skipped>> {
        self.inner.skipped(projection, stream, limit).await
    }

    async fn audit(&self, limit: usize, before: Option<u64>) -> Result<Vec<AuditEntry>> {
        self.inner.audit(limit, before).await
    }

    async fn reset(&self, projection: &ProjectionName, to: Mark, work: Work<Self::Tx>) -> Result<()> {
        let fault = self.next();
        let ended = self.inner.reset(projection, to, failing_work(work, fault)).await;
        self.answer(fault, ended).await
    }

    async fn reset_by(&self, projection: &ProjectionName, to: Mark, work: Work<Self::Tx>, by: &By) -> Result<()> {
        let fault = self.next();
        let ended = self.inner.reset_by(projection, to, failing_work(work, fault), by).await;
        self.answer(fault, ended).await
    }

    async fn mark_handled(&self, tx: &mut Self::Tx, reaction: &ProjectionName, event: EventId) -> Result<bool> {
        self.inner.mark_handled(tx, reaction, event).await
    }

    async fn start_after(&self, reaction: &ProjectionName, mark: Mark) -> Result<Mark> {
        self.change(self.inner.start_after(reaction, mark)).await
    }

    async fn list_progress(&self, after: Option<&ProgressRow>, limit: usize) -> Result<Option<Vec<ProgressRow>>> {
        self.inner.list_progress(after, limit).await
    }

    async fn list_handled(&self, after: Option<&HandledEvent>, limit: usize) -> Result<Option<Vec<HandledEvent>>> {
        self.inner.list_handled(after, limit).await
    }

    async fn size(&self) -> Result<Option<StoreSize>> {
        self.inner.size().await
    }

    async fn record(&self, entry: &AuditEntry) -> Result<()> {
        self.change(self.inner.record(entry)).await
    }

    async fn reactions(&self, limit: usize) -> Result<Option<Vec<ReactionStart>>> {
        self.inner.reactions(limit).await
    }

    async fn count_handled(&self, reaction: &ProjectionName, events: &[EventId]) -> Result<u64> {
        self.inner.count_handled(reaction, events).await
    }

    async fn prune_inbox(&self, pruning: &InboxPruning) -> Result<u64> {
        self.change(self.inner.prune_inbox(pruning)).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[async_trait]
impl<M: ViewStore> ViewStore for FaultyModels<M> {
    async fn load_rows(&self, tx: &mut Self::Tx, view: &ViewId, keys: &[ViewKey]) -> Result<Vec<ViewRow>> {
        self.inner.load_rows(tx, view, keys).await
    }

    async fn save_rows(&self, tx: &mut Self::Tx, view: &ViewId, before: &[ViewRow], after: &[ViewRow]) -> Result<()> {
        self.inner.save_rows(tx, view, before, after).await
    }

    async fn insert_rows(&self, tx: &mut Self::Tx, view: &ViewId, rows: &[ViewRow]) -> Result<()> {
        self.inner.insert_rows(tx, view, rows).await
    }

    async fn clear_rows(&self, tx: &mut Self::Tx, view: &ViewId) -> Result<()> {
        self.inner.clear_rows(tx, view).await
    }

    async fn promote(&self, view: &ViewId, when: Switch) -> Result<Generation> {
        self.change(self.inner.promote(view, when)).await
    }

    async fn delete_generation(&self, view: &ViewId, rows: usize) -> Result<bool> {
        self.change(self.inner.delete_generation(view, rows)).await
    }

    async fn promote_by(&self, view: &ViewId, when: Switch, by: &By) -> Result<Generation> {
        self.change(self.inner.promote_by(view, when, by)).await
    }

    async fn delete_generation_by(&self, view: &ViewId, rows: usize, by: &By) -> Result<bool> {
        self.change(self.inner.delete_generation_by(view, rows, by)).await
    }

    async fn live_generation(&self, view: &ProjectionName) -> Result<Generation> {
        self.inner.live_generation(view).await
    }

    async fn rows(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        keys: &[ViewKey],
    ) -> Result<Vec<ViewRow>> {
        self.inner.rows(view, generation, keys).await
    }

    async fn page(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        page: &ViewPage,
    ) -> Result<Vec<ViewRow>> {
        self.inner.page(view, generation, page).await
    }
}

#[async_trait]
impl<M: DeadlineStore> DeadlineStore for FaultyModels<M> {
    async fn change_deadlines(
        &self,
        tx: &mut Self::Tx,
        process: &ProjectionName,
        changes: &[DeadlineChange],
    ) -> Result<()> {
        self.inner.change_deadlines(tx, process, changes).await
    }

    async fn settle_deadlines(&self, process: &ProjectionName, changes: &[DeadlineChange]) -> Result<()> {
        self.change(self.inner.settle_deadlines(process, changes)).await
    }

    async fn due_deadlines(&self, process: &ProjectionName, now: DateTime<Utc>, limit: usize) -> Result<Vec<Deadline>> {
        self.inner.due_deadlines(process, now, limit).await
    }

    async fn postpone_deadline(
        &self,
        process: &ProjectionName,
        id: Uuid,
        until: DateTime<Utc>,
        error: &str,
    ) -> Result<()> {
        self.change(self.inner.postpone_deadline(process, id, until, error)).await
    }
}

/// With an empty script, it passes every suite that the wrapped read model passes.
#[async_trait]
impl<M: Counting> Counting for FaultyModels<M> {
    fn count() -> Work<Self::Tx> {
        M::count()
    }

    async fn counted(&self) -> Result<u32> {
        self.inner.counted().await
    }
}
