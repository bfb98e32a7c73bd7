//! Connections to the server, and how transactions begin.

use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{Connection, MySql, MySqlConnection, MySqlPool, Transaction};

use crate::error::{Error, ErrorKind, Result};
use crate::store::mysql::error::classify;
use crate::store::server::connections;

/// The driver's one way to its server: nothing here runs on a pool, so that what is not known to be whole is closed.
pub(crate) type Connections = connections::Connections<MySql>;

impl Connections {
    /// A connection that never goes back.
    pub(crate) async fn detached(&self) -> Result<MySqlConnection, sqlx::Error> {
        Ok(self.pool().acquire().await?.detach())
    }
}

/// Begins a transaction, in one round trip. Read committed, whatever the session's default is: each statement must see what was
/// committed before it, and a refused row must not leave locked gaps behind.
pub(crate) async fn begin(connection: &mut MySqlConnection) -> Result<Transaction<'_, MySql>, sqlx::Error> {
    connection.begin_with(BEGIN).await
}

/// Opens a pool of ten connections to the database at `url`.
pub(crate) async fn pool(url: &str) -> Result<MySqlPool> {
    let invalid = |error| Error::with_source(ErrorKind::Invalid("not the URL of a MySQL database".into()), error);
    let options: MySqlConnectOptions = url.parse().map_err(invalid)?;
    // Asking before each use costs a round trip; a lost connection is an error that says so.
    let pool = MySqlPoolOptions::new().max_connections(10).test_before_acquire(false).after_connect(|connection, _| {
        Box::pin(async { sqlx::raw_sql(END_IDLE_TRANSACTIONS).execute(connection).await.map(drop) })
    });
    pool.connect_with(options).await.map_err(|error| classify(error, "connect"))
}

/// A process that is paused within a transaction would hold its rows for as long, and with them every other worker of its projection, or
/// all who give out positions. MariaDB ends the transaction after 30 seconds; MySQL has no such setting, and sees a comment.
const END_IDLE_TRANSACTIONS: &str = "SET @retell = 1 /*M! , SESSION idle_transaction_timeout = 30 */";

const BEGIN: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION";
