//! Marks: places in the log that can be recognized.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{EventId, Position};

/// A place in the log that a reader remembers: a position, and the id of the event there.
///
/// A log that was restored from an older backup, or a replica that was promoted before it had every event, gives the same positions to other
/// events. A store that reads on from a mark compares the id, so a reader notices that the log has another history.
///
/// # Examples
/// ```
/// use retell::prelude::*;
/// use retell::{ErrorKind, EventId, Mark};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// let elsewhere = Mark::new(Position::new(7), EventId::generate());
/// let error = log.read_all(elsewhere, 100, &Filter::all()).await.unwrap_err();
/// assert!(matches!(error.kind(), ErrorKind::HistoryChanged { .. }));
/// # });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Mark {
    /// The position.
    pub position: Position,
    /// The id of the event at the position. `None` before the first event, and if only the position is known: then nothing is compared.
    pub event_id: Option<EventId>,
}

impl Mark {
    /// The place before the first event.
    pub const START: Self = Self { position: Position::ZERO, event_id: None };

    /// Creates the mark of the event `event_id` at `position`.
    pub const fn new(position: Position, event_id: EventId) -> Self {
        Self { position, event_id: Some(event_id) }
    }

    /// Sets the id of the event. A stored mark may lack it.
    #[must_use]
    pub const fn with_event_id(mut self, event_id: Option<EventId>) -> Self {
        self.event_id = event_id;
        self
    }

    /// Returns whether `stored` is this place: the position is the same, and so is the event if this mark knows it.
    pub fn is_at(self, stored: Self) -> bool {
        self.position == stored.position && (self.event_id.is_none() || self.event_id == stored.event_id)
    }
}

/// Creates a mark that knows only the position.
impl From<Position> for Mark {
    fn from(position: Position) -> Self {
        Self { position, event_id: None }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.event_id {
            Some(event_id) => write!(f, "position {} (event {event_id})", self.position),
            None => write!(f, "position {}", self.position),
        }
    }
}
