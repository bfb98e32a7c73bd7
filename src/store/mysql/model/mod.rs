//! Read models in a MySQL or MariaDB database, which may be another than the log's.

pub(crate) mod deadlines;
pub(crate) mod inbox;
pub(crate) mod progress;
pub(crate) mod views;

use async_trait::async_trait;
use chrono::Utc;
use sqlx::mysql::{MySqlArguments, MySqlRow};
use sqlx::query::Query;
use sqlx::{MySql, MySqlConnection, MySqlPool, Row};

use crate::error::Result;
use crate::id::{Position, ProjectionName, StreamId};
use crate::store::model::checkpoint::{CheckpointStore, Work};
use crate::store::model::parking::{ParkedColumns, Parking, ParkingChange, Step};
use crate::store::model::progress::in_aggregate_order;
use crate::store::mysql::connection::{Connections, begin, classify, classify_work, text, time_to_sql};
use crate::store::mysql::migrate;
use crate::store::server::convert::{from_sql, to_sql};

/// Tables of projections, and their checkpoints. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct MySqlReadModel {
    pub(crate) connections: Connections,
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

    async fn parking(&self, projection: &ProjectionName) -> Result<Parking> {
        let failed = |error| classify(error, "read what is parked");
        // First of all: if the rows change after it was read, so does the count.
        let changes: Option<(i64,)> = self
            .connections
            .optional(sqlx::query_as(CHANGES).bind(projection.as_str().as_bytes()))
            .await
            .map_err(failed)?;
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let rows = sqlx::query(PARKED).bind(projection.as_str().as_bytes()).fetch_all(&mut *lease).await;
        let rows = lease.end(rows).map_err(failed)?;
        let changes = from_sql(changes.map_or(0, |(changes,)| changes), "count")?;
        let columns = rows.iter().map(|row| columns(row).map_err(failed)?.parse());
        Ok(Parking { changes, parked: columns.collect::<Result<_>>()? })
    }

    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool> {
        let failed = |error| classify(error, "retry a parked aggregate");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let retried = sqlx::query(RETRY)
            .bind(time_to_sql(Utc::now()))
            .bind(projection.as_str().as_bytes())
            .bind(stream.aggregate_type().as_str().as_bytes())
            .bind(stream.aggregate_id().as_str().as_bytes())
            .execute(&mut *lease)
            .await;
        Ok(lease.end(retried).map_err(failed)?.rows_affected() == 1)
    }

    async fn advance(&self, step: Step, work: Work<MySqlConnection>) -> Result<()> {
        let failed = |error| classify(error, "commit a batch");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let mut tx = begin(&mut lease).await.map_err(failed)?;
        // First of all: whoever holds the row is the only one to change the model until its commit.
        let (actual, changes, per_aggregate) = take(&mut tx, &step.projection).await.map_err(failed)?;
        let actual = Position::new(from_sql(actual, "position")?);
        if per_aggregate {
            let rolled_back = tx.rollback().await;
            lease.end(rolled_back).map_err(failed)?;
            return Err(in_aggregate_order(&step.projection));
        }
        if (actual, from_sql(changes, "count")?) != (step.from, step.changes) {
            let rolled_back = tx.rollback().await;
            lease.end(rolled_back).map_err(failed)?;
            return Err(step.moved(actual));
        }
        // Work that fails may have left a query half-way: the connection is closed then, and with it ends the transaction.
        work(&mut tx).await.map_err(classify_work)?;
        let found = set(&step).execute(&mut *tx).await.map_err(failed)?.rows_affected();
        if found == 0 {
            // The work made a table, which let go of the row.
            let (actual, ..) = take(&mut tx, &step.projection).await.map_err(failed)?;
            return Err(step.moved(Position::new(from_sql(actual, "position")?)));
        }
        // After the checkpoint, so that they are not written where it has moved.
        for change in &step.parking {
            park(&step.projection, change).execute(&mut *tx).await.map_err(failed)?;
        }
        let committed = tx.commit().await;
        lease.end(committed).map_err(failed)
    }

    async fn close(&self) -> Result<()> {
        self.connections.close().await;
        Ok(())
    }
}

/// Locks the projection's row, and makes it if it is not there. Returns the position, the count of the parking's changes, and whether
/// the projection has order per aggregate.
pub(crate) async fn take(
    tx: &mut MySqlConnection,
    projection: &ProjectionName,
) -> Result<(i64, i64, bool), sqlx::Error> {
    let name = projection.as_str().as_bytes();
    if let Some(row) = sqlx::query_as(LOCK).bind(name).fetch_optional(&mut *tx).await? {
        return Ok(row);
    }
    sqlx::query(MAKE).bind(name).execute(&mut *tx).await?;
    sqlx::query_as(LOCK).bind(name).fetch_one(&mut *tx).await
}

fn set(step: &Step) -> Query<'_, MySql, MySqlArguments> {
    sqlx::query(SET)
        .bind(to_sql(step.to.get()))
        .bind(to_sql(step.changes_after()))
        .bind(step.projection.as_str().as_bytes())
        .bind(to_sql(step.from.get()))
        .bind(to_sql(step.changes))
}

pub(crate) fn park<'c>(projection: &'c ProjectionName, change: &'c ParkingChange) -> Query<'c, MySql, MySqlArguments> {
    let statement = match change {
        ParkingChange::Park(_) => PARK,
        ParkingChange::Release(_) => RELEASE,
    };
    let stream = change.stream();
    let query = sqlx::query(statement)
        .bind(projection.as_str().as_bytes())
        .bind(stream.aggregate_type().as_str().as_bytes())
        .bind(stream.aggregate_id().as_str().as_bytes());
    match change {
        ParkingChange::Park(parked) => query
            .bind(to_sql(parked.from_version.get()))
            .bind(to_sql(parked.from_position.get()))
            .bind(parked.error.as_bytes())
            .bind(i64::from(parked.attempts))
            .bind(time_to_sql(parked.next_at))
            .bind(parked.state.as_str().as_bytes()),
        ParkingChange::Release(_) => query,
    }
}

pub(crate) fn columns(row: &MySqlRow) -> Result<ParkedColumns<'_>, sqlx::Error> {
    Ok(ParkedColumns {
        aggregate_type: text(row.try_get(0)?)?,
        aggregate_id: text(row.try_get(1)?)?,
        from_version: row.try_get(2)?,
        from_position: row.try_get(3)?,
        error: text(row.try_get(4)?)?,
        attempts: row.try_get(5)?,
        next_at: row.try_get(6)?,
        state: text(row.try_get(7)?)?,
    })
}

const READ: &str = "SELECT position FROM retell_checkpoints WHERE projection = ?";

const LOCK: &str =
    "SELECT position, parking_changes, per_aggregate FROM retell_checkpoints WHERE projection = ? FOR UPDATE";

/// Locks the row for writing also where somebody else was faster: two who held it for reading would wait for each other.
const MAKE: &str = "
    INSERT INTO retell_checkpoints (projection, position) VALUES (?, 0) ON DUPLICATE KEY UPDATE position = position";

/// Binds: position and count of changes, projection, position and count before. Compares once more: work that makes a table commits on
/// its way, and others may come in between.
const SET: &str = "
    UPDATE retell_checkpoints SET position = ?, parking_changes = ? WHERE projection = ? AND position = ? AND parking_changes = ?";

const CHANGES: &str = "SELECT parking_changes FROM retell_checkpoints WHERE projection = ?";

const PARKED: &str = "
    SELECT aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state
    FROM retell_parked WHERE projection = ?
    ORDER BY from_position";

/// Binds: projection, aggregate type, aggregate id, version, position, error, attempts, next time, state.
const PARK: &str = "
    REPLACE INTO retell_parked
        (projection, aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// Binds: projection, aggregate type, aggregate id.
const RELEASE: &str = "DELETE FROM retell_parked WHERE projection = ? AND aggregate_type = ? AND aggregate_id = ?";

/// Binds: now, projection, aggregate type, aggregate id.
const RETRY: &str = "
    UPDATE retell_parked SET state = 'waiting', attempts = 0, next_at = ?
    WHERE projection = ? AND aggregate_type = ? AND aggregate_id = ?";
