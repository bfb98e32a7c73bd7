//! Projections that run within the appends' own transactions.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::Result;
use crate::event::RecordedEvent;
use crate::id::ProjectionName;
use crate::store::log::event_store::EventStore;
use crate::store::log::query::Filter;

/// What a store runs within the transaction of each append.
#[async_trait]
pub trait Inline<Tx: ?Sized>: Send + Sync + 'static {
    /// Whose checkpoint says that it is applied inline.
    fn projection(&self) -> &ProjectionName;

    /// The events it gets.
    fn filter(&self) -> &Filter;

    /// Runs in a transaction before anything else.
    ///
    /// # Errors
    /// Ends the set-up.
    async fn set_up(&self, tx: &mut Tx) -> Result<()>;

    /// Applies events that pass the filter, at least one.
    ///
    /// # Errors
    /// [`ErrorKind::Projection`](crate::ErrorKind::Projection), or what decoding met. Nothing is appended.
    async fn apply(&self, tx: &mut Tx, events: Vec<RecordedEvent>) -> Result<()>;
}

/// A log whose appends can change read models that lie beside it, in the same transaction.
#[async_trait]
pub trait InlineStore: EventStore + Sized {
    /// What such a projection writes through.
    type Tx: Send + ?Sized + 'static;

    /// A handle of the same log whose appends run this as well. Appends through other handles do not.
    ///
    /// # Errors
    /// As [`inline`](crate::inline::inline).
    async fn with_inline(&self, inline: Arc<dyn Inline<Self::Tx>>) -> Result<Self>;
}

/// All that a handle's appends run.
pub(crate) struct Inlines<Tx: ?Sized>(Vec<Arc<dyn Inline<Tx>>>);

impl<Tx: ?Sized + 'static> Inlines<Tx> {
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn and(&self, inline: Arc<dyn Inline<Tx>>) -> Self {
        Self(self.0.iter().cloned().chain([inline]).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<dyn Inline<Tx>>> {
        self.0.iter()
    }
}

impl<Tx: ?Sized + 'static> Clone for Inlines<Tx> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Tx: ?Sized + 'static> fmt::Debug for Inlines<Tx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|inline| inline.projection())).finish()
    }
}

/// Those that pass a filter.
pub(crate) fn wanted(filter: &Filter, events: &[RecordedEvent]) -> Vec<RecordedEvent> {
    events.iter().filter(|event| filter.passes(event)).cloned().collect()
}
