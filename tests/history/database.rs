//! The databases under test, and how their rules are broken on purpose.

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

/// Where a log is: what a child process needs to know to open it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Database {
    Sqlite(PathBuf),
    Postgres(Postgres),
    MySql(MySql),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Postgres {
    pub(crate) url: String,
    pub(crate) schema: String,
    /// The default of the sessions.
    pub(crate) isolation: String,
}

impl Database {
    /// A new log on the server at `POSTGRES_URL`.
    pub(crate) fn postgres() -> Postgres {
        let url = env::var("POSTGRES_URL").expect("POSTGRES_URL names a PostgreSQL server: tests/run.sh starts one");
        Postgres::new(url)
    }

    pub(crate) async fn open(&self) -> Result<Arc<dyn EventStore>> {
        Ok(match self {
            Self::Sqlite(path) => Arc::new(SqliteStore::open(path).await?),
            Self::Postgres(postgres) => Arc::new(postgres.open().await?),
            Self::MySql(mysql) => Arc::new(mysql.open().await?),
        })
    }

    /// How many stores each writing process opens: each has one commit under way at a time.
    pub(crate) fn stores(&self) -> usize {
        match self {
            Self::Sqlite(_) => 1,
            Self::Postgres(_) | Self::MySql(_) => 4,
        }
    }

    /// What there must be before it is opened for the first time.
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
            Self::Sqlite(_) => panic!("{fault:?} has no place here"),
            Self::Postgres(postgres) => postgres.plant(fault).await,
            Self::MySql(mysql) => mysql.plant(fault).await,
        }
    }
}

impl Postgres {
    pub(crate) fn new(url: String) -> Self {
        static SCHEMAS: AtomicU32 = AtomicU32::new(0);
        let schema = format!("h{}_{}", std::process::id(), SCHEMAS.fetch_add(1, Ordering::SeqCst));
        Self { url, schema, isolation: "read committed".to_owned() }
    }

    pub(crate) fn connect_options(&self) -> PgConnectOptions {
        PgConnectOptions::from_str(&self.url).unwrap().options([("default_transaction_isolation", &self.isolation)])
    }

    pub(crate) async fn open(&self) -> Result<PostgresStore> {
        let pool = PgPoolOptions::new().max_connections(3).test_before_acquire(false);
        let options = PostgresOptions::new().with_schema(self.schema.clone());
        PostgresStore::open(pool.connect_lazy_with(self.connect_options()), &options).await
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect_with(&self.connect_options()).await.unwrap()
    }

    /// How many events have a position.
    pub(crate) async fn positions(&self) -> i64 {
        let sql = format!("SELECT coalesce(sum(events), 0) FROM {}.log", self.schema);
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.connect().await).await.unwrap()
    }

    pub(crate) async fn drop_schema(&self) {
        run(&mut self.connect().await, &format!("DROP SCHEMA {} CASCADE", self.schema)).await;
    }

    /// Breaks one rule of the protocol, and makes the moment longer in which that matters.
    pub(crate) async fn plant(&self, fault: Fault) {
        let db = &mut self.connect().await;
        match fault {
            Fault::NumberBeforeCheck => {
                let lane = format!("held_lane := {}.take_lane(lane_hint, callers);", self.schema);
                let number = format!("nextval('{}.commit_number')", self.schema);
                let early = format!("{lane} early := {number}; PERFORM pg_sleep(0.003 * random());");
                let declared = ("held_lane integer;", "held_lane integer; early bigint;");
                self.change(db, "append", &[(&number, "early"), (&lane, &early), declared]).await;
                let declared = ("found_version bigint;", "found_version bigint; early bigint;");
                let drawn = format!("SELECT {number}");
                let early = format!("early := {number}; PERFORM pg_sleep(0.003 * random()); SELECT early");
                self.change(db, "append_one", &[(&drawn, &early), declared]).await;
            }
            Fault::LaneReleasedBeforeCommit => {
                let taken = "pg_try_advisory_xact_lock(log_key, lane)";
                let released = "pg_try_advisory_lock(log_key, lane) AND pg_advisory_unlock(log_key, lane)";
                // Few lanes, so that two appends meet in one.
                let few = ("(hint + step) % 32", "(hint + step) % 2");
                self.change(db, "take_lane", &[(taken, released), few]).await;
                for (function, written) in [
                    ("append", "VALUES (held_lane, commit_number, total, at);"),
                    ("append_one", "VALUES (held_lane, commit_number, 1, at);"),
                ] {
                    let slow = format!("{written} PERFORM pg_sleep(0.003 * random());");
                    self.change(db, function, &[(written, &slow)]).await;
                }
                // By the way that has the fault.
                self.change(db, "append_one", &[("NOT pg_try_advisory_xact_lock(log_key, held_lane)", "true")]).await;
            }
            Fault::TwoSequencers => {
                let constraints = "DROP CONSTRAINT log_pkey, DROP CONSTRAINT log_commit_id_key";
                run(db, &format!("ALTER TABLE {}.log {constraints}", self.schema)).await;
                let unlocked = ("NOT pg_try_advisory_xact_lock(log_key, 64)", "false");
                let slow = ("RETURN head;", "PERFORM pg_sleep(0.003); RETURN head;");
                self.change(db, "sequence_commits", &[unlocked, slow]).await;
            }
            Fault::LateLock => {
                let lock = "IF NOT pg_try_advisory_xact_lock(log_key, 64)";
                self.change(db, "sequence_commits", &[(lock, &format!("PERFORM pg_sleep(0.003 * random()); {lock}"))])
                    .await;
            }
            Fault::CachedNumbers => run(db, &format!("ALTER SEQUENCE {}.commit_number CACHE 50", self.schema)).await,
        }
    }

    /// Replaces parts of a function's text. Each must be there.
    async fn change(&self, db: &mut PgConnection, function: &str, changes: &[(&str, &str)]) {
        let definition =
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = $1 AND pronamespace = $2::regnamespace";
        let text: String =
            sqlx::query_scalar(definition).bind(function).bind(&self.schema).fetch_one(&mut *db).await.unwrap();
        let broken = changes.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "{from:?} is not in {text}");
            text.replace(from, to)
        });
        run(db, &broken).await;
    }
}

async fn run(db: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(db).await.unwrap();
}

/// A rule of the protocol that is broken.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    NumberBeforeCheck,
    LaneReleasedBeforeCommit,
    TwoSequencers,
    CachedNumbers,
    /// Not a fault, where the snapshot is older than the lock anyway: the unique constraint steps in.
    LateLock,
}
