//! Measures the steps that a process manager takes: on SQLite, and on the PostgreSQL that `POSTGRES_URL` names.
//!
//! The log holds `EVENTS` orders' events (or as many as the first argument says). Each one leads to a step of its order's process, and that to a
//! command to the order's payment, through a `Repository`, which writes an event: so there are as many steps as commands. With one event an
//! order each process and each payment is new; with ten, those of an order are spread over the log, and both are in the caches.
//! Log and deadlines are in the same database, on SQLite in two files. A figure is the median of three rounds, in steps/s.
//!
//! ```sh
//! POSTGRES_URL=postgres://.. cargo bench -p retell-benches --bench process [-- EVENTS]
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod support;

use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use retell::event::NewEvent;
use retell::process::{CommandFailure, Effects, Process, ProcessManager};
use retell::store::postgres::PostgresOptions;
use retell::store::{Append, DeadlineStore};
use retell::{
    Aggregate, AggregateId, Apply, Context, Envelope, Event, EventStore, ExpectedVersion, Handle, PostgresStore,
    Repository, SqliteReadModel, SqliteStore, StreamId, async_trait,
};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use support::order::OrderEvent;

const EVENTS: u64 = 20_000;

const ROUNDS: usize = 3;

/// Events of each order.
const SHAPES: [u64; 2] = [1, 10];

#[derive(Debug, Clone, Event)]
enum PaymentEvent {
    #[event("payment.charged")]
    Charged { cents: u64 },
}

#[derive(Debug, Clone, Default, Aggregate)]
#[aggregate("payment", event = PaymentEvent, snapshots = never)]
struct Payment {
    cents: u64,
}

impl Apply<PaymentEvent> for Payment {
    fn apply(&mut self, PaymentEvent::Charged { cents }: PaymentEvent) {
        self.cents += cents;
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Charge {
    cents: u64,
}

impl Handle<Charge> for Payment {
    type Error = Infallible;

    fn handle(&self, Charge { cents }: &Charge) -> Result<Vec<PaymentEvent>, Infallible> {
        Ok(vec![PaymentEvent::Charged { cents: *cents }])
    }
}

struct Paying {
    payments: Repository<Payment>,
}

#[async_trait]
impl Process for Paying {
    const NAME: &'static str = "paying";
    type Event = OrderEvent;
    /// The amount to charge.
    type State = u64;
    type Command = Charge;

    fn key(&self, event: &Envelope<OrderEvent>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, charged: &mut u64, event: &Envelope<OrderEvent>, effects: &mut Effects<Charge>) {
        let cents = event.version.get() * 100 + *charged % 100;
        *charged += cents;
        effects.send(Charge { cents });
    }

    async fn execute(&self, order: &AggregateId, charge: Charge, context: Context) -> Result<(), CommandFailure> {
        self.payments.execute_with(order.clone(), charge, context).await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() {
    let events = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(EVENTS);
    println!("{events} events, a step and a command each: events an order   steps/s [least, most]");
    let folder = support::directory();
    for each in SHAPES {
        let round = async |round: usize| {
            let log = SqliteStore::open(folder.path().join(format!("{each}-{round}.db"))).await.unwrap();
            // In a file of its own: a batch's transaction is open while its steps are appended.
            let models = SqliteReadModel::open(folder.path().join(format!("{each}-{round}-models.db"))).await.unwrap();
            steps(log, models, events, each).await
        };
        measure("sqlite", events, each, round).await;
    }
    let Ok(url) = std::env::var("POSTGRES_URL") else {
        return println!("POSTGRES_URL names no server: nothing is measured there");
    };
    for each in SHAPES {
        let round = async |round: usize| {
            let schema = format!("process_{}_{each}_{round}", std::process::id());
            let pool = PgPoolOptions::new().test_before_acquire(false).connect(&url).await.unwrap();
            let log = PostgresStore::open_with(pool, PostgresOptions::new().with_schema(&schema)).await.unwrap();
            let models = log.read_model();
            let took = steps(log.clone(), models, events, each).await;
            log.close().await.unwrap();
            let mut server = PgConnection::connect(&url).await.unwrap();
            server.execute(AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"))).await.unwrap();
            took
        };
        measure("postgres", events, each, round).await;
    }
}

async fn measure(store: &str, events: u64, each: u64, round: impl AsyncFn(usize) -> Duration) {
    let mut times = Vec::new();
    for number in 0..ROUNDS {
        times.push(round(number).await);
    }
    times.sort();
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a figure to be read")]
    let figures: Vec<_> = times.iter().map(|time| (events as f64 / time.as_secs_f64()) as i64).collect();
    println!("{store:>10} {each:>8} {:>10} [{}, {}]", figures[ROUNDS / 2], figures[ROUNDS - 1], figures[0]);
}

/// The time from the first event to the end of the last one's command.
async fn steps<S, M>(log: S, models: M, events: u64, each: u64) -> Duration
where
    S: EventStore + Clone,
    M: DeadlineStore + Clone,
{
    write(&log, events, each).await;
    let orders = log.head().await.unwrap();
    let manager = ProcessManager::new(Paying { payments: Repository::new(log.clone()) }, log.clone(), models);
    let began = Instant::now();
    let caught_up = manager.catch_up().await.unwrap();
    let took = began.elapsed();
    assert_eq!((caught_up.position, caught_up.parked), (orders, Vec::new()));
    // The order's event, its step, and the payment's event.
    assert_eq!(log.head().await.unwrap().get(), 3 * events);
    took
}

/// The first events of all orders, then the second ones, and so on.
async fn write(log: &impl EventStore, events: u64, each: u64) {
    let orders = events / each;
    for numbers in (0..events).collect::<Vec<_>>().chunks(500) {
        let appends = numbers.iter().map(|number| {
            let event = NewEvent::new(&OrderEvent::numbered(*number)).unwrap();
            let stream = StreamId::parse("order", &format!("order-{}", number % orders)).unwrap();
            log.append(Append::new(stream, ExpectedVersion::Any, vec![event]))
        });
        try_join_all(appends).await.unwrap();
    }
}
