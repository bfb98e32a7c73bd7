//! Views: read models without SQL. A view selects a key for each event and folds each key's events into a state, which the library stores.
//!
//! ```
//! use retell::{Envelope, Event, View};
//! # #[derive(Event)]
//! # enum Sold { #[event("shoe.sold")] Shoe { customer: String, cents: u64 } }
//!
//! /// The sum that each customer has spent.
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
//! A [`Worker::view`](crate::Worker::view) keeps the rows up to date, and [`Views`] reads them.

pub(crate) mod fold;
pub(crate) mod reader;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::event::{Envelope, Event};
use crate::id::Generation;
use crate::shape::Shape;
use crate::store::log::query::Filter;
use crate::store::model::views::{Fields, ViewId};

pub use fold::ViewProjection;
pub use reader::{Paging, RowPage, Views};

/// A read model of rows: each event selects a row by its key and changes the row's state. See the [module](self) for an example.
///
/// A view is pure: it uses no clock and no I/O, and returns the same result each time.
pub trait View: Send + Sync + 'static {
    /// The name of the rows, and of the projection that writes them. It must not contain `@`. A new name starts without rows.
    const NAME: &'static str;

    /// The events that the view understands: those of one aggregate, or a union of several.
    type Event: Event;

    /// The state of a row, stored as JSON. `Default` is the state before the row's first event.
    ///
    /// `#[derive(Value)]` is the shortest way to write it. A field that is added later needs a default: workers refuse to start with
    /// [`ErrorKind::StateChanged`](crate::ErrorKind::StateChanged) if an earlier release could not read what this one stores, or the other way
    /// around, or if most rows do not decode. For any other change of the state or the fold, raise the [`generation`](Self::generation).
    type State: Default + Serialize + DeserializeOwned + Shape + Send + 'static;

    /// Returns the name of this view's rows: [`NAME`](Self::NAME), unless the name is chosen at run time, for example for one view per tenant.
    fn name(&self) -> &str {
        Self::NAME
    }

    /// Returns the generation of the rows that this fold writes. Raise it when the fold changes: then new rows are built next to the rows that
    /// readers see, and replace them when they are complete. See [`Rebuild`](crate::Rebuild).
    fn generation(&self) -> Generation {
        ViewId::FIRST
    }

    /// Returns the key of the row that `event` changes, or `None` if it changes nothing. A key has 1 to 255 bytes and no NUL character. With
    /// any other key the event fails, and its aggregate is parked.
    fn key(&self, event: &Envelope<Self::Event>) -> Option<String>;

    /// Applies `event` to the state of its row. A row that does not exist yet starts with the default state.
    ///
    /// Events arrive in log order, unless the worker has order per aggregate. Then the events of different aggregates arrive in any order, and
    /// the fold must not depend on it.
    fn apply(&self, state: &mut Self::State, event: Envelope<Self::Event>);

    /// Returns whether a row stays after an event has changed it; `false` deletes the row. The next event of its key starts a new row.
    ///
    /// By default every row stays, even with the default state.
    fn keep(&self, _state: &Self::State) -> bool {
        true
    }

    /// Returns the fields that [`Views::find`] can find a row by. If this function changes, an existing row gets the new fields with its next
    /// event.
    fn fields(&self, _state: &Self::State) -> Fields {
        Fields::new()
    }

    /// Returns the filter for the events that the view receives, as a projection's [`filter`](crate::Projection::filter) does.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a filter that no event can pass.
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
