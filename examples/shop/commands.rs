//! Executes commands with retries. The shop's commands are idempotent: sending one twice has the effect of sending it once.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use retell::command::Executed;
use retell::{Aggregate, BoxError, CommandError, Context, Handle, Repository};

/// The source that the events' metadata names.
pub const SOURCE: &str = "shop";

/// Number of retries while the store is busy or another process wins. The delays double from [`FIRST_WAIT`] on, which adds up to a minute
/// or two.
const RETRIES: usize = 10;

const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The reason why a sale failed.
#[derive(Debug, thiserror::Error)]
pub enum NotSold {
    #[error("stopped on request")]
    Stopped,
    #[error("cannot {command}")]
    Failed { command: String, source: BoxError },
}

impl NotSold {
    pub fn failed(command: String, source: impl Into<BoxError>) -> Self {
        Self::Failed { command, source: source.into() }
    }
}

/// Executes a command, with retries after transient errors and conflicts.
pub async fn execute<A, C>(
    repository: &Repository<A>,
    id: &str,
    command: C,
    context: Context,
) -> Result<Executed, CommandError<A::Error>>
where
    A: Aggregate + Handle<C>,
    C: Clone,
{
    (|| repository.execute_with(id, command.clone(), context.clone()))
        .retry(ExponentialBuilder::new().with_min_delay(FIRST_WAIT).with_max_times(RETRIES).with_jitter())
        .when(|error| matches!(error, CommandError::Transient(_) | CommandError::Conflict(_)))
        .await
}
