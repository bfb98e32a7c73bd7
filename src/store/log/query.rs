//! Queries: the events that a reader asks for, their order and their maximum number.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Result};
use crate::event::{Event, EventSchema, EventTypes, RecordedEvent};
use crate::id::mark::Mark;
use crate::id::{AggregateType, CorrelationId, EventId, EventType, Position, StreamId, Version};

/// The byte limit of a page of the log ([`Select::Log`]). A page ends with the event whose payload reaches it, even below
/// [`Query::limit`], so a reader that reads page by page holds a bounded part of the log.
pub const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// A request for events of the log, for [`EventReader::read`](crate::store::EventReader::read).
///
/// A query borrows the names in it, so it allocates nothing.
///
/// # Examples
/// ```
/// use retell::{prelude::*, store::Query};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// let page = log.read(Query::log(Position::ZERO, &Filter::all()).with_limit(100)).await?;
/// assert!(page.events.is_empty());
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Query<'q> {
    /// The events to read, and their order.
    pub select: Select<'q>,
    /// The maximum number of events.
    pub limit: usize,
}

/// The events that a [`Query`] asks for, and their order. Every store supports every kind, so a new kind requires a new major version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select<'q> {
    /// Events of the whole log, in log order.
    Log {
        /// Only events after this place. If it knows its event, the store compares that with the log in the snapshot of the page.
        after: Mark,
        /// Only events that pass this filter.
        filter: &'q Filter,
    },
    /// Events of one stream, in version order.
    Stream {
        /// The stream.
        stream: &'q StreamId,
        /// Only events after this version.
        after: Version,
    },
    /// Events of this type, newest first.
    Newest(&'q EventType),
    /// Events recorded later than this time, in log order.
    RecordedAfter(DateTime<Utc>),
    /// The event with this id.
    Event(EventId),
    /// The events of one request, in log order: those with this correlation id, and the event whose id it is if that one has no other
    /// correlation id.
    Chain {
        /// The correlation id.
        id: CorrelationId,
        /// Only events after this position.
        after: Position,
    },
}

impl<'q> Query<'q> {
    /// The default of [`limit`](Self::limit). It is large enough that the round trip of a page costs little per event.
    pub const DEFAULT_LIMIT: usize = 1_000;

    /// The most events of a [chain](Self::chain) that a store has to find, so that sorting them takes a bounded time.
    pub const MAX_CHAIN: usize = 10_000;

    /// Creates a query for the events after the place `after` that pass `filter`, in log order.
    ///
    /// If `after` is a [`Mark`] with an event, [`read`](crate::EventReader::read) refuses a log that does not have this event at this position.
    pub fn log(after: impl Into<Mark>, filter: &'q Filter) -> Self {
        Self::of(Select::Log { after: after.into(), filter })
    }

    /// Creates a query for the events of `stream` after the version `after`, in version order.
    pub const fn stream(stream: &'q StreamId, after: Version) -> Self {
        Self::of(Select::Stream { stream, after })
    }

    /// Creates a query for the events that are stored under one name, newest first. Those of a renamed type have one of several names: see
    /// [`EventSchema::names`].
    pub const fn newest(event_type: &'q EventType) -> Self {
        Self::of(Select::Newest(event_type))
    }

    /// Creates a query for the events recorded later than `time`, in log order.
    pub const fn recorded_after(time: DateTime<Utc>) -> Self {
        Self::of(Select::RecordedAfter(time))
    }

    /// Creates a query for the event with this `id`. A store finds it by an index.
    pub const fn event(id: EventId) -> Self {
        Self::of(Select::Event(id))
    }

    /// Creates a query for the events of the request with the correlation id `id`, after the position `after`, in log order. A store finds them
    /// by an index. It may leave out those after the first [`MAX_CHAIN`](Self::MAX_CHAIN) in the order of their commits.
    pub const fn chain(id: CorrelationId, after: Position) -> Self {
        Self::of(Select::Chain { id, after })
    }

    /// Sets the maximum number of events. The default is [`DEFAULT_LIMIT`](Self::DEFAULT_LIMIT).
    pub const fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    const fn of(select: Select<'q>) -> Self {
        Self { select, limit: Self::DEFAULT_LIMIT }
    }
}

/// Selects events of the log by aggregate type and event type. An event must pass both lists; an empty list lets every event pass.
///
/// # Examples
/// ```
/// use retell::{EventType, prelude::*};
///
/// assert!(Filter::all().is_all());
/// let orders = Filter::aggregates(["order"])?.with_event_types([EventType::new("order.placed")?]);
/// assert!(!orders.is_all());
/// # Ok::<(), BoxError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Filter {
    /// Only events of aggregates of these types.
    pub aggregate_types: Vec<AggregateType>,
    /// Only events of these types.
    pub event_types: Vec<EventType>,
}

impl Filter {
    /// Creates a filter that lets every event pass.
    pub fn all() -> Self {
        Self::default()
    }

    /// Creates a filter for the event types that `E` can hold, by their stored names and their former ones. If each of them [names its aggregate](EventSchema::aggregate), only events of
    /// these aggregates pass.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if a hand-written implementation of [`Event`] has no event types, or one with a name that no store accepts.
    pub fn of<E: Event>() -> Result<Self> {
        let EventTypes::Only(schemas) = E::TYPES else { return Ok(Self::all()) };
        if schemas.is_empty() {
            return Err(ErrorKind::Invalid(
                "the filter matches nothing: the `Event` implementation lists no event types".into(),
            )
            .into());
        }
        let event_types = schemas.iter().flat_map(EventSchema::names).map(EventType::new).collect::<Result<_, _>>()?;
        let aggregates: Option<BTreeSet<_>> = schemas.iter().map(|schema| schema.aggregate).collect();
        let aggregate_types = aggregates.into_iter().flatten().map(AggregateType::new).collect::<Result<_, _>>()?;
        Ok(Self { aggregate_types, event_types })
    }

    /// Creates a filter for all events of aggregates of these types, including event types that do not exist yet.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a name that no store accepts.
    pub fn aggregates<'a>(types: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let aggregate_types = types.into_iter().map(AggregateType::new).collect::<Result<_, _>>()?;
        Ok(Self { aggregate_types, ..Self::default() })
    }

    /// Sets the aggregate types whose events pass.
    pub fn with_aggregate_types(mut self, types: impl IntoIterator<Item = AggregateType>) -> Self {
        self.aggregate_types = types.into_iter().collect();
        self
    }

    /// Sets the event types that pass.
    pub fn with_event_types(mut self, types: impl IntoIterator<Item = EventType>) -> Self {
        self.event_types = types.into_iter().collect();
        self
    }

    /// Returns whether every event passes.
    pub fn is_all(&self) -> bool {
        self.aggregate_types.is_empty() && self.event_types.is_empty()
    }

    /// Sorts the names and drops repeated ones, so that equal filters are alike.
    pub(crate) fn sorted(mut self) -> Self {
        self.aggregate_types.sort_unstable();
        self.aggregate_types.dedup();
        self.event_types.sort_unstable();
        self.event_types.dedup();
        self
    }

    /// Returns a filter that lets every event pass that passes one of the two. It may let others pass.
    pub(crate) fn or(&self, other: &Self) -> Self {
        fn either<T: Clone + PartialEq>(one: &[T], other: &[T]) -> Vec<T> {
            if one.is_empty() || other.is_empty() {
                // Everything passes one of them.
                return Vec::new();
            }
            one.iter().chain(other.iter().filter(|name| !one.contains(name))).cloned().collect()
        }
        Self {
            aggregate_types: either(&self.aggregate_types, &other.aggregate_types),
            event_types: either(&self.event_types, &other.event_types),
        }
    }

    /// Returns whether `event` passes.
    pub fn passes(&self, event: &RecordedEvent) -> bool {
        (self.aggregate_types.is_empty() || self.aggregate_types.contains(event.stream.aggregate_type()))
            && (self.event_types.is_empty() || self.event_types.contains(&event.event.event_type))
    }
}

/// The answer to a [`Query`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The events, in the order of the query.
    pub events: Vec<RecordedEvent>,
    /// For [`Select::Log`], the position up to which the store has examined every event: the next page starts after it. For other queries,
    /// the greatest position among the events, or zero if there are none.
    pub through: Position,
    /// The id of the event at `through`, so that the next page can start after this [mark](Self::mark); `None` if there is no such event, or if
    /// the store does not know it.
    pub through_id: Option<EventId>,
}

impl Page {
    /// Creates a page that has examined the log up to `through`. The next page starts after that place.
    pub fn new(events: Vec<RecordedEvent>, through: impl Into<Mark>) -> Self {
        let Mark { position, event_id } = through.into();
        Self { events, through: position, through_id: event_id }
    }

    /// Returns the place that the next page starts after.
    pub fn mark(&self) -> Mark {
        Mark::from(self.through).with_event_id(self.through_id)
    }

    /// Takes `events`, which are in log order and pass the filter, until the page is full. The store has looked at every event up to `end`.
    /// Takes no event after the one that fills the page.
    ///
    /// # Errors
    /// The first error among the events.
    pub fn fill<E>(
        events: impl IntoIterator<Item = Result<RecordedEvent, E>>,
        limit: usize,
        end: impl Into<Mark>,
    ) -> Result<Self, E> {
        let (mut page, mut bytes, mut events) = (Vec::new(), 0, events.into_iter());
        while page.len() < limit && bytes < PAGE_BYTES {
            let Some(event) = events.next().transpose()? else { break };
            bytes += event.payload_bytes();
            page.push(event);
        }
        Ok(Self::of(page, limit, end))
    }

    /// Creates the page for a query other than [`Select::Log`].
    pub fn found(events: Vec<RecordedEvent>) -> Self {
        let through = events.iter().max_by_key(|event| event.position).map_or(Mark::START, RecordedEvent::mark);
        Self::new(events, through)
    }

    /// Creates the page for [`Select::Log`] from at most `limit` events, after the store has examined every event up to `end`. If the page
    /// is full, by `limit` or by [`PAGE_BYTES`], it reaches only to its last event, because the store stopped there.
    pub fn of(events: Vec<RecordedEvent>, limit: usize, end: impl Into<Mark>) -> Self {
        let end = end.into();
        let full =
            events.len() >= limit || events.iter().map(RecordedEvent::payload_bytes).sum::<usize>() >= PAGE_BYTES;
        let last = events.last().filter(|last| full || last.position == end.position);
        let through = last.map_or(end, RecordedEvent::mark);
        Self::new(events, through)
    }
}
