//! The read model: its connections, its checkpoints, and the batches that move them.

use std::collections::HashMap;

use async_trait::async_trait;
use chrono::Utc;
use sqlx::{MySqlConnection, MySqlPool};

use crate::error::Result;
use crate::id::mark::Mark;
use crate::id::{EventId, ProjectionName, StreamId, Version};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::parking::{Parking, Step};
use crate::store::model::progress::Turn;
use crate::store::model::read_model::{ReadModel, Work};
use crate::store::mysql::connection::{Connections, begin};
use crate::store::mysql::convert::time_to_sql;
use crate::store::mysql::error::{classify, classify_work};
use crate::store::mysql::model::checkpoint::{
    CHANGES, FORGET_PARKED, FORGET_PROGRESS, READ, RESET, RESET_START, STATE, advance, lock_checkpoint,
};
use crate::store::mysql::model::parking::{PARKED, RETRY, columns, park};
use crate::store::mysql::{connection, migrate};
use crate::store::server::convert::{MarkRow, from_sql, id_to_sql, mark_from_sql, to_sql};

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
        Self::open(connection::pool(url).await?).await
    }

    /// Opens read models over the caller's pool. The server may have any durability, because a lost batch is applied again.
    ///
    /// # Errors
    /// [`ErrorKind::NewerStore`](crate::ErrorKind::NewerStore) if a newer release has changed the schema, otherwise a
    /// [write error](crate::Error#write-errors).
    pub async fn open(pool: MySqlPool) -> Result<Self> {
        let connections = Connections::of(pool);
        migrate::apply(&connections).await?;
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
        let found: Option<MarkRow> = self
            .connections
            .optional(sqlx::query_as(READ).bind(projection.as_str().as_bytes()))
            .await
            .map_err(|error| classify(error, "read a checkpoint"))?;
        found.map_or(Ok(Mark::START), mark_from_sql)
    }

    async fn state(&self, projection: &ProjectionName) -> Result<ProjectionState> {
        let state: Option<(String,)> = self
            .connections
            .optional(sqlx::query_as(STATE).bind(projection.as_str().as_bytes()))
            .await
            .map_err(|error| classify(error, "read a projection's state"))?;
        state.map_or(Ok(ProjectionState::Running), |(state,)| ProjectionState::parse(&state))
    }

    async fn parking(&self, projection: &ProjectionName) -> Result<Parking> {
        let failed = |error| classify(error, "read parked aggregates");
        // The count is read before the rows: if a row changes later, the count differs at the commit.
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

    async fn commit(&self, step: Step, work: Work<MySqlConnection>) -> Result<()> {
        let failed = |error| classify(error, "commit a batch");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let mut tx = begin(&mut lease).await.map_err(failed)?;
        // The row is locked before the work: until the commit, only the worker that holds it changes the model.
        if let Err(refused) = lock_checkpoint(&mut tx, &step.projection).await?.check(&step) {
            let rolled_back = tx.rollback().await;
            lease.end(rolled_back).map_err(failed)?;
            return Err(refused);
        }
        // Work that fails may have dropped a query half-way. The connection is then closed, which ends the transaction.
        work(&mut tx).await.map_err(classify_work)?;
        let found = advance(&step).execute(&mut *tx).await.map_err(failed)?.rows_affected();
        if found == 0 {
            // The work created a table: the implicit commit released the row's lock, and another worker moved the checkpoint.
            return Err(step.moved(lock_checkpoint(&mut tx, &step.projection).await?.mark.position));
        }
        // Written after the checkpoint, so that nothing is written if the checkpoint has moved.
        for change in &step.parking {
            park(&step.projection, change).execute(&mut *tx).await.map_err(failed)?;
        }
        let committed = tx.commit().await;
        lease.end(committed).map_err(failed)
    }

    async fn begin(&self, projection: &ProjectionName, work: Work<MySqlConnection>) -> Result<()> {
        self.begin_per_aggregate(projection, work).await
    }

    async fn seen(&self, projection: &ProjectionName, streams: &[StreamId]) -> Result<HashMap<StreamId, Version>> {
        self.seen_versions(projection, streams).await
    }

    async fn turn(
        &self,
        projection: &ProjectionName,
        streams: Vec<StreamId>,
        turn: Turn<MySqlConnection>,
    ) -> Result<()> {
        self.run_turn(projection, streams, turn).await
    }

    async fn sweep(&self, projection: &ProjectionName, from: Mark, to: Mark) -> Result<Mark> {
        self.sweep_to(projection, from, to).await
    }

    async fn reset(&self, projection: &ProjectionName, to: Mark, work: Work<MySqlConnection>) -> Result<()> {
        let failed = |error| classify(error, "reset a projection");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let mut tx = begin(&mut lease).await.map_err(failed)?;
        let reset = match lock_checkpoint(&mut tx, projection).await?.reset(projection, to) {
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
        let set = sqlx::query(RESET).bind(position).bind(id).bind(to_sql(reset.parking_changes)).bind(name);
        set.execute(&mut *tx).await.map_err(failed)?;
        if to != Mark::START {
            sqlx::query(RESET_START).bind(position).bind(id).bind(name).execute(&mut *tx).await.map_err(failed)?;
        }
        let committed = tx.commit().await;
        lease.end(committed).map_err(failed)
    }

    async fn mark_handled(&self, tx: &mut MySqlConnection, reaction: &ProjectionName, event: EventId) -> Result<bool> {
        self.record_handled(tx, reaction, event).await
    }

    async fn start_after(&self, reaction: &ProjectionName, mark: Mark) -> Result<Mark> {
        self.record_start(reaction, mark).await
    }

    async fn close(&self) -> Result<()> {
        self.connections.close().await;
        Ok(())
    }
}
