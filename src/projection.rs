//! What a projection is: events in, a read model out.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::backoff::delays;
use crate::error::{BoxError, ErrorKind, Result};
use crate::event::{Envelope, Event};
use crate::id::ProjectionName;
use crate::store::log::query::Filter;
use crate::store::log::reader::EventReader;
use crate::store::log::token::Token;
use crate::store::model::read_model::ReadModel;

/// Folds events into a read model. Every event is applied once in effect and in order, whatever fails on the way, since the change
/// and the checkpoint are one transaction. An aggregate whose event cannot be applied is set aside, in order, until it can.
#[async_trait]
pub trait Projection: Send + Sync + 'static {
    /// The name of its checkpoint and its queue. Another name starts from the beginning.
    const NAME: &'static str;

    /// The events it understands: those of one aggregate, a union of several, or [`AnyEvent`](crate::event::AnyEvent).
    type Event: Event;

    /// The transaction it writes through, given by the [`ReadModel`] it runs on.
    type Tx: Send + ?Sized + 'static;

    /// Returns the name it runs under: [`NAME`](Self::NAME), unless the name is chosen at run time, as for one projection per tenant.
    fn name(&self) -> &str {
        Self::NAME
    }

    /// The events it gets; by default exactly those that [`Event`](Self::Event) can hold.
    ///
    /// A wider filter, such as [`Filter::aggregates`], makes an event of an unknown type an error that parks its aggregate
    /// instead of something it passes over.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a filter that cannot be.
    fn filter(&self) -> Result<Filter> {
        Filter::of::<Self::Event>()
    }

    /// Runs in a transaction at every start, before the first event: the place to create tables if they are not there.
    ///
    /// # Errors
    /// Ends the worker.
    async fn setup(&self, _tx: &mut Self::Tx) -> Result<(), BoxError> {
        Ok(())
    }

    /// Applies one event.
    ///
    /// # Errors
    /// Rolls the batch back. The event is tried again; if that does not help, its aggregate is parked, and tried again from this event on.
    /// Keep the database's error in the chain of causes: a lost connection is no failure of the event's.
    async fn apply(&self, tx: &mut Self::Tx, event: Envelope<Self::Event>) -> Result<(), BoxError>;

    /// Applies the events of a batch, in order; by default one by one. Worth writing where one statement can do many events' work.
    ///
    /// # Errors
    /// As [`apply`](Self::apply). After a failure the events come again in smaller and smaller batches, down to one.
    async fn apply_batch(&self, tx: &mut Self::Tx, events: Vec<Envelope<Self::Event>>) -> Result<(), BoxError> {
        for event in events {
            self.apply(tx, event).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl<P: Projection> Projection for Arc<P> {
    const NAME: &'static str = P::NAME;
    type Event = P::Event;
    type Tx = P::Tx;

    fn name(&self) -> &str {
        (**self).name()
    }

    fn filter(&self) -> Result<Filter> {
        (**self).filter()
    }

    async fn setup(&self, tx: &mut P::Tx) -> Result<(), BoxError> {
        (**self).setup(tx).await
    }

    async fn apply(&self, tx: &mut P::Tx, event: Envelope<P::Event>) -> Result<(), BoxError> {
        (**self).apply(tx, event).await
    }

    async fn apply_batch(&self, tx: &mut P::Tx, events: Vec<Envelope<P::Event>>) -> Result<(), BoxError> {
        (**self).apply_batch(tx, events).await
    }
}

/// Waits until a projection has applied a command's events, whichever process runs it. A projection that has parked the events' aggregate
/// counts as past them. An [`App`](crate::App) does the same [by itself](crate::app::Running::wait_for).
///
/// # Errors
/// [`ErrorKind::Behind`] after `timeout`, [`ErrorKind::TimedOut`] if the events have no position by then; otherwise a read error.
pub async fn wait_for(
    models: &impl ReadModel,
    log: &impl EventReader,
    projection: &ProjectionName,
    token: Token,
    timeout: Duration,
) -> Result<()> {
    let end = Instant::now() + timeout;
    let mut delays = delays(Duration::from_millis(1), Duration::from_millis(50));
    loop {
        let mut behind = ErrorKind::TimedOut(format!("waiting for the position of commit {}", token.commit()));
        if let Some(wanted) = log.position_of(token.commit()).await? {
            let applied = models.checkpoint(projection).await?;
            if applied >= wanted {
                return Ok(());
            }
            behind = ErrorKind::Behind { projection: projection.clone(), applied, wanted };
        }
        if Instant::now() >= end {
            return Err(behind.into());
        }
        tokio::time::sleep_until(end.min(Instant::now() + delays.next_delay())).await;
    }
}
