//! Appends to SQLite with `synchronous=FULL`, compared with hand-written sqlx on a file with the same table, indexes and settings: `BEGIN
//! IMMEDIATE`, `SELECT max(version)`, `INSERT`, `COMMIT`.
//!
//! The hand-written writers share a pool of one connection. With one connection per writer, each waits for the lock by sleeping, which
//! measured 100 times slower with 16 writers.
//!
//! - `append`: one event per append to new streams with UUID v7 ids, by 1 to 512 concurrent writers. Targets, as a multiple of `by_hand`:
//!   0.9 with 1 writer, 3 with 16, 15 with 512. `limit` is one transaction with the same number of events, by rusqlite on the calling
//!   thread.
//! - `existing`: a command of one event on each of a hundred aggregates in turn. Each starts with ten events and is loaded, since it is not
//!   cached. The hand-written side does the same.
//! - `command`: a command of one event on a hot aggregate, one aggregate per writer. The library also stores a snapshot every 100 events.
//! - `bulk`: one append of 10 or 1,000 events; `limit` as above.
//!
//! The unit is events appended. The files are in cargo's target directory, which must be on a disk.
//!
//! ```sh
//! cargo bench -p retell-benches --bench append
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use retell::event::NewEvent;
use retell::repository::RepositoryOptions;
use retell::store::Append;
use retell::{AggregateId, AggregateType, Apply, EventStore, ExpectedVersion, Repository, SqliteStore, StreamId};
use sqlx::SqlitePool;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use uuid::Uuid;

use support::by_hand::{State, sqlite as by_hand};
use support::limit;
use support::order::{Add, KeptOrder, Order, OrderEvent};

const BULKS: [u64; 2] = [10, 1_000];

/// Aggregates of each writer that exist before its commands.
const EXISTING: u64 = 100;

/// Events of each of these aggregates.
const EACH: u64 = 10;

fn main() {
    let mut criterion = support::criterion();
    let runtime = Runtime::new().unwrap();
    let directory = support::directory();
    append(&mut criterion, &runtime, directory.path());
    command(&mut criterion, &runtime, directory.path());
    existing(&mut criterion, &runtime, directory.path());
    bulk(&mut criterion, &runtime, directory.path());
    criterion.final_summary();
}

fn append(criterion: &mut Criterion, runtime: &Runtime, directory: &Path) {
    let mut group = criterion.benchmark_group("append");
    for writers in [1_u32, 16, 128, 512] {
        group.sample_size(10).throughput(Throughput::Elements(writers.into()));
        let (store, pool) = open(runtime, directory, &format!("append-{writers}"));
        group.bench_function(BenchmarkId::new("by_hand", writers), |b| {
            b.iter_custom(|rounds| at_once(runtime, writers, || appends_by_hand(pool.clone(), rounds)));
        });
        group.bench_function(BenchmarkId::new("store", writers), |b| {
            b.iter_custom(|rounds| at_once(runtime, writers, || appends(store.clone(), rounds)));
        });
        let mut limit = limit::open(&directory.join(format!("append-{writers}-by-hand.db")));
        group.bench_function(BenchmarkId::new("limit", writers), |b| {
            b.iter(|| limit::append(&mut limit, writers.into()));
        });
    }
    group.finish();
}

fn command(criterion: &mut Criterion, runtime: &Runtime, directory: &Path) {
    let mut group = criterion.benchmark_group("command");
    for writers in [1_u32, 16] {
        group.sample_size(10).throughput(Throughput::Elements(writers.into()));
        let (store, pool) = open(runtime, directory, &format!("command-{writers}"));
        group.bench_function(BenchmarkId::new("by_hand", writers), |b| {
            b.iter_custom(|rounds| at_once(runtime, writers, || commands_by_hand(pool.clone(), rounds)));
        });
        let orders = Repository::<KeptOrder>::new(store);
        group.bench_function(BenchmarkId::new("repository", writers), |b| {
            b.iter_custom(|rounds| at_once(runtime, writers, || commands(orders.clone(), rounds)));
        });
    }
    group.finish();
}

fn existing(criterion: &mut Criterion, runtime: &Runtime, directory: &Path) {
    let mut group = criterion.benchmark_group("existing");
    for writers in [1_u32, 16] {
        group.sample_size(10).throughput(Throughput::Elements(writers.into()));
        let (store, pool) = open(runtime, directory, &format!("existing-{writers}"));
        let numbers = Arc::new(AtomicU32::new(0));
        let seeded: Vec<_> =
            (0..writers).flat_map(|writer| (0..EXISTING).map(move |n| format!("{writer}-{n}"))).collect();
        runtime.block_on(async {
            for id in &seeded {
                let stream = StreamId::parse("order", id).unwrap();
                store.append(Append::new(stream, ExpectedVersion::NoStream, events(0..EACH))).await.unwrap();
                by_hand::append(&pool, id, 0, (0..EACH).map(OrderEvent::numbered)).await.unwrap();
            }
        });
        let next = || numbers.fetch_add(1, Ordering::Relaxed) % writers;
        group.bench_function(BenchmarkId::new("by_hand", writers), |b| {
            b.iter_custom(|rounds| at_once(runtime, writers, || existing_by_hand(pool.clone(), next(), rounds)));
        });
        let orders = Repository::<Order>::new(store).with_options(RepositoryOptions::new().with_cached_aggregates(0));
        group.bench_function(BenchmarkId::new("repository", writers), |b| {
            b.iter_custom(|rounds| at_once(runtime, writers, || existing_commands(orders.clone(), next(), rounds)));
        });
    }
    group.finish();
}

fn bulk(criterion: &mut Criterion, runtime: &Runtime, directory: &Path) {
    let mut group = criterion.benchmark_group("bulk");
    for size in BULKS {
        let (store, pool) = open(runtime, directory, &format!("bulk-{size}"));
        group.sample_size(10).throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::new("by_hand", size), |b| {
            b.to_async(runtime).iter(async || {
                let events = (0..size).map(OrderEvent::numbered);
                by_hand::append(&pool, &Uuid::now_v7().to_string(), 0, events).await.unwrap();
            });
        });
        group.bench_function(BenchmarkId::new("store", size), |b| {
            b.to_async(runtime).iter(async || store.append(to_new_stream(0..size)).await.unwrap());
        });
        let mut limit = limit::open(&directory.join(format!("bulk-{size}-by-hand.db")));
        group.bench_function(BenchmarkId::new("limit", size), |b| b.iter(|| limit::append(&mut limit, size)));
    }
    group.finish();
}

/// Creates one file for each side.
fn open(runtime: &Runtime, directory: &Path, name: &str) -> (SqliteStore, SqlitePool) {
    runtime.block_on(async {
        let store = SqliteStore::open(directory.join(format!("{name}-store.db"))).await.unwrap();
        (store, by_hand::open(&directory.join(format!("{name}-by-hand.db")), 1).await)
    })
}

/// Returns the time that `writers` concurrent writers take together.
fn at_once<F: Future<Output = ()> + Send + 'static>(
    runtime: &Runtime,
    writers: u32,
    writer: impl Fn() -> F,
) -> Duration {
    runtime.block_on(async {
        let start = Instant::now();
        let tasks: JoinSet<()> = (0..writers).map(|_| writer()).collect();
        tasks.join_all().await;
        start.elapsed()
    })
}

async fn appends_by_hand(pool: SqlitePool, rounds: u64) {
    for _ in 0..rounds {
        by_hand::append(&pool, &Uuid::now_v7().to_string(), 0, [OrderEvent::numbered(0)]).await.unwrap();
    }
}

async fn appends(store: SqliteStore, rounds: u64) {
    for _ in 0..rounds {
        store.append(to_new_stream(0..1)).await.unwrap();
    }
}

fn to_new_stream(numbers: std::ops::Range<u64>) -> Append {
    let stream = StreamId::new(AggregateType::new("order").unwrap(), AggregateId::generate());
    Append::new(stream, ExpectedVersion::NoStream, events(numbers))
}

fn events(numbers: std::ops::Range<u64>) -> Vec<NewEvent> {
    numbers.map(|n| NewEvent::new(&OrderEvent::numbered(n)).unwrap()).collect()
}

async fn existing_by_hand(pool: SqlitePool, writer: u32, rounds: u64) {
    for round in 0..rounds {
        let (id, mut state) = (format!("{writer}-{}", round % EXISTING), State::default());
        let version = by_hand::load(&pool, &id, 0, &mut state).await.unwrap();
        by_hand::append(&pool, &id, version, [OrderEvent::numbered(version.cast_unsigned())]).await.unwrap();
    }
}

async fn existing_commands(orders: Repository<Order>, writer: u32, rounds: u64) {
    for round in 0..rounds {
        orders.execute(format!("{writer}-{}", round % EXISTING), Add(round)).await.unwrap();
    }
}

async fn commands_by_hand(pool: SqlitePool, rounds: u64) {
    let id = Uuid::now_v7().to_string();
    let mut state = KeptOrder::default();
    for version in 0..rounds.cast_signed() {
        let event = OrderEvent::numbered(version.cast_unsigned());
        by_hand::append(&pool, &id, version, [event.clone()]).await.unwrap();
        Apply::apply(&mut state, event);
    }
}

async fn commands(orders: Repository<KeptOrder>, rounds: u64) {
    let id = AggregateId::generate();
    for number in 0..rounds {
        orders.execute(&id, Add(number)).await.unwrap();
    }
}
