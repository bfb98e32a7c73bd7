//! The read model: its connections, its checkpoints, and the batches that move them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::Utc;
use rusqlite::Connection;

use crate::error::Result;
use crate::id::mark::Mark;
use crate::id::{EventId, Position, ProjectionName, StreamId};
use crate::store::model::checkpoint::{ProjectionState, ProjectionStatus};
use crate::store::model::interventions::{AuditEntry, By, Intervention, Pause};
use crate::store::model::listing::{HandledEvent, ProgressRow};
use crate::store::model::parking::{Parked, Parking, Step};
use crate::store::model::processors::{Change, RegisteredProcessor};
use crate::store::model::progress::{Seen, Turn};
use crate::store::model::pruning::{InboxPruning, ReactionStart};
use crate::store::model::read_model::{ReadModel, Work};
use crate::store::model::skipped::Skipped;
use crate::store::size::StoreSize;
use crate::store::sqlite::audit::insert_audit;
use crate::store::sqlite::connection::{Location, Pool};
use crate::store::sqlite::convert::{event_id_to_sql, to_sql};
use crate::store::sqlite::error::classify_work;
use crate::store::sqlite::health;
use crate::store::sqlite::model::checkpoint::{
    FORGET_PARKED, FORGET_PROGRESS, RESET_START, SET_INLINE, checkpoint, names, projections, set_checkpoint,
};
use crate::store::sqlite::model::parking::{RETRY, park, parked, parked_at};
use crate::store::sqlite::options::{SqliteOptions, Synchronous};
use crate::store::sqlite::size::{MODELS, size};
use crate::store::sqlite::transaction::OpenTransaction;

/// The read models in one SQLite file: the tables of projections and their checkpoints. Clones share the connections.
///
/// # Examples
/// ```
/// use retell::store::sqlite::SqliteReadModel;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let models = SqliteReadModel::in_memory().await?;
/// let sum: i64 = models.query(|db| db.query_row("SELECT 1 + 1", [], |row| row.get(0))).await?;
/// assert_eq!(sum, 2);
/// # Ok::<(), retell::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct SqliteReadModel {
    pub(crate) writer: Arc<Pool>,
    pub(crate) readers: Arc<Pool>,
}

impl SqliteReadModel {
    /// Opens read models in a file with default settings, and creates the file if it does not exist. Commits are [`Synchronous::Normal`]: after a
    /// power failure a projection may apply its last batches again, but model and checkpoint always agree.
    ///
    /// # Errors
    /// The same as for [`SqliteStore::open_with`](crate::store::sqlite::SqliteStore::open_with).
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, SqliteOptions::new().with_synchronous(Synchronous::Normal)).await
    }

    /// Opens read models in a file, and creates the file if it does not exist.
    ///
    /// # Errors
    /// The same as for [`SqliteStore::open_with`](crate::store::sqlite::SqliteStore::open_with).
    pub async fn open_with(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self> {
        Self::at(Location::File(path.as_ref().to_owned()), options).await
    }

    /// Opens read models in memory. They are lost when the last handle is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Backend`](crate::ErrorKind::Backend) if SQLite cannot open the database.
    pub async fn in_memory() -> Result<Self> {
        Self::at(Location::Memory, SqliteOptions::new()).await
    }

    async fn at(location: Location, options: SqliteOptions) -> Result<Self> {
        let (writer, readers) = Pool::open(location, options).await?;
        Ok(Self { writer, readers })
    }

    /// Runs `query` on a blocking thread, concurrently with the projections' writes.
    ///
    /// # Errors
    /// The error that `query` returns, as a [read error](crate::Error#read-errors).
    pub async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.readers.run("query a read model", move |db| Ok(query(db)?)).await
    }

    /// Returns the projections of this file, by name, and how many positions each is behind `head`, a log's
    /// [`head`](crate::EventReader::head). A retired projection is not listed.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    pub async fn behind(&self, head: Position) -> Result<Vec<(ProjectionName, u64)>> {
        self.readers.run("read the checkpoints", move |db| health::behind(db, head)).await
    }
}

#[async_trait]
impl ReadModel for SqliteReadModel {
    /// The connection, inside the batch's transaction. Do not execute `BEGIN`, `COMMIT` or `ROLLBACK`.
    type Tx = Connection;

    async fn mark(&self, projection: &ProjectionName) -> Result<Mark> {
        let projection = projection.clone();
        self.readers.run("read a checkpoint", move |db| Ok(checkpoint(db, &projection)?.mark)).await
    }

    async fn state(&self, projection: &ProjectionName) -> Result<ProjectionState> {
        let name = projection.clone();
        let read = move |db: &mut Connection| Ok(checkpoint(db, &name)?.state);
        let state = self.readers.run("read a projection's state", read).await?;
        if state == ProjectionState::Running {
            self.check_name(projection).await?;
        }
        Ok(state)
    }

    async fn names(&self) -> Result<Option<Vec<ProjectionName>>> {
        self.readers.run("list the projections", |db| Ok(Some(names(db)?))).await
    }

    async fn parking(&self, projection: &ProjectionName) -> Result<Parking> {
        let name = projection.clone();
        let read = move |db: &mut Connection| {
            // One snapshot for the count and the rows.
            let tx = db.transaction()?;
            let changes = checkpoint(&tx, &name)?.changes;
            Ok(Parking { changes, parked: parked(&tx, &name, usize::MAX)? })
        };
        let parking = self.readers.run("read parked aggregates", read).await?;
        if parking.changes == 0 {
            self.check_name(projection).await?;
        }
        Ok(parking)
    }

    async fn projections(&self, limit: usize) -> Result<Vec<ProjectionStatus>> {
        self.readers.run("list the projections", move |db| projections(db, limit)).await
    }

    async fn parked(
        &self,
        projection: &ProjectionName,
        stream: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<Parked>> {
        let (name, stream) = (projection.clone(), stream.cloned());
        let read = move |db: &mut Connection| match stream {
            Some(stream) => Ok(parked_at(db, &name, &stream)?.into_iter().take(limit).collect()),
            None => parked(db, &name, limit),
        };
        self.readers.run("read parked aggregates", read).await
    }

    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool> {
        let (name, stream) = (projection.clone(), stream.clone());
        let retry = move |db: &mut Connection| {
            let (kind, id) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
            let now = Utc::now().timestamp_micros();
            Ok(db.prepare_cached(RETRY)?.execute((name.as_str(), kind, id, now))? == 1)
        };
        let was_parked = self.writer.run("retry a parked aggregate", retry).await?;
        if !was_parked {
            self.check_name(projection).await?;
        }
        Ok(was_parked)
    }

    async fn commit(&self, step: Step, work: Work<Connection>) -> Result<()> {
        self.writer
            .run_async("commit a batch", move |db, call| {
                let open = OpenTransaction::begin(db)?;
                checkpoint(open.db, &step.projection)?.check(&step)?;
                call.block_on(work(open.db))?.map_err(classify_work)?;
                step.parking.iter().try_for_each(|change| park(open.db, &step.projection, change))?;
                set_checkpoint(open.db, &step.projection, step.to, step.changes_after())?;
                open.db.prepare_cached(SET_INLINE)?.execute((step.projection.as_str(), false))?;
                open.commit()
            })
            .await
    }

    async fn begin(&self, projection: &ProjectionName, work: Work<Connection>) -> Result<()> {
        self.begin_per_aggregate(projection, work).await
    }

    async fn seen(&self, projection: &ProjectionName, streams: &[StreamId]) -> Result<HashMap<StreamId, Seen>> {
        self.seen_versions(projection, streams).await
    }

    async fn turn(
        &self,
        projection: &ProjectionName,
        changes: u64,
        streams: Vec<StreamId>,
        turn: Turn<Connection>,
    ) -> Result<()> {
        self.run_turn(projection, changes, streams, turn).await
    }

    async fn sweep(&self, projection: &ProjectionName, changes: u64, from: Mark, to: Mark) -> Result<Mark> {
        self.sweep_to(projection, changes, from, to).await
    }

    async fn register_processor(&self, projection: &ProjectionName, processor: &RegisteredProcessor) -> Result<()> {
        self.change_processor(projection, processor, Change::Register).await.map(drop)
    }

    async fn processors(&self, projection: &ProjectionName) -> Result<Vec<RegisteredProcessor>> {
        self.registered(projection).await
    }

    async fn forget_processor(&self, projection: &ProjectionName, processor: &RegisteredProcessor) -> Result<bool> {
        self.change_processor(projection, processor, Change::Forget).await
    }

    async fn intervene(&self, projection: &ProjectionName, intervention: Intervention, by: &By) -> Result<bool> {
        self.change_as(projection, &intervention, by).await
    }

    async fn paused(&self, projection: &ProjectionName) -> Result<Option<Pause>> {
        self.pause_of(projection).await
    }

    async fn skipped(
        &self,
        projection: &ProjectionName,
        stream: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<Skipped>> {
        self.skipped_of(projection, stream, limit).await
    }

    async fn audit(&self, limit: usize, before: Option<u64>) -> Result<Vec<AuditEntry>> {
        self.audit_before(limit, before).await
    }

    async fn reset(&self, projection: &ProjectionName, to: Mark, work: Work<Connection>) -> Result<()> {
        self.reset_by(projection, to, work, &By::program("no reason given")).await
    }

    async fn reset_by(&self, projection: &ProjectionName, to: Mark, work: Work<Connection>, by: &By) -> Result<()> {
        by.check()?;
        self.check_name(projection).await?;
        let (projection, entry) = (projection.clone(), AuditEntry::reset(projection, to.position, by));
        self.writer
            .run_async("reset a projection", move |db, call| {
                let open = OpenTransaction::begin(db)?;
                let reset = checkpoint(open.db, &projection)?.reset(&projection, to)?;
                call.block_on(work(open.db))?.map_err(classify_work)?;
                for statement in [FORGET_PROGRESS, FORGET_PARKED] {
                    open.db.prepare_cached(statement)?.execute([projection.as_str()])?;
                }
                set_checkpoint(open.db, &projection, to, reset.changes)?;
                if to != Mark::START {
                    let binds = (projection.as_str(), to_sql(to.position.get()), event_id_to_sql(to.event_id));
                    open.db.prepare_cached(RESET_START)?.execute(binds)?;
                }
                insert_audit(open.db, &entry)?;
                open.commit()
            })
            .await
    }

    async fn mark_handled(&self, tx: &mut Connection, reaction: &ProjectionName, event: EventId) -> Result<bool> {
        Self::record_handled(tx, reaction, event)
    }

    async fn start_after(&self, reaction: &ProjectionName, mark: Mark) -> Result<Mark> {
        self.record_start(reaction, mark).await
    }

    async fn list_progress(&self, after: Option<&ProgressRow>, limit: usize) -> Result<Option<Vec<ProgressRow>>> {
        Self::list_progress(self, after, limit).await.map(Some)
    }

    async fn list_handled(&self, after: Option<&HandledEvent>, limit: usize) -> Result<Option<Vec<HandledEvent>>> {
        Self::list_handled(self, after, limit).await.map(Some)
    }

    async fn size(&self) -> Result<Option<StoreSize>> {
        self.readers.run("read the sizes of tables", |db| size(db, &MODELS)).await.map(Some)
    }

    async fn record(&self, entry: &AuditEntry) -> Result<()> {
        self.record_change(entry).await
    }

    async fn reactions(&self, limit: usize) -> Result<Option<Vec<ReactionStart>>> {
        self.reaction_starts(limit).await.map(Some)
    }

    async fn count_handled(&self, reaction: &ProjectionName, events: &[EventId]) -> Result<u64> {
        self.handled_of(reaction, events).await
    }

    async fn prune_inbox(&self, pruning: &InboxPruning) -> Result<u64> {
        self.prune_inbox_of(pruning).await
    }

    async fn close(&self) -> Result<()> {
        self.readers.close().await?;
        self.writer.close().await
    }
}
