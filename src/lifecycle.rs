//! Where an event is on its way to a projection.

use chrono::{DateTime, Utc};

use crate::error::Result;
use crate::event::RecordedEvent;
use crate::id::{Position, ProjectionName};
use crate::store::model::parking::{Parked, ParkedState};
use crate::store::model::read_model::ReadModel;

/// What has become of an event. Nothing is written for it: log, relay, checkpoint and parking say it all.
///
/// What is on its way at this moment (delivered, being applied) leaves no trace before it is done, so an event is
/// [`Published`](Self::Published) until it is [`Completed`](Self::Completed) or its aggregate is parked. With order per aggregate that is said
/// when the sweep has passed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// It is in the log, and no broker has confirmed it yet. The projection may find it there all the same.
    Persisted,
    /// The broker has confirmed it, and so has brought it to every queue that wants it.
    Published,
    /// The projection has applied it, or does not want it.
    Completed,
    /// It has failed, or waits behind an event of its aggregate that has failed, and will be tried again.
    Retrying {
        /// How often it was tried in vain.
        attempts: u32,
        /// When it is tried again.
        next_at: DateTime<Utc>,
        /// Why it failed the last time.
        error: String,
    },
    /// It has failed too often, or waits behind such an event. A copy is in the dead letters;
    /// [`retry_parked`](ReadModel::retry_parked) calls for it.
    DeadLettered {
        /// How often it was tried in vain.
        attempts: u32,
        /// Why it failed the last time.
        error: String,
    },
}

impl From<Parked> for Stage {
    fn from(parked: Parked) -> Self {
        let Parked { attempts, next_at, error, .. } = parked;
        match parked.state {
            ParkedState::Waiting => Self::Retrying { attempts, next_at, error },
            ParkedState::Dead => Self::DeadLettered { attempts, error },
        }
    }
}

/// Where an event is on its way to a projection. `relayed` is the position that the relay has confirmed
/// ([`RelayStore::position`](crate::store::RelayStore::position)).
///
/// # Errors
/// What reading met.
pub async fn stage(
    event: &RecordedEvent,
    relayed: Position,
    models: &impl ReadModel,
    projection: &ProjectionName,
) -> Result<Stage> {
    // First the checkpoint: it moves past an event in the transaction that parks it, so what is parked is seen after it.
    let checkpoint = models.checkpoint(projection).await?;
    let parked = models.parking(projection).await?.parked;
    let waits_for = |parked: &Parked| parked.stream == event.stream && parked.from_version <= event.version;
    Ok(match parked.into_iter().find(waits_for) {
        Some(parked) => parked.into(),
        None if event.position <= checkpoint => Stage::Completed,
        None if event.position <= relayed => Stage::Published,
        None => Stage::Persisted,
    })
}
