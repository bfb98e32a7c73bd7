//! Creates a database for each test on the server at `MYSQL_URL`.

#[path = "mysql_sessions.rs"]
pub(crate) mod mysql_sessions;

use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use retell::store::mysql::MySqlStore;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, MySqlConnection, MySqlPool};

static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A database that is dropped with this value.
pub(crate) struct Database {
    server: MySqlConnectOptions,
    name: String,
}

impl Database {
    pub(crate) async fn create() -> Self {
        let url =
            std::env::var("MYSQL_URL").expect("MYSQL_URL is not set: tests/run.sh starts a MySQL or MariaDB server");
        let server = MySqlConnectOptions::from_str(&url).unwrap();
        let name = format!("t{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::SeqCst));
        let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::raw_sql(create).execute(&mut server.connect().await.unwrap()).await.unwrap();
        Self { server, name }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn options(&self) -> MySqlConnectOptions {
        self.server.clone().database(&self.name)
    }

    /// Opens a connection outside of every pool.
    pub(crate) async fn connect(&self) -> MySqlConnection {
        self.options().connect().await.unwrap()
    }

    /// Returns the version, such as `10.11.6-MariaDB`.
    pub(crate) async fn version(&self) -> String {
        sqlx::query_scalar("SELECT VERSION()").fetch_one(&mut self.connect().await).await.unwrap()
    }

    /// Returns whether a transaction of this isolation level ends if an append meets rows that are newer than its snapshot.
    pub(crate) async fn ends_stale_transactions(&self, isolation: &str) -> bool {
        let version = self.version().await;
        let mut numbers = version.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
        let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        match isolation {
            "REPEATABLE READ" => !version.contains("MariaDB"),
            "SERIALIZABLE" => version.contains("MariaDB") && number >= (11, 6),
            _ => false,
        }
    }

    pub(crate) async fn pool(&self, connections: u32) -> MySqlPool {
        let pool = MySqlPoolOptions::new().max_connections(connections).test_before_acquire(false);
        pool.connect_with(self.options()).await.unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, sql) = (self.server.clone(), format!("DROP DATABASE {}", self.name));
        let name = std::mem::take(&mut self.name);
        let dropped = async move {
            let mut connection = server.connect().await.unwrap();
            // After a panic, connections of the test may hold locks, and this thread blocks the runtime that would close them.
            sqlx::raw_sql("SET SESSION lock_wait_timeout = 1").execute(&mut connection).await.unwrap();
            // A session that has just lost its client may still write to a table, and then the folder is not empty.
            let mut error = None;
            for _ in 0..100 {
                match sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut connection).await {
                    Ok(_) => return,
                    Err(refused) => error = Some(refused),
                }
                mysql_sessions::end(&mut connection, &name).await;
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            // MariaDB sometimes keeps the file `retell_audit.TRG-` of a trigger if several sessions create triggers on a slow disk, and then
            // the folder is never empty. The server is temporary, so what is left of the database disappears with it.
            eprintln!("{sql} fails: {error:?}");
        };
        // The test's own runtime is shutting down.
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        std::thread::spawn(move || runtime().block_on(dropped)).join().unwrap();
    }
}

/// Returns a pool over an empty database of the test.
pub(crate) async fn fresh() -> (MySqlPool, Database) {
    let database = Database::create().await;
    (database.pool(4).await, database)
}

pub(crate) async fn store() -> (MySqlStore, Database) {
    let (pool, database) = fresh().await;
    (MySqlStore::open(pool).await.unwrap(), database)
}
