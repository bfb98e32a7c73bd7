//! The time from the answer to an append until a reader sees the event, on PostgreSQL, next to 16 busy writers. The logs have 100,000 and
//! 1,000,000 commits, and with `--full` also 10,000,000. The server's settings are its defaults: the planner's estimates grow with the number
//! of commits, the work of a statement must not. Target: a median below 5 ms on a quiet machine.
//!
//! ```sh
//! POSTGRES_URL=postgres://.. cargo bench -p retell-benches --bench visibility -- --full
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod support;

use std::time::{Duration, Instant};

use retell::event::NewEvent;
use retell::store::Append;
use retell::{
    AggregateId, AggregateType, EventReader, EventReaderExt, EventStore, ExpectedVersion, Filter, PostgresStore,
    StreamId,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use support::order::OrderEvent;

const SIZES: [u64; 3] = [100_000, 1_000_000, 10_000_000];

const WRITERS: usize = 16;

/// Events whose way to the reader is measured.
const MEASURED: usize = 501;

#[tokio::main]
async fn main() {
    let full = std::env::args().any(|argument| argument == "--full");
    let Ok(server) = std::env::var("POSTGRES_URL") else {
        return println!("POSTGRES_URL is not set: PostgreSQL is not measured");
    };
    println!("| commits | median, ms | 99 %, ms | longest, ms | appends/s of the writers |");
    println!("|---|---|---|---|---|");
    for &size in if full { &SIZES[..] } else { &SIZES[..2] } {
        let name = format!("visibility_{}_{size}", std::process::id());
        run(&server, format!("CREATE DATABASE {name}")).await;
        measure(&format!("{}/{name}", server.rsplit_once('/').unwrap().0), size).await;
        run(&server, format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }
}

async fn run(server: &str, sql: String) {
    let mut db = PgConnection::connect(server).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
}

async fn measure(url: &str, size: u64) {
    PostgresStore::connect(url).await.unwrap().close().await.unwrap();
    for sql in FILL {
        run(url, sql.replace("{size}", &size.to_string())).await;
    }
    let (writer, reader) = (PostgresStore::connect(url).await.unwrap(), PostgresStore::connect(url).await.unwrap());
    let stop = CancellationToken::new();
    let began = Instant::now();
    let writers: JoinSet<_> = (0..WRITERS).map(|_| write_until(writer.clone(), stop.clone())).collect();
    let probe = PostgresStore::connect(url).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..MEASURED {
        let appended = probe.append(one_event()).await.unwrap();
        let began = Instant::now();
        let position = loop {
            if let Some(position) = reader.position_of(appended.token()).await.unwrap() {
                break position;
            }
        };
        let page = reader.read_all(retell::Position::new(position.get() - 1), 1, &Filter::all()).await.unwrap();
        assert!(page.through >= position);
        times.push(began.elapsed().as_secs_f64() * 1_000.0);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    let appends: u32 = writers.join_all().await.into_iter().sum();
    let rate = f64::from(appends) / began.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("| {size} | {:.2} | {:.2} | {:.2} | {rate:.0} |", at(50), at(99), at(100));
}

/// Returns the number of appends.
async fn write_until(log: PostgresStore, stop: CancellationToken) -> u32 {
    let mut appends = 0;
    while !stop.is_cancelled() {
        log.append(one_event()).await.unwrap();
        appends += 1;
    }
    appends
}

fn one_event() -> Append {
    let stream = StreamId::new(AggregateType::new("order").unwrap(), AggregateId::generate());
    let event = NewEvent::new(&OrderEvent::numbered(0)).unwrap();
    Append::new(stream, ExpectedVersion::NoStream, vec![event])
}

/// Writes commits of one event each, every one in a transaction of its own, as a live log has them.
const FILL: [&str; 3] = [
    "DO $$
     BEGIN
        PERFORM set_config('synchronous_commit', 'off', false);
        FOR n IN 1..{size} LOOP
            INSERT INTO retell.events (commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec,
                recorded_at, payload)
            VALUES (n, 1, gen_random_uuid(), 'order', 'filled-' || n, 1, 'order.placed', 1, 0, now(), '{}');
            INSERT INTO retell.commits (lane, commit_id, events, recorded_at) VALUES (n % 32, n, 1, now());
            INSERT INTO retell.log (first_position, commit_id, events, recorded_at) VALUES (n, n, 1, now());
            COMMIT;
        END LOOP;
     END $$",
    "UPDATE retell.lanes SET sequenced = {size}; SELECT setval('retell.commit_number', {size})",
    "VACUUM ANALYZE",
];
