//! Executes commands, and again where that may help. Each of ours may come twice: what has happened does not happen twice.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use retell::command::Executed;
use retell::{Aggregate, BoxError, CommandError, Context, Handle, Repository};

/// Who writes the events.
pub const SOURCE: &str = "shop";

/// How often a command is sent again while the store is busy or the shop's other processes are faster. The waits double from
/// [`FIRST_WAIT`] on: a minute or two of patience.
const RETRIES: usize = 10;

const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Why a sale did not come about.
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

/// Executes a command, and again where that may help.
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
