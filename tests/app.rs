//! `App`: tasks are started by role, restarted after a failure, and stopped in order.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use retell::app::{Health, Role, State};
use retell::broker::frame::Frame;
use retell::broker::{Confirm, Consumer, Publisher, SubscriptionMode};
use retell::process::{CommandFailure, Effects, Process};
use retell::shutdown::Signal;
use retell::status::{Activity, Status, Wait};
use retell::store::{Append, DeadlineStore};
use retell::testing::store::{events, stream};
use retell::{
    AggregateId, App, BoxError, Broker, CancellationToken, Context, Envelope, Error, ErrorKind, EventReader,
    EventStore, ExpectedVersion, MemoryBroker, MemoryReadModel, MemoryStore, Position, Projection, ProjectionName,
    Reaction, ReadModel, Repository, SqliteReadModel, StartFrom, View, Views, Worker, WorkerOptions, async_trait,
    rusqlite,
};
use serde::{Deserialize, Serialize};
use support::{Add, Counter, CounterEvent, Rename};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_mins(10);

/// Records the positions it applies. `setup` panics `panics` times and fails `failures` times first.
#[derive(Debug, Clone, Default)]
struct Noting {
    name: &'static str,
    failures: Arc<AtomicU32>,
    panics: Arc<AtomicU32>,
}

impl Noting {
    fn named(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }
}

fn one_less(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

#[async_trait]
impl Projection for Noting {
    const NAME: &'static str = "noting";
    type Event = CounterEvent;
    type Tx = Vec<u64>;

    fn name(&self) -> &str {
        self.name
    }

    async fn setup(&self, _: &mut Vec<u64>) -> Result<(), BoxError> {
        assert!(!one_less(&self.panics), "setup panics");
        if one_less(&self.failures) { Err("not ready".into()) } else { Ok(()) }
    }

    async fn apply(&self, noted: &mut Vec<u64>, event: Envelope<CounterEvent>) -> Result<(), BoxError> {
        noted.push(event.position.get());
        Ok(())
    }
}

async fn five_events() -> MemoryStore {
    let store = MemoryStore::new();
    Repository::<Counter>::new(store.clone()).execute("a", Add(vec![1; 5])).await.unwrap();
    store
}

fn states(health: &Health) -> Vec<(String, State)> {
    health.tasks().map(|(name, state)| (name.to_owned(), state.clone())).collect()
}

#[tokio::test(start_paused = true)]
async fn tasks_get_every_event_and_stop_in_order() {
    let (store, models) = (five_events().await, MemoryReadModel::with_value(Vec::new()));
    let app = App::new(store.clone(), models.clone()).with_broker(MemoryBroker::new()).projection(Noting::named("one"));
    let running = app.start();
    let health = running.health();
    timeout(PATIENCE, running.has_applied(Position::new(5))).await.unwrap();
    assert!(health.borrow().is_good());
    running.stop().await.unwrap();
    assert_eq!(*models.value(), [1, 2, 3, 4, 5]);
    let stopped = |name: &str| (name.to_owned(), State::Stopped);
    assert_eq!(states(&health.borrow()), [stopped("one"), stopped("relay")]);
    let closed = store.append(Append::new(stream("a"), ExpectedVersion::Any, events(1))).await;
    assert!(closed.is_err(), "the log is closed last");
}

#[tokio::test(start_paused = true)]
async fn a_failed_or_panicked_task_restarts_alone() {
    let (store, models) = (five_events().await, MemoryReadModel::with_value(Vec::new()));
    let broken = Noting::named("broken");
    broken.failures.store(2, Ordering::SeqCst);
    broken.panics.store(1, Ordering::SeqCst);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = heard.clone();
    let app = App::new(store, models.clone())
        .with_on_failure(move |task, error| {
            let text = format!("{error}: {}", std::error::Error::source(error).unwrap());
            hear.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((task.to_owned(), text));
            // A callback that panics ends no task either.
            panic!("on_failure panics");
        })
        .projection(broken)
        .projection(Noting::named("well"));
    let running = app.start();
    let mut health = running.health();
    let failed = |health: &Health| health.tasks().any(|(name, state)| name == "broken" && *state != State::Running);
    timeout(PATIENCE, health.wait_for(failed)).await.unwrap().unwrap();
    assert!(!health.borrow().is_good());
    assert!(states(&health.borrow()).contains(&("well".to_owned(), State::Running)));
    timeout(PATIENCE, running.has_applied(Position::new(5))).await.unwrap();
    assert_eq!(models.value().len(), 10, "each projection has every event once");
    timeout(PATIENCE, health.wait_for(Health::is_good)).await.unwrap().unwrap();
    running.stop().await.unwrap();
    let heard = heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    assert_eq!(heard.len(), 3, "{heard:?}");
    assert!(heard.iter().all(|(task, _)| task == "broken"), "{heard:?}");
    assert!(heard[0].1.contains("setup panics") && heard[1].1.contains("set up projection broken"), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_role_runs_only_its_tasks() {
    for (role, expected) in [
        (Role::Api, vec![]),
        (Role::Relay, vec!["relay"]),
        (Role::Worker, vec!["one"]),
        (Role::All, vec!["one", "relay"]),
    ] {
        let app = App::new(five_events().await, MemoryReadModel::with_value(Vec::new()));
        let app = app.with_broker(MemoryBroker::new()).projection(Noting::named("one")).with_role(role);
        let running = app.start();
        let health = running.health().borrow().clone();
        assert_eq!(health.tasks().map(|(name, _)| name).collect::<Vec<_>>(), expected, "{role:?}");
        running.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn stop_interrupts_the_wait_before_a_restart() {
    let broken = Noting::named("broken");
    broken.failures.store(u32::MAX, Ordering::SeqCst);
    let running = App::new(five_events().await, MemoryReadModel::with_value(Vec::new())).projection(broken).start();
    let mut health = running.health();
    let often = |health: &Health| health.tasks().any(|(_, state)| matches!(state, State::Failed { times: 9.., .. }));
    timeout(PATIENCE, health.wait_for(often)).await.unwrap().unwrap();
    timeout(PATIENCE, running.stop()).await.unwrap().unwrap();
}

/// Records the positions it is given in a table.
struct Telling;

#[async_trait]
impl Reaction for Telling {
    const NAME: &'static str = "telling";
    type Event = CounterEvent;
    type Tx = rusqlite::Connection;

    async fn setup(&self, db: &mut rusqlite::Connection) -> Result<(), BoxError> {
        Ok(db.execute_batch("CREATE TABLE IF NOT EXISTS told (position INTEGER)")?)
    }

    async fn react(&self, db: &mut rusqlite::Connection, event: Envelope<CounterEvent>) -> Result<(), BoxError> {
        db.execute("INSERT INTO told VALUES (?1)", [i64::try_from(event.position.get())?])?;
        Ok(())
    }
}

#[tokio::test]
async fn a_reaction_starts_as_told_and_stop_leaves_its_model_open() {
    let (store, models) = (five_events().await, SqliteReadModel::in_memory().await.unwrap());
    let running = App::new(store, models.clone()).reaction(Telling, StartFrom::After(Position::new(3))).start();
    timeout(PATIENCE, running.has_applied(Position::new(5))).await.unwrap();
    assert_eq!(states(&running.health().borrow()), [("telling".to_owned(), State::Running)]);
    running.stop().await.unwrap();
    let told = async || {
        let told = models.query(|db| {
            let mut told = db.prepare("SELECT position FROM told")?;
            told.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()
        });
        told.await
    };
    assert_eq!(told().await.unwrap(), [4, 5]);
    models.close().await.unwrap();
    assert!(matches!(told().await.unwrap_err().kind(), ErrorKind::Closed(_)));
}

#[tokio::test]
async fn run_returns_after_a_termination_signal() {
    let (store, models) = (five_events().await, MemoryReadModel::with_value(Vec::new()));
    let app = App::new(store.clone(), models.clone()).projection(Noting::named("one"));
    let run = tokio::spawn(app.run());
    while models.value().len() < 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The signal handler is installed when the tasks start: both happen in the same poll.
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
    assert_eq!(run.await.unwrap().unwrap(), Signal::Terminate);
    assert_eq!(store.head().await.unwrap(), Position::new(5));
}

/// A view of the contents of each counter, by its id.
struct Held;

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, retell::Shape)]
struct Holding {
    total: i64,
    name: String,
}

impl View for Held {
    const NAME: &'static str = "held";
    type Event = CounterEvent;
    type State = Holding;

    fn key(&self, event: &Envelope<CounterEvent>) -> Option<String> {
        Some(event.stream.aggregate_id().to_string())
    }

    fn apply(&self, held: &mut Holding, event: Envelope<CounterEvent>) {
        match event.event {
            CounterEvent::Added { amount } => held.total += amount,
            CounterEvent::Renamed(name) => held.name = name,
        }
    }
}

/// Records the positions it is given plus 1000, in the value the projection writes to.
struct Echoing;

#[async_trait]
impl Reaction for Echoing {
    const NAME: &'static str = "echoing";
    type Event = CounterEvent;
    type Tx = Vec<u64>;

    async fn react(&self, noted: &mut Vec<u64>, event: Envelope<CounterEvent>) -> Result<(), BoxError> {
        noted.push(1000 + event.position.get());
        Ok(())
    }
}

/// Renames a counter when the deadline that its first event set has passed.
struct Settling(Repository<Counter>);

#[async_trait]
impl Process for Settling {
    const NAME: &'static str = "settling";
    type Event = CounterEvent;
    type State = bool;
    type Command = ();

    fn key(&self, event: &Envelope<CounterEvent>) -> Option<AggregateId> {
        matches!(event.event, CounterEvent::Added { .. }).then(|| event.stream.aggregate_id().clone())
    }

    fn on_event(&self, begun: &mut bool, event: &Envelope<CounterEvent>, effects: &mut Effects<()>) {
        if !*begun {
            *begun = true;
            effects.set_deadline("quiet", event.recorded_at);
        }
    }

    fn on_deadline(&self, _: &mut bool, _: &str, effects: &mut Effects<()>) {
        effects.send(());
    }

    async fn execute(&self, key: &AggregateId, (): (), context: Context) -> Result<(), CommandFailure> {
        Ok(self.0.execute_with(key.clone(), Rename("settled"), context).await.map(drop)?)
    }
}

#[tokio::test(start_paused = true)]
async fn one_memory_model_serves_every_kind_of_task() {
    let (store, models) = (five_events().await, MemoryReadModel::with_value(Vec::new()));
    let counters = Repository::new(store.clone());
    let app = App::new(store.clone(), models.clone())
        .with_broker(MemoryBroker::new())
        .view(Held)
        .projection(Noting::named("one"))
        .reaction(Echoing, StartFrom::After(Position::new(3)))
        .process(Settling(counters));
    let running = app.start();
    let views = Views::new(&Held, models.clone());
    let settled = async {
        let settled = Holding { total: 5, name: "settled".into() };
        while views.get("a").await.unwrap().is_none_or(|held| held != settled) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, settled).await.unwrap();
    // Five events, one step for each of them, one step for the deadline, and the rename.
    let head = store.head().await.unwrap();
    assert_eq!(head, Position::new(5 + 5 + 1 + 1));
    timeout(PATIENCE, running.has_applied(head)).await.unwrap();
    assert!(running.health().borrow().is_good());
    running.stop().await.unwrap();
    let (mut noted, mut echoed) = (models.value().to_vec(), Vec::new());
    noted.retain(|position| {
        if *position > 1000 {
            echoed.push(*position);
            false
        } else {
            true
        }
    });
    assert_eq!((noted, echoed), (vec![1, 2, 3, 4, 5, 12], vec![1004, 1005, 1012]));
    let due = models.due_deadlines(&ProjectionName::new("settling").unwrap(), chrono::Utc::now(), 9).await.unwrap();
    assert!(due.is_empty(), "the deadline is settled: {due:?}");
}

#[tokio::test(start_paused = true)]
async fn broker_and_role_apply_to_tasks_added_before_them() {
    let app = App::new(five_events().await, MemoryReadModel::with_value(Vec::new()));
    let running = app.projection(Noting::named("one")).with_role(Role::All).with_broker(MemoryBroker::new()).start();
    let health = running.health().borrow().clone();
    assert_eq!(health.tasks().map(|(name, _)| name).collect::<Vec<_>>(), ["one", "relay"]);
    timeout(PATIENCE, running.has_applied(Position::new(5))).await.unwrap();
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn wait_for_returns_when_a_command_is_applied() {
    let (store, models) = (five_events().await, MemoryReadModel::with_value(Vec::new()));
    let running = App::new(store.clone(), models.clone()).projection(Noting::named("one")).start();
    let executed = Repository::<Counter>::new(store).execute("b", Add(vec![1])).await.unwrap();
    running.wait_for(&executed, PATIENCE).await.unwrap();
    assert_eq!(models.value().len(), 6);
    running.wait_for_one("one", &executed, PATIENCE).await.unwrap();
    running.wait_for_all(PATIENCE).await.unwrap();
    let unknown = running.wait_for_one("two", &executed, PATIENCE).await.unwrap_err();
    assert!(matches!(unknown.kind(), ErrorKind::Invalid(_)), "{unknown}");
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn wait_in_another_role_reads_checkpoints_and_names_the_laggard() {
    let (store, models) = (five_events().await, MemoryReadModel::with_value(Vec::new()));
    let app = || App::new(store.clone(), models.clone()).projection(Noting::named("one"));
    let api = app().with_role(Role::Api).start();
    let behind = api.wait_for_all(Duration::from_millis(10)).await.unwrap_err();
    let ErrorKind::Behind { projection, applied, wanted } = behind.kind() else { panic!("{behind}") };
    assert_eq!((projection.as_str(), applied.get(), wanted.get()), ("one", 0, 5));
    let caught_up = app().catch_up().await.unwrap();
    assert!(caught_up.values().all(|part| part.position.get() == 5 && part.is_complete()), "{caught_up:?}");
    assert_eq!(*models.value(), [1, 2, 3, 4, 5]);
    api.wait_for_all(PATIENCE).await.unwrap();
    api.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn catch_up_returns_the_error_of_a_worker() {
    let broken = Noting::named("broken");
    broken.failures.store(1, Ordering::SeqCst);
    let app = App::new(five_events().await, MemoryReadModel::with_value(Vec::new())).projection(broken);
    assert!(app.catch_up().await.unwrap_err().to_string().contains("set up projection broken"));
    app.catch_up().await.unwrap();
}

/// A projection that waits inside a transaction for as long as it is told to.
struct Hanging(tokio::sync::watch::Receiver<bool>);

#[async_trait]
impl Projection for Hanging {
    const NAME: &'static str = "hanging";
    type Event = CounterEvent;
    type Tx = Vec<u64>;

    async fn apply(&self, _: &mut Vec<u64>, _: Envelope<CounterEvent>) -> Result<(), BoxError> {
        drop(self.0.clone().wait_for(|hangs| !hangs).await);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_stands_still_without_an_error_is_stuck() {
    let (store, models) = (five_events().await, MemoryReadModel::with_value(Vec::new()));
    let hangs = tokio::sync::watch::Sender::new(true);
    let worker = Worker::new(Hanging(hangs.subscribe()), store.clone(), models.clone());
    let worker = worker.with_options(WorkerOptions::new().with_longest_call(Duration::from_hours(1)));
    let running = App::new(store, models).worker(worker).start();
    let mut health = running.health();
    let stuck = |health: &Health| matches!(health.task("hanging"), Some(State::Stuck { .. }));
    let seen = timeout(PATIENCE, health.wait_for(stuck)).await.unwrap().unwrap().clone();
    let Some(State::Stuck { position, head, .. }) = seen.task("hanging") else { unreachable!() };
    assert_eq!((position.get(), head.get()), (0, 5));
    assert!(!seen.is_good() && seen.to_string().contains("hanging: stuck at position 0 since "), "{seen}");
    hangs.send_replace(false);
    timeout(PATIENCE, health.wait_for(Health::is_good)).await.unwrap().unwrap();
    running.stop().await.unwrap();
}

/// A projection whose every event fails.
struct Refusing;

#[async_trait]
impl Projection for Refusing {
    const NAME: &'static str = "refusing";
    type Event = CounterEvent;
    type Tx = Vec<u64>;

    async fn apply(&self, _: &mut Vec<u64>, _: Envelope<CounterEvent>) -> Result<(), BoxError> {
        Err("the mail server is down".into())
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_a_wait_with_its_cause() {
    let store = MemoryStore::new();
    let counters = Repository::<Counter>::new(store.clone());
    for id in ["a", "b", "c", "d", "e", "f"] {
        counters.execute(id, Add(vec![1])).await.unwrap();
    }
    let running = App::new(store, MemoryReadModel::with_value(Vec::new())).projection(Refusing).start();
    let waits =
        |health: &Health| matches!(health.task("refusing"), Some(State::Waiting(wait)) if wait.on == Wait::Outage);
    let mut health = running.health();
    let seen = timeout(PATIENCE, health.wait_for(waits)).await.unwrap().unwrap().clone();
    let line = seen.task("refusing").unwrap().to_string();
    assert!(line.starts_with("waiting for the end of an outage since 2"), "{line}");
    assert!(line.ends_with("the mail server is down"), "{line}");
    assert!(!seen.is_good());
    let stuck = |health: &Health| {
        let Some(State::Stuck { cause: Some(cause), .. }) = health.task("refusing") else { return false };
        cause.ends_with("the mail server is down")
    };
    timeout(PATIENCE, health.wait_for(stuck)).await.unwrap().unwrap();
    running.stop().await.unwrap();
}

/// A broker that is down.
#[derive(Clone)]
struct Unreachable;

#[async_trait]
impl Publisher for Unreachable {
    async fn publish(&self, _: &[Frame]) -> retell::Result<Confirm> {
        Err(Error::with_source(ErrorKind::Transient("publish".into()), "connection refused"))
    }
}

#[async_trait]
impl Broker for Unreachable {
    async fn subscribe(&self, _: &ProjectionName, _: SubscriptionMode) -> retell::Result<Box<dyn Consumer>> {
        Err(Error::with_source(ErrorKind::Transient("subscribe".into()), "connection refused"))
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_broker_is_named_by_worker_and_relay() {
    let (store, models) = (five_events().await, MemoryReadModel::with_value(Vec::new()));
    let app = App::new(store.clone(), models.clone()).with_broker(Unreachable).projection(Noting::named("one"));
    let running = app.start();
    Repository::<Counter>::new(store).execute("b", Add(vec![1])).await.unwrap();
    let wait_of = |health: &Health, task: &str| match health.task(task) {
        Some(State::Waiting(wait)) if wait.on == Wait::Broker => wait.error.clone(),
        _ => None,
    };
    let mut health = running.health();
    let both = |health: &Health| wait_of(health, "one").is_some() && wait_of(health, "relay").is_some();
    let seen = timeout(PATIENCE, health.wait_for(both)).await.unwrap().unwrap().clone();
    assert_eq!(wait_of(&seen, "relay").as_deref(), Some("temporarily unable to publish: connection refused"));
    assert!(!seen.is_good());
    timeout(PATIENCE, running.has_applied(Position::new(6))).await.unwrap();
    let stuck = |health: &Health| matches!(health.task("relay"), Some(State::Stuck { cause: Some(_), .. }));
    timeout(PATIENCE, health.wait_for(stuck)).await.unwrap().unwrap();
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_an_app_reports_its_status() {
    let (store, models) = (five_events().await, MemoryReadModel::with_value(Vec::new()));
    let worker = Arc::new(Worker::new(Noting::named("one"), store, models).with_broker(Unreachable));
    let (mut status, stop) = (worker.status(), CancellationToken::new());
    assert_eq!(status.borrow().activity, Activity::Idle);
    let task = tokio::spawn({
        let (worker, stop) = (worker.clone(), stop.clone());
        async move { worker.run(stop).await }
    });
    let on_broker = |status: &Status| status.wait().is_some_and(|wait| wait.on == Wait::Broker);
    let line = timeout(PATIENCE, status.wait_for(on_broker)).await.unwrap().unwrap().to_string();
    assert!(line.ends_with(": temporarily unable to subscribe: connection refused"), "{line}");
    stop.cancel();
    task.await.unwrap().unwrap();
    assert_eq!(status.borrow().to_string(), "stopped");
}
