//! How fast a log is verified, sealed, exported and imported, in events/s: 1,000,000 events in streams of 100, each with a payload of 200 bytes. Runs on SQLite, and
//! on PostgreSQL if `POSTGRES_URL` is set.
//!
//! - `verify`: before the log has seals. Includes the checks of idempotency keys, progress and inboxes, which are empty.
//! - `seal`: 1,000 events for each seal.
//! - `verify sealed`: with a digest of every event.
//! - `export`, `import`: without compression, in memory, and into another log of the same kind.
//!
//! ```sh
//! POSTGRES_URL=postgres://.. cargo bench -p retell-benches --bench verify
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]
#![expect(clippy::cast_precision_loss, reason = "figures to be read")]

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use retell::event::NewEvent;
use retell::operate::{self, ArchiveOptions, SealOptions, VerifyOptions};
use retell::store::{Append, Archive, EventStore, ReadModel, RelayStore};
use retell::{Codec, EventId, EventType, ExpectedVersion, PostgresStore, SqliteReadModel, SqliteStore, StreamId};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

const EVENTS: u64 = 1_000_000;

/// Events of an append, all of one stream.
const APPENDED: u64 = 10;

/// Appends that run concurrently while a log is filled.
const WRITERS: u64 = 100;

const STREAM: u64 = 100;

async fn fill(log: &impl EventStore) {
    let event_type = EventType::new("order.placed").unwrap();
    let payload = format!("{{\"text\":\"{}\"}}", "x".repeat(189));
    let append = |number: u64| {
        let stream = StreamId::parse("order", &(number % (EVENTS / STREAM)).to_string()).unwrap();
        let event =
            || NewEvent::stored(EventId::generate(), event_type.clone(), 1, Codec::Json, payload.clone().into());
        log.append(Append::new(stream, ExpectedVersion::Any, (0..APPENDED).map(|_| event()).collect()))
    };
    for first in (0..EVENTS / APPENDED).step_by(usize::try_from(WRITERS).unwrap()) {
        try_join_all((first..first + WRITERS).map(append)).await.unwrap();
    }
    // The positions, on a server.
    assert_eq!(log.head().await.unwrap().get(), EVENTS);
}

async fn measure<L: EventStore + RelayStore + Archive>(
    store: &str,
    (log, models): (&L, &impl ReadModel),
    (copy, others): (&L, &impl ReadModel),
) {
    fill(log).await;
    let print =
        |what: &str, took: Duration| println!("{store:<10} {what:<13} {:>9.0}", EVENTS as f64 / took.as_secs_f64());
    let begun = Instant::now();
    let verified = operate::verify(log, models, VerifyOptions::new()).await.unwrap();
    print("verify", begun.elapsed());
    assert!(verified.is_whole(), "{verified:?}");
    let begun = Instant::now();
    let sealed = operate::seal(log, SealOptions::new()).await.unwrap();
    print("seal", begun.elapsed());
    let begun = Instant::now();
    let verified = operate::verify(log, models, VerifyOptions::new()).await.unwrap();
    print("verify sealed", begun.elapsed());
    assert!(verified.is_whole() && verified.seals.count == sealed.seals, "{verified:?}");
    let mut file = Vec::new();
    let begun = Instant::now();
    operate::export(log, models, &mut file, ArchiveOptions::new().without_compression()).await.unwrap();
    print("export", begun.elapsed());
    let begun = Instant::now();
    let imported = operate::import(copy, others, &file[..], ArchiveOptions::new()).await.unwrap();
    print("import", begun.elapsed());
    assert_eq!(imported.rows.events, EVENTS);
}

async fn in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let open = async |name: &str| {
        let path = folder.path().join(name);
        let models = SqliteReadModel::open(path.with_extension("models")).await.unwrap();
        (SqliteStore::open(path).await.unwrap(), models)
    };
    let ((log, models), (copy, others)) = (open("log.db").await, open("copy.db").await);
    measure("SQLite", (&log, &models), (&copy, &others)).await;
    for (log, models) in [(log, models), (copy, others)] {
        log.close().await.unwrap();
        models.close().await.unwrap();
    }
}

async fn in_postgres(server: &str) {
    let run = async |sql: String| {
        let mut db = PgConnection::connect(server).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
    };
    let names = ["log", "copy"].map(|name| format!("retell_verify_{}_{name}", std::process::id()));
    let mut logs = Vec::new();
    for name in &names {
        run(format!("CREATE DATABASE {name}")).await;
        let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
        logs.push(PostgresStore::connect(&url).await.unwrap());
    }
    let [log, copy] = [&logs[0], &logs[1]];
    measure("PostgreSQL", (log, &log.read_model()), (copy, &copy.read_model())).await;
    for (log, name) in logs.iter().zip(&names) {
        log.close().await.unwrap();
        run(format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!("{:<10} {:<13} {:>9}", "store", "", "events/s");
    runtime.block_on(in_sqlite());
    if let Ok(server) = std::env::var("POSTGRES_URL") {
        runtime.block_on(in_postgres(&server));
    }
}
