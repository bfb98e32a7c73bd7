//! Classifies PostgreSQL's error codes.

use std::borrow::Cow;

use async_trait::async_trait;
use sqlx::error::ErrorKind as SqlKind;
use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgSeverity};
use sqlx::{PgConnection, Pool, Postgres};

use crate::error::{Error, ErrorKind};
use crate::store::server::fault::{Fault, Orphan, Server, is_lost, is_lost_in_handshake};
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
        // After `BeginFailed`, the session is in another state than the driver believes. Nothing was executed.
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed | sqlx::Error::BeginFailed => {
            ErrorKind::Transient(attempt)
        }
        _ if is_lost_in_handshake(error) => ErrorKind::Transient(attempt),
        sqlx::Error::PoolClosed => ErrorKind::Closed("the store"),
        sqlx::Error::Configuration(problem) => ErrorKind::Invalid(problem.to_string()),
        // The backend has ended, and the outcome is unknown: one that fails to write the log for a commit reports a full disk, and the
        // commit may be there after the restart.
        sqlx::Error::Database(_) if is_end_of_session(error) => ErrorKind::Transient(attempt),
        sqlx::Error::Database(_) => by_code(code(error).as_deref().unwrap_or_default(), attempt),
        _ => ErrorKind::Backend(attempt),
    }
}

/// Returns the server's five-character code, or `None` if the error is not from the server.
pub(crate) fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

#[async_trait]
impl Server for Postgres {
    const BEGIN: Option<&'static str> = None;
    const RECOVERS: bool = true;
    const BEGIN_SNAPSHOT: &'static str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

    fn fault(error: &sqlx::Error) -> Fault {
        match error {
            sqlx::Error::Io(error) if is_lost(error) => Fault::Ended,
            sqlx::Error::BeginFailed => Fault::Ended,
            _ if is_end_of_session(error) || is_lost_in_handshake(error) => Fault::Ended,
            _ if code(error).as_deref() == Some("25006") => Fault::ReadOnly,
            _ => Fault::Other,
        }
    }

    fn at(options: PgConnectOptions, host: &str, port: Option<u16>) -> PgConnectOptions {
        let options = options.host(host);
        port.map_or(options.clone(), |port| options.port(port))
    }

    async fn promotions(connection: &mut PgConnection) -> Result<Option<u64>, sqlx::Error> {
        let timeline: Option<i64> = sqlx::query_scalar(TIMELINE).fetch_one(connection).await?;
        Ok(timeline.map(i64::cast_unsigned))
    }

    /// Transactions that run handlers set `client_connection_check_interval`, so the server itself ends such a session.
    async fn end_session(_: &Pool<Self>, _: u64) -> Result<Orphan, sqlx::Error> {
        Ok(Orphan::Gone)
    }
}

/// Each promotion begins a new timeline, with a larger number. The name of a file of the write-ahead log begins with it.
const TIMELINE: &str = "
    SELECT CASE WHEN NOT pg_is_in_recovery() AND NOT current_setting('default_transaction_read_only')::boolean
        THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END";

/// Returns whether a statement failed before the server did anything for it, because its session is read-only or was ended while idle.
pub(crate) fn is_before_work(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("25006" | "57P05"))
}

/// Returns whether the server ended the session with this error. The refusal of a login is not such an end: another attempt is refused too.
fn is_end_of_session(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>()) else {
        return false;
    };
    let is_refused_login = error.code().starts_with("28") || matches!(error.code(), "3D000" | "42501");
    matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic) && !is_refused_login
}

fn by_code(code: &str, attempt: String) -> ErrorKind {
    match code {
        // Disk full.
        "53100" => ErrorKind::Full,
        "25006" => ErrorKind::ReadOnly,
        // Serialization failure, deadlock, lock not available, statement or lock timeout, idle-in-transaction timeout,
        // too many connections, out of memory, and the server going down or coming up.
        "40001" | "40P01" | "55P03" | "57014" | "25P03" | "53300" | "53200" | "57P01" | "57P02" | "57P03" | "57P05" => {
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
