//! The databases under test, and how a test breaks their rules on purpose.

use std::env;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use retell::error::Result;
use retell::store::EventStore;
use retell::store::postgres::{PostgresOptions, PostgresStore};
use retell::store::sqlite::SqliteStore;
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::mysql::MySql;

/// The location of a log: everything that a child process needs to open it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Database {
    Sqlite(PathBuf),
    Postgres(Postgres),
    MySql(MySql),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Postgres {
    pub(crate) url: String,
    /// The servers of which one is the primary, if there is more than the one of the URL.
    pub(crate) hosts: Vec<String>,
    pub(crate) schema: String,
    /// The default transaction isolation of the sessions.
    pub(crate) isolation: String,
}

impl Database {
    /// Creates a log on the server at `POSTGRES_URL`.
    pub(crate) fn postgres() -> Postgres {
        let url = env::var("POSTGRES_URL").expect("POSTGRES_URL is not set: tests/run.sh starts a PostgreSQL server");
        Postgres::new(url)
    }

    pub(crate) async fn open(&self) -> Result<Arc<dyn EventStore>> {
        Ok(match self {
            Self::Sqlite(path) => Arc::new(SqliteStore::open(path).await?),
            Self::Postgres(postgres) => Arc::new(postgres.open().await?),
            Self::MySql(mysql) => Arc::new(mysql.open().await?),
        })
    }

    /// Returns how many stores each writing process opens. Each store has one commit in flight at a time.
    pub(crate) fn stores(&self) -> usize {
        match self {
            Self::Sqlite(_) => 1,
            Self::Postgres(_) | Self::MySql(_) => 4,
        }
    }

    /// Creates whatever must exist before the log is opened for the first time.
    pub(crate) async fn create(&self) {
        if let Self::MySql(mysql) = self {
            mysql.create().await;
        }
    }

    pub(crate) async fn remove(&self) {
        match self {
            Self::Sqlite(_) => {}
            Self::Postgres(postgres) => postgres.drop_schema().await,
            Self::MySql(mysql) => mysql.remove().await,
        }
    }

    pub(crate) async fn plant(&self, fault: Fault) {
        match self {
            Self::Sqlite(_) => panic!("{fault:?} does not apply to SQLite"),
            Self::Postgres(postgres) => postgres.plant(fault).await,
            Self::MySql(mysql) => mysql.plant(fault).await,
        }
    }
}

impl Postgres {
    pub(crate) fn new(url: String) -> Self {
        static SCHEMAS: AtomicU32 = AtomicU32::new(0);
        let schema = format!("h{}_{}", std::process::id(), SCHEMAS.fetch_add(1, Ordering::SeqCst));
        Self { url, hosts: Vec::new(), schema, isolation: "read committed".to_owned() }
    }

    pub(crate) fn connect_options(&self) -> PgConnectOptions {
        PgConnectOptions::from_str(&self.url).unwrap().options([("default_transaction_isolation", &self.isolation)])
    }

    pub(crate) async fn open(&self) -> Result<PostgresStore> {
        let pool = PgPoolOptions::new().max_connections(3).test_before_acquire(false);
        let options = PostgresOptions::new().with_schema(self.schema.clone()).with_hosts(&self.hosts);
        PostgresStore::open_with(pool.connect_lazy_with(self.connect_options()), options).await
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect_with(&self.connect_options()).await.unwrap()
    }

    /// Returns how many events have a position.
    pub(crate) async fn positions(&self) -> i64 {
        let sql = format!("SELECT coalesce(sum(events), 0) FROM {}.log", self.schema);
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.connect().await).await.unwrap()
    }

    pub(crate) async fn drop_schema(&self) {
        run(&mut self.connect().await, &format!("DROP SCHEMA {} CASCADE", self.schema)).await;
    }

    /// Breaks one rule of the protocol at the hooks in the text of the functions, and slows the step where that
    /// matters.
    pub(crate) async fn plant(&self, fault: Fault) {
        let db = &mut self.connect().await;
        let slow = "PERFORM pg_sleep(0.003 * random());";
        match fault {
            Fault::NumberBeforeCheck => {
                let drawn = format!("nextval('{}.commit_number')::text", self.schema);
                let early = format!("PERFORM set_config('retell.early', {drawn}, true); {slow}");
                let used = "commit_number := current_setting('retell.early')::bigint;";
                for function in ["append", "append_one"] {
                    self.fill_hooks(db, function, &[("before-number", &early), ("after-number", used)]).await;
                }
            }
            Fault::LaneReleasedBeforeCommit => {
                // Appends use one of two lanes without locking it, so two appends can share a lane.
                self.fill_hooks(db, "take_lane", &[("before-lane", "RETURN first_lane + hint % 2;")]).await;
                self.fill_hooks(db, "append", &[("before-end", slow)]).await;
                let shared = format!("held_lane := {}.take_lane(lane_hint, callers);", self.schema);
                self.fill_hooks(db, "append_one", &[("before-number", &shared), ("before-end", slow)]).await;
            }
            Fault::TwoSequencers => {
                let constraints = "DROP CONSTRAINT log_pkey, DROP CONSTRAINT log_commit_id_key";
                run(db, &format!("ALTER TABLE {}.log {constraints}", self.schema)).await;
                let hooks = [("sequencer-lock", "false AND"), ("before-end", "PERFORM pg_sleep(0.003);")];
                self.fill_hooks(db, "sequence_commits", &hooks).await;
            }
            Fault::LateLock => self.fill_hooks(db, "sequence_commits", &[("before-sequencer-lock", slow)]).await,
            Fault::CachedNumbers => run(db, &format!("ALTER SEQUENCE {}.commit_number CACHE 50", self.schema)).await,
        }
    }

    /// Replaces hooks of a function by statements. A hook is a comment that occurs once in the function's text.
    async fn fill_hooks(&self, db: &mut PgConnection, function: &str, hooks: &[(&str, &str)]) {
        let definition =
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = $1 AND pronamespace = $2::regnamespace";
        let text: String =
            sqlx::query_scalar(definition).bind(function).bind(&self.schema).fetch_one(&mut *db).await.unwrap();
        let broken = hooks.iter().fold(text, |text, (hook, statements)| {
            let hook = format!("/* hook: {hook} */");
            assert_eq!(text.matches(&hook).count(), 1, "{hook} is in {text}");
            text.replace(&hook, statements)
        });
        run(db, &broken).await;
    }
}

async fn run(db: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(db).await.unwrap();
}

/// A rule of the protocol to break.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    NumberBeforeCheck,
    LaneReleasedBeforeCommit,
    TwoSequencers,
    CachedNumbers,
    /// Delays the sequencer's lock. This is not a fault under repeatable read: the snapshot is older than the lock
    /// anyway, and the unique constraint resolves the race.
    LateLock,
}
