//! The two kinds of servers, each with the library's log and a plain table for the hand-written side.

use std::sync::Arc;

use futures::TryStreamExt;
use retell::store::mysql::MySqlStore;
use retell::store::postgres::{PostgresOptions, PostgresStore};
use retell::{EventStore, Position};
use sqlx::mysql::{MySqlConnectOptions, MySqlPool, MySqlPoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, PgConnection, Row};
use uuid::Uuid;

use crate::new_event;
use crate::support::by_hand::State;

/// Folds rows of event types and payloads into `$state`.
macro_rules! fold {
    ($state:expr, $rows:expr) => {{
        let mut rows = $rows;
        while let Some(row) = rows.try_next().await.unwrap() {
            $state.fold(row.get(0), row.get(1)).unwrap();
        }
    }};
}

/// A PostgreSQL schema or a MariaDB database, with the library's log and the plain table.
#[derive(Clone)]
pub(crate) enum Database {
    Postgres { pool: PgPool, url: String, name: String },
    MySql { pool: MySqlPool, url: String, name: String },
}

/// A connection whose open transaction has written.
#[expect(dead_code, reason = "held for its transaction")]
pub(crate) enum OpenTransaction {
    Postgres(PgConnection),
    MySql(MySqlConnection),
}

impl Database {
    pub(crate) async fn create(url: &str) -> Self {
        let name = format!("bench_{}", std::process::id());
        if url.starts_with("postgres") {
            let create = format!("CREATE SCHEMA {name}");
            PgConnection::connect(url).await.unwrap().execute(AssertSqlSafe(create)).await.unwrap();
        } else {
            let create = format!("CREATE DATABASE {name}");
            MySqlConnection::connect(url).await.unwrap().execute(AssertSqlSafe(create)).await.unwrap();
        }
        let database = Self::open(url, &name, 8).await;
        drop(database.store().await);
        match &database {
            Self::Postgres { pool, .. } => {
                for table in [POSTGRES_PLAIN, POSTGRES_SNAPSHOTS] {
                    pool.execute(table).await.unwrap();
                }
            }
            Self::MySql { pool, .. } => {
                for table in [MYSQL_PLAIN, MYSQL_SNAPSHOTS] {
                    pool.execute(table).await.unwrap();
                }
            }
        }
        database
    }

    pub(crate) async fn open(url: &str, name: &str, connections: u32) -> Self {
        let (url, name) = (url.to_owned(), name.to_owned());
        if url.starts_with("postgres") {
            let options = url.parse::<PgConnectOptions>().unwrap().options([("search_path", name.as_str())]);
            let pool = PgPoolOptions::new().max_connections(connections).test_before_acquire(false);
            Self::Postgres { pool: pool.connect_with(options).await.unwrap(), url, name }
        } else {
            let options = url.parse::<MySqlConnectOptions>().unwrap().database(&name);
            let pool = MySqlPoolOptions::new().max_connections(connections).test_before_acquire(false);
            Self::MySql { pool: pool.connect_with(options).await.unwrap(), url, name }
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Postgres { .. } => "PostgreSQL",
            Self::MySql { .. } => "MariaDB",
        }
    }

    pub(crate) fn arguments(&self) -> [&str; 2] {
        let (Self::Postgres { url, name, .. } | Self::MySql { url, name, .. }) = self;
        [url, name]
    }

    pub(crate) async fn store(&self) -> Arc<dyn EventStore> {
        match self {
            Self::Postgres { pool, name, .. } => {
                let options = PostgresOptions::new().with_schema(name.clone());
                Arc::new(PostgresStore::open_with(pool.clone(), options).await.unwrap())
            }
            Self::MySql { pool, .. } => Arc::new(MySqlStore::open(pool.clone()).await.unwrap()),
        }
    }

    pub(crate) async fn append_by_hand(&self, events: u64) {
        let id = Uuid::now_v7().to_string();
        match self {
            Self::Postgres { pool, .. } => {
                let mut tx = pool.begin().await.unwrap();
                for number in 0..events {
                    let event = new_event(number);
                    let insert = sqlx::query(POSTGRES_INSERT).bind(event.id.as_uuid()).bind("order").bind(&id);
                    let insert = insert.bind(number.cast_signed()).bind(event.event_type.as_str());
                    insert.bind(&event.payload[..]).execute(&mut *tx).await.unwrap();
                }
                tx.commit().await.unwrap();
            }
            Self::MySql { pool, .. } => {
                let mut tx = pool.begin().await.unwrap();
                for number in 0..events {
                    let event = new_event(number);
                    let insert = sqlx::query(MYSQL_INSERT).bind(event.id.as_uuid()).bind("order").bind(&id);
                    let insert = insert.bind(number.cast_signed()).bind(event.event_type.as_str());
                    insert.bind(&event.payload[..]).execute(&mut *tx).await.unwrap();
                }
                tx.commit().await.unwrap();
            }
        }
    }

    pub(crate) async fn open_transaction(&self) -> OpenTransaction {
        match self {
            Self::Postgres { url, .. } => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                for statement in
                    ["CREATE TEMPORARY TABLE unrelated (a int)", "BEGIN", "INSERT INTO unrelated VALUES (1)"]
                {
                    connection.execute(statement).await.unwrap();
                }
                OpenTransaction::Postgres(connection)
            }
            Self::MySql { url, name, .. } => {
                let mut connection = MySqlConnection::connect(url).await.unwrap();
                let table = format!("CREATE TABLE {name}.unrelated (a int)");
                let insert = format!("INSERT INTO {name}.unrelated VALUES (1)");
                connection.execute(AssertSqlSafe(table)).await.unwrap();
                connection.execute("BEGIN").await.unwrap();
                connection.execute(AssertSqlSafe(insert)).await.unwrap();
                OpenTransaction::MySql(connection)
            }
        }
    }

    /// Loads an order from its events after version `after`.
    pub(crate) async fn load_by_hand(&self, id: &str, after: u64) -> State {
        let mut state = State::default();
        self.fold_by_hand(&mut state, id, after).await;
        state
    }

    pub(crate) async fn fold_by_hand(&self, state: &mut State, id: &str, after: u64) {
        let after = after.cast_signed();
        match self {
            Self::Postgres { pool, .. } => fold!(state, sqlx::query(POSTGRES_LOAD).bind(id).bind(after).fetch(pool)),
            Self::MySql { pool, .. } => fold!(state, sqlx::query(MYSQL_LOAD).bind(id).bind(after).fetch(pool)),
        }
    }

    /// Streams the plain table and folds it.
    pub(crate) async fn all_by_hand(&self) -> State {
        let mut state = State::default();
        match self {
            Self::Postgres { pool, .. } => fold!(state, sqlx::query(PLAIN_ALL).fetch(pool)),
            Self::MySql { pool, .. } => fold!(state, sqlx::query(PLAIN_ALL).fetch(pool)),
        }
        state
    }

    pub(crate) async fn save_snapshot_by_hand(&self, id: &str, version: u64, state: &[u8]) {
        let version = version.cast_signed();
        match self {
            Self::Postgres { pool, .. } => {
                sqlx::query(POSTGRES_SAVE_SNAPSHOT)
                    .bind(id)
                    .bind(version)
                    .bind(state)
                    .execute(pool)
                    .await
                    .map(|_| ())
                    .unwrap();
            }
            Self::MySql { pool, .. } => {
                sqlx::query(MYSQL_SAVE_SNAPSHOT)
                    .bind(id)
                    .bind(version)
                    .bind(state)
                    .execute(pool)
                    .await
                    .map(|_| ())
                    .unwrap();
            }
        }
    }

    /// Loads the version and the state of a snapshot.
    pub(crate) async fn load_snapshot_by_hand(&self, id: &str) -> (u64, Vec<u8>) {
        let (version, state): (i64, Vec<u8>) = match self {
            Self::Postgres { pool, .. } => {
                sqlx::query_as(POSTGRES_LOAD_SNAPSHOT).bind(id).fetch_one(pool).await.unwrap()
            }
            Self::MySql { pool, .. } => sqlx::query_as(MYSQL_LOAD_SNAPSHOT).bind(id).fetch_one(pool).await.unwrap(),
        };
        (version.cast_unsigned(), state)
    }

    /// Copies an order's events after version `after`.
    pub(crate) async fn copy_to_plain(&self, id: &str, after: u64) {
        let after = after.cast_signed();
        match self {
            Self::Postgres { pool, .. } => {
                let copy = format!("{POSTGRES_COPY_EVENTS} WHERE aggregate_id = $1 AND version > $2");
                sqlx::query(AssertSqlSafe(copy)).bind(id).bind(after).execute(pool).await.unwrap();
                pool.execute("VACUUM ANALYZE").await.unwrap();
            }
            Self::MySql { pool, .. } => {
                let copy = format!("{MYSQL_COPY_EVENTS} WHERE aggregate_id = CAST(? AS BINARY) AND version > ?");
                sqlx::query(AssertSqlSafe(copy)).bind(id).bind(after).execute(pool).await.unwrap();
            }
        }
    }

    /// Replaces the plain table's rows with the events after position `after`, in log order.
    pub(crate) async fn copy_all_to_plain(&self, after: Position) {
        let after = after.get().cast_signed();
        match self {
            Self::Postgres { pool, .. } => {
                pool.execute("TRUNCATE plain").await.unwrap();
                let copy = format!(
                    "{POSTGRES_COPY_EVENTS} e JOIN log l USING (commit_id) WHERE first_position > $1
                    ORDER BY first_position, ordinal"
                );
                sqlx::query(AssertSqlSafe(copy)).bind(after).execute(pool).await.unwrap();
                pool.execute("VACUUM ANALYZE").await.unwrap();
            }
            Self::MySql { pool, .. } => {
                pool.execute("TRUNCATE plain").await.unwrap();
                let copy = format!(
                    "{MYSQL_COPY_EVENTS} e JOIN retell_log l USING (commit_id) WHERE first_position > ?
                    ORDER BY first_position, ordinal"
                );
                sqlx::query(AssertSqlSafe(copy)).bind(after).execute(pool).await.unwrap();
            }
        }
    }

    pub(crate) async fn drop(self) {
        match self {
            Self::Postgres { pool, name, .. } => {
                pool.execute(AssertSqlSafe(format!("DROP SCHEMA {name} CASCADE"))).await.map(|_| ()).unwrap();
            }
            Self::MySql { pool, name, .. } => {
                pool.execute(AssertSqlSafe(format!("DROP DATABASE {name}"))).await.map(|_| ()).unwrap();
            }
        }
    }
}

const POSTGRES_PLAIN: &str = "
    CREATE TABLE plain (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        event_id uuid NOT NULL UNIQUE,
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        version bigint NOT NULL,
        event_type text NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT now(),
        payload bytea NOT NULL,
        UNIQUE (aggregate_type, aggregate_id, version)
    )";

const MYSQL_PLAIN: &str = "
    CREATE TABLE plain (
        position BIGINT AUTO_INCREMENT PRIMARY KEY,
        event_id BINARY(16) NOT NULL UNIQUE,
        aggregate_type VARCHAR(255) NOT NULL,
        aggregate_id VARCHAR(255) NOT NULL,
        version BIGINT NOT NULL,
        event_type VARCHAR(255) NOT NULL,
        recorded_at DATETIME(6) NOT NULL DEFAULT NOW(6),
        payload LONGBLOB NOT NULL,
        UNIQUE (aggregate_type, aggregate_id, version)
    )";

const POSTGRES_INSERT: &str = "
    INSERT INTO plain (event_id, aggregate_type, aggregate_id, version, event_type, payload) VALUES ($1, $2, $3, $4, $5, $6)";

const MYSQL_INSERT: &str = "
    INSERT INTO plain (event_id, aggregate_type, aggregate_id, version, event_type, payload) VALUES (?, ?, ?, ?, ?, ?)";

pub(crate) const POSTGRES_COPY: &str =
    "COPY plain (event_id, aggregate_type, aggregate_id, version, event_type, payload) FROM STDIN";

pub(crate) const MYSQL_BULK: &str =
    "INSERT INTO plain (event_id, aggregate_type, aggregate_id, version, event_type, payload) ";

const POSTGRES_COPY_EVENTS: &str = "
    INSERT INTO plain (event_id, aggregate_type, aggregate_id, version, event_type, payload)
    SELECT event_id, aggregate_type, aggregate_id, version, event_type, payload FROM events";

const MYSQL_COPY_EVENTS: &str = "
    INSERT INTO plain (event_id, aggregate_type, aggregate_id, version, event_type, payload)
    SELECT event_id, aggregate_type, aggregate_id, version, event_type, payload FROM retell_events";

const POSTGRES_SNAPSHOTS: &str =
    "CREATE TABLE plain_snapshots (aggregate_id text PRIMARY KEY, version bigint NOT NULL, state bytea NOT NULL)";

const MYSQL_SNAPSHOTS: &str = "CREATE TABLE plain_snapshots (aggregate_id VARCHAR(255) PRIMARY KEY, version BIGINT NOT NULL, state LONGBLOB NOT NULL)";

/// Binds: aggregate id, version, state.
const POSTGRES_SAVE_SNAPSHOT: &str = "INSERT INTO plain_snapshots (aggregate_id, version, state) VALUES ($1, $2, $3)";

const MYSQL_SAVE_SNAPSHOT: &str = "INSERT INTO plain_snapshots (aggregate_id, version, state) VALUES (?, ?, ?)";

const POSTGRES_LOAD_SNAPSHOT: &str = "SELECT version, state FROM plain_snapshots WHERE aggregate_id = $1";

const MYSQL_LOAD_SNAPSHOT: &str = "SELECT version, state FROM plain_snapshots WHERE aggregate_id = ?";

/// Binds: aggregate id, after.
const POSTGRES_LOAD: &str = "
    SELECT event_type, payload FROM plain WHERE aggregate_type = 'order' AND aggregate_id = $1 AND version > $2 ORDER BY version";

const MYSQL_LOAD: &str = "
    SELECT event_type, payload FROM plain WHERE aggregate_type = 'order' AND aggregate_id = ? AND version > ? ORDER BY version";

/// All the columns that an event has.
const PLAIN_ALL: &str = "
    SELECT event_type, payload, position, event_id, aggregate_type, aggregate_id, version, recorded_at
    FROM plain ORDER BY position";
