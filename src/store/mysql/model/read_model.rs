//! The read model: its connections, its checkpoints, and the batches that move them.

use std::collections::HashMap;

use async_trait::async_trait;
use chrono::Utc;
use sqlx::{MySql, MySqlConnection, MySqlPool};

use crate::error::Result;
use crate::id::mark::Mark;
use crate::id::{EventId, ProjectionName, StreamId};
use crate::store::held::holding;
use crate::store::model::checkpoint::{ProjectionState, ProjectionStatus};
use crate::store::model::interventions::{AuditEntry, By, Intervention, Pause};
use crate::store::model::listing::{HandledEvent, ProgressRow};
use crate::store::model::parking::{Parked, Parking, Step};
use crate::store::model::processors::{Change, RegisteredProcessor};
use crate::store::model::progress::{Seen, Turn};
use crate::store::model::pruning::{InboxPruning, ReactionStart};
use crate::store::model::read_model::{ReadModel, Work};
use crate::store::model::skipped::Skipped;
use crate::store::mysql::audit::{entries, insert_audit};
use crate::store::mysql::check::{self, Part};
use crate::store::mysql::connection;
use crate::store::mysql::connection::Connections;
use crate::store::mysql::convert::time_to_sql;
use crate::store::mysql::error::{classify, classify_work};
use crate::store::mysql::model::checkpoint::{
    CHANGES, FORGET_PARKED, FORGET_PROGRESS, NAMES, PROJECTIONS, READ, RESET, RESET_START, STATE, advance,
    lock_checkpoint, lock_checkpoint_in,
};
use crate::store::mysql::model::parking::{PARKED, PARKED_AT, RETRY, columns, park};
use crate::store::mysql::options::MySqlOptions;
use crate::store::mysql::size::size;
use crate::store::server::convert::{
    MarkRow, ProjectionRow, from_sql, id_to_sql, limit_to_sql, mark_from_sql, projections_from_sql, to_sql,
};
use crate::store::server::lease::Lease;
use crate::store::size::MODEL_TABLES;
use crate::store::size::StoreSize;

/// The read models in a MySQL or MariaDB database: the tables of projections and their checkpoints. Clones share one pool.
///
/// # Examples
/// ```no_run
/// use retell::store::mysql::MySqlReadModel;
///
/// # async fn example() -> retell::Result<()> {
/// let models = MySqlReadModel::connect("mysql://localhost/shop").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MySqlReadModel {
    pub(crate) connections: Connections,
}

impl MySqlReadModel {
    /// Opens read models in the database at `url`, with default settings.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if `url` is not the URL of a MySQL database, otherwise the same as for
    /// [`open`](Self::open).
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(url, MySqlOptions::new()).await
    }

    /// Opens read models in the database at `url`, with these settings and ten connections.
    ///
    /// # Errors
    /// The same as for [`connect`](Self::connect).
    pub async fn connect_with(url: &str, options: MySqlOptions) -> Result<Self> {
        let (pool, hosts) = connection::pool(url).await?;
        Self::open_with(pool, options.of_url(hosts)).await
    }

    /// Opens read models over the caller's pool. The server may have any durability, because a lost batch is applied again.
    ///
    /// # Errors
    /// [`ErrorKind::UnfitServer`](crate::ErrorKind::UnfitServer) with a list of all problems and their remedies if the server or the rights of the
    /// database user do not allow the use, [`ErrorKind::NewerStore`](crate::ErrorKind::NewerStore) if a newer release has changed the schema,
    /// otherwise a [write error](crate::Error#write-errors).
    pub async fn open(pool: MySqlPool) -> Result<Self> {
        Self::open_with(pool, MySqlOptions::new()).await
    }

    /// Opens read models over the caller's pool, with the time limits of `options`.
    ///
    /// # Errors
    /// The same as for [`open`](Self::open).
    pub async fn open_with(pool: MySqlPool, options: MySqlOptions) -> Result<Self> {
        let connections = Connections::open(pool, options.limits, &options.hosts).await?;
        let opened = Box::pin(check::open(&connections, Part::ReadModels, options.migrate));
        options.limits.long().call("open the read models", opened).await?;
        Ok(Self { connections })
    }

    /// Returns the pool, for queries on the read models. Let each query run to its end, as with
    /// [`MySqlStore::pool`](crate::store::mysql::MySqlStore::pool).
    pub fn pool(&self) -> &MySqlPool {
        self.connections.pool()
    }
}

#[async_trait]
impl ReadModel for MySqlReadModel {
    /// The connection, inside the batch's transaction, which is read committed. Do not execute `BEGIN`, `COMMIT` or `ROLLBACK`; savepoints are
    /// fine. `CREATE`, `ALTER`, `DROP` and `TRUNCATE` commit implicitly: create tables only in [`setup`](crate::Projection::setup), and only if
    /// they do not exist. If a query is dropped half-way, for example by a timeout, the work must return an error, so that the connection is
    /// closed.
    type Tx = MySqlConnection;

    async fn mark(&self, projection: &ProjectionName) -> Result<Mark> {
        let failed = |error| classify(error, "read a checkpoint");
        let read = || async {
            let query = sqlx::query_as(READ).bind(projection.as_str().as_bytes());
            let found: Option<MarkRow> = self.connections.optional(query).await.map_err(failed)?;
            found.map_or(Ok(Mark::START), mark_from_sql)
        };
        self.connections.repeat("read a checkpoint", read).await
    }

    async fn state(&self, projection: &ProjectionName) -> Result<ProjectionState> {
        let failed = |error| classify(error, "read a projection's state");
        let read = || async {
            let query = sqlx::query_as(STATE).bind(projection.as_str().as_bytes());
            let state: Option<(String,)> = self.connections.optional(query).await.map_err(failed)?;
            state.map(|(state,)| ProjectionState::parse(&state)).transpose()
        };
        match self.connections.repeat("read a projection's state", read).await? {
            Some(state) => Ok(state),
            None => self.check_name(projection).await.map(|()| ProjectionState::Running),
        }
    }

    async fn names(&self) -> Result<Option<Vec<ProjectionName>>> {
        let read = || async {
            let rows = self.connections.all(sqlx::query_as(NAMES)).await;
            let rows: Vec<(String,)> = rows.map_err(|error| classify(error, "list the projections"))?;
            Ok(rows.into_iter().map(|(name,)| ProjectionName::new(name)).collect::<Result<_, _>>()?)
        };
        self.connections.repeat("list the projections", read).await.map(Some)
    }

    async fn parking(&self, projection: &ProjectionName) -> Result<Parking> {
        let failed = |error| classify(error, "read parked aggregates");
        let read = || async {
            // The count is read before the rows: if a row changes later, the count differs at the commit.
            let query = sqlx::query_as(CHANGES).bind(projection.as_str().as_bytes());
            let changes: Option<(i64,)> = self.connections.optional(query).await.map_err(failed)?;
            let query = sqlx::query(PARKED).bind(projection.as_str().as_bytes()).bind(i64::MAX);
            let rows = self.connections.rows(query).await.map_err(failed)?;
            let has_run = changes.is_some();
            let changes = from_sql(changes.map_or(0, |(changes,)| changes), "count")?;
            let columns = rows.iter().map(|row| columns(row).map_err(failed)?.parse());
            Ok((has_run, Parking { changes, parked: columns.collect::<Result<_>>()? }))
        };
        let (has_run, parking) = self.connections.repeat("read parked aggregates", read).await?;
        if !has_run {
            self.check_name(projection).await?;
        }
        Ok(parking)
    }

    async fn projections(&self, limit: usize) -> Result<Vec<ProjectionStatus>> {
        let read = || async {
            let rows = self.connections.all(sqlx::query_as(PROJECTIONS).bind(limit_to_sql(limit))).await;
            let rows: Vec<ProjectionRow> = rows.map_err(|error| classify(error, "list the projections"))?;
            projections_from_sql(rows)
        };
        self.connections.repeat("list the projections", read).await
    }

    async fn parked(
        &self,
        projection: &ProjectionName,
        stream: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<Parked>> {
        let failed = |error| classify(error, "read parked aggregates");
        let read = || async {
            let query = match stream {
                Some(stream) => sqlx::query(PARKED_AT)
                    .bind(projection.as_str().as_bytes())
                    .bind(stream.aggregate_type().as_str().as_bytes())
                    .bind(stream.aggregate_id().as_str().as_bytes()),
                None => sqlx::query(PARKED).bind(projection.as_str().as_bytes()).bind(limit_to_sql(limit)),
            };
            let rows = self.connections.rows(query).await.map_err(failed)?;
            rows.iter().take(limit).map(|row| columns(row).map_err(failed)?.parse()).collect()
        };
        self.connections.repeat("read parked aggregates", read).await
    }

    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool> {
        let failed = |error| classify(error, "retry a parked aggregate");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let query = sqlx::query(RETRY)
            .bind(time_to_sql(Utc::now()))
            .bind(projection.as_str().as_bytes())
            .bind(stream.aggregate_type().as_str().as_bytes())
            .bind(stream.aggregate_id().as_str().as_bytes());
        let retried = self.connections.limits().statements(query.execute(&mut *lease)).await;
        let was_parked = lease.end(retried).map_err(failed)?.rows_affected() == 1;
        if !was_parked {
            self.check_name(projection).await?;
        }
        Ok(was_parked)
    }

    async fn commit(&self, step: Step, work: Work<MySqlConnection>) -> Result<()> {
        let _turn = self.connections.turn().await?;
        let (mut work, mut retries) = (Some(work), self.connections.retries());
        loop {
            let lease = self.connections.lease().await;
            let mut lease = lease.map_err(|error| classify(error, "commit a batch"))?;
            let done = self.commit_on(&mut lease, &step, &mut work).await;
            let done = lease.finish(done);
            if work.is_none() || !retries.may_pass(&done) {
                return done;
            }
        }
    }

    async fn begin(&self, projection: &ProjectionName, work: Work<MySqlConnection>) -> Result<()> {
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
        turn: Turn<MySqlConnection>,
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
        entries(&self.connections, limit, before).await
    }

    async fn reset(&self, projection: &ProjectionName, to: Mark, work: Work<MySqlConnection>) -> Result<()> {
        self.reset_by(projection, to, work, &By::program("no reason given")).await
    }

    async fn reset_by(
        &self,
        projection: &ProjectionName,
        to: Mark,
        work: Work<MySqlConnection>,
        by: &By,
    ) -> Result<()> {
        by.check()?;
        self.check_name(projection).await?;
        let failed = |error| classify(error, "reset a projection");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let session = lease.session();
        let mut tx = lease.begin().await.map_err(failed)?;
        let reset = match lock_checkpoint_in(&mut tx, projection, &session).await?.reset(projection, to) {
            Ok(reset) => reset,
            Err(refused) => {
                let rolled_back = tx.rollback().await;
                lease.end(rolled_back).map_err(failed)?;
                return Err(refused);
            }
        };
        work(&mut tx).await.map_err(classify_work)?;
        let (name, position, id) = (projection.as_str().as_bytes(), to_sql(to.position.get()), id_to_sql(to));
        for statement in [FORGET_PROGRESS, FORGET_PARKED] {
            sqlx::query(statement).bind(name).execute(&mut *tx).await.map_err(failed)?;
        }
        let set = sqlx::query(RESET).bind(position).bind(id).bind(to_sql(reset.changes)).bind(name);
        set.execute(&mut *tx).await.map_err(failed)?;
        if to != Mark::START {
            sqlx::query(RESET_START).bind(position).bind(id).bind(name).execute(&mut *tx).await.map_err(failed)?;
        }
        insert_audit(&mut tx, &AuditEntry::reset(projection, to.position, by)).await.map_err(failed)?;
        let committed = tx.commit().await;
        lease.end(committed).map_err(failed)
    }

    async fn mark_handled(&self, tx: &mut MySqlConnection, reaction: &ProjectionName, event: EventId) -> Result<bool> {
        self.record_handled(tx, reaction, event).await
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
        size(&self.connections, &MODEL_TABLES).await.map(Some)
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
        self.connections.close().await;
        Ok(())
    }
}

impl MySqlReadModel {
    /// Commits a batch. Takes `work` when it runs it.
    async fn commit_on(
        &self,
        lease: &mut Lease<MySql>,
        step: &Step,
        work: &mut Option<Work<MySqlConnection>>,
    ) -> Result<()> {
        let failed = |error| classify(error, "commit a batch");
        let limits = self.connections.limits();
        let session = lease.session();
        let mut tx = lease.begin().await.map_err(failed)?;
        // The row is locked before the work: until the commit, only the worker that holds it changes the model.
        let locked = lock_checkpoint_in(&mut tx, &step.projection, &session);
        let found = limits.call("commit a batch", locked).await?;
        found.check(step)?;
        // Work that fails may have dropped a query half-way. The connection is then closed, which ends the transaction.
        if let Some(work) = work.take() {
            holding(self.connections.held(), work(&mut tx)).await.map_err(classify_work)?;
        }
        let committed = async {
            let found = advance(step).execute(&mut *tx).await.map_err(failed)?.rows_affected();
            if found == 0 {
                // The work created a table: the implicit commit released the row's lock, and another worker moved the checkpoint.
                return Err(step.moved(lock_checkpoint(&mut tx, &step.projection).await?.mark.position));
            }
            // Written after the checkpoint, so that nothing is written if the checkpoint has moved.
            for change in &step.parking {
                park(&step.projection, change).execute(&mut *tx).await.map_err(failed)?;
            }
            tx.commit().await.map_err(failed)
        };
        limits.call("commit a batch", committed).await
    }
}
