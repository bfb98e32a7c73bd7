//! A connection for one call.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::{Connection, SqlSafeStr, Transaction};

use crate::error::Result;
use crate::store::server::fault::{Fault, Server};
use crate::store::server::limits::Limits;
use crate::store::server::orphans::SessionId;
use crate::store::server::sessions::{Sessions, discard, give_back};

/// A connection for one call. If the call is dropped or does not reach [`end`](Self::end), the state of the connection is unknown.
pub(crate) struct Lease<DB: Server> {
    /// Always `Some` until the lease is dropped.
    connection: Option<PoolConnection<DB>>,
    acquired_at: Instant,
    reuse: Reuse,
    session: SessionId,
    sessions: Sessions<DB>,
    limits: Limits,
}

/// Whether another call may use a leased connection.
#[derive(Debug, PartialEq)]
enum Reuse {
    /// The last call got its complete answer, so the next call may use the connection directly.
    Keep,
    /// The server has sent its complete answer, but the session may have ended. The pool checks the connection.
    ReturnToPool,
    /// An answer may still be in flight.
    Suspect,
}

impl<DB: Server> Lease<DB> {
    pub(crate) fn of(
        connection: PoolConnection<DB>,
        acquired_at: Instant,
        session: SessionId,
        sessions: Sessions<DB>,
        limits: Limits,
    ) -> Self {
        Self { connection: Some(connection), acquired_at, reuse: Reuse::Suspect, session, sessions, limits }
    }

    /// Returns the id of the session, for the caller to note once it knows it. If the id is known and the call is dropped, the session is
    /// ended even if the server executes a statement.
    #[cfg(feature = "mysql")]
    pub(crate) fn session(&self) -> SessionId {
        self.session.clone()
    }

    /// Ends the call with its `result`, which determines whether the connection can be reused.
    ///
    /// After a complete answer the next call can use the connection. After an error of the server it can, too, unless the error ended the
    /// session, so the pool checks the connection first. Any other error, such as a row that cannot be decoded, may have occurred in the
    /// middle of an answer.
    pub(crate) fn end<T>(mut self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        match &result {
            Ok(_) | Err(sqlx::Error::RowNotFound) => self.answered(Reuse::Keep),
            Err(error @ sqlx::Error::Database(_)) => self.failed(DB::fault(error)),
            Err(_) => {}
        }
        result
    }

    /// Ends a call of several statements with its `result`. If the call failed, it has dropped its transaction.
    pub(crate) fn finish<T>(mut self, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.answered(Reuse::Keep),
            // The pool's question also carries the rollback. The MySQL driver of sqlx cannot tell whether an answer is still in flight.
            Err(error) if DB::RECOVERS || Fault::of::<DB>(error) != Fault::Other => self.failed(Fault::of::<DB>(error)),
            Err(_) => {}
        }
        result
    }

    /// Notes that this session is read-only although the store was opened for writing. Returns whether other sessions may not be, and then this
    /// connection is not used again.
    #[cfg(feature = "postgres")]
    pub(crate) fn is_read_only(&self) -> bool {
        self.sessions.note_read_only()
    }

    fn failed(&mut self, fault: Fault) {
        match fault {
            Fault::Other => self.answered(Reuse::ReturnToPool),
            Fault::ReadOnly if !self.sessions.note_read_only() && DB::RECOVERS => {
                self.answered(Reuse::ReturnToPool);
            }
            Fault::ReadOnly | Fault::Ended => {}
        }
    }

    fn answered(&mut self, reuse: Reuse) {
        self.reuse = reuse;
        self.sessions.answered();
    }

    /// Begins a transaction.
    pub(crate) fn begin(&mut self) -> BoxFuture<'_, Result<Transaction<'_, DB>, sqlx::Error>> {
        match DB::BEGIN {
            None => self.limits.statements(Connection::begin(&mut **self)).boxed(),
            Some(begin) => self.begin_with(begin),
        }
    }

    /// Begins a transaction that reads in one snapshot.
    pub(crate) fn begin_snapshot(&mut self) -> BoxFuture<'_, Result<Transaction<'_, DB>, sqlx::Error>> {
        self.begin_with(DB::BEGIN_SNAPSHOT)
    }

    /// Begins a transaction with statements of the caller's.
    pub(crate) fn begin_with(
        &mut self,
        begin: &'static str,
    ) -> BoxFuture<'_, Result<Transaction<'_, DB>, sqlx::Error>> {
        let limits = self.limits;
        limits.statements(Connection::begin_with(&mut **self, begin.into_sql_str())).boxed()
    }
}

impl<DB: Server> Deref for Lease<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        self.connection.as_ref().expect(HAS_CONNECTION)
    }
}

impl<DB: Server> DerefMut for Lease<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.connection.as_mut().expect(HAS_CONNECTION)
    }
}

impl<DB: Server> Drop for Lease<DB> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        match self.reuse {
            Reuse::Keep => self.sessions.keep(connection, self.acquired_at, self.session.clone()),
            Reuse::ReturnToPool => give_back(connection),
            // An answer may never come. Even if it does, the MySQL driver of sqlx cannot resynchronize with the protocol.
            Reuse::Suspect => {
                self.sessions.doubt();
                discard(connection);
                self.sessions.orphans.end(&self.sessions.pool, &self.session, self.limits.call);
            }
        }
    }
}

impl<DB: Server> fmt::Debug for Lease<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("reuse", &self.reuse).finish_non_exhaustive()
    }
}

// Only `drop` takes the connection out.
const HAS_CONNECTION: &str = "a lease owns its connection until it is dropped";
