//! Read models in a SQLite file of their own: a file has one writer, and that of the log is busy.

pub(crate) mod deadlines;
pub(crate) mod inbox;
pub(crate) mod progress;
pub(crate) mod views;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Row};
use tokio::runtime::Handle;

use crate::error::Result;
use crate::id::{Position, ProjectionName, StreamId};
use crate::store::model::checkpoint::{CheckpointStore, Work};
use crate::store::model::parking::{Parked, ParkedColumns, Parking, ParkingChange, Step};
use crate::store::model::progress::in_aggregate_order;
use crate::store::sqlite::connection::{
    Failure, Location, Pool, classify_work, corrupt, from_sql, position_from_sql, to_sql,
};
use crate::store::sqlite::{SqliteOptions, Synchronous, health, migrate};

/// Tables of projections, and their checkpoints. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct SqliteReadModel {
    pub(crate) writer: Arc<Pool>,
    pub(crate) readers: Arc<Pool>,
}

impl SqliteReadModel {
    /// Opens a file, and makes it if it is not there. Commits are [`Synchronous::Normal`]: after a power cut a projection may have to
    /// apply its last batches again, but model and checkpoint always agree.
    ///
    /// # Errors
    /// As [`SqliteStore::open`](super::SqliteStore::open).
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, SqliteOptions::new().with_synchronous(Synchronous::Normal)).await
    }

    /// Opens a file with settings of the caller's.
    ///
    /// # Errors
    /// As [`SqliteStore::open`](super::SqliteStore::open).
    pub async fn open_with(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self> {
        Self::at(Location::File(path.as_ref().to_owned()), options).await
    }

    /// Read models in memory, gone with the last handle.
    ///
    /// # Errors
    /// [`ErrorKind::Backend`](crate::ErrorKind::Backend) if SQLite refuses.
    pub async fn in_memory() -> Result<Self> {
        Self::at(Location::Memory, SqliteOptions::new()).await
    }

    async fn at(location: Location, options: SqliteOptions) -> Result<Self> {
        let (writer, readers) = Pool::open(location, options, &migrate::READ_MODEL).await?;
        Ok(Self { writer, readers })
    }

    /// Runs a query on a blocking thread, beside the projections' writes.
    ///
    /// # Errors
    /// What the query returns, sorted into this library's kinds.
    pub async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.readers.run("query a read model", move |db| Ok(query(db)?)).await
    }

    /// The projections of this file, by name, and how many positions each is behind a log's [`head`](crate::EventReader::head).
    ///
    /// # Errors
    /// What reading met.
    pub async fn behind(&self, head: Position) -> Result<Vec<(ProjectionName, u64)>> {
        self.readers.run("read the checkpoints", move |db| health::behind(db, head)).await
    }
}

#[async_trait]
impl CheckpointStore for SqliteReadModel {
    /// The connection, inside the batch's transaction. Leave `BEGIN`, `COMMIT` and `ROLLBACK` to the library.
    type Tx = Connection;

    async fn checkpoint(&self, projection: &ProjectionName) -> Result<Position> {
        let projection = projection.clone();
        self.readers.run("read a checkpoint", move |db| Ok(checkpoint(db, &projection)?.0)).await
    }

    async fn parking(&self, projection: &ProjectionName) -> Result<Parking> {
        let projection = projection.clone();
        self.readers
            .run("read what is parked", move |db| {
                // One snapshot for both.
                let tx = db.transaction()?;
                let (_, changes) = checkpoint(&tx, &projection)?;
                Ok(Parking { changes, parked: parked(&tx, &projection)? })
            })
            .await
    }

    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool> {
        let (projection, stream) = (projection.clone(), stream.clone());
        self.writer
            .run("retry a parked aggregate", move |db| {
                let (kind, id) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
                let now = Utc::now().timestamp_micros();
                Ok(db.prepare_cached(RETRY)?.execute((projection.as_str(), kind, id, now))? == 1)
            })
            .await
    }

    async fn advance(&self, step: Step, work: Work<Connection>) -> Result<()> {
        let runtime = Handle::current();
        self.writer
            .run("commit a batch", move |db| {
                let open = OpenTransaction::begin(db)?;
                let (actual, changes) = checkpoint(open.db, &step.projection)?;
                if is_per_aggregate(open.db, &step.projection)? {
                    return Err(in_aggregate_order(&step.projection).into());
                }
                if (actual, changes) != (step.from, step.changes) {
                    return Err(step.moved(actual).into());
                }
                runtime.block_on(work(open.db)).map_err(classify_work)?;
                step.parking.iter().try_for_each(|change| park(open.db, &step.projection, change))?;
                set_checkpoint(open.db, &step.projection, step.to, step.changes_after())?;
                open.commit()
            })
            .await
    }

    async fn close(&self) -> Result<()> {
        self.readers.close().await?;
        self.writer.close().await
    }
}

/// Rolls back unless it was committed; also when the work panics. (A `rusqlite::Transaction` cannot be handed to an async projection,
/// since it must not move between threads.)
pub(crate) struct OpenTransaction<'db> {
    pub(crate) db: &'db mut Connection,
}

impl<'db> OpenTransaction<'db> {
    /// Immediate: what is compared after this stays as it is until the commit.
    pub(crate) fn begin(db: &'db mut Connection) -> Result<Self, Failure> {
        db.execute_batch("BEGIN IMMEDIATE")?;
        Ok(Self { db })
    }

    pub(crate) fn commit(self) -> Result<(), Failure> {
        Ok(self.db.execute_batch("COMMIT")?)
    }
}

impl Drop for OpenTransaction<'_> {
    fn drop(&mut self) {
        if !self.db.is_autocommit() {
            // If even this fails, the next BEGIN on this connection fails and says why.
            drop(self.db.execute_batch("ROLLBACK"));
        }
    }
}

/// The position, and the count of the parking's changes.
pub(crate) fn checkpoint(db: &Connection, projection: &ProjectionName) -> Result<(Position, u64), Failure> {
    let mut statement = db.prepare_cached(CHECKPOINT)?;
    let found = statement.query_row([projection.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let (position, changes) = found.unwrap_or_default();
    Ok((position_from_sql(position)?, from_sql(changes, "count")?))
}

/// Whether the position is the swept position of a projection with order per aggregate.
pub(crate) fn is_per_aggregate(db: &Connection, projection: &ProjectionName) -> Result<bool, Failure> {
    let mut statement = db.prepare_cached(IS_PER_AGGREGATE)?;
    Ok(statement.query_row([projection.as_str()], |row| row.get(0)).optional()?.unwrap_or(false))
}

pub(crate) fn set_checkpoint(
    db: &Connection,
    projection: &ProjectionName,
    to: Position,
    changes: u64,
) -> Result<(), Failure> {
    let binds = (projection.as_str(), to_sql(to.get()), to_sql(changes));
    db.prepare_cached(SET_CHECKPOINT)?.execute(binds)?;
    Ok(())
}

pub(crate) fn parked(db: &Connection, projection: &ProjectionName) -> Result<Vec<Parked>, Failure> {
    let mut statement = db.prepare_cached(PARKED)?;
    let mut rows = statement.query([projection.as_str()])?;
    let mut parked = Vec::new();
    while let Some(row) = rows.next()? {
        parked.push(parse_parked(row)?);
    }
    Ok(parked)
}

pub(crate) fn parse_parked(row: &Row<'_>) -> Result<Parked, Failure> {
    let text = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_str()?);
    let micros: i64 = row.get(6)?;
    let next_at = DateTime::from_timestamp_micros(micros).ok_or_else(|| corrupt(format!("time {micros}")))?;
    let columns = ParkedColumns {
        aggregate_type: text(0)?,
        aggregate_id: text(1)?,
        from_version: row.get(2)?,
        from_position: row.get(3)?,
        error: text(4)?,
        attempts: row.get(5)?,
        next_at,
        state: text(7)?,
    };
    Ok(columns.parse()?)
}

pub(crate) fn park(db: &Connection, projection: &ProjectionName, change: &ParkingChange) -> Result<(), Failure> {
    let stream = change.stream();
    let (kind, id) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
    match change {
        ParkingChange::Park(parked) => db.prepare_cached(PARK)?.execute((
            projection.as_str(),
            kind,
            id,
            to_sql(parked.from_version.get()),
            to_sql(parked.from_position.get()),
            &parked.error,
            parked.attempts,
            parked.next_at.timestamp_micros(),
            parked.state.as_str(),
        ))?,
        ParkingChange::Release(_) => db.prepare_cached(RELEASE)?.execute((projection.as_str(), kind, id))?,
    };
    Ok(())
}

const CHECKPOINT: &str = "SELECT position, parking_changes FROM retell_checkpoints WHERE projection = ?1";

const IS_PER_AGGREGATE: &str = "SELECT per_aggregate FROM retell_checkpoints WHERE projection = ?1";

/// Binds: projection, position, count of changes.
const SET_CHECKPOINT: &str = "
    INSERT INTO retell_checkpoints (projection, position, parking_changes) VALUES (?1, ?2, ?3)
    ON CONFLICT (projection) DO UPDATE SET position = excluded.position, parking_changes = excluded.parking_changes";

const PARKED: &str = "
    SELECT aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state
    FROM retell_parked WHERE projection = ?1
    ORDER BY from_position";

/// Binds: projection, aggregate type, aggregate id, version, position, error, attempts, next time, state.
const PARK: &str = "
    INSERT INTO retell_parked
        (projection, aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
    ON CONFLICT (projection, aggregate_type, aggregate_id) DO UPDATE
    SET from_version = excluded.from_version, from_position = excluded.from_position, error = excluded.error,
        attempts = excluded.attempts, next_at = excluded.next_at, state = excluded.state";

const RELEASE: &str = "DELETE FROM retell_parked WHERE projection = ?1 AND aggregate_type = ?2 AND aggregate_id = ?3";

/// Binds: projection, aggregate type, aggregate id, now.
const RETRY: &str = "
    UPDATE retell_parked SET state = 'waiting', attempts = 0, next_at = ?4
    WHERE projection = ?1 AND aggregate_type = ?2 AND aggregate_id = ?3";
