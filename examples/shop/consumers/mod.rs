//! Who listens to the events. Each keeps a read model of its own.

pub mod analytics;
pub mod audit;
pub mod notification;
pub mod search;

use retell::{CheckpointStore, Position, Projection, ProjectionName};

use crate::read_models::ReadModels;
use analytics::Analytics;
use audit::Audit;
use notification::Notification;
use search::Search;

/// Whether all of them have applied the log up to `end`, in whatever process they run.
pub async fn have_applied(models: &ReadModels, end: Position) -> retell::Result<bool> {
    for consumer in [Analytics.name(), Audit.name(), Notification.name(), Search.name()] {
        if models.checkpoint(&ProjectionName::new(consumer)?).await? < end {
            return Ok(false);
        }
    }
    Ok(true)
}
