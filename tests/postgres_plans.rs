//! A session plans a statement once, possibly while a table is still empty or small, and the planner's statistics can be as old. Frequent
//! statements must look up rows by key even then. Needs `POSTGRES_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/postgres.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod postgres;

use std::time::Duration;

use retell::store::postgres::{PostgresOptions, PostgresStore};
use retell::store::{Append, Replay};
use retell::testing::store::{events, replayed, stream};
use retell::{
    Claim, CorrelationId, EventReader, EventReaderExt, EventStore, ExpectedVersion, Filter, IdempotencyKey, Metadata,
    Position,
};
use sqlx::{AssertSqlSafe, PgPool};

const ROUNDS: u64 = 300;

/// Events of a commit that is there when the tables are analyzed.
const SMALL: u64 = 50;

const TABLES: [&str; 5] = ["events", "keys", "commits", "log", "reservations"];

#[tokio::test]
async fn sessions_opened_on_an_empty_log_never_scan_it() {
    let log = Log::create(0, false).await;
    let store = log.open().await;
    let (mut after, mut appended) = (Position::ZERO, 0);
    for number in 0..ROUNDS {
        let chain = CorrelationId::generate();
        appended += append(&store, number, chain).await;
        // Reads the tail of the log, and its first page.
        let tail = store.read_all(after, 1_000, &Filter::all()).await.unwrap();
        after = tail.through;
        assert_eq!(store.event(tail.events[0].event.id).await.unwrap().as_ref(), tail.events.first());
        assert_eq!(store.read_chain(chain, Position::ZERO, 50).await.unwrap().len(), 2);
        store.read_all(Position::ZERO, 10, &Filter::all()).await.unwrap();
        replayed(&store, &stream(&format!("many-{number}")), Replay::ALL).await.unwrap();
    }
    store.close().await.unwrap();
    log.expect_few_scans(appended).await;
}

#[tokio::test]
async fn nothing_scans_a_log_that_was_analyzed_when_empty() {
    expect_no_scan_after_analysis(0).await;
}

/// Analyzes commits of one writer, so that columns such as the lane have few values.
#[tokio::test]
async fn nothing_scans_a_log_that_was_analyzed_when_small() {
    expect_no_scan_after_analysis(20).await;
}

async fn expect_no_scan_after_analysis(commits: u64) {
    let log = Log::create(commits, true).await;
    let store = log.open().await;
    let mut appended = 0;
    for number in 0..ROUNDS {
        appended += append(&store, number, CorrelationId::generate()).await;
        assert!(store.unsequenced().await.unwrap() > 0);
        let head = store.head().await.unwrap();
        assert_eq!(head.get(), commits * SMALL + appended);
    }
    store.close().await.unwrap();
    log.expect_few_scans(appended).await;
}

/// Appends in every form to new streams, and returns the number of events. The last two have `chain`.
async fn append(store: &PostgresStore, number: u64, chain: CorrelationId) -> u64 {
    let id = number.to_string();
    let append =
        |prefix: &str, events| Append::new(stream(&format!("{prefix}-{id}")), ExpectedVersion::NoStream, events);
    let claim = Claim::reserve("email", &id).unwrap();
    let linked = events(2).into_iter().map(|event| event.with_metadata(Metadata::new().with_correlation(chain)));
    let appends = [
        append("one", events(1)),
        append("many", events(3)),
        append("keyed", events(1)).with_key(IdempotencyKey::new(&*id).unwrap()),
        append("claiming", events(1)).with_claims([claim]),
        append("linked", linked.collect()),
    ];
    for append in appends {
        store.append(append).await.unwrap();
    }
    8
}

/// A log whose tables the server does not analyze on its own.
struct Log {
    options: PostgresOptions,
    schema: String,
}

impl Log {
    /// Creates a log with this many commits of [`SMALL`] events.
    async fn create(commits: u64, analyzed: bool) -> Self {
        let (pool, options) = postgres::fresh().await;
        let store = PostgresStore::open_with(pool.clone(), options.clone()).await.unwrap();
        for table in TABLES {
            let disable = format!("ALTER TABLE {table} SET (autovacuum_enabled = off)");
            sqlx::query(AssertSqlSafe(disable)).execute(&pool).await.unwrap();
        }
        for number in 0..commits {
            let small = stream(&format!("small-{number}"));
            store.append(Append::new(small, ExpectedVersion::NoStream, events(SMALL))).await.unwrap();
            store.head().await.unwrap();
        }
        if analyzed {
            let analyze = format!("ANALYZE {}", TABLES.join(", "));
            sqlx::query(AssertSqlSafe(analyze)).execute(&pool).await.unwrap();
        }
        let schema = sqlx::query_scalar("SELECT current_schema()::text").fetch_one(&pool).await.unwrap();
        store.close().await.unwrap();
        Self { options, schema }
    }

    async fn open(&self) -> PostgresStore {
        PostgresStore::open_with(postgres::pool_with(&[], 2).await, self.options.clone()).await.unwrap()
    }

    /// Expects that at least `appended` events were written, and that hardly any row was read by a scan.
    async fn expect_few_scans(self, appended: u64) {
        // A session reports its statistics when it ends, and they may take a moment to appear.
        let observer = postgres::pool_with(&[("search_path", &self.schema)], 1).await;
        let mut reported = (0, 0);
        for _ in 0..1_000 {
            reported = read_by_scans(&observer).await;
            if reported.1 >= appended.cast_signed() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Each opening has also inserted an event, to see that it cannot be changed, and rolled it back.
        assert!(reported.1 >= appended.cast_signed(), "the server did not report all inserts in time");
        // If one of these statements scanned a table, it would have read tens of thousands of rows.
        assert!(reported.0 < 3_000, "{} rows were read by sequential scans", reported.0);
    }
}

/// Returns the number of our rows that sequential scans have read, and the number of events written.
async fn read_by_scans(pool: &PgPool) -> (i64, i64) {
    sqlx::query_as(READ_BY_SCANS).fetch_one(pool).await.unwrap()
}

const READ_BY_SCANS: &str = "
    SELECT coalesce(sum(seq_tup_read), 0)::bigint, coalesce(sum(n_tup_ins) FILTER (WHERE relname = 'events'), 0)::bigint
    FROM pg_stat_user_tables
    WHERE schemaname = current_schema() AND relname IN ('events', 'keys', 'commits', 'log', 'reservations')";
