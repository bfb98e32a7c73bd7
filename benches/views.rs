//! Builds a view from an existing log: in memory, in SQLite, and in PostgreSQL if `POSTGRES_URL` is set. A worker builds it in batches, or
//! a `Rebuild` builds it.
//!
//! The log holds `EVENTS` events of orders (or the number given as the first argument), 190 bytes each. The view's key is an order, indexed
//! by its method of payment. The events of all keys alternate, so every batch is spread over all of them, which is the worst case. Log and
//! view are in the same kind of database. `read`: the log is read and decoded, and nothing is stored. With the second argument `rebuild`,
//! workers are left out. A figure is the median of three rounds, in events/s; each round builds a new view.
//!
//! ```sh
//! POSTGRES_URL=postgres://.. cargo bench -p retell-benches --bench views -- 1000000
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod support;

use std::time::{Duration, Instant};

use retell::event::NewEvent;
use retell::store::Append;
use retell::store::Fields;
use retell::worker::WorkerOptions;
use retell::{
    Envelope, EventReader, EventReaderExt, EventStore, ExpectedVersion, Filter, MemoryReadModel, MemoryStore, Position,
    PostgresReadModel, PostgresStore, Rebuild, SqliteReadModel, SqliteStore, StreamId, View, ViewStore, Views, Worker,
};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use support::order::OrderEvent;

const EVENTS: u64 = 300_000;

const ROUNDS: usize = 3;

/// Events per key, and events per batch if a worker builds the view.
const SHAPES: [(u64, Option<usize>); 6] =
    [(100, None), (10, None), (100, Some(1_000)), (100, Some(10_000)), (10, Some(1_000)), (10, Some(10_000))];

struct Orders {
    name: String,
    keys: u64,
}

#[derive(Debug, Default, Serialize, Deserialize, retell::Shape)]
struct Order {
    events: u64,
    items: u64,
    owed: u64,
    paid: u64,
    grams: u64,
    method: String,
    parcel: String,
}

impl View for Orders {
    const NAME: &'static str = "orders";
    type Event = OrderEvent;
    type State = Order;

    fn name(&self) -> &str {
        &self.name
    }

    fn key(&self, event: &Envelope<OrderEvent>) -> Option<String> {
        Some(format!("order-{}", event.position.get() % self.keys))
    }

    fn apply(&self, order: &mut Order, event: Envelope<OrderEvent>) {
        order.events += 1;
        match event.event {
            OrderEvent::Placed { items, total_cents, method, .. } => {
                order.items += items.iter().map(|item| u64::from(item.quantity)).sum::<u64>();
                order.owed += total_cents;
                order.method = method;
            }
            OrderEvent::Paid { cents, .. } => order.paid += cents,
            OrderEvent::Shipped { parcel, weight_grams, .. } => {
                order.grams += u64::from(weight_grams);
                order.parcel = parcel;
            }
        }
    }

    fn fields(&self, order: &Order) -> Fields {
        Fields::new().with("method", &order.method)
    }
}

#[tokio::main]
async fn main() {
    let events = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(EVENTS);
    println!("a view of {events} events: events a key, events a batch   events/s [least, most]");
    let memory = MemoryStore::new();
    write(&memory, events).await;
    measure("memory", &memory, events, async |_| MemoryReadModel::new()).await;
    drop(memory);

    let folder = support::directory();
    let log = SqliteStore::open(folder.path().join("log.db")).await.unwrap();
    write(&log, events).await;
    measure("sqlite", &log, events, async |round| {
        SqliteReadModel::open(folder.path().join(format!("views{round}.db"))).await.unwrap()
    })
    .await;

    let Ok(server) = std::env::var("POSTGRES_URL") else {
        return println!("POSTGRES_URL is not set: PostgreSQL is not measured");
    };
    let name = format!("views_{}", std::process::id());
    let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
    run(&server, format!("CREATE DATABASE {name}")).await;
    let log = PostgresStore::connect(&url).await.unwrap();
    write(&log, events).await;
    measure("postgres", &log, events, async |_| PostgresReadModel::connect(&url).await.unwrap()).await;
    log.close().await.unwrap();
    run(&server, format!("DROP DATABASE {name} WITH (FORCE)")).await;
}

async fn run(server: &str, sql: String) {
    let mut db = PgConnection::connect(server).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
}

async fn write(log: &impl EventStore, events: u64) {
    let numbers: Vec<u64> = (0..events).collect();
    for numbers in numbers.chunks(1_000) {
        let event = |number: &u64| NewEvent::new(&OrderEvent::numbered(*number)).unwrap();
        let stream = StreamId::parse("order", &numbers[0].to_string()).unwrap();
        let events = numbers.iter().map(event).collect();
        log.append(Append::new(stream, ExpectedVersion::NoStream, events)).await.unwrap();
    }
}

async fn measure<S: EventReader + Clone, M: ViewStore + Clone>(
    store: &str,
    log: &S,
    events: u64,
    models: impl AsyncFn(usize) -> M,
) {
    let read = rounds(async |_| read(log).await).await;
    println!("{store:>10} read                {}", figure(&read, events));
    let only_rebuilds = std::env::args().any(|argument| argument == "rebuild");
    let shapes = SHAPES.into_iter().enumerate().filter(|(_, (_, batch))| !only_rebuilds || batch.is_none());
    for (number, (each, batch)) in shapes {
        let build = async |round| {
            let round = number * ROUNDS + round;
            let view = Orders { name: format!("orders{round}"), keys: events / each };
            build(view, log, models(round).await, batch, events).await
        };
        let by = batch.map_or_else(|| "rebuild".into(), |batch| batch.to_string());
        println!("{store:>10} {each:>8} {by:>10} {}", figure(&rounds(build).await, events));
    }
}

async fn rounds(round: impl AsyncFn(usize) -> Duration) -> Vec<Duration> {
    let mut times = Vec::new();
    for number in 0..ROUNDS {
        times.push(round(number).await);
    }
    times.sort();
    times
}

fn figure(times: &[Duration], events: u64) -> String {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a figure to be read")]
    let each: Vec<_> = times.iter().map(|time| (events as f64 / time.as_secs_f64()) as i64).collect();
    format!("{:>10} [{}, {}]", each[ROUNDS / 2], each[ROUNDS - 1], each[0])
}

async fn read(log: &impl EventReader) -> Duration {
    let (began, mut after) = (Instant::now(), Position::ZERO);
    loop {
        let page = log.read_all(after, 10_000, &Filter::of::<OrderEvent>().unwrap()).await.unwrap();
        if page.through == after {
            return began.elapsed();
        }
        after = page.through;
        for event in page.events {
            event.decode::<OrderEvent>().unwrap();
        }
    }
}

async fn build<S: EventReader + Clone, M: ViewStore + Clone>(
    view: Orders,
    log: &S,
    models: M,
    batch: Option<usize>,
    events: u64,
) -> Duration {
    let (keys, views) = (view.keys, Views::new(&view, models.clone()));
    let took = match batch {
        None => rebuild(view, log, models).await,
        Some(batch) => catch_up(view, log, models, batch, events).await,
    };
    let first = views.get("order-0").await.unwrap().unwrap();
    assert_eq!(first.events, events / keys);
    took
}

async fn rebuild<S: EventReader + Clone, M: ViewStore + Clone>(view: Orders, log: &S, models: M) -> Duration {
    let (rebuild, began) = (Rebuild::new(view, log.clone(), models), Instant::now());
    rebuild.run(CancellationToken::new()).await.unwrap();
    began.elapsed()
}

async fn catch_up<S: EventReader + Clone, M: ViewStore + Clone>(
    view: Orders,
    log: &S,
    models: M,
    batch: usize,
    events: u64,
) -> Duration {
    let worker = Worker::view(view, log.clone(), models).with_options(WorkerOptions::new().with_batch_events(batch));
    let began = Instant::now();
    let caught_up = tokio::spawn(async move { worker.catch_up().await }).await.unwrap().unwrap();
    assert_eq!(caught_up.position.get(), events);
    began.elapsed()
}
