//! Opens the log and the read models: in SQLite files, or in one database of a server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use retell::store::RelayStore;
use retell::{EventStore, SqliteReadModel, SqliteStore};
use tempfile::TempDir;

use crate::read_models::ReadModels;
use crate::run::Failure;

/// The open log and read models.
pub struct Stores<M> {
    pub name: &'static str,
    pub log: Arc<dyn EventStore>,
    /// Progress of the relay, which is stored with the log.
    pub relays: Arc<dyn RelayStore>,
    pub models: M,
    /// The temporary folder, removed at the end; `None` if the user named a file.
    _temporary: Option<TempDir>,
}

impl Stores<SqliteReadModel> {
    /// Opens the SQLite file at `path`, or a temporary one. The read models are in a second file next to the log.
    pub async fn sqlite(path: Option<&Path>) -> Result<Self, Failure> {
        let temporary = if path.is_some() { None } else { Some(tempfile::tempdir()) };
        let temporary = temporary.transpose().map_err(|error| Failure::of("make a temporary folder", error))?;
        let in_folder = temporary.as_ref().map(|folder| folder.path().join("shop.db"));
        let path = path.map(Path::to_owned).or(in_folder).unwrap_or_default();
        let models_path = models_path(&path);
        let log = SqliteStore::open(&path).await.map_err(|e| Failure::of(format!("open {}", path.display()), e))?;
        let models = SqliteReadModel::open(&models_path)
            .await
            .map_err(|e| Failure::of(format!("open {}", models_path.display()), e))?;
        Ok(Self { _temporary: temporary, ..Self::of("sqlite", log, models) })
    }
}

#[cfg(feature = "postgres")]
impl Stores<retell::PostgresReadModel> {
    pub async fn postgres(url: &str) -> Result<Self, Failure> {
        let failed = |error| Failure::of("open the store in PostgreSQL", error);
        let log = retell::PostgresStore::connect(url).await.map_err(failed)?;
        Ok(Self::of("postgres", log, retell::PostgresReadModel::connect(url).await.map_err(failed)?))
    }
}

#[cfg(feature = "mysql")]
impl Stores<retell::MySqlReadModel> {
    pub async fn mysql(url: &str) -> Result<Self, Failure> {
        let failed = |error| Failure::of("open the store in MySQL", error);
        let log = retell::MySqlStore::connect(url).await.map_err(failed)?;
        Ok(Self::of("mysql", log, retell::MySqlReadModel::connect(url).await.map_err(failed)?))
    }
}

impl<M: ReadModels> Stores<M> {
    fn of(name: &'static str, log: impl EventStore + RelayStore, models: M) -> Self {
        let log = Arc::new(log);
        Self { name, log: log.clone(), relays: log, models, _temporary: None }
    }

    pub async fn close(&self) -> Result<(), Failure> {
        let log = self.log.close().await;
        let models = self.models.close().await;
        log.and(models).map_err(|error| Failure::of("close the database", error))
    }
}

/// Converts `shop.db` to `shop.db.models`.
fn models_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".models");
    PathBuf::from(name)
}
