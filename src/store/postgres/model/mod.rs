//! Read models in a PostgreSQL database, which may be another than the log's.

pub(crate) mod deadlines;
pub(crate) mod inbox;
pub(crate) mod progress;
pub(crate) mod views;

use std::sync::Arc;

use async_trait::async_trait;
use chrono::Utc;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, PgConnection, PgPool, Postgres, Row};

use crate::error::Result;
use crate::id::{Position, ProjectionName, StreamId};
use crate::store::model::checkpoint::{CheckpointStore, Work};
use crate::store::model::parking::{ParkedColumns, Parking, ParkingChange, Step};
use crate::store::model::progress::in_aggregate_order;
use crate::store::postgres::connection::{Schema, Statement, classify, classify_work};
use crate::store::postgres::{PostgresOptions, migrate};
use crate::store::server::convert::{from_sql, to_sql};

/// Tables of projections, and their checkpoints. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct PostgresReadModel {
    pub(crate) pool: PgPool,
    pub(crate) statements: Arc<Statements>,
    pub(crate) progress: Arc<progress::Statements>,
    pub(crate) deadlines: Arc<deadlines::Statements>,
    pub(crate) views: Arc<views::Statements>,
    pub(crate) inbox: Arc<inbox::Statements>,
}

impl PostgresReadModel {
    /// Read models in the database at `url`, with default settings.
    ///
    /// # Errors
    /// As [`PostgresStore::connect`](super::PostgresStore::connect).
    pub async fn connect(url: &str) -> Result<Self> {
        Self::open(super::pool(url).await?, &PostgresOptions::new()).await
    }

    /// Read models over a pool of the caller's.
    ///
    /// # Errors
    /// As [`PostgresStore::open`](super::PostgresStore::open).
    pub async fn open(pool: PgPool, options: &PostgresOptions) -> Result<Self> {
        let schema = Schema::parse(&options.schema)?;
        migrate::apply(&pool, &schema).await?;
        Ok(Self::of(pool, &schema))
    }

    /// In a schema that is up to date.
    pub(crate) fn of(pool: PgPool, schema: &Schema) -> Self {
        Self {
            pool,
            statements: Arc::new(Statements::new(schema)),
            progress: Arc::new(progress::Statements::new(schema)),
            views: Arc::new(views::Statements::new(schema)),
            deadlines: Arc::new(deadlines::Statements::new(schema)),
            inbox: Arc::new(inbox::Statements::new(schema)),
        }
    }

    /// The pool, for queries.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}

#[async_trait]
impl CheckpointStore for PostgresReadModel {
    /// The connection, inside the batch's transaction. Leave `BEGIN`, `COMMIT` and `ROLLBACK` to the library; savepoints are fine.
    type Tx = PgConnection;

    async fn checkpoint(&self, projection: &ProjectionName) -> Result<Position> {
        let position: Option<i64> = sqlx::query_scalar(self.statements.read.sql())
            .bind(projection.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(|error| classify(error, "read a checkpoint"))?;
        from_sql(position.unwrap_or(0), "position").map(Position::new)
    }

    async fn parking(&self, projection: &ProjectionName) -> Result<Parking> {
        let failed = |error| classify(error, "read what is parked");
        // First of all: if the rows change after it was read, so does the count.
        let changes: Option<i64> = sqlx::query_scalar(self.statements.changes.sql())
            .bind(projection.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed)?;
        let rows = sqlx::query(self.statements.parked.sql())
            .bind(projection.as_str())
            .fetch_all(&self.pool)
            .await
            .map_err(failed)?;
        let columns = rows.iter().map(|row| columns(row).map_err(failed)?.parse());
        Ok(Parking { changes: from_sql(changes.unwrap_or(0), "count")?, parked: columns.collect::<Result<_>>()? })
    }

    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool> {
        let retried = sqlx::query(self.statements.retry.sql())
            .bind(projection.as_str())
            .bind(stream.aggregate_type().as_str())
            .bind(stream.aggregate_id().as_str())
            .bind(Utc::now())
            .execute(&self.pool)
            .await
            .map_err(|error| classify(error, "retry a parked aggregate"))?;
        Ok(retried.rows_affected() == 1)
    }

    async fn advance(&self, step: Step, work: Work<PgConnection>) -> Result<()> {
        let failed = |error| classify(error, "commit a batch");
        let mut connection = self.pool.acquire().await.map_err(failed)?;
        let mut tx = connection.begin().await.map_err(failed)?;
        // First of all: whoever holds the row is the only one to change the model until its commit.
        if !self.statements.move_on(&step, &mut tx).await.map_err(failed)? {
            let (actual, changes, per_aggregate): (i64, i64, bool) = sqlx::query_as(self.statements.take.sql())
                .bind(step.projection.as_str())
                .fetch_one(&mut *tx)
                .await
                .map_err(failed)?;
            if per_aggregate {
                return Err(in_aggregate_order(&step.projection));
            }
            let actual = Position::new(from_sql(actual, "position")?);
            if (actual, from_sql(changes, "count")?) != (step.from, step.changes)
                || !self.statements.move_on(&step, &mut tx).await.map_err(failed)?
            {
                return Err(step.moved(actual));
            }
        }
        work(&mut tx).await.map_err(classify_work)?;
        for change in &step.parking {
            self.statements.park(&step.projection, change).execute(&mut *tx).await.map_err(failed)?;
        }
        tx.commit().await.map_err(failed)
    }

    async fn close(&self) -> Result<()> {
        self.pool.close().await;
        Ok(())
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Statements {
    read: Statement,
    take: Statement,
    move_on: Statement,
    changes: Statement,
    parked: Statement,
    park: Statement,
    release: Statement,
    retry: Statement,
}

impl Statements {
    fn new(schema: &Schema) -> Self {
        Self {
            read: schema.statement(READ),
            take: schema.statement(TAKE),
            move_on: schema.statement(MOVE_ON),
            changes: schema.statement(CHANGES),
            parked: schema.statement(PARKED),
            park: schema.statement(PARK),
            release: schema.statement(RELEASE),
            retry: schema.statement(RETRY),
        }
    }

    /// Locks the row and moves it as the step says, if it is there as the step begins with it. Returns whether it was.
    async fn move_on(&self, step: &Step, tx: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let moved = sqlx::query(self.move_on.sql())
            .bind(step.projection.as_str())
            .bind(to_sql(step.from.get()))
            .bind(to_sql(step.changes))
            .bind(to_sql(step.to.get()))
            .bind(to_sql(step.changes_after()))
            .fetch_optional(tx)
            .await?;
        Ok(moved.is_some())
    }

    pub(crate) fn park<'c>(
        &self,
        projection: &'c ProjectionName,
        change: &'c ParkingChange,
    ) -> Query<'c, Postgres, PgArguments> {
        let statement = match change {
            ParkingChange::Park(_) => &self.park,
            ParkingChange::Release(_) => &self.release,
        };
        let stream = change.stream();
        let query = sqlx::query(statement.sql())
            .bind(projection.as_str())
            .bind(stream.aggregate_type().as_str())
            .bind(stream.aggregate_id().as_str());
        match change {
            ParkingChange::Park(parked) => query
                .bind(to_sql(parked.from_version.get()))
                .bind(to_sql(parked.from_position.get()))
                .bind(&parked.error)
                .bind(i64::from(parked.attempts))
                .bind(parked.next_at)
                .bind(parked.state.as_str()),
            ParkingChange::Release(_) => query,
        }
    }
}

pub(crate) fn columns(row: &PgRow) -> Result<ParkedColumns<'_>, sqlx::Error> {
    Ok(ParkedColumns {
        aggregate_type: row.try_get(0)?,
        aggregate_id: row.try_get(1)?,
        from_version: row.try_get(2)?,
        from_position: row.try_get(3)?,
        error: row.try_get(4)?,
        attempts: row.try_get(5)?,
        next_at: row.try_get(6)?,
        state: row.try_get(7)?,
    })
}

const READ: &str = "SELECT position FROM {schema}.checkpoints WHERE projection = $1";

/// Binds: projection, position, count of changes, and both as they are to be. A process that is paused with the row in its hands would stop
/// every other worker of its projection: so the server ends the transaction when it hears nothing in it for 30 seconds.
const MOVE_ON: &str = "
    UPDATE {schema}.checkpoints SET position = $4, parking_changes = $5
    WHERE projection = $1 AND position = $2 AND parking_changes = $3 AND NOT per_aggregate
    RETURNING set_config('idle_in_transaction_session_timeout', '30s', true)";

/// Makes the row if it is not there, and locks it.
const TAKE: &str = "
    INSERT INTO {schema}.checkpoints AS c (projection, position) VALUES ($1, 0)
    ON CONFLICT (projection) DO UPDATE SET position = c.position
    RETURNING position, parking_changes, per_aggregate";

const CHANGES: &str = "SELECT parking_changes FROM {schema}.checkpoints WHERE projection = $1";

const PARKED: &str = "
    SELECT aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state
    FROM {schema}.parked WHERE projection = $1
    ORDER BY from_position";

/// Binds: projection, aggregate type, aggregate id, version, position, error, attempts, next time, state.
const PARK: &str = "
    INSERT INTO {schema}.parked
        (projection, aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (projection, aggregate_type, aggregate_id) DO UPDATE
    SET from_version = excluded.from_version, from_position = excluded.from_position, error = excluded.error,
        attempts = excluded.attempts, next_at = excluded.next_at, state = excluded.state";

/// Binds: projection, aggregate type, aggregate id.
const RELEASE: &str = "DELETE FROM {schema}.parked WHERE projection = $1 AND aggregate_type = $2 AND aggregate_id = $3";

/// Binds: projection, aggregate type, aggregate id, now.
const RETRY: &str = "
    UPDATE {schema}.parked SET state = 'waiting', attempts = 0, next_at = $4
    WHERE projection = $1 AND aggregate_type = $2 AND aggregate_id = $3";
