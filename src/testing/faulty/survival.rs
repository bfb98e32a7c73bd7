//! A projection, and all that may go wrong on an event's way to it.

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

/// Transactions of which each has its turn to fail alone.
const PLACES: usize = 6;

/// Rounds in which everything fails at random.
const SEEDS: u64 = 16;

/// A projection that has not got to the log's end by then does not get there.
const PATIENCE: Duration = Duration::from_mins(1);

/// Runs a projection over a log again and again, and asserts that whatever goes wrong on the way, it makes of it what it makes undisturbed:
/// first with one [fault](CommitFault) at one of its transactions, for each kind of fault and each of the first transactions, and then, by
/// seeds that are the same each time, with many of them, over a broker that loses, doubles and reorders its messages.
///
/// - `projection` makes the projection anew, as the start of a program does: after each death, too. It gets the read model, which a
///   [`ViewProjection`](crate::view::ViewProjection) needs; others pass it over.
/// - `log` has the events. Each round has a copy of its own, recorded anew. It need not be long: some ten events, more than one of each kind.
/// - `models` makes a read model that is empty.
/// - `read` reads what the projection has made.
///
/// What this finds is state that is not part of the transaction: a counter in the projection itself, a file, a request. For a projection
/// with order per aggregate, a reaction or a process, put its worker together from [`FaultyModels`] and [`FaultyBroker`].
///
/// # Panics
/// It makes something else of the log, parks other aggregates or does not get to the end; says under which faults.
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
        // The same events, with the same times: all of them are there.
        let expected = made(&Round::default(), &store, &[]).await;
        assert_eq!(found, expected, "the projection makes something else of the log, or parks others, with {round:?}");
    }
}

/// What goes wrong.
#[derive(Debug, Default)]
struct Round {
    commits: Vec<CommitFault>,
    frames: Vec<Fault>,
}

fn rounds() -> impl Iterator<Item = Round> {
    let faults = CommitFault::ALL.into_iter().filter(|fault| *fault != CommitFault::Commit);
    let alone = faults.flat_map(|fault| (0..PLACES).map(move |place| Round::of_one(place, fault)));
    alone.chain((0..SEEDS).map(Round::seeded))
}

/// The aggregates that are parked, and from which version on.
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

    /// Appends the log meanwhile. Returns what is parked when the projection has got to the end.
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
                never = live(projection, store, models, &broker) => match never {},
                parked = fed(projection, log, store, models) => parked,
            }
        };
        let parked = timeout(PATIENCE, run).await;
        let parked = parked.unwrap_or_else(|_| panic!("the projection does not get to the log's end with {self:?}"));
        parked.unwrap_or_else(|error| panic!("what it has made cannot be read with {self:?}: {error}"))
    }
}

async fn relay(store: &MemoryStore, broker: &FaultyBroker<MemoryBroker>) -> Result<()> {
    let options = RelayOptions::new().with_frame_events(2).with_page_events(4);
    Relay::new(store.clone(), broker.clone()).with_options(options).run(CancellationToken::new()).await
}

/// Starts a worker whenever the one before has died.
async fn live<P, M>(
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

/// Appends the events while the others are at work, and waits for them.
async fn fed<P, M>(
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
    while models.checkpoint(&name).await? < end {
        sleep(Duration::from_millis(1)).await;
    }
    let parked = models.parking(&name).await?.parked;
    Ok(parked.into_iter().map(|parked| (parked.stream, parked.from_version)).collect())
}
