//! Given these events, when this command comes, then those events or that refusal.
//!
//! ```
//! # use retell::{Aggregate, Apply, Event, Handle};
//! # #[derive(Event, Debug, Clone, PartialEq)]
//! # enum DoorEvent { #[event("door.opened")] Opened, #[event("door.closed")] Closed }
//! # #[derive(Aggregate, Debug, Default, Clone, PartialEq)]
//! # #[aggregate("door", event = DoorEvent)]
//! # struct Door { open: bool }
//! # impl Apply<DoorEvent> for Door { fn apply(&mut self, event: DoorEvent) { self.open = matches!(event, DoorEvent::Opened); } }
//! # #[derive(Debug, PartialEq)]
//! # struct AlreadyOpen;
//! # struct Open;
//! # impl Handle<Open> for Door {
//! #     type Error = AlreadyOpen;
//! #     fn handle(&self, _: &Open) -> Result<Vec<DoorEvent>, AlreadyOpen> {
//! #         if self.open { Err(AlreadyOpen) } else { Ok(vec![DoorEvent::Opened]) }
//! #     }
//! # }
//! use retell::testing::given;
//!
//! given::<Door>([]).when(Open).then([DoorEvent::Opened]);
//! given::<Door>([DoorEvent::Opened]).when(Open).then_rejected(AlreadyOpen);
//! given::<Door>([DoorEvent::Opened, DoorEvent::Closed]).then_state(Door { open: false });
//! ```

#![expect(clippy::needless_pass_by_value, reason = "a scenario reads as a sentence, without `&`")]

use std::fmt::Debug;

use crate::aggregate::{Aggregate, Handle};
use crate::event::Event;

/// Starts a scenario with what has happened. Each event goes through its stored form and back, so that a scenario also finds an event
/// that cannot be read again.
///
/// # Panics
/// An event cannot be encoded or decoded.
pub fn given<A: Aggregate>(events: impl IntoIterator<Item = A::Event>) -> Given<A> {
    let mut state = A::default();
    for event in events {
        state.apply(stored_and_back(&event));
    }
    Given { state }
}

pub(super) fn stored_and_back<E: Event>(event: &E) -> E {
    let schema = event.schema();
    let mut payload = Vec::new();
    if let Err(error) = event.encode(&mut payload) {
        panic!("cannot encode {}: {error}", schema.name);
    }
    let stored = crate::event::StoredEvent {
        event_type: schema.name,
        schema_version: schema.version,
        codec: schema.codec,
        payload: &payload,
    };
    E::decode(stored).unwrap_or_else(|error| panic!("cannot read {} back: {error:?}", schema.name))
}

/// An aggregate with a past.
#[derive(Debug, Clone)]
#[must_use = "a scenario checks nothing before its `then`"]
pub struct Given<A> {
    state: A,
}

impl<A: Aggregate> Given<A> {
    /// Sends a command.
    pub fn when<C>(self, command: C) -> When<A, A::Error>
    where
        A: Handle<C>,
    {
        When { decided: self.state.handle(&command) }
    }

    /// Compares the state with an expected one.
    ///
    /// # Panics
    /// They differ.
    #[track_caller]
    pub fn then_state(self, expected: A)
    where
        A: Debug + PartialEq,
    {
        assert_eq!(self.state, expected, "the state is not the expected one");
    }
}

/// What the aggregate decided.
#[derive(Debug)]
#[must_use = "a scenario checks nothing before its `then`"]
pub struct When<A: Aggregate, R> {
    decided: Result<Vec<A::Event>, R>,
}

impl<A: Aggregate, R: Debug> When<A, R>
where
    A::Event: Debug + PartialEq,
{
    /// The command led to exactly these events.
    ///
    /// # Panics
    /// It led to others, or was refused.
    #[track_caller]
    pub fn then(self, expected: impl IntoIterator<Item = A::Event>) {
        let expected: Vec<_> = expected.into_iter().collect();
        match self.decided {
            Ok(events) => assert_eq!(events, expected, "the command led to other events"),
            Err(refusal) => panic!("the command was refused with {refusal:?}, expected were {expected:?}"),
        }
    }

    /// The command was refused for this reason.
    ///
    /// # Panics
    /// It was refused for another reason, or not at all.
    #[track_caller]
    pub fn then_rejected(self, expected: R)
    where
        R: PartialEq,
    {
        match self.decided {
            Ok(events) => panic!("the command led to {events:?}, expected was the refusal {expected:?}"),
            Err(refusal) => assert_eq!(refusal, expected, "the command was refused for another reason"),
        }
    }
}
