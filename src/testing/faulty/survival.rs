//! Runs a projection under every fault between the log and its read model.

use std::convert::Infallible;
use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::broker::memory::MemoryBroker;
use crate::error::Result;
use crate::event::RecordedEvent;
use crate::id::{ExpectedVersion, ProjectionName, StreamId, Version};
use crate::projection::Projection;
use crate::relay::Relay;
use crate::relay::options::RelayOptions;
use crate::store::log::append::Append;
use crate::store::log::event_store::EventStore;
use crate::store::log::reader::EventReader;
use crate::store::memory::log::MemoryStore;
use crate::store::model::read_model::ReadModel;
use crate::testing::faulty::models::{CommitFault, FaultyModels};
use crate::testing::faulty::{Fault, FaultyBroker};
use crate::testing::store::whole_log;
use crate::worker::Worker;
use crate::worker::options::WorkerOptions;

/// Number of first transactions that fail alone, one per round.
const FAULTY_TRANSACTIONS: usize = 6;

/// Number of rounds with random faults.
const SEEDED_ROUNDS: u64 = 16;

/// Time limit for a projection to reach the end of the log.
const TIMEOUT: Duration = Duration::from_mins(5);

/// Asserts that a projection writes the same result under faults as it writes without them.
///
/// Each round runs the projection over a copy of the log. The first rounds inject one [fault](CommitFault) each: every kind of fault at each
/// of the first transactions. The other rounds inject many random faults, with fixed seeds, and use a broker that loses, duplicates and
/// reorders messages.
///
/// - `projection` creates the projection, as the start of a program does. It is called again after each simulated death. Its argument is the
///   read model, which a [`ViewProjection`](crate::view::ViewProjection) needs; other projections ignore it.
/// - `log` contains the events. Each round records them again in its own log. About ten events are enough, with several of each type.
/// - `models` creates an empty read model.
/// - `read` reads the projection's result.
///
/// This detects state that is not part of the transaction, such as a counter in the projection itself, a file, or a request. For a
/// projection with per-aggregate order, a reaction or a process, build its worker from [`FaultyModels`] and [`FaultyBroker`].
///
/// # Panics
/// If the projection writes another result, parks other aggregates, or does not reach the end of the log. The message names the faults.
///
/// # Examples
/// ```
/// # use retell::store::Append;
/// # use retell::testing::store::{events, stream};
/// # use retell::{AnyEvent, BoxError, Envelope, EventStore, ExpectedVersion, MemoryReadModel, MemoryStore, Projection, async_trait};
/// # struct Count;
/// # #[async_trait]
/// # impl Projection for Count {
/// #     const NAME: &'static str = "count";
/// #     type Event = AnyEvent;
/// #     type Tx = u64;
/// #     async fn apply(&self, count: &mut u64, _: Envelope<AnyEvent>) -> Result<(), BoxError> { *count += 1; Ok(()) }
/// # }
/// use retell::testing::faulty::assert_survives;
///
/// # #[tokio::main]
/// # async fn main() -> retell::Result<()> {
/// # let log = MemoryStore::new();
/// # log.append(Append::new(stream("a"), ExpectedVersion::Any, events(9))).await?;
/// assert_survives(|_| Count, &log, async || MemoryReadModel::with_value(0), async |models| *models.value()).await;
/// # Ok(())
/// # }
/// ```
pub async fn assert_survives<P, M, T>(
    projection: impl Fn(&FaultyModels<M>) -> P,
    log: &dyn EventReader,
    models: impl AsyncFn() -> M,
    read: impl AsyncFn(&M) -> T,
) where
    P: Projection<Tx = M::Tx>,
    M: ReadModel + Clone,
    T: Debug + PartialEq,
{
    let log = whole_log(log).await.unwrap_or_else(|error| panic!("cannot read the log: {error}"));
    let made = async |round: &Round, store: &MemoryStore, log: &[RecordedEvent]| {
        let models = FaultyModels::new(models().await, round.commits.clone());
        let parked = round.run(&projection, store, log, &models).await;
        (read(models.inner()).await, parked)
    };
    for round in rounds() {
        let store = MemoryStore::new();
        let found = made(&round, &store, &log).await;
        // The store already contains every event, so both runs see the same times.
        let expected = made(&Round::default(), &store, &[]).await;
        assert_eq!(found, expected, "the projection writes another result or parks other aggregates under {round:?}");
    }
}

/// The faults of one round.
#[derive(Debug, Default)]
struct Round {
    commits: Vec<CommitFault>,
    frames: Vec<Fault>,
}

fn rounds() -> impl Iterator<Item = Round> {
    let faults = CommitFault::ALL.into_iter().filter(|fault| *fault != CommitFault::Commit);
    let alone = faults.flat_map(|fault| (0..FAULTY_TRANSACTIONS).map(move |place| Round::of_one(place, fault)));
    alone.chain((0..SEEDED_ROUNDS).map(Round::seeded))
}

/// Parked aggregates, each with the version of its first parked event.
type ParkedAggregates = Vec<(StreamId, Version)>;

impl Round {
    fn of_one(place: usize, fault: CommitFault) -> Self {
        let mut commits = vec![CommitFault::Commit; place];
        commits.push(fault);
        Self { commits, frames: Vec::new() }
    }

    fn seeded(seed: u64) -> Self {
        Self { commits: CommitFault::seeded(seed, 20), frames: Fault::seeded(seed, 40) }
    }

    /// Runs the projection while the events of `log` are appended. Returns the aggregates that are parked when it reaches the end.
    async fn run<P, M>(
        &self,
        projection: &impl Fn(&FaultyModels<M>) -> P,
        store: &MemoryStore,
        log: &[RecordedEvent],
        models: &FaultyModels<M>,
    ) -> ParkedAggregates
    where
        P: Projection<Tx = M::Tx>,
        M: ReadModel + Clone,
    {
        let broker = FaultyBroker::new(MemoryBroker::with_capacity(8), self.frames.clone());
        let run = async {
            tokio::select! {
                relayed = relay(store, &broker) => panic!("the relay has ended: {relayed:?}"),
                never = run_workers(projection, store, models, &broker) => match never {},
                parked = append_and_wait(projection, log, store, models) => parked,
            }
        };
        let parked = timeout(TIMEOUT, run).await;
        let parked =
            parked.unwrap_or_else(|_| panic!("the projection does not reach the end of the log under {self:?}"));
        parked.unwrap_or_else(|error| panic!("cannot run the projection under {self:?}: {error}"))
    }
}

async fn relay(store: &MemoryStore, broker: &FaultyBroker<MemoryBroker>) -> Result<()> {
    let options = RelayOptions::new().with_frame_events(2).with_page_events(4);
    Relay::new(store.clone(), broker.clone()).with_options(options).run(CancellationToken::new()).await
}

/// Runs a worker, and replaces it each time it dies.
async fn run_workers<P, M>(
    projection: &impl Fn(&FaultyModels<M>) -> P,
    store: &MemoryStore,
    models: &FaultyModels<M>,
    broker: &FaultyBroker<MemoryBroker>,
) -> Infallible
where
    P: Projection<Tx = M::Tx>,
    M: ReadModel + Clone,
{
    let brief = Duration::from_millis(2);
    let options = WorkerOptions::new().with_batch_events(3).with_sweep(brief).with_longest_delay(brief);
    loop {
        let worker = Worker::new(projection(models), store.clone(), models.clone());
        let worker = worker.with_broker(broker.clone()).with_options(options);
        tokio::select! {
            ended = worker.run(CancellationToken::new()) => panic!("the worker has ended: {ended:?}"),
            () = models.died() => {}
        }
    }
}

/// Appends the events while the relay and the worker run, and waits until the projection has handled them.
async fn append_and_wait<P, M>(
    projection: &impl Fn(&FaultyModels<M>) -> P,
    log: &[RecordedEvent],
    store: &MemoryStore,
    models: &FaultyModels<M>,
) -> Result<ParkedAggregates>
where
    P: Projection<Tx = M::Tx>,
    M: ReadModel,
{
    for event in log {
        let append = Append::new(event.stream.clone(), ExpectedVersion::Any, vec![event.event.clone()]);
        store.append(append).await?;
        tokio::task::yield_now().await;
    }
    let name = ProjectionName::new(projection(models).name())?;
    let end = store.head().await?;
    while models.mark(&name).await?.position < end {
        sleep(Duration::from_millis(1)).await;
    }
    let parked = models.parking(&name).await?.parked;
    Ok(parked.into_iter().map(|parked| (parked.stream, parked.from_version)).collect())
}
