//! The stages of an event on its way to a projection.

use chrono::{DateTime, Utc};

use crate::error::Result;
use crate::event::RecordedEvent;
use crate::id::{Position, ProjectionName};
use crate::store::model::parking::{Parked, ParkedState};
use crate::store::model::read_model::ReadModel;

/// The stage of an event, derived from the log, the relay's position, the checkpoint and the parked aggregates. Nothing is stored for it.
///
/// An event that is being applied leaves no trace before the commit, so it is [`Published`](Self::Published) until it is
/// [`Completed`](Self::Completed) or its aggregate is parked. With order per aggregate, it is completed once the sweep has passed it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// The event is in the log, and no broker has confirmed it yet. The projection may still read it from the log.
    Persisted,
    /// The broker has confirmed the event: it is in every queue that receives such events.
    Published,
    /// The projection has applied the event, or its filter excludes the event.
    Completed,
    /// The event, or an earlier event of its aggregate, has failed and will be retried.
    Retrying {
        /// The number of failed attempts.
        attempts: u32,
        /// The time of the next attempt.
        next_at: DateTime<Utc>,
        /// The error of the last attempt.
        error: String,
    },
    /// The event, or an earlier event of its aggregate, has failed too often. A copy is in the dead letters.
    /// [`retry_parked`](ReadModel::retry_parked) retries the aggregate.
    DeadLettered {
        /// The number of failed attempts.
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

/// Returns the stage of `event` on its way to `projection`. `relayed` is the position up to which the broker has confirmed the log
/// ([`RelayStore::position`](crate::store::RelayStore::position)).
///
/// # Errors
/// [`UnknownProjection`](crate::ErrorKind::UnknownProjection) if no projection of this name has ever run, otherwise a [read
/// error](crate::Error#read-errors).
///
/// # Examples
/// ```
/// use retell::lifecycle::{Stage, stage};
/// use retell::{ProjectionName, prelude::*};
///
/// #[derive(Event)]
/// #[event("shoe.sold")]
/// struct Sold {
///     cents: u64,
/// }
///
/// struct Sales;
///
/// impl View for Sales {
///     const NAME: &'static str = "sales";
///     type Event = Sold;
///     type State = u64;
///
///     fn key(&self, _: &Envelope<Sold>) -> Option<String> {
///         Some("all".to_owned())
///     }
///
///     fn apply(&self, cents: &mut u64, sold: Envelope<Sold>) {
///         *cents += sold.event.cents;
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
/// let worker = Worker::view(Sales, log.clone(), models.clone());
/// log.append_events(("shoe", "1"), ExpectedVersion::NoStream, [Sold { cents: 500 }]).await?;
/// let page = log.read_all(Position::ZERO, 1, &Filter::all()).await?;
/// let stage = stage(&page.events[0], Position::ZERO, &models, &ProjectionName::new("sales")?).await?;
/// assert_eq!(stage, Stage::Persisted);
/// worker.catch_up().await?;
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
pub async fn stage(
    event: &RecordedEvent,
    relayed: Position,
    models: &impl ReadModel,
    projection: &ProjectionName,
) -> Result<Stage> {
    // Read the checkpoint first. The transaction that parks an event also moves the checkpoint past it, so a checkpoint beyond the event
    // never hides that the event is parked.
    let checkpoint = models.checkpoint(projection).await?;
    let parked = models.parking(projection).await?.parked;
    let covers_event = |parked: &Parked| parked.stream == event.stream && parked.from_version <= event.version;
    Ok(match parked.into_iter().find(covers_event) {
        Some(parked) => parked.into(),
        None if event.position <= checkpoint => Stage::Completed,
        None if event.position <= relayed => Stage::Published,
        None => Stage::Persisted,
    })
}
