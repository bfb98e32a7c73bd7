//! Side effects: what an event makes happen beside its read models, such as a mail, a request, or a row in somebody else's table.
//!
//! - What a reaction writes through its transaction happens **once**: it is one transaction with the reaction's inbox, in which each event
//!   is taken once, also after the checkpoint was set back or restored.
//! - What it does outside happens **at least once**: a process may die between the effect and the commit. Hand on the event's id
//!   ([`Envelope::id`]) as the key by which the receiver knows a repetition; it is the same each time.
//!
//! Each event has a transaction of its own, so that the failure of one never repeats the effect of another
//! ([unless you ask for more](crate::Worker::with_reactions_at_once)). A failing one is tried again with
//! back-off, and then its aggregate is parked, as with any projection: the others go on.

pub(crate) mod rate;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::{BoxError, Result};
use crate::event::{Envelope, Event};
use crate::id::{Position, ProjectionName};
use crate::projection::Projection;
use crate::store::log::query::Filter;
use crate::store::log::reader::EventReader;
use crate::store::model::read_model::ReadModel;

pub(crate) use rate::Rate;

/// Does something about events, each once as far as its own transaction goes, and at least once beyond. Run by a
/// [`Worker::reaction`](crate::Worker::reaction).
#[async_trait]
pub trait Reaction: Send + Sync + 'static {
    /// The name of its inbox and its checkpoint. Another name has reacted to nothing yet.
    const NAME: &'static str;

    /// The events it understands: those of one aggregate, or a union of several.
    type Event: Event;

    /// The transaction it writes through, given by the [`ReadModel`] it runs on.
    type Tx: Send + ?Sized + 'static;

    /// Returns the name it runs under: [`NAME`](Self::NAME), unless the name is chosen at run time, as for one reaction per tenant.
    fn name(&self) -> &str {
        Self::NAME
    }

    /// The events it gets, as a projection's [`filter`](Projection::filter).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a filter that cannot be.
    fn filter(&self) -> Result<Filter> {
        Filter::of::<Self::Event>()
    }

    /// As a projection's [`setup`](Projection::setup).
    ///
    /// # Errors
    /// Ends the worker.
    async fn setup(&self, _tx: &mut Self::Tx) -> Result<(), BoxError> {
        Ok(())
    }

    /// Performs the side effect for one event. Rows written through `tx` are committed with the inbox. An effect elsewhere may be repeated:
    /// pass the event's id on as its key, which is the same each time. The transaction stays open meanwhile, so a slow effect needs a
    /// timeout; on SQLite other writers of the file wait.
    ///
    /// # Errors
    /// Nothing is committed. The event is tried again; if that does not help, its aggregate is parked, and tried again from this event on.
    async fn react(&self, tx: &mut Self::Tx, event: Envelope<Self::Event>) -> Result<(), BoxError>;
}

#[async_trait]
impl<R: Reaction> Reaction for Arc<R> {
    const NAME: &'static str = R::NAME;
    type Event = R::Event;
    type Tx = R::Tx;

    fn name(&self) -> &str {
        (**self).name()
    }

    fn filter(&self) -> Result<Filter> {
        (**self).filter()
    }

    async fn setup(&self, tx: &mut R::Tx) -> Result<(), BoxError> {
        (**self).setup(tx).await
    }

    async fn react(&self, tx: &mut R::Tx, event: Envelope<R::Event>) -> Result<(), BoxError> {
        (**self).react(tx, event).await
    }
}

/// Where a reaction starts that has never run. There is no default: a mail for each past event cannot be recalled, and a mail that was not
/// sent is missing.
///
/// The place is stored when the reaction first runs, and later settings do not change it: earlier events are not reacted to, even if the
/// checkpoint is set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartFrom {
    /// With the first event of the log.
    Beginning,
    /// With the next event that is appended. If a projection of the same name has run before, the reaction continues at its checkpoint.
    Now,
    /// With the event after a position, such as that of the last event another program has handled.
    After(Position),
}

impl StartFrom {
    /// Stores where a reaction starts, and returns the stored place.
    pub(crate) async fn keep(
        self,
        reaction: &ProjectionName,
        log: &dyn EventReader,
        models: &impl ReadModel,
    ) -> Result<Position> {
        let after = match self {
            Self::Beginning => Position::ZERO,
            Self::After(position) => position,
            Self::Now => match models.checkpoint(reaction).await? {
                Position::ZERO => log.head().await?,
                reached => reached,
            },
        };
        models.start_after(reaction, after).await
    }
}

/// A reaction as a projection: what a worker runs.
pub struct ReactionProjection<R, M> {
    reaction: R,
    models: M,
    rate: Arc<Rate>,
}

impl<R: Reaction, M> ReactionProjection<R, M> {
    pub(crate) fn new(reaction: R, models: M, rate: Arc<Rate>) -> Self {
        Self { reaction, models, rate }
    }
}

impl<R: Reaction, M> fmt::Debug for ReactionProjection<R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReactionProjection").field("name", &self.reaction.name()).finish_non_exhaustive()
    }
}

#[async_trait]
impl<R, M> Projection for ReactionProjection<R, M>
where
    R: Reaction,
    M: ReadModel<Tx = R::Tx>,
{
    const NAME: &'static str = R::NAME;
    type Event = R::Event;
    type Tx = R::Tx;

    fn name(&self) -> &str {
        self.reaction.name()
    }

    fn filter(&self) -> Result<Filter> {
        self.reaction.filter()
    }

    async fn setup(&self, tx: &mut R::Tx) -> Result<(), BoxError> {
        self.reaction.setup(tx).await
    }

    async fn apply(&self, tx: &mut R::Tx, event: Envelope<R::Event>) -> Result<(), BoxError> {
        let name = ProjectionName::new(self.reaction.name())?;
        if self.models.mark_handled(tx, &name, event.id).await? {
            self.rate.spend();
            self.reaction.react(tx, event).await?;
        }
        Ok(())
    }
}
