//! The consumers of events. Each keeps its own read model.

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

/// The names of all consumers, including the process manager.
const FOLLOWERS: [&str; 6] =
    [analytics::NAME, audit::NAME, customers::NAME, notification::NAME, search::NAME, Fulfilment::NAME];

/// Returns whether all consumers, in whichever process they run, have applied the log up to `end`.
pub async fn have_applied(models: &impl ReadModels, end: Position) -> retell::Result<bool> {
    for follower in FOLLOWERS {
        if models.mark(&ProjectionName::new(follower)?).await?.position < end {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns whether any order is waiting for its payment.
pub async fn await_payment(models: &impl ReadModels) -> retell::Result<bool> {
    let name = ProjectionName::new(Fulfilment::NAME)?;
    Ok(!models.due_deadlines(&name, DateTime::<Utc>::MAX_UTC, 1).await?.is_empty())
}
