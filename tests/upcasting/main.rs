//! Stored events whose type has changed since: renamed, retired, split. Each reader of the library gets the same events.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lock;
mod readers;
mod renamed;
mod retired;
mod split;
#[path = "../support/workers.rs"]
mod workers;

use retell::event::NewEvent;
use retell::store::Append;
use retell::{Codec, EventId, EventStore, EventType, ExpectedVersion, StreamId};

/// An event in the form in which an older release has stored it.
#[derive(Debug, Clone, Copy)]
struct Stored(&'static str, u32, &'static str);

impl Stored {
    fn event(self) -> NewEvent {
        let Self(name, version, payload) = self;
        NewEvent::stored(EventId::generate(), EventType::new(name).unwrap(), version, Codec::Json, payload.into())
    }
}

fn order(id: &str) -> StreamId {
    StreamId::parse("order", id).unwrap()
}

async fn append(log: &impl EventStore, id: &str, events: &[Stored]) {
    let events = events.iter().map(|event| event.event()).collect();
    log.append(Append::new(order(id), ExpectedVersion::Any, events)).await.unwrap();
}
