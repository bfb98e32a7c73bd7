//! An operator pauses a projection: from then on nothing is applied, by any worker in any process, and nothing is lost. An operator skips one
//! event that a projection fails on: the later events are applied in order, by every replay, too.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use retell::app::{Cause, Health, HealthOptions};
use retell::operate::{self, Answer};
use retell::prelude::*;
use retell::status::{Status, Wait};
use retell::store::By;
use retell::{
    DeadlineStore, ErrorKind, Generation, Mark, MySqlReadModel, MySqlStore, PostgresReadModel, PostgresStore,
    ProcessManager, ProjectionName, ReadModel, Rebuild, SqliteReadModel, SqliteStore, StreamId, Utc, Uuid, Version,
    ViewStore,
};
use tokio::time::timeout;

use crate::databases::{Database, Place};
use crate::deploys::{PATIENCE, Working};
use crate::sites::{self, Site, on_every_store};

#[derive(Event, Debug)]
#[event("sum.added")]
struct Added {
    cents: u64,
}

/// The view fails on this amount while it is told to.
const POISON: u64 = 13;

/// Keeps the amounts of each stream in their order: a lost, doubled or misplaced event shows.
#[derive(Clone)]
struct Amounts {
    generation: Generation,
    fails: Arc<AtomicBool>,
}

impl Amounts {
    fn new(generation: u64) -> Self {
        Self { generation: Generation::new(generation), fails: Arc::new(AtomicBool::new(true)) }
    }
}

impl View for Amounts {
    const NAME: &'static str = "amounts";
    type Event = Added;
    type State = Vec<u64>;

    fn generation(&self) -> Generation {
        self.generation
    }

    fn key(&self, event: &Envelope<Added>) -> Option<String> {
        assert!(event.event.cents != POISON || !self.fails.load(Ordering::SeqCst), "the handler fails");
        Some(event.stream.aggregate_id().to_string())
    }

    fn apply(&self, amounts: &mut Vec<u64>, event: Envelope<Added>) {
        amounts.push(event.event.cents);
    }
}

const STREAMS: u64 = 5;

fn amounts() -> ProjectionName {
    ProjectionName::new("amounts").unwrap()
}

fn ada() -> By {
    By::new("ada", "the table is copied")
}

async fn append(store: &impl EventStore, id: &str, cents: u64) {
    store.append_events(("sum", id), ExpectedVersion::Any, [Added { cents }]).await.unwrap();
}

fn is_paused(status: &Status) -> bool {
    status.waits.iter().any(|waiting| waiting.on == Wait::Paused)
}

/// Everything that a worker changes: the checkpoint and the rows.
async fn written(models: &(impl ViewStore + Clone)) -> (Mark, BTreeMap<String, Option<Vec<u64>>>) {
    let (views, mut rows) = (Views::new(&Amounts::new(1), models.clone()), BTreeMap::new());
    for id in 0..STREAMS {
        rows.insert(id.to_string(), views.get(id.to_string()).await.unwrap());
    }
    (models.mark(&amounts()).await.unwrap(), rows)
}

async fn until_row(models: &(impl ViewStore + Clone), id: &str, wanted: &[u64]) {
    let views = Views::new(&Amounts::new(1), models.clone());
    let reached = async {
        while views.get(id).await.unwrap().as_deref() != Some(wanted) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let is_reached = timeout(PATIENCE, reached).await.is_ok();
    assert!(is_reached, "{:?} of {id} is not {wanted:?}", views.get(id).await.unwrap());
}

/// Two workers follow a busy log, and are paused again and again.
async fn under_load<S, M>(Site { store, models, database: _database }: Site<S, M>, per_aggregate: bool)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    append(&store, "0", 1).await;
    let start = || Working::start(Amounts::new(1), &store, &models, None, per_aggregate);
    let mut workers = [start(), start()];
    until_row(&models, "0", &[1]).await;
    let (is_over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (writer, over, counter) = (store.clone(), is_over.clone(), count.clone());
    let writing = tokio::spawn(async move {
        let mut number = 0;
        while !over.load(Ordering::SeqCst) {
            append(&writer, &(number % STREAMS).to_string(), 100 + number).await;
            number += 1;
            counter.store(number, Ordering::SeqCst);
        }
        number
    });
    for _ in 0..5 {
        let before = models.mark(&amounts()).await.unwrap().position;
        let moved = async {
            while models.mark(&amounts()).await.unwrap().position.since(before) < 10 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, moved).await.expect("the workers continue");
        assert!(models.pause(&amounts(), &ada()).await.unwrap());
        let at_once = written(&models).await;
        let appended = count.load(Ordering::SeqCst);
        for worker in &mut workers {
            let status = worker.until("a worker notices the pause", is_paused).await;
            let pause = status.waits.iter().find(|waiting| waiting.on == Wait::Paused).unwrap();
            assert_eq!(pause.note.as_deref(), Some("ada: the table is copied"));
        }
        let more = async {
            while count.load(Ordering::SeqCst) < appended + 20 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, more).await.expect("the writer continues");
        assert_eq!(written(&models).await, at_once, "nothing commits after the pause has returned");
        assert!(models.resume(&amounts(), &ada()).await.unwrap());
        for worker in &mut workers {
            worker.until("a worker continues", |status| !is_paused(status)).await;
        }
    }
    is_over.store(true, Ordering::SeqCst);
    let written = writing.await.unwrap();
    for id in 0..STREAMS {
        let first = (id == 0).then_some(1);
        let all: Vec<_> =
            first.into_iter().chain((0..written).filter(|n| n % STREAMS == id).map(|n| 100 + n)).collect();
        until_row(&models, &id.to_string(), &all).await;
    }
    for worker in workers {
        worker.stop().await;
    }
}

async fn nothing_commits_after_a_pause<S: EventStore + Clone, M: ViewStore + Clone>(site: Site<S, M>) {
    under_load(site, false).await;
}

async fn nothing_commits_per_aggregate_after_a_pause<S: EventStore + Clone, M: ViewStore + Clone>(site: Site<S, M>) {
    under_load(site, true).await;
}

async fn starts_paused<S, M>(Site { store, models, database: _database }: Site<S, M>, per_aggregate: bool)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    let start = || Working::start(Amounts::new(1), &store, &models, None, per_aggregate);
    append(&store, "0", 1).await;
    let worker = start();
    until_row(&models, "0", &[1]).await;
    worker.stop().await;
    assert!(operate::pause(&models, &amounts(), &ada()).await.unwrap());
    append(&store, "0", 2).await;
    let before = written(&models).await;

    let mut worker = start();
    let status = worker.until("the worker starts paused", is_paused).await;
    assert!(
        status.to_string().starts_with("paused since ") && status.to_string().ends_with(": ada: the table is copied"),
        "{status}"
    );
    worker.stop().await;
    let catching_up = Worker::view(Amounts::new(1), store.clone(), models.clone());
    let catching_up = if per_aggregate { catching_up.with_order_per_aggregate() } else { catching_up };
    let refused = catching_up.catch_up().await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Paused { who, .. } if who == "ada"), "{refused}");
    let why = operate::why(&store, &models, Position::new(2), &amounts()).await.unwrap().unwrap();
    assert!(matches!(&why.answer, Answer::Paused { paused, events: 1, .. } if paused.by == ada()), "{why:?}");
    assert_eq!(written(&models).await, before);

    let mut worker = start();
    worker.until("the worker starts paused again", is_paused).await;
    assert!(operate::resume(&models, &amounts(), &ada()).await.unwrap());
    until_row(&models, "0", &[1, 2]).await;
    worker.stop().await;
}

async fn worker_that_starts_during_a_pause_waits<S: EventStore + Clone, M: ViewStore + Clone>(site: Site<S, M>) {
    starts_paused(site, false).await;
}

async fn worker_per_aggregate_starts_paused<S: EventStore + Clone, M: ViewStore + Clone>(site: Site<S, M>) {
    starts_paused(site, true).await;
}

fn is_retired(status: &Status) -> bool {
    status.waits.iter().any(|waiting| waiting.on == Wait::Retired)
}

/// A program still has the projection when an operator retires it.
async fn retired_worker_waits_until_it_is_resumed<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    let start = || Working::start(Amounts::new(1), &store, &models, None, false);
    append(&store, "0", 1).await;
    let mut worker = start();
    until_row(&models, "0", &[1]).await;
    models.pause(&amounts(), &ada()).await.unwrap();
    worker.until("the worker is paused", is_paused).await;
    let bob = By::new("bob", "replaced by sums");
    assert!(operate::retire(&models, &amounts(), &bob).await.unwrap());
    let status = worker.until("the worker is retired", is_retired).await;
    assert!(!is_paused(&status), "{status}");
    assert!(
        status.to_string().starts_with("retired since ") && status.to_string().ends_with(": bob: replaced by sums"),
        "{status}"
    );
    append(&store, "0", 2).await;
    let before = written(&models).await;
    worker.stop().await;

    let mut worker = start();
    worker.until("the worker starts retired", is_retired).await;
    let refused = Worker::view(Amounts::new(1), store.clone(), models.clone()).catch_up().await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Paused { retired: true, .. }), "{refused}");
    let why = operate::why(&store, &models, Position::new(2), &amounts()).await.unwrap().unwrap();
    assert!(matches!(&why.answer, Answer::Retired { retired, .. } if retired.by == bob), "{why:?}");
    assert_eq!(written(&models).await, before);
    assert!(operate::resume(&models, &amounts(), &bob).await.unwrap());
    until_row(&models, "0", &[1, 2]).await;
    worker.until("the worker continues", |status| !is_retired(status)).await;
    worker.stop().await;
}

async fn until_parked(models: &impl ViewStore, processor: &ProjectionName, version: u64) {
    let parked = async {
        loop {
            let parked = models.parked(processor, None, 9).await.unwrap();
            if parked.first().is_some_and(|parked| parked.from_version.get() == version) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, parked).await.expect("the aggregate is parked");
}

async fn skips<S, M>(Site { store, models, database: _database }: Site<S, M>, per_aggregate: bool)
where
    S: EventStore + retell::RelayStore + Clone,
    M: ViewStore + DeadlineStore + Clone,
{
    let (view, stream) = (Amounts::new(1), StreamId::parse("sum", "0").unwrap());
    for cents in [1, POISON, 3, 4, POISON, 6] {
        append(&store, "0", cents).await;
    }
    let worker = Working::start(view.clone(), &store, &models, None, per_aggregate);
    let skip = async |version| {
        operate::skip_parked(&store, &models, &amounts(), (&stream, Version::new(version)), &ada()).await
    };
    until_parked(&models, &amounts(), 2).await;
    let refused = skip(5).await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::NotParked { parked: Some(_), .. }), "{refused}");
    assert!(skip(2).await.unwrap());
    until_parked(&models, &amounts(), 5).await;
    append(&store, "0", 7).await;
    assert!(skip(5).await.unwrap());
    let without = [1, 3, 4, 6, 7];
    until_row(&models, "0", &without).await;
    append(&store, "0", 8).await;
    let without = [&without[..], &[8]].concat();
    until_row(&models, "0", &without).await;

    let why = operate::why(&store, &models, Position::new(5), &amounts()).await.unwrap().unwrap();
    let Answer::Skipped { skipped } = &why.answer else { panic!("{why:?}") };
    assert_eq!((&skipped.by, skipped.event_id, skipped.version.get()), (&ada(), Some(why.event.event_id), 5));
    let report = operate::status(&store, &models).await.unwrap();
    assert_eq!(report.processors.items[0].skipped.items.len(), 2);
    assert_eq!(report.processors.items[0].parked.oldest, None);

    // Every replay skips the events, too, until the skip is withdrawn.
    worker.stop().await;
    let replay = async |wanted: &[u64]| {
        Rebuild::new(view.clone(), store.clone(), models.clone()).reset().await.unwrap();
        let worker = Working::start(view.clone(), &store, &models, None, per_aggregate);
        until_row(&models, "0", wanted).await;
        worker.stop().await;
        assert_eq!(models.parked(&amounts(), None, 9).await.unwrap(), []);
    };
    replay(&without).await;
    let next = Amounts::new(2);
    Rebuild::new(next.clone(), store.clone(), models.clone()).run(CancellationToken::new()).await.unwrap();
    let rows =
        models.rows(&amounts(), Some(Generation::new(2)), &[retell::id::ViewKey::new("0").unwrap()]).await.unwrap();
    assert_eq!(rows[0].state.as_deref(), Some(&*serde_json::to_string(&without).unwrap()));

    view.fails.store(false, Ordering::SeqCst);
    assert!(operate::withdraw_skip(&models, &amounts(), &stream, Version::new(5), &ada()).await.unwrap());
    replay(&[1, 3, 4, POISON, 6, 7, 8]).await;
}

async fn skipped_event_is_left_out_of_every_replay<S, M>(site: Site<S, M>)
where
    S: EventStore + retell::RelayStore + Clone,
    M: ViewStore + DeadlineStore + Clone,
{
    skips(site, false).await;
}

async fn skipped_event_per_aggregate_is_left_out<S, M>(site: Site<S, M>)
where
    S: EventStore + retell::RelayStore + Clone,
    M: ViewStore + DeadlineStore + Clone,
{
    skips(site, true).await;
}

/// Counts its passed deadlines.
struct Reminder(Arc<AtomicU64>);

#[async_trait]
impl Process for Reminder {
    const NAME: &'static str = "reminder";
    type Event = Added;
    type State = ();
    type Command = ();

    fn key(&self, event: &Envelope<Added>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, (): &mut (), event: &Envelope<Added>, effects: &mut Effects<()>) {
        effects.set_deadline("due", event.recorded_at + Duration::from_millis(event.event.cents));
    }

    fn on_deadline(&self, (): &mut (), _: &str, effects: &mut Effects<()>) {
        effects.send(());
    }

    async fn execute(&self, _: &AggregateId, (): (), _: Context) -> Result<(), CommandFailure> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

async fn deadline_of_a_paused_process_waits<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: DeadlineStore + Clone,
{
    let (passed, stop, name) = (Arc::default(), CancellationToken::new(), ProjectionName::new("reminder").unwrap());
    let start = || {
        let manager = ProcessManager::new(Reminder(Arc::clone(&passed)), store.clone(), models.clone());
        let (manager, stopped) = (manager.with_look(Duration::from_millis(5)), stop.child_token());
        let (status, applied, token) = (manager.status(), manager.applied(), stopped.clone());
        (status, applied, token, tokio::spawn(async move { manager.run(stopped).await }))
    };
    let (_, mut applied, token, running) = start();
    // The deadline is far away, and the process is not paused while it is set.
    append(&store, "0", 3_600_000).await;
    timeout(PATIENCE, applied.wait_for(|position| position.get() > 0)).await.unwrap().unwrap();
    token.cancel();
    running.await.unwrap().unwrap();
    models.pause(&name, &ada()).await.unwrap();
    let deadline = retell::store::Deadline::new(Uuid::from_u128(7), AggregateId::new("0").unwrap(), "due", Utc::now());
    models.settle_deadlines(&name, &[retell::store::DeadlineChange::Set(deadline)]).await.unwrap();

    let (mut status, _, _, running) = start();
    timeout(PATIENCE, status.wait_for(is_paused)).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(models.due_deadlines(&name, Utc::now(), 9).await.unwrap().len(), 1, "it has not passed");
    models.resume(&name, &ada()).await.unwrap();
    let settled = async {
        while !models.due_deadlines(&name, Utc::now(), 9).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, settled).await.expect("it passes after the end of the pause");
    stop.cancel();
    running.await.unwrap().unwrap();
}

on_every_store!(
    nothing_commits_after_a_pause,
    nothing_commits_per_aggregate_after_a_pause,
    worker_that_starts_during_a_pause_waits,
    worker_per_aggregate_starts_paused,
    retired_worker_waits_until_it_is_resumed,
    skipped_event_is_left_out_of_every_replay,
    skipped_event_per_aggregate_is_left_out,
    deadline_of_a_paused_process_waits,
);

/// A program whose projection is paused stays ready, for however long the pause lasts, and tells that it is degraded.
#[tokio::test(flavor = "multi_thread")]
async fn paused_program_is_ready_and_degraded() {
    let Site { store, models, .. } = sites::memory();
    append(&store, "0", 1).await;
    Worker::view(Amounts::new(1), store.clone(), models.clone()).catch_up().await.unwrap();
    models.pause(&amounts(), &ada()).await.unwrap();
    append(&store, "0", 2).await;
    let (limit, beat) = (Duration::from_millis(50), Duration::from_millis(5));
    let options = HealthOptions::new().with_limit(limit).with_beat(beat);
    let running = App::new(store, models.clone()).with_health(options).view(Amounts::new(1)).start();
    let mut health = running.health();
    let is_paused = |health: &Health| health.degraded().problems.iter().any(|problem| problem.cause == Cause::Paused);
    let seen = timeout(PATIENCE, health.wait_for(is_paused)).await.unwrap().unwrap().clone();
    assert!(seen.is_good() && seen.to_string().contains("amounts: paused since "), "{seen}");
    tokio::time::sleep(limit * 4).await;
    let seen = running.health().borrow().clone();
    assert!(seen.is_good() && seen.ready().yes && seen.degraded().yes, "a paused task is not stuck: {seen}");
    models.resume(&amounts(), &ada()).await.unwrap();
    timeout(PATIENCE, health.wait_for(|health| !health.degraded().yes)).await.unwrap().unwrap();
    until_row(&models, "0", &[1, 2]).await;
    running.stop().await.unwrap();
}

/// Nothing but an insert changes the records of operators.
async fn records_are_immutable<S: EventStore + Clone, M: ViewStore + Clone>(site: Site<S, M>, prefix: &str) {
    let Site { store, models, database } = site;
    append(&store, "0", POISON).await;
    let stream = StreamId::parse("sum", "0").unwrap();
    Worker::view(Amounts::new(1), store, models.clone()).catch_up().await.unwrap();
    assert!(models.skip_parked(&amounts(), &stream, Version::new(1), &ada()).await.unwrap());
    let (audit, skipped) = (models.audit(9, None).await.unwrap(), models.skipped(&amounts(), None, 9).await.unwrap());
    assert_eq!((audit.len(), skipped.len()), (1, 1));
    let place = match database.as_ref().unwrap().place.clone() {
        Place::Sqlite(path) => Place::Sqlite(path.with_file_name("models.db")),
        server => server,
    };
    for table in ["audit", "skipped"] {
        for change in [format!("UPDATE {prefix}{table} SET reason = 'x'"), format!("DELETE FROM {prefix}{table}")] {
            let (place, statement) = (place.clone(), change.clone());
            let changed = tokio::spawn(async move { place.run(&statement).await }).await;
            assert!(changed.is_err_and(|error| error.is_panic()), "{change} is refused");
        }
    }
    assert_eq!(
        (models.audit(9, None).await.unwrap(), models.skipped(&amounts(), None, 9).await.unwrap()),
        (audit, skipped)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn records_in_sqlite_are_immutable() {
    records_are_immutable(sites::sqlite().await, "retell_").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_in_postgres_are_immutable() {
    records_are_immutable(sites::postgres().await, "retell.").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_in_mysql_are_immutable() {
    records_are_immutable(sites::mysql().await, "retell_").await;
}

/// The environment variable with the place of the log for a child process.
const PLACE: &str = "RETELL_PAUSED_PLACE";

/// A second process: runs a worker until it is killed, and tells when it is paused.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(place) = env::var(PLACE) else { return };
    match serde_json::from_str(&place).unwrap() {
        Place::Sqlite(path) => {
            let models = SqliteReadModel::open(path.with_file_name("models.db")).await.unwrap();
            work(SqliteStore::open(path).await.unwrap(), models).await;
        }
        Place::Postgres(url) => {
            let models = PostgresReadModel::connect(&url).await.unwrap();
            work(PostgresStore::connect(&url).await.unwrap(), models).await;
        }
        Place::MySql(url) => {
            let models = MySqlReadModel::connect(&url).await.unwrap();
            work(MySqlStore::connect(&url).await.unwrap(), models).await;
        }
    }
}

async fn work(store: impl EventStore + Clone, models: impl ViewStore + Clone) {
    let mut worker = Working::start(Amounts::new(1), &store, &models, None, true);
    loop {
        worker.until("the worker is paused", is_paused).await;
        println!("paused");
        worker.until("the worker continues", |status| !is_paused(status)).await;
    }
}

fn start_child(database: &Database) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "paused::child", "--nocapture"]);
    command.env(PLACE, serde_json::to_string(&database.place).unwrap()).stdout(Stdio::piped()).spawn().unwrap()
}

fn until_paused(child: &mut Child) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.ends_with("paused")), "the child is paused");
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A second process is paused, killed, and started again during the pause.
async fn other_process<S: EventStore + Clone, M: ViewStore + Clone>(Site { store, models, database }: Site<S, M>) {
    let database = database.unwrap();
    append(&store, "0", 1).await;
    let mut first = start_child(&database);
    until_row(&models, "0", &[1]).await;
    assert!(models.pause(&amounts(), &ada()).await.unwrap());
    let before = written(&models).await;
    append(&store, "0", 2).await;
    until_paused(&mut first);
    kill(first);
    append(&store, "0", 3).await;
    let mut second = start_child(&database);
    until_paused(&mut second);
    assert_eq!(written(&models).await, before);
    kill(second);
    assert!(models.resume(&amounts(), &ada()).await.unwrap());
    let third = start_child(&database);
    until_row(&models, "0", &[1, 2, 3]).await;
    kill(third);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_process_on_sqlite_stays_paused() {
    other_process(sites::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_process_on_postgres_stays_paused() {
    other_process(sites::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_process_on_mysql_stays_paused() {
    other_process(sites::mysql().await).await;
}
