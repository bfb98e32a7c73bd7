//! Time limits of the calls to a database server.
//!
//! A connection can die without a sign: a machine or a network on the way disappears, and no packet says so. A call then waits for an answer
//! that never comes. Therefore every call has a limit. A call that exceeds it is dropped together with its connection.

use std::io;
use std::time::Duration;

use futures::{FutureExt, Stream, TryStreamExt};
use tokio::time::timeout;

use crate::error::{Error, ErrorKind, Result};

/// The longest wait for an answer to a question that costs the server nothing. A new connection costs less than a longer wait.
pub(crate) const MAX_ANSWER: Duration = Duration::from_secs(1);

/// The time limits of a store's calls to its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The longest call, from its first statement to the last answer.
    pub(crate) call: Duration,
    /// The longest wait for a connection.
    pub(crate) wait: Duration,
}

impl Limits {
    /// Limits for a call that changes or repairs the schema: building an index of a large table takes minutes.
    pub(crate) fn long(self) -> Self {
        Self { call: self.call.max(Duration::from_mins(10)), ..self }
    }

    /// Limits a call. `attempt` completes "cannot ..".
    pub(crate) async fn call<T>(self, attempt: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        match timeout(self.call, call).await {
            Ok(result) => result,
            Err(_) => Err(Error::with_source(ErrorKind::Transient(attempt.to_owned()), self.silence())),
        }
    }

    /// Limits some statements.
    pub(crate) async fn statements<T, E: From<sqlx::Error>>(
        self,
        statements: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        timeout(self.call, statements).await.unwrap_or_else(|_| Err(self.silence().into()))
    }

    /// Returns the next row of an answer. The limit is for each wait and not for the whole answer, because a long answer may take long.
    pub(crate) async fn next_row<T>(
        self,
        rows: &mut (impl Stream<Item = Result<T, sqlx::Error>> + Unpin),
    ) -> Result<Option<T>, sqlx::Error> {
        // Most rows are already here, and a timer for each of them would be a noticeable part of a replay.
        match rows.try_next().now_or_never() {
            Some(row) => row,
            None => self.statements(rows.try_next()).await,
        }
    }

    fn silence(self) -> sqlx::Error {
        let problem = format!("the server did not answer within {:?}; the connection was closed", self.call);
        sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, problem))
    }
}

impl Default for Limits {
    /// A healthy server answers each call within seconds; half a minute leaves room for a stalled disk. A connection is a matter of
    /// milliseconds, so a server that gives none for five seconds is down or overloaded, and a caller should know.
    fn default() -> Self {
        Self { call: Duration::from_secs(30), wait: Duration::from_secs(5) }
    }
}
