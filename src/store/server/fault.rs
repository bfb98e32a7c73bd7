//! The effect of an error on the session of a server.

use std::io;

use async_trait::async_trait;
use sqlx::{Connection, Database, Pool};

use crate::error::{Error, chain};

/// The settings of a connection.
pub(crate) type Options<DB> = <<DB as Database>::Connection as Connection>::Options;

/// A database server of a driver.
#[async_trait]
pub(crate) trait Server: Database {
    /// The statement that begins a transaction, if it is not `BEGIN`.
    const BEGIN: Option<&'static str>;

    /// Whether the driver can use a connection on which a call was dropped half-way.
    const RECOVERS: bool;

    /// Begins a transaction that reads in one snapshot, and writes nothing.
    const BEGIN_SNAPSHOT: &'static str;

    /// Returns the effect of an error on its session.
    fn fault(error: &sqlx::Error) -> Fault;

    /// Returns the settings for a connection to another server of the same database.
    fn at(options: Options<Self>, host: &str, port: Option<u16>) -> Options<Self>;

    /// Returns how often the server was promoted, as far as it can tell, or `None` if it accepts no writes.
    async fn promotions(connection: &mut Self::Connection) -> Result<Option<u64>, sqlx::Error>;

    /// Ends the session `id` from another one if it executes a statement. The session belongs to a connection that is closed.
    async fn end_session(pool: &Pool<Self>, id: u64) -> Result<Orphan, sqlx::Error>;
}

/// The state of a session whose call was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Orphan {
    /// It has ended, or it is none that may be ended.
    Gone,
    /// It is about to end, or executes nothing, so the server notices that its connection is closed. Look again.
    #[cfg(feature = "mysql")]
    Ending,
}

/// The effect of an error on its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The session has ended. A statement in it may or may not have been executed.
    Ended,
    /// The session is read-only, so the statement was not executed.
    ReadOnly,
    /// The session is not at fault.
    Other,
}

impl Fault {
    /// Returns the effect of `error` on its session, by the first error of the database in its chain.
    pub(crate) fn of<DB: Server>(error: &Error) -> Self {
        let cause = chain(error).find_map(|cause| cause.downcast_ref::<sqlx::Error>());
        cause.map_or(Self::Other, DB::fault)
    }
}

/// Returns whether a connection was lost, as opposed to silent.
pub(crate) fn is_lost(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::ConnectionRefused)
}

/// Returns whether the server has closed a connection while it was set up with TLS. The driver takes the missing answer of PostgreSQL for a
/// zero, and wraps the error of the handshake.
pub(crate) fn is_lost_in_handshake(error: &sqlx::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error {
        sqlx::Error::Protocol(problem) => problem.contains("SSLRequest: 0x00"),
        // A certificate that is refused is invalid data.
        sqlx::Error::Tls(problem) => problem.downcast_ref().is_some_and(|error: &io::Error| {
            matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_connection_is_told_from_a_refused_certificate() {
        let wrapped = |kind: io::ErrorKind| sqlx::Error::Tls(io::Error::from(kind).into());
        assert!(is_lost_in_handshake(&wrapped(io::ErrorKind::UnexpectedEof)));
        assert!(!is_lost_in_handshake(&wrapped(io::ErrorKind::InvalidData)));
        let answer = |byte: &str| sqlx::Error::Protocol(format!("unexpected response from SSLRequest: {byte}"));
        assert!(is_lost_in_handshake(&answer("0x00")) && !is_lost_in_handshake(&answer("0x45")));
    }
}
