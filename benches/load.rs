//! Loads from SQLite, compared with a hand-written loop over sqlx (prepared statements, streamed rows) and serde_json on the same file.
//!
//! - `load`: an aggregate of 10 to 100,000 events, not cached, without snapshots. Target: twice the speed of `by_hand` at 10,000. `limit`
//!   is rusqlite on the calling thread; `compact` uses the compact codec, `memory` the in-memory store.
//! - `snapshot`: an aggregate with a snapshot 50 events back, at version 150 and at 100,050. Target: within a factor of 2 of each other.
//! - `hot`: a cached aggregate that is up to date. The hand-written side keeps a state and queries newer events.
//! - `all`: 200,000 events of 2,000 aggregates, decoded and folded into a counter, by a worker with a projection and page by page. Target:
//!   twice the speed of `by_hand`, which streams.
//!
//! ```sh
//! cargo bench -p retell-benches --bench load
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod support;

use std::path::Path;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput};
use retell::event::NewEvent;
use retell::repository::RepositoryOptions;
use retell::rusqlite::Connection;
use retell::store::sqlite::{SqliteOptions, Synchronous};
use retell::store::{Append, Snapshot};
use retell::{
    Aggregate, Apply, BoxError, Envelope, Event, EventReaderExt, EventStore, ExpectedVersion, Filter, MemoryReadModel,
    MemoryStore, Position, Projection, Repository, SqliteStore, StreamId, Version, Worker,
};
use sqlx::SqlitePool;
use tokio::runtime::Runtime;

use support::by_hand::{State, sqlite as by_hand};
use support::limit;
use support::order::{CompactEvent, CompactOrder, KeptOrder, Order, OrderEvent};

/// Events per append while a file is filled.
const FILL: u64 = 1_000;

const LENGTHS: [u64; 5] = [10, 100, 1_000, 10_000, 100_000];

const SNAPSHOTS: [u64; 2] = [100, 100_000];

fn main() {
    let mut criterion = support::criterion();
    let runtime = Runtime::new().unwrap();
    let directory = support::directory();
    one_aggregate(&mut criterion, &runtime, &directory.path().join("streams.db"));
    all_events(&mut criterion, &runtime, &directory.path().join("log.db"));
    criterion.final_summary();
}

fn one_aggregate(criterion: &mut Criterion, runtime: &Runtime, path: &Path) {
    let memory = MemoryStore::new();
    let (store, pool) = runtime.block_on(async {
        let store = open(path).await;
        for length in LENGTHS {
            fill(&store, &format!("of-{length}"), 0..length, OrderEvent::numbered).await;
            fill(&store, &format!("compact-{length}"), 0..length, CompactEvent::numbered).await;
            fill(&memory, &format!("of-{length}"), 0..length, OrderEvent::numbered).await;
        }
        for version in SNAPSHOTS {
            fill_around_snapshot(&store, version).await;
        }
        (store, by_hand::open(path, 2).await)
    });
    load(criterion, runtime, &store, &pool, &memory, &limit::open(path));
    snapshot(criterion, runtime, &store, &pool);
    hot(criterion, runtime, &store, &pool);
    runtime.block_on(pool.close());
}

fn load(
    criterion: &mut Criterion,
    runtime: &Runtime,
    store: &SqliteStore,
    pool: &SqlitePool,
    memory: &MemoryStore,
    limit: &Connection,
) {
    let (orders, compact) = (uncached::<Order>(store), uncached::<CompactOrder>(store));
    let in_memory = uncached::<Order>(memory);
    let mut group = criterion.benchmark_group("load");
    for length in LENGTHS {
        let (id, compact_id) = (format!("of-{length}"), format!("compact-{length}"));
        group.throughput(Throughput::Elements(length)).sample_size(if length < 100_000 { 20 } else { 10 });
        group.bench_function(BenchmarkId::new("by_hand", length), |b| {
            b.to_async(runtime).iter(async || {
                let mut state = State::default();
                by_hand::load(pool, &id, 0, &mut state).await.unwrap();
                state
            });
        });
        group.bench_function(BenchmarkId::new("repository", length), |b| {
            b.to_async(runtime).iter(async || orders.load(&*id).await.unwrap());
        });
        group.bench_function(BenchmarkId::new("compact", length), |b| {
            b.to_async(runtime).iter(async || compact.load(&*compact_id).await.unwrap());
        });
        group.bench_function(BenchmarkId::new("memory", length), |b| {
            b.to_async(runtime).iter(async || in_memory.load(&*id).await.unwrap());
        });
        group.bench_function(BenchmarkId::new("limit", length), |b| b.iter(|| limit::load(limit, &id)));
    }
    group.finish();
}

fn snapshot(criterion: &mut Criterion, runtime: &Runtime, store: &SqliteStore, pool: &SqlitePool) {
    let orders = uncached::<KeptOrder>(store);
    let mut group = criterion.benchmark_group("snapshot");
    for version in SNAPSHOTS {
        let id = format!("snapshot-{version}");
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("by_hand", version + 50), |b| {
            b.to_async(runtime).iter(async || by_hand::load_from_snapshot(pool, &id).await.unwrap());
        });
        group.bench_function(BenchmarkId::new("repository", version + 50), |b| {
            b.to_async(runtime).iter(async || orders.load(&*id).await.unwrap());
        });
    }
    group.finish();
}

fn hot(criterion: &mut Criterion, runtime: &Runtime, store: &SqliteStore, pool: &SqlitePool) {
    let orders = Repository::<Order>::new(store.clone());
    let mut known = State::default();
    let version = runtime.block_on(by_hand::load(pool, "of-1000", 0, &mut known)).unwrap();
    let mut group = criterion.benchmark_group("hot");
    group.throughput(Throughput::Elements(1));
    group.bench_function("by_hand", |b| {
        b.to_async(runtime).iter(async || {
            let mut state = known.clone();
            by_hand::load(pool, "of-1000", version, &mut state).await.unwrap();
            state
        });
    });
    group.bench_function("repository", |b| {
        b.to_async(runtime).iter(async || orders.load("of-1000").await.unwrap());
    });
    group.finish();
}

fn all_events(criterion: &mut Criterion, runtime: &Runtime, path: &Path) {
    let (store, pool) = runtime.block_on(async {
        let store = open(path).await;
        // Append one event per stream in turn, so that the streams are interleaved as in a real log.
        for round in 0..100 {
            let streams = (0..2_000).map(|order| {
                (stream(&format!("order-{order}")), vec![encoded(&OrderEvent::numbered(round * 2_000 + order))])
            });
            let append = streams
                .fold(None, |append: Option<Append>, (stream, events)| {
                    Some(match append {
                        None => Append::new(stream, ExpectedVersion::Any, events),
                        Some(append) => append.with_stream(stream, ExpectedVersion::Any, events),
                    })
                })
                .unwrap();
            store.append(append).await.unwrap();
        }
        (store, by_hand::open(path, 2).await)
    });
    let mut group = criterion.benchmark_group("all");
    group.sample_size(10).throughput(Throughput::Elements(200_000));
    group.bench_function("by_hand", |b| {
        b.to_async(runtime).iter(async || by_hand::count_all(&pool).await.unwrap());
    });
    for page in [500, 1_000] {
        group.bench_function(BenchmarkId::new("read_all", page), |b| {
            b.to_async(runtime).iter(async || count_all(&store, page).await);
        });
    }
    group.bench_function("worker", |b| {
        b.to_async(runtime).iter(async || project_all(&store).await);
    });
    group.finish();
    runtime.block_on(pool.close());
}

/// A projection that counts in batches, like one that keeps its model in memory.
struct Counting;

#[retell::async_trait]
impl Projection for Counting {
    const NAME: &'static str = "counting";
    type Event = OrderEvent;
    type Tx = Order;

    async fn apply(&self, counter: &mut Order, event: Envelope<OrderEvent>) -> Result<(), BoxError> {
        Apply::apply(counter, event.event);
        Ok(())
    }

    async fn apply_batch(&self, counter: &mut Order, events: Vec<Envelope<OrderEvent>>) -> Result<(), BoxError> {
        for event in events {
            Apply::apply(counter, event.event);
        }
        Ok(())
    }
}

async fn project_all(store: &SqliteStore) -> Arc<Order> {
    let model = MemoryReadModel::with_value(Order::default());
    Worker::new(Counting, store.clone(), model.clone()).catch_up().await.unwrap();
    model.value()
}

async fn count_all(store: &SqliteStore, page: usize) -> Order {
    let (mut counter, mut position) = (Order::default(), Position::ZERO);
    loop {
        let page = store.read_all(position, page, &Filter::all()).await.unwrap();
        if page.through == position {
            return counter;
        }
        for event in &page.events {
            Apply::apply(&mut counter, event.decode::<OrderEvent>().unwrap().event);
        }
        position = page.through;
    }
}

async fn open(path: &Path) -> SqliteStore {
    let options = SqliteOptions::new().with_synchronous(Synchronous::Normal);
    SqliteStore::open_with(path, options).await.unwrap()
}

fn uncached<A: Aggregate>(store: &(impl EventStore + Clone)) -> Repository<A> {
    Repository::new(store.clone()).with_options(RepositoryOptions::new().with_cached_aggregates(0))
}

fn stream(id: &str) -> StreamId {
    StreamId::parse("order", id).unwrap()
}

fn encoded(event: &impl Event) -> NewEvent {
    NewEvent::new(event).unwrap()
}

async fn fill<E: Event>(store: &impl EventStore, id: &str, numbers: std::ops::Range<u64>, numbered: fn(u64) -> E) {
    let mut first = numbers.start;
    while first < numbers.end {
        let end = numbers.end.min(first + FILL);
        let events = (first..end).map(|number| encoded(&numbered(number))).collect();
        store.append(Append::new(stream(id), ExpectedVersion::Exact(Version::new(first)), events)).await.unwrap();
        first = end;
    }
}

/// Writes a snapshot at `version` and 50 events after it: half the distance between snapshots with a policy of 100.
async fn fill_around_snapshot(store: &SqliteStore, version: u64) {
    let id = format!("snapshot-{version}");
    fill(store, &id, 0..version, OrderEvent::numbered).await;
    let loaded = uncached::<KeptOrder>(store).load(&*id).await.unwrap();
    let (fingerprint, state) = (KeptOrder::fingerprint(), loaded.state.to_snapshot().unwrap());
    store
        .save_snapshot(&stream(&id), Snapshot::new(loaded.version, loaded.last_event().unwrap(), fingerprint, state))
        .await
        .unwrap();
    fill(store, &id, version..version + 50, OrderEvent::numbered).await;
}
