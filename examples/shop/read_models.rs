//! The read models that lie in a database, whichever it is.

use retell::store::{Parking, Step, Work};
use retell::{
    BoxError, CheckpointStore, MySqlReadModel, Position, PostgresReadModel, ProjectionName, SqliteReadModel, StreamId,
    async_trait,
};

use crate::database::{self, Database, Row, Select};

#[derive(Debug, Clone)]
pub enum ReadModels {
    Sqlite(SqliteReadModel),
    Postgres(PostgresReadModel),
    MySql(MySqlReadModel),
}

/// Each hands the connection of its transaction on as a [`Database`], so that a consumer is written once.
#[async_trait]
impl CheckpointStore for ReadModels {
    type Tx = dyn Database;

    async fn checkpoint(&self, consumer: &ProjectionName) -> retell::Result<Position> {
        match self {
            Self::Sqlite(models) => models.checkpoint(consumer).await,
            Self::Postgres(models) => models.checkpoint(consumer).await,
            Self::MySql(models) => models.checkpoint(consumer).await,
        }
    }

    async fn parking(&self, consumer: &ProjectionName) -> retell::Result<Parking> {
        match self {
            Self::Sqlite(models) => models.parking(consumer).await,
            Self::Postgres(models) => models.parking(consumer).await,
            Self::MySql(models) => models.parking(consumer).await,
        }
    }

    async fn retry_parked(&self, consumer: &ProjectionName, stream: &StreamId) -> retell::Result<bool> {
        match self {
            Self::Sqlite(models) => models.retry_parked(consumer, stream).await,
            Self::Postgres(models) => models.retry_parked(consumer, stream).await,
            Self::MySql(models) => models.retry_parked(consumer, stream).await,
        }
    }

    async fn advance(&self, step: Step, work: Work<dyn Database>) -> retell::Result<()> {
        match self {
            Self::Sqlite(models) => models.advance(step, Box::new(|db| work(db))).await,
            Self::Postgres(models) => models.advance(step, Box::new(|db| work(db))).await,
            Self::MySql(models) => models.advance(step, Box::new(|db| work(db))).await,
        }
    }

    async fn close(&self) -> retell::Result<()> {
        match self {
            Self::Sqlite(models) => models.close().await,
            Self::Postgres(models) => models.close().await,
            Self::MySql(models) => models.close().await,
        }
    }
}

impl ReadModels {
    /// Reads rows, beside the consumers' writes.
    pub async fn select(&self, select: &'static Select, binds: impl Into<Row>) -> Result<Vec<Row>, BoxError> {
        let binds = binds.into();
        match self {
            Self::Sqlite(models) => Ok(models.query(move |db| database::sqlite::select(db, select, binds)).await?),
            Self::Postgres(models) => models.pool().acquire().await?.select(select, binds).await,
            Self::MySql(models) => models.pool().acquire().await?.select(select, binds).await,
        }
    }
}
