//! Connections to the server, and how transactions begin.

use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{ConnectOptions, MySql, MySqlConnection, MySqlPool};

use crate::error::{Error, ErrorKind, Result};
use crate::hosts::{each_host, hosts};
use crate::store::mysql::error::classify;
use crate::store::server::connections;
use crate::store::server::limits::Limits;

/// The only connections of this driver. Nothing runs on the pool directly, so a connection in an unknown state is closed.
pub(crate) type Connections = connections::Connections<MySql>;

impl Connections {
    /// Returns a connection that never returns to the pool.
    pub(crate) async fn detached(&self) -> Result<MySqlConnection, sqlx::Error> {
        Ok(self.acquire().await?.detach())
    }

    /// Takes a session that the pool has to spare, or opens one outside of the pool: waiting for the pool while holding one of its connections
    /// could wait forever.
    pub(crate) async fn second_session(&self) -> Result<MySqlConnection, sqlx::Error> {
        match self.pool().try_acquire() {
            Some(spare) => Ok(spare.detach()),
            None => self.pool().connect_options().connect().await,
        }
    }
}

/// Opens a pool of ten connections to the database at `url`, and returns the hosts if the URL names several.
pub(crate) async fn pool(url: &str) -> Result<(MySqlPool, Vec<String>)> {
    let invalid = |error| Error::with_source(ErrorKind::Invalid("not the URL of a MySQL database".into()), error);
    let options: MySqlConnectOptions = each_host(url)[0].parse().map_err(invalid)?;
    // `Connections` asks connections that were unused for a while, and keeps the limit of a wait.
    let pool = MySqlPoolOptions::new()
        .max_connections(10)
        .test_before_acquire(false)
        .acquire_timeout(Limits::default().wait)
        .after_connect(|connection, _| Box::pin(async { sqlx::raw_sql(SETTINGS).execute(connection).await.map(drop) }));
    let hosts = hosts(url);
    if hosts.len() > 1 {
        // The first one may be down.
        return Ok((pool.connect_lazy_with(options), hosts));
    }
    let pool = pool.connect_with(options).await.map_err(|error| classify(error, "connect"))?;
    Ok((pool, Vec::new()))
}

/// Read committed, because in repeatable read a statement may be refused if a row has changed since its snapshot (MariaDB), or may keep locks
/// of rows that it did not write (MySQL). Without autocommit, a read would begin a transaction that never ends.
///
/// A process that is paused within a transaction would keep its rows locked, and so block every other worker of its projection or every
/// sequencer. MariaDB ends such a transaction after 30 seconds; it skips a comment with a version of MySQL 8. MySQL has a limit only for whole
/// sessions, and skips a comment for MariaDB.
const SETTINGS: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
    SET autocommit = 1 /*M! , SESSION idle_transaction_timeout = 30 */ /*!80000 , SESSION wait_timeout = 30 */";
