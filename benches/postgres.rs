//! PostgreSQL, beside hand-written sqlx on a plain table with the same columns and unique constraints. Runs when `POSTGRES_URL` names a
//! server, and says so if not.
//!
//! - `append`: one event each to new streams with UUID v7 ids, by so many writers at once. By hand: `BEGIN`, `INSERT`, `COMMIT` on a
//!   connection per writer (16 connections for more writers), without a version check.
//! - `load`: an aggregate of so many events. By hand: streamed rows, decoded and folded.
//! - `all`: 50,000 events in commits of one, or of 100, through `read_all` in pages of 1,000. By hand: the plain table, streamed.
//!
//! ```sh
//! POSTGRES_URL=postgres://postgres@127.0.0.1/postgres cargo bench --features postgres --bench postgres
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use futures::TryStreamExt;
use retell::event::{Metadata, NewEvent};
use retell::repository::RepositoryOptions;
use retell::store::Append;
use retell::store::postgres::{PostgresOptions, PostgresStore};
use retell::{
    AggregateId, AggregateType, EventReader, EventStore, ExpectedVersion, Filter, Position, Repository, StreamId,
};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Executor, Row};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use uuid::Uuid;

use support::by_hand::State;
use support::order::{Order, OrderEvent};

const ALL: u64 = 50_000;

fn main() {
    let Ok(url) = std::env::var("POSTGRES_URL") else {
        println!("POSTGRES_URL names no server: nothing is measured");
        return;
    };
    let mut criterion = support::criterion();
    let runtime = Runtime::new().unwrap();
    append(&mut criterion, &runtime, &url);
    load(&mut criterion, &runtime, &url);
    all(&mut criterion, &runtime, &url);
    criterion.final_summary();
}

/// A schema for each group: our log, and the plain table.
async fn open(url: &str, name: &str, connections: u32) -> (PostgresStore, PgPool) {
    let schema = format!("bench_{name}_{}", std::process::id());
    let options = url.parse::<sqlx::postgres::PgConnectOptions>().unwrap().options([("search_path", schema.as_str())]);
    let pool = PgPoolOptions::new().max_connections(connections).test_before_acquire(false);
    let pool = pool.connect_with(options).await.unwrap();
    let store = PostgresStore::open(pool.clone(), &PostgresOptions::new().with_schema(schema)).await.unwrap();
    pool.execute(PLAIN).await.unwrap();
    (store, pool)
}

fn append(criterion: &mut Criterion, runtime: &Runtime, url: &str) {
    let mut group = criterion.benchmark_group("postgres/append");
    for writers in [1_u32, 16, 128] {
        group.sample_size(10).throughput(Throughput::Elements(writers.into()));
        let (store, pool) = runtime.block_on(open(url, &format!("append{writers}"), 18));
        group.bench_function(BenchmarkId::new("by_hand", writers), |b| {
            b.iter_custom(|rounds| at_once(runtime, writers, || appends_by_hand(pool.clone(), rounds)));
        });
        group.bench_function(BenchmarkId::new("store", writers), |b| {
            b.iter_custom(|rounds| at_once(runtime, writers, || appends(store.clone(), rounds)));
        });
    }
    group.finish();
}

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

async fn appends_by_hand(pool: PgPool, rounds: u64) {
    for _ in 0..rounds {
        let mut tx = pool.begin().await.unwrap();
        insert(&mut tx, &Uuid::now_v7().to_string(), 1).await;
        tx.commit().await.unwrap();
    }
}

async fn insert(tx: &mut sqlx::PgConnection, id: &str, version: i64) {
    let event = new_event(version.unsigned_abs());
    sqlx::query(INSERT)
        .bind(event.id.as_uuid())
        .bind("order")
        .bind(id)
        .bind(version)
        .bind(event.event_type.as_str())
        .bind(&event.payload[..])
        .execute(tx)
        .await
        .unwrap();
}

async fn appends(store: PostgresStore, rounds: u64) {
    for _ in 0..rounds {
        store.append(to_stream(AggregateId::generate(), 0..1)).await.unwrap();
    }
}

fn to_stream(id: AggregateId, numbers: std::ops::Range<u64>) -> Append {
    let stream = StreamId::new(AggregateType::new("order").unwrap(), id);
    Append::new(stream, ExpectedVersion::Any, numbers.map(new_event).collect())
}

fn new_event(number: u64) -> NewEvent {
    NewEvent::encode(&OrderEvent::numbered(number), Metadata::default()).unwrap()
}

fn load(criterion: &mut Criterion, runtime: &Runtime, url: &str) {
    let (store, pool) = runtime.block_on(open(url, "load", 4));
    let options = RepositoryOptions::new().with_cached_aggregates(0);
    let orders = Repository::<Order>::with_options(Arc::new(store.clone()), options);
    let mut group = criterion.benchmark_group("postgres/load");
    for length in [100_u64, 1_000, 10_000] {
        let id = format!("of-{length}");
        runtime.block_on(async {
            store.append(to_stream(AggregateId::new(&id).unwrap(), 0..length)).await.unwrap();
            let mut tx = pool.begin().await.unwrap();
            for version in 1..=length.cast_signed() {
                insert(&mut tx, &id, version).await;
            }
            tx.commit().await.unwrap();
            pool.execute("ANALYZE").await.unwrap();
        });
        group.throughput(Throughput::Elements(length));
        group.bench_function(BenchmarkId::new("by_hand", length), |b| {
            b.to_async(runtime).iter(async || load_by_hand(&pool, &id).await);
        });
        group.bench_function(BenchmarkId::new("repository", length), |b| {
            b.to_async(runtime).iter(async || orders.load(&*id).await.unwrap());
        });
    }
    group.finish();
}

async fn load_by_hand(pool: &PgPool, id: &str) -> State {
    let mut rows = sqlx::query(LOAD).bind("order").bind(id).fetch(pool);
    fold(&mut rows).await
}

async fn fold(rows: &mut (impl futures::Stream<Item = sqlx::Result<sqlx::postgres::PgRow>> + Unpin)) -> State {
    let mut state = State::default();
    while let Some(row) = rows.try_next().await.unwrap() {
        state.fold(row.get(0), row.get(1)).unwrap();
    }
    state
}

fn all(criterion: &mut Criterion, runtime: &Runtime, url: &str) {
    for events in [1_u64, 100] {
        let (store, pool) = runtime.block_on(open(url, &format!("all{events}"), 4));
        runtime.block_on(fill(&store, &pool, events));
        let mut group = criterion.benchmark_group(format!("postgres/all/commits_of_{events}"));
        group.sample_size(10).throughput(Throughput::Elements(ALL));
        group.bench_function("by_hand", |b| {
            b.to_async(runtime).iter(async || {
                let mut rows = sqlx::query("SELECT event_type, payload FROM plain ORDER BY position").fetch(&pool);
                fold(&mut rows).await
            });
        });
        group.bench_function("read_all", |b| b.to_async(runtime).iter(async || count_all(&store).await));
        group.finish();
    }
}

/// The same events on both sides; commits of that many events.
async fn fill(store: &PostgresStore, pool: &PgPool, events: u64) {
    let commits = ALL / events;
    let mut done = 0;
    while done < commits {
        // One after another, so that group commit does not join them.
        let append = to_stream(AggregateId::generate(), 0..events);
        store.append(append).await.unwrap();
        done += 1;
    }
    store.head().await.unwrap();
    pool.execute(COPY_FROM_LOG).await.unwrap();
    pool.execute("VACUUM ANALYZE").await.unwrap();
}

async fn count_all(store: &PostgresStore) -> Order {
    let (mut counter, mut position) = (Order::default(), Position::ZERO);
    loop {
        let page = store.read_all(position, 1_000, &Filter::all()).await.unwrap();
        if page.through == position {
            return counter;
        }
        for event in &page.events {
            retell::Apply::apply(&mut counter, event.decode::<OrderEvent>().unwrap().event);
        }
        position = page.through;
    }
}

const PLAIN: &str = "
    CREATE TABLE plain (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        event_id uuid NOT NULL UNIQUE,
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        version bigint NOT NULL,
        event_type text NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT now(),
        payload bytea NOT NULL,
        UNIQUE (aggregate_type, aggregate_id, version)
    )";

/// Binds: event id, aggregate type, aggregate id, version, event type, payload.
const INSERT: &str = "
    INSERT INTO plain (event_id, aggregate_type, aggregate_id, version, event_type, payload) VALUES ($1, $2, $3, $4, $5, $6)";

const LOAD: &str =
    "SELECT event_type, payload FROM plain WHERE aggregate_type = $1 AND aggregate_id = $2 ORDER BY version";

const COPY_FROM_LOG: &str = "
    INSERT INTO plain (event_id, aggregate_type, aggregate_id, version, event_type, payload)
    SELECT e.event_id, e.aggregate_type, e.aggregate_id, e.version, e.event_type, e.payload
    FROM log l JOIN events e ON e.commit_id = l.commit_id ORDER BY l.first_position, e.ordinal";
