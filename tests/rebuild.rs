//! Rebuild: a view is built anew beside itself, and readers never see half of it. Needs `POSTGRES_URL` and `MYSQL_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/databases.rs"]
mod databases;
mod support;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use databases::{Database, Place};
use futures::FutureExt;
use futures::future::join_all;
use retell::event::NewEvent;
use retell::rebuild::RebuildOptions;
use retell::store::{Append, Fields, Step, ViewId, ViewRow, Work};
use retell::view::{Paging, ViewProjection};
use retell::worker::WorkerOptions;
use retell::{
    Envelope, ErrorKind, EventReader, EventReaderExt, EventStore, ExpectedVersion, Generation, MemoryReadModel,
    MemoryStore, MySqlReadModel, MySqlStore, Position, PostgresReadModel, PostgresStore, ProjectionName, ReadModel,
    Rebuild, SqliteReadModel, SqliteStore, StreamId, View, ViewKey, ViewStore, Views, Worker,
};
use serde::{Deserialize, Serialize};
use support::CounterEvent;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Counts how often each amount was added, or each name given.
#[derive(Debug, Clone, Copy)]
struct Amounts {
    generation: u64,
}

const OLD: Amounts = Amounts { generation: 1 };
const NEW: Amounts = Amounts { generation: 2 };

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Times {
    times: u64,
    /// Of the fold that made it.
    generation: u64,
}

impl View for Amounts {
    const NAME: &'static str = "amounts";
    type Event = CounterEvent;
    type State = Times;

    fn generation(&self) -> Generation {
        Generation::new(self.generation)
    }

    fn key(&self, event: &Envelope<CounterEvent>) -> Option<String> {
        Some(match &event.event {
            CounterEvent::Added { amount } => amount.to_string(),
            CounterEvent::Renamed(name) => name.trim_start_matches('#').to_owned(),
        })
    }

    fn apply(&self, state: &mut Times, _: Envelope<CounterEvent>) {
        state.times += 1;
        state.generation = self.generation;
    }

    fn fields(&self, state: &Times) -> Fields {
        Fields::new().with("times", state.times)
    }
}

fn quick() -> WorkerOptions {
    let brief = Duration::from_millis(5);
    WorkerOptions::new().with_sweep(brief).with_longest_delay(brief).with_retries(1).with_batch_events(16)
}

/// So that every page takes several transactions, and rows are read again.
fn small() -> RebuildOptions {
    RebuildOptions::new().with_rows(7).with_worker(quick())
}

async fn append(log: &impl EventStore, id: &str, events: impl IntoIterator<Item = CounterEvent>) {
    let events = events.into_iter().map(|event| NewEvent::new(&event).unwrap());
    let stream = StreamId::parse("counter", id).unwrap();
    log.append(Append::new(stream, ExpectedVersion::Any, events.collect())).await.unwrap();
}

async fn add(log: &impl EventStore, id: &str, amounts: impl IntoIterator<Item = i64>) {
    append(log, id, amounts.into_iter().map(|amount| CounterEvent::Added { amount })).await;
}

fn rebuild<M: ViewStore + Clone>(view: Amounts, log: &MemoryStore, models: &M) -> Rebuild<Amounts, M> {
    Rebuild::new(view, log.clone(), models.clone()).with_options(small())
}

async fn run<M: ViewStore + Clone>(rebuild: &Rebuild<Amounts, M>) {
    rebuild.run(CancellationToken::new()).await.unwrap();
}

fn projection(view: Amounts) -> ProjectionName {
    ViewId::new(view.name(), view.generation()).unwrap().projection().clone()
}

async fn reached(models: &impl ReadModel, view: Amounts, position: Position) {
    let reached = async {
        while models.checkpoint(&projection(view)).await.unwrap() < position {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), reached).await.expect("the view gets there");
}

async fn rows<M: ViewStore + Clone>(models: &M) -> BTreeMap<String, Times> {
    let found = Views::new(&OLD, models.clone()).all(Paging::first(1_000)).await.unwrap();
    assert_eq!(found.next, None, "a page is of one moment, so all must be on one");
    found.rows.into_iter().map(|(key, times)| (key.to_string(), times)).collect()
}

/// What the rows of a generation must be.
async fn fold(log: &impl EventReader, view: Amounts) -> BTreeMap<String, Times> {
    let mut rows: BTreeMap<String, Times> = BTreeMap::new();
    let mut after = Position::ZERO;
    loop {
        let page = log.read_all(after, 1_000, &view.filter().unwrap()).await.unwrap();
        if page.through == after {
            return rows;
        }
        after = page.through;
        for event in page.events {
            let event = event.decode().unwrap();
            let key = view.key(&event).unwrap();
            view.apply(rows.entry(key).or_default(), event);
        }
    }
}

/// A program: workers of one generation, until they are stopped.
struct Program {
    stop: CancellationToken,
    workers: JoinSet<retell::Result<()>>,
}

impl Program {
    fn start<M: ViewStore + Clone>(view: Amounts, log: &MemoryStore, models: &M) -> Self {
        let (stop, mut workers) = (CancellationToken::new(), JoinSet::new());
        for _ in 0..2 {
            let worker: Worker<ViewProjection<Amounts, M>, M> = Worker::view(view, log.clone(), models.clone());
            let (worker, stop) = (worker.with_options(quick()), stop.clone());
            workers.spawn(async move { worker.run(stop).await });
        }
        Self { stop, workers }
    }

    async fn stop(self) {
        self.stop.cancel();
        for ended in self.workers.join_all().await {
            ended.unwrap();
        }
    }
}

/// Numbers that jump about, the same each time.
fn jump(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40
}

/// Writes as long as it is not stopped.
async fn write(log: MemoryStore, stop: CancellationToken) {
    for number in 0.. {
        if stop.is_cancelled() {
            return;
        }
        let amount = i64::try_from(jump(number) % 40).unwrap();
        add(&log, &(number % 9).to_string(), [amount]).await;
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

/// Reads as long as it is not stopped, and checks what it sees: rows of one generation, and never fewer events than before. Returns how often.
async fn read<M: ViewStore + Clone>(models: M, stop: CancellationToken) -> u64 {
    let (mut seen, mut reads) = (0, 0);
    while !stop.is_cancelled() {
        let rows = rows(&models).await;
        let generations: Vec<_> = rows.values().map(|times| times.generation).collect();
        assert!(generations.windows(2).all(|pair| pair[0] == pair[1]), "rows of two generations: {rows:?}");
        let events: u64 = rows.values().map(|times| times.times).sum();
        assert!(events >= seen, "readers saw {seen} events, and then {events}");
        (seen, reads) = (events, reads + 1);
        // In memory nothing else would let others go on.
        tokio::task::yield_now().await;
    }
    reads
}

/// Builds, and is dropped half-way again and again.
async fn build_dying<M: ViewStore + Clone>(log: &MemoryStore, models: &M) {
    let mut kept = Position::ZERO;
    for number in 0..25 {
        let dying = rebuild(NEW, log, models);
        let ended = tokio::time::timeout(Duration::from_micros(jump(number) % 8_000), run(&dying)).await;
        let now = models.checkpoint(&projection(NEW)).await.unwrap();
        assert!(now >= kept, "it goes on from {kept}, not from {now}");
        kept = now;
        if ended.is_ok() {
            break;
        }
    }
    run(&rebuild(NEW, log, models)).await;
}

async fn is_never_seen_half_built<M: ViewStore + Clone>(models: M) {
    let log = MemoryStore::new();
    for number in 0..40 {
        add(&log, &number.to_string(), (0..50).map(|place| (place * 7 + number) % 40)).await;
    }
    let old = Program::start(OLD, &log, &models);
    reached(&models, OLD, Position::new(2_000)).await;
    let (writing, reading) = (CancellationToken::new(), CancellationToken::new());
    let writer = tokio::spawn(write(log.clone(), writing.clone()));
    let reader = tokio::spawn(read(models.clone(), reading.clone()));

    build_dying(&log, &models).await;
    let new = Program::start(NEW, &log, &models);
    let switcher = rebuild(NEW, &log, &models);
    assert_eq!(switcher.switch().await.unwrap(), OLD.generation());
    assert!(rows(&models).await.values().all(|times| times.generation == 2));
    assert_eq!(switcher.switch().await.unwrap(), NEW.generation(), "nothing happens the second time");
    writing.cancel();
    writer.await.unwrap();
    let head = log.head().await.unwrap();
    join_all([reached(&models, OLD, head), reached(&models, NEW, head)]).await;

    for _ in 0..2 {
        assert_eq!(switcher.switch_back(OLD.generation()).await.unwrap(), NEW.generation());
        assert_eq!(rows(&models).await, fold(&log, OLD).await);
        assert_eq!(switcher.switch().await.unwrap(), OLD.generation());
        assert_eq!(rows(&models).await, fold(&log, NEW).await);
    }
    reading.cancel();
    assert!(reader.await.unwrap() > 10, "the reader has seen what went on");
    let [old, new] = [old, new].map(Program::stop);
    tokio::join!(old, new);
    switcher.drop_old(OLD.generation()).await.unwrap();
    let keys = ["1", "2"].map(|key| ViewKey::new(key).unwrap());
    let left = models.rows(&projection(OLD), Some(OLD.generation()), &keys).await;
    assert_eq!((left.unwrap(), models.checkpoint(&projection(OLD)).await.unwrap()), (Vec::new(), Position::ZERO));
    let error = switcher.switch_back(OLD.generation()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::BehindLive { .. }), "{error}");
    assert_eq!(rows(&models).await, fold(&log, NEW).await, "the other one stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_never_see_a_half_built_view_in_memory() {
    is_never_seen_half_built(MemoryReadModel::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_never_see_a_half_built_view_in_sqlite() {
    let folder = tempfile::TempDir::new().unwrap();
    is_never_seen_half_built(SqliteReadModel::open(folder.path().join("views.db")).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_never_see_a_half_built_view_in_postgres() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!("it is one of PostgreSQL's") };
    is_never_seen_half_built(PostgresReadModel::connect(url).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_never_see_a_half_built_view_in_mysql() {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!("it is one of MySQL's") };
    is_never_seen_half_built(MySqlReadModel::connect(url).await.unwrap()).await;
}

/// The child of the next tests: builds, slowly, where it is told.
#[tokio::test]
async fn a_build_that_is_to_be_killed() {
    let Ok(place) = std::env::var("RETELL_REBUILD_IN") else { return };
    match serde_json::from_str(&place).unwrap() {
        Place::Sqlite(path) => {
            let log = SqliteStore::open(path).await.unwrap();
            let models = log.read_model();
            build(log, models).await;
        }
        Place::Postgres(url) => {
            build(PostgresStore::connect(&url).await.unwrap(), PostgresReadModel::connect(&url).await.unwrap()).await;
        }
        Place::MySql(url) => {
            build(MySqlStore::connect(&url).await.unwrap(), MySqlReadModel::connect(&url).await.unwrap()).await;
        }
    }
}

async fn build(log: impl EventReader, models: impl ViewStore + Clone) {
    Rebuild::new(NEW, log, models).with_options(small()).run(CancellationToken::new()).await.unwrap();
}

async fn goes_on_after_a_kill<M: ViewStore + Clone>(place: &Place, log: impl EventStore + Clone, models: M) {
    for number in 0..200 {
        add(&log, &number.to_string(), (0..500).map(|place| (place * 7 + number) % 100)).await;
    }
    let mut kept = Position::ZERO;
    for _ in 0..3 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_build_that_is_to_be_killed"])
            .env("RETELL_REBUILD_IN", serde_json::to_string(place).unwrap())
            .stdout(Stdio::null())
            .spawn();
        let mut child = child.unwrap();
        reached(&models, NEW, kept.next()).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let now = models.checkpoint(&projection(NEW)).await.unwrap();
        assert!(now > kept);
        kept = now;
    }
    let rebuild = Rebuild::new(NEW, log.clone(), models.clone()).with_options(small());
    rebuild.run(CancellationToken::new()).await.unwrap();
    rebuild.switch().await.unwrap();
    assert_eq!(rows(&models).await, fold(&log, NEW).await);
}

#[tokio::test]
async fn a_build_whose_process_is_killed_goes_on_where_it_was_in_sqlite() {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!("it is a file") };
    let log = SqliteStore::open(path).await.unwrap();
    let models = log.read_model();
    goes_on_after_a_kill(&database.place, log, models).await;
}

#[tokio::test]
async fn a_build_whose_process_is_killed_goes_on_where_it_was_in_postgres() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!("it is one of PostgreSQL's") };
    let (log, models) = (PostgresStore::connect(url).await.unwrap(), PostgresReadModel::connect(url).await.unwrap());
    goes_on_after_a_kill(&database.place, log, models).await;
}

#[tokio::test]
async fn a_build_whose_process_is_killed_goes_on_where_it_was_in_mysql() {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!("it is one of MySQL's") };
    let (log, models) = (MySqlStore::connect(url).await.unwrap(), MySqlReadModel::connect(url).await.unwrap());
    goes_on_after_a_kill(&database.place, log, models).await;
}

async fn sqlite() -> (MemoryStore, SqliteReadModel) {
    (MemoryStore::new(), SqliteReadModel::in_memory().await.unwrap())
}

#[tokio::test]
async fn a_switch_is_refused_before_the_build_has_caught_up_and_waits_for_the_last_few() {
    let (log, models) = sqlite().await;
    add(&log, "a", vec![1; 10_010]).await;
    run(&rebuild(OLD, &log, &models)).await;
    let new = rebuild(NEW, &log, &models);
    let error = new.switch().await.unwrap_err();
    let (checkpoint, live) = (Position::ZERO, Position::new(10_010));
    assert_eq!(error.kind(), &ErrorKind::BehindLive { projection: projection(NEW), checkpoint, live });
    assert_eq!(models.live_generation(&projection(OLD)).await.unwrap(), OLD.generation());
    run(&new).await;
    add(&log, "a", [1, 2]).await;
    run(&rebuild(OLD, &log, &models)).await;
    assert_eq!(new.switch().await.unwrap(), OLD.generation());
    assert_eq!(rows(&models).await, fold(&log, NEW).await, "the two events are in it");
}

/// Counts as well, and is wrong where it is told to be; and a name is found by what it is.
#[derive(Debug, Clone, Copy)]
struct Counts {
    generation: u64,
    forgets: &'static [&'static str],
    doubles: &'static [&'static str],
}

const RIGHT: Counts = Counts { generation: 1, forgets: &[], doubles: &[] };

impl View for Counts {
    const NAME: &'static str = "counts";
    type Event = CounterEvent;
    type State = (String, u64);

    fn generation(&self) -> Generation {
        Generation::new(self.generation)
    }

    fn key(&self, event: &Envelope<CounterEvent>) -> Option<String> {
        let key = match &event.event {
            CounterEvent::Added { amount } => amount.to_string(),
            CounterEvent::Renamed(name) => name.trim_start_matches('#').to_owned(),
        };
        (!self.forgets.contains(&key.as_str())).then_some(key)
    }

    fn apply(&self, state: &mut (String, u64), event: Envelope<CounterEvent>) {
        let key = self.key(&event).unwrap();
        let (name, times) = state;
        *times += 1 + u64::from(self.doubles.contains(&key.as_str()));
        if let CounterEvent::Renamed(text) = event.event {
            *name = text;
        }
    }

    fn fields(&self, (name, _): &(String, u64)) -> Fields {
        Fields::new().with("name", name)
    }
}

fn of_counts(view: Counts, log: &MemoryStore, models: &SqliteReadModel) -> Rebuild<Counts, SqliteReadModel> {
    Rebuild::new(view, log.clone(), models.clone()).with_options(small())
}

async fn built(view: Counts, log: &MemoryStore, models: &SqliteReadModel) -> Rebuild<Counts, SqliteReadModel> {
    let rebuild = of_counts(view, log, models);
    rebuild.run(CancellationToken::new()).await.unwrap();
    rebuild
}

#[tokio::test]
async fn a_diff_shows_exactly_what_is_different() {
    let (log, models) = sqlite().await;
    // More rows than a page of either.
    add(&log, "a", (0..2_500).chain(0..2_500)).await;
    let wrong = Counts { generation: 2, forgets: &["1499", "2499"], doubles: &["7"] };
    let right = built(RIGHT, &log, &models).await;
    assert_eq!(right.diff(9).await.unwrap().same, 2_500, "with itself");
    let wrong = built(wrong, &log, &models).await;
    let different = async |unsettled, limit| {
        let diff = wrong.diff(limit).await.unwrap();
        assert_eq!((diff.live, diff.different, diff.unsettled), (RIGHT.generation(), 3, unsettled), "{diff:?}");
        assert_eq!(diff.same + unsettled, 2_497);
        let state = |row: Option<retell::store::ViewRow>| row.map(|row| row.state.unwrap());
        let rows = diff.differences.into_iter();
        rows.map(|row| (row.key.to_string(), state(row.live), state(row.built))).collect::<Vec<_>>()
    };
    let twice = |times: u64| Some(format!(r#"["",{times}]"#));
    let expected = [
        ("1499".to_owned(), twice(2), None),
        ("2499".to_owned(), twice(2), None),
        ("7".to_owned(), twice(2), twice(4)),
    ];
    assert_eq!(different(0, 9).await, expected);
    assert_eq!(different(0, 1).await, expected[..1]);
    add(&log, "b", [3]).await;
    wrong.run(CancellationToken::new()).await.unwrap();
    assert_eq!(different(1, 9).await, expected, "what is only ahead is no difference");
}

#[tokio::test]
async fn an_event_that_fails_parks_its_aggregate_and_no_other() {
    let (log, models) = sqlite().await;
    let wide = "y".repeat(256);
    let bad = ["#", wide.as_str(), &format!("#{}", "x".repeat(255))];
    for (number, name) in bad.iter().enumerate() {
        add(&log, "fine", 0..50).await;
        let names = [(*name).to_owned(), "never".to_owned()].map(CounterEvent::Renamed);
        append(&log, &format!("bad {number}"), names).await;
    }
    add(&log, "fine", 0..50).await;
    built(RIGHT, &log, &models).await;
    let parked = models.parking(&ProjectionName::new("counts").unwrap()).await.unwrap().parked;
    let names: Vec<_> = parked.iter().map(|parked| parked.stream.aggregate_id().as_str()).collect();
    assert_eq!(names, ["bad 0", "bad 1", "bad 2"]);
    let found = Views::new(&RIGHT, models.clone()).all(Paging::first(100)).await.unwrap().rows;
    assert_eq!(found.len(), 50);
    assert!(found.iter().all(|(_, (name, times))| name.is_empty() && *times == 4), "{found:?}");
}

#[tokio::test]
async fn a_build_that_is_stopped_keeps_what_it_has_and_one_that_is_cancelled_nothing() {
    let (log, models) = sqlite().await;
    add(&log, "a", 0..60_000).await;
    let rebuild = of_counts(RIGHT, &log, &models).with_options(RebuildOptions::new());
    let (stop, mut progress) = (CancellationToken::new(), rebuild.progress());
    let begun = async {
        progress.wait_for(|progress| progress.position > Position::ZERO).await.unwrap();
        stop.cancel();
    };
    tokio::join!(async { rebuild.run(stop.clone()).await.unwrap() }, begun);
    let counts = ProjectionName::new("counts").unwrap();
    let at = models.checkpoint(&counts).await.unwrap();
    assert!(at > Position::ZERO && at < Position::new(60_000), "{at}");
    assert_eq!(rebuild.progress().borrow().head, Position::new(60_000));
    let error = rebuild.cancel().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "readers see it: {error}");

    let second = of_counts(Counts { generation: 2, ..RIGHT }, &log, &models);
    second.run(CancellationToken::new()).await.unwrap();
    second.cancel().await.unwrap();
    let taken = |db: &retell::rusqlite::Connection| {
        let rows: [i64; 3] = [
            "SELECT count(*) FROM retell_views WHERE generation = 2",
            "SELECT count(*) FROM retell_view_fields WHERE generation = 2",
            "SELECT count(*) FROM retell_checkpoints WHERE projection = 'counts@2'",
        ]
        .map(|sql| db.query_row(sql, [], |row| row.get(0)).unwrap());
        Ok(rows)
    };
    assert_eq!(models.query(taken).await.unwrap(), [0, 0, 0]);
}

#[tokio::test]
async fn what_was_not_taken_away_to_the_end_is_before_a_build_begins() {
    let (log, models) = sqlite().await;
    add(&log, "a", 0..100).await;
    let second = built(Counts { generation: 2, doubles: &["3"], ..RIGHT }, &log, &models).await;
    let id = ViewId::new("counts", Generation::new(2)).unwrap();
    assert!(!models.delete_generation(&id, 10).await.unwrap());
    let right = built(Counts { generation: 2, ..RIGHT }, &log, &models).await;
    right.switch().await.unwrap();
    let found = Views::new(&RIGHT, models.clone()).all(Paging::first(1_000)).await.unwrap().rows;
    assert_eq!(found.len(), 100);
    assert!(found.iter().all(|(_, (_, times))| *times == 1), "nothing is left of what was there");
    drop(second);
}

#[tokio::test]
async fn a_plan_says_how_many_events_there_are_and_writes_nothing() {
    let (log, models) = sqlite().await;
    for number in 0..50 {
        add(&log, &number.to_string(), 0..1_000).await;
    }
    let rebuild = of_counts(RIGHT, &log, &models);
    let plan = rebuild.plan().await.unwrap();
    assert_eq!((plan.from, plan.head, plan.events), (Position::ZERO, Position::new(50_000), 50_000));
    assert!(plan.events_per_second > 0.0 && plan.time.unwrap() > Duration::ZERO, "{plan:?}");
    assert_eq!(models.checkpoint(&ProjectionName::new("counts").unwrap()).await.unwrap(), Position::ZERO);
    rebuild.run(CancellationToken::new()).await.unwrap();
    let plan = rebuild.plan().await.unwrap();
    assert_eq!((plan.events, plan.time), (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_begins_anew_and_workers_that_run_go_on_from_there() {
    let (log, models) = sqlite().await;
    add(&log, "a", 0..30).await;
    append(&log, "bad", [CounterEvent::Renamed("#".into())]).await;
    add(&log, "a", 0..30).await;
    let program = Program::start(OLD, &log, &models);
    let head = Position::new(61);
    reached(&models, OLD, head).await;
    let before = rows(&models).await;
    assert_eq!((before.len(), models.parking(&projection(OLD)).await.unwrap().parked.len()), (30, 1));
    // Rows that no event has led to, as if the fold had been another.
    models.commit(Step::new(&projection(OLD), head, head).with_parking(1, Vec::new()), wrong(&models)).await.unwrap();
    assert_ne!(rows(&models).await, before);
    rebuild(OLD, &log, &models).reset().await.unwrap();
    let again = async {
        while rows(&models).await != before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), again).await.expect("the rows come back as they were");
    program.stop().await;
}

fn wrong(models: &SqliteReadModel) -> Work<retell::rusqlite::Connection> {
    let models = models.clone();
    Box::new(move |tx| {
        async move {
            let id = ViewId::new("amounts", OLD.generation())?;
            let before = [ViewRow::empty(ViewKey::new("wrong")?)];
            let after = before[0].clone().with_state(r#"{"times":1,"generation":1}"#);
            models.save_rows(tx, &id, &before, &[after]).await
        }
        .boxed()
    })
}
