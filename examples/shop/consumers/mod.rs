//! Who listens to the events. Each keeps a read model of its own.

pub mod analytics;
pub mod audit;
pub mod customers;
pub mod notification;
pub mod search;

use chrono::{DateTime, Utc};
use retell::process::Process;
use retell::{Position, ProjectionName};

use crate::fulfilment::Fulfilment;
use crate::read_models::ReadModels;

/// Everything that follows the log.
const FOLLOWERS: [&str; 6] =
    [analytics::NAME, audit::NAME, customers::NAME, notification::NAME, search::NAME, Fulfilment::NAME];

/// Whether all of them have followed the log up to `end`, in whatever process they run.
pub async fn have_applied(models: &impl ReadModels, end: Position) -> retell::Result<bool> {
    for follower in FOLLOWERS {
        if models.checkpoint(&ProjectionName::new(follower)?).await? < end {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether an order waits for its payment.
pub async fn await_payment(models: &impl ReadModels) -> retell::Result<bool> {
    let name = ProjectionName::new(Fulfilment::NAME)?;
    Ok(!models.due_deadlines(&name, DateTime::<Utc>::MAX_UTC, 1).await?.is_empty())
}
