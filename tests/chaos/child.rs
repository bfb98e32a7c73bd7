//! The child processes: relays, workers, and a consumer without the gate.

use std::env;
use std::io::{BufRead, stdin};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use retell::broker::frame::ReceivedFrame;
use retell::broker::rabbitmq::topology::Topology;
use retell::broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use retell::broker::{Broker, Publisher, SubscriptionMode};
use retell::error::{Error, Result};
use retell::event::{NewEvent, RecordedEvent};
use retell::rusqlite::Connection;
use retell::sqlx::{MySqlConnection, PgConnection};
use retell::status::Status;
use retell::store::{Append, EventStore, ReadModel, Step, ViewStore, Work};
use retell::testing::faulty::{Fault, FaultyBroker};
use retell::worker::{ParkingOptions, WorkerOptions};
use retell::{
    BoxError, ErrorKind, ExpectedVersion, MySqlReadModel, PostgresReadModel, Projection, ProjectionName, Relay,
    SqliteReadModel, StreamId, Worker,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::databases::{Place, Store};
use crate::failover::HISTORY_CHANGED;
use crate::random::Random;
use crate::tally::{NAME, Tallies, Tally, spoken};
use crate::view::TallyView;

/// The environment variable that holds a child's [`Job`] as JSON.
pub(crate) const JOB: &str = "RETELL_CHAOS_JOB";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) role: Role,
    pub(crate) log: Place,
    pub(crate) models: Place,
    /// Host and port of RabbitMQ, or of a proxy in front of it.
    pub(crate) broker: String,
    pub(crate) topology: Topology,
    pub(crate) cure: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    Relay,
    /// Drops, duplicates, delays and refuses messages that it publishes, as the seed decides.
    FaultyRelay(u64),
    Worker,
    /// A worker with order per aggregate.
    ParallelWorker,
    /// A worker that keeps a view.
    View,
    /// A worker that keeps a view, with order per aggregate.
    ParallelView,
    /// A consumer that applies every message it receives.
    WithoutGate,
    /// Appends events and ends.
    Writer(Words),
}

/// The events that a writer appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Words {
    pub(crate) count: u64,
    /// Number of aggregates that they belong to.
    pub(crate) aggregates: u64,
    pub(crate) seed: u64,
}

impl Words {
    /// Returns the events, each with the number of its aggregate.
    pub(crate) fn events(self) -> Vec<(u64, NewEvent)> {
        let mut random = Random(self.seed);
        let event = |_| (random.below(self.aggregates), spoken(i64::try_from(random.below(1_000)).unwrap()));
        (0..self.count).map(event).collect()
    }
}

/// Number of concurrent appends.
const WRITERS: usize = 16;

/// Appends each event to its aggregate. Each aggregate belongs to one task, which keeps its events in order.
pub(crate) async fn append_all(place: &Place, events: Vec<(u64, NewEvent)>) {
    let store = place.open().await.unwrap().events;
    let mut shares: Vec<Vec<(u64, NewEvent)>> = (0..WRITERS).map(|_| Vec::new()).collect();
    for (aggregate, event) in events {
        shares[usize::try_from(aggregate).unwrap() % WRITERS].push((aggregate, event));
    }
    join_all(shares.into_iter().map(|share| append_share(&store, share))).await;
    store.close().await.unwrap();
}

async fn append_share(store: &Arc<dyn EventStore>, events: Vec<(u64, NewEvent)>) {
    for (aggregate, event) in events {
        let stream = StreamId::parse("word", &format!("a{aggregate}")).unwrap();
        store.append(Append::new(stream, ExpectedVersion::Any, vec![event])).await.unwrap();
    }
}

impl Role {
    pub(crate) fn keeps_a_view(self) -> bool {
        matches!(self, Self::View | Self::ParallelView)
    }

    pub(crate) fn has_order_per_aggregate(self) -> bool {
        matches!(self, Self::ParallelWorker | Self::ParallelView)
    }
}

impl Job {
    pub(crate) fn of_this_process() -> Option<Self> {
        env::var(JOB).ok().map(|job| serde_json::from_str(&job).unwrap())
    }

    /// Works until the parent closes standard input or kills the process.
    pub(crate) async fn run(self) {
        if let Role::Writer(words) = self.role {
            return append_all(&self.log, words.events()).await;
        }
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::task::spawn_blocking(move || {
            stdin().lock().read_line(&mut String::new()).unwrap();
            stopped.cancel();
        });
        let store = retry(|| self.log.open()).await;
        let broker = self.broker();
        match self.role {
            Role::Relay => relay(store, broker, stop).await,
            Role::FaultyRelay(seed) => relay(store, FaultyBroker::new(broker, faults(seed)), stop).await,
            _ => self.work(store, broker, stop).await,
        }
    }

    pub(crate) fn broker(&self) -> RabbitMqBroker {
        let url = format!("amqp://guest:guest@{}/%2f", self.broker);
        let options = RabbitMqOptions::new(&url).unwrap().with_topology(self.topology.clone());
        // A short timeout detects half-open connections sooner than the default.
        RabbitMqBroker::new(options.with_timeout(Duration::from_secs(3))).unwrap()
    }

    async fn work(&self, store: Store, broker: RabbitMqBroker, stop: CancellationToken) {
        match &self.models {
            Place::Sqlite(path) => {
                let models = retry(|| SqliteReadModel::open(path)).await;
                self.work_on::<Connection, _>(store, models, broker, stop).await;
            }
            Place::Postgres(url) => {
                let models = retry(|| PostgresReadModel::connect(url)).await;
                self.work_on::<PgConnection, _>(store, models, broker, stop).await;
            }
            Place::MySql(url) => {
                let models = retry(|| MySqlReadModel::connect(url)).await;
                self.work_on::<MySqlConnection, _>(store, models, broker, stop).await;
            }
        }
    }

    async fn work_on<Tx, M>(&self, store: Store, models: M, broker: RabbitMqBroker, stop: CancellationToken)
    where
        Tx: Tallies,
        M: ReadModel<Tx = Tx> + ViewStore + Clone,
    {
        if self.role == Role::WithoutGate {
            return without_gate(&models, &broker, &self.cure, &stop).await;
        }
        if self.role.keeps_a_view() {
            let view = TallyView { cure: self.cure.clone() };
            return self.run_worker(Worker::view(view, store.events, models), broker, stop).await;
        }
        let tally = Tally::<Tx>::with_cure(self.cure.clone());
        self.run_worker(Worker::new(tally, store.events, models), broker, stop).await;
    }

    async fn run_worker<P, M>(&self, worker: Worker<P, M>, broker: RabbitMqBroker, stop: CancellationToken)
    where
        P: Projection,
        M: ReadModel<Tx = P::Tx>,
    {
        // Three attempts within a second, instead of sixteen within an hour.
        let delay = Duration::from_millis(100);
        let parking = ParkingOptions::new().with_retries(2).with_delays(delay, delay);
        let worker = worker.with_options(WorkerOptions::new().with_retries(1).with_parking(parking));
        let worker = worker.with_broker(broker.clone()).with_dead_letters(broker);
        let in_order = self.role.has_order_per_aggregate();
        let worker = if in_order { worker.with_order_per_aggregate() } else { worker };
        tokio::spawn(print_errors(worker.status()));
        end(worker.run(stop).await);
    }
}

/// Prints each error that a worker reports in its status.
async fn print_errors(mut status: watch::Receiver<Status>) {
    let mut printed = None;
    while status.changed().await.is_ok() {
        let last = status.borrow_and_update().last_error.clone();
        if last != printed {
            eprintln!("{}", last.iter().map(|seen| seen.error.as_str()).collect::<String>());
            printed = last;
        }
    }
}

async fn relay(store: Store, publisher: impl Publisher, stop: CancellationToken) {
    end(Relay::new(store.events, publisher).with_checkpoint(store.relays, "chaos").run(stop).await);
}

/// Ends the process with [`HISTORY_CHANGED`] if that is the error, for the run to reset it.
fn end(ran: Result<()>) {
    match ran {
        Err(error) if error.is_history_changed() => {
            eprintln!("{error:#}");
            exit(HISTORY_CHANGED);
        }
        ran => ran.unwrap(),
    }
}

/// Repeats `attempt` until the server is up.
async fn retry<T, F: Future<Output = Result<T>>>(attempt: impl Fn() -> F) -> T {
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => assert!(error.is_transient(), "{error}: {:?}", std::error::Error::source(&error)),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Drops one frame in twenty, and duplicates, delays or reorders many others.
fn faults(seed: u64) -> Vec<Fault> {
    let mut random = Random(seed);
    let fault = |number| match number {
        0 => Fault::Drop,
        1..4 => Fault::Double,
        4..7 => Fault::Late,
        7 => Fault::Junk,
        8 => Fault::LoseConfirm,
        9 => Fault::Refuse,
        _ => Fault::Deliver,
    };
    (0..100_000).map(|_| fault(random.below(20))).collect()
}

/// Does the work of a consumer that trusts its broker.
async fn without_gate<Tx: Tallies>(
    models: &impl ReadModel<Tx = Tx>,
    broker: &RabbitMqBroker,
    cure: &Path,
    stop: &CancellationToken,
) {
    let name = ProjectionName::new(NAME).unwrap();
    let mut kept = models.mark(&name).await.unwrap().position;
    models.commit(Step::new(&name, kept, kept), applied(cure, Vec::new())).await.unwrap();
    let mut consumer = broker.subscribe(&name, SubscriptionMode::Exclusive).await.unwrap();
    while !stop.is_cancelled() {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = consumer.next(100) => received.unwrap(),
        };
        for delivery in received {
            let Ok(frame) = ReceivedFrame::parse(delivery.body) else { continue };
            let through = kept.max(frame.last());
            models.commit(Step::new(&name, kept, through), applied(cure, frame.events().unwrap())).await.unwrap();
            kept = through;
            consumer.ack_through(delivery.tag).await.unwrap();
        }
    }
}

fn applied<Tx: Tallies>(cure: &Path, events: Vec<RecordedEvent>) -> Work<Tx> {
    let tally = Tally::with_cure(cure.to_owned());
    let failed = |error: BoxError| Error::with_source(ErrorKind::Backend("tally".into()), error);
    Box::new(move |tx| {
        async move {
            tally.setup(tx).await.map_err(failed)?;
            for event in events {
                tally.apply(tx, event.decode()?).await.map_err(failed)?;
            }
            Ok(())
        }
        .boxed()
    })
}
