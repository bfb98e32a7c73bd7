//! Classifies the error numbers of MySQL and MariaDB.

use std::io;

use sqlx::mysql::MySqlDatabaseError;

use crate::error::{Error, ErrorKind, chain};
use crate::store::server::fault::is_lost_in_handshake;
use crate::store::server::inline;
use crate::store::server::rounds::Refusal;

/// Returns whether the session is read-only: `--read-only` or `--super-read-only`, a read-only transaction, InnoDB in read-only mode.
pub(crate) fn is_read_only(number: u16) -> bool {
    matches!(number, 1290 | 1792 | 1836 | 1874)
}

/// Returns whether the session has ended: server shutting down or gone, connection lost, aborted, killed or idle for too long.
pub(crate) fn is_ended(number: u16) -> bool {
    matches!(number, 1053 | 1152 | 1158..=1161 | 1184 | 1927 | 2006 | 2013 | 3169 | 4031)
}

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
        // After `BeginFailed`, the session is in another state than the driver believes. Nothing was executed.
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed | sqlx::Error::BeginFailed => {
            ErrorKind::Transient(attempt)
        }
        _ if is_lost_in_handshake(error) => ErrorKind::Transient(attempt),
        sqlx::Error::PoolClosed => ErrorKind::Closed("the store"),
        sqlx::Error::Configuration(problem) if problem.to_string().contains("RSA") => {
            ErrorKind::Invalid(NEEDS_TLS.into())
        }
        sqlx::Error::Configuration(problem) => ErrorKind::Invalid(problem.to_string()),
        sqlx::Error::Database(_) => by_number(number(error), attempt),
        _ => ErrorKind::Backend(attempt),
    }
}

/// With `caching_sha2_password`, a password that the server does not have in its cache is sent only over TLS, or encrypted with RSA.
const NEEDS_TLS: &str = "the user logs in by caching_sha2_password, the default of MySQL, which needs TLS: name one of sqlx's `tls-*` features \
                         in your own manifest, such as `tls-rustls`, and do not disable TLS in the URL";

/// Returns whether a statement failed before the server did anything for it, because its session is read-only or was ended while idle.
pub(crate) fn is_before_work(error: &sqlx::Error) -> bool {
    number(error).is_some_and(|number| number == 4031 || is_read_only(number))
}

/// Returns the error of a commit. Even if the disk is full, the commit may be in the binary log, and then it is there after a restart.
pub(crate) fn commit_failed(error: sqlx::Error) -> sqlx::Error {
    match number(&error) {
        Some(1021 | 1114) => sqlx::Error::Io(io::Error::other(error)),
        _ => error,
    }
}

fn by_number(number: Option<u16>, attempt: String) -> ErrorKind {
    match number {
        // Disk full, table or tablespace full.
        Some(1021 | 1114) => ErrorKind::Full,
        Some(number) if is_read_only(number) => ErrorKind::ReadOnly,
        Some(number) if is_ended(number) => ErrorKind::Transient(attempt),
        // Too many connections (in total, of the user, or of a resource limit), query killed, statement timeout (MySQL, MariaDB), row changed
        // since read, lock wait timeout, deadlock, NOWAIT.
        Some(1040 | 1203 | 1226 | 1317 | 3024 | 1969 | 1020 | 1205 | 1213 | 3572) => ErrorKind::Transient(attempt),
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

/// Returns whether the user lacks the right to see other sessions: `PROCESS`, or that to read `performance_schema`.
pub(crate) fn is_not_granted(error: &sqlx::Error) -> bool {
    matches!(number(error), Some(1142 | 1227))
}

/// Returns whether the server could not convert a value to text.
pub(crate) fn is_not_text(error: &sqlx::Error) -> bool {
    number(error) == Some(3854)
}

/// Returns whether the server refused a statement because of the user's rights.
pub(crate) fn is_denied(error: &Error) -> bool {
    let denied = |error: &sqlx::Error| matches!(number(error), Some(1044 | 1142 | 1143 | 1227 | 1370 | 1410 | 1419));
    chain(error).find_map(|cause| cause.downcast_ref::<sqlx::Error>()).is_some_and(denied)
}

pub(crate) fn number(error: &sqlx::Error) -> Option<u16> {
    error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}
