//! The answers to probes: a frozen task is not alive, a store that does not answer is not ready, and everything else is degraded.

#[path = "../../examples/monitoring/src/probes.rs"]
mod server;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use retell::app::{Answer, Cause, Health, HealthOptions, Probe};
use retell::notice::{Notice, NoticeKind};
use retell::prelude::*;
use retell::store::{By, ProcessorKind, RegisteredProcessor};
use retell::{ParkingOptions, PostgresStore, ProjectionName, ReadModel, RelayOptions, Utc, WorkerOptions};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::LIMIT;
use crate::databases::{Database, Place};

#[derive(Event)]
#[event("probe.noted")]
struct Noted;

#[derive(Event)]
#[event("probe.added")]
struct Added;

/// Hangs, blocks its thread, or fails, as it is told.
#[derive(Clone)]
struct Troubled {
    hangs: watch::Receiver<bool>,
    blocks: Option<Arc<Mutex<Receiver<()>>>>,
    fails: watch::Receiver<bool>,
}

#[async_trait]
impl Projection for Troubled {
    const NAME: &'static str = "troubled";
    type Event = Noted;
    type Tx = ();

    async fn apply(&self, (): &mut (), _: Envelope<Noted>) -> Result<(), BoxError> {
        drop(self.hangs.clone().wait_for(|hangs| !hangs).await);
        if let Some(blocks) = &self.blocks {
            blocks.lock().unwrap().recv().ok();
        }
        if *self.fails.borrow() { Err("ada@example.org cannot be applied".into()) } else { Ok(()) }
    }
}

/// A projection without trouble, and the switches for it.
fn troubled() -> (Troubled, watch::Sender<bool>, watch::Sender<bool>) {
    let (hangs, fails) = (watch::Sender::new(false), watch::Sender::new(false));
    (Troubled { hangs: hangs.subscribe(), blocks: None, fails: fails.subscribe() }, hangs, fails)
}

/// A watch that looks often. Nothing is behind in time for a test.
fn often() -> HealthOptions {
    HealthOptions::new().with_limit(Duration::from_hours(1)).with_beat(Duration::from_millis(5))
}

fn causes(answer: &Answer) -> HashSet<(&str, Cause)> {
    answer.problems.iter().map(|problem| (problem.part.as_str(), problem.cause)).collect()
}

async fn until(health: &mut watch::Receiver<Health>, holds: impl Fn(&Health) -> bool) -> Health {
    let Ok(seen) = timeout(LIMIT, health.wait_for(|health| holds(health))).await else {
        panic!("health stays\n{:#?}", *health.borrow());
    };
    seen.unwrap().clone()
}

async fn append(log: &impl EventStore) {
    log.append_events(("probe", "1"), ExpectedVersion::Any, [Noted]).await.unwrap();
}

fn patient() -> WorkerOptions {
    WorkerOptions::new().with_longest_call(Duration::from_hours(1)).with_sweep(Duration::from_millis(5))
}

type Heard = Arc<Mutex<Vec<NoticeKind>>>;

/// A listener hears the notices of every app in the process, so tests with a part of the same name take turns.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Returns what hears the notices about the parts called `names`.
fn hear(names: &'static [&'static str]) -> (Heard, impl Fn(&Notice) + Send + Sync + 'static) {
    let heard = Heard::default();
    let kept = heard.clone();
    let hear = move |notice: &Notice| {
        if names.contains(&notice.part.as_str()) {
            kept.lock().unwrap().push(notice.kind);
        }
    };
    (heard, hear)
}

#[tokio::test(flavor = "multi_thread")]
async fn task_whose_handler_does_not_return_is_frozen() {
    let _alone = ALONE.lock().await;
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    let (projection, hangs, _) = troubled();
    hangs.send_replace(true);
    let worker = Worker::new(projection, log.clone(), models.clone()).with_options(patient());
    let (heard, hear) = hear(&["troubled"]);
    let options = often().with_frozen_after(Duration::from_millis(100));
    let running = App::new(log.clone(), models).with_health(options).on_notice(hear).worker(worker).start();
    let mut health = running.health();
    append(&log).await;
    let seen = until(&mut health, |health| !health.live().yes).await;
    assert!(causes(&seen.live()).contains(&("troubled", Cause::Frozen)), "{seen:#?}");
    assert!(!seen.is_good() && seen.degraded().yes, "{seen}");
    assert!(seen.to_string().contains("troubled: frozen: its loop has not turned since 20"), "{seen}");
    until(&mut health, |health| health.ready().yes).await;
    hangs.send_replace(false);
    until(&mut health, |health| health.live().yes && health.is_good()).await;
    running.stop().await.unwrap();
    // The change is seen before it is told. On a slow machine, the task may freeze again.
    let heard = heard.lock().unwrap();
    let pairs = heard.chunks(2).all(|pair| pair == [NoticeKind::TaskFrozen, NoticeKind::TaskUnfrozen]);
    assert!(pairs && !heard.is_empty(), "{heard:?}");
}

#[test]
fn blocked_thread_is_not_alive() {
    let _alone = ALONE.blocking_lock();
    let (tell, told) = channel();
    let (release, blocks) = channel();
    let program = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
            let (mut projection, ..) = troubled();
            projection.blocks = Some(Arc::new(Mutex::new(blocks)));
            let worker = Worker::new(projection, log.clone(), models.clone()).with_options(patient());
            let options = often().with_frozen_after(Duration::from_millis(100));
            let running = App::new(log.clone(), models).with_health(options).worker(worker).start();
            tell.send(running.probe()).unwrap();
            append(&log).await;
            running.wait_for_all(LIMIT).await.unwrap();
            running.stop().await.unwrap();
        });
    });
    let probe: Probe = told.recv_timeout(LIMIT).unwrap();
    let expected = HashSet::from([("troubled", Cause::Frozen), ("watch", Cause::Unwatched)]);
    let began = std::time::Instant::now();
    while causes(&probe.look().live()) != expected {
        assert!(began.elapsed() < LIMIT, "{probe:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!probe.look().ready().yes && !probe.look().is_good());
    release.send(()).unwrap();
    program.join().unwrap();
}

#[tokio::test(start_paused = true)]
async fn tasks_that_rest_are_alive_for_however_long() {
    let _alone = ALONE.lock().await;
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    let (projection, ..) = troubled();
    append(&log).await;
    let hour = Duration::from_hours(1);
    let worker = Worker::new(projection.clone(), log.clone(), models.clone());
    let worker = worker.with_options(WorkerOptions::new().with_sweep(hour));
    let options = HealthOptions::new().with_frozen_after(Duration::from_secs(2));
    let app = App::new(log.clone(), models.clone()).with_health(options).worker(worker);
    let running = app.with_broker(MemoryBroker::new()).process(Quiet).start();
    running.wait_for_all(LIMIT).await.unwrap();
    let stop = CancellationToken::new();
    let relays = [1, 2].map(|_| {
        let relay = Relay::new(log.clone(), MemoryBroker::new()).with_checkpoint(log.clone(), "rests");
        relay.with_options(RelayOptions::new().with_poll(hour).with_lease(hour))
    });
    let run = async {
        let [one, other] = &relays;
        let (one, other) = tokio::join!(one.run(stop.clone()), other.run(stop.clone()));
        one.and(other).unwrap();
    };
    let look = async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_mins(10)).await;
            let seen = running.probe().look();
            assert!(seen.live().yes && seen.ready().yes && !seen.degraded().yes, "{seen:#?}");
        }
        stop.cancel();
    };
    tokio::join!(run, look);
    running.stop().await.unwrap();
}

/// A process that sends nothing.
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

#[tokio::test(flavor = "multi_thread")]
async fn store_that_does_not_answer_is_not_ready() {
    let _alone = ALONE.lock().await;
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!() };
    let (log, models) = (PostgresStore::connect(url).await.unwrap(), MemoryReadModel::new());
    let (heard, hear) = hear(&["app"]);
    let options = often().with_answer_limit(Duration::from_millis(200)).with_frozen_after(Duration::from_millis(100));
    let options = options.with_beat(Duration::from_millis(300));
    let (projection, ..) = troubled();
    let running = App::new(log, models).with_health(options).on_notice(hear).projection(projection).start();
    let mut health = running.health();
    assert_eq!(causes(&running.probe().look().ready()), [("log", Cause::Starting)].into());
    until(&mut health, |health| health.ready().yes).await;
    let mut session = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE retell.log IN ACCESS EXCLUSIVE MODE").execute(&mut session).await.unwrap();
    let seen = until(&mut health, |health| !health.ready().yes).await;
    assert_eq!(causes(&seen.ready()), [("log", Cause::Unanswered)].into());
    assert!(seen.live().yes && seen.degraded().yes && !seen.is_good(), "{seen:#?}");
    sqlx::raw_sql("ROLLBACK").execute(&mut session).await.unwrap();
    until(&mut health, |health| health.ready().yes && health.is_good()).await;
    running.stop().await.unwrap();
    assert_eq!(*heard.lock().unwrap(), [NoticeKind::NotReady, NoticeKind::Ready]);
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_behind_a_deploy_is_not_ready() {
    let _alone = ALONE.lock().await;
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    let (projection, ..) = troubled();
    let name = ProjectionName::new("troubled").unwrap();
    Worker::new(projection.clone(), log.clone(), models.clone()).catch_up().await.unwrap();
    let newer =
        RegisteredProcessor::new(ProcessorKind::Projection, Filter::of::<Added>().unwrap(), Utc::now(), "newer");
    models.register_processor(&name, &newer).await.unwrap();
    log.append_events(("probe", "1"), ExpectedVersion::Any, [Added]).await.unwrap();
    let running = App::new(log, models.clone()).with_health(often()).projection(projection).start();
    let mut health = running.health();
    let seen = until(&mut health, |health| causes(&health.ready()).contains(&("troubled", Cause::Deploy))).await;
    assert!(!seen.ready().yes && seen.degraded().yes && seen.live().yes, "{seen:#?}");

    // A worker that is retired waits for no deploy.
    models.retire(&name, &By::new("ada", "replaced")).await.unwrap();
    let seen = until(&mut health, |health| causes(&health.degraded()) == [("troubled", Cause::Retired)].into()).await;
    assert!(seen.ready().yes && seen.is_good(), "{seen:#?}");
    running.stop().await.unwrap();
}

/// Parked aggregates, a pause and a skip are told once each, and none of them makes the program unready.
#[tokio::test(flavor = "multi_thread")]
async fn trouble_of_operators_is_degraded_and_told_once() {
    let _alone = ALONE.lock().await;
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    let (name, by) = (ProjectionName::new("troubled").unwrap(), By::new("ada", "the sensor is broken"));
    let (projection, _, fails) = troubled();
    fails.send_replace(true);
    append(&log).await;
    let parking = ParkingOptions::new().with_delays(Duration::from_millis(1), Duration::from_millis(5));
    let options = patient().with_retries(0).with_parking(parking.with_retries(u32::MAX));
    let worker = Worker::new(projection, log.clone(), models.clone()).with_options(options);
    let (heard, hear) = hear(&["troubled"]);
    let running = App::new(log.clone(), models.clone()).with_health(often()).on_notice(hear).worker(worker).start();
    let mut health = running.health();
    let has = |cause: Cause| move |health: &Health| causes(&health.degraded()).contains(&("troubled", cause));
    let seen = until(&mut health, has(Cause::Parked)).await;
    assert!(seen.live().yes && seen.is_good(), "{seen:#?}");
    let text = serde_json::to_string(&seen).unwrap();
    assert!(!text.contains("ada@example.org"), "{text}");
    let parked = seen.degraded().problems.into_iter().find(|problem| problem.cause == Cause::Parked).unwrap();
    assert_eq!(parked.detail.as_deref(), Some("1"));

    models.pause(&name, &by).await.unwrap();
    let seen = until(&mut health, has(Cause::Paused)).await;
    assert_eq!(seen.degraded().problems.last().and_then(|problem| problem.detail.clone()).as_deref(), Some("1"));
    until(&mut health, |health| health.ready().yes && has(Cause::Paused)(health)).await;
    models.retire(&name, &by).await.unwrap();
    until(&mut health, |health| health.ready().yes && has(Cause::Retired)(health) && !has(Cause::Paused)(health)).await;
    models.resume(&name, &by).await.unwrap();
    until(&mut health, |health| !has(Cause::Retired)(health)).await;

    let stream = StreamId::parse("probe", "1").unwrap();
    retell::operate::skip_parked(&log, &models, &name, (&stream, Version::new(1)), &by).await.unwrap();
    until(&mut health, |health| !has(Cause::Parked)(health)).await;
    running.stop().await.unwrap();
    let (skipped, parked) = (NoticeKind::Skipped { position: 1 }, NoticeKind::Parked { aggregates: 1, position: 1 });
    let (paused, retired) = (NoticeKind::Paused, NoticeKind::Retired);
    let expected = [parked, paused, retired, NoticeKind::Resumed, skipped, NoticeKind::Unparked];
    assert_eq!(*heard.lock().unwrap(), expected);
}

/// Sends a request to the server of the example, and returns the status code and the body.
async fn get(address: SocketAddr, path: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    timeout(LIMIT, stream.read_to_string(&mut response)).await.unwrap().unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, if body.is_empty() { Value::Null } else { serde_json::from_str(body).unwrap() })
}

#[tokio::test(flavor = "multi_thread")]
async fn example_answers_probes_over_http() {
    let _alone = ALONE.lock().await;
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    let (projection, hangs, _) = troubled();
    let worker = Worker::new(projection, log.clone(), models.clone()).with_options(patient());
    let options = often().with_frozen_after(Duration::from_millis(100));
    let running = App::new(log.clone(), models).with_health(options).worker(worker).start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(server::serve(listener, running.probe()));
    let mut health = running.health();
    until(&mut health, |health| health.ready().yes).await;
    let good = json!({ "yes": true, "problems": [] });
    assert_eq!(get(address, "/live").await, (200, good.clone()));
    assert_eq!(get(address, "/ready").await, (200, good.clone()));
    let all = json!({ "live": good, "ready": good, "degraded": { "yes": false, "problems": [] } });
    assert_eq!(get(address, "/health").await, (200, all));
    assert_eq!(get(address, "/other").await, (404, Value::Null));

    hangs.send_replace(true);
    append(&log).await;
    until(&mut health, |health| !health.live().yes).await;
    let (status, live) = get(address, "/live").await;
    let problems = live["problems"].as_array().unwrap();
    let mut problem = problems.iter().find(|problem| problem["part"] == "troubled").unwrap().clone();
    let since = problem["since"].take();
    assert!(since.as_str().unwrap().ends_with('Z'), "{since}");
    assert_eq!(problem, json!({ "part": "troubled", "cause": "frozen", "since": null, "detail": null }));
    assert_eq!((status, &live["yes"]), (503, &json!(false)));
    assert_eq!(get(address, "/ready").await.0, 200);
    assert_eq!(get(address, "/health").await.0, 503);
    hangs.send_replace(false);
    until(&mut health, |health| health.live().yes).await;
    running.stop().await.unwrap();
    let (status, ready) = get(address, "/ready").await;
    assert_eq!((status, &ready["problems"][0]["cause"]), (503, &json!("stopped")));
    server.abort();
}
