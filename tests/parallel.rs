//! Order per aggregate: any number of workers share a projection, and each aggregate is applied once and in order.
//! Needs `POSTGRES_URL` and `MYSQL_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::large_futures, reason = "a test may hold many workers in its future")]

#[path = "support/databases.rs"]
mod databases;
mod support;
#[path = "chaos/tally.rs"]
mod tally;
#[path = "support/workers.rs"]
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use databases::{Database, Place};
use futures::FutureExt;
use futures::future::ready;
use proptest::prelude::*;
use retell::broker::frame::Frame;
use retell::broker::{Broker, Confirm, Consumer, Delivery, DeliveryTag, Publisher, SubscriptionMode};
use retell::event::{NewEvent, RecordedEvent};
use retell::projection::wait_for;
use retell::relay::RelayOptions;
use retell::rusqlite::Connection;
use retell::store::ParkedState;
use retell::store::RegisteredShape;
use retell::store::{Append, Page, Parked, Query, Select};
use retell::testing::faulty::{Fault, FaultyBroker};
use retell::worker::{ParkingOptions, WorkerOptions};
use retell::{
    BoxError, Envelope, EventReader, EventReaderExt, EventStore, EventType, ExpectedVersion, Filter, MemoryBroker,
    MemoryReadModel, MemoryStore, MySqlReadModel, Position, PostgresReadModel, Projection, ProjectionName, ReadModel,
    Relay, Result, SqliteReadModel, StreamId, Worker, async_trait,
};
use sqlx::{MySqlConnection, PgConnection};
use support::CounterEvent;
use tally::{Lines, Spoken, Tallies, Tally, spoken};
use tokio_util::sync::CancellationToken;
use workers::{reached, until, while_running};

/// The versions applied for each stream, in the order they were applied.
type Applied = BTreeMap<String, Vec<u64>>;

/// Records the applied versions in memory and fails on poisoned events. Its filter excludes renames.
#[derive(Debug, Clone, Default)]
struct Seen {
    poison: Arc<Mutex<BTreeSet<(String, u64)>>>,
    kinds: Vec<&'static str>,
    tried: Arc<AtomicUsize>,
}

impl Seen {
    fn poisoned(poison: impl IntoIterator<Item = (&'static str, u64)>) -> Self {
        let poison = poison.into_iter().map(|(id, version)| (id.to_owned(), version)).collect();
        Self { poison: Arc::new(Mutex::new(poison)), ..Self::default() }
    }
}

#[async_trait]
impl Projection for Seen {
    const NAME: &'static str = "seen";
    type Event = CounterEvent;
    type Tx = Applied;

    fn filter(&self) -> Result<Filter> {
        let mut filter = Filter::aggregates(self.kinds.iter().copied())?;
        filter.event_types.push("counter.added".try_into()?);
        Ok(filter)
    }

    async fn apply(&self, tx: &mut Applied, event: Envelope<CounterEvent>) -> Result<(), BoxError> {
        let (id, version) = (event.stream.aggregate_id().to_string(), event.version.get());
        tx.entry(id.clone()).or_default().push(version);
        self.tried.fetch_add(1, Ordering::SeqCst);
        if self.poison.lock().unwrap().contains(&(id, version)) { Err("poison".into()) } else { Ok(()) }
    }
}

fn seen() -> ProjectionName {
    ProjectionName::new("seen").unwrap()
}

fn stream(id: &str) -> StreamId {
    StreamId::parse("counter", id).unwrap()
}

fn added() -> NewEvent {
    NewEvent::new(&CounterEvent::Added { amount: 1 }).unwrap()
}

fn renamed() -> NewEvent {
    NewEvent::new(&CounterEvent::Renamed("x".into())).unwrap()
}

async fn append(store: &(impl EventStore + ?Sized), stream: &StreamId, event: NewEvent) {
    store.append(Append::new(stream.clone(), ExpectedVersion::Any, vec![event])).await.unwrap();
}

/// Appends `count` events to `aggregates` counters. Every fifth event is one the projection does not want.
async fn write(store: &MemoryStore, count: u64, aggregates: u64) {
    for number in 0..count {
        // Scatters the aggregates instead of repeating a cycle.
        let id = (number * number + number / 3) % aggregates;
        append(store, &stream(&id.to_string()), if number % 5 == 4 { renamed() } else { added() }).await;
    }
}

async fn log(store: &(impl EventReader + ?Sized)) -> Vec<RecordedEvent> {
    store.read_all(Position::ZERO, 100_000, &Filter::all()).await.unwrap().events
}

/// Returns the expected versions of each stream: those that pass the filter.
async fn fold(store: &MemoryStore) -> Applied {
    let mut applied = Applied::new();
    let filter = Seen::default().filter().unwrap();
    for event in log(store).await.iter().filter(|event| filter.passes(event)) {
        applied.entry(event.stream.aggregate_id().to_string()).or_default().push(event.version.get());
    }
    applied
}

/// Short sweeps and delays keep the tests fast; no assertion depends on them.
fn eager() -> WorkerOptions {
    let brief = Duration::from_millis(5);
    WorkerOptions::new().with_sweep(brief).with_longest_delay(brief).with_retries(1)
}

/// Disables sweeps after the first, so that only the broker delivers events.
fn without_sweeps() -> WorkerOptions {
    let day = Duration::from_hours(24);
    WorkerOptions::new().with_sweep(day).with_gather(day)
}

type MemoryWorker = Worker<Seen, MemoryReadModel<Applied>>;

fn workers(count: usize, make: impl Fn() -> MemoryWorker) -> Vec<MemoryWorker> {
    (0..count).map(|_| make().with_order_per_aggregate()).collect()
}

async fn parked(models: &MemoryReadModel<Applied>) -> Vec<Parked> {
    models.parking(&seen()).await.unwrap().parked
}

/// A broker that delivers scripted frames and records what the worker does with them.
#[derive(Debug, Clone, Default)]
struct Scripted {
    left: Arc<Mutex<Vec<Delivery>>>,
    done: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    /// Creates one frame for each range of the log's events, counted from 1.
    async fn of(store: &MemoryStore, ranges: &[(usize, usize)]) -> Self {
        let log = log(store).await;
        let frame =
            |&(first, last): &(usize, usize)| Frame::split(&log[first - 1..last], 1_000, 1 << 20).unwrap().remove(0);
        let deliveries = ranges.iter().map(frame).zip(1..);
        let mut left: Vec<_> =
            deliveries.map(|(frame, tag)| Delivery::new(DeliveryTag::new(tag), frame.body().clone())).collect();
        left.reverse();
        Self { left: Arc::new(Mutex::new(left)), done: Arc::default() }
    }

    async fn has_done(&self, what: &str) {
        until(async || self.done.lock().unwrap().iter().any(|done| done == what)).await;
    }
}

#[async_trait]
impl Publisher for Scripted {
    async fn publish(&self, _: &[Frame]) -> Result<Confirm> {
        Ok(ready(Ok(())).boxed())
    }
}

#[async_trait]
impl Broker for Scripted {
    async fn subscribe(&self, _: &ProjectionName, mode: SubscriptionMode) -> Result<Box<dyn Consumer>> {
        self.done.lock().unwrap().push(format!("subscribe {mode:?}"));
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Consumer for Scripted {
    async fn next(&mut self, _: usize) -> Result<Vec<Delivery>> {
        let next = self.left.lock().unwrap().pop();
        match next {
            Some(delivery) => Ok(vec![delivery]),
            None => std::future::pending().await,
        }
    }

    async fn ack_through(&mut self, tag: DeliveryTag) -> Result<()> {
        self.done.lock().unwrap().push(format!("ack {}", tag.get()));
        Ok(())
    }

    async fn reject(&mut self, delivery: Delivery, _: &str) -> Result<()> {
        self.done.lock().unwrap().push(format!("reject {}", delivery.tag.get()));
        Ok(())
    }
}

/// A store whose log looks empty to a sweep: only streams can be read.
#[derive(Clone)]
struct Unswept(MemoryStore);

#[async_trait]
impl EventReader for Unswept {
    async fn replay(
        &self,
        stream: &StreamId,
        replay: retell::store::Replay,
        visitor: &mut dyn retell::store::Visitor,
    ) -> Result<()> {
        self.0.replay(stream, replay, visitor).await
    }

    async fn read(&self, query: Query<'_>) -> Result<Page> {
        match query.select {
            Select::Log { after, .. } => Ok(Page::new(Vec::new(), after)),
            _ => self.0.read(query).await,
        }
    }

    async fn head(&self) -> Result<Position> {
        self.0.head().await
    }

    async fn position_of(&self, token: retell::Token) -> Result<Option<Position>> {
        self.0.position_of(token).await
    }

    async fn registered_shapes(&self) -> Result<Vec<RegisteredShape>> {
        self.0.registered_shapes().await
    }

    async fn next_event_type(&self, after: Option<&EventType>) -> Result<Option<EventType>> {
        self.0.next_event_type(after).await
    }

    fn watch_head(&self) -> tokio::sync::watch::Receiver<Position> {
        self.0.watch_head()
    }
}

#[tokio::test]
async fn out_of_order_frames_do_not_advance_the_swept_position() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()));
    write(&store, 40, 3).await;
    let broker = Scripted::of(&store, &[(31, 40), (5, 8), (5, 8), (33, 36)]).await;
    let worker = workers(1, || {
        let worker = Worker::new(Seen::default(), Unswept(store.clone()), models.clone());
        worker.with_broker(broker.clone()).with_options(without_sweeps().with_gather(Duration::ZERO))
    });
    while_running(&worker, broker.has_done("ack 4")).await;
    assert_eq!(*models.value(), fold(&store).await, "missing earlier events are read from the store");
    assert_eq!(models.checkpoint(&seen()).await.unwrap(), Position::ZERO, "only a sweep advances the swept position");
    assert_eq!(broker.done.lock().unwrap()[0], "subscribe Competing");
}

#[tokio::test]
async fn unwanted_events_advance_the_version_of_an_aggregate() {
    for kinds in [Vec::new(), vec!["counter"]] {
        let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()));
        let other = StreamId::parse("other", "a").unwrap();
        for event in [added(), renamed(), renamed()] {
            append(&store, &stream("a"), event).await;
            append(&store, &other, renamed()).await;
        }
        let worker = workers(1, || {
            let projection = Seen { kinds: kinds.clone(), ..Seen::default() };
            Worker::new(projection, store.clone(), models.clone()).with_options(eager())
        });
        while_running(&worker, reached(&models, &seen(), 6)).await;
        let rows = models.seen(&seen(), &[stream("a"), other.clone()]).await.unwrap();
        assert_eq!(rows[&stream("a")].version.get(), 3);
        assert_eq!(rows.get(&other), None, "an aggregate without wanted events needs no row");
        assert_eq!(*models.value(), fold(&store).await);
    }
}

#[tokio::test]
async fn an_aggregate_is_read_from_its_start_at_a_wanted_event() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()));
    for event in [renamed(), renamed(), added(), renamed(), added()] {
        append(&store, &stream("a"), event).await;
    }
    let worker = workers(1, || {
        Worker::new(Seen::default(), store.clone(), models.clone()).with_options(eager().with_batch_events(1))
    });
    while_running(&worker, reached(&models, &seen(), 5)).await;
    assert_eq!(models.value()["a"], [3, 5]);
}

#[tokio::test]
async fn a_frame_of_a_stream_unknown_to_the_store_is_not_applied() {
    let (store, other) = (MemoryStore::new(), MemoryStore::new());
    let models = MemoryReadModel::with_value(Applied::new());
    write(&store, 3, 1).await;
    for _ in 0..9 {
        append(&other, &stream("foreign"), added()).await;
    }
    let broker = Scripted::of(&other, &[(9, 9)]).await;
    let worker = workers(1, || {
        let worker = Worker::new(Seen::default(), store.clone(), models.clone()).with_broker(broker.clone());
        worker.with_options(eager())
    });
    while_running(&worker, async {
        until(async || broker.left.lock().unwrap().is_empty()).await;
        append(&store, &stream("0"), added()).await;
        reached(&models, &seen(), 4).await;
    })
    .await;
    assert_eq!(*models.value(), fold(&store).await);
    assert!(!broker.done.lock().unwrap().iter().any(|done| done.starts_with("ack")), "the frame is not acknowledged");
}

#[tokio::test]
async fn a_poisoned_aggregate_blocks_no_other_until_its_retry() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()));
    let broker = MemoryBroker::new();
    write(&store, 200, 7).await;
    let projection = Seen::poisoned([("3", 4)]);
    let brief = Duration::from_millis(1);
    let parking = ParkingOptions::new().with_delays(brief, brief).with_retries(3);
    let workers = workers(3, || {
        let worker = Worker::new(projection.clone(), store.clone(), models.clone()).with_broker(broker.clone());
        worker.with_options(eager().with_parking(parking)).with_dead_letters(broker.clone())
    });
    while_running(&workers, async {
        until(async || parked(&models).await.iter().any(|parked| parked.state == ParkedState::Dead)).await;
        write(&store, 200, 7).await;
        let page = store.read_all(Position::new(200), 1_000, &Filter::all()).await.unwrap();
        broker.publish(&Frame::split(&page.events, 7, 1 << 20).unwrap()).await.unwrap().await.unwrap();
        reached(&models, &seen(), 400).await;
        let mut expected = fold(&store).await;
        expected.get_mut("3").unwrap().retain(|version| *version < 4);
        assert_eq!(*models.value(), expected, "none of its later events overtakes");
        let [dead] = &parked(&models).await[..] else { panic!("exactly one aggregate is parked") };
        assert_eq!((dead.stream.clone(), dead.from_version.get(), dead.attempts), (stream("3"), 4, 4));
        assert!(!broker.dead_letters().is_empty());
        projection.poison.lock().unwrap().clear();
        assert!(models.retry_parked(&seen(), &stream("3")).await.unwrap());
        until(async || parked(&models).await.is_empty()).await;
        append(&store, &stream("3"), added()).await;
        reached(&models, &seen(), 401).await;
    })
    .await;
    assert_eq!(*models.value(), fold(&store).await);
}

#[tokio::test]
async fn an_outage_parks_nothing_with_order_per_aggregate() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()));
    write(&store, 60, 20).await;
    let everything = fold(&store).await;
    let projection = Seen::default();
    let poison =
        everything.iter().flat_map(|(id, versions)| versions.iter().map(move |version| (id.clone(), *version)));
    *projection.poison.lock().unwrap() = poison.collect();
    let workers = workers(2, || Worker::new(projection.clone(), store.clone(), models.clone()).with_options(eager()));
    while_running(&workers, async {
        until(async || projection.tried.load(Ordering::SeqCst) > 1_000).await;
        assert_eq!(*models.value(), Applied::new(), "the workers only probe");
        assert_eq!(parked(&models).await, []);
        projection.poison.lock().unwrap().clear();
        reached(&models, &seen(), 60).await;
    })
    .await;
    assert_eq!(*models.value(), everything);
}

#[tokio::test]
async fn wait_for_does_not_wait_for_the_next_sweep() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()));
    let broker = MemoryBroker::new();
    let hour = WorkerOptions::new().with_sweep(Duration::from_hours(1));
    for brokers in [None, Some(broker.clone())] {
        let workers = workers(2, || {
            let worker = Worker::new(Seen::default(), store.clone(), models.clone()).with_options(hour);
            match brokers.clone() {
                Some(broker) => worker.with_broker(broker),
                None => worker,
            }
        });
        let relay = Relay::new(store.clone(), broker.clone());
        let stop = CancellationToken::new();
        let (relayed, ()) = tokio::join!(relay.run(stop.clone()), async {
            while_running(&workers, async {
                for _ in 0..10 {
                    let add = Append::new(stream("a"), ExpectedVersion::Any, vec![added()]);
                    let token = store.append(add).await.unwrap().token();
                    wait_for(&models, &store, &seen(), token, Duration::from_mins(1)).await.unwrap();
                }
            })
            .await;
            stop.cancel();
        });
        relayed.unwrap();
    }
    assert_eq!(models.value()["a"].len(), 20);
}

#[tokio::test]
async fn a_projection_in_log_order_is_refused() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()));
    write(&store, 5, 2).await;
    let worker = [Worker::new(Seen::default(), store.clone(), models.clone()).with_options(eager())];
    while_running(&worker, reached(&models, &seen(), 5)).await;
    let [worker] = worker;
    let error = worker.with_order_per_aggregate().run(CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("has begun in log order"), "{error}");
}

/// Loses one of twenty frames; many others are doubled, late or reordered.
fn faults(seed: usize) -> impl Iterator<Item = Fault> {
    (0..10_000_usize).map(move |number| match (number * number + number * seed + seed) % 20 {
        0 => Fault::Drop,
        1..4 => Fault::Double,
        4..7 => Fault::Late,
        7 => Fault::Junk,
        8 => Fault::LoseConfirm,
        9 => Fault::Refuse,
        _ => Fault::Deliver,
    })
}

/// Returns the expected final line of each aggregate.
fn expected(log: &[RecordedEvent]) -> Lines {
    let mut lines = Lines::new();
    for event in log {
        let Spoken::Word { weight } = event.decode::<Spoken>().unwrap().event;
        let version = i64::try_from(event.version.get()).unwrap();
        lines.entry(event.stream.aggregate_id().to_string()).or_default().fold(version, weight);
    }
    lines
}

/// Runs three workers behind a faulty broker while events are appended; one worker is dropped and another joins.
async fn race<Tx: Tallies, M>(place: &Place, models: &M, seed: usize)
where
    M: ReadModel<Tx = Tx> + Clone,
{
    let store = place.open().await.unwrap().events;
    let broker = FaultyBroker::new(MemoryBroker::new(), faults(seed));
    let relay_options = RelayOptions::new().with_frame_events(5);
    let relay = Relay::new(store.clone(), broker.clone()).with_options(relay_options);
    let worker = || {
        let worker = Worker::new(Tally::<Tx>::with_cure(std::path::PathBuf::new()), store.clone(), models.clone())
            .with_order_per_aggregate();
        worker.with_broker(broker.clone()).with_options(WorkerOptions::new().with_sweep(Duration::from_millis(50)))
    };
    let stop = CancellationToken::new();
    let write = async {
        for number in 0..600_i64 {
            let stream = StreamId::parse("word", &format!("a{}", (number * number + number / 7) % 11)).unwrap();
            append(&*store, &stream, spoken(number)).await;
        }
    };
    let (first, second, dropped) = (worker(), worker(), worker());
    let (relayed, ()) = tokio::join!(relay.run(stop.clone()), async {
        while_running(&[first, second], async {
            tokio::select! {
                () = write => {}
                ended = dropped.run(CancellationToken::new()) => panic!("a worker has ended: {ended:?}"),
            }
            // Dropped in the middle of its work.
            drop(dropped);
            while_running(&[worker()], reached(models, &ProjectionName::new(tally::NAME).unwrap(), 600)).await;
        })
        .await;
        stop.cancel();
    });
    relayed.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_workers_keep_order_under_broker_faults_on_sqlite() {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!("a file") };
    let path = path.with_extension("models");
    let models = SqliteReadModel::open(&path).await.unwrap();
    race::<Connection, _>(&database.place, &models, 1).await;
    let found = tally::of_sqlite(&Connection::open(path).unwrap()).unwrap();
    assert_eq!(found, expected(&log(&*database.place.open().await.unwrap().events).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_workers_keep_order_under_broker_faults_on_postgres() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!("a server") };
    let models = PostgresReadModel::connect(url).await.unwrap();
    race::<PgConnection, _>(&database.place, &models, 2).await;
    let found = tally::of_postgres(&mut models.pool().acquire().await.unwrap()).await;
    assert_eq!(found, expected(&log(&*database.place.open().await.unwrap().events).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_workers_keep_order_under_broker_faults_on_mysql() {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!("a server") };
    let models = MySqlReadModel::connect(url).await.unwrap();
    race::<MySqlConnection, _>(&database.place, &models, 3).await;
    let found = tally::of_mysql(&mut models.pool().acquire().await.unwrap()).await;
    assert_eq!(found, expected(&log(&*database.place.open().await.unwrap().events).await));
}

/// Delivers random frames in random order over a prefix of the log, with poison that heals.
async fn through_random_frames(
    frames: Vec<(usize, usize)>,
    poison: BTreeSet<(u64, u64)>,
    count: usize,
    batch_events: usize,
) -> (Applied, Applied) {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()));
    let broker = MemoryBroker::new();
    let projection = Seen::default();
    *projection.poison.lock().unwrap() = poison.into_iter().map(|(id, version)| (id.to_string(), version)).collect();
    let brief = Duration::from_millis(1);
    let parking = ParkingOptions::new().with_delays(brief, brief).with_retries(u32::MAX);
    let workers = workers(count, || {
        let worker = Worker::new(projection.clone(), store.clone(), models.clone()).with_broker(broker.clone());
        worker.with_options(eager().with_batch_events(batch_events).with_parking(parking))
    });
    while_running(&workers, async {
        write(&store, 30, 4).await;
        let halfway = frames.len() / 2;
        for (place, (first, last)) in frames.into_iter().enumerate() {
            if place == halfway {
                write(&store, 30, 4).await;
                projection.poison.lock().unwrap().clear();
            }
            let log = log(&store).await;
            let (first, last) = (first.min(last).min(log.len() - 1), last.max(first).min(log.len() - 1));
            broker.publish(&Frame::split(&log[first..=last], 1_000, 1 << 20).unwrap()).await.unwrap().await.unwrap();
            tokio::task::yield_now().await;
        }
        projection.poison.lock().unwrap().clear();
        until(async || parked(&models).await.is_empty()).await;
        let head = store.head().await.unwrap().get();
        reached(&models, &seen(), head).await;
        until(async || parked(&models).await.is_empty()).await;
    })
    .await;
    (models.value().as_ref().clone(), fold(&store).await)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_model_equals_the_fold_of_the_log_for_any_frames(
        frames in prop::collection::vec((0..60_usize, 0..60_usize), 0..40),
        poison in prop::collection::btree_set((0..4_u64, 1..16_u64), 0..4),
        count in 1..4_usize,
        batch_events in 1..20_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (applied, expected) = runtime.block_on(through_random_frames(frames, poison, count, batch_events));
        prop_assert_eq!(applied, expected);
    }
}
