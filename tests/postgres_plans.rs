//! A session plans a statement once, possibly while a table is still empty. Frequent statements must look up rows by
//! key even then. Needs `POSTGRES_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/postgres.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod postgres;

use std::time::Duration;

use retell::store::postgres::PostgresStore;
use retell::store::{Append, Replay};
use retell::testing::store::{events, replayed, stream};
use retell::{
    Claim, CorrelationId, EventReaderExt, EventStore, ExpectedVersion, Filter, IdempotencyKey, Metadata, Position,
};
use sqlx::{AssertSqlSafe, PgPool};

const ROUNDS: u64 = 300;

#[tokio::test]
async fn sessions_opened_on_an_empty_log_never_scan_it() {
    let (pool, options) = postgres::fresh().await;
    let first = PostgresStore::open_with(pool.clone(), options.clone()).await.unwrap();
    // Autovacuum must not analyze the tables, so that the planner gets no statistics.
    for table in ["events", "keys", "commits", "log", "reservations"] {
        let disable = format!("ALTER TABLE {table} SET (autovacuum_enabled = off)");
        sqlx::query(AssertSqlSafe(disable)).execute(&pool).await.unwrap();
    }
    let schema: String = sqlx::query_scalar("SELECT current_schema()::text").fetch_one(&pool).await.unwrap();
    first.close().await.unwrap();

    let store = PostgresStore::open_with(postgres::pool_with(&[], 2).await, options).await.unwrap();
    let (mut after, mut appended) = (Position::ZERO, 0);
    for number in 0..ROUNDS {
        let id = number.to_string();
        let mut append = |prefix: &str, count| {
            appended += count;
            Append::new(stream(&format!("{prefix}-{id}")), ExpectedVersion::NoStream, events(count))
        };
        store.append(append("one", 1)).await.unwrap();
        store.append(append("many", 3)).await.unwrap();
        store.append(append("keyed", 1).with_key(IdempotencyKey::new(&*id).unwrap())).await.unwrap();
        let chain = CorrelationId::generate();
        let linked = events(2).into_iter().map(|event| event.with_metadata(Metadata::new().with_correlation(chain)));
        let linked = Append::new(stream(&format!("linked-{id}")), ExpectedVersion::NoStream, linked.collect());
        let claim = Claim::reserve("email", &id).unwrap();
        store.append(append("claiming", 1).with_claims([claim])).await.unwrap();
        store.append(linked).await.unwrap();
        // Reads the tail of the log, and its first page.
        let tail = store.read_all(after, 1_000, &Filter::all()).await.unwrap();
        after = tail.through;
        assert_eq!(store.event(tail.events[0].event.id).await.unwrap().as_ref(), tail.events.first());
        assert_eq!(store.read_chain(chain, Position::ZERO, 50).await.unwrap().len(), 2);
        store.read_all(Position::ZERO, 10, &Filter::all()).await.unwrap();
        replayed(&store, &stream(&format!("many-{id}")), Replay::ALL).await.unwrap();
    }
    store.close().await.unwrap();

    // A session reports its statistics when it ends, and they may take a moment to appear.
    let observer = postgres::pool_with(&[("search_path", &schema)], 1).await;
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

/// Returns the number of our rows that sequential scans have read, and the number of events written.
async fn read_by_scans(pool: &PgPool) -> (i64, i64) {
    sqlx::query_as(READ_BY_SCANS).fetch_one(pool).await.unwrap()
}

const READ_BY_SCANS: &str = "
    SELECT coalesce(sum(seq_tup_read), 0)::bigint, coalesce(sum(n_tup_ins) FILTER (WHERE relname = 'events'), 0)::bigint
    FROM pg_stat_user_tables
    WHERE schemaname = current_schema() AND relname IN ('events', 'keys', 'commits', 'log', 'reservations')";
