//! A projection without its type: the code of a worker is compiled once for each read model, and not once for each projection.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::error::{BoxError, Result};
use crate::event::{Event, EventTypes, RecordedEvent};
use crate::projection::Projection;
use crate::registry::Registry;
use crate::shape::types::Type;
use crate::store::log::query::Filter;
use crate::store::model::processors::ProcessorKind;

/// The call of a projection with events that are decoded.
pub(super) type Call<Tx> = Box<dyn for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<(), BoxError>> + Send>;

/// The part of a [`Projection`] that a worker calls.
#[async_trait]
pub(super) trait Handler<Tx: Send + ?Sized + 'static>: Send + Sync + 'static {
    fn name(&self) -> &str;

    fn filter(&self) -> Result<Filter>;

    /// Returns the events that it can decode. Empty if that is every event.
    fn events(&self) -> Result<Registry>;

    fn kind(&self) -> ProcessorKind;

    /// Returns the wire shape of the states that it stores, if it is known.
    fn state(&self) -> Option<Type>;

    fn types(&self) -> EventTypes;

    async fn check(&self) -> Result<()>;

    async fn setup(&self, tx: &mut Tx) -> Result<(), BoxError>;

    /// Decodes a batch. Returns the call that applies it.
    fn decode(self: Arc<Self>, events: &[&RecordedEvent]) -> Result<Call<Tx>>;
}

#[async_trait]
impl<P: Projection> Handler<P::Tx> for P {
    fn name(&self) -> &str {
        Projection::name(self)
    }

    fn filter(&self) -> Result<Filter> {
        Projection::filter(self)
    }

    fn events(&self) -> Result<Registry> {
        match P::Event::TYPES {
            EventTypes::Only(_) => Registry::new().with::<P::Event>(),
            EventTypes::All => Ok(Registry::new()),
        }
    }

    fn kind(&self) -> ProcessorKind {
        Projection::kind(self)
    }

    fn state(&self) -> Option<Type> {
        Projection::state(self)
    }

    fn types(&self) -> EventTypes {
        P::Event::TYPES
    }

    async fn check(&self) -> Result<()> {
        Projection::check(self).await
    }

    async fn setup(&self, tx: &mut P::Tx) -> Result<(), BoxError> {
        Projection::setup(self, tx).await
    }

    fn decode(self: Arc<Self>, events: &[&RecordedEvent]) -> Result<Call<P::Tx>> {
        let mut decoded = Vec::with_capacity(events.len());
        events.iter().try_for_each(|event| event.decode_into::<P::Event>(&mut decoded))?;
        if decoded.is_empty() {
            // The names of all of them are retired.
            return Ok(Box::new(|_| Box::pin(async { Ok(()) })));
        }
        Ok(Box::new(move |tx| Box::pin(async move { self.apply_batch(tx, decoded).await })))
    }
}
