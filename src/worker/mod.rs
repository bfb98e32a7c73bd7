//! Runs a projection: the fast path over the broker, the sure path over the store, and the gate between them.
//!
//! Invariant: the checkpoint moves only over positions whose events are applied or not wanted, in the transaction that applied them.
//! So it does not matter what the broker brings, or how often, or in which order: what is behind the checkpoint is dropped, what
//! follows it is applied, and what lies in between is read from the store.

mod sequential;

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::error::Result;
use crate::id::Position;
use crate::projection::Projection;
use crate::store::{CheckpointStore, EventReader};
use crate::worker::sequential::Run;

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
}

impl WorkerOptions {
    /// Batches of up to 1,000 events, gathered for up to 2 ms, a sweep every 500 ms, and 5 retries of a failing event before
    /// the worker gives up, at most 5 seconds apart.
    pub fn new() -> Self {
        Self {
            batch_events: 1_000,
            messages: 100,
            gather: Duration::from_millis(2),
            sweep: Duration::from_millis(500),
            retries: 5,
            longest_delay: Duration::from_secs(5),
        }
    }

    /// The most events in one transaction.
    pub fn with_batch_events(mut self, events: usize) -> Self {
        self.batch_events = events.max(1);
        self
    }

    /// How long a batch may wait to become larger. More saves transactions, and delays each event by as much.
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

    /// How often a failing event is tried again before the worker ends with its error.
    pub fn with_retries(mut self, retries: usize) -> Self {
        self.retries = retries;
        self
    }

    /// The longest wait between two attempts.
    pub fn with_longest_delay(mut self, delay: Duration) -> Self {
        self.longest_delay = delay;
        self
    }

    /// The waits between attempts, each about twice as long as the one before.
    fn delays(&self) -> Delays {
        delays(self.longest_delay)
    }

    /// The waits of a worker that loses one race after the other. No longer than the sweep: if the winner is gone, its work is taken up
    /// as soon as that of a lost message.
    fn standby(&self) -> Delays {
        delays(self.sweep)
    }
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self::new()
    }
}

type Delays = ExponentialBackoff;

fn delays(longest: Duration) -> Delays {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(5).min(longest))
        .with_max_delay(longest)
        .without_max_times()
        .with_jitter()
        .build()
}

/// Applies every event of the log to one projection, in log order.
pub struct Worker<P: Projection, M> {
    projection: Arc<P>,
    reader: Arc<dyn EventReader>,
    models: M,
    broker: Option<Arc<dyn Broker>>,
    options: WorkerOptions,
    applied: watch::Sender<Position>,
}

impl<P: Projection, M> std::fmt::Debug for Worker<P, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("projection", &self.projection.name()).finish_non_exhaustive()
    }
}

impl<P, M> Worker<P, M>
where
    P: Projection,
    M: CheckpointStore<Tx = P::Tx>,
{
    /// A worker that reads the store only, woken by its signal.
    pub fn new(projection: P, reader: impl EventReader, models: M) -> Self {
        Self {
            projection: Arc::new(projection),
            reader: Arc::new(reader),
            models,
            broker: None,
            options: WorkerOptions::new(),
            applied: watch::Sender::new(Position::ZERO),
        }
    }

    /// Takes the fast path over a broker as well.
    pub fn with_broker(mut self, broker: impl Broker) -> Self {
        self.broker = Some(Arc::new(broker));
        self
    }

    /// Other settings.
    pub fn with_options(mut self, options: WorkerOptions) -> Self {
        self.options = options;
        self
    }

    /// The position up to which everything is applied, as it moves.
    pub fn applied(&self) -> watch::Receiver<Position> {
        self.applied.subscribe()
    }

    /// Applies events until told to stop; finishes and acknowledges the batch at hand first.
    ///
    /// Several workers of one projection do no harm, in one process or in many: the checkpoint lets one of them commit, and the others go
    /// on from there. Who loses again and again steps back, up to the sweep, so that one works and the others stand by.
    ///
    /// # Errors
    /// [`ErrorKind::Projection`](crate::ErrorKind::Projection) with the projection's own error when an event failed too often,
    /// [`ErrorKind::CheckpointAhead`](crate::ErrorKind::CheckpointAhead) for a read model of another log, a decoding error for an event
    /// it cannot read, or what the store met if trying again cannot help. Nothing was passed over: started again, it goes on with the
    /// same event.
    ///
    /// # Cancel safety
    /// May be dropped at any time: an open batch is committed whole or not at all.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        Run::to_end(self, stop).await
    }
}
