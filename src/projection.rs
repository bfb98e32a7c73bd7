//! Projections: they fold events into read models.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::backoff::delays;
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::event::{Envelope, Event};
use crate::id::ProjectionName;
use crate::shape::types::Type;
use crate::store::log::query::Filter;
use crate::store::log::reader::EventReader;
use crate::store::log::token::Token;
use crate::store::model::processors::ProcessorKind;
use crate::store::model::read_model::ReadModel;

/// Folds events into a read model.
///
/// Every event takes effect once and in order, even after failures, because one transaction commits the change and the checkpoint. If an
/// event cannot be applied, its aggregate is parked: the aggregate's events wait, in order, until they can be applied.
///
/// # Examples
/// ```
/// use retell::prelude::*;
/// use retell::rusqlite::Connection;
///
/// #[derive(Event)]
/// #[event("shoe.sold")]
/// struct Sold {
///     cents: u32,
/// }
///
/// struct Sales;
///
/// #[async_trait]
/// impl Projection for Sales {
///     const NAME: &'static str = "sales";
///     type Event = Sold;
///     type Tx = Connection;
///
///     async fn setup(&self, db: &mut Connection) -> Result<(), BoxError> {
///         Ok(db.execute_batch("CREATE TABLE IF NOT EXISTS sales (cents INTEGER NOT NULL)")?)
///     }
///
///     async fn apply(&self, db: &mut Connection, sold: Envelope<Sold>) -> Result<(), BoxError> {
///         db.execute("INSERT INTO sales VALUES (?1)", [sold.event.cents])?;
///         Ok(())
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (log, models) = (SqliteStore::in_memory().await?, SqliteReadModel::in_memory().await?);
/// log.append_events(("shoe", "1"), ExpectedVersion::NoStream, [Sold { cents: 500 }, Sold { cents: 70 }]).await?;
/// App::new(log, models.clone()).projection(Sales).catch_up().await?;
/// let cents: u32 = models.query(|db| db.query_row("SELECT sum(cents) FROM sales", [], |row| row.get(0))).await?;
/// assert_eq!(cents, 570);
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[async_trait]
pub trait Projection: Send + Sync + 'static {
    /// The name of the checkpoint and the queue. A new name starts from the beginning of the log.
    const NAME: &'static str;

    /// The events that the projection understands: those of one aggregate, a union of several, or [`AnyEvent`](crate::event::AnyEvent).
    type Event: Event;

    /// The transaction that the projection writes through. The [`ReadModel`] that it runs on provides it.
    type Tx: Send + ?Sized + 'static;

    /// Returns the name that the projection runs under: [`NAME`](Self::NAME), unless the name is chosen at run time, for example for one
    /// projection per tenant.
    fn name(&self) -> &str {
        Self::NAME
    }

    /// Returns the filter for the events that the projection receives; by default exactly those that [`Event`](Self::Event) can hold.
    ///
    /// The default skips events of an unknown type. With a wider filter, such as [`Filter::aggregates`], such an event is an error that
    /// parks its aggregate.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a filter that no event can pass.
    fn filter(&self) -> Result<Filter> {
        Filter::of::<Self::Event>()
    }

    /// Returns the kind of the projection, for [`operate`](crate::operate). Views, reactions and processes run as projections, too.
    fn kind(&self) -> ProcessorKind {
        ProcessorKind::Projection
    }

    /// Returns the wire shape of the states that the projection stores, if it is known; by default `None`. A view returns that of
    /// [`View::State`](crate::View::State).
    ///
    /// A worker registers it at its start, and refuses to start with [`ErrorKind::StateChanged`] if workers of another release store states
    /// that this one cannot read, or cannot read the states of this one.
    fn state(&self) -> Option<Type> {
        None
    }

    /// Checks that the projection can continue from what it has stored. The worker calls it at every start, before anything else. The default
    /// returns `Ok`. A view checks that its rows decode.
    ///
    /// # Errors
    /// An error ends the worker, and a transient one is retried. [`ErrorKind::StateChanged`] is meant for this.
    async fn check(&self) -> crate::error::Result<()> {
        Ok(())
    }

    /// Prepares the read model, for example creates missing tables. The worker calls it in a transaction at every start, before the first
    /// event.
    ///
    /// # Errors
    /// An error ends the worker.
    async fn setup(&self, _tx: &mut Self::Tx) -> Result<(), BoxError> {
        Ok(())
    }

    /// Applies one event.
    ///
    /// A call that takes longer than the [limit](crate::WorkerOptions::with_longest_call), 20 seconds by default, is dropped with its transaction
    /// and counts as an error. So does a panic.
    ///
    /// # Errors
    /// An error rolls the batch back. The event is retried; if the retries fail, its aggregate is parked and later retried from this event
    /// on. Keep the database's error in the chain of causes, so that a lost connection does not count as a failure of the event.
    async fn apply(&self, tx: &mut Self::Tx, event: Envelope<Self::Event>) -> Result<(), BoxError>;

    /// Applies the events of a batch, in order. The default applies them one by one. Override it if one statement can apply many events.
    ///
    /// # Errors
    /// As [`apply`](Self::apply). After a failure, the events are delivered again in smaller and smaller batches, down to a single event.
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

    fn kind(&self) -> ProcessorKind {
        (**self).kind()
    }

    fn state(&self) -> Option<Type> {
        (**self).state()
    }

    async fn setup(&self, tx: &mut P::Tx) -> Result<(), BoxError> {
        (**self).setup(tx).await
    }

    async fn check(&self) -> crate::error::Result<()> {
        (**self).check().await
    }

    async fn apply(&self, tx: &mut P::Tx, event: Envelope<P::Event>) -> Result<(), BoxError> {
        (**self).apply(tx, event).await
    }

    async fn apply_batch(&self, tx: &mut P::Tx, events: Vec<Envelope<P::Event>>) -> Result<(), BoxError> {
        (**self).apply_batch(tx, events).await
    }
}

/// Waits until `projection`, in whichever process it runs, has applied a command's events. A projection that has parked the events'
/// aggregate counts as having applied them. In an [`App`](crate::App), use [`Running::wait_for`](crate::app::Running::wait_for) instead.
///
/// # Errors
/// [`ErrorKind::Behind`] if the projection has not applied the events within `timeout`, [`ErrorKind::TimedOut`] if the store has not assigned
/// a position to them by then, [`ErrorKind::UnknownProjection`] if no projection of this name has started by then, [`ErrorKind::HistoryChanged`] if the log lost the events, otherwise a [read error](crate::Error#read-errors).
///
/// # Cancel safety
/// May be dropped at any time: it changes nothing.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use retell::projection::wait_for;
/// use retell::{Appended, ProjectionName, prelude::*};
///
/// /// Waits until the projection `sales`, which another process runs, has applied an append of this process.
/// async fn sales_of(log: &SqliteStore, models: &SqliteReadModel, appended: &Appended) -> retell::Result<()> {
///     let sales = ProjectionName::new("sales")?;
///     wait_for(models, log, &sales, appended.token(), Duration::from_secs(5)).await
/// }
/// ```
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
        let mut behind =
            Error::new(ErrorKind::TimedOut(format!("waiting for the position of commit {}", token.commit())));
        if let Some(wanted) = log.position_of(token).await? {
            let applied = models.mark(projection).await?.position;
            if applied >= wanted {
                return Ok(());
            }
            behind = ErrorKind::Behind { projection: projection.clone(), applied, wanted }.into();
        }
        if Instant::now() >= end {
            // Only now: a projection that has never run may start within the timeout.
            models.check_name(projection).await?;
            return Err(behind);
        }
        tokio::time::sleep_until(end.min(Instant::now() + delays.next_delay())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::AnyEvent;

    /// Overrides everything that a worker asks.
    struct Sums;

    #[async_trait]
    impl Projection for Sums {
        const NAME: &'static str = "sums";
        type Event = AnyEvent;
        type Tx = ();

        fn name(&self) -> &'static str {
            "sums of a tenant"
        }

        fn filter(&self) -> Result<Filter> {
            Filter::aggregates(["tenant"])
        }

        fn kind(&self) -> ProcessorKind {
            ProcessorKind::View
        }

        fn state(&self) -> Option<Type> {
            Some(Type::of::<u64>())
        }

        async fn apply(&self, (): &mut (), _: Envelope<AnyEvent>) -> Result<(), BoxError> {
            Ok(())
        }
    }

    #[test]
    fn shared_projection_is_the_same() {
        let (own, shared) = (Sums, Arc::new(Sums));
        assert_eq!(Projection::name(&shared), own.name());
        assert_eq!(Projection::filter(&shared).ok(), own.filter().ok());
        assert_eq!(Projection::kind(&shared), own.kind());
        assert_eq!(
            Projection::state(&shared).map(|state| state.to_string()),
            own.state().map(|state| state.to_string())
        );
        assert!(own.state().is_some());
    }
}
