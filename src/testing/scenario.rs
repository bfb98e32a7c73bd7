//! Scenarios for aggregates: given past events, when a command is handled, then the aggregate emits events or rejects the command.
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
use crate::error::{Error, chain};
use crate::event::{Event, NewEvent};

/// Starts a scenario with the aggregate's past events. Each event is encoded and decoded, so a scenario also detects an event that cannot be
/// read back.
///
/// # Panics
/// If an event cannot be encoded or decoded.
#[track_caller]
pub fn given<A: Aggregate>(events: impl IntoIterator<Item = A::Event>) -> Given<A> {
    let mut state = A::default();
    for event in events {
        state.apply(round_trip(&event));
    }
    Given { state }
}

/// Encodes an event and decodes it again, as a store would.
#[track_caller]
pub(super) fn round_trip<E: Event>(event: &E) -> E {
    NewEvent::round_trip(event).unwrap_or_else(|error| panic!("{}", text(&error)))
}

/// Returns an error and its causes as one text.
pub(super) fn text(error: &Error) -> String {
    chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// An aggregate that has applied its past events. See the [module](self) for an example.
#[derive(Debug, Clone)]
#[must_use = "a scenario checks nothing before its `then`"]
pub struct Given<A> {
    state: A,
}

impl<A: Aggregate> Given<A> {
    /// Handles a command. Each event that it emits is encoded and decoded.
    ///
    /// # Panics
    /// If an event cannot be encoded or decoded.
    #[track_caller]
    pub fn when<C>(self, command: C) -> When<A, A::Error>
    where
        A: Handle<C>,
    {
        let decided = self.state.handle(&command);
        let stored = decided.iter().flatten().map(round_trip).collect();
        When { decided, stored }
    }

    /// Asserts that the aggregate's state equals `expected`.
    ///
    /// # Panics
    /// If the states differ.
    #[track_caller]
    pub fn then_state(self, expected: A)
    where
        A: Debug + PartialEq,
    {
        assert_eq!(self.state, expected, "the state is not the expected one");
    }
}

/// The outcome of a command: the events that the aggregate emitted, or its error.
#[derive(Debug)]
#[must_use = "a scenario checks nothing before its `then`"]
pub struct When<A: Aggregate, R> {
    decided: Result<Vec<A::Event>, R>,
    /// The emitted events as a store returns them.
    stored: Vec<A::Event>,
}

impl<A: Aggregate, R: Debug> When<A, R>
where
    A::Event: Debug + PartialEq,
{
    /// Asserts that the command emitted exactly the `expected` events.
    ///
    /// # Panics
    /// If the command emitted other events or was rejected, or if an event differs from its stored form.
    #[track_caller]
    pub fn then(self, expected: impl IntoIterator<Item = A::Event>) {
        let expected: Vec<_> = expected.into_iter().collect();
        match self.decided {
            Ok(events) => {
                assert_eq!(events, expected, "the command emitted other events");
                assert_eq!(self.stored, expected, "the events are others after they were encoded and decoded");
            }
            Err(rejection) => panic!("the command was rejected with {rejection:?}, expected events {expected:?}"),
        }
    }

    /// Asserts that the aggregate rejected the command with `expected`.
    ///
    /// # Panics
    /// If the command was accepted or rejected with another error.
    #[track_caller]
    pub fn then_rejected(self, expected: R)
    where
        R: PartialEq,
    {
        match self.decided {
            Ok(events) => panic!("the command emitted {events:?}, expected rejection {expected:?}"),
            Err(rejection) => assert_eq!(rejection, expected, "the command was rejected with another error"),
        }
    }
}
