//! How far an event is on its way to a projection.

use chrono::{DateTime, Utc};

use crate::error::Result;
use crate::event::RecordedEvent;
use crate::id::{Position, ProjectionName};
use crate::store::model::parking::{Parked, ParkedState};
use crate::store::model::read_model::ReadModel;

/// The stage of an event. It is derived from log, relay, checkpoint and parking; nothing is written for it.
///
/// A delivery that is being applied leaves no trace before its commit, so an event is [`Published`](Self::Published) until it is
/// [`Completed`](Self::Completed) or its aggregate is parked. With order per aggregate it is completed once the sweep has passed it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// The event is in the log, and no broker has confirmed it yet. The projection may read it from there.
    Persisted,
    /// The broker has confirmed the event: it is in every queue that wants it.
    Published,
    /// The projection has applied the event, or does not want it.
    Completed,
    /// The event, or an earlier one of its aggregate, has failed and will be retried.
    Retrying {
        /// The count of failed attempts.
        attempts: u32,
        /// The time of the next attempt.
        next_at: DateTime<Utc>,
        /// The error of the last attempt.
        error: String,
    },
    /// The event, or an earlier one of its aggregate, has failed too often. A copy is in the dead letters;
    /// [`retry_parked`](ReadModel::retry_parked) starts over.
    DeadLettered {
        /// The count of failed attempts.
        attempts: u32,
        /// The error of the last attempt.
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

/// Returns how far an event is on its way to a projection. `relayed` is the position that the relay has confirmed
/// ([`RelayStore::position`](crate::store::RelayStore::position)).
///
/// # Errors
/// A [read error](crate::Error#read-errors).
pub async fn stage(
    event: &RecordedEvent,
    relayed: Position,
    models: &impl ReadModel,
    projection: &ProjectionName,
) -> Result<Stage> {
    // The checkpoint first: it moves past an event in the transaction that parks it, so a parked event is seen after it.
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
