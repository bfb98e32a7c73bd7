//! Read models in a SQLite file of their own: a file has one writer, and that of the log is busy.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension};
use tokio::runtime::Handle;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Position, ProjectionName};
use crate::store::sqlite::connection::{Failure, Location, Pool, position_from_sql, to_sql};
use crate::store::sqlite::{SqliteOptions, Synchronous, health, migrate};
use crate::store::{CheckpointStore, Work};

/// Tables of projections, and their checkpoints. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct SqliteReadModel {
    writer: Arc<Pool>,
    readers: Arc<Pool>,
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
    /// [`ErrorKind::Backend`] if SQLite refuses.
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

    /// Waits for the calls under way and closes the file.
    ///
    /// # Errors
    /// What closing met.
    pub async fn close(&self) -> Result<()> {
        self.readers.close().await?;
        self.writer.close().await
    }
}

#[async_trait]
impl CheckpointStore for SqliteReadModel {
    /// The connection, inside the batch's transaction. Leave `BEGIN`, `COMMIT` and `ROLLBACK` to the library.
    type Tx = Connection;

    async fn checkpoint(&self, projection: &ProjectionName) -> Result<Position> {
        let projection = projection.clone();
        self.readers.run("read a checkpoint", move |db| checkpoint(db, &projection)).await
    }

    async fn advance(
        &self,
        projection: &ProjectionName,
        from: Position,
        to: Position,
        work: Work<Connection>,
    ) -> Result<()> {
        let projection = projection.clone();
        let runtime = Handle::current();
        self.writer
            .run("commit a batch", move |db| {
                // Immediate: the checkpoint compared below stays where it is until the commit.
                db.execute_batch("BEGIN IMMEDIATE")?;
                let open = OpenTransaction { db };
                let actual = checkpoint(open.db, &projection)?;
                if actual != from {
                    return Err(Error::new(ErrorKind::CheckpointMoved { projection, expected: from, actual }).into());
                }
                runtime.block_on(work(open.db))?;
                open.db.prepare_cached(SET_CHECKPOINT)?.execute((projection.as_str(), to_sql(to.get())))?;
                open.commit()
            })
            .await
    }
}

/// Rolls back unless it was committed; also when the work panics. (A `rusqlite::Transaction` cannot be handed to an async projection,
/// since it must not move between threads.)
struct OpenTransaction<'db> {
    db: &'db mut Connection,
}

impl OpenTransaction<'_> {
    fn commit(self) -> Result<(), Failure> {
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

fn checkpoint(db: &Connection, projection: &ProjectionName) -> Result<Position, Failure> {
    let position = db.prepare_cached(CHECKPOINT)?.query_row([projection.as_str()], |row| row.get(0)).optional()?;
    position_from_sql(position.unwrap_or(0))
}

const CHECKPOINT: &str = "SELECT position FROM retell_checkpoints WHERE projection = ?1";

const SET_CHECKPOINT: &str = "
    INSERT INTO retell_checkpoints (projection, position) VALUES (?1, ?2)
    ON CONFLICT (projection) DO UPDATE SET position = excluded.position";
