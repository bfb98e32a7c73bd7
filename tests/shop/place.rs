//! The place of a run's log: a SQLite file, or a database on a server that is dropped at the end of the test.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use retell::rusqlite::{Connection, OpenFlags};
use retell::sqlx::mysql::MySqlConnectOptions;
use retell::sqlx::postgres::PgConnectOptions;
use retell::sqlx::{self, AssertSqlSafe, ConnectOptions};

static DATABASES: AtomicU32 = AtomicU32::new(0);

pub(crate) enum Place {
    File(PathBuf),
    /// The server, and the name of the database on it.
    Postgres(PgConnectOptions, String),
    /// The server, and the name of the database on it.
    MySql(MySqlConnectOptions, String),
}

impl Place {
    /// Creates an empty database on the server at `POSTGRES_URL`.
    pub(crate) fn postgres() -> Self {
        let server = PgConnectOptions::from_str(&url("POSTGRES_URL")).expect("POSTGRES_URL is a URL");
        let place = Self::Postgres(server, fresh_name());
        place.execute("CREATE DATABASE", "").expect("a database can be created");
        place
    }

    /// Creates an empty database on the server at `MYSQL_URL`.
    pub(crate) fn mysql() -> Self {
        let server = MySqlConnectOptions::from_str(&url("MYSQL_URL")).expect("MYSQL_URL is a URL");
        let place = Self::MySql(server, fresh_name());
        place.execute("CREATE DATABASE", "").expect("a database can be created");
        place
    }

    /// Drops the database. The server is temporary, so a failure is only reported.
    pub(crate) fn remove(&self) {
        let rest = if matches!(self, Self::Postgres(..)) { " WITH (FORCE)" } else { "" };
        if let Err(error) = self.execute("DROP DATABASE IF EXISTS", rest) {
            eprintln!("the database was not dropped: {error}");
        }
    }

    /// Returns the arguments that point the shop to the log.
    pub(crate) fn arguments(&self) -> [OsString; 2] {
        let store = |url: String| ["--store".into(), url.into()];
        match self {
            Self::File(path) => ["--db".into(), path.into()],
            Self::Postgres(server, name) => store(server.clone().database(name).to_url_lossy().into()),
            Self::MySql(server, name) => store(server.clone().database(name).to_url_lossy().into()),
        }
    }

    /// Returns the number of events, or zero if there is no log yet.
    pub(crate) fn count_events(&self) -> u64 {
        let events: Option<i64> = match self {
            Self::File(path) => Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
                .ok()
                .and_then(|db| db.query_row("SELECT count(*) FROM retell_events", [], |row| row.get(0)).ok()),
            Self::Postgres(server, name) => block_on(async {
                let mut db = server.clone().database(name).connect().await.ok()?;
                sqlx::query_scalar("SELECT count(*) FROM retell.events").fetch_one(&mut db).await.ok()
            }),
            Self::MySql(server, name) => block_on(async {
                let mut db = server.clone().database(name).connect().await.ok()?;
                sqlx::query_scalar("SELECT count(*) FROM retell_events").fetch_one(&mut db).await.ok()
            }),
        };
        events.and_then(|events| u64::try_from(events).ok()).unwrap_or(0)
    }

    /// Runs `statement`, the name of the database and `rest` as one statement on its server.
    fn execute(&self, statement: &str, rest: &str) -> sqlx::Result<()> {
        match self {
            Self::File(_) => Ok(()),
            Self::Postgres(server, name) => block_on(async {
                let sql = AssertSqlSafe(format!("{statement} {name}{rest}"));
                sqlx::raw_sql(sql).execute(&mut server.connect().await?).await.map(drop)
            }),
            Self::MySql(server, name) => block_on(async {
                let sql = AssertSqlSafe(format!("{statement} {name}{rest}"));
                sqlx::raw_sql(sql).execute(&mut server.connect().await?).await.map(drop)
            }),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.remove();
    }
}

fn url(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: tests/run.sh starts a database server"))
}

fn fresh_name() -> String {
    format!("shop{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::SeqCst))
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be made").block_on(future)
}
