//! How long `operate::status` takes on a log of 1,000,000 events in PostgreSQL, with `--full` on 10,000,000, and how much it slows appends
//! down. The store is open. Three processors and a relay have checkpoints in different places of the log.
//!
//! - `idle`: nothing else uses the server.
//! - `under load`: 8 writers append one event at a time to new streams.
//! - `appends`: events/s in turns of five seconds without a call and with a call every second, and the ratio of each pair.
//!
//! Targets under load: 100 ms, and a ratio of 0.98.
//!
//! ```sh
//! POSTGRES_URL=postgres://.. cargo bench -p retell-benches --bench status -- --full
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]
#![expect(clippy::cast_precision_loss, reason = "figures to be read")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use retell::event::NewEvent;
use retell::operate;
use retell::store::{Append, RelayStore, Step};
use retell::{
    AggregateId, AggregateType, Codec, EventId, EventReader, EventStore, EventType, ExpectedVersion, Position,
    PostgresStore, ProjectionName, ReadModel, StreamId,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Events of an append while the log is filled.
const FILL: u64 = 1_000;

const WRITERS: usize = 8;

/// Calls while nothing else happens, and under load.
const CALLS: usize = 100;

const TURN: Duration = Duration::from_secs(5);

/// Pairs of turns.
const PAIRS: usize = 12;

#[tokio::main]
async fn main() {
    let Ok(server) = std::env::var("POSTGRES_URL") else {
        println!("POSTGRES_URL is not set: nothing is measured");
        return;
    };
    let size = if std::env::args().any(|argument| argument == "--full") { 10_000_000 } else { 1_000_000 };
    let name = format!("retell_status_{}", std::process::id());
    run(&server, format!("CREATE DATABASE {name}")).await;
    let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
    let log = PostgresStore::connect(&url).await.unwrap();
    fill(&log, size).await;
    place(&log, size).await;
    for upkeep in ["VACUUM ANALYZE", "CHECKPOINT"] {
        run(&url, upkeep.into()).await;
    }
    measure(&log).await;
    log.close().await.unwrap();
    run(&server, format!("DROP DATABASE {name} WITH (FORCE)")).await;
}

async fn run(server: &str, sql: String) {
    let mut db = PgConnection::connect(server).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
}

fn event() -> NewEvent {
    let payload = format!("{{\"text\":\"{}\"}}", "x".repeat(89));
    NewEvent::stored(EventId::generate(), EventType::new("order.placed").unwrap(), 1, Codec::Json, payload.into())
}

async fn append(log: &PostgresStore, events: u64) {
    let stream = StreamId::new(AggregateType::new("order").unwrap(), AggregateId::generate());
    let events = (0..events).map(|_| event()).collect();
    log.append(Append::new(stream, ExpectedVersion::NoStream, events)).await.unwrap();
}

async fn fill(log: &PostgresStore, size: u64) {
    for _ in 0..size / FILL {
        append(log, FILL).await;
    }
    assert_eq!(log.head().await.unwrap().get(), size);
}

/// Gives three processors and a relay a checkpoint: at the end, in the middle and near the beginning.
async fn place(log: &PostgresStore, size: u64) {
    let models = log.read_model();
    for (name, position) in [("totals", size), ("customers", size / 2), ("search", 1_000)] {
        let projection = ProjectionName::new(name).unwrap();
        let step = Step::new(&projection, Position::ZERO, Position::new(position));
        models.commit(step, Box::new(|_| Box::pin(async { Ok(()) }))).await.unwrap();
    }
    let fence = log.acquire_lease("main", Uuid::now_v7(), Duration::from_secs(1)).await.unwrap().unwrap();
    log.advance("main", Position::new(size / 2).into(), fence).await.unwrap();
}

async fn measure(log: &PostgresStore) {
    let report = operate::status(log, &log.read_model()).await.unwrap();
    assert_eq!(report.processors.items.len(), 3);
    print("idle", &calls(log).await);
    let (load, stop) = (Load::begin(log), CancellationToken::new());
    sleep(TURN).await;
    print("under load", &calls(log).await);
    let mut ratios = Vec::new();
    println!("{:<12} {:>9} {:>9} {:>6}", "appends", "without", "with", "ratio");
    for pair in 0..PAIRS {
        // The order alternates, so that a machine that becomes slower favors neither.
        let mut rates = [0.0; 2];
        for with in if pair % 2 == 0 { [0, 1] } else { [1, 0] } {
            let stop = stop.child_token();
            let caller = (with == 1).then(|| tokio::spawn(call_every_second(log.clone(), stop.clone())));
            rates[with] = load.rate().await;
            stop.cancel();
            if let Some(caller) = caller {
                caller.await.unwrap();
            }
        }
        let ratio = rates[1] / rates[0];
        println!("{:<12} {:>9.0} {:>9.0} {ratio:>6.3}", "", rates[0], rates[1]);
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    println!("{:<12} {:>26.3}", "median", f64::midpoint(ratios[PAIRS / 2 - 1], ratios[PAIRS / 2]));
    load.end().await;
}

/// Returns the times of the calls in milliseconds, in order.
async fn calls(log: &PostgresStore) -> Vec<f64> {
    let (models, mut times) = (log.read_model(), Vec::new());
    for _ in 0..CALLS {
        let begun = Instant::now();
        operate::status(log, &models).await.unwrap();
        times.push(begun.elapsed().as_secs_f64() * 1_000.0);
        sleep(Duration::from_millis(50)).await;
    }
    times.sort_by(f64::total_cmp);
    times
}

fn print(what: &str, times: &[f64]) {
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!("{what:<12} median {:.1} ms, 95 % {:.1} ms, slowest {:.1} ms", at(50), at(95), at(100));
}

async fn call_every_second(log: PostgresStore, stop: CancellationToken) {
    let (models, mut seconds) = (log.read_model(), interval(Duration::from_secs(1)));
    while stop.run_until_cancelled(seconds.tick()).await.is_some() {
        operate::status(&log, &models).await.unwrap();
    }
}

/// Writers in the background.
struct Load {
    appended: Arc<AtomicU64>,
    stop: CancellationToken,
    writers: JoinSet<()>,
}

impl Load {
    fn begin(log: &PostgresStore) -> Self {
        let (appended, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let writer = |_| {
            let (log, appended, stop) = (log.clone(), appended.clone(), stop.clone());
            async move {
                while !stop.is_cancelled() {
                    append(&log, 1).await;
                    appended.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        Self { writers: (0..WRITERS).map(writer).collect(), appended, stop }
    }

    /// Returns the appends per second in one turn.
    async fn rate(&self) -> f64 {
        let (before, begun) = (self.appended.load(Ordering::Relaxed), Instant::now());
        sleep(TURN).await;
        (self.appended.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64()
    }

    async fn end(self) {
        self.stop.cancel();
        self.writers.join_all().await;
    }
}
