//! The way of an event to a processor.

use std::cmp::Ordering;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::event::RecordedEvent;
use crate::id::{EventId, EventType, Position, ProjectionName, StreamId, Version};
use crate::operate::report::{List, MAX_PROCESSORS, ParkedAggregate};
use crate::store::log::query::Filter;
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::interventions::Pause;
use crate::store::model::processors::RegisteredProcessor;
use crate::store::model::read_model::ReadModel;
use crate::store::model::skipped::{Skipped, Skips};

/// An event that an operator asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventRef {
    /// The event with this id.
    Id(EventId),
    /// The event at this position.
    Position(Position),
}

impl From<EventId> for EventRef {
    fn from(id: EventId) -> Self {
        Self::Id(id)
    }
}

impl From<Position> for EventRef {
    fn from(position: Position) -> Self {
        Self::Position(position)
    }
}

impl EventRef {
    async fn find(self, log: &(impl EventReader + ?Sized)) -> Result<Option<RecordedEvent>> {
        match self {
            Self::Id(id) => log.event(id).await,
            Self::Position(position) => log.event_at(position).await,
        }
    }
}

/// An event, and what happened to it on its way to a processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Why {
    /// The event.
    pub event: Located,
    /// The processor.
    pub processor: ProjectionName,
    /// The answer. In JSON, the entry `answer` has the name of the variant.
    #[serde(flatten)]
    pub answer: Answer,
}

/// An event without its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Located {
    /// Its id.
    pub event_id: EventId,
    /// Its position in the log.
    pub position: Position,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Its version in that stream.
    pub version: Version,
    /// Its stored name.
    pub event_type: EventType,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
}

impl Located {
    pub(super) fn of(event: &RecordedEvent) -> Self {
        Self {
            event_id: event.event.id,
            position: event.position,
            stream: event.stream.clone(),
            version: event.version,
            event_type: event.event.event_type.clone(),
            recorded_at: event.recorded_at,
        }
    }
}

/// The way of an event to a processor, as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Answer {
    /// The newest registered release does not read such events. An older release may have applied it.
    NotWanted {
        /// The events that the newest release reads.
        filter: Filter,
    },
    /// The processor has applied the event, or has passed over it: a reaction passes over the events before its start.
    Applied,
    /// An operator has skipped the event. The processor has passed over it, or will.
    Skipped {
        /// The row that skips it, with the operator, the time and the reason.
        skipped: Skipped,
    },
    /// The processor has not come to the event yet, and an operator has paused it.
    Paused {
        /// The pause.
        paused: Pause,
        /// The checkpoint of the processor.
        checkpoint: Position,
        /// The number of events from the checkpoint to this one, including it.
        events: u64,
    },
    /// The processor has not applied the event, and an operator has retired it.
    Retired {
        /// The retirement.
        retired: Pause,
        /// The checkpoint of the processor.
        checkpoint: Position,
    },
    /// The event has failed, and its aggregate is parked.
    Parked {
        /// The aggregate, which is parked from this event.
        failed: ParkedAggregate,
    },
    /// An earlier event of the aggregate has failed, and the processor applies this one after it.
    Behind {
        /// The aggregate, which is parked from the earlier event.
        failed: ParkedAggregate,
    },
    /// The processor has not come to the event yet.
    NotReached {
        /// The checkpoint of the processor.
        checkpoint: Position,
        /// The number of events from the checkpoint to this one, including it.
        events: u64,
    },
    /// As [`NotReached`](Self::NotReached), and not every registered release reads such events: workers of the others leave it to the newest
    /// one. If only they run, deploy that release, or [forget](ReadModel::forget_processor) it.
    NewerRelease {
        /// The newest registered release.
        release: RegisteredProcessor,
        /// The checkpoint of the processor.
        checkpoint: Position,
        /// The number of events from the checkpoint to this one, including it.
        events: u64,
    },
    /// The generation of a view is being deleted.
    Deleting,
    /// The log does not have the event at the checkpoint of the processor, so nothing is known about this one.
    HistoryChanged {
        /// The checkpoint of the processor.
        checkpoint: Position,
    },
}

/// Tells what happened to an event on its way to `processor`. Returns `None` if the log does not have the event, or if its commit has no
/// position yet.
///
/// # Examples
/// ```
/// use retell::operate::{self, Answer};
/// use retell::prelude::*;
/// use retell::store::Step;
/// use retell::{ProjectionName, ReadModel};
///
/// #[derive(Debug, Event)]
/// enum ShelfEvent {
///     #[event("shelf.filled")]
///     Filled { books: u32 },
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (log, models, totals) = (MemoryStore::new(), MemoryReadModel::new(), ProjectionName::new("totals")?);
/// let filled = |books| ShelfEvent::Filled { books };
/// log.append_events(("shelf", "1"), ExpectedVersion::NoStream, [filled(12), filled(30)]).await?;
/// let step = Step::new(&totals, Position::ZERO, Position::new(1));
/// models.commit(step, Box::new(|_| Box::pin(async { Ok(()) }))).await?;
///
/// let first = operate::why(&log, &models, Position::new(1), &totals).await?;
/// assert_eq!(first.map(|why| why.answer), Some(Answer::Applied));
/// let second = operate::why(&log, &models, Position::new(2), &totals).await?;
/// assert!(matches!(second.map(|why| why.answer), Some(Answer::NotReached { events: 1, .. })));
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// [`UnknownProjection`](crate::ErrorKind::UnknownProjection) if no processor of this name has run, otherwise a
/// [read error](crate::Error#read-errors).
pub async fn why<L, M>(
    log: &L,
    models: &M,
    event: impl Into<EventRef>,
    processor: &ProjectionName,
) -> Result<Option<Why>>
where
    L: EventReader + ?Sized,
    M: ReadModel + ?Sized,
{
    let event: EventRef = event.into();
    let Some(event) = event.find(log).await? else { return Ok(None) };
    of_processor(log, models, &event, processor).await.map(Some)
}

/// Tells what happened to an event on its way to each processor of `models`, up to [`MAX_PROCESSORS`]. Returns `None` as [`why`].
///
/// # Errors
/// A [read error](crate::Error#read-errors).
pub async fn why_each<L, M>(log: &L, models: &M, event: impl Into<EventRef>) -> Result<Option<List<Why>>>
where
    L: EventReader + ?Sized,
    M: ReadModel + ?Sized,
{
    let event: EventRef = event.into();
    let Some(event) = event.find(log).await? else { return Ok(None) };
    let listed = List::first(models.projections(MAX_PROCESSORS + 1).await?, MAX_PROCESSORS);
    let mut items = Vec::new();
    for status in &listed.items {
        items.push(of_processor(log, models, &event, &status.projection).await?);
    }
    Ok(Some(List { items, truncated: listed.truncated }))
}

async fn of_processor<L, M>(log: &L, models: &M, event: &RecordedEvent, processor: &ProjectionName) -> Result<Why>
where
    L: EventReader + ?Sized,
    M: ReadModel + ?Sized,
{
    let answer = answer(log, models, event, processor).await?;
    Ok(Why { event: Located::of(event), processor: processor.clone(), answer })
}

async fn answer<L, M>(log: &L, models: &M, event: &RecordedEvent, processor: &ProjectionName) -> Result<Answer>
where
    L: EventReader + ?Sized,
    M: ReadModel + ?Sized,
{
    let state = models.state(processor).await?;
    if state == ProjectionState::Deleting {
        return Ok(Answer::Deleting);
    }
    let mut releases = models.processors(processor).await?;
    let newest = releases.pop();
    if let Some(newest) = newest.as_ref().filter(|newest| !newest.filter.passes(event)) {
        return Ok(Answer::NotWanted { filter: newest.filter.clone() });
    }
    if state == ProjectionState::Inline {
        return Ok(Answer::Applied);
    }
    let skipped = models.skipped(processor, Some(&event.stream), usize::MAX).await?;
    if let Some(skipped) = Skips::of(skipped).get(event) {
        return Ok(Answer::Skipped { skipped: skipped.clone() });
    }
    let paused = models.paused(processor).await?;
    // The parked aggregate is read last: the transaction that moves past an event also parks it.
    let mark = models.mark(processor).await?;
    let checkpoint = mark.position;
    let seen = models.seen(processor, std::slice::from_ref(&event.stream)).await?;
    if let Some(parked) = models.parked(processor, Some(&event.stream), 1).await?.into_iter().next() {
        return match (event.version.cmp(&parked.from_version), paused.filter(|pause| pause.retired)) {
            (Ordering::Less, _) => Ok(Answer::Applied),
            (_, Some(retired)) => Ok(Answer::Retired { retired, checkpoint }),
            (Ordering::Equal, None) => {
                Ok(Answer::Parked { failed: ParkedAggregate::of(parked, Some(event.recorded_at)) })
            }
            (Ordering::Greater, None) => {
                let recorded_at = log.event_at(parked.from_position).await?.map(|failed| failed.recorded_at);
                Ok(Answer::Behind { failed: ParkedAggregate::of(parked, recorded_at) })
            }
        };
    }
    match log.read_all(mark, 1, &Filter::all()).await {
        Err(error) if error.is_history_changed() => return Ok(Answer::HistoryChanged { checkpoint }),
        read => drop(read?),
    }
    let is_seen = seen.get(&event.stream).is_some_and(|seen| seen.version >= event.version);
    let events = event.position.since(checkpoint);
    if is_seen || events == 0 {
        return Ok(Answer::Applied);
    }
    match paused {
        Some(retired) if retired.retired => return Ok(Answer::Retired { retired, checkpoint }),
        Some(paused) => return Ok(Answer::Paused { paused, checkpoint, events }),
        None => {}
    }
    Ok(match newest.filter(|_| releases.iter().any(|older| !older.filter.passes(event))) {
        Some(release) => Answer::NewerRelease { release, checkpoint, events },
        None => Answer::NotReached { checkpoint, events },
    })
}
