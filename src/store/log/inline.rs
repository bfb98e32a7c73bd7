//! Projections that run in the transaction of the append.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::ProjectionName;
use crate::panics::catch_in;
use crate::store::log::event_store::EventStore;
use crate::store::log::query::Filter;

/// A projection that a store applies in the transaction of each append. [`inline`](crate::inline::inline) makes one from a
/// [`Projection`](crate::Projection), and shows how to use it.
#[async_trait]
pub trait Inline<Tx: ?Sized>: Send + Sync + 'static {
    /// Returns the name of the projection. Its checkpoint records that it is applied inline.
    fn projection(&self) -> &ProjectionName;

    /// Returns the filter that selects its events.
    fn filter(&self) -> &Filter;

    /// Prepares the read model, for example its tables. The store calls this once, in a transaction, before it applies any event.
    ///
    /// # Errors
    /// [`ErrorKind::Backend`](crate::ErrorKind::Backend) if the projection fails. [`InlineStore::with_inline`] then fails with this error.
    async fn set_up(&self, tx: &mut Tx) -> Result<()>;

    /// Applies events that pass the filter. `events` is never empty.
    ///
    /// # Errors
    /// [`ErrorKind::Projection`](crate::ErrorKind::Projection) if the projection fails, and the error of an event that cannot be decoded.
    /// Nothing is appended then.
    async fn apply(&self, tx: &mut Tx, events: Vec<RecordedEvent>) -> Result<()>;
}

/// A log whose appends can change a read model in the same transaction. The read model is stored next to the log.
///
/// Programs call [`inline`](crate::inline::inline); a store implements this trait.
#[async_trait]
pub trait InlineStore: EventStore + Sized {
    /// The transaction that inline projections write through.
    type Tx: Send + ?Sized + 'static;

    /// Returns a handle to the same log whose appends also apply `inline`. Appends through other handles do not apply it.
    ///
    /// # Errors
    /// The errors of [`inline`](crate::inline::inline).
    async fn with_inline(&self, inline: Arc<dyn Inline<Self::Tx>>) -> Result<Self>;
}

/// The inline projections of a handle.
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

/// Sets up an inline projection. Its panic is an error.
pub(crate) async fn set_up<Tx: Send + ?Sized + 'static>(inline: &dyn Inline<Tx>, tx: &mut Tx) -> Result<()> {
    catch_in(inline.set_up(tx)).await.unwrap_or_else(|panicked| {
        let what = format!("set up projection {}", inline.projection());
        Err(Error::with_source(ErrorKind::Backend(what), panicked))
    })
}

/// The longest call of an inline projection. All appends of the process wait for it, and a server ends an idle transaction after 30 seconds.
const LONGEST_CALL: Duration = Duration::from_secs(20);

/// Applies `events` to an inline projection, except for those that it does not want. A panic, and a call that takes longer than
/// [`LONGEST_CALL`], are its failure on the first of them.
pub(crate) async fn apply<Tx: Send + ?Sized + 'static>(
    inline: &dyn Inline<Tx>,
    tx: &mut Tx,
    events: &[RecordedEvent],
) -> Result<()> {
    let wanted = wanted(inline.filter(), events);
    let Some(first) = wanted.first() else { return Ok(()) };
    let (projection, position) = (inline.projection().clone(), first.position);
    let kind = ErrorKind::Projection { projection, position, event_type: first.event.event_type.clone() };
    match timeout(LONGEST_CALL, catch_in(inline.apply(tx, wanted))).await {
        Ok(Ok(applied)) => applied,
        Ok(Err(panicked)) => Err(Error::with_source(kind, panicked)),
        Err(_) => {
            let late = format!("the projection did not return within {LONGEST_CALL:?} and was dropped");
            Err(Error::with_source(kind, late))
        }
    }
}

/// Returns the events that pass `filter`.
fn wanted(filter: &Filter, events: &[RecordedEvent]) -> Vec<RecordedEvent> {
    events.iter().filter(|event| filter.passes(event)).cloned().collect()
}
