//! The places in the log that others remember: whether the log has them, and how to set them back.

use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Result};
use crate::id::mark::Mark;
use crate::id::{Position, ProjectionName};
use crate::operate::report::{List, MAX_PROCESSORS, MAX_RELAYS};
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::log::relay::RelayStore;
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::interventions::By;
use crate::store::model::read_model::ReadModel;

/// Whether the log has the place that a processor or a relay remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// The log has the event of the place at its position.
    Consistent,
    /// The place is after the head of the log, or the log has another event there. The processor or relay has seen events that are lost.
    Ahead,
    /// The place is in the log, but the id of its event was not stored.
    Unknown,
}

/// A processor or a relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "name")]
#[non_exhaustive]
pub enum Follower {
    /// A projection, a view, a reaction or a process, by its checkpoint.
    Processor(ProjectionName),
    /// A relay.
    Relay(String),
}

/// A remembered place and its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JudgedPlace {
    /// The part that remembers the place.
    pub follower: Follower,
    /// The position.
    pub position: Position,
    /// Whether the log has it.
    pub verdict: Verdict,
}

/// The places that processors and relays remember: the answer of [`after_restore`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Places {
    /// The head of the log.
    pub head: Position,
    /// The checkpoints of running processors, by name.
    pub processors: List<JudgedPlace>,
    /// The relays by name; `None` if the store cannot list them.
    pub relays: Option<List<JudgedPlace>>,
}

impl Places {
    /// Returns the places that are ahead of the log.
    ///
    /// # Examples
    /// ```
    /// use retell::operate;
    ///
    /// /// Returns whether a restored log has everything that was applied and published.
    /// fn is_consistent(places: &operate::Places) -> bool {
    ///     places.ahead().next().is_none()
    /// }
    /// ```
    pub fn ahead(&self) -> impl Iterator<Item = &JudgedPlace> {
        let relays = self.relays.iter().flat_map(|relays| &relays.items);
        self.processors.items.iter().chain(relays).filter(|place| place.verdict == Verdict::Ahead)
    }
}

/// Judges the places of processors and relays against the log. Call this after a restore of the log or of a read model from a backup, before
/// workers start. [`verify`](super::verify()) finds snapshots that are ahead; a snapshot does no harm, because it counts only if the log has its event.
///
/// # Examples
/// ```
/// use retell::prelude::*;
/// use retell::operate;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// let places = operate::after_restore(&log, &log.read_model()).await?;
/// assert_eq!(places.ahead().count(), 0);
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// A [read error](crate::Error#read-errors).
pub async fn after_restore<L, M>(log: &L, models: &M) -> Result<Places>
where
    L: EventReader + RelayStore + ?Sized,
    M: ReadModel + ?Sized,
{
    let statuses = List::first(models.projections(MAX_PROCESSORS + 1).await?, MAX_PROCESSORS);
    let relays = log.relay_statuses(MAX_RELAYS + 1).await?.map(|relays| List::first(relays, MAX_RELAYS));
    // Read after the places, which move with the log.
    let head = log.head().await?;
    let mut processors = Vec::new();
    // The appends move the checkpoint of an inline projection, and nothing continues from one that is being deleted.
    for status in statuses.items.into_iter().filter(|status| status.state == ProjectionState::Running) {
        processors.push(judged(log, head, Follower::Processor(status.projection), status.mark).await?);
    }
    let relays = match relays {
        None => None,
        Some(relays) => {
            let mut items = Vec::new();
            for status in relays.items {
                items.push(judged(log, head, Follower::Relay(status.relay), status.mark).await?);
            }
            Some(List { items, truncated: relays.truncated })
        }
    };
    Ok(Places { head, processors: List { items: processors, truncated: statuses.truncated }, relays })
}

/// Returns whether a place is not in the log.
pub(super) async fn is_ahead(log: &(impl EventReader + ?Sized), mark: Mark) -> Result<bool> {
    let head = log.head().await?;
    let judged = judged(log, head, Follower::Relay(String::new()), mark).await?;
    Ok(judged.verdict == Verdict::Ahead)
}

async fn judged(
    log: &(impl EventReader + ?Sized),
    head: Position,
    follower: Follower,
    mark: Mark,
) -> Result<JudgedPlace> {
    let Mark { position, event_id } = mark;
    let verdict = match event_id {
        _ if position == Position::ZERO => Verdict::Consistent,
        _ if position > head => Verdict::Ahead,
        None => Verdict::Unknown,
        Some(_) => match log.check(mark).await {
            Ok(()) => Verdict::Consistent,
            Err(error) if error.is_history_changed() => Verdict::Ahead,
            // The log is damaged there.
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt(_)) => Verdict::Unknown,
            Err(error) => return Err(error),
        },
    };
    Ok(JudgedPlace { follower, position, verdict })
}

/// Sets a place that is ahead of the log back, so that its relay or processor continues, and records it. Returns the new position. Does nothing if the place is
/// not ahead any more.
///
/// A relay goes to the head of the log. A processor goes to the beginning if it has order per aggregate, else to the head of the log. The rows of
/// its read model stay, and with them what lost events have changed: rebuild a view afterward, and for a projection prefer
/// [`ReadModel::reset`], which can also delete its rows. Stop the workers of the processor first.
///
/// # Errors
/// The errors of [`RelayStore::reset_by`] and [`ReadModel::reset_by`].
///
/// # Cancel safety
/// A dropped call may still set the place back.
pub async fn set_back<L, M>(log: &L, models: &M, follower: &Follower, by: &By) -> Result<Position>
where
    L: EventReader + RelayStore + ?Sized,
    M: ReadModel + ?Sized,
{
    let head = log.head().await?;
    match follower {
        Follower::Relay(relay) => {
            let mark = RelayStore::mark(log, relay).await?;
            if judged(log, head, follower.clone(), mark).await?.verdict != Verdict::Ahead {
                return Ok(mark.position);
            }
            log.reset_by(relay, log.mark_at(head).await?, by).await?;
            Ok(head)
        }
        Follower::Processor(name) => {
            let statuses = models.projections(MAX_PROCESSORS + 1).await?;
            let unknown = || ErrorKind::UnknownProjection { projection: name.clone(), known: Vec::new() };
            let status = statuses.into_iter().find(|status| status.projection == *name).ok_or_else(unknown)?;
            if judged(log, head, follower.clone(), status.mark).await?.verdict != Verdict::Ahead {
                return Ok(status.mark.position);
            }
            let to = if status.per_aggregate { Mark::START } else { log.mark_at(head).await? };
            models.reset_by(name, to, Box::new(|_| Box::pin(async { Ok(()) })), by).await?;
            Ok(to.position)
        }
    }
}
