//! Read models that never lag: the same projections, applied in the append's own transaction.
//!
//! An append through the handle that [`inline`] returns is durable together with what the projection made of its events, or not at all. The
//! price: the projection's statements are part of every append, an append waits for rows that another is changing, and one that the
//! projection fails on is refused.

use std::sync::Arc;

use async_trait::async_trait;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Envelope, RecordedEvent};
use crate::id::ProjectionName;
use crate::projection::Projection;
use crate::store::log::inline::{Inline, InlineStore};
use crate::store::log::query::Filter;

/// A handle of the log whose appends apply a projection in their own transaction; for a view, a
/// [`ViewProjection`](crate::view::ViewProjection). The read model lies beside the log: in its file
/// ([`SqliteStore::read_model`](crate::SqliteStore::read_model)), in its database, or in memory
/// ([`MemoryStore::read_model`](crate::MemoryStore::read_model)).
///
/// Every process that appends must do so through such a handle.
///
/// - **SQLite**: events come in log order and with their positions. The checkpoint moves with each append, so a worker of the same projection may
///   run beside, before or after; what others have appended past this handle is applied by the next append. Opening brings the model to the
///   log's end, in one transaction: where that is far, let a worker do it first.
/// - **In memory**: as on SQLite. An append inside a transaction of the same read model is refused, since it would wait for itself.
/// - **PostgreSQL, MySQL and MariaDB**: an event has no position yet: [`Envelope::position`] is zero, and
///   [`Envelope::recorded_at`] is this process's clock. Events come in the order of their streams, those of different aggregates in any
///   order and at the same time, as with [order per aggregate](crate::Worker::with_order_per_aggregate): what that asks of a projection, this
///   does. The log must be empty, or a worker with order per aggregate must have brought the model to its end while nobody appends. From then
///   on the projection's state is [`ProjectionState::Inline`](crate::store::ProjectionState::Inline) and its checkpoint is the head of the log, so
///   that [`wait_for`](crate::projection::wait_for) never waits, and a worker of the same name is refused with [`ErrorKind::Invalid`].
///
/// Appends that share a commit share the projection's batch. A projection that fails is asked again with fewer of them, down to the one at fault,
/// which is refused with [`ErrorKind::Projection`], or with what decoding met; nothing of it is written, and the others are. An append that
/// is repeated under its key applies nothing.
///
/// # Errors
/// [`ErrorKind::Invalid`] if aggregates of the projection are parked, or on a server if it is behind the log. What its set-up, or
/// what it has to catch up with, met.
///
/// # Cancel safety
/// A dropped call may still set the projection up.
pub async fn inline<S, P>(log: S, projection: P) -> Result<S>
where
    S: InlineStore,
    P: Projection<Tx = S::Tx>,
{
    let (name, filter) = (ProjectionName::new(projection.name())?, projection.filter()?);
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
        let decoded: Vec<Envelope<P::Event>> = events.iter().map(RecordedEvent::decode).collect::<Result<_>>()?;
        self.projection.apply_batch(tx, decoded).await.map_err(|source| {
            let (projection, position) = (self.name.clone(), first.position);
            let event_type = first.event.event_type.clone();
            Error::with_source(ErrorKind::Projection { projection, position, event_type }, source)
        })
    }
}
