//! Where the log and the read models are kept: in SQLite files, or in one database of a server.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use retell::store::RelayStore;
use retell::{
    CheckpointStore, EventStore, MySqlReadModel, MySqlStore, PostgresReadModel, PostgresStore, SqliteReadModel,
    SqliteStore,
};
use tempfile::TempDir;

use crate::read_models::ReadModels;
use crate::run::Failure;

/// A database of a server.
#[derive(Debug, Clone)]
pub enum Server {
    Postgres(String),
    MySql(String),
}

#[derive(Debug, thiserror::Error)]
#[error("a store is postgres://.. or mysql://..")]
pub struct UnknownStore;

impl FromStr for Server {
    type Err = UnknownStore;

    fn from_str(url: &str) -> Result<Self, UnknownStore> {
        match url.split_once("://").ok_or(UnknownStore)?.0 {
            "postgres" | "postgresql" => Ok(Self::Postgres(url.to_owned())),
            "mysql" | "mariadb" => Ok(Self::MySql(url.to_owned())),
            _ => Err(UnknownStore),
        }
    }
}

/// The log and the read models, open.
pub struct Stores {
    pub name: &'static str,
    pub log: Arc<dyn EventStore>,
    /// Where the relay is: kept with the log.
    pub relays: Arc<dyn RelayStore>,
    pub models: ReadModels,
    /// Removed when all is done, where nobody asked to keep it.
    _temporary: Option<TempDir>,
}

impl Stores {
    pub async fn open(server: Option<&Server>, db: Option<&Path>) -> Result<Self, Failure> {
        match (server, db) {
            (Some(Server::Postgres(url)), _) => Self::postgres(url).await,
            (Some(Server::MySql(url)), _) => Self::mysql(url).await,
            (None, Some(path)) => Self::sqlite(path, None).await,
            (None, None) => {
                let folder = tempfile::tempdir().map_err(|error| Failure::of("make a temporary folder", error))?;
                Self::sqlite(&folder.path().join("shop.db"), Some(folder)).await
            }
        }
    }

    /// The read models lie in a second file beside the log.
    async fn sqlite(path: &Path, temporary: Option<TempDir>) -> Result<Self, Failure> {
        let models = beside(path);
        let log = SqliteStore::open(path).await.map_err(|e| Failure::of(format!("open {}", path.display()), e))?;
        let models =
            SqliteReadModel::open(&models).await.map_err(|e| Failure::of(format!("open {}", models.display()), e))?;
        Ok(Self { _temporary: temporary, ..Self::of("sqlite", log, ReadModels::Sqlite(models)) })
    }

    async fn postgres(url: &str) -> Result<Self, Failure> {
        let failed = |error| Failure::of("open the store in PostgreSQL", error);
        let log = PostgresStore::connect(url).await.map_err(failed)?;
        let models = ReadModels::Postgres(PostgresReadModel::connect(url).await.map_err(failed)?);
        Ok(Self::of("postgres", log, models))
    }

    async fn mysql(url: &str) -> Result<Self, Failure> {
        let failed = |error| Failure::of("open the store in MySQL", error);
        let log = MySqlStore::connect(url).await.map_err(failed)?;
        let models = ReadModels::MySql(MySqlReadModel::connect(url).await.map_err(failed)?);
        Ok(Self::of("mysql", log, models))
    }

    fn of(name: &'static str, log: impl EventStore + RelayStore, models: ReadModels) -> Self {
        let log = Arc::new(log);
        Self { name, log: log.clone(), relays: log, models, _temporary: None }
    }

    pub async fn close(&self) -> Result<(), Failure> {
        let log = self.log.close().await;
        let models = self.models.close().await;
        log.and(models).map_err(|error| Failure::of("close the database", error))
    }
}

/// `shop.db` becomes `shop.db.models`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".models");
    PathBuf::from(name)
}
