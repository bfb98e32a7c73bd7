//! Read models in a PostgreSQL database, which may be another than the log's.

use async_trait::async_trait;
use sqlx::{Connection, PgConnection, PgPool};

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Position, ProjectionName};
use crate::store::postgres::connection::{Schema, Statement, classify};
use crate::store::postgres::{PostgresOptions, migrate};
use crate::store::sql::{from_sql, to_sql};
use crate::store::{CheckpointStore, Work};

/// Tables of projections, and their checkpoints. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct PostgresReadModel {
    pool: PgPool,
    read: Statement,
    take: Statement,
    set: Statement,
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
        let (read, take, set) = (schema.statement(READ), schema.statement(TAKE), schema.statement(SET));
        Ok(Self { pool, read, take, set })
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
        let position: Option<i64> = sqlx::query_scalar(self.read.sql())
            .bind(projection.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(|error| classify(error, "read a checkpoint"))?;
        from_sql(position.unwrap_or(0), "position").map(Position::new)
    }

    async fn advance(
        &self,
        projection: &ProjectionName,
        from: Position,
        to: Position,
        work: Work<PgConnection>,
    ) -> Result<()> {
        let failed = |error| classify(error, "commit a batch");
        let mut connection = self.pool.acquire().await.map_err(failed)?;
        let mut tx = connection.begin().await.map_err(failed)?;
        // First of all: whoever holds the row is the only one to change the model until its commit.
        let actual: i64 =
            sqlx::query_scalar(self.take.sql()).bind(projection.as_str()).fetch_one(&mut *tx).await.map_err(failed)?;
        let actual = Position::new(from_sql(actual, "position")?);
        if actual != from {
            return Err(Error::new(ErrorKind::CheckpointMoved {
                projection: projection.clone(),
                expected: from,
                actual,
            }));
        }
        work(&mut tx).await?;
        sqlx::query(self.set.sql())
            .bind(projection.as_str())
            .bind(to_sql(to.get()))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)
    }
}

const READ: &str = "SELECT position FROM {schema}.checkpoints WHERE projection = $1";

/// Makes the row if it is not there, and locks it.
const TAKE: &str = "
    INSERT INTO {schema}.checkpoints AS c (projection, position) VALUES ($1, 0)
    ON CONFLICT (projection) DO UPDATE SET position = c.position RETURNING position";

const SET: &str = "UPDATE {schema}.checkpoints SET position = $2 WHERE projection = $1";
