//! The read model: its connections, its checkpoints, and the batches that move them.

use std::collections::HashMap;

use async_trait::async_trait;
use chrono::Utc;
use sqlx::{MySqlConnection, MySqlPool};

use crate::error::Result;
use crate::id::{EventId, Position, ProjectionName, StreamId, Version};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::parking::{Parking, Step};
use crate::store::model::progress::Turn;
use crate::store::model::read_model::{ReadModel, Work};
use crate::store::mysql::connection::{Connections, begin};
use crate::store::mysql::convert::time_to_sql;
use crate::store::mysql::error::{classify, classify_work};
use crate::store::mysql::model::checkpoint::{CHANGES, READ, STATE, move_on, take};
use crate::store::mysql::model::parking::{PARKED, RETRY, columns, park};
use crate::store::mysql::{connection, migrate};
use crate::store::server::convert::from_sql;

/// Tables of projections, and their checkpoints. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct MySqlReadModel {
    pub(crate) connections: Connections,
}

impl MySqlReadModel {
    /// Opens read models in the database at `url`, with default settings.
    ///
    /// # Errors
    /// As [`MySqlStore::connect`](crate::store::mysql::MySqlStore::connect).
    pub async fn connect(url: &str) -> Result<Self> {
        Self::open(connection::pool(url).await?).await
    }

    /// Opens read models over a pool of the caller's.
    ///
    /// # Errors
    /// As [`MySqlStore::open_with`](crate::store::mysql::MySqlStore::open_with), except that any durability of the server is fine: a lost
    /// batch is applied again.
    pub async fn open(pool: MySqlPool) -> Result<Self> {
        let connections = Connections::of(pool);
        migrate::apply(&connections).await?;
        Ok(Self { connections })
    }

    /// The pool, for queries. As with [`MySqlStore::pool`](crate::store::mysql::MySqlStore::pool), let each come to its end.
    pub fn pool(&self) -> &MySqlPool {
        self.connections.pool()
    }
}

#[async_trait]
impl ReadModel for MySqlReadModel {
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

    async fn state(&self, projection: &ProjectionName) -> Result<ProjectionState> {
        let state: Option<(String,)> = self
            .connections
            .optional(sqlx::query_as(STATE).bind(projection.as_str().as_bytes()))
            .await
            .map_err(|error| classify(error, "read a projection's state"))?;
        state.map_or(Ok(ProjectionState::Running), |(state,)| ProjectionState::parse(&state))
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

    async fn commit(&self, step: Step, work: Work<MySqlConnection>) -> Result<()> {
        let failed = |error| classify(error, "commit a batch");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let mut tx = begin(&mut lease).await.map_err(failed)?;
        // First of all: whoever holds the row is the only one to change the model until its commit.
        if let Err(refused) = take(&mut tx, &step.projection).await?.check(&step) {
            let rolled_back = tx.rollback().await;
            lease.end(rolled_back).map_err(failed)?;
            return Err(refused);
        }
        // Work that fails may have left a query half-way: the connection is closed then, and with it ends the transaction.
        work(&mut tx).await.map_err(classify_work)?;
        let found = move_on(&step).execute(&mut *tx).await.map_err(failed)?.rows_affected();
        if found == 0 {
            // The work made a table, which let go of the row.
            return Err(step.moved(take(&mut tx, &step.projection).await?.position));
        }
        // After the checkpoint, so that they are not written where it has moved.
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

    async fn sweep(&self, projection: &ProjectionName, to: Position) -> Result<Position> {
        self.sweep_to(projection, to).await
    }

    async fn mark_handled(&self, tx: &mut MySqlConnection, reaction: &ProjectionName, event: EventId) -> Result<bool> {
        self.record_handled(tx, reaction, event).await
    }

    async fn start_after(&self, reaction: &ProjectionName, position: Position) -> Result<Position> {
        self.record_start(reaction, position).await
    }

    async fn close(&self) -> Result<()> {
        self.connections.close().await;
        Ok(())
    }
}
