//! C3. A server that restarts under a running program loses nothing: appends, relay, workers, process manager and notifications continue.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use retell::prelude::*;
use retell::store::{Append, RelayStore, Token};
use retell::{
    AnyEvent, DeadlineStore, ErrorKind, EventReader, IdempotencyKey, MySqlStore, PostgresStore, ProjectionName,
    ViewStore, Views,
};
use tokio::task::{JoinHandle, block_in_place, spawn_blocking};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::databases::Place;
use crate::servers::{Kind, Server};

/// A server that restarts answers within seconds. After this time, nothing waits for it any more.
const SOON: Duration = Duration::from_mins(5);

#[derive(Event)]
#[event("step.taken")]
struct Taken(u64);

/// Counts the events of each aggregate.
struct Counts(&'static str);

impl View for Counts {
    const NAME: &'static str = "counts";
    type Event = AnyEvent;
    type State = u64;

    fn name(&self) -> &str {
        self.0
    }

    fn key(&self, event: &Envelope<AnyEvent>) -> Option<String> {
        let stream = &event.stream;
        (stream.aggregate_type().as_str() == "walk").then(|| stream.aggregate_id().to_string())
    }

    fn apply(&self, count: &mut u64, _: Envelope<AnyEvent>) {
        *count += 1;
    }
}

/// Sends a command for each event, and counts the executions.
#[derive(Clone, Default)]
struct Followed(Arc<Mutex<BTreeMap<u64, u64>>>);

#[async_trait]
impl Process for Followed {
    const NAME: &'static str = "followed";
    type Event = Taken;
    type State = ();
    type Command = u64;

    fn key(&self, event: &Envelope<Taken>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, (): &mut (), event: &Envelope<Taken>, effects: &mut Effects<u64>) {
        effects.send(event.event.0);
    }

    async fn execute(&self, _: &AggregateId, command: u64, _: Context) -> Result<(), CommandFailure> {
        *self.0.lock().unwrap().entry(command).or_default() += 1;
        Ok(())
    }
}

/// Appends events one after the other, each until it is acknowledged, and returns their number and the last token.
fn write(store: impl EventStore, stop: CancellationToken) -> JoinHandle<(u64, Token)> {
    tokio::spawn(async move {
        let (mut written, mut last) = (0, Token::default());
        while !stop.is_cancelled() {
            let key = IdempotencyKey::new(format!("step {written}")).unwrap();
            let stream = StreamId::parse("walk", &(written % 7).to_string()).unwrap();
            let append = || {
                let event = NewEvent::new(&Taken(written)).unwrap();
                Append::new(stream.clone(), ExpectedVersion::Any, vec![event]).with_key(key.clone())
            };
            let began = tokio::time::Instant::now();
            last = loop {
                match store.append(append()).await {
                    Ok(appended) => break appended.token(),
                    Err(error) => {
                        assert!(matches!(error.kind(), ErrorKind::Transient(_)), "{error:#}");
                        assert!(began.elapsed() < SOON, "{error:#}");
                        sleep(Duration::from_millis(20)).await;
                    }
                }
            };
            written += 1;
        }
        (written, last)
    })
}

/// Restarts the server cleanly and by SIGKILL, while everything runs. `other` is another process's handle of the log, whose head moves when
/// it is told of an append.
async fn restarts_lose_nothing<S, M>(mut server: Server, store: S, models: M, other: impl EventReader)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + DeadlineStore + Clone,
{
    let followed = Followed::default();
    let app = App::new(store.clone(), models.clone()).view(Counts("in log order")).process(followed.clone());
    let running = app
        .worker(Worker::view(Counts("per aggregate"), store.clone(), models.clone()).with_order_per_aggregate())
        .with_broker(MemoryBroker::new())
        .start();
    // A worker outside of an app has nothing that starts it again.
    let bare = Worker::view(Counts("bare"), store.clone(), models.clone());
    let (stop, finished) = (CancellationToken::new(), CancellationToken::new());
    let bare = tokio::spawn({
        let stop = stop.clone();
        async move { bare.run(stop).await }
    });
    let writer = write(store.clone(), finished.clone());
    for restart in 0..4 {
        let reached = store.head().await.map_or(0, Position::get) + 20;
        until("appends and the bare worker", async || {
            let applied = models.checkpoint(&ProjectionName::new("bare").unwrap()).await;
            applied.is_ok_and(|applied| applied.get() >= reached)
        })
        .await;
        block_in_place(|| if restart % 2 == 0 { server.stop_and_start() } else { server.kill_and_start() });
        let mut told = other.watch_head();
        told.mark_unchanged();
        timeout(SOON, told.changed()).await.expect("the other handle is told of appends").unwrap();
    }
    finished.cancel();
    let (written, last) = timeout(SOON, writer).await.unwrap().unwrap();
    running.wait_for(last, SOON).await.unwrap();
    let head = store.head().await.unwrap();
    until("the bare worker", async || models.checkpoint(&ProjectionName::new("bare").unwrap()).await.unwrap() >= head)
        .await;
    for view in ["in log order", "per aggregate", "bare"] {
        let rows = Views::new(&Counts(view), models.clone()).all(retell::view::Paging::first(100)).await.unwrap().rows;
        let counts: Vec<u64> = rows.into_iter().map(|(_, count)| count).collect();
        assert_eq!(counts.iter().sum::<u64>(), written, "{view}: {counts:?}");
    }
    until("the commands", async || {
        let executed = followed.0.lock().unwrap();
        executed.len() as u64 == written
    })
    .await;
    let mut health = running.health();
    timeout(SOON, health.wait_for(retell::app::Health::is_good)).await.unwrap().unwrap();
    stop.cancel();
    bare.await.unwrap().unwrap();
    // Stopping the app closes the store and its read models.
    running.stop().await.unwrap();
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !is_so().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, waited).await.unwrap_or_else(|_| panic!("waited too long for {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_lose_nothing_on_postgres() {
    let server = spawn_blocking(|| Server::start(Kind::Postgres)).await.unwrap();
    let store = PostgresStore::connect(&server.url()).await.unwrap();
    let (models, other) = (store.read_model(), PostgresStore::connect(&server.url()).await.unwrap());
    restarts_lose_nothing(server, store, models, other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_lose_nothing_on_mariadb() {
    let server = spawn_blocking(|| Server::start(Kind::MySql)).await.unwrap();
    Place::MySql(server.url()).run("CREATE DATABASE restarts").await;
    let url = server.url().replace("/mysql", "/restarts");
    let store = MySqlStore::connect(&url).await.unwrap();
    // MariaDB tells no other process of appends.
    let (models, other) = (store.read_model(), store.clone());
    restarts_lose_nothing(server, store, models, other).await;
}
