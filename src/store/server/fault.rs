//! The effect of an error on the session of a server.

use std::io;

use sqlx::Database;

use crate::error::{Error, chain};

/// A database server of a driver.
pub(crate) trait Server: Database {
    /// The statement that begins a transaction, if it is not `BEGIN`.
    const BEGIN: Option<&'static str>;

    /// Whether the driver can use a connection on which a call was dropped half-way.
    const RECOVERS: bool;

    /// Returns the effect of an error on its session.
    fn fault(error: &sqlx::Error) -> Fault;
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
