//! Scenarios for views: given the events of a log, then a view has certain rows.
//!
//! ```
//! # use retell::{Envelope, Event, View, store::Fields};
//! # #[derive(Event)]
//! # enum DoorEvent { #[event("door.opened")] Opened, #[event("door.closed")] Closed }
//! # struct Doors;
//! # impl View for Doors {
//! #     const NAME: &'static str = "doors";
//! #     type Event = DoorEvent;
//! #     type State = u32;
//! #     fn key(&self, event: &Envelope<DoorEvent>) -> Option<String> { Some(event.stream.aggregate_id().to_string()) }
//! #     fn apply(&self, open: &mut u32, event: Envelope<DoorEvent>) {
//! #         *open = if matches!(event.event, DoorEvent::Opened) { *open + 1 } else { 0 };
//! #     }
//! #     fn keep(&self, open: &u32) -> bool { *open > 0 }
//! #     fn fields(&self, open: &u32) -> Fields { Fields::new().with("open", open) }
//! # }
//! use retell::testing::given_log;
//!
//! given_log([("door/1", DoorEvent::Opened), ("door/2", DoorEvent::Opened), ("door/2", DoorEvent::Closed)])
//!     .then_row(&Doors, "1", 1)
//!     .then_no_row(&Doors, "2")
//!     .then_found(&Doors, "open", 1, ["1"]);
//! ```

use std::fmt::{Debug, Display};
use std::marker::PhantomData;
use std::time::Duration;

use chrono::DateTime;

use crate::event::{Event, RecordedEvent};
use crate::store::model::views::ViewRow;
use crate::testing::record::Record;
use crate::testing::scenario::text;
use crate::view::View;
use crate::view::fold::{rows_of, state_of};

/// Starts a scenario with the events of a log, each with its aggregate as `type/id`. Each event is encoded and decoded. The n-th event is
/// recorded n seconds after 1970-01-01T00:00:00Z.
///
/// # Panics
/// If an aggregate does not have the form `type/id`, or an event cannot be encoded.
#[must_use = "a scenario checks nothing before its `then`"]
pub fn given_log<E: Event>(events: impl IntoIterator<Item = (&'static str, E)>) -> GivenLog<E> {
    let (mut record, mut clock) = (Record::default(), DateTime::UNIX_EPOCH);
    let recorded = events.into_iter().map(|(aggregate, event)| {
        clock += Duration::from_secs(1);
        record.next(aggregate, &event, clock)
    });
    GivenLog { log: recorded.collect(), event: PhantomData }
}

/// The log of a scenario. See the [module](self) for an example.
#[derive(Debug, Clone)]
pub struct GivenLog<E> {
    log: Vec<RecordedEvent>,
    event: PhantomData<fn() -> E>,
}

impl<E: Event> GivenLog<E> {
    /// Asserts that `view` has a row under `key` with the state `expected`.
    ///
    /// # Panics
    /// If there is no such row, its state differs, or the view cannot be built from the log.
    #[track_caller]
    pub fn then_row<V: View<Event = E>>(self, view: &V, key: &str, expected: V::State) -> Self
    where
        V::State: Debug + PartialEq,
    {
        assert_eq!(self.state(view, key), Some(expected), "the row under {key} is not the expected one");
        self
    }

    /// Asserts that `view` has no row under `key`.
    ///
    /// # Panics
    /// If there is such a row, or the view cannot be built from the log.
    #[track_caller]
    pub fn then_no_row<V: View<Event = E>>(self, view: &V, key: &str) -> Self
    where
        V::State: Debug + PartialEq,
    {
        assert_eq!(self.state(view, key), None, "there is a row under {key}");
        self
    }

    /// Asserts that the rows whose `field` has `value` have exactly these `keys`, in byte order.
    ///
    /// # Panics
    /// If other rows have the value, or the view cannot be built from the log.
    #[track_caller]
    pub fn then_found<'k, V: View<Event = E>>(
        self,
        view: &V,
        field: &str,
        value: impl Display,
        keys: impl IntoIterator<Item = &'k str>,
    ) -> Self {
        let value = value.to_string();
        let rows = self.rows(view);
        let found = rows.iter().filter(|row| row.fields.contains(field, &value)).map(|row| row.key.as_str());
        let expected: Vec<_> = keys.into_iter().collect();
        assert_eq!(found.collect::<Vec<_>>(), expected, "other rows have the value {value:?} in the field {field}");
        self
    }

    #[track_caller]
    fn state<V: View<Event = E>>(&self, view: &V, key: &str) -> Option<V::State> {
        let row = self.rows(view).into_iter().find(|row| row.key.as_str() == key)?;
        state_of::<V>(view.name(), &row).unwrap_or_else(|error| panic!("{}", text(&error)))
    }

    #[track_caller]
    fn rows<V: View<Event = E>>(&self, view: &V) -> Vec<ViewRow> {
        let filter = view.filter().unwrap_or_else(|error| panic!("{}", text(&error)));
        let wanted = self.log.iter().filter(|event| filter.passes(event));
        let events = wanted.map(|event| event.decode().unwrap_or_else(|error| panic!("{}", text(&error)))).collect();
        rows_of(view, events).unwrap_or_else(|error| panic!("{}", text(&error)))
    }
}
