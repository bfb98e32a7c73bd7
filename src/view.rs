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
//!     type Event = Sold;
//!     type State = u64;
//!
//!     fn name(&self) -> &str {
//!         "spent"
//!     }
//!
//!     fn key(&self, event: &Envelope<Sold>) -> Option<String> {
//!         let Sold::Shoe { customer, .. } = &event.event;
//!         Some(customer.clone())
//!     }
//!
//!     fn apply(&self, spent: &mut Option<u64>, event: Envelope<Sold>) {
//!         let Sold::Shoe { cents, .. } = event.event;
//!         *spent.get_or_insert_default() += cents;
//!     }
//! }
//! ```
//!
//! A [`Worker::view`](crate::Worker::view) keeps its rows up to date, and [`Views`] reads them.

pub(crate) mod fold;
mod reader;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::event::{Envelope, Event};
use crate::id::Generation;
use crate::store::log::query::Filter;
use crate::store::model::views::{Fields, ViewId};

pub use fold::ViewProjection;
#[cfg(feature = "testing")]
pub use reader::{Found, Paging, Views};

/// A read model of rows: events choose a row by its key, and change its state. Pure: no clock, no input or output, the same each time.
pub trait View: Send + Sync + 'static {
    /// What it understands: the events of one aggregate, or a union of several.
    type Event: Event;

    /// What a row holds. It is kept as JSON. A field that is added later needs a default for the rows that are there; a view whose fold has
    /// changed gets another [`generation`](Self::generation).
    type State: Serialize + DeserializeOwned + Send + 'static;

    /// The name of its rows, and of the projection that keeps them. Without `@`.
    fn name(&self) -> &str;

    /// Which generation of its rows this fold keeps. Raise it when the fold has changed: its rows are built beside those that readers see, and
    /// shown to them when they are complete; see [`Rebuild`](crate::Rebuild).
    fn generation(&self) -> Generation {
        ViewId::FIRST
    }

    /// The row that an event changes; `None` for an event that changes nothing. 1 to 255 bytes without NUL: where it is anything else, the
    /// event fails, and its aggregate is parked.
    fn key(&self, event: &Envelope<Self::Event>) -> Option<String>;

    /// Changes a row by an event. There is no row at first: `None`; and none any more where `None` is left.
    ///
    /// Events come in log order, unless the worker has order per aggregate: then those of different aggregates come in any order, and the
    /// fold must not depend on it.
    fn apply(&self, state: &mut Option<Self::State>, event: Envelope<Self::Event>);

    /// What a row can be found by beside its key. Where this has changed, rows that are there are found by the new fields from their next
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

    fn apply(&self, state: &mut Option<V::State>, event: Envelope<V::Event>) {
        (**self).apply(state, event);
    }

    fn fields(&self, state: &V::State) -> Fields {
        (**self).fields(state)
    }

    fn filter(&self) -> Result<Filter> {
        (**self).filter()
    }
}
