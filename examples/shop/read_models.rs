//! The read models, in any of the databases.

use retell::store::{DeadlineStore, ReadModel};
use retell::{BoxError, SqliteReadModel, ViewStore, async_trait};

use crate::database::{self, Database, Row, Select};

/// Access to all data that is derived from the log. Consumers write through a [`Database`], so each consumer is written only once.
#[async_trait]
pub trait ReadModels: ReadModel<Tx: Database + Sized> + DeadlineStore + ViewStore + Clone {
    /// Reads rows outside the consumers' transactions.
    async fn select(&self, select: &'static Select, binds: Row) -> Result<Vec<Row>, BoxError>;
}

#[async_trait]
impl ReadModels for SqliteReadModel {
    async fn select(&self, select: &'static Select, binds: Row) -> Result<Vec<Row>, BoxError> {
        Ok(self.query(move |db| database::sqlite::select(db, select, binds)).await?)
    }
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
macro_rules! server_read_models {
    ($models:ty) => {
        #[async_trait]
        impl ReadModels for $models {
            async fn select(&self, select: &'static Select, binds: Row) -> Result<Vec<Row>, BoxError> {
                self.pool().acquire().await?.select(select, binds).await
            }
        }
    };
}

#[cfg(feature = "postgres")]
server_read_models!(retell::PostgresReadModel);
#[cfg(feature = "mysql")]
server_read_models!(retell::MySqlReadModel);
