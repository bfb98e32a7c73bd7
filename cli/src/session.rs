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
        match tokio::time::timeout(self.limit, call).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Failure::TimedOut { attempt, limit: self.limit, is_opening: false }),
        }
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
