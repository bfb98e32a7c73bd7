//! Inline projections: applied in the transaction of the append itself, so that their read model never lags.
//!
//! An append through the handle that [`inline`] returns commits its events together with the projection's changes, or commits nothing. The
//! price: the projection's statements are part of every append, an append waits for rows that another append is changing, and an append that
//! the projection fails on is refused.

use std::sync::Arc;

use async_trait::async_trait;

use crate::error::{Error, ErrorKind, Result};
#[cfg(doc)]
use crate::event::Envelope;
use crate::event::RecordedEvent;
use crate::id::ProjectionName;
use crate::projection::Projection;
use crate::store::log::inline::{Inline, InlineStore};
use crate::store::log::query::Filter;

/// Returns a handle of the log whose appends apply `projection` in their own transaction. For a view, pass a
/// [`ViewProjection`](crate::view::ViewProjection). The read model is in the same place as the log: in its file
/// ([`SqliteStore::read_model`](crate::SqliteStore::read_model)), in its database, or in memory
/// ([`MemoryStore::read_model`](crate::MemoryStore::read_model)).
///
/// Every process that appends must use such a handle.
///
/// - **SQLite**: events arrive in log order, with their positions. The checkpoint moves with each append, so a worker of the same projection
///   may run at the same time, before or after. The next append also applies events that were appended without such a handle. Opening the
///   handle applies the rest of the log in one transaction: if that is a large part, let a worker apply it first.
/// - **In memory**: as on SQLite. An append inside a transaction of the same read model is refused, because it would wait for itself.
/// - **PostgreSQL, MySQL and MariaDB**: an event has no position yet, so [`Envelope::position`] is zero, and
///   [`Envelope::recorded_at`] is the time of this process's clock. The events of one stream arrive in order. Events of different aggregates
///   arrive in any order and concurrently, so the projection must satisfy the requirements of
///   [order per aggregate](crate::Worker::with_order_per_aggregate). The log must be empty, or a worker with order per aggregate must have
///   applied all of it while no process appends. From then on the projection's state is
///   [`ProjectionState::Inline`](crate::store::ProjectionState::Inline) and its checkpoint is the head of the log, so
///   [`wait_for`](crate::projection::wait_for) never waits. A worker of the same name is refused with [`ErrorKind::Invalid`].
///
/// Appends that share a commit share the projection's batch. If the projection fails, it is called again with fewer of these appends, until
/// the failing append is found. That append is refused with [`ErrorKind::Projection`] or with its decoding error, and writes nothing; the
/// other appends are written. A panic, and a call that takes longer than 20 seconds, are failures too. An append that is repeated under its idempotency key applies nothing.
///
/// # Errors
/// [`ErrorKind::Invalid`] if aggregates of the projection are parked or, on a server, if the projection is behind the log;
/// [`ErrorKind::Backend`] if the projection's [`setup`](Projection::setup) fails; [`ErrorKind::Projection`] or a decoding error if it cannot
/// apply the rest of the log; otherwise a [write error](Error#write-errors).
///
/// # Cancel safety
/// A dropped call may still set up the projection.
///
/// # Examples
/// ```
/// use retell::prelude::*;
///
/// #[derive(Event)]
/// #[event("stock.received")]
/// struct Received {
///     item: String,
///     count: u64,
/// }
///
/// struct OnStock;
///
/// impl View for OnStock {
///     const NAME: &'static str = "on_stock";
///     type Event = Received;
///     type State = u64;
///
///     fn key(&self, received: &Envelope<Received>) -> Option<String> {
///         Some(received.event.item.clone())
///     }
///
///     fn apply(&self, on_stock: &mut u64, received: Envelope<Received>) {
///         *on_stock += received.event.count;
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = SqliteStore::in_memory().await?;
/// let models = log.read_model();
/// let log = inline(log, ViewProjection::new(OnStock, models.clone())).await?;
/// let received = Received { item: "tea".into(), count: 12 };
/// log.append_events(("shelf", "1"), ExpectedVersion::Any, [received]).await?;
/// assert_eq!(Views::new(&OnStock, models).get("tea").await?, Some(12));
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
pub async fn inline<S, P>(log: S, projection: P) -> Result<S>
where
    S: InlineStore,
    P: Projection<Tx = S::Tx>,
{
    let (name, filter) = (ProjectionName::new(projection.name())?, projection.filter()?);
    projection.check().await?;
    log.with_inline(Arc::new(Inlined { name, filter, projection })).await
}

struct Inlined<P> {
    name: ProjectionName,
    filter: Filter,
    projection: P,
}

#[async_trait]
impl<P: Projection> Inline<P::Tx> for Inlined<P> {
    fn projection(&self) -> &ProjectionName {
        &self.name
    }

    fn filter(&self) -> &Filter {
        &self.filter
    }

    async fn set_up(&self, tx: &mut P::Tx) -> Result<()> {
        let failed =
            |source| Error::with_source(ErrorKind::Backend(format!("set up projection {}", self.name)), source);
        self.projection.setup(tx).await.map_err(failed)
    }

    async fn apply(&self, tx: &mut P::Tx, events: Vec<RecordedEvent>) -> Result<()> {
        let Some(first) = events.first() else { return Ok(()) };
        let mut decoded = Vec::with_capacity(events.len());
        events.iter().try_for_each(|event| event.decode_into::<P::Event>(&mut decoded))?;
        if decoded.is_empty() {
            return Ok(());
        }
        self.projection.apply_batch(tx, decoded).await.map_err(|source| {
            let (projection, position) = (self.name.clone(), first.position);
            let event_type = first.event.event_type.clone();
            Error::with_source(ErrorKind::Projection { projection, position, event_type }, source)
        })
    }
}
