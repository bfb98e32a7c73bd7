//! Rebuild: a new generation of a view is built next to the live one, and readers never see a partial build. Needs `POSTGRES_URL` and
//! `MYSQL_URL`.

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

/// Counts how often each amount was added and each name was given.
#[derive(Debug, Clone, Copy)]
struct Amounts {
    generation: u64,
}

const OLD: Amounts = Amounts { generation: 1 };
const NEW: Amounts = Amounts { generation: 2 };

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, retell::Shape)]
struct Times {
    times: u64,
    /// Generation of the fold that wrote the row.
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

/// Returns options small enough that each page takes several transactions and rows are read again.
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
        while models.mark(&projection(view)).await.unwrap().position < position {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(5), reached).await.expect("the view catches up");
}

async fn rows<M: ViewStore + Clone>(models: &M) -> BTreeMap<String, Times> {
    let found = Views::new(&OLD, models.clone()).all(Paging::first(1_000)).await.unwrap();
    assert_eq!(found.next, None, "all rows must fit one page, since a page is one snapshot");
    found.rows.into_iter().map(|(key, times)| (key.to_string(), times)).collect()
}

/// Returns the expected rows of `view`: the fold of the whole log.
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

/// A deployed program: workers of one generation that run until they are stopped.
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

/// Returns a deterministic, scattered sequence of numbers.
fn jump(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40
}

/// Appends events until `stop` is cancelled. Waits for the workers of `OLD` now and then, because a busy database is slower than a log in
/// memory.
async fn write<M: ReadModel>(log: MemoryStore, models: M, stop: CancellationToken) {
    for number in 0.. {
        if stop.is_cancelled() {
            return;
        }
        let amount = i64::try_from(jump(number) % 40).unwrap();
        add(&log, &(number % 9).to_string(), [amount]).await;
        if number % 200 == 0 {
            reached(&models, OLD, log.head().await.unwrap()).await;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

/// Reads until `stop` is cancelled and checks that all rows are of one generation and never have fewer events than before. Returns the
/// number of reads.
async fn read<M: ViewStore + Clone>(models: M, stop: CancellationToken) -> u64 {
    let (mut seen, mut reads) = (0, 0);
    while !stop.is_cancelled() {
        let rows = rows(&models).await;
        let generations: Vec<_> = rows.values().map(|times| times.generation).collect();
        assert!(generations.windows(2).all(|pair| pair[0] == pair[1]), "readers saw rows of two generations: {rows:?}");
        let events: u64 = rows.values().map(|times| times.times).sum();
        assert!(events >= seen, "readers saw {events} events after {seen}");
        (seen, reads) = (events, reads + 1);
        // The store in memory never yields, so let the other tasks run.
        tokio::task::yield_now().await;
    }
    reads
}

/// Runs a build and drops it half-way, repeatedly.
async fn build_dying<M: ViewStore + Clone>(log: &MemoryStore, models: &M) {
    let mut kept = Position::ZERO;
    for number in 0..25 {
        let dying = rebuild(NEW, log, models);
        let ended = tokio::time::timeout(Duration::from_micros(jump(number) % 8_000), run(&dying)).await;
        let now = models.mark(&projection(NEW)).await.unwrap().position;
        assert!(now >= kept, "the build continues from {kept}, not from {now}");
        kept = now;
        if ended.is_ok() {
            break;
        }
    }
    run(&rebuild(NEW, log, models)).await;
}

/// Switches as an operator does: if the live generation has moved too far, the rest is built first.
async fn caught_up_and_switched<M: ViewStore + Clone>(rebuild: &Rebuild<Amounts, M>) -> Generation {
    loop {
        match rebuild.switch().await {
            Err(error) if matches!(error.kind(), ErrorKind::BehindLive { .. }) => run(rebuild).await,
            done => return done.unwrap(),
        }
    }
}

async fn is_never_seen_half_built<M: ViewStore + Clone>(models: M) {
    let log = MemoryStore::new();
    for number in 0..40 {
        add(&log, &number.to_string(), (0..50).map(|place| (place * 7 + number) % 40)).await;
    }
    let old = Program::start(OLD, &log, &models);
    reached(&models, OLD, Position::new(2_000)).await;
    let (writing, reading) = (CancellationToken::new(), CancellationToken::new());
    let writer = tokio::spawn(write(log.clone(), models.clone(), writing.clone()));
    let reader = tokio::spawn(read(models.clone(), reading.clone()));

    build_dying(&log, &models).await;
    let new = Program::start(NEW, &log, &models);
    let switcher = rebuild(NEW, &log, &models);
    assert_eq!(caught_up_and_switched(&switcher).await, OLD.generation());
    assert!(rows(&models).await.values().all(|times| times.generation == 2));
    assert_eq!(switcher.switch().await.unwrap(), NEW.generation(), "a second switch changes nothing");
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
    assert!(reader.await.unwrap() > 10, "the reader ran during the switches");
    let [old, new] = [old, new].map(Program::stop);
    tokio::join!(old, new);
    switcher.drop_old(OLD.generation()).await.unwrap();
    let keys = ["1", "2"].map(|key| ViewKey::new(key).unwrap());
    let left = models.rows(&projection(OLD), Some(OLD.generation()), &keys).await;
    assert_eq!((left.unwrap(), models.mark(&projection(OLD)).await.unwrap().position), (Vec::new(), Position::ZERO));
    let error = switcher.switch_back(OLD.generation()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::BehindLive { .. }), "{error}");
    assert_eq!(rows(&models).await, fold(&log, NEW).await, "the live generation keeps its rows");
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
    let Place::Postgres(url) = &database.place else { unreachable!("a PostgreSQL database") };
    is_never_seen_half_built(PostgresReadModel::connect(url).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_never_see_a_half_built_view_in_mysql() {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!("a MySQL database") };
    is_never_seen_half_built(MySqlReadModel::connect(url).await.unwrap()).await;
}

/// Child process of the following tests: builds slowly in the database that the environment names.
#[tokio::test]
async fn child_process_that_builds_until_killed() {
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
            .args(["--exact", "child_process_that_builds_until_killed"])
            .env("RETELL_REBUILD_IN", serde_json::to_string(place).unwrap())
            .stdout(Stdio::null())
            .spawn();
        let mut child = child.unwrap();
        reached(&models, NEW, kept.next()).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let now = models.mark(&projection(NEW)).await.unwrap().position;
        assert!(now > kept);
        kept = now;
    }
    let rebuild = Rebuild::new(NEW, log.clone(), models.clone()).with_options(small());
    rebuild.run(CancellationToken::new()).await.unwrap();
    rebuild.switch().await.unwrap();
    assert_eq!(rows(&models).await, fold(&log, NEW).await);
}

#[tokio::test]
async fn a_killed_build_resumes_from_its_checkpoint_in_sqlite() {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
    let log = SqliteStore::open(path).await.unwrap();
    let models = log.read_model();
    goes_on_after_a_kill(&database.place, log, models).await;
}

#[tokio::test]
async fn a_killed_build_resumes_from_its_checkpoint_in_postgres() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!("a PostgreSQL database") };
    let (log, models) = (PostgresStore::connect(url).await.unwrap(), PostgresReadModel::connect(url).await.unwrap());
    goes_on_after_a_kill(&database.place, log, models).await;
}

#[tokio::test]
async fn a_killed_build_resumes_from_its_checkpoint_in_mysql() {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!("a MySQL database") };
    let (log, models) = (MySqlStore::connect(url).await.unwrap(), MySqlReadModel::connect(url).await.unwrap());
    goes_on_after_a_kill(&database.place, log, models).await;
}

async fn sqlite() -> (MemoryStore, SqliteReadModel) {
    (MemoryStore::new(), SqliteReadModel::in_memory().await.unwrap())
}

#[tokio::test]
async fn switch_is_refused_until_the_build_has_almost_caught_up() {
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
    assert_eq!(rows(&models).await, fold(&log, NEW).await, "the switch applied the last two events");
}

/// Counts like `Amounts`, but forgets or doubles the names it is told to. Rows can be found by their count.
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
async fn a_diff_reports_exactly_the_rows_that_differ() {
    let (log, models) = sqlite().await;
    // Both generations have more rows than one page.
    add(&log, "a", (0..2_500).chain(0..2_500)).await;
    let wrong = Counts { generation: 2, forgets: &["1499", "2499"], doubles: &["7"] };
    let right = built(RIGHT, &log, &models).await;
    assert_eq!(right.diff(9).await.unwrap().same, 2_500, "compared with itself");
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
    assert_eq!(different(1, 9).await, expected, "rows with events beyond the settled position are not differences");
}

#[tokio::test]
async fn a_failing_event_parks_only_its_aggregate() {
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
async fn a_stopped_build_keeps_its_rows_and_a_cancelled_one_none() {
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
    let at = models.mark(&counts).await.unwrap().position;
    assert!(at > Position::ZERO && at < Position::new(60_000), "{at}");
    assert_eq!(rebuild.progress().borrow().head, Position::new(60_000));
    let error = rebuild.cancel().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "the live generation cannot be deleted: {error}");

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
async fn an_unfinished_deletion_is_completed_before_a_build() {
    let (log, models) = sqlite().await;
    add(&log, "a", 0..100).await;
    let second = built(Counts { generation: 2, doubles: &["3"], ..RIGHT }, &log, &models).await;
    let id = ViewId::new("counts", Generation::new(2)).unwrap();
    assert!(!models.delete_generation(&id, 10).await.unwrap());
    let right = built(Counts { generation: 2, ..RIGHT }, &log, &models).await;
    right.switch().await.unwrap();
    let found = Views::new(&RIGHT, models.clone()).all(Paging::first(1_000)).await.unwrap().rows;
    assert_eq!(found.len(), 100);
    assert!(found.iter().all(|(_, (_, times))| *times == 1), "no old row is left");
    drop(second);
}

#[tokio::test]
async fn a_plan_estimates_the_events_and_writes_nothing() {
    let (log, models) = sqlite().await;
    for number in 0..50 {
        add(&log, &number.to_string(), 0..1_000).await;
    }
    let rebuild = of_counts(RIGHT, &log, &models);
    let plan = rebuild.plan().await.unwrap();
    assert_eq!((plan.from, plan.head, plan.events), (Position::ZERO, Position::new(50_000), 50_000));
    assert!(plan.events_per_second > 0.0 && plan.time.unwrap() > Duration::ZERO, "{plan:?}");
    assert_eq!(models.mark(&ProjectionName::new("counts").unwrap()).await.unwrap().position, Position::ZERO);
    rebuild.run(CancellationToken::new()).await.unwrap();
    let plan = rebuild.plan().await.unwrap();
    assert_eq!((plan.events, plan.time), (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_clears_the_rows_and_running_workers_refill_them() {
    let (log, models) = sqlite().await;
    add(&log, "a", 0..30).await;
    append(&log, "bad", [CounterEvent::Renamed("#".into())]).await;
    add(&log, "a", 0..30).await;
    let program = Program::start(OLD, &log, &models);
    let head = Position::new(61);
    reached(&models, OLD, head).await;
    let before = rows(&models).await;
    let parking = models.parking(&projection(OLD)).await.unwrap();
    assert_eq!((before.len(), parking.parked.len()), (30, 1));
    // Rows that no event explains, as a different fold would have left them.
    let step = Step::new(&projection(OLD), head, head).with_parking(parking.changes, Vec::new());
    models.commit(step, wrong(&models)).await.unwrap();
    assert_ne!(rows(&models).await, before);
    rebuild(OLD, &log, &models).reset().await.unwrap();
    let again = async {
        while rows(&models).await != before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(5), again).await.expect("the rows are rebuilt");
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
