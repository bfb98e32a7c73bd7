//! Recorded events for scenarios that run without a log.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::event::{Event, NewEvent, RecordedEvent};
use crate::id::{Position, StreamId, Version};
use crate::testing::scenario::text;

/// Assigns positions, versions and ids to the events of a scenario. An event's id is derived from its position, so every run gives the same ids.
#[derive(Debug, Clone, Default)]
pub(super) struct Record {
    position: Position,
    versions: HashMap<StreamId, Version>,
}

impl Record {
    /// Records an event of `aggregate`, which has the form `type/id`.
    #[track_caller]
    pub(super) fn next(&mut self, aggregate: &str, event: &impl Event, recorded_at: DateTime<Utc>) -> RecordedEvent {
        let stream = aggregate.split_once('/').and_then(|(kind, id)| StreamId::parse(kind, id).ok());
        let Some(stream) = stream else { panic!("invalid aggregate {aggregate:?}: expected type/id") };
        let version = self.versions.entry(stream.clone()).or_default();
        *version = version.next();
        self.position = self.position.next();
        let event = NewEvent::new(event).unwrap_or_else(|error| panic!("{}", text(&error)));
        RecordedEvent {
            position: self.position,
            stream,
            version: *version,
            recorded_at,
            event: NewEvent { id: Uuid::from_u128(self.position.get().into()).into(), ..event },
        }
    }
}
