//! Has every fault that `prometheus/alerts.yaml` knows, until it reads a line from standard input. Then it repairs all of them, and runs
//! until standard input ends. `prometheus/fire.sh` runs it.
//!
//! Arguments: the address to listen on, and an empty folder. `POSTGRES_URL` is the URL of a PostgreSQL server.

#![expect(clippy::unwrap_used, reason = "a script sees the panic")]

use std::env::{args, var};
use std::io::{BufRead, stdin};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use retell::operate::{Observer, ObserverOptions};
use retell::store::{By, Deadline, DeadlineChange, ProcessorKind, RegisteredProcessor, Step, Work};
use retell::worker::{ParkingOptions, WorkerOptions};
use retell::{
    AggregateId, App, Codec, DeadlineStore, EventId, EventType, Mark, PostgresOptions, ProjectionName, RabbitMqBroker,
    RabbitMqOptions, ReadModel, RelayOptions, Utc, Uuid, ViewStore, prelude::*, rusqlite, sqlx,
};
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// Whether the faults are still there.
static BROKEN: AtomicBool = AtomicBool::new(true);

fn is_broken() -> bool {
    BROKEN.load(Ordering::SeqCst)
}

#[derive(Event)]
#[event("meter.read")]
struct Read {
    watts: u64,
}

/// Readings of meter `m-1` fail.
struct Poisoned(&'static str);

#[async_trait]
impl Projection for Poisoned {
    const NAME: &'static str = "poisoned";
    type Event = Read;
    type Tx = rusqlite::Connection;

    fn name(&self) -> &str {
        self.0
    }

    async fn setup(&self, _: &mut rusqlite::Connection) -> Result<(), BoxError> {
        if self.0 == "restarting" && is_broken() { Err("no such table".into()) } else { Ok(()) }
    }

    async fn apply(&self, _: &mut rusqlite::Connection, read: Envelope<Read>) -> Result<(), BoxError> {
        let fails = read.stream.aggregate_id().as_str() == "m-1" && ["parking", "dying"].contains(&self.0);
        if fails && is_broken() { Err(format!("{} watts", read.event.watts).into()) } else { Ok(()) }
    }
}

fn name(name: &str) -> ProjectionName {
    ProjectionName::new(name).unwrap()
}

fn nothing<Tx: ?Sized + 'static>() -> Work<Tx> {
    Box::new(|_| Box::pin(async { Ok(()) }))
}

async fn append(log: &impl EventStore, meter: &str) {
    let stream = StreamId::parse("meter", meter).unwrap();
    log.append_events(stream, ExpectedVersion::Any, [Read { watts: 1 }]).await.unwrap();
}

fn options(retries: u32) -> WorkerOptions {
    let parking = ParkingOptions::new().with_retries(retries);
    let parking = parking.with_delays(Duration::from_millis(100), Duration::from_millis(500));
    WorkerOptions::new().with_retries(0).with_parking(parking)
}

/// The handles for a repair.
struct Planted {
    log: SqliteStore,
    models: SqliteReadModel,
    newer: RegisteredProcessor,
    deadline: Uuid,
    folder: PathBuf,
}

/// Makes the faults that consist of rows.
async fn plant(log: SqliteStore, models: SqliteReadModel, folder: PathBuf) -> Planted {
    for meter in 0..5 {
        append(&log, &format!("m-{meter}")).await;
    }
    // Nothing runs it: it lags.
    let lagging = Worker::new(Poisoned("lagging"), log.clone(), models.clone());
    lagging.catch_up().await.unwrap();
    models.commit(Step::new(&name("reminders"), Position::ZERO, Position::new(5)), nothing()).await.unwrap();
    let (deadline, key) = (Uuid::now_v7(), AggregateId::new("m-1").unwrap());
    let due = Deadline::new(deadline, key, "reply", Utc::now());
    models.settle_deadlines(&name("reminders"), &[DeadlineChange::Set(due)]).await.unwrap();
    let other = Mark::new(Position::new(2), EventId::generate());
    models.commit(Step::new(&name("foreign"), Position::ZERO, other), nothing()).await.unwrap();
    let types = ["meter.read", "meter.replaced"].map(|event| EventType::new(event).unwrap());
    let newer = RegisteredProcessor::new(
        ProcessorKind::Projection,
        Filter::all().with_event_types(types.clone()),
        Utc::now(),
        "newer",
    );
    Worker::new(Poisoned("older"), log.clone(), models.clone()).catch_up().await.unwrap();
    models.register_processor(&name("older"), &newer).await.unwrap();
    let [_, replaced] = types;
    let event = NewEvent::stored(EventId::generate(), replaced, 1, Codec::Json, "{}".into());
    let stream = StreamId::parse("meter", "m-9").unwrap();
    log.append(Append::new(stream, ExpectedVersion::Any, vec![event])).await.unwrap();
    models.commit(Step::new(&name("paused"), Position::ZERO, Position::new(5)), nothing()).await.unwrap();
    assert!(models.pause(&name("paused"), &By::new("faults", "forgotten")).await.unwrap());
    // No program has it any more. If that set off an alert, the repair would not end it.
    models.commit(Step::new(&name("retired"), Position::ZERO, Position::new(5)), nothing()).await.unwrap();
    assert!(models.retire(&name("retired"), &By::new("faults", "replaced")).await.unwrap());
    Planted { log, models, newer, deadline, folder }
}

impl Planted {
    async fn repair(&self) {
        let Self { log, models, newer, deadline, folder } = self;
        BROKEN.store(false, Ordering::SeqCst);
        let stream = StreamId::parse("meter", "m-1").unwrap();
        models.retry_parked(&name("dying"), &stream).await.unwrap();
        models.settle_deadlines(&name("reminders"), &[DeadlineChange::End(*deadline)]).await.unwrap();
        models.reset(&name("foreign"), Mark::START, nothing()).await.unwrap();
        models.forget_processor(&name("older"), newer).await.unwrap();
        assert!(models.resume(&name("paused"), &By::new("faults", "remembered")).await.unwrap());
        let again = SqliteReadModel::open(folder.join("other.db")).await.unwrap();
        observe(log.clone(), again, "unreadable");
        for projection in ["lagging", "foreign", "reminders", "paused"] {
            let worker = Worker::new(Poisoned(projection), log.clone(), models.clone());
            tokio::spawn(async move { worker.run(CancellationToken::new()).await });
        }
        tokio::spawn(relay(log.clone()));
    }
}

async fn relay(log: SqliteStore) {
    let options = RelayOptions::new().with_lease(Duration::from_secs(3));
    let relay = Relay::new(log.clone(), MemoryBroker::new()).with_options(options).with_checkpoint(log, "consumers");
    let stop = CancellationToken::new();
    if is_broken() {
        // It publishes once, and then no process does.
        let (stopped, mut published) = (stop.clone(), relay.published());
        let once = async move {
            published.wait_for(|position| position.get() > 0).await.unwrap();
            stopped.cancel();
        };
        let (ended, ()) = tokio::join!(relay.run(stop), once);
        ended.unwrap();
    } else {
        relay.run(stop).await.unwrap();
    }
}

fn observe(log: impl EventStore + retell::RelayStore, models: impl ViewStore + DeadlineStore, label: &str) {
    let options =
        ObserverOptions::new().with_interval(Duration::from_secs(1)).with_limit(Duration::from_secs(2)).with_log(label);
    tokio::spawn(Observer::new(log, models, options).run(CancellationToken::new()));
}

/// A session holds the sequencer's lock of a log on PostgreSQL. Events have no position until it ends.
async fn block_the_sequencer(url: String, schema: String) {
    let options = PostgresOptions::new().with_schema(&schema);
    let log = PostgresStore::open_with(PgPool::connect(&url).await.unwrap(), options).await.unwrap();
    observe(log.clone(), log.read_model(), "blocked");
    let mut tx = PgConnection::connect(&url).await.unwrap();
    tx.execute("BEGIN").await.unwrap();
    let lock = format!("SELECT pg_advisory_xact_lock({schema}.lane_key(), 64)");
    tx.execute(sqlx::AssertSqlSafe(lock)).await.unwrap();
    append(&log, "m-2").await;
    while is_broken() {
        sleep(Duration::from_millis(100)).await;
    }
    tx.execute("COMMIT").await.unwrap();
}

#[tokio::main]
async fn main() {
    let address: std::net::SocketAddr = args().nth(1).unwrap().parse().unwrap();
    let (folder, url) = (PathBuf::from(args().nth(2).unwrap()), var("POSTGRES_URL").unwrap());
    PrometheusBuilder::new().with_http_listener(address).install().unwrap();
    retell::metrics::describe();
    let log = SqliteStore::open(folder.join("log.db")).await.unwrap();
    let models = SqliteReadModel::open(folder.join("models.db")).await.unwrap();
    let planted = plant(log.clone(), models.clone(), folder.clone()).await;
    tokio::spawn(relay(log.clone()));

    let other = SqliteReadModel::open(folder.join("other.db")).await.unwrap();
    observe(log.clone(), other.clone(), "unreadable");
    sleep(Duration::from_secs(2)).await;
    other.close().await.unwrap();

    let schema = format!("retell_faults_{}", std::process::id());
    let blocked = tokio::spawn(block_the_sequencer(url.clone(), schema.clone()));
    // Nothing listens on this port.
    let broker = RabbitMqBroker::new(RabbitMqOptions::new("amqp://127.0.0.1:9/%2f").unwrap()).unwrap();
    tokio::spawn(async move {
        while is_broken() {
            drop(broker.declare().await);
            sleep(Duration::from_millis(300)).await;
        }
    });
    let traffic = log.clone();
    tokio::spawn(async move {
        loop {
            append(&traffic, "m-3").await;
            sleep(Duration::from_millis(100)).await;
        }
    });
    let observer = ObserverOptions::new().with_interval(Duration::from_secs(1));
    let worker = |name, retries| {
        let worker = Worker::new(Poisoned(name), planted.log.clone(), planted.models.clone());
        worker.with_options(options(retries))
    };
    let app = App::new(log, models.clone()).worker(worker("parking", 1_000_000)).worker(worker("dying", 1));
    let app = app.worker(worker("restarting", 1)).worker(worker("older", 1)).with_observer(observer);
    let running = app.start();

    let line = || spawn_blocking(|| stdin().lock().read_line(&mut String::new()));
    line().await.unwrap().unwrap();
    planted.repair().await;
    blocked.await.unwrap();
    line().await.unwrap().unwrap();
    drop(running);
    let mut db = PgConnection::connect(&url).await.unwrap();
    db.execute(sqlx::AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"))).await.unwrap();
    std::process::exit(0);
}
