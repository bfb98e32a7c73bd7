//! A plan is made once a session, and a table may have been empty then: whatever is done often must look up what it needs by its key all the
//! same. Needs `POSTGRES_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/postgres.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod postgres;

use std::time::Duration;

use retell::store::postgres::PostgresStore;
use retell::store::{Append, Replay};
use retell::testing::store::{events, replayed, stream};
use retell::{Claim, EventReaderExt, EventStore, ExpectedVersion, Filter, IdempotencyKey, Position};
use sqlx::{AssertSqlSafe, PgPool};

const ROUNDS: u64 = 300;

#[tokio::test]
async fn sessions_that_began_with_an_empty_log_never_read_all_of_it() {
    let (pool, options) = postgres::fresh().await;
    let first = PostgresStore::open_with(pool.clone(), options.clone()).await.unwrap();
    // Nobody else is to look at the tables, or to tell the planner of them.
    for table in ["events", "keys", "commits", "log", "reservations"] {
        let unattended = format!("ALTER TABLE {table} SET (autovacuum_enabled = off)");
        sqlx::query(AssertSqlSafe(unattended)).execute(&pool).await.unwrap();
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
        let claim = Claim::reserve("email", &id).unwrap();
        store.append(append("claiming", 1).with_claims([claim])).await.unwrap();
        // The tail of the log, and a page of it.
        after = store.read_all(after, 1_000, &Filter::all()).await.unwrap().through;
        store.read_all(Position::ZERO, 10, &Filter::all()).await.unwrap();
        replayed(&store, &stream(&format!("many-{id}")), Replay::ALL).await.unwrap();
    }
    store.close().await.unwrap();

    // A session tells of what it did when it ends, and that may take a moment.
    let asking = postgres::pool_with(&[("search_path", &schema)], 1).await;
    let mut told = (0, 0);
    for _ in 0..1_000 {
        told = read_by_scans(&asking).await;
        if told.1 >= appended.cast_signed() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(told.1, appended.cast_signed(), "the server has told of everything");
    // If one of these statements went through a table, it would have read tens of thousands of rows.
    assert!(told.0 < 3_000, "{} rows were read by going through whole tables", told.0);
}

/// Rows of our tables that were read by going through them, and events that were written.
async fn read_by_scans(pool: &PgPool) -> (i64, i64) {
    sqlx::query_as(READ_BY_SCANS).fetch_one(pool).await.unwrap()
}

const READ_BY_SCANS: &str = "
    SELECT coalesce(sum(seq_tup_read), 0)::bigint, coalesce(sum(n_tup_ins) FILTER (WHERE relname = 'events'), 0)::bigint
    FROM pg_stat_user_tables
    WHERE schemaname = current_schema() AND relname IN ('events', 'keys', 'commits', 'log', 'reservations')";
