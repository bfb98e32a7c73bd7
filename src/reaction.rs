//! Reactions: the side effects of events, such as a mail, a request, or a row in another system's table.
//!
//! - A write through the reaction's transaction happens **once**: the same transaction marks the event in the reaction's inbox, which takes
//!   each event once, even after the checkpoint was set back or restored.
//! - An effect outside the transaction happens **at least once**: a process may die between the effect and the commit. Pass the event's id
//!   ([`Envelope::id`]) to the receiver as an idempotency key; it is the same for each attempt.
//!
//! Each event has its own transaction, so that the failure of one event never repeats the effect of another
//! ([unless you allow more](crate::Worker::with_reactions_at_once)). A failing event is retried with backoff, and then its aggregate is
//! parked, as with any projection. The other aggregates continue.

pub(crate) mod rate;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::{BoxError, Result};
use crate::event::{Envelope, Event};
use crate::id::mark::Mark;
use crate::id::{Position, ProjectionName};
use crate::projection::Projection;
use crate::store::log::query::Filter;
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::model::processors::ProcessorKind;
use crate::store::model::read_model::ReadModel;

pub(crate) use rate::Rate;

/// Performs a side effect for each event: once within its own transaction, at least once outside. A
/// [`Worker::reaction`](crate::Worker::reaction) or an [`App`](crate::App::reaction) runs it.
///
/// # Examples
/// ```
/// use retell::prelude::*;
/// use retell::rusqlite::Connection;
///
/// #[derive(Event)]
/// #[event("order.placed")]
/// struct Placed {
///     email: String,
/// }
///
/// struct Confirmation;
///
/// #[async_trait]
/// impl Reaction for Confirmation {
///     const NAME: &'static str = "confirmation";
///     type Event = Placed;
///     type Tx = Connection;
///
///     async fn react(&self, _: &mut Connection, placed: Envelope<Placed>) -> Result<(), BoxError> {
///         // A mail server would get `placed.part_id()` as its idempotency key.
///         println!("mail to {}", placed.event.email);
///         Ok(())
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (log, models) = (SqliteStore::in_memory().await?, SqliteReadModel::in_memory().await?);
/// log.append_events(("order", "1"), ExpectedVersion::NoStream, [Placed { email: "ada@x.org".into() }]).await?;
/// App::new(log, models).reaction(Confirmation, StartFrom::Beginning).catch_up().await?;
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[async_trait]
pub trait Reaction: Send + Sync + 'static {
    /// The name of the inbox and the checkpoint. A new name has not reacted to any event.
    const NAME: &'static str;

    /// The events that the reaction understands: those of one aggregate, or a union of several.
    type Event: Event;

    /// The transaction that the reaction writes through. The [`ReadModel`] that it runs on provides it.
    type Tx: Send + ?Sized + 'static;

    /// Returns the name that the reaction runs under: [`NAME`](Self::NAME), unless the name is chosen at run time, for example for one
    /// reaction per tenant.
    fn name(&self) -> &str {
        Self::NAME
    }

    /// Returns the filter for the events that the reaction receives, as a projection's [`filter`](Projection::filter) does.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a filter that no event can pass.
    fn filter(&self) -> Result<Filter> {
        Filter::of::<Self::Event>()
    }

    /// Prepares the read model at every start, as a projection's [`setup`](Projection::setup) does.
    ///
    /// # Errors
    /// An error ends the worker.
    async fn setup(&self, _tx: &mut Self::Tx) -> Result<(), BoxError> {
        Ok(())
    }

    /// Performs the side effect for one event. Writes through `tx` are committed together with the inbox. An effect outside may be repeated:
    /// pass [`Envelope::part_id`] to the receiver as an idempotency key. The transaction stays open meanwhile, so a slow effect needs a timeout; on
    /// SQLite, other writers of the file wait. A call that takes longer than the [limit](crate::WorkerOptions::with_longest_call), 20 seconds by
    /// default, is dropped and counts as an error. So does a panic.
    ///
    /// # Errors
    /// After an error nothing is committed. The event is retried; if the retries fail, its aggregate is parked and later retried from this
    /// event on.
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

/// Selects where a reaction starts when it runs for the first time. There is no default, because neither mistake can be undone: a mail for
/// each past event cannot be recalled, and a mail that was not sent is missing.
///
/// The place is stored at the first run, and later settings do not change it. The reaction never handles earlier events, even if its
/// checkpoint is set back.
///
/// # Examples
/// ```
/// use retell::prelude::*;
/// use retell::rusqlite::Connection;
///
/// /// Adds a reaction that takes over from another program, which has sent the mails of all events up to `sent_up_to`.
/// fn take_over<R>(app: App<SqliteReadModel>, mails: R, sent_up_to: Option<Position>) -> App<SqliteReadModel>
/// where
///     R: Reaction<Tx = Connection>,
/// {
///     app.reaction(mails, sent_up_to.map_or(StartFrom::Now, StartFrom::After))
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartFrom {
    /// Starts with the first event of the log.
    Beginning,
    /// Starts with the next event that is appended. If a projection of the same name has run before, the reaction continues from the
    /// projection's checkpoint.
    Now,
    /// Starts with the event after this position, such as the position of the last event that another program has handled.
    After(Position),
}

impl StartFrom {
    /// Stores where `reaction` starts, unless a place is stored already. Returns the stored place.
    pub(crate) async fn keep(
        self,
        reaction: &ProjectionName,
        log: &dyn EventReader,
        models: &impl ReadModel,
    ) -> Result<Mark> {
        let after = match self {
            Self::Beginning => Mark::START,
            Self::After(position) => log.mark_at(position).await?,
            Self::Now => match models.mark(reaction).await? {
                Mark::START => log.mark_at(log.head().await?).await?,
                reached => reached,
            },
        };
        models.start_after(reaction, after).await
    }
}

/// Adapts a [`Reaction`] to a [`Projection`], so that a worker can run it.
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

    fn kind(&self) -> ProcessorKind {
        ProcessorKind::Reaction
    }

    async fn setup(&self, tx: &mut R::Tx) -> Result<(), BoxError> {
        self.reaction.setup(tx).await
    }

    async fn apply(&self, tx: &mut R::Tx, event: Envelope<R::Event>) -> Result<(), BoxError> {
        let name = ProjectionName::new(self.reaction.name())?;
        if self.models.mark_handled(tx, &name, event.part_id()).await? {
            self.rate.spend();
            self.reaction.react(tx, event).await?;
        }
        Ok(())
    }
}
