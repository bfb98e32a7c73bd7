//! The cost of a growing log: appends, loads and rebuilds at 100,000 and 1,000,000 events, and with `--full` also at 10,000,000. Runs on
//! SQLite, and on PostgreSQL if `POSTGRES_URL` is set. Target: append and load stay within 20 % of the figures for the smallest log.
//!
//! - `append`: 16 writers, each appending one event at a time to new streams. Events/s, and the median time of one append; median of five
//!   rounds.
//! - `load`: an aggregate of 100 events that are scattered over the whole log, not cached, without snapshots. Median of five rounds.
//! - `rebuild`: a view with 100 events per key, rebuilt in the same kind of database as the log. The events of a thousand keys alternate,
//!   followed by those of the next thousand, since most real aggregates are active for a limited time. In brackets: every key's events are
//!   scattered over the whole log.
//! - `memory`: resident memory of this process at the end, and its peak so far. Later rows include the memory of earlier ones.
//! - `bytes`: size of an event on disk including indexes, and the size of its payload.
//!
//! In parentheses: the ratio to the smallest log. Each log is written by appends of 1,000 events.
//!
//! ```sh
//! POSTGRES_URL=postgres://.. cargo bench -p retell-benches --bench growth -- --full
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]
#![expect(clippy::cast_precision_loss, reason = "figures to be read")]

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use retell::event::NewEvent;
use retell::repository::RepositoryOptions;
use retell::store::Append;
use retell::{
    AggregateId, AggregateType, Envelope, EventStore, ExpectedVersion, PostgresReadModel, PostgresStore, Rebuild,
    Repository, SqliteReadModel, SqliteStore, StreamId, View, ViewStore, Views,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use support::order::{Order, OrderEvent};

const SIZES: [u64; 3] = [100_000, 1_000_000, 10_000_000];

/// Events per append while a log is filled.
const FILL: u64 = 1_000;

/// Number of aggregates whose events are scattered over the log, `EACH` events each.
const SCATTERED: u64 = 10;

/// Events of a scattered aggregate, and of a key of the view.
const EACH: u64 = 100;

const WRITERS: usize = 16;

/// Appends per writer.
const APPENDS: usize = 1_000;

/// Keys of the view whose events alternate.
const TOGETHER: u64 = 1_000;

const LOADS: u64 = 500;

/// Rounds of appends and loads; a figure is the median.
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() {
    let full = std::env::args().any(|argument| argument == "--full");
    let sizes = if full { &SIZES[..] } else { &SIZES[..2] };
    println!(
        "| log | events | append, events/s | append, ms | load, ms | rebuild, events/s | memory, peak | bytes, payload |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    sqlite(sizes).await;
    match std::env::var("POSTGRES_URL") {
        Ok(server) => postgres(sizes, &server).await,
        Err(_) => println!("POSTGRES_URL is not set: PostgreSQL is not measured"),
    }
}

async fn sqlite(sizes: &[u64]) {
    let mut smallest = None;
    for &size in sizes {
        let folder = support::directory();
        let path = folder.path().join("log.db");
        let log = SqliteStore::open(&path).await.unwrap();
        let models = SqliteReadModel::open(folder.path().join("views.db")).await.unwrap();
        let payload = fill(&log, size).await;
        let bytes = sqlite_bytes(&path);
        let figures = measure(&log, models, size).await;
        figures.print("SQLite", size, smallest.get_or_insert(figures), bytes, payload);
        log.close().await.unwrap();
    }
}

/// Returns the size of the file after moving the write-ahead log into it.
fn sqlite_bytes(path: &Path) -> u64 {
    let db = rusqlite::Connection::open(path).unwrap();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    fs::metadata(path).unwrap().len()
}

/// Log and view have separate databases, so that the size of the log can be measured alone.
async fn postgres(sizes: &[u64], server: &str) {
    let mut smallest = None;
    for &size in sizes {
        let name = format!("growth_{}_{size}", std::process::id());
        let url = |of: &str| format!("{}/{name}_{of}", server.rsplit_once('/').unwrap().0);
        for of in ["log", "views"] {
            run(server, format!("CREATE DATABASE {name}_{of}")).await;
        }
        let log = PostgresStore::connect(&url("log")).await.unwrap();
        let models = PostgresReadModel::connect(&url("views")).await.unwrap();
        let payload = fill(&log, size).await;
        // A server does this in the background sooner or later, which would disturb the measurement.
        for upkeep in ["VACUUM ANALYZE", "CHECKPOINT"] {
            run(&url("log"), upkeep.into()).await;
        }
        let bytes: i64 = sqlx::query_scalar(BYTES).fetch_one(log.pool()).await.unwrap();
        let figures = measure(&log, models, size).await;
        figures.print("PostgreSQL", size, smallest.get_or_insert(figures), bytes.cast_unsigned(), payload);
        log.close().await.unwrap();
        for of in ["log", "views"] {
            run(server, format!("DROP DATABASE {name}_{of} WITH (FORCE)")).await;
        }
    }
}

async fn run(server: &str, sql: String) {
    let mut db = PgConnection::connect(server).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
}

/// Fills the log and returns the total size of the payloads in bytes.
async fn fill(log: &impl EventStore, size: u64) -> u64 {
    let (appends, mut bytes) = (size / FILL, 0);
    for number in 0..appends {
        let mut numbers = number * FILL..(number + 1) * FILL;
        let mut event = || {
            let number = numbers.next()?;
            let event = NewEvent::new(&OrderEvent::numbered(number)).unwrap();
            bytes += event.payload.len() as u64;
            Some(event)
        };
        let scattered: Vec<_> = match number % (appends / EACH) {
            0 => (0..SCATTERED).map(|n| (stream(&format!("scattered-{n}")), event().unwrap())).collect(),
            _ => Vec::new(),
        };
        let rest = Append::new(
            stream(&format!("other-{number}")),
            ExpectedVersion::NoStream,
            std::iter::from_fn(event).collect(),
        );
        let append = scattered
            .into_iter()
            .fold(rest, |append, (stream, event)| append.with_stream(stream, ExpectedVersion::Any, vec![event]));
        log.append(append).await.unwrap();
    }
    bytes
}

fn stream(id: &str) -> StreamId {
    StreamId::parse("order", id).unwrap()
}

#[derive(Clone, Copy)]
struct Figures {
    appends_a_second: f64,
    append: f64,
    load: f64,
    rebuilt_a_second: f64,
    rebuilt_scattered: f64,
}

impl Figures {
    fn print(&self, log: &str, size: u64, smallest: &Self, bytes: u64, payload: u64) {
        let times = |figure: fn(&Self) -> f64, digits: usize| {
            format!("{:.digits$} ({:.2})", figure(self), figure(self) / figure(smallest))
        };
        println!(
            "| {log} | {size} | {} | {} | {} | {} [{}] | {}, {} | {}, {} |",
            times(|figures| figures.appends_a_second, 0),
            times(|figures| figures.append, 3),
            times(|figures| figures.load, 3),
            times(|figures| figures.rebuilt_a_second, 0),
            times(|figures| figures.rebuilt_scattered, 0),
            resident("VmRSS:"),
            resident("VmHWM:"),
            bytes / size,
            payload / size,
        );
    }
}

async fn measure<S: EventStore + Clone, M: ViewStore + Clone>(log: &S, models: M, size: u64) -> Figures {
    // Rebuild first, while the log holds only the events of `fill`.
    let rebuilt = rebuild(log, models.clone(), size, "together", TOGETHER).await;
    let rebuilt_scattered = rebuild(log, models, size, "scattered", size / EACH).await;
    // Warm up: create threads, connections and lanes, and fill the server's page cache.
    append(log).await;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push((append(log).await, load(log).await));
    }
    let middle = |figure: fn(&((f64, f64), f64)) -> f64| median(rounds.iter().map(figure).collect());
    Figures {
        appends_a_second: middle(|((rate, _), _)| *rate),
        append: middle(|((_, append), _)| *append),
        load: middle(|(_, load)| *load),
        rebuilt_a_second: size as f64 / rebuilt.as_secs_f64(),
        rebuilt_scattered: size as f64 / rebuilt_scattered.as_secs_f64(),
    }
}

/// Returns appends per second, and the median time of one append in milliseconds.
async fn append(log: &(impl EventStore + Clone)) -> (f64, f64) {
    let began = Instant::now();
    let writers: JoinSet<_> = (0..WRITERS).map(|_| write(log.clone())).collect();
    let times = writers.join_all().await.concat();
    (times.len() as f64 / began.elapsed().as_secs_f64(), median(times))
}

/// Returns the time of each append in milliseconds.
async fn write(log: impl EventStore) -> Vec<f64> {
    let mut times = Vec::new();
    for _ in 0..APPENDS {
        let event = NewEvent::new(&OrderEvent::numbered(0)).unwrap();
        let stream = StreamId::new(AggregateType::new("order").unwrap(), AggregateId::generate());
        let began = Instant::now();
        log.append(Append::new(stream, ExpectedVersion::NoStream, vec![event])).await.unwrap();
        times.push(began.elapsed().as_secs_f64() * 1_000.0);
    }
    times
}

/// Returns the median time of a load in milliseconds.
async fn load(log: &(impl EventStore + Clone)) -> f64 {
    let options = RepositoryOptions::new().with_cached_aggregates(0);
    let orders = Repository::<Order>::new(log.clone()).with_options(options);
    let mut times = Vec::new();
    for number in 0..LOADS {
        let (id, began) = (format!("scattered-{}", number % SCATTERED), Instant::now());
        assert_eq!(orders.load(id).await.unwrap().version.get(), EACH);
        times.push(began.elapsed().as_secs_f64() * 1_000.0);
    }
    median(times)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A view that counts the events of each key.
struct Counts {
    name: &'static str,
    /// Keys whose events alternate.
    together: u64,
}

impl View for Counts {
    const NAME: &'static str = "counts";
    type Event = OrderEvent;
    type State = u64;

    fn name(&self) -> &str {
        self.name
    }

    fn key(&self, event: &Envelope<OrderEvent>) -> Option<String> {
        let place = event.position.get() - 1;
        Some(format!("order-{}-{}", place / (self.together * EACH), place % self.together))
    }

    fn apply(&self, count: &mut u64, _: Envelope<OrderEvent>) {
        *count += 1;
    }
}

async fn rebuild<S: EventStore + Clone, M: ViewStore + Clone>(
    log: &S,
    models: M,
    size: u64,
    name: &'static str,
    together: u64,
) -> Duration {
    let view = || Counts { name, together };
    let (rebuild, began) = (Rebuild::new(view(), log.clone(), models.clone()), Instant::now());
    rebuild.run(CancellationToken::new()).await.unwrap();
    let took = began.elapsed();
    let last = format!("order-{}-{}", size / (together * EACH) - 1, together - 1);
    assert_eq!(Views::new(&view(), models).get(&last).await.unwrap(), Some(EACH));
    took
}

/// Returns a line of this process's memory statistics from Linux, in MiB.
fn resident(what: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix(what)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map_or_else(|| "?".into(), |kib| format!("{} MiB", kib / 1024))
}

const BYTES: &str = "
    SELECT sum(pg_total_relation_size(c.oid))::bigint
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'retell' AND c.relkind = 'r'";
