//! Read models in a MySQL or MariaDB database, which may be another than the log's.

use async_trait::async_trait;
use sqlx::{MySqlConnection, MySqlPool};

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Position, ProjectionName};
use crate::store::mysql::connection::{Connections, begin, classify};
use crate::store::mysql::migrate;
use crate::store::sql::{from_sql, to_sql};
use crate::store::{CheckpointStore, Work};

/// Tables of projections, and their checkpoints. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct MySqlReadModel {
    connections: Connections,
}

impl MySqlReadModel {
    /// Read models in the database at `url`, with default settings.
    ///
    /// # Errors
    /// As [`MySqlStore::connect`](super::MySqlStore::connect).
    pub async fn connect(url: &str) -> Result<Self> {
        Self::open(super::pool(url).await?).await
    }

    /// Read models over a pool of the caller's.
    ///
    /// # Errors
    /// As [`MySqlStore::open`](super::MySqlStore::open), whatever the server's durability: a lost batch is applied again.
    pub async fn open(pool: MySqlPool) -> Result<Self> {
        let connections = Connections::of(pool);
        migrate::apply(&connections).await?;
        Ok(Self { connections })
    }

    /// The pool, for queries. As with [`MySqlStore::pool`](super::MySqlStore::pool), let each come to its end.
    pub fn pool(&self) -> &MySqlPool {
        self.connections.pool()
    }
}

#[async_trait]
impl CheckpointStore for MySqlReadModel {
    /// The connection, inside the batch's transaction, which is read committed. Leave `BEGIN`, `COMMIT` and `ROLLBACK` to the library.
    /// Make tables in [`setup`](crate::Projection::setup) alone, and if they are not there: `CREATE`, `ALTER`, `DROP` and `TRUNCATE` commit
    /// by themselves. Savepoints are fine. A query that is dropped half-way, as by a timeout, must make the work fail: the connection is
    /// closed then.
    type Tx = MySqlConnection;

    async fn checkpoint(&self, projection: &ProjectionName) -> Result<Position> {
        let position: Option<(i64,)> = self
            .connections
            .optional(sqlx::query_as(READ).bind(projection.as_str().as_bytes()))
            .await
            .map_err(|error| classify(error, "read a checkpoint"))?;
        from_sql(position.map_or(0, |(position,)| position), "position").map(Position::new)
    }

    async fn advance(
        &self,
        projection: &ProjectionName,
        from: Position,
        to: Position,
        work: Work<MySqlConnection>,
    ) -> Result<()> {
        let failed = |error| classify(error, "commit a batch");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let mut tx = begin(&mut lease).await.map_err(failed)?;
        // First of all: whoever holds the row is the only one to change the model until its commit.
        let actual = Position::new(from_sql(take(&mut tx, projection).await.map_err(failed)?, "position")?);
        if actual != from {
            let rolled_back = tx.rollback().await;
            lease.end(rolled_back).map_err(failed)?;
            return Err(moved(projection, from, actual));
        }
        // Work that fails may have left a query half-way: the connection is closed then, and with it ends the transaction.
        work(&mut tx).await?;
        let set = sqlx::query(SET).bind(to_sql(to.get())).bind(projection.as_str().as_bytes()).bind(to_sql(from.get()));
        let found = set.execute(&mut *tx).await.map_err(failed)?.rows_affected();
        if found == 0 {
            // The work made a table, which let go of the row.
            let actual = Position::new(from_sql(take(&mut tx, projection).await.map_err(failed)?, "position")?);
            return Err(moved(projection, from, actual));
        }
        let committed = tx.commit().await;
        lease.end(committed).map_err(failed)
    }
}

fn moved(projection: &ProjectionName, expected: Position, actual: Position) -> Error {
    Error::new(ErrorKind::CheckpointMoved { projection: projection.clone(), expected, actual })
}

/// Locks the projection's row, and makes it if it is not there.
async fn take(tx: &mut MySqlConnection, projection: &ProjectionName) -> Result<i64, sqlx::Error> {
    let name = projection.as_str().as_bytes();
    if let Some(position) = sqlx::query_scalar(LOCK).bind(name).fetch_optional(&mut *tx).await? {
        return Ok(position);
    }
    sqlx::query(MAKE).bind(name).execute(&mut *tx).await?;
    sqlx::query_scalar(LOCK).bind(name).fetch_one(&mut *tx).await
}

const READ: &str = "SELECT position FROM retell_checkpoints WHERE projection = ?";

const LOCK: &str = "SELECT position FROM retell_checkpoints WHERE projection = ? FOR UPDATE";

/// Locks the row for writing also where somebody else was faster: two who held it for reading would wait for each other.
const MAKE: &str = "
    INSERT INTO retell_checkpoints (projection, position) VALUES (?, 0) ON DUPLICATE KEY UPDATE position = position";

/// Binds: to, projection, from. Compares once more: work that makes a table commits on its way, and others may come in between.
const SET: &str = "UPDATE retell_checkpoints SET position = ? WHERE projection = ? AND position = ?";
