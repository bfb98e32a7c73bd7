//! The rows of read models that a verification compares with the log.

use crate::id::{EventId, ProjectionName, StreamId, Version};

/// The place of a projection with per-aggregate order in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProgressRow {
    /// The projection.
    pub projection: ProjectionName,
    /// The stream.
    pub stream: StreamId,
    /// The last version that was applied or filtered out.
    pub applied: Version,
    /// The last version that was applied, or skipped because the aggregate is parked.
    pub seen: Version,
    /// The event at that version; `None` if it is unknown.
    pub seen_id: Option<EventId>,
}

impl ProgressRow {
    /// Creates a row from its parts.
    pub fn new(
        projection: ProjectionName,
        stream: StreamId,
        (applied, seen): (Version, Version),
        seen_id: Option<EventId>,
    ) -> Self {
        Self { projection, stream, applied, seen, seen_id }
    }
}

/// An event that a reaction has handled: a row of its inbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct HandledEvent {
    /// The reaction.
    pub reaction: ProjectionName,
    /// The event, or a [part](crate::Envelope::part_id) of it.
    pub event_id: EventId,
}

impl HandledEvent {
    /// Creates a row from its parts.
    pub fn new(reaction: ProjectionName, event_id: EventId) -> Self {
        Self { reaction, event_id }
    }
}
