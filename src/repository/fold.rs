//! Folds a snapshot and events into an aggregate's state.

use crate::aggregate::Aggregate;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{DecodeError, StoredEvent, decode_not_one, decode_stored};
use crate::id::{EventId, EventType, StreamId, Version};
use crate::metrics::upcasts::UpcastMeter;
use crate::panics::{Panicked, catch};
use crate::store::log::reader::Visitor;

/// An aggregate's state and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<A> {
    /// The state.
    pub state: A,
    /// The version of its last event; zero if it has none.
    pub version: Version,
    /// The id of its last event. The state belongs to the log only as long as the log has this event under this version.
    pub(super) last_event: Option<EventId>,
    /// The version of the newest snapshot that this repository knows of.
    pub(super) snapshot: Version,
}

impl<A> Loaded<A> {
    /// Returns the id of the last event in the state; `None` if the aggregate has no events. An append that names it
    /// ([`with_last_event`](crate::store::Append::with_last_event)) is refused if the log no longer has this event.
    pub fn last_event(&self) -> Option<EventId> {
        self.last_event
    }
}

impl<A: Default> Default for Loaded<A> {
    fn default() -> Self {
        Self { state: A::default(), version: Version::ZERO, last_event: None, snapshot: Version::ZERO }
    }
}

/// Folds the events of a stream into a state.
pub(super) struct Fold<'s, A> {
    pub(super) stream: &'s StreamId,
    pub(super) loaded: Loaded<A>,
    pub(super) bad_snapshot: bool,
    pub(super) upcasts: &'s UpcastMeter,
}

impl<A: Aggregate> Visitor for Fold<'_, A> {
    fn snapshot(&mut self, version: Version, id: EventId, state: &[u8]) -> Result<()> {
        let decoded = catch(|| A::from_snapshot(state)).unwrap_or_else(|panicked| Err(panicked.into()));
        let state = decoded.map_err(|source| {
            self.bad_snapshot = true;
            Error::with_source(ErrorKind::Corrupt(format!("snapshot of {} at version {version}", self.stream)), source)
        })?;
        self.loaded = Loaded { state, version, last_event: Some(id), snapshot: version };
        Ok(())
    }

    fn event(&mut self, version: Version, id: EventId, event: StoredEvent<'_>) -> Result<()> {
        if version != self.loaded.version.next() {
            let problem = format!("{}: version {version} follows version {}", self.stream, self.loaded.version);
            return Err(ErrorKind::Corrupt(problem).into());
        }
        let name = event.event_type;
        // The caller drops the state if an event cannot be applied to it.
        match decode_stored(event) {
            Ok(event) => self.apply(event, version, name)?,
            Err(DecodeError::NotOne) => {
                let events = decode_not_one(event).map_err(|error| self.undecodable(error, version, name))?;
                events.into_iter().try_for_each(|event| self.apply(event, version, name))?;
            }
            Err(error) => return Err(self.undecodable(error, version, name)),
        }
        self.upcasts.decoded(name, event.schema_version);
        self.loaded.version = version;
        self.loaded.last_event = Some(id);
        Ok(())
    }
}

impl<A: Aggregate> Fold<'_, A> {
    #[inline]
    fn apply(&mut self, event: A::Event, version: Version, name: &str) -> Result<()> {
        catch(|| self.loaded.state.apply(event)).map_err(|panicked| unapplied(panicked, self.stream, version, name))
    }
}

impl<A> Fold<'_, A> {
    #[cold]
    fn undecodable(&self, error: DecodeError, version: Version, event_type: &str) -> Error {
        match EventType::new(event_type) {
            Ok(event_type) => error.at(self.stream, version, &event_type),
            Err(name) => Error::with_source(ErrorKind::Corrupt(format!("{} version {version}", self.stream)), name),
        }
    }
}

/// Returns the error of an event whose `apply` panicked.
#[cold]
pub(super) fn unapplied(panicked: Panicked, stream: &StreamId, version: Version, event_type: &str) -> Error {
    Error::with_source(ErrorKind::Panicked(format!("apply {event_type}, version {version} of {stream}")), panicked)
}
