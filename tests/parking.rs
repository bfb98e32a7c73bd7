//! Parking: a poisoned aggregate never blocks the others, and none of its later events overtakes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;
#[path = "support/workers.rs"]
mod workers;

use std::collections::{BTreeMap, HashMap};
use std::slice::from_ref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use retell::Mark;
use retell::broker::{DeadLetter, DeadLetters};
use retell::event::NewEvent;
use retell::relay::RelayOptions;
use retell::status::{Status, Wait};
use retell::store::ParkedState;
use retell::store::{Append, Parked, Parking, ProjectionStatus, RegisteredProcessor, Step, Turn, Work};
use retell::testing::faulty::{Fault, FaultyBroker};
use retell::worker::{ParkingOptions, WorkerOptions};
use retell::{
    BoxError, Codec, Envelope, EventId, EventReader, EventReaderExt, EventStore, EventType, ExpectedVersion,
    MemoryBroker, MemoryReadModel, MemoryStore, Position, Projection, ProjectionName, ReadModel, Relay, Result,
    SqliteReadModel, SqliteStore, StreamId, Worker, async_trait, rusqlite,
};
use support::CounterEvent;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use workers::{until, while_running};

/// The versions applied for each stream, in the order they were applied.
type Applied = BTreeMap<String, Vec<u64>>;

/// The events that fail, and how many more times each fails. Tests change it while workers run, like an operator who repairs the cause.
#[derive(Debug, Clone, Default)]
struct Poison {
    /// Remaining failures by position.
    left: Arc<Mutex<BTreeMap<u64, usize>>>,
    /// If true, every event fails.
    outage: Arc<Mutex<bool>>,
    tried: Arc<AtomicUsize>,
}

impl Poison {
    fn at(positions: impl IntoIterator<Item = u64>) -> Self {
        Self::healing(positions.into_iter().map(|position| (position, usize::MAX)))
    }

    fn healing(left: impl IntoIterator<Item = (u64, usize)>) -> Self {
        Self { left: Arc::new(Mutex::new(left.into_iter().collect())), ..Self::default() }
    }

    fn heal(&self) {
        self.left.lock().unwrap().clear();
        *self.outage.lock().unwrap() = false;
    }

    fn check(&self, position: Position) -> Result<(), BoxError> {
        self.tried.fetch_add(1, Ordering::SeqCst);
        let mut left = self.left.lock().unwrap();
        let left = left.entry(position.get()).or_default();
        if *left == 0 && !*self.outage.lock().unwrap() {
            return Ok(());
        }
        *left = left.saturating_sub(1);
        Err(format!("position {position} is poison").into())
    }

    fn tried(&self) -> usize {
        self.tried.load(Ordering::SeqCst)
    }
}

/// Records the applied versions in memory.
#[derive(Debug, Clone, Default)]
struct Seen(Poison);

#[async_trait]
impl Projection for Seen {
    const NAME: &'static str = "seen";
    type Event = CounterEvent;
    type Tx = Applied;

    async fn apply(&self, tx: &mut Applied, event: Envelope<CounterEvent>) -> Result<(), BoxError> {
        tx.entry(event.stream.aggregate_id().to_string()).or_default().push(event.version.get());
        self.0.check(event.position)
    }
}

/// Records each applied event in SQLite.
#[derive(Debug, Clone, Default)]
struct Counted(Poison);

#[async_trait]
impl Projection for Counted {
    const NAME: &'static str = "seen";
    type Event = CounterEvent;
    type Tx = rusqlite::Connection;

    async fn setup(&self, tx: &mut rusqlite::Connection) -> Result<(), BoxError> {
        let table = "CREATE TABLE IF NOT EXISTS applied (place INTEGER PRIMARY KEY, id TEXT NOT NULL, version INTEGER NOT NULL)";
        Ok(tx.execute_batch(table)?)
    }

    async fn apply(&self, tx: &mut rusqlite::Connection, event: Envelope<CounterEvent>) -> Result<(), BoxError> {
        let version = i64::try_from(event.version.get())?;
        let insert = "INSERT INTO applied (id, version) VALUES (?1, ?2)";
        tx.prepare_cached(insert)?.execute((event.stream.aggregate_id().as_str(), version))?;
        self.0.check(event.position)
    }
}

async fn counted(models: &SqliteReadModel) -> Applied {
    let rows: Vec<(String, i64)> = models
        .query(|db| {
            let mut rows = db.prepare("SELECT id, version FROM applied ORDER BY place")?;
            rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .await
        .unwrap();
    let mut applied = Applied::new();
    for (id, version) in rows {
        applied.entry(id).or_default().push(version.unsigned_abs());
    }
    applied
}

fn seen() -> ProjectionName {
    ProjectionName::new("seen").unwrap()
}

fn stream(id: &str) -> StreamId {
    StreamId::parse("counter", id).unwrap()
}

async fn add(store: &impl EventStore, id: &str, count: usize) {
    let event = || NewEvent::new(&CounterEvent::Added { amount: 1 }).unwrap();
    let events = (0..count).map(|_| event()).collect();
    store.append(Append::new(stream(id), ExpectedVersion::Any, events)).await.unwrap();
}

/// Appends one event for each of `ids`; the first gets position 1.
async fn one_each(store: &impl EventStore, ids: impl IntoIterator<Item = usize>) {
    for id in ids {
        add(store, &id.to_string(), 1).await;
    }
}

/// Returns the versions of every stream in the log.
async fn fold(store: &impl EventReader) -> Applied {
    let mut applied = Applied::new();
    for event in retell::testing::store::whole_log(store).await.unwrap() {
        applied.entry(event.stream.aggregate_id().to_string()).or_default().push(event.version.get());
    }
    applied
}

/// Retries immediately and never gives up.
fn immediate_retries() -> ParkingOptions {
    let brief = Duration::from_millis(1);
    ParkingOptions::new().with_delays(brief, brief).with_retries(u32::MAX)
}

/// Retries only on request.
fn retries_on_request() -> ParkingOptions {
    let day = Duration::from_hours(24);
    ParkingOptions::new().with_delays(day, day)
}

/// Short sweeps and delays keep the tests fast; no assertion depends on them.
fn eager(parking: ParkingOptions) -> WorkerOptions {
    let brief = Duration::from_millis(5);
    WorkerOptions::new().with_sweep(brief).with_longest_delay(brief).with_retries(1).with_parking(parking)
}

async fn parked<M: ReadModel>(models: &M) -> Vec<Parked> {
    models.parking(&seen()).await.unwrap().parked
}

async fn reached<M: ReadModel>(models: &M, position: u64) -> bool {
    models.checkpoint(&seen()).await.unwrap().get() >= position
}

#[tokio::test]
async fn one_of_two_thousand_aggregates_is_parked_alone() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()));
    one_each(&store, 0..2000).await;
    one_each(&store, 0..2000).await;
    let poison = Poison::at([701]);
    let worker =
        Worker::new(Seen(poison.clone()), store.clone(), models.clone()).with_options(eager(retries_on_request()));
    while_running(from_ref(&worker), until(async || reached(&models, 4000).await)).await;
    let mut expected = fold(&store).await;
    expected.remove("700");
    assert_eq!(*models.value(), expected, "all but the poisoned aggregate, whose second event does not overtake");
    let [parked] = &parked(&models).await[..] else { panic!("exactly one aggregate is parked") };
    assert_eq!((parked.stream.clone(), parked.from_version.get(), parked.from_position.get()), (stream("700"), 1, 701));
    assert_eq!((parked.attempts, parked.state), (1, ParkedState::Waiting));
    assert_eq!(parked.error, "projection seen failed at position 701 on counter.added: position 701 is poison");
    // 4,000 events in batches of 1,000. One batch is halved about ten times, and each half is tried again.
    assert!(poison.tried() < 7_000, "{} events were tried", poison.tried());
}

#[tokio::test]
async fn a_released_aggregate_catches_up_in_order() {
    let store = SqliteStore::in_memory().await.unwrap();
    let models = SqliteReadModel::in_memory().await.unwrap();
    add(&store, "a", 3).await;
    add(&store, "b", 1).await;
    let poison = Poison::at([2]);
    let options = eager(immediate_retries()).with_batch_events(4);
    let worker = Worker::new(Counted(poison.clone()), store.clone(), models.clone()).with_options(options);
    while_running(from_ref(&worker), async {
        until(async || !parked(&models).await.is_empty()).await;
        // More events than one retry applies at a time.
        for _ in 0..10 {
            add(&store, "a", 2).await;
            add(&store, "b", 1).await;
        }
        until(async || reached(&models, 34).await).await;
        assert_eq!(counted(&models).await["a"], [1]);
        assert_eq!(counted(&models).await["b"], (1..=11).collect::<Vec<_>>());
        poison.heal();
        until(async || parked(&models).await.is_empty()).await;
        add(&store, "a", 1).await;
        until(async || reached(&models, 35).await).await;
    })
    .await;
    assert_eq!(counted(&models).await, fold(&store).await);
}

#[tokio::test]
async fn a_failed_retry_keeps_the_events_it_applied() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()));
    add(&store, "a", 10).await;
    let poison = Poison::at([3]);
    let worker =
        Worker::new(Seen(poison.clone()), store.clone(), models.clone()).with_options(eager(immediate_retries()));
    while_running(from_ref(&worker), async {
        until(async || !parked(&models).await.is_empty()).await;
        *poison.left.lock().unwrap() = [(8, usize::MAX)].into();
        until(async || parked(&models).await[0].from_version.get() == 8).await;
    })
    .await;
    assert_eq!(models.value()["a"], (1..=7).collect::<Vec<_>>());
    let [parked] = &parked(&models).await[..] else { panic!("the aggregate stays parked") };
    assert_eq!(parked.from_position, Position::new(8));
    assert!(parked.attempts > 1);
}

#[tokio::test]
async fn an_undecodable_event_parks_only_its_aggregate() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()));
    add(&store, "a", 1).await;
    let strange = |event_type: &str, schema_version| {
        NewEvent::stored(
            EventId::generate(),
            EventType::new(event_type).unwrap(),
            schema_version,
            Codec::Json,
            "{}".into(),
        )
    };
    for (id, event) in [("b", strange("counter.added", 1)), ("c", strange("counter.added", 99))] {
        store.append(Append::new(stream(id), ExpectedVersion::Any, vec![event])).await.unwrap();
    }
    add(&store, "b", 1).await;
    add(&store, "a", 1).await;
    let worker = Worker::new(Seen::default(), store.clone(), models.clone()).with_options(eager(retries_on_request()));
    while_running(from_ref(&worker), until(async || reached(&models, 5).await)).await;
    assert_eq!(*models.value(), Applied::from([("a".into(), vec![1, 2])]));
    let errors: Vec<_> = parked(&models).await.into_iter().map(|parked| parked.error).collect();
    assert!(errors[0].starts_with("counter/b version 1: cannot decode the payload of counter.added"), "{errors:?}");
    assert_eq!(errors[1], "counter/c version 1: counter.added has schema version 99, but this release knows 1 to 1");
}

#[tokio::test]
async fn a_dead_lettered_aggregate_can_be_retried_on_request() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()));
    let broker = MemoryBroker::new();
    add(&store, "a", 3).await;
    add(&store, "b", 1).await;
    let poison = Poison::at([2]);
    let worker = Worker::new(Seen(poison.clone()), store.clone(), models.clone())
        .with_options(eager(immediate_retries().with_retries(3)))
        .with_dead_letters(broker.clone());
    while_running(from_ref(&worker), async {
        until(async || parked(&models).await.iter().any(|parked| parked.state == ParkedState::Dead)).await;
        let tried = poison.tried();
        add(&store, "a", 1).await;
        add(&store, "b", 1).await;
        until(async || reached(&models, 6).await).await;
        assert_eq!(poison.tried(), tried + 1, "a dead aggregate is not retried, and none of its events overtakes");
        assert!(models.retry_parked(&seen(), &stream("a")).await.unwrap());
        until(async || broker.dead_letters().len() == 2).await;
        until(async || parked(&models).await[0].state == ParkedState::Dead).await;
        poison.heal();
        assert!(models.retry_parked(&seen(), &stream("a")).await.unwrap());
        until(async || parked(&models).await.is_empty()).await;
    })
    .await;
    assert_eq!(*models.value(), fold(&store).await);
    let event = store.read_stream(&stream("a"), retell::Version::new(1), 1).await.unwrap().remove(0);
    let reason = "projection seen failed at position 2 on counter.added: position 2 is poison".to_owned();
    let letter = |attempts| DeadLetter::new(seen(), event.clone(), reason.clone(), attempts);
    assert_eq!(broker.dead_letters(), [letter(4), letter(4)]);
}

#[tokio::test]
async fn an_outage_parks_nothing_and_the_worker_recovers() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()));
    one_each(&store, 0..100).await;
    let poison = Poison::default();
    *poison.outage.lock().unwrap() = true;
    let worker =
        Worker::new(Seen(poison.clone()), store.clone(), models.clone()).with_options(eager(retries_on_request()));
    while_running(from_ref(&worker), async {
        let tried = poison.tried();
        until(async || poison.tried() > tried + 2_000).await;
        assert_eq!((parked(&models).await, reached(&models, 1).await), (Vec::new(), false), "the worker only probes");
        poison.heal();
        until(async || reached(&models, 100).await).await;
    })
    .await;
    // The only change is that the worker has registered.
    assert_eq!(models.parking(&seen()).await.unwrap(), Parking::new(1, Vec::new()));
    assert_eq!(*models.value(), fold(&store).await);
}

#[tokio::test]
async fn poisoned_aggregates_that_look_like_an_outage_are_parked() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()));
    one_each(&store, 0..40).await;
    let parking = retries_on_request().with_longest_outage(Duration::from_millis(50));
    let worker = Worker::new(Seen(Poison::at(11..=30)), store.clone(), models.clone()).with_options(eager(parking));
    while_running(from_ref(&worker), until(async || reached(&models, 40).await)).await;
    let positions: Vec<_> = parked(&models).await.iter().map(|parked| parked.from_position.get()).collect();
    assert_eq!(positions, (11..=30).collect::<Vec<_>>());
    assert_eq!(models.value().len(), 20);
}

#[tokio::test]
async fn two_workers_apply_each_event_of_a_parked_aggregate_once() {
    let store = SqliteStore::in_memory().await.unwrap();
    let models = SqliteReadModel::in_memory().await.unwrap();
    let poison = Poison::healing((1..=60).filter(|position| position % 7 == 0).map(|position| (position, 9)));
    let options = eager(immediate_retries()).with_batch_events(3);
    let worker = || Worker::new(Counted(poison.clone()), store.clone(), models.clone()).with_options(options);
    while_running(&[worker(), worker()], async {
        for round in 0..60 {
            add(&store, &(round % 5).to_string(), 1).await;
        }
        until(async || reached(&models, 60).await && parked(&models).await.is_empty()).await;
    })
    .await;
    assert_eq!(counted(&models).await, fold(&store).await);
}

/// A release does not move the checkpoint, so a standby worker at the same checkpoint could still take the aggregate for parked.
#[tokio::test]
async fn a_standby_worker_skips_no_event_of_a_released_aggregate() {
    let store = SqliteStore::in_memory().await.unwrap();
    let models = SqliteReadModel::in_memory().await.unwrap();
    add(&store, "a", 1).await;
    add(&store, "b", 1).await;
    let poison = Poison::at([1]);
    let worker = |sweep| {
        let options = eager(retries_on_request()).with_sweep(sweep);
        Worker::new(Counted(poison.clone()), store.clone(), models.clone()).with_options(options)
    };
    let (sweeps, stands_by) = (worker(Duration::from_millis(5)), worker(Duration::from_hours(1)));
    while_running(from_ref(&sweeps), until(async || reached(&models, 2).await)).await;
    while_running(from_ref(&stands_by), async {
        until(async || stands_by.applied().borrow().get() == 2).await;
        while_running(from_ref(&sweeps), async {
            poison.heal();
            assert!(models.retry_parked(&seen(), &stream("a")).await.unwrap());
            until(async || parked(&models).await.is_empty()).await;
        })
        .await;
        add(&store, "a", 1).await;
        add(&store, "b", 1).await;
        until(async || reached(&models, 4).await).await;
    })
    .await;
    assert_eq!(counted(&models).await, fold(&store).await);
}

/// Blocks forever at call number `at`, before or after the call takes effect, as if the process was killed there.
#[derive(Debug, Clone)]
struct KillPoint {
    left: Arc<AtomicUsize>,
    reached: Arc<Notify>,
}

impl KillPoint {
    fn before_call(at: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(at)), reached: Arc::default() }
    }

    async fn pass(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
            self.reached.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Debug, Clone)]
struct Killable<S>(S, KillPoint);

#[async_trait]
impl ReadModel for Killable<MemoryReadModel<Applied>> {
    type Tx = Applied;

    async fn mark(&self, projection: &ProjectionName) -> Result<Mark> {
        self.0.mark(projection).await
    }

    async fn state(&self, projection: &ProjectionName) -> retell::Result<retell::store::ProjectionState> {
        self.0.state(projection).await
    }

    async fn projections(&self, limit: usize) -> Result<Vec<ProjectionStatus>> {
        self.0.projections(limit).await
    }

    async fn parked(
        &self,
        projection: &ProjectionName,
        stream: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<Parked>> {
        self.0.parked(projection, stream, limit).await
    }

    async fn parking(&self, projection: &ProjectionName) -> Result<Parking> {
        self.1.pass().await;
        self.0.parking(projection).await
    }

    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool> {
        self.0.retry_parked(projection, stream).await
    }

    async fn commit(&self, step: Step, work: Work<Applied>) -> Result<()> {
        self.1.pass().await;
        let advanced = self.0.commit(step, work).await;
        self.1.pass().await;
        advanced
    }

    async fn begin(&self, projection: &ProjectionName, work: Work<Self::Tx>) -> Result<()> {
        self.0.begin(projection, work).await
    }

    async fn seen(
        &self,
        projection: &ProjectionName,
        streams: &[StreamId],
    ) -> Result<HashMap<StreamId, retell::store::Seen>> {
        self.0.seen(projection, streams).await
    }

    async fn turn(
        &self,
        projection: &ProjectionName,
        changes: u64,
        streams: Vec<StreamId>,
        turn: Turn<Self::Tx>,
    ) -> Result<()> {
        self.0.turn(projection, changes, streams, turn).await
    }

    async fn sweep(&self, projection: &ProjectionName, changes: u64, from: Mark, to: Mark) -> Result<Mark> {
        self.0.sweep(projection, changes, from, to).await
    }

    async fn register_processor(&self, projection: &ProjectionName, processor: &RegisteredProcessor) -> Result<()> {
        self.0.register_processor(projection, processor).await
    }

    async fn processors(&self, projection: &ProjectionName) -> Result<Vec<RegisteredProcessor>> {
        self.0.processors(projection).await
    }

    async fn forget_processor(&self, projection: &ProjectionName, processor: &RegisteredProcessor) -> Result<bool> {
        self.0.forget_processor(projection, processor).await
    }

    async fn reset(&self, projection: &ProjectionName, to: Mark, work: Work<Self::Tx>) -> Result<()> {
        self.0.reset(projection, to, work).await
    }

    async fn mark_handled(&self, tx: &mut Self::Tx, reaction: &ProjectionName, event: EventId) -> Result<bool> {
        self.0.mark_handled(tx, reaction, event).await
    }

    async fn start_after(&self, reaction: &ProjectionName, mark: Mark) -> Result<Mark> {
        self.0.start_after(reaction, mark).await
    }
}

#[async_trait]
impl DeadLetters for Killable<MemoryBroker> {
    async fn add(&self, letter: &DeadLetter) -> Result<()> {
        self.1.pass().await;
        let added = self.0.add(letter).await;
        self.1.pass().await;
        added
    }
}

/// Dead letters that never answer.
struct Silent;

#[async_trait]
impl DeadLetters for Silent {
    async fn add(&self, _: &DeadLetter) -> Result<()> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn silent_dead_letters_do_not_stop_the_worker() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()));
    for id in ["a", "b"] {
        add(&store, id, 1).await;
    }
    let worker = Worker::new(Seen(Poison::at([1])), store.clone(), models.clone());
    let worker = worker
        .with_options(eager(immediate_retries().with_retries(1)).with_grace(Duration::from_mins(5)))
        .with_dead_letters(Silent);
    let mut status = worker.status();
    let others = async {
        let waits =
            |status: &Status| status.waits.iter().any(|wait| wait.on == Wait::DeadLetters && wait.error.is_some());
        status.wait_for(waits).await.unwrap();
        add(&store, "c", 1).await;
        while !reached(&models, 3).await {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    while_running(from_ref(&worker), async { tokio::time::timeout(Duration::from_hours(1), others).await.unwrap() })
        .await;
    assert_ne!(parked(&models).await[0].state, ParkedState::Dead, "the next retry sends the letter");
}

/// Events are parked, retried with and without success, and dead-lettered, with a kill at each step once.
#[tokio::test]
async fn a_worker_killed_at_any_step_loses_and_doubles_nothing() {
    for at in 0.. {
        let (store, models, broker) =
            (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()), MemoryBroker::new());
        for id in ["a", "b", "c", "a", "b", "c", "a"] {
            add(&store, id, 1).await;
        }
        // The second event of `a` always fails; `b` heals after several attempts.
        let poison = Poison::healing([(4, usize::MAX), (2, 7)]);
        let kill_point = KillPoint::before_call(at);
        let worker = |kill_point: &KillPoint| {
            Worker::new(Seen(poison.clone()), store.clone(), Killable(models.clone(), kill_point.clone()))
                .with_options(eager(immediate_retries().with_retries(6)))
                .with_dead_letters(Killable(broker.clone(), kill_point.clone()))
        };
        let done = async || {
            let parked = parked(&models).await;
            reached(&models, 7).await && parked.len() == 1 && parked[0].state == ParkedState::Dead
        };
        let first = worker(&kill_point);
        let killed = tokio::select! {
            _ = first.run(CancellationToken::new()) => unreachable!("the worker runs until it is stopped"),
            () = kill_point.reached.notified() => true,
            () = until(done) => false,
        };
        drop(first);
        while_running(from_ref(&worker(&KillPoint::before_call(usize::MAX))), until(done)).await;
        let expected = [("a".into(), vec![1]), ("b".into(), vec![1, 2]), ("c".into(), vec![1, 2])];
        assert_eq!(*models.value(), Applied::from(expected), "killed at step {at}");
        assert_eq!(parked(&models).await[0].from_position, Position::new(4));
        let letters = broker.dead_letters();
        assert!(!letters.is_empty() && letters.iter().all(|letter| letter.event.position.get() == 4), "{letters:?}");
        if !killed {
            assert!(at > 20, "only {at} steps");
            return;
        }
    }
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = prop_oneof![
        4 => Just(Fault::Deliver),
        2 => Just(Fault::Drop),
        2 => Just(Fault::Double),
        2 => Just(Fault::Late),
        1 => Just(Fault::Junk),
    ];
    prop::collection::vec(fault, 0..40)
}

/// Appends while a relay and a worker run over a faulty broker, until no aggregate is parked. Returns the applied and the expected
/// versions.
async fn through_poison_and_faults(
    script: Vec<Fault>,
    poison: BTreeMap<u64, usize>,
    batch_events: usize,
) -> (Applied, Applied) {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::with_value(Applied::new()));
    let broker = FaultyBroker::new(MemoryBroker::with_capacity(8), script);
    let relay = Relay::new(store.clone(), broker.clone()).with_options(RelayOptions::new().with_frame_events(3));
    let options =
        eager(immediate_retries().with_longest_outage(Duration::from_millis(5))).with_batch_events(batch_events);
    let worker = Worker::new(Seen(Poison::healing(poison)), store.clone(), models.clone())
        .with_broker(broker)
        .with_options(options);
    let stop = CancellationToken::new();
    let (relayed, ()) = tokio::join!(relay.run(stop.clone()), async {
        while_running(from_ref(&worker), async {
            for round in 0..30 {
                add(&store, &(round * round % 7).to_string(), 2).await;
                tokio::task::yield_now().await;
            }
            until(async || reached(&models, 60).await && parked(&models).await.is_empty()).await;
        })
        .await;
        stop.cancel();
    });
    relayed.unwrap();
    (models.value().as_ref().clone(), fold(&store).await)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn poison_that_heals_leaves_the_fold_of_the_log(
        script in faults(),
        poison in prop::collection::btree_map(1..=60u64, 1..12usize, 0..12),
        batch_events in 1..20usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (applied, expected) = runtime.block_on(through_poison_and_faults(script, poison, batch_events));
        prop_assert_eq!(applied, expected);
    }
}
