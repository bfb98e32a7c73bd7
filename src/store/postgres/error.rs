//! The one place where PostgreSQL's error codes get their meaning.

use std::borrow::Cow;

use sqlx::error::ErrorKind as SqlKind;

use crate::error::{Error, ErrorKind};
use crate::store::server::inline;
use crate::store::server::rounds::Refusal;

/// PostgreSQL's codes, once and for all. `attempt` completes "cannot ..".
pub(crate) fn classify(error: sqlx::Error, attempt: &str) -> Error {
    Error::with_source(kind(&error, attempt), error)
}

/// What a projection returned: its own error, or the database's beneath it.
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

/// The server's five characters, if the error is one of the server's.
pub(crate) fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

fn by_code(code: &str, attempt: String) -> ErrorKind {
    match code {
        // Disk full.
        "53100" => ErrorKind::Full,
        "25006" => ErrorKind::ReadOnly,
        // Serialization failure, deadlock, lock not available, statement or lock timeout, too long without a word within a transaction,
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

/// What the codes say of a refused append.
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
