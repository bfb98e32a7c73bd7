//! Statements for one schema, and the one place where PostgreSQL's error codes get their meaning.

use std::borrow::Cow;
use std::sync::Arc;

use sqlx::error::ErrorKind as SqlKind;
use sqlx::{AssertSqlSafe, Postgres};

use crate::error::{Error, ErrorKind, Result};
use crate::store::server::rounds::Refusal;
use crate::store::server::{connections, inline};

/// The way to the server for what is done often; what is done seldom runs on the pool.
pub(crate) type Connections = connections::Connections<Postgres>;

/// The schema the tables lie in: a plain lower-case identifier, so that it can stand in a statement unquoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schema(Arc<str>);

impl Schema {
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let mut bytes = name.bytes();
        let starts = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
        if starts && name.len() <= 63 && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
            return Ok(Self(Arc::from(name)));
        }
        let problem =
            format!("schema {name:?}: use a lower-case letter and then letters, digits and `_`, 63 bytes at most");
        Err(ErrorKind::Invalid(problem).into())
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// The statement with our schema's name in it. The name was parsed above, so nothing of the user's gets into the text of a statement.
    pub(crate) fn statement(&self, sql: &'static str) -> Statement {
        Statement(Arc::from(sql.replace("{schema}", &self.0)))
    }
}

/// A statement for one schema, made once.
#[derive(Debug, Clone)]
pub(crate) struct Statement(Arc<str>);

impl Statement {
    pub(crate) fn sql(&self) -> AssertSqlSafe<Arc<str>> {
        AssertSqlSafe(self.0.clone())
    }
}

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
