//! How calls get their connections, how transactions begin, and the one place where MySQL's and MariaDB's error numbers get their meaning.

use std::ops::{Deref, DerefMut};

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use sqlx::mysql::{MySqlArguments, MySqlDatabaseError, MySqlRow};
use sqlx::pool::PoolConnection;
use sqlx::query::{Query, QueryAs};
use sqlx::{Connection, FromRow, MySql, MySqlConnection, MySqlPool, Transaction};

use crate::error::{Error, ErrorKind, Result};
use crate::store::sql::{self, Refusal};

/// The driver's one way to its server.
///
/// sqlx does not find its place in the protocol again after a call was dropped half-way, and whoever got the connection next would wait for
/// ever, or read another's answer. So nothing here runs on a pool: each call has a [`Lease`], which closes what is not known to be whole.
#[derive(Debug, Clone)]
pub(super) struct Connections(MySqlPool);

impl Connections {
    pub(super) fn of(pool: MySqlPool) -> Self {
        Self(pool)
    }

    /// The pool, to hand out and to close.
    pub(super) fn pool(&self) -> &MySqlPool {
        &self.0
    }

    /// A connection for one call.
    pub(super) async fn lease(&self) -> Result<Lease, sqlx::Error> {
        Ok(Lease { connection: self.0.acquire().await?, whole: false })
    }

    /// A connection that never goes back.
    pub(super) async fn detached(&self) -> Result<MySqlConnection, sqlx::Error> {
        Ok(self.0.acquire().await?.detach())
    }

    /// Runs a statement that has no rows to show.
    pub(super) async fn execute(&self, query: Query<'_, MySql, MySqlArguments>) -> Result<(), sqlx::Error> {
        let mut lease = self.lease().await?;
        let done = query.execute(&mut *lease).await;
        lease.end(done).map(drop)
    }

    /// The one row of a statement, or none.
    pub(super) async fn optional<T>(
        &self,
        query: QueryAs<'_, MySql, T, MySqlArguments>,
    ) -> Result<Option<T>, sqlx::Error>
    where
        T: Send + Unpin + for<'r> FromRow<'r, MySqlRow>,
    {
        let mut lease = self.lease().await?;
        let row = query.fetch_optional(&mut *lease).await;
        lease.end(row)
    }

    /// The one row of a statement.
    pub(super) async fn one<T>(&self, query: QueryAs<'_, MySql, T, MySqlArguments>) -> Result<T, sqlx::Error>
    where
        T: Send + Unpin + for<'r> FromRow<'r, MySqlRow>,
    {
        self.optional(query).await?.ok_or(sqlx::Error::RowNotFound)
    }

    /// All rows of a statement.
    pub(super) async fn all<T>(&self, query: QueryAs<'_, MySql, T, MySqlArguments>) -> Result<Vec<T>, sqlx::Error>
    where
        T: Send + Unpin + for<'r> FromRow<'r, MySqlRow>,
    {
        let mut lease = self.lease().await?;
        let rows = query.fetch_all(&mut *lease).await;
        lease.end(rows)
    }
}

/// A connection for one call. Closed when it is dropped, unless the call came to its [`end`](Self::end).
#[derive(Debug)]
pub(super) struct Lease {
    connection: PoolConnection<MySql>,
    whole: bool,
}

impl Lease {
    /// The call's result is there: an answer, or a refusal of the server's, leaves the connection fit for the next call. What else goes
    /// wrong, such as a row that cannot be decoded, may lie in the middle of an answer.
    pub(super) fn end<T>(mut self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.whole = matches!(result, Ok(_) | Err(sqlx::Error::Database(_) | sqlx::Error::RowNotFound));
        result
    }
}

impl Deref for Lease {
    type Target = MySqlConnection;

    fn deref(&self) -> &MySqlConnection {
        &self.connection
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut MySqlConnection {
        &mut self.connection
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.whole {
            self.connection.close_on_drop();
        }
    }
}

/// Begins a transaction, in one round trip. Read committed, whatever the session's default is: each statement must see what was
/// committed before it, and a refused row must not leave locked gaps behind.
pub(super) async fn begin(connection: &mut MySqlConnection) -> Result<Transaction<'_, MySql>, sqlx::Error> {
    connection.begin_with(BEGIN).await
}

/// The servers' numbers, once and for all. `attempt` completes "cannot ..".
pub(super) fn classify(error: sqlx::Error, attempt: &str) -> Error {
    Error::with_source(kind(&error, attempt), error)
}

/// What a projection returned: its own error, or the database's beneath it.
pub(super) fn classify_work(error: Error) -> Error {
    sql::classify_work(error, kind)
}

fn kind(error: &sqlx::Error, attempt: &str) -> ErrorKind {
    let attempt = attempt.to_owned();
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => ErrorKind::Transient(attempt),
        sqlx::Error::PoolClosed => ErrorKind::Closed("the store"),
        sqlx::Error::Database(_) => by_number(number(error), attempt),
        _ => ErrorKind::Backend(attempt),
    }
}

fn by_number(number: Option<u16>, attempt: String) -> ErrorKind {
    match number {
        // Disk full, table or tablespace full.
        Some(1021 | 1114) => ErrorKind::Full,
        // `--read-only` or `--super-read-only`, a read-only transaction, InnoDB in read-only mode.
        Some(1290 | 1792 | 1836 | 1874) => ErrorKind::ReadOnly,
        // Too many connections (of all, of the user, or for the machine), server shutting down, server gone, connection lost, query or
        // connection killed, statement timeout (MySQL, MariaDB), row changed since read, lock wait timeout, deadlock, NOWAIT.
        Some(1040 | 1203 | 1226 | 1053 | 2006 | 2013 | 1317 | 1927 | 3024 | 1969 | 1020 | 1205 | 1213 | 3572) => {
            ErrorKind::Transient(attempt)
        }
        // Index or table file damaged.
        Some(1034 | 1035 | 126 | 127 | 1712 | 1877) => ErrorKind::Corrupt(attempt),
        // Among them 1153, a packet over `max_allowed_packet`: `MySqlStore::append` refuses payloads that would be too large.
        _ => ErrorKind::Backend(attempt),
    }
}

/// What the numbers say of a refused append. Which unique key it was is only in the message's text, and left there.
pub(super) fn refusal(error: &sqlx::Error) -> Refusal {
    match number(error) {
        Some(1022 | 1062 | 1586) => Refusal::Taken,
        // Row changed since read, lock wait timeout, deadlock.
        Some(1020 | 1205 | 1213) => Refusal::Blocked,
        _ => Refusal::Other,
    }
}

/// Whether a savepoint is not there: it ended with its transaction.
pub(super) fn is_no_savepoint(error: &sqlx::Error) -> bool {
    number(error) == Some(1305)
}

/// Whether a right is missing that belongs to the server and not to a table.
pub(super) fn is_not_granted(error: &sqlx::Error) -> bool {
    number(error) == Some(1227)
}

fn number(error: &sqlx::Error) -> Option<u16> {
    error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}

/// Text from a column of bytes.
pub(super) fn text(bytes: &[u8]) -> Result<&str, sqlx::Error> {
    std::str::from_utf8(bytes).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// A time in UTC, as far as a `DATETIME` goes: nothing was recorded beyond its ends.
pub(super) fn time_to_sql(time: DateTime<Utc>) -> NaiveDateTime {
    let first = NaiveDate::from_ymd_opt(1000, 1, 1).and_then(|date| date.and_hms_opt(0, 0, 0));
    let last = NaiveDate::from_ymd_opt(9999, 12, 31).and_then(|date| date.and_hms_micro_opt(23, 59, 59, 999_999));
    let time = time.naive_utc();
    time.clamp(first.unwrap_or(time), last.unwrap_or(time))
}

const BEGIN: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION";
