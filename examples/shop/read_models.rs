//! The read models that lie in a database, whichever it is.

use retell::store::{DeadlineStore, ReadModel};
use retell::{BoxError, SqliteReadModel, ViewStore, async_trait};

use crate::database::{self, Database, Row, Select};

/// Where everything is kept that follows from the log. Consumers write through a [`Database`], so that each is written once.
#[async_trait]
pub trait ReadModels: ReadModel<Tx: Database + Sized> + DeadlineStore + ViewStore + Clone {
    /// Reads rows, beside the consumers' writes.
    async fn select(&self, select: &'static Select, binds: Row) -> Result<Vec<Row>, BoxError>;
}

#[async_trait]
impl ReadModels for SqliteReadModel {
    async fn select(&self, select: &'static Select, binds: Row) -> Result<Vec<Row>, BoxError> {
        Ok(self.query(move |db| database::sqlite::select(db, select, binds)).await?)
    }
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
macro_rules! of_a_server {
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
of_a_server!(retell::PostgresReadModel);
#[cfg(feature = "mysql")]
of_a_server!(retell::MySqlReadModel);
