//! Runs a projection: the fast path over the broker, the sure path over the store, and the gate between them.
//!
//! Invariant: the checkpoint moves only over positions whose events are applied, parked or not wanted, in the transaction that applied or
//! parked them.
//! So it does not matter what the broker brings, or how often, or in which order: what is behind the checkpoint is dropped, what
//! follows it is applied, and what lies in between is read from the store.
//!
//! An event that fails is tried again in place, and then its aggregate is parked: its later events are passed over, and those of the others
//! go on. When its time has come, it is read from the store from the event that failed, and applied in order up to the checkpoint.
//!
//! Invariant: of a parked aggregate no event is applied before the one that failed. What a worker knows to be parked is compared with the
//! table by each of its transactions.

mod apply;
mod feed;
mod gate;
mod parallel;
pub(crate) mod parking;
mod reacting;
mod retry;
mod sequential;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backoff::{Delays, delays};
use crate::broker::{Broker, Consumption, DeadLetter, DeadLetters};
use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::{Position, ProjectionName};
use crate::projection::Projection;
use crate::store::log::reader::EventReader;
use crate::store::model::parking::Parked;
use crate::store::model::read_model::{ReadModel, Work};
use crate::store::model::views::ViewStore;
use crate::view::View;
use crate::view::fold::ViewProjection;
use crate::worker::feed::Feed;
use crate::worker::parallel::ParallelRun;
use crate::worker::reacting::Reacting;
use crate::worker::sequential::Run;

pub use parking::ParkingOptions;

/// The first wait after something failed.
const FIRST_DELAY: Duration = Duration::from_millis(5);

/// Settings of a [`Worker`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct WorkerOptions {
    batch_events: usize,
    messages: usize,
    gather: Duration,
    sweep: Duration,
    retries: usize,
    longest_delay: Duration,
    parking: ParkingOptions,
}

impl WorkerOptions {
    /// Batches of up to 1,000 events, of those that came while the last one was committed, a sweep every 500 ms, and 5 retries of a failing
    /// event, at most 5 seconds apart, before its aggregate is parked as [`ParkingOptions::new`] says.
    pub fn new() -> Self {
        Self {
            batch_events: 1_000,
            messages: 100,
            gather: Duration::ZERO,
            sweep: Duration::from_millis(500),
            retries: 5,
            longest_delay: Duration::from_secs(5),
            parking: ParkingOptions::new(),
        }
    }

    /// The most events in one transaction.
    pub fn with_batch_events(mut self, events: usize) -> Self {
        self.batch_events = events.max(1);
        self
    }

    /// How long a batch may wait to become larger: saves transactions, and delays each event by as much. By default it does not wait: the
    /// busier the log, the more has come while the last batch was committed.
    pub fn with_gather(mut self, gather: Duration) -> Self {
        self.gather = gather;
        self
    }

    /// How often to compare with the store's head, and so the longest delay of an event that the broker lost, and the longest wait of a worker
    /// that stands by.
    pub fn with_sweep(mut self, sweep: Duration) -> Self {
        self.sweep = sweep;
        self
    }

    /// How often a failing event is tried again in place, before its aggregate is parked.
    pub fn with_retries(mut self, retries: usize) -> Self {
        self.retries = retries;
        self
    }

    /// The longest wait between two attempts in place, and between two probes in an outage.
    pub fn with_longest_delay(mut self, delay: Duration) -> Self {
        self.longest_delay = delay;
        self
    }

    /// When parked aggregates are tried again, and what an outage is.
    pub fn with_parking(mut self, parking: ParkingOptions) -> Self {
        self.parking = parking;
        self
    }

    /// The waits between attempts, each about twice as long as the one before.
    fn delays(&self) -> Delays {
        delays(FIRST_DELAY, self.longest_delay)
    }

    /// The waits of a worker that loses one race after the other. No longer than the sweep: if the winner is gone, its work is taken up
    /// as soon as that of a lost message.
    fn standby(&self) -> Delays {
        delays(FIRST_DELAY, self.sweep)
    }
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Applies every event of the log to one projection, in log order.
pub struct Worker<P: Projection, M> {
    projection: Arc<P>,
    reader: Arc<dyn EventReader>,
    models: M,
    broker: Option<Arc<dyn Broker>>,
    dead_letters: Option<Arc<dyn DeadLetters>>,
    options: WorkerOptions,
    applied: watch::Sender<Position>,
    reacting: Option<Reacting>,
    run: for<'w> fn(&'w Self, CancellationToken) -> BoxFuture<'w, Result<()>>,
}

impl<P: Projection, M> std::fmt::Debug for Worker<P, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("projection", &self.projection.name()).finish_non_exhaustive()
    }
}

impl<P, M> Worker<P, M>
where
    P: Projection,
    M: ReadModel<Tx = P::Tx>,
{
    /// A worker that reads the store only, woken by its signal.
    pub fn new(projection: P, reader: impl EventReader, models: M) -> Self {
        Self {
            projection: Arc::new(projection),
            reader: Arc::new(reader),
            models,
            broker: None,
            dead_letters: None,
            options: WorkerOptions::new(),
            applied: watch::Sender::new(Position::ZERO),
            reacting: None,
            run: |worker, stop| Run::to_end(worker, stop).boxed(),
        }
    }

    /// Takes the fast path over a broker as well.
    pub fn with_broker(mut self, broker: impl Broker) -> Self {
        self.broker = Some(Arc::new(broker));
        self
    }

    /// Has a copy of the failing event of each aggregate that is given up.
    pub fn with_dead_letters(mut self, dead_letters: impl DeadLetters) -> Self {
        self.dead_letters = Some(Arc::new(dead_letters));
        self
    }

    /// Other settings.
    pub fn with_options(mut self, options: WorkerOptions) -> Self {
        self.options = options;
        self
    }

    /// The projection's name.
    pub fn name(&self) -> &str {
        self.projection.name()
    }

    /// The position up to which everything is applied, or parked, as it moves.
    pub fn applied(&self) -> watch::Receiver<Position> {
        self.applied.subscribe()
    }

    /// Applies events until told to stop; finishes and acknowledges the batch at hand first.
    ///
    /// Several workers of one projection in log order do no harm, in one process or in many: the checkpoint lets one of them commit, and the others go
    /// on from there. Who loses again and again steps back, up to the sweep, so that one works and the others stand by.
    ///
    /// An event that the projection fails on, or that it cannot decode, does not end the run: its aggregate is parked, and the others go on.
    /// Where several aggregates fail in a row and nothing can be applied in between, the worker takes it for an outage, and tries again
    /// until it is over, or has lasted too long; see [`ParkingOptions`].
    ///
    /// # Errors
    /// [`ErrorKind::CheckpointAhead`] for a read model of another log, or what the store met if trying
    /// again cannot help. Nothing was passed over: started again, it goes on with the same event.
    ///
    /// # Cancel safety
    /// May be dropped at any time: an open batch is committed whole or not at all.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        (self.run)(self, stop).await
    }

    /// Waits after an attempt that failed. `false` where the worker is told to stop meanwhile.
    ///
    /// # Errors
    /// The attempt's own, where trying again cannot help.
    async fn tries_again(&self, failed: Error, delays: &mut Delays, stop: &CancellationToken) -> Result<bool> {
        if !failed.is_transient() {
            return Err(failed);
        }
        self.pause(delays.next(), stop).await;
        Ok(!stop.is_cancelled())
    }

    /// Waits, unless the worker is told to stop.
    async fn pause(&self, delay: Option<Duration>, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(delay.unwrap_or(self.options.longest_delay)) => {}
        }
    }

    fn set_up(&self) -> Work<P::Tx> {
        let projection = self.projection.clone();
        Box::new(move |tx| {
            async move {
                projection.setup(tx).await.map_err(|source| {
                    Error::with_source(ErrorKind::Backend(format!("set up projection {}", projection.name())), source)
                })
            }
            .boxed()
        })
    }

    fn feed(&self, name: ProjectionName, consumption: Consumption, stop: CancellationToken) -> Feed {
        Feed::new(self.broker.clone(), name, consumption, self.options.gather, self.reader.watch_head(), stop)
    }

    /// Dead letters that are out of reach are written after the next retry.
    async fn bury(&self, projection: &ProjectionName, parked: &Parked, event: &RecordedEvent) -> bool {
        let Some(dead_letters) = &self.dead_letters else { return true };
        let letter = DeadLetter::new(projection.clone(), event.clone(), parked.error.clone(), parked.attempts);
        dead_letters.add(&letter).await.is_ok()
    }
}

impl<V, M> Worker<ViewProjection<V, M>, M>
where
    V: View,
    M: ViewStore + Clone,
{
    /// A worker that keeps a view's rows. Reads the store only, as [`new`](Self::new).
    pub fn view(view: V, reader: impl EventReader, models: M) -> Self {
        Self::new(ViewProjection::new(view, models.clone()), reader, models)
    }
}

impl<P, M> Worker<P, M>
where
    P: Projection,
    M: ReadModel<Tx = P::Tx>,
{
    /// Has order per aggregate instead of log order: any number of workers, in one process or many, share the work.
    ///
    /// The events of one aggregate are applied in order, whoever applies them; those of two may be applied at the same time. So a
    /// projection that folds several aggregates into one row must lock that row itself, before it reads it, or change it in one statement
    /// (`SET total = total + ..`), and always in the same order of rows: otherwise changes are lost, or transactions wait for each other.
    ///
    /// The [checkpoint](ReadModel::checkpoint) is the swept position then: everything up to there is applied, or parked. What is
    /// beyond may be applied, too. A projection keeps to the order in which it has begun.
    ///
    /// What it costs: a row for each aggregate of a kind that the projection wants events of; one statement a batch to lock them, and one
    /// to change them; and each event is read once more by the sweep, which follows as soon as the workers are idle for a moment, and
    /// after a tenth of [`with_sweep`](WorkerOptions::with_sweep) when they are not. Events of other types of such an aggregate are read,
    /// too: [`Filter::aggregates`](crate::Filter::aggregates) keeps other aggregates out.
    ///
    /// It pays where the projection waits, as for its database. SQLite, and a model in memory, have one writer: there the workers take
    /// turns.
    pub fn with_order_per_aggregate(mut self) -> Self {
        self.run = |worker, stop| ParallelRun::to_end(worker, stop).boxed();
        self
    }
}
