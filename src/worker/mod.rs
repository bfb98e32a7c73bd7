//! Runs a projection: events arrive quickly from the broker and reliably from the store, and a gate decides between them.
//!
//! The broker may therefore repeat or reorder messages: events up to the checkpoint are dropped, events that follow it are applied, and
//! events in between are read from the store.
//!
//! An event that fails is retried in place, and then its aggregate is parked: its later events are skipped, and other aggregates continue.
//! When its retry is due, the aggregate is read from the store from the failed event, and applied in order up to the checkpoint.
//!
//! Invariant: no event of a parked aggregate is applied before the one that failed. Each transaction compares the worker's view of the
//! parked aggregates with the table.

mod aggregate_order;
pub(crate) mod caught_up;
mod deploy;
mod due;
mod feed;
mod gate;
mod handler;
pub(crate) mod job;
mod log_order;
pub(crate) mod options;
mod pace;
pub(crate) mod parking;
mod paused;
mod run;
mod runner;
mod traces;
mod transaction;
pub(crate) mod wanted;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backoff::retry_transient;
use crate::broker::{Broker, DeadLetters};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::id::{Position, ProjectionName};
use crate::projection::Projection;
use crate::reaction::rate::Rate;
use crate::reaction::{Reaction, ReactionProjection, StartFrom};
use crate::status::{Reporter, Status};
use crate::store::log::query::Filter;
use crate::store::log::reader::EventReader;
use crate::store::model::names;
use crate::store::model::read_model::ReadModel;
use crate::store::model::views::{ViewId, ViewStore};
use crate::view::View;
use crate::view::fold::ViewProjection;
use crate::worker::job::{EventOrder, Job, Reacting, ReadLive};

pub use caught_up::CaughtUp;
pub use options::WorkerOptions;
pub use parking::ParkingOptions;

/// Applies every event of the log to one projection, in log order.
///
/// The example starts and stops a worker; [`catch_up`](Self::catch_up) shows a program that does not keep running. An
/// [`App`](crate::App) starts its workers and restarts those that fail.
///
/// # Examples
/// ```
/// use retell::prelude::*;
///
/// #[derive(Event)]
/// #[event("shoe.sold")]
/// struct Sold {
///     cents: u64,
/// }
///
/// /// Counts the events of each stream.
/// struct Activity;
///
/// impl View for Activity {
///     const NAME: &'static str = "activity";
///     type Event = AnyEvent;
///     type State = u64;
///
///     fn key(&self, event: &Envelope<AnyEvent>) -> Option<String> {
///         Some(event.stream.to_string())
///     }
///
///     fn apply(&self, events: &mut u64, _: Envelope<AnyEvent>) {
///         *events += 1;
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
/// let (worker, stop) = (Worker::view(Activity, log.clone(), models.clone()), CancellationToken::new());
/// let mut applied = worker.applied();
/// let task = tokio::spawn({
///     let stop = stop.clone();
///     async move { worker.run(stop).await }
/// });
/// log.append_events(("shoe", "1"), ExpectedVersion::NoStream, [Sold { cents: 500 }]).await?;
/// applied.wait_for(|position| *position == Position::new(1)).await?;
/// assert_eq!(Views::new(&Activity, models).get("shoe/1").await?, Some(1));
/// stop.cancel();
/// task.await??;
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
pub struct Worker<P, M: ReadModel> {
    job: Job<M>,
    projection: PhantomData<fn() -> P>,
}

impl<P, M: ReadModel> std::fmt::Debug for Worker<P, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("projection", &self.job.projection.name()).finish_non_exhaustive()
    }
}

impl<P, M> Worker<P, M>
where
    P: Projection,
    M: ReadModel<Tx = P::Tx>,
{
    /// Creates a worker that reads the store only, woken by its signal.
    pub fn new(projection: P, reader: impl EventReader, models: M) -> Self {
        names::add(projection.name());
        let reporter = Reporter::of(projection.name());
        let job = Job {
            projection: Arc::new(projection),
            reader: Arc::new(reader),
            models,
            broker: None,
            dead_letters: None,
            options: WorkerOptions::new(),
            applied: watch::Sender::new(Position::ZERO),
            reacting: None,
            reporter,
            live: None,
            order: EventOrder::Log,
        };
        Self { job, projection: PhantomData }
    }

    /// Receives events from `broker`, the fast path. The store remains the sure path.
    pub fn with_broker(mut self, broker: impl Broker) -> Self {
        self.job.broker = Some(Arc::new(broker));
        self
    }

    /// Sends a dead letter for each aggregate that is given up: a copy of the event that fails. If the letter is not stored within 20 seconds, the
    /// next retry of the aggregate sends it.
    pub fn with_dead_letters(mut self, dead_letters: impl DeadLetters) -> Self {
        self.job.dead_letters = Some(Arc::new(dead_letters));
        self
    }

    /// Replaces the settings.
    pub fn with_options(mut self, options: WorkerOptions) -> Self {
        self.job.options = options;
        self
    }

    pub(crate) fn filter(&self) -> Result<Filter> {
        self.job.projection.filter()
    }

    /// Returns the projection's name.
    pub fn name(&self) -> &str {
        self.job.projection.name()
    }

    /// Watches the position up to which everything is applied, or parked.
    pub fn applied(&self) -> watch::Receiver<Position> {
        self.job.applied.subscribe()
    }

    /// Watches whether the worker runs, what it waits for and the last error that it saw.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.job.reporter.status()
    }

    pub(crate) fn catch_up_limit(&self) -> std::time::Duration {
        self.job.options.catch_up_limit
    }

    pub(crate) fn live(&self) -> Option<ReadLive> {
        self.job.live.clone()
    }

    pub(crate) fn reporter(&self) -> &Reporter {
        &self.job.reporter
    }

    /// Applies events until stopped; finishes and acknowledges the batch in progress first, within the [grace
    /// period](WorkerOptions::with_grace).
    ///
    /// Several workers of one projection in log order are safe, in one process or in many: the checkpoint lets one of them commit, and the
    /// others continue from there. A worker that loses the race backs off (at most one sweep interval), so that one is active and the
    /// others are on standby.
    ///
    /// An event that the projection fails on, or that it cannot decode, does not end the run: its aggregate is parked, and the others continue.
    /// If several aggregates fail in a row and nothing can be applied in between, the worker takes it for an outage, and retries until it
    /// is over, or has lasted too long; see [`ParkingOptions`].
    ///
    /// # Errors
    /// [`ErrorKind::HistoryChanged`] for a read model of another log, [`ErrorKind::TimedOut`] if the handler did not return within the grace
    /// period, otherwise a [read](crate::Error#read-errors) or [write error](crate::Error#write-errors). The worker retries transient errors
    /// without limit, and waits for a store that is full or read-only. Nothing was passed over: a worker that is started again continues with
    /// the same event.
    ///
    /// # Cancel safety
    /// May be dropped at any time: an open batch is committed whole or not at all.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        self.job.run(&stop).await
    }

    /// Returns the limit of one call of the handler.
    pub(crate) fn longest_call(&self) -> Duration {
        self.job.options.longest_call
    }

    /// Returns how long the handler has to return when the worker is stopped.
    pub(crate) fn grace(&self) -> Duration {
        self.job.options.grace
    }

    /// Applies every event that is in the log now, stores the checkpoint, and returns how far the projection is. For a program that does not keep
    /// running, and for tests: it reads the store only, so it needs neither a broker nor a task to stop.
    ///
    /// An event that fails has its aggregate parked as in [`run`](Self::run), and the result lists what is parked. Parked aggregates whose retry
    /// is due are retried. An outage ends after [`ParkingOptions::with_longest_outage`]. A database that is unreachable is retried for at most
    /// [`WorkerOptions::with_catch_up_limit`], and then its error is returned.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// # Cancel safety
    /// May be dropped at any time: an open batch is committed whole or not at all, and a later call continues from there.
    ///
    /// # Examples
    /// ```
    /// use retell::prelude::*;
    ///
    /// #[derive(Event)]
    /// #[event("shoe.sold")]
    /// struct Sold {
    ///     customer: String,
    ///     cents: u64,
    /// }
    ///
    /// struct Spent;
    ///
    /// impl View for Spent {
    ///     const NAME: &'static str = "spent";
    ///     type Event = Sold;
    ///     type State = u64;
    ///
    ///     fn key(&self, sold: &Envelope<Sold>) -> Option<String> {
    ///         Some(sold.event.customer.clone())
    ///     }
    ///
    ///     fn apply(&self, spent: &mut u64, sold: Envelope<Sold>) {
    ///         *spent += sold.event.cents;
    ///     }
    /// }
    ///
    /// #[tokio::main]
    /// async fn main() -> retell::Result<()> {
    ///     let (log, models) = (SqliteStore::in_memory().await?, SqliteReadModel::in_memory().await?);
    ///     let sold = NewEvent::new(&Sold { customer: "ada".into(), cents: 500 })?;
    ///     log.append(Append::new(StreamId::parse("shoe", "1")?, ExpectedVersion::Any, vec![sold])).await?;
    ///
    ///     let caught_up = Worker::view(Spent, log, models.clone()).catch_up().await?;
    ///     assert_eq!(caught_up.position.get(), 1);
    ///     assert!(caught_up.is_complete(), "parked: {:?}", caught_up.parked);
    ///     assert_eq!(Views::new(&Spent, models).get("ada").await?, Some(500));
    ///     Ok(())
    /// }
    /// ```
    pub async fn catch_up(&self) -> Result<CaughtUp> {
        let never = CancellationToken::new();
        let delays = self.job.options.delays().with_limit(Some(self.job.options.catch_up_limit));
        let head = retry_transient(&never, delays, || self.job.reader.head()).await?;
        self.catch_up_to(head, never).await
    }

    /// Applies every event up to `to`, as [`catch_up`](Self::catch_up), unless stopped before.
    pub(crate) async fn catch_up_to(&self, to: Position, stop: CancellationToken) -> Result<CaughtUp> {
        self.job.catch_up(to, &stop).await
    }
}

impl<V, M> Worker<ViewProjection<V, M>, M>
where
    V: View,
    M: ViewStore + Clone,
{
    /// Creates a worker that keeps a view's rows. Reads the store only, as [`new`](Self::new).
    pub fn view(view: V, reader: impl EventReader, models: M) -> Self {
        let (name, kept) = (view.name().to_owned(), models.clone());
        let live = move || {
            let (name, models) = (name.clone(), kept.clone());
            async move {
                let view = ViewId::new(&name, ViewId::FIRST)?;
                let live = ViewId::new(&name, models.live_generation(view.view()).await?)?;
                let position = models.mark(live.projection()).await?.position;
                Ok((live.projection().clone(), position))
            }
            .boxed()
        };
        let mut worker = Self::new(ViewProjection::new(view, models.clone()), reader, models);
        worker.job.live = Some(Arc::new(live));
        worker
    }
}

impl<P, M> Worker<P, M>
where
    P: Projection,
    M: ReadModel<Tx = P::Tx>,
{
    /// Applies events in order per aggregate instead of log order: any number of workers, in one process or many, share the work.
    ///
    /// The events of one aggregate are applied in order by all workers together; events of two aggregates may be applied at the same time.
    /// A projection that folds several aggregates into one row must therefore lock that row before it reads it, or change it in one
    /// statement (`SET total = total + ..`), and always in the same order of rows: otherwise changes are lost or transactions deadlock.
    ///
    /// The [checkpoint](ReadModel::checkpoint) is then the swept position: every event up to it is applied or parked. Later events may be
    /// applied too. A projection keeps the order it started with.
    ///
    /// The cost is one row for each aggregate of a kind that the projection wants events of; one statement per batch to lock these rows,
    /// and one to change them; and one more read of each event by the sweep, which follows as soon as the workers are idle for a moment, or
    /// after a tenth of [`with_sweep`](WorkerOptions::with_sweep) if they are not. Events of other types of such an aggregate are read too:
    /// [`Filter::aggregates`](crate::Filter::aggregates) excludes other aggregates.
    ///
    /// It pays if the projection waits, for example for its database. SQLite and a model in memory have one writer: there the workers take
    /// turns.
    pub fn with_order_per_aggregate(mut self) -> Self {
        self.job.order = EventOrder::Aggregate;
        self
    }
}

impl<R, M> Worker<ReactionProjection<R, M>, M>
where
    R: Reaction,
    M: ReadModel<Tx = R::Tx> + Clone,
{
    /// Creates a worker that runs a reaction. Reads the store only, as [`new`](Self::new).
    ///
    /// Each event has a transaction of its own, unless [several share one](Self::with_reactions_at_once). When stopped, the worker finishes the
    /// event in progress.
    pub fn reaction(reaction: R, start: StartFrom, reader: impl EventReader, models: M) -> Self {
        let (name, reader) = (reaction.name().to_owned(), Arc::new(reader) as Arc<dyn EventReader>);
        let (rate, log, kept) = (Arc::<Rate>::default(), reader.clone(), models.clone());
        let begin = Box::new(move || {
            let (name, log, kept) = (name.clone(), log.clone(), kept.clone());
            async move { start.keep(&ProjectionName::new(name)?, &*log, &kept).await }.boxed()
        });
        let mut worker = Self::new(ReactionProjection::new(reaction, models.clone(), rate.clone()), reader, models);
        worker.job.reacting = Some(Reacting { begin, rate, at_once: 1 });
        worker
    }

    /// Reacts at most `per_second` times in any second (minimum 1), failed attempts included. Each worker counts for itself: of several with
    /// [order per aggregate](Self::with_order_per_aggregate), each may react that often.
    pub fn with_rate(self, per_second: u32) -> Self {
        if let Some(reacting) = &self.job.reacting {
            reacting.rate.limit(per_second);
        }
        self
    }

    /// Puts up to `events` events into one transaction (minimum 1), or one if a [rate](Self::with_rate) is set. A commit costs more than
    /// most rows, so this is faster if the reaction's whole effect is the rows it writes through its transaction: they are still written
    /// once. External effects are repeated for all of these events after a crash or a failure.
    pub fn with_reactions_at_once(mut self, events: usize) -> Self {
        if let Some(reacting) = &mut self.job.reacting {
            reacting.at_once = events.max(1);
        }
        self
    }
}
