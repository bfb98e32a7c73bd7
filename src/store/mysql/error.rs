//! Classifies the error numbers of MySQL and MariaDB.

use sqlx::mysql::MySqlDatabaseError;

use crate::error::{Error, ErrorKind};
use crate::store::server::inline;
use crate::store::server::rounds::Refusal;

/// Classifies an error by the server's number. `attempt` completes "cannot ..".
pub(crate) fn classify(error: sqlx::Error, attempt: &str) -> Error {
    Error::with_source(kind(&error, attempt), error)
}

/// Classifies the error of a projection's work. If the first database error in its chain says that the database is the cause, the projection
/// is not at fault.
pub(crate) fn classify_work(error: Error) -> Error {
    inline::classify_work(error, kind)
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
        // Too many connections (in total, of the user, or of a resource limit), server shutting down, server gone, connection lost, query or
        // connection killed, statement timeout (MySQL, MariaDB), row changed since read, lock wait timeout, deadlock, NOWAIT.
        Some(1040 | 1203 | 1226 | 1053 | 2006 | 2013 | 1317 | 1927 | 3024 | 1969 | 1020 | 1205 | 1213 | 3572) => {
            ErrorKind::Transient(attempt)
        }
        // Index or table file damaged.
        Some(1034 | 1035 | 126 | 127 | 1712 | 1877) => ErrorKind::Corrupt(attempt),
        // This includes 1153, a packet over `max_allowed_packet`: `MySqlStore::append` refuses larger payloads before it sends them.
        _ => ErrorKind::Backend(attempt),
    }
}

/// Returns why the server refused an append. Only the message's text names the violated unique key, so the key is not distinguished.
pub(crate) fn refusal(error: &sqlx::Error) -> Refusal {
    match number(error) {
        Some(1022 | 1062 | 1586) => Refusal::Taken,
        // Row changed since read, lock wait timeout, deadlock.
        Some(1020 | 1205 | 1213) => Refusal::Blocked,
        _ => Refusal::Other,
    }
}

/// Returns whether a savepoint does not exist, because it ended with its transaction.
pub(crate) fn is_no_savepoint(error: &sqlx::Error) -> bool {
    number(error) == Some(1305)
}

/// Returns whether the user lacks a right on the server, as opposed to a right on a table.
pub(crate) fn is_not_granted(error: &sqlx::Error) -> bool {
    number(error) == Some(1227)
}

fn number(error: &sqlx::Error) -> Option<u16> {
    error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}
