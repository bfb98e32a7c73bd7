//! A1. A panic in user code is a failure of that event or append, on every store and in every runner.

use std::convert::Infallible;

use retell::ErrorKind;
use retell::prelude::*;
use serde::{Deserialize, Serialize};

use crate::sites::{Site, on_every_store};

/// The number that every piece of code here panics on.
const UNLUCKY: u64 = 13;

fn check(place: &str, number: u64) {
    assert!(number != UNLUCKY, "{place}: no code here expects {number}");
}

#[derive(Event, Debug, Clone)]
enum Thing {
    #[event("thing.happened")]
    Happened(u64),
    #[event("thing.moved", version = 2, upcast(from_v1))]
    Moved(u64),
    #[event("thing.named")]
    Named(Fragile),
}

fn from_v1(number: u64) -> Thing {
    check("upcaster", number);
    Thing::Moved(number)
}

impl Thing {
    fn number(&self) -> u64 {
        let (Self::Happened(number) | Self::Moved(number) | Self::Named(Fragile(number))) = self;
        *number
    }
}

/// The first version of `Thing::Moved`.
#[derive(Event)]
#[event("thing.moved")]
struct OldMoved(u64);

/// Panics when it is encoded if it is twice the unlucky number, and when it is decoded if it is the unlucky number.
#[derive(Debug, Clone)]
struct Fragile(u64);

impl Serialize for Fragile {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        check("Serialize", self.0 / 2);
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Fragile {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        check("Deserialize", number);
        Ok(Self(number))
    }
}

/// Panics when it applies the unlucky number.
#[derive(Aggregate, Debug, Clone, Default, PartialEq)]
#[aggregate("thing", event = Thing, snapshots = 2)]
struct Things {
    count: u64,
}

impl Apply<Thing> for Things {
    fn apply(&mut self, event: Thing) {
        self.count += 1;
        check("Aggregate::apply", event.number());
    }
}

struct Record(u64);

impl Handle<Record> for Things {
    type Error = Infallible;

    fn handle(&self, Record(number): &Record) -> Result<Vec<Thing>, Infallible> {
        check("Handle::handle", number / 3);
        Ok(vec![Thing::Happened(0), Thing::Happened(*number)])
    }
}

/// Returns an error and its causes as one text.
fn text(error: &dyn std::error::Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

async fn append(store: &impl EventStore, stream: &str, events: impl IntoIterator<Item = impl Event>) {
    store.append_events(("thing", stream), ExpectedVersion::Any, events).await.unwrap();
}

/// A command whose decision or whose events panic is refused, and writes nothing. The next one is executed.
async fn panicking_command_writes_nothing<S: EventStore + Clone, M>(Site { store, .. }: Site<S, M>) {
    let things = Repository::<Things>::new(store.clone());
    things.execute("a", Record(1)).await.unwrap();
    for (number, place) in [(UNLUCKY, "Aggregate::apply"), (3 * UNLUCKY, "Handle::handle")] {
        // Once with the cached state, and once without.
        for things in [&things, &Repository::new(store.clone())] {
            let refused = things.execute("a", Record(number)).await.unwrap_err();
            let CommandError::Failed(error) = &refused else { panic!("{refused:?}") };
            assert!(matches!(error.kind(), ErrorKind::Panicked(_)), "{error:?}");
            let text = text(error);
            assert!(text.contains(&format!("panicked: {place}: no code here expects 13")), "{text}");
            assert!(text.contains("thing/a"), "{text}");
        }
    }
    assert_eq!(store.head().await.unwrap(), Position::new(2), "a refused command has written nothing");
    things.execute("a", Record(2)).await.unwrap();
    assert_eq!(things.load("a").await.unwrap().state.count, 4);
}

/// An event that cannot be decoded or applied is an error with the text of the panic, and later commands on other aggregates run.
async fn unreadable_event_is_an_error_with_its_text<S: EventStore + Clone, M>(Site { store, .. }: Site<S, M>) {
    append(&store, "upcast", [OldMoved(UNLUCKY)]).await;
    append(&store, "decode", [Thing::Named(Fragile(UNLUCKY))]).await;
    append(&store, "apply", [Thing::Happened(UNLUCKY)]).await;
    let things = Repository::<Things>::new(store.clone());
    for (id, place) in [("upcast", "upcaster"), ("decode", "Deserialize"), ("apply", "Aggregate::apply")] {
        for _ in 0..2 {
            let text = text(&things.load(id).await.unwrap_err());
            assert!(text.contains(&format!("panicked: {place}: no code here expects 13")), "{text}");
            assert!(text.contains(&format!("thing/{id}")) && text.contains("version 1"), "{text}");
            assert!(text.contains("thing."), "{text}");
        }
    }
    let encoded = NewEvent::new(&Thing::Named(Fragile(2 * UNLUCKY))).unwrap_err();
    assert!(matches!(encoded.kind(), ErrorKind::Unencodable(_)), "{encoded:?}");
    things.execute("good", Record(1)).await.unwrap();
}

on_every_store! {
    panicking_command_writes_nothing,
    unreadable_event_is_an_error_with_its_text,
}
