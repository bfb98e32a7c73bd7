//! Creates an empty database for a test, of each kind, and drops it when the test ends. Needs `POSTGRES_URL` and
//! `MYSQL_URL`.

#![allow(dead_code, reason = "each test file uses its own part")]

#[path = "mysql_sessions.rs"]
pub(crate) mod mysql_sessions;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, thread};

use retell::error::Result;
use retell::store::mysql::MySqlStore;
use retell::store::postgres::PostgresStore;
use retell::store::sqlite::SqliteStore;
use retell::store::{EventStore, RelayStore};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The location of a log: everything that another process needs to open it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Place {
    Sqlite(PathBuf),
    Postgres(String),
    MySql(String),
}

/// A log in any database, behind its ports.
pub(crate) struct Store {
    pub(crate) events: Arc<dyn EventStore>,
    pub(crate) relays: Arc<dyn RelayStore>,
}

impl Store {
    fn of(store: impl EventStore + RelayStore) -> Self {
        let store = Arc::new(store);
        Self { events: store.clone(), relays: store }
    }
}

impl Place {
    pub(crate) async fn open(&self) -> Result<Store> {
        Ok(match self {
            Self::Sqlite(path) => Store::of(SqliteStore::open(path).await?),
            Self::Postgres(url) => Store::of(PostgresStore::connect(url).await?),
            Self::MySql(url) => Store::of(MySqlStore::connect(url).await?),
        })
    }

    /// Runs statements directly, without the library.
    pub(crate) async fn run(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Sqlite(path) => rusqlite::Connection::open(path).unwrap().execute_batch(&sql.0).unwrap(),
            Self::Postgres(url) => {
                let mut db = PgConnection::connect(url).await.unwrap();
                sqlx::raw_sql(sql).execute(&mut db).await.map(drop).unwrap();
                db.close().await.unwrap();
            }
            Self::MySql(url) => {
                let mut db = MySqlConnection::connect(url).await.unwrap();
                sqlx::raw_sql(sql).execute(&mut db).await.map(drop).unwrap();
                db.close().await.unwrap();
            }
        }
    }

    /// Runs statements that the database may refuse. Returns its message.
    pub(crate) async fn try_run(&self, sql: &str) -> std::result::Result<(), String> {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Sqlite(path) => {
                rusqlite::Connection::open(path).unwrap().execute_batch(&sql.0).map_err(|error| error.to_string())
            }
            Self::Postgres(url) => {
                let mut db = PgConnection::connect(url).await.unwrap();
                sqlx::raw_sql(sql).execute(&mut db).await.map(drop).map_err(|error| error.to_string())
            }
            Self::MySql(url) => {
                let mut db = MySqlConnection::connect(url).await.unwrap();
                sqlx::raw_sql(sql).execute(&mut db).await.map(drop).map_err(|error| error.to_string())
            }
        }
    }

    /// Ends all other sessions of a database on a server.
    pub(crate) async fn end_sessions(&self) {
        let Self::MySql(url) = self else {
            return self
                .run(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE datname = current_database() AND pid <> pg_backend_pid()",
                )
                .await;
        };
        let mut db = MySqlConnection::connect(url).await.unwrap();
        mysql_sessions::end(&mut db, url.rsplit_once('/').unwrap().1).await;
        db.close().await.unwrap();
    }
}

/// A database that is dropped with this value.
pub(crate) struct Database {
    pub(crate) place: Place,
    server: Option<Place>,
    name: String,
    _folder: Option<TempDir>,
}

impl Database {
    pub(crate) fn sqlite() -> Self {
        let folder = TempDir::new().unwrap();
        let place = Place::Sqlite(folder.path().join("log.db"));
        Self { place, server: None, name: String::new(), _folder: Some(folder) }
    }

    pub(crate) async fn postgres() -> Self {
        Self::on(Place::Postgres(url("POSTGRES_URL"))).await
    }

    pub(crate) async fn mysql() -> Self {
        Self::on(Place::MySql(url("MYSQL_URL"))).await
    }

    async fn on(server: Place) -> Self {
        static DATABASES: AtomicU32 = AtomicU32::new(0);
        let name = format!("d{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::SeqCst));
        server.run(&format!("CREATE DATABASE {name}")).await;
        let named = |url: &str| format!("{}/{name}", url.rsplit_once('/').unwrap().0);
        let place = match &server {
            Place::Postgres(url) => Place::Postgres(named(url)),
            Place::MySql(url) => Place::MySql(named(url)),
            Place::Sqlite(_) => unreachable!("a file has no server"),
        };
        Self { place, server: Some(server), name, _folder: None }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some(server) = self.server.take() else { return };
        let name = std::mem::take(&mut self.name);
        let dropped = async move {
            // Connections that a failed test left open must not keep the database.
            let force = if let Place::MySql(url) = &server {
                let mut db = MySqlConnection::connect(url).await.unwrap();
                mysql_sessions::end(&mut db, &name).await;
                ""
            } else {
                " WITH (FORCE)"
            };
            server.run(&format!("DROP DATABASE {name}{force}")).await;
        };
        // The test's own runtime is shutting down.
        let dropped = thread::spawn(move || Runtime::new().unwrap().block_on(dropped)).join();
        if dropped.is_err() {
            // The test has passed or failed before. The server is temporary, so the database disappears with it.
            eprintln!("the test's database was not dropped");
        }
    }
}

fn url(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: tests/run.sh starts a database server"))
}
