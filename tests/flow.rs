//! From the log to the read model: every event is applied once and in order, under all faults of the broker and the projection.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::ready;
use proptest::prelude::*;
use retell::Mark;
use retell::broker::frame::{Frame, ReceivedFrame};
use retell::broker::{Broker, Confirm, Consumer, Delivery, DeliveryTag, Publisher, SubscriptionMode};
use retell::event::NewEvent;
use retell::projection::wait_for;
use retell::relay::RelayOptions;
use retell::status::{Activity, Status, Wait};
use retell::store::RegisteredShape;
use retell::store::{
    Append, Page, Parked, Parking, ProjectionStatus, Query, RegisteredProcessor, RelayStore, Replay, Select, Step,
    Turn, Visitor, Work,
};
use retell::testing::faulty::{Fault, FaultyBroker};
use retell::worker::WorkerOptions;
use retell::{
    AggregateId, AnyEvent, BoxError, Codec, Envelope, Error, ErrorKind, EventId, EventReader, EventReaderExt,
    EventStore, EventType, EventUnion, ExpectedVersion, Filter, MemoryBroker, MemoryReadModel, MemoryStore, Position,
    Projection, ProjectionName, ReadModel, Relay, Repository, Result, SqliteReadModel, SqliteStore, StreamId, Worker,
    async_trait, rusqlite,
};
use support::{Add, Counter, CounterEvent};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Records the position of every event it applies, in memory.
#[derive(Debug, Clone, Default)]
struct Seen {
    filter: Option<Filter>,
    fail: Arc<AtomicUsize>,
}

impl Seen {
    /// Fails on the event at `position` until healed.
    fn failing_at(position: usize) -> Self {
        Self { filter: None, fail: Arc::new(AtomicUsize::new(position)) }
    }
}

#[async_trait]
impl Projection for Seen {
    const NAME: &'static str = "seen";
    type Event = CounterEvent;
    type Tx = Vec<u64>;

    fn filter(&self) -> Result<Filter> {
        self.filter.clone().map_or_else(Filter::of::<CounterEvent>, Ok)
    }

    async fn apply(&self, tx: &mut Vec<u64>, event: Envelope<CounterEvent>) -> Result<(), BoxError> {
        tx.push(event.position.get());
        if event.position.get() == self.fail.load(Ordering::SeqCst) as u64 {
            return Err("this event is poison".into());
        }
        Ok(())
    }
}

/// Sums amounts in SQLite and counts the applied events.
#[derive(Debug)]
struct Totals;

#[derive(EventUnion, Debug)]
enum Any {
    Counter(CounterEvent),
}

#[async_trait]
impl Projection for Totals {
    const NAME: &'static str = "totals";
    type Event = Any;
    type Tx = rusqlite::Connection;

    async fn setup(&self, tx: &mut rusqlite::Connection) -> Result<(), BoxError> {
        Ok(tx.execute_batch(
            "CREATE TABLE IF NOT EXISTS totals (id TEXT PRIMARY KEY, total INTEGER NOT NULL, applied INTEGER NOT NULL)",
        )?)
    }

    async fn apply(&self, tx: &mut rusqlite::Connection, event: Envelope<Any>) -> Result<(), BoxError> {
        let Any::Counter(event_) = event.event;
        let amount = if let CounterEvent::Added { amount } = event_ { amount } else { 0 };
        tx.prepare_cached(
            "INSERT INTO totals VALUES (?1, ?2, 1)
             ON CONFLICT DO UPDATE SET total = total + excluded.total, applied = applied + 1",
        )?
        .execute((event.stream.aggregate_id().as_str(), amount))?;
        Ok(())
    }
}

async fn totals(models: &SqliteReadModel) -> Vec<(String, i64, i64)> {
    models
        .query(|db| {
            let mut rows = db.prepare("SELECT id, total, applied FROM totals ORDER BY id")?;
            rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
        })
        .await
        .unwrap()
}

/// A task and the token that stops it.
struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl Running {
    fn relay(relay: Relay) -> Self {
        let stop = CancellationToken::new();
        Self {
            task: tokio::spawn({
                let stop = stop.clone();
                async move { relay.run(stop).await }
            }),
            stop,
        }
    }

    fn worker<P, M>(worker: Worker<P, M>) -> Self
    where
        P: Projection,
        M: ReadModel<Tx = P::Tx>,
    {
        let stop = CancellationToken::new();
        Self {
            task: tokio::spawn({
                let stop = stop.clone();
                async move { worker.run(stop).await }
            }),
            stop,
        }
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}

async fn add(store: &impl EventStore, id: &str, amounts: impl IntoIterator<Item = i64>) {
    let events = amounts.into_iter().map(|amount| NewEvent::new(&CounterEvent::Added { amount }).unwrap()).collect();
    let stream = StreamId::parse("counter", id).unwrap();
    store.append(Append::new(stream, ExpectedVersion::Any, events)).await.unwrap();
}

async fn add_foreign(store: &impl EventStore, aggregate_type: &str, event_type: &str) {
    let event = NewEvent::stored(EventId::generate(), EventType::new(event_type).unwrap(), 1, Codec::Json, "{}".into());
    let stream = StreamId::parse(aggregate_type, "1").unwrap();
    store.append(Append::new(stream, ExpectedVersion::Any, vec![event])).await.unwrap();
}

/// Short sweeps and delays keep the tests fast; no assertion depends on them.
fn eager() -> WorkerOptions {
    WorkerOptions::new().with_sweep(Duration::from_millis(5)).with_longest_delay(Duration::from_millis(5))
}

async fn reaches<P: Projection, M>(worker: &Worker<P, M>, position: u64)
where
    M: ReadModel<Tx = P::Tx>,
{
    let mut applied = worker.applied();
    let reached = applied.wait_for(|applied| applied.get() >= position);
    tokio::time::timeout(Duration::from_secs(30), reached).await.expect("the projection catches up in time").unwrap();
}

/// Runs a worker in memory until every event now in the log is applied, and returns the applied positions.
async fn project(store: &MemoryStore, projection: Seen, broker: Option<impl Broker>) -> Vec<u64> {
    let models = MemoryReadModel::with_value(Vec::new());
    let mut worker = Worker::new(projection, store.clone(), models.clone()).with_options(eager());
    if let Some(broker) = broker {
        worker = worker.with_broker(broker);
    }
    let head = store.head().await.unwrap().get();
    let stop = CancellationToken::new();
    let (result, ()) = tokio::join!(worker.run(stop.clone()), async {
        reaches(&worker, head).await;
        stop.cancel();
    });
    result.unwrap();
    models.value().to_vec()
}

/// A worker that gets the messages of another log applies none of them, and says that it waits for its own.
#[tokio::test(start_paused = true)]
async fn messages_beyond_the_log_are_reported() {
    let (store, other, broker) = (MemoryStore::new(), MemoryStore::new(), MemoryBroker::new());
    let models = MemoryReadModel::with_value(Vec::new());
    add(&store, "a", [1]).await;
    add(&other, "a", 0..5).await;
    let worker = Worker::new(Seen::default(), store.clone(), models.clone()).with_broker(broker.clone());
    let mut status = worker.status();
    let running = Running::worker(worker);
    status.wait_for(|status| status.activity == Activity::Running).await.unwrap();
    let relay = Running::relay(Relay::new(other.clone(), broker).with_checkpoint(other, "main"));
    let waits = |status: &Status| status.waits.iter().any(|wait| wait.on == Wait::Log && wait.error.is_some());
    let waiting = tokio::time::timeout(Duration::from_hours(1), status.wait_for(waits)).await.unwrap();
    let waiting = waiting.unwrap().to_string();
    assert!(waiting.contains("the broker has brought events up to 5, and the log ends at 1 here"), "{waiting}");
    assert_eq!(*models.value(), [1]);
    // A log that grows only lags behind.
    for _ in 0..4 {
        add(&store, "a", [1]).await;
        let ended = status.wait_for(|status| status.waits.is_empty());
        tokio::time::timeout(Duration::from_hours(1), ended).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert_eq!(status.borrow().waits, []);
    }
    assert_eq!(*models.value(), [1, 2, 3, 4, 5]);
    running.stop().await.unwrap();
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_projection_catches_up_and_then_follows_the_log() {
    let store = MemoryStore::new();
    add(&store, "a", 0..2500).await;
    let models = MemoryReadModel::with_value(Vec::new());
    let broker = MemoryBroker::new();
    let worker = Worker::new(Seen::default(), store.clone(), models.clone()).with_broker(broker.clone());
    let mut applied = worker.applied();
    let (relay, worker) = (Running::relay(Relay::new(store.clone(), broker)), Running::worker(worker));
    applied.wait_for(|applied| applied.get() == 2500).await.unwrap();
    for _ in 0..50 {
        add(&store, "b", [1, 2]).await;
    }
    applied.wait_for(|applied| applied.get() == 2600).await.unwrap();
    worker.stop().await.unwrap();
    relay.stop().await.unwrap();
    assert_eq!(*models.value(), (1..=2600).collect::<Vec<_>>());
}

#[tokio::test]
async fn wait_for_makes_a_command_readable() {
    let store = SqliteStore::in_memory().await.unwrap();
    let models = SqliteReadModel::in_memory().await.unwrap();
    let worker = Worker::new(Totals, store.clone(), models.clone()).with_options(eager());
    let name = ProjectionName::new("totals").unwrap();
    let counters = Repository::<Counter>::new(store.clone());
    let executed = counters.execute("a", Add(vec![3, 4])).await.unwrap();
    let timeout = Duration::from_millis(20);
    let error = wait_for(&models, &store, &name, executed.token, timeout).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Behind { .. }), "no worker runs yet: {error}");
    let worker = Running::worker(worker);
    wait_for(&models, &store, &name, executed.token, Duration::from_secs(30)).await.unwrap();
    assert_eq!(totals(&models).await, [("a".to_owned(), 7, 2)]);
    wait_for(&models, &store, &name, retell::store::Token::default(), Duration::ZERO).await.unwrap();
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_projection_gets_only_wanted_events_and_still_advances() {
    let store = MemoryStore::new();
    for _ in 0..3 {
        add(&store, "a", [1]).await;
        add_foreign(&store, "door", "door.opened").await;
    }
    assert_eq!(project(&store, Seen::default(), None::<MemoryBroker>).await, [1, 3, 5]);
}

#[tokio::test]
async fn an_unknown_type_is_skipped_or_parked_as_the_filter_says() {
    let store = MemoryStore::new();
    add(&store, "a", [1]).await;
    add_foreign(&store, "counter", "counter.invented").await;
    assert_eq!(project(&store, Seen::default(), None::<MemoryBroker>).await, [1]);
    let strict = Seen { filter: Some(Filter::aggregates(["counter"]).unwrap()), ..Seen::default() };
    let models = MemoryReadModel::with_value(Vec::new());
    let worker = Worker::new(strict, store.clone(), models.clone());
    let stop = CancellationToken::new();
    let (result, ()) = tokio::join!(worker.run(stop.clone()), async {
        reaches(&worker, 2).await;
        stop.cancel();
    });
    result.unwrap();
    assert_eq!(*models.value(), [1]);
    let [parked] = &models.parking(&ProjectionName::new("seen").unwrap()).await.unwrap().parked[..] else { panic!() };
    assert_eq!(parked.error, "counter/1 version 1: unknown event type counter.invented");
}

async fn finish(store: &MemoryStore, models: &MemoryReadModel<Vec<u64>>, projection: &Seen) {
    let worker = Worker::new(projection.clone(), store.clone(), models.clone()).with_options(eager());
    let stop = CancellationToken::new();
    let (result, ()) = tokio::join!(worker.run(stop.clone()), async {
        reaches(&worker, 10).await;
        stop.cancel();
    });
    result.unwrap();
}

#[tokio::test]
async fn an_event_that_heals_is_applied_once() {
    let store = MemoryStore::new();
    add(&store, "a", 0..5).await;
    let projection = Seen::failing_at(3);
    let models = MemoryReadModel::with_value(Vec::new());
    let options = eager().with_retries(usize::MAX);
    let worker = Worker::new(projection.clone(), store.clone(), models.clone()).with_options(options);
    let stop = CancellationToken::new();
    let (result, ()) = tokio::join!(worker.run(stop.clone()), async {
        reaches(&worker, 2).await;
        projection.fail.store(0, Ordering::SeqCst);
        reaches(&worker, 5).await;
        stop.cancel();
    });
    result.unwrap();
    assert_eq!(*models.value(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_read_model_of_another_log_is_refused() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Vec::new()));
    add(&store, "a", 0..10).await;
    finish(&store, &models, &Seen::default()).await;
    let other = MemoryStore::new();
    add(&other, "a", 0..3).await;
    let error = Worker::new(Seen::default(), other, models).run(CancellationToken::new()).await.unwrap_err();
    assert!(error.is_history_changed(), "{error}");
    assert!(error.to_string().starts_with("projection seen remembers event "), "{error}");
}

#[tokio::test]
async fn two_workers_of_one_projection_apply_each_event_once() {
    let store = SqliteStore::in_memory().await.unwrap();
    let models = SqliteReadModel::in_memory().await.unwrap();
    let broker = MemoryBroker::new();
    let relay = Running::relay(Relay::new(store.clone(), broker.clone()));
    let options = eager().with_batch_events(3);
    let workers: Vec<_> = (0..2)
        .map(|_| Worker::new(Totals, store.clone(), models.clone()).with_broker(broker.clone()).with_options(options))
        .map(Running::worker)
        .collect();
    for _ in 0..100 {
        add(&store, "a", [1, 1]).await;
    }
    let name = ProjectionName::new("totals").unwrap();
    while models.checkpoint(&name).await.unwrap() < Position::new(200) {
        tokio::task::yield_now().await;
    }
    for worker in workers {
        worker.stop().await.unwrap();
    }
    relay.stop().await.unwrap();
    assert_eq!(totals(&models).await, [("a".to_owned(), 200, 200)]);
}

/// A read model as slow as a server, in which a worker waits for the worker that holds the projection's row. Counts the lost races.
#[derive(Debug, Clone, Default)]
struct Contested {
    models: MemoryReadModel<Vec<u64>>,
    row: Arc<tokio::sync::Mutex<()>>,
    lost: Arc<AtomicUsize>,
}

#[async_trait]
impl ReadModel for Contested {
    type Tx = Vec<u64>;

    async fn mark(&self, projection: &ProjectionName) -> Result<Mark> {
        self.models.mark(projection).await
    }

    async fn state(&self, projection: &ProjectionName) -> retell::Result<retell::store::ProjectionState> {
        self.models.state(projection).await
    }

    async fn projections(&self, limit: usize) -> Result<Vec<ProjectionStatus>> {
        self.models.projections(limit).await
    }

    async fn parked(
        &self,
        projection: &ProjectionName,
        stream: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<Parked>> {
        self.models.parked(projection, stream, limit).await
    }

    async fn parking(&self, projection: &ProjectionName) -> Result<Parking> {
        self.models.parking(projection).await
    }

    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool> {
        self.models.retry_parked(projection, stream).await
    }

    async fn commit(&self, step: Step, work: Work<Vec<u64>>) -> Result<()> {
        let _row = self.row.lock().await;
        if self.mark(&step.projection).await? == step.from {
            tokio::time::sleep(Duration::from_millis(10)).await;
        } else {
            self.lost.fetch_add(1, Ordering::SeqCst);
        }
        self.models.commit(step, work).await
    }

    async fn begin(&self, projection: &ProjectionName, work: Work<Self::Tx>) -> Result<()> {
        self.models.begin(projection, work).await
    }

    async fn seen(
        &self,
        projection: &ProjectionName,
        streams: &[StreamId],
    ) -> Result<HashMap<StreamId, retell::store::Seen>> {
        self.models.seen(projection, streams).await
    }

    async fn turn(
        &self,
        projection: &ProjectionName,
        changes: u64,
        streams: Vec<StreamId>,
        turn: Turn<Self::Tx>,
    ) -> Result<()> {
        self.models.turn(projection, changes, streams, turn).await
    }

    async fn sweep(&self, projection: &ProjectionName, changes: u64, from: Mark, to: Mark) -> Result<Mark> {
        self.models.sweep(projection, changes, from, to).await
    }

    async fn register_processor(&self, projection: &ProjectionName, processor: &RegisteredProcessor) -> Result<()> {
        self.models.register_processor(projection, processor).await
    }

    async fn processors(&self, projection: &ProjectionName) -> Result<Vec<RegisteredProcessor>> {
        self.models.processors(projection).await
    }

    async fn forget_processor(&self, projection: &ProjectionName, processor: &RegisteredProcessor) -> Result<bool> {
        self.models.forget_processor(projection, processor).await
    }

    async fn reset(&self, projection: &ProjectionName, to: Mark, work: Work<Self::Tx>) -> Result<()> {
        self.models.reset(projection, to, work).await
    }

    async fn mark_handled(&self, tx: &mut Self::Tx, reaction: &ProjectionName, event: EventId) -> Result<bool> {
        self.models.mark_handled(tx, reaction, event).await
    }

    async fn start_after(&self, reaction: &ProjectionName, mark: Mark) -> Result<Mark> {
        self.models.start_after(reaction, mark).await
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_four_workers_is_active_and_three_are_on_standby() {
    let store = MemoryStore::new();
    add(&store, "a", 0..500).await;
    let models = Contested::default();
    let options = WorkerOptions::new().with_batch_events(1);
    let worker = || Worker::new(Seen::default(), store.clone(), models.clone()).with_options(options);
    let workers: Vec<_> = (0..4).map(|_| Running::worker(worker())).collect();
    let name = ProjectionName::new("seen").unwrap();
    while models.checkpoint(&name).await.unwrap() < Position::new(500) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for worker in workers {
        worker.stop().await.unwrap();
    }
    assert_eq!(*models.models.value(), (1..=500).collect::<Vec<_>>());
    // Five seconds have room for ten waits of the longest length and the shorter ones before them.
    let lost = models.lost.load(Ordering::SeqCst);
    assert!(lost < 150, "{lost} races lost over 500 events");
}

#[tokio::test]
async fn the_sweep_delivers_everything_without_a_broker() {
    /// A broker that is never reachable.
    #[derive(Debug, Clone)]
    struct Dead;

    #[async_trait]
    impl Publisher for Dead {
        async fn publish(&self, _: &[Frame]) -> Result<Confirm> {
            Err(Error::new(ErrorKind::Transient("reach the broker".into())))
        }
    }

    #[async_trait]
    impl Broker for Dead {
        async fn subscribe(&self, _: &ProjectionName, _: SubscriptionMode) -> Result<Box<dyn Consumer>> {
            Err(Error::new(ErrorKind::Transient("reach the broker".into())))
        }
    }

    let store = MemoryStore::new();
    add(&store, "a", 0..100).await;
    let relay = Running::relay(Relay::new(store.clone(), Dead).with_checkpoint(store.clone(), "relay"));
    assert_eq!(project(&store, Seen::default(), Some(Dead)).await, (1..=100).collect::<Vec<_>>());
    relay.stop().await.unwrap();
    assert_eq!(store.position("relay").await.unwrap(), Position::ZERO, "nothing was confirmed");
}

#[tokio::test]
async fn a_relay_resumes_from_its_confirmed_position() {
    let store = MemoryStore::new();
    add(&store, "a", 0..25).await;
    let broker = MemoryBroker::new();
    let mut consumer =
        broker.subscribe(&ProjectionName::new("tap").unwrap(), SubscriptionMode::Exclusive).await.unwrap();
    let options = RelayOptions::new().with_frame_events(10);
    let relay = || {
        Running::relay(
            Relay::new(store.clone(), broker.clone()).with_checkpoint(store.clone(), "relay").with_options(options),
        )
    };
    let mut positions = Vec::new();
    for round in [25, 40] {
        let running = relay();
        while positions.last() != Some(&round) {
            for Delivery { tag, body, .. } in consumer.next(100).await.unwrap() {
                let events = ReceivedFrame::parse(body).unwrap().events().unwrap();
                assert!(events.len() <= 10);
                positions.extend(events.iter().map(|event| event.position.get()));
                consumer.ack_through(tag).await.unwrap();
            }
        }
        running.stop().await.unwrap();
        assert_eq!(store.position("relay").await.unwrap(), Position::new(round));
        add(&store, "a", 0..15).await;
    }
    assert_eq!(positions, (1..=40).collect::<Vec<_>>(), "each event once: nothing crashed");
}

#[tokio::test]
async fn a_projection_can_receive_every_event_undecoded() {
    #[derive(Debug)]
    struct Audit;

    #[async_trait]
    impl Projection for Audit {
        const NAME: &'static str = "audit";
        type Event = AnyEvent;
        type Tx = Vec<String>;

        async fn apply(&self, tx: &mut Vec<String>, event: Envelope<AnyEvent>) -> Result<(), BoxError> {
            tx.push(format!("{} {}", event.position, event.event.event_type));
            Ok(())
        }
    }

    let store = MemoryStore::new();
    add(&store, "a", [1]).await;
    add_foreign(&store, "door", "door.opened").await;
    let models = MemoryReadModel::with_value(Vec::new());
    let worker = Worker::new(Audit, store.clone(), models.clone());
    let stop = CancellationToken::new();
    let (result, ()) = tokio::join!(worker.run(stop.clone()), async {
        reaches(&worker, 2).await;
        stop.cancel();
    });
    result.unwrap();
    assert_eq!(*models.value(), ["1 counter.added", "2 door.opened"]);
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = prop_oneof![
        4 => Just(Fault::Deliver),
        2 => Just(Fault::Drop),
        2 => Just(Fault::Double),
        2 => Just(Fault::Late),
        1 => Just(Fault::Junk),
        1 => Just(Fault::LoseConfirm),
        1 => Just(Fault::Refuse),
    ];
    prop::collection::vec(fault, 0..60)
}

/// Appends while a relay and a worker run over a faulty broker, and returns the applied positions.
async fn through_a_faulty_broker(script: Vec<Fault>, frame_events: usize, batch_events: usize) -> Vec<u64> {
    let store = MemoryStore::new();
    let models = MemoryReadModel::with_value(Vec::new());
    let broker = FaultyBroker::new(MemoryBroker::with_capacity(8), script);
    let options = RelayOptions::new().with_frame_events(frame_events).with_page_events(7);
    let relay = Running::relay(Relay::new(store.clone(), broker.clone()).with_options(options));
    let worker = Worker::new(Seen::default(), store.clone(), models.clone())
        .with_broker(broker)
        .with_options(eager().with_batch_events(batch_events));
    let stop = CancellationToken::new();
    let (result, ()) = tokio::join!(worker.run(stop.clone()), async {
        for _ in 0..40 {
            add(&store, AggregateId::generate().as_str(), [1, 2]).await;
            tokio::task::yield_now().await;
        }
        reaches(&worker, 80).await;
        stop.cancel();
    });
    result.unwrap();
    relay.stop().await.unwrap();
    models.value().to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_fault_of_the_broker_loses_doubles_or_reorders_an_event(
        script in faults(), frame_events in 1..6usize, batch_events in 1..20usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let applied = runtime.block_on(through_a_faulty_broker(script, frame_events, batch_events));
        prop_assert_eq!(applied, (1..=80).collect::<Vec<_>>());
    }
}

/// A broker that delivers scripted messages, one batch per call, and records the acknowledgements.
#[derive(Debug, Clone)]
struct Scripted(Arc<std::sync::Mutex<Vec<Vec<Delivery>>>>, Arc<std::sync::Mutex<Vec<String>>>);

#[async_trait]
impl Publisher for Scripted {
    async fn publish(&self, _: &[Frame]) -> Result<Confirm> {
        Ok(ready(Ok(())).boxed())
    }
}

#[async_trait]
impl Broker for Scripted {
    async fn subscribe(&self, _: &ProjectionName, _: SubscriptionMode) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Consumer for Scripted {
    async fn next(&mut self, _: usize) -> Result<Vec<Delivery>> {
        let next = self.0.lock().unwrap().pop();
        match next {
            Some(deliveries) => Ok(deliveries),
            None => std::future::pending().await,
        }
    }

    async fn ack_through(&mut self, tag: DeliveryTag) -> Result<()> {
        self.1.lock().unwrap().push(format!("ack {}", tag.get()));
        Ok(())
    }

    async fn reject(&mut self, delivery: Delivery, reason: &str) -> Result<()> {
        self.1.lock().unwrap().push(format!("reject {}: {reason}", delivery.tag.get()));
        Ok(())
    }
}

#[tokio::test]
async fn junk_is_rejected_and_the_rest_acknowledged_after_the_commit() {
    let store = MemoryStore::new();
    add(&store, "a", 0..4).await;
    let page = store.read_all(Position::ZERO, 10, &Filter::all()).await.unwrap();
    let frame = Frame::split(&page.events, 10, 1 << 20).unwrap().remove(0).body().clone();
    let delivery = |tag, body| Delivery::new(DeliveryTag::new(tag), body);
    let script = vec![vec![delivery(1, "junk".into()), delivery(2, frame.clone()), delivery(3, frame)]];
    let broker = Scripted(Arc::new(std::sync::Mutex::new(script)), Arc::default());
    let models = MemoryReadModel::with_value(Vec::new());
    let worker = Worker::new(Seen::default(), store, models.clone()).with_broker(broker.clone());
    let stop = CancellationToken::new();
    let (result, ()) = tokio::join!(worker.run(stop.clone()), async {
        while broker.1.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    });
    result.unwrap();
    assert_eq!(
        *broker.1.lock().unwrap(),
        ["reject 1: not a frame: unknown format 106, supported are 1 and 2", "ack 3"]
    );
    assert_eq!(*models.value(), [1, 2, 3, 4]);
}

/// A log whose pages are empty.
struct NoPages(MemoryStore);

#[async_trait]
impl EventReader for NoPages {
    async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()> {
        self.0.replay(stream, replay, visitor).await
    }

    async fn read(&self, query: Query<'_>) -> Result<Page> {
        match query.select {
            Select::Log { after, .. } => Ok(Page::new(Vec::new(), after)),
            _ => self.0.read(query).await,
        }
    }

    async fn head(&self) -> Result<Position> {
        Ok(Position::ZERO)
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

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.0.watch_head()
    }
}

#[tokio::test]
async fn a_committed_batch_is_acknowledged_and_known_frames_skipped() {
    let log = MemoryStore::new();
    add(&log, "a", 0..4).await;
    let page = log.read_all(Position::ZERO, 10, &Filter::all()).await.unwrap();
    let frames: Vec<_> =
        Frame::split(&page.events, 2, 1 << 20).unwrap().into_iter().map(|frame| frame.body().clone()).collect();
    let damaged = frames[0].slice(..frames[0].len() - 1);
    let delivery = |tag, body| Delivery::new(DeliveryTag::new(tag), body);
    let script = vec![vec![delivery(1, frames[0].clone()), delivery(2, frames[1].clone()), delivery(3, damaged)]];
    let broker = Scripted(Arc::new(std::sync::Mutex::new(script)), Arc::default());
    let models = MemoryReadModel::with_value(Vec::new());
    // The worker's store shows no events, so every event it applies comes from the broker.
    let worker = Worker::new(Seen::default(), NoPages(log), models.clone()).with_broker(broker.clone());
    let worker = worker.with_options(eager().with_batch_events(2));
    let stop = CancellationToken::new();
    let (result, ()) = tokio::join!(worker.run(stop.clone()), async {
        while broker.1.lock().unwrap().len() < 3 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    });
    result.unwrap();
    assert_eq!(*broker.1.lock().unwrap(), ["ack 1", "ack 2", "ack 3"]);
    assert_eq!(*models.value(), [1, 2, 3, 4]);
}
