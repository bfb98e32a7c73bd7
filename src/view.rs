//! Read models without SQL: a key for each event, and a fold of each key's events into a state that the library keeps.
//!
//! ```
//! use retell::{Envelope, Event, View};
//! # #[derive(Event)]
//! # enum Sold { #[event("shoe.sold")] Shoe { customer: String, cents: u64 } }
//!
//! /// What each customer has spent, whatever on.
//! struct Spent;
//!
//! impl View for Spent {
//!     const NAME: &'static str = "spent";
//!     type Event = Sold;
//!     type State = u64;
//!
//!     fn key(&self, event: &Envelope<Sold>) -> Option<String> {
//!         let Sold::Shoe { customer, .. } = &event.event;
//!         Some(customer.clone())
//!     }
//!
//!     fn apply(&self, spent: &mut u64, event: Envelope<Sold>) {
//!         let Sold::Shoe { cents, .. } = event.event;
//!         *spent += cents;
//!     }
//! }
//! ```
//!
//! A [`Worker::view`](crate::Worker::view) keeps its rows up to date, and [`Views`] reads them.

pub(crate) mod fold;
pub(crate) mod reader;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::event::{Envelope, Event};
use crate::id::Generation;
use crate::store::log::query::Filter;
use crate::store::model::views::{Fields, ViewId};

pub use fold::ViewProjection;
pub use reader::{Found, Paging, Views};

/// A read model of rows: each event selects a row by its key and changes its state. A view is pure: no clock, no I/O, the same result each time.
pub trait View: Send + Sync + 'static {
    /// The name of its rows, and of the projection that keeps them. Without `@`. Another name has no rows yet.
    const NAME: &'static str;

    /// The events it understands: those of one aggregate, or a union of several.
    type Event: Event;

    /// What a row holds, stored as JSON. `Default` is a row before its first event.
    ///
    /// A field that is added later needs a default for the rows that exist; a view whose fold has changed gets another
    /// [`generation`](Self::generation).
    type State: Default + Serialize + DeserializeOwned + Send + 'static;

    /// Returns the name of this view's rows: [`NAME`](Self::NAME), unless the name is chosen at run time, as for one view per tenant.
    fn name(&self) -> &str {
        Self::NAME
    }

    /// Returns the generation of the rows that this fold keeps. Raise it when the fold has changed: new rows are built next to those that
    /// readers see, and replace them when they are complete; see [`Rebuild`](crate::Rebuild).
    fn generation(&self) -> Generation {
        ViewId::FIRST
    }

    /// Returns the key of the row that an event changes; `None` for an event that changes nothing. A key has 1 to 255 bytes and no NUL;
    /// with any other the event fails, and its aggregate is parked.
    fn key(&self, event: &Envelope<Self::Event>) -> Option<String>;

    /// Changes the state of a row by an event. A row that does not exist yet begins as the default state.
    ///
    /// Events come in log order, unless the worker has order per aggregate: then those of different aggregates come in any order, and the
    /// fold must not depend on it.
    fn apply(&self, state: &mut Self::State, event: Envelope<Self::Event>);

    /// Returns whether a row stays after an event has changed it; `false` deletes it. The next event of its key begins a new one.
    ///
    /// By default every row stays, even one in its default state.
    fn keep(&self, _state: &Self::State) -> bool {
        true
    }

    /// Returns the fields that a row can be found by, besides its key. Where this has changed, rows that are there are found by the new fields from their next
    /// event on.
    fn fields(&self, _state: &Self::State) -> Fields {
        Fields::new()
    }

    /// The events it gets, as a projection's [`filter`](crate::Projection::filter).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a filter that cannot be.
    fn filter(&self) -> Result<Filter> {
        Filter::of::<Self::Event>()
    }
}

impl<V: View> View for Arc<V> {
    const NAME: &'static str = V::NAME;
    type Event = V::Event;
    type State = V::State;

    fn name(&self) -> &str {
        (**self).name()
    }

    fn generation(&self) -> Generation {
        (**self).generation()
    }

    fn key(&self, event: &Envelope<V::Event>) -> Option<String> {
        (**self).key(event)
    }

    fn apply(&self, state: &mut V::State, event: Envelope<V::Event>) {
        (**self).apply(state, event);
    }

    fn keep(&self, state: &V::State) -> bool {
        (**self).keep(state)
    }

    fn fields(&self, state: &V::State) -> Fields {
        (**self).fields(state)
    }

    fn filter(&self) -> Result<Filter> {
        (**self).filter()
    }
}
