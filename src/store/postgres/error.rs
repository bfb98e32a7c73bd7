//! Classifies PostgreSQL's error codes.

use std::borrow::Cow;

use sqlx::error::ErrorKind as SqlKind;

use crate::error::{Error, ErrorKind};
use crate::store::server::inline;
use crate::store::server::rounds::Refusal;

/// Classifies an error by PostgreSQL's code. `attempt` completes "cannot ..".
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
        sqlx::Error::Database(_) => by_code(code(error).as_deref().unwrap_or_default(), attempt),
        _ => ErrorKind::Backend(attempt),
    }
}

/// Returns the server's five-character code, or `None` if the error is not from the server.
pub(crate) fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

fn by_code(code: &str, attempt: String) -> ErrorKind {
    match code {
        // Disk full.
        "53100" => ErrorKind::Full,
        "25006" => ErrorKind::ReadOnly,
        // Serialization failure, deadlock, lock not available, statement or lock timeout, idle-in-transaction timeout,
        // too many connections, out of memory, and the server going down or coming up.
        "40001" | "40P01" | "55P03" | "57014" | "25P03" | "53300" | "53200" | "57P01" | "57P02" | "57P03" => {
            ErrorKind::Transient(attempt)
        }
        // Connection exceptions.
        _ if code.starts_with("08") => ErrorKind::Transient(attempt),
        // Data corrupted, index corrupted.
        "XX001" | "XX002" => ErrorKind::Corrupt(attempt),
        _ => ErrorKind::Backend(attempt),
    }
}

/// Returns why the server refused an append.
pub(crate) fn refusal(error: &sqlx::Error) -> Refusal {
    let Some(database) = error.as_database_error() else { return Refusal::Other };
    match database.code().as_deref() {
        _ if database.kind() == SqlKind::UniqueViolation => match database.constraint() {
            Some("events_id") => Refusal::Duplicate,
            _ => Refusal::Taken,
        },
        // Serialization failure, deadlock, lock timeout.
        Some("40001" | "40P01" | "55P03") => Refusal::Blocked,
        _ => Refusal::Other,
    }
}
