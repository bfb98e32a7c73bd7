//! Which part of the log a reader gets.

use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Result};
use crate::event::{Event, EventTypes, RecordedEvent};
use crate::id::{AggregateType, EventType, Position};

/// A page of the log ends with the event whose payload brings it to so many bytes, whatever was asked for: who reads page by page holds a
/// bounded part of the log, however large its events are.
pub const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// Which events of the log. Empty lists let everything pass; both lists together must both be met.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Only events of these kinds of aggregate.
    pub aggregate_types: Vec<AggregateType>,
    /// Only events of these types.
    pub event_types: Vec<EventType>,
}

impl Filter {
    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// The events that `E` can hold.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a hand-written `Event` with no kind of event, or with a name no store accepts.
    pub fn of<E: Event>() -> Result<Self> {
        let EventTypes::Only(schemas) = E::TYPES else { return Ok(Self::all()) };
        if schemas.is_empty() {
            return Err(ErrorKind::Invalid("the event type holds no kind of event, so nothing can match".into()).into());
        }
        let event_types = schemas.iter().map(|schema| EventType::new(schema.name)).collect::<Result<_, _>>()?;
        Ok(Self { event_types, ..Self::default() })
    }

    /// All events of these kinds of aggregate, also of types that no one knows yet.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a name no store accepts.
    pub fn aggregates<'a>(types: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let aggregate_types = types.into_iter().map(AggregateType::new).collect::<Result<_, _>>()?;
        Ok(Self { aggregate_types, ..Self::default() })
    }

    /// Whether everything passes.
    pub fn is_all(&self) -> bool {
        self.aggregate_types.is_empty() && self.event_types.is_empty()
    }

    /// Whether an event passes.
    pub fn passes(&self, event: &RecordedEvent) -> bool {
        (self.aggregate_types.is_empty() || self.aggregate_types.contains(event.stream.aggregate_type()))
            && (self.event_types.is_empty() || self.event_types.contains(&event.event.event_type))
    }
}

/// A part of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The events that passed the filter.
    pub events: Vec<RecordedEvent>,
    /// Every event up to here has been looked at: the place to read on from.
    pub through: Position,
}

impl Page {
    /// Returns the page of these events, at most `limit`, after a store has looked at every event up to `end`. If the page is full, by
    /// `limit` or by [`PAGE_BYTES`], it reaches only through its last event, since the store stopped there.
    pub fn of(events: Vec<RecordedEvent>, limit: usize, end: Position) -> Self {
        let full =
            events.len() >= limit || events.iter().map(RecordedEvent::payload_bytes).sum::<usize>() >= PAGE_BYTES;
        let through = events.last().filter(|_| full).map_or(end, |last| last.position);
        Self { events, through }
    }
}
