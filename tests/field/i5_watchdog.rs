//! No standstill without a word: health tells what each task waits for, and which is stuck, behind or failed, on every store.

use std::env;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use retell::app::{Health, HealthOptions, State};
use retell::prelude::*;
use retell::status::Wait;
use retell::{DeadlineStore, ErrorKind, ReadModel, RelayStore, WorkerOptions};
use sqlx::{Connection, MySqlConnection, PgConnection};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::databases::{Database, Place};
use crate::sites::{self, Site, on_every_store};

const PATIENCE: Duration = Duration::from_mins(5);

#[derive(Event)]
#[event("task.noted")]
struct Noted;

/// Applies one event for each permit.
struct Gated<T: ?Sized> {
    permits: Arc<Semaphore>,
    set_up: Result<(), &'static str>,
    tx: PhantomData<fn(&T)>,
}

impl<T: ?Sized> Gated<T> {
    fn new(permits: &Arc<Semaphore>) -> Self {
        Self { permits: permits.clone(), set_up: Ok(()), tx: PhantomData }
    }
}

#[async_trait]
impl<T: Send + ?Sized + 'static> Projection for Gated<T> {
    const NAME: &'static str = "gated";
    type Event = Noted;
    type Tx = T;

    async fn setup(&self, _: &mut T) -> Result<(), BoxError> {
        Ok(self.set_up?)
    }

    async fn apply(&self, _: &mut T, _: Envelope<Noted>) -> Result<(), BoxError> {
        self.permits.acquire().await?.forget();
        Ok(())
    }
}

/// Sends nothing, and counts nothing.
struct Quiet;

#[async_trait]
impl Process for Quiet {
    const NAME: &'static str = "quiet";
    type Event = Noted;
    type State = ();
    type Command = ();

    fn key(&self, event: &Envelope<Noted>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, (): &mut (), _: &Envelope<Noted>, _: &mut Effects<()>) {}

    async fn execute(&self, _: &AggregateId, (): (), _: Context) -> Result<(), CommandFailure> {
        Ok(())
    }
}

fn options() -> HealthOptions {
    HealthOptions::new().with_limit(Duration::from_millis(500)).with_beat(Duration::from_millis(20))
}

async fn append(store: &impl EventStore, events: usize) {
    for event in 0..events {
        let id = (event % 7).to_string();
        store.append_events(("task", id.as_str()), ExpectedVersion::Any, [Noted]).await.unwrap();
    }
}

async fn until(health: &mut watch::Receiver<Health>, holds: impl Fn(&Health) -> bool) -> Health {
    let Ok(seen) = timeout(PATIENCE, health.wait_for(|health| holds(health))).await else {
        panic!("health stays\n{}", *health.borrow());
    };
    seen.unwrap().clone()
}

/// A handler that does not return is stuck, with its position, the head and the time. When it returns, health is good again.
async fn hanging_handler_is_stuck<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ReadModel + Clone,
{
    append(&store, 3).await;
    let permits = Arc::new(Semaphore::new(0));
    let worker = Worker::new(Gated::new(&permits), store.clone(), models.clone());
    let running = App::new(store, models).with_health(options()).worker(worker).start();
    let mut health = running.health();
    let seen = until(&mut health, |health| matches!(health.task("gated"), Some(State::Stuck { .. }))).await;
    let Some(State::Stuck { position, head, since, .. }) = seen.task("gated") else { unreachable!() };
    assert_eq!((position.get(), head.get()), (0, 3), "{seen}");
    assert!(!seen.is_good() && *since <= chrono::Utc::now(), "{seen}");
    permits.add_permits(3);
    until(&mut health, Health::is_good).await;
    running.stop().await.unwrap();
}

/// A projection that moves but does not catch up is behind, with the number of events.
async fn slow_projection_is_behind<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ReadModel + Clone,
{
    append(&store, 40).await;
    let permits = Arc::new(Semaphore::new(1));
    let worker = Worker::new(Gated::new(&permits), store.clone(), models.clone());
    let worker = worker.with_options(WorkerOptions::new().with_batch_events(1));
    let mut applied = worker.applied();
    let running = App::new(store.clone(), models).with_health(options()).worker(worker).start();
    let mut health = running.health();
    let is_behind = |health: &Health| matches!(health.task("gated"), Some(State::Behind { .. }));
    let one_by_one = async {
        loop {
            timeout(PATIENCE, applied.changed()).await.expect("the worker moves").unwrap();
            // The log grows as fast as the worker.
            append(&store, 1).await;
            permits.add_permits(1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let seen = tokio::select! {
        seen = until(&mut health, is_behind) => seen,
        () = one_by_one => unreachable!("endless"),
    };
    let Some(State::Behind { events, .. }) = seen.task("gated") else { unreachable!() };
    assert!(*events > 0 && !seen.is_good(), "{seen}");
    permits.add_permits(10_000);
    until(&mut health, Health::is_good).await;
    running.stop().await.unwrap();
}

/// A task that ends with an error has failed, with the error and its causes.
async fn failing_start_is_told<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ReadModel + Clone,
{
    let gated = Gated { set_up: Err("no such extension"), ..Gated::new(&Arc::new(Semaphore::new(0))) };
    let running = App::new(store, models).with_health(options()).projection(gated).start();
    let seen = until(&mut running.health(), |health| !health.is_good()).await;
    let Some(State::Failed { times, error, .. }) = seen.task("gated") else { panic!("{seen}") };
    assert!(*times > 0 && error.contains("set up projection gated") && error.ends_with("no such extension"), "{error}");
    running.stop().await.unwrap();
}

/// A damaged event at the head stops each task that reads the log, and none of them says that it runs.
async fn unreadable_event_is_told_by_every_task<S, M>(Site { store, models, database }: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: DeadlineStore + Clone,
{
    append(&store, 2).await;
    let Some(database) = database else { return };
    let damage = match &database.place {
        Place::Sqlite(_) | Place::MySql(_) => {
            "DROP TRIGGER retell_events_no_update; UPDATE retell_events SET codec = 99 WHERE aggregate_id = '1'"
        }
        Place::Postgres(_) => {
            "ALTER TABLE retell.events DISABLE TRIGGER USER; UPDATE retell.events SET codec = 99 WHERE aggregate_id = '1'"
        }
    };
    database.place.run(damage).await;
    let permits = Arc::new(Semaphore::new(100));
    let app = App::new(store, models).with_health(options()).with_broker(MemoryBroker::new());
    let running = app.projection(Gated::new(&permits)).process(Quiet).start();
    let tells = |health: &Health, task: &str| {
        health.task(task).is_some_and(|state| !state.is_good() && state.to_string().contains("codec 99"))
    };
    let tasks = ["gated", "quiet", "relay"];
    let seen = until(&mut running.health(), |health| tasks.iter().all(|task| tells(health, task))).await;
    assert!(!seen.is_good(), "{seen}");
    running.stop().await.unwrap();
}

on_every_store!(
    hanging_handler_is_stuck,
    slow_projection_is_behind,
    failing_start_is_told,
    unreadable_event_is_told_by_every_task
);

/// Commits that get no position are told, with the cause, although every other task has nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn held_lock_of_the_sequencer_is_told_on_postgres() {
    let Site { store, models, database } = sites::postgres().await;
    let Some(Place::Postgres(url)) = database.as_ref().map(|database| &database.place) else { unreachable!() };
    let mut session = PgConnection::connect(url).await.unwrap();
    let hold = "BEGIN; SELECT pg_advisory_xact_lock(retell.lane_key(), 64)";
    sqlx::raw_sql(hold).execute(&mut session).await.unwrap();
    let release = async move { sqlx::raw_sql("ROLLBACK").execute(&mut session).await.map(drop).unwrap() };
    sequencer_is_told(store, models, release).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn held_lock_of_the_sequencer_is_told_on_mysql() {
    let Site { store, models, database } = sites::mysql().await;
    let Some(Place::MySql(url)) = database.as_ref().map(|database| &database.place) else { unreachable!() };
    let mut session = MySqlConnection::connect(url).await.unwrap();
    let hold = "BEGIN; SELECT id FROM retell_sequencer WHERE id = 1 FOR UPDATE";
    sqlx::raw_sql(hold).execute(&mut session).await.unwrap();
    let release = async move { sqlx::raw_sql("ROLLBACK").execute(&mut session).await.map(drop).unwrap() };
    sequencer_is_told(store, models, release).await;
}

/// `release` lets go of the sequencer's lock.
async fn sequencer_is_told<S, M>(store: S, models: M, release: impl Future<Output = ()>)
where
    S: EventStore + RelayStore + Clone,
    M: ReadModel + Clone,
{
    append(&store, 3).await;
    let permits = Arc::new(Semaphore::new(100));
    let running = App::new(store, models).with_health(options()).projection(Gated::new(&permits)).start();
    let mut health = running.health();
    let is_stuck = |health: &Health| matches!(health.sequencer(), State::Stuck { cause: Some(_), .. });
    let seen = until(&mut health, is_stuck).await;
    let line = seen.sequencer().to_string();
    assert!(line.contains("3 commits have no position") && line.contains("sequencer's lock"), "{seen}");
    assert!(!seen.is_good());
    release.await;
    until(&mut health, Health::is_good).await;
    timeout(PATIENCE, running.has_applied(Position::new(3))).await.unwrap();
    running.stop().await.unwrap();
}

/// A database that takes no calls.
enum Outage {
    /// Another connection holds the file's write lock.
    Sqlite(rusqlite::Connection),
    /// The server refuses connections to the database with this name.
    Postgres(String),
}

impl Outage {
    async fn begin(database: &Database) -> Self {
        match &database.place {
            Place::Sqlite(path) => {
                let db = rusqlite::Connection::open(path.with_file_name("models.db")).unwrap();
                db.execute_batch("BEGIN IMMEDIATE").unwrap();
                Self::Sqlite(db)
            }
            Place::Postgres(url) => {
                let name = url.rsplit_once('/').unwrap().1.to_owned();
                let server = Place::Postgres(env::var("POSTGRES_URL").unwrap());
                server.run(&format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")).await;
                let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ";
                server.run(&format!("{end}'{name}'")).await;
                Self::Postgres(name)
            }
            Place::MySql(_) => unreachable!("its user cannot be locked out alone"),
        }
    }

    async fn end(self) {
        match self {
            Self::Sqlite(db) => db.execute_batch("ROLLBACK").unwrap(),
            Self::Postgres(name) => {
                let server = Place::Postgres(env::var("POSTGRES_URL").unwrap());
                server.run(&format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")).await;
            }
        }
    }
}

/// A worker whose database does not answer waits for it, with the error and since when. `catch_up` ends after its limit.
async fn unreachable_database_is_told<S, M>(Site { store, models, database }: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ReadModel + Clone,
{
    append(&store, 3).await;
    let database = database.unwrap();
    let permits = Arc::new(Semaphore::new(100));
    let worker = || Worker::new(Gated::new(&permits), store.clone(), models.clone());
    let outage = Outage::begin(&database).await;
    let limited = worker().with_options(WorkerOptions::new().with_catch_up_limit(Duration::from_millis(200)));
    let refused = timeout(PATIENCE, limited.catch_up()).await.expect("the limit ends it").unwrap_err();
    assert!(refused.is_transient() && !matches!(refused.kind(), ErrorKind::Closed(_)), "{refused:#}");

    let running = App::new(store.clone(), models.clone()).with_health(options()).worker(worker()).start();
    let mut health = running.health();
    let waits = |health: &Health| match health.task("gated") {
        Some(State::Waiting(wait)) => wait.on == Wait::Database && wait.error.is_some(),
        Some(State::Stuck { cause, .. }) => cause.is_some(),
        _ => false,
    };
    let seen = until(&mut health, waits).await;
    assert!(!seen.is_good(), "{seen}");
    outage.end().await;
    until(&mut health, Health::is_good).await;
    timeout(PATIENCE, running.has_applied(Position::new(3))).await.unwrap();
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_database_is_told_on_sqlite() {
    unreachable_database_is_told(sites::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_database_is_told_on_postgres() {
    unreachable_database_is_told(sites::postgres().await).await;
}
