//! The open stores of a command, and the limit of each wait.

use std::time::Duration;

use retell::error::Result;

use crate::failure::Failure;
use crate::ports::Stores;

/// The open stores of a command.
pub(crate) struct Session {
    pub(crate) stores: Stores,
    pub(crate) limit: Duration,
}

impl Session {
    /// Waits for an answer. `attempt` completes "cannot ..".
    pub(crate) async fn call<T>(
        &self,
        attempt: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T, Failure> {
        within(self.limit, attempt, call).await
    }

    /// Closes the stores, so that SQLite removes the files that it needed.
    pub(crate) async fn close(self) {
        let closing = async {
            let (models, log) = (self.stores.models.close().await, self.stores.log.close().await);
            models.and(log)
        };
        // The answer is given: a connection that does not close ends with the process.
        drop(tokio::time::timeout(self.limit, closing).await);
    }
}

/// Waits for an answer, up to `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    attempt: &'static str,
    call: impl Future<Output = Result<T>>,
) -> Result<T, Failure> {
    let late = |_| Failure::TimedOut { attempt, limit, is_opening: false };
    Ok(tokio::time::timeout(limit, call).await.map_err(late)??)
}
