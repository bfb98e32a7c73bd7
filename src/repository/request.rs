//! Tells whether a command is the one that an idempotency key was used for.
//!
//! A store keeps the outcome under a key, and not the command. But a decision is a function of the state and the command. So the command is
//! decided again on the state before the events that the key stands for: the same command leads to the same events there.

use crate::aggregate::{Aggregate, Handle};
use crate::codec::Codec;
use crate::error::Result;
use crate::event::{Event, NewEvent, StoredEvent};
use crate::id::{EventId, StreamId, Version};
use crate::panics::catch;
use crate::repository::fold::{Fold, Loaded};
use crate::store::log::reader::Visitor;

/// The most events of one command that are compared. The number of events under a key is not stored, so each number up to this is tried.
pub(super) const MOST_EVENTS: u64 = 256;

/// An event as it is stored.
struct Written {
    id: EventId,
    event_type: String,
    schema_version: u32,
    codec: Codec,
    payload: Vec<u8>,
}

/// Collects the last events of a stream.
#[derive(Default)]
pub(super) struct Tail(Vec<(Version, Written)>);

impl Visitor for Tail {
    fn snapshot(&mut self, _: Version, _: EventId, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn event(&mut self, version: Version, id: EventId, event: StoredEvent<'_>) -> Result<()> {
        let StoredEvent { schema_version, codec, .. } = event;
        let (event_type, payload) = (event.event_type.to_owned(), event.payload.to_vec());
        self.0.push((version, Written { id, event_type, schema_version, codec, payload }));
        Ok(())
    }
}

impl Tail {
    /// Returns whether `command` led to the last events of the tail. `before` is the state before the first event of the tail.
    pub(super) fn ends_with_events_of<A: Handle<C>, C>(
        &self,
        stream: &StreamId,
        before: Loaded<A>,
        command: &C,
    ) -> Result<bool> {
        let mut fold = Fold { stream, loaded: before, bad_snapshot: false };
        for (place, (version, written)) in self.0.iter().enumerate() {
            if leads_to(&fold.loaded.state, command, &self.0[place..]) {
                return Ok(true);
            }
            fold.event(*version, written.id, written.stored())?;
        }
        Ok(false)
    }
}

/// Returns whether `state` decides exactly these events on `command`. A decision that panics or is refused does not.
fn leads_to<A: Handle<C>, C>(state: &A, command: &C, written: &[(Version, Written)]) -> bool {
    let Ok(Ok(events)) = catch(|| state.handle(command)) else { return false };
    events.len() == written.len() && events.iter().zip(written).all(|(event, (_, written))| written.is::<A>(event))
}

impl Written {
    fn stored(&self) -> StoredEvent<'_> {
        StoredEvent::new(&self.event_type, self.schema_version, self.codec, &self.payload)
    }

    fn is<A: Aggregate>(&self, event: &A::Event) -> bool {
        let schema = event.schema();
        if schema.name != self.event_type {
            return false;
        }
        // A newer release writes the same event in another form, so only the types can be compared.
        if (schema.version, schema.codec) != (self.schema_version, self.codec) {
            return true;
        }
        NewEvent::new(event).is_ok_and(|new| new.payload == self.payload || self.is_json_of(&new))
    }

    /// Returns whether the payloads are equal as JSON. The order of a hash map's entries says nothing.
    fn is_json_of(&self, new: &NewEvent) -> bool {
        let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).ok();
        self.codec == Codec::Json && json(&new.payload).is_some_and(|new| json(&self.payload) == Some(new))
    }
}
