//! The read model: its connections, its checkpoints, and the batches that move them.

use std::collections::HashMap;

use async_trait::async_trait;
use chrono::Utc;
use sqlx::{PgConnection, PgPool, Postgres};

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
use crate::store::postgres::audit::{entries, insert_audit};
use crate::store::postgres::check::{self, Part};
use crate::store::postgres::connection;
use crate::store::postgres::connection::Connections;
use crate::store::postgres::error::{classify, classify_work};
use crate::store::postgres::model::checkpoint::{
    CHANGES, FORGET_PARKED, FORGET_PROGRESS, LOCK, NAMES, PROJECTIONS, READ, RESET, RESET_START, STATE, advance, lock,
};
use crate::store::postgres::model::parking::{PARKED, PARKED_AT, RETRY, columns, park};
use crate::store::postgres::options::PostgresOptions;
use crate::store::postgres::schema::Schema;
use crate::store::postgres::size::size;
use crate::store::server::convert::{
    MarkRow, ProjectionRow, from_sql, id_to_sql, limit_to_sql, mark_from_sql, projections_from_sql, to_sql,
};
use crate::store::server::lease::Lease;
use crate::store::size::MODEL_TABLES;
use crate::store::size::StoreSize;

/// The read models in one schema of a PostgreSQL database: the tables of projections and their checkpoints. Clones share one pool.
///
/// # Examples
/// ```no_run
/// use retell::store::postgres::PostgresReadModel;
///
/// # async fn example() -> retell::Result<()> {
/// let models = PostgresReadModel::connect("postgres://localhost/shop").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PostgresReadModel {
    pub(crate) connections: Connections,
    pub(crate) schema: Schema,
}

impl PostgresReadModel {
    /// Opens read models in the database at `url`, with default settings.
    ///
    /// # Errors
    /// The same as for [`PostgresStore::connect`](crate::store::postgres::PostgresStore::connect).
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(url, PostgresOptions::new()).await
    }

    /// Opens read models in the database at `url`, with these settings and ten connections.
    ///
    /// # Errors
    /// The same as for [`connect`](Self::connect).
    pub async fn connect_with(url: &str, options: PostgresOptions) -> Result<Self> {
        let (pool, hosts) = connection::pool(url).await?;
        Self::open_with(pool, options.of_url(hosts)).await
    }

    /// Opens read models over the caller's pool, with default settings.
    ///
    /// # Errors
    /// The same as for [`open_with`](Self::open_with).
    pub async fn open(pool: PgPool) -> Result<Self> {
        Self::open_with(pool, PostgresOptions::new()).await
    }

    /// Opens read models over the caller's pool, in the schema that `options` names.
    ///
    /// # Errors
    /// The same as for [`PostgresStore::open_with`](crate::store::postgres::PostgresStore::open_with).
    pub async fn open_with(pool: PgPool, options: PostgresOptions) -> Result<Self> {
        let schema = Schema::parse(&options.schema)?;
        let connections = Connections::open(pool, options.limits, &options.hosts).await?;
        let opened = Box::pin(async {
            check::open(connections.pool(), &schema, Part::ReadModels, options.migrate).await?;
            check::test_models(connections.pool()).await
        });
        options.limits.long().call("open the read models", opened).await?;
        Ok(Self { connections, schema })
    }

    /// Returns the pool, for queries on the read models.
    pub fn pool(&self) -> &PgPool {
        self.connections.pool()
    }
}

#[async_trait]
impl ReadModel for PostgresReadModel {
    /// The connection, inside the batch's transaction. Do not execute `BEGIN`, `COMMIT` or `ROLLBACK`; savepoints are fine.
    type Tx = PgConnection;

    async fn mark(&self, projection: &ProjectionName) -> Result<Mark> {
        let failed = |error| classify(error, "read a checkpoint");
        let read = || async {
            let query = sqlx::query_as(self.schema.sql(READ)).bind(projection.as_str());
            let found: Option<MarkRow> = self.connections.optional(query).await.map_err(failed)?;
            found.map_or(Ok(Mark::START), mark_from_sql)
        };
        self.connections.repeat("read a checkpoint", read).await
    }

    async fn state(&self, projection: &ProjectionName) -> Result<ProjectionState> {
        let failed = |error| classify(error, "read a projection's state");
        let read = || async {
            let query = sqlx::query_as(self.schema.sql(STATE)).bind(projection.as_str());
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
            let rows = self.connections.all(sqlx::query_as(self.schema.sql(NAMES))).await;
            let rows: Vec<(String,)> = rows.map_err(|error| classify(error, "list the projections"))?;
            Ok(rows.into_iter().map(|(name,)| ProjectionName::new(name)).collect::<Result<_, _>>()?)
        };
        self.connections.repeat("list the projections", read).await.map(Some)
    }

    async fn parking(&self, projection: &ProjectionName) -> Result<Parking> {
        let failed = |error| classify(error, "read parked aggregates");
        let read = || async {
            // The count is read before the rows: if a row changes later, the count differs at the commit.
            let query = sqlx::query_as(self.schema.sql(CHANGES)).bind(projection.as_str());
            let changes: Option<(i64,)> = self.connections.optional(query).await.map_err(failed)?;
            let query = sqlx::query(self.schema.sql(PARKED)).bind(projection.as_str()).bind(i64::MAX);
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
            let rows =
                self.connections.all(sqlx::query_as(self.schema.sql(PROJECTIONS)).bind(limit_to_sql(limit))).await;
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
                Some(stream) => sqlx::query(self.schema.sql(PARKED_AT))
                    .bind(projection.as_str())
                    .bind(stream.aggregate_type().as_str())
                    .bind(stream.aggregate_id().as_str()),
                None => sqlx::query(self.schema.sql(PARKED)).bind(projection.as_str()).bind(limit_to_sql(limit)),
            };
            let rows = self.connections.rows(query).await.map_err(failed)?;
            rows.iter().take(limit).map(|row| columns(row).map_err(failed)?.parse()).collect()
        };
        self.connections.repeat("read parked aggregates", read).await
    }

    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool> {
        let failed = |error| classify(error, "retry a parked aggregate");
        let retry = || async {
            let query = sqlx::query(self.schema.sql(RETRY))
                .bind(projection.as_str())
                .bind(stream.aggregate_type().as_str())
                .bind(stream.aggregate_id().as_str())
                .bind(Utc::now());
            Ok(!self.connections.rows(query).await.map_err(failed)?.is_empty())
        };
        let was_parked = self.connections.repeat("retry a parked aggregate", retry).await?;
        if !was_parked {
            self.check_name(projection).await?;
        }
        Ok(was_parked)
    }

    async fn commit(&self, step: Step, work: Work<PgConnection>) -> Result<()> {
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

    async fn begin(&self, projection: &ProjectionName, work: Work<PgConnection>) -> Result<()> {
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
        turn: Turn<PgConnection>,
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
        entries(&self.connections, &self.schema, limit, before).await
    }

    async fn reset(&self, projection: &ProjectionName, to: Mark, work: Work<PgConnection>) -> Result<()> {
        self.reset_by(projection, to, work, &By::program("no reason given")).await
    }

    async fn reset_by(&self, projection: &ProjectionName, to: Mark, work: Work<PgConnection>, by: &By) -> Result<()> {
        by.check()?;
        self.check_name(projection).await?;
        let failed = |error| classify(error, "reset a projection");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let mut tx = lease.begin().await.map_err(failed)?;
        let reset = lock(&self.schema, LOCK, projection, &mut tx).await?.reset(projection, to)?;
        work(&mut tx).await.map_err(classify_work)?;
        for statement in [FORGET_PROGRESS, FORGET_PARKED] {
            sqlx::query(self.schema.sql(statement))
                .bind(projection.as_str())
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
        }
        let set = sqlx::query(self.schema.sql(RESET)).bind(projection.as_str()).bind(to_sql(to.position.get()));
        let set = set.bind(id_to_sql(to)).bind(to_sql(reset.changes));
        set.execute(&mut *tx).await.map_err(failed)?;
        if to != Mark::START {
            let begin = sqlx::query(self.schema.sql(RESET_START)).bind(projection.as_str());
            let begin = begin.bind(to_sql(to.position.get())).bind(id_to_sql(to));
            begin.execute(&mut *tx).await.map_err(failed)?;
        }
        let entry = AuditEntry::reset(projection, to.position, by);
        insert_audit(&self.schema, &mut tx, &entry).await.map_err(failed)?;
        tx.commit().await.map_err(failed)
    }

    async fn mark_handled(&self, tx: &mut PgConnection, reaction: &ProjectionName, event: EventId) -> Result<bool> {
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
        size(&self.connections, &self.schema, &MODEL_TABLES).await.map(Some)
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

impl PostgresReadModel {
    /// Commits a batch. Takes `work` when it runs it.
    async fn commit_on(
        &self,
        lease: &mut Lease<Postgres>,
        step: &Step,
        work: &mut Option<Work<PgConnection>>,
    ) -> Result<()> {
        let failed = |error| classify(error, "commit a batch");
        let limits = self.connections.limits();
        let mut tx = lease.begin().await.map_err(failed)?;
        let locked = async {
            // The row is locked before the work: until the commit, only the worker that holds it changes the model.
            if !advance(&self.schema, step, &mut tx).await.map_err(failed)? {
                let found = lock(&self.schema, LOCK, &step.projection, &mut tx).await?;
                found.check(step)?;
                if !advance(&self.schema, step, &mut tx).await.map_err(failed)? {
                    return Err(step.moved(found.mark.position));
                }
            }
            Ok(())
        };
        limits.call("commit a batch", locked).await?;
        if let Some(work) = work.take() {
            holding(self.connections.held(), work(&mut tx)).await.map_err(classify_work)?;
        }
        let committed = async {
            for change in &step.parking {
                park(&self.schema, &step.projection, change).execute(&mut *tx).await?;
            }
            tx.commit().await
        };
        limits.statements(committed).await.map_err(failed)
    }
}
