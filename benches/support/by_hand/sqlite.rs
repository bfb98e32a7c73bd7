//! The storage of the order without the library: sqlx on the library's own tables.

use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt;
use retell::{EventStore, SqliteStore};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row, SqliteConnection, SqlitePool};
use uuid::Uuid;

use super::{State, encode};
use crate::support::order::OrderEvent;

/// Opens a pool on a file with the library's tables, with the same durability as `SqliteStore`.
pub(crate) async fn open(path: &Path, connections: u32) -> SqlitePool {
    SqliteStore::open(path).await.unwrap().close().await.unwrap();
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_mins(1))
        .pragma("cache_size", "-16384");
    SqlitePoolOptions::new()
        .max_connections(connections)
        .min_connections(connections)
        .acquire_timeout(Duration::from_mins(1))
        .test_before_acquire(false)
        .connect_with(options)
        .await
        .unwrap()
}

/// Loads an order from its events after `version` and returns its new version.
pub(crate) async fn load(pool: &SqlitePool, id: &str, version: i64, state: &mut State) -> sqlx::Result<i64> {
    let mut newest = version;
    let mut rows = sqlx::query(LOAD).bind("order").bind(id).bind(version).fetch(pool);
    while let Some(row) = rows.try_next().await? {
        state.fold(row.get(1), row.get(2)).unwrap();
        newest = row.get(0);
    }
    Ok(newest)
}

/// Loads an order from its snapshot and the events after it.
pub(crate) async fn load_from_snapshot(pool: &SqlitePool, id: &str) -> sqlx::Result<State> {
    let snapshot = sqlx::query(SNAPSHOT).bind("order").bind(id).fetch_one(pool).await?;
    let mut state = serde_json::from_slice(snapshot.get(1)).unwrap();
    load(pool, id, snapshot.get(0), &mut state).await?;
    Ok(state)
}

/// Folds the whole log into one counter.
pub(crate) async fn count_all(pool: &SqlitePool) -> sqlx::Result<State> {
    let mut counter = State::default();
    let mut rows = sqlx::query(ALL).fetch(pool);
    while let Some(row) = rows.try_next().await? {
        counter.fold(row.get(1), row.get(2)).unwrap();
    }
    Ok(counter)
}

/// Appends events to an order in one transaction; the order must be at `version`.
pub(crate) async fn append(
    pool: &SqlitePool,
    id: &str,
    version: i64,
    events: impl IntoIterator<Item = OrderEvent>,
) -> sqlx::Result<()> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let newest: Option<i64> = sqlx::query(VERSION).bind("order").bind(id).fetch_one(&mut *tx).await?.get(0);
    assert_eq!(newest.unwrap_or(0), version, "conflict");
    for (version, event) in (version + 1..).zip(events) {
        insert(&mut tx, id, version, event).await?;
    }
    tx.commit().await
}

async fn insert(db: &mut SqliteConnection, id: &str, version: i64, event: OrderEvent) -> sqlx::Result<()> {
    let (event_type, payload) = encode(event);
    sqlx::query(INSERT)
        .bind(Uuid::now_v7().as_bytes().to_vec())
        .bind("order")
        .bind(id)
        .bind(version)
        .bind(event_type)
        .bind(chrono::Utc::now().timestamp_micros())
        .bind(payload)
        .execute(db)
        .await?;
    Ok(())
}

/// Binds: aggregate type, aggregate id, after.
const LOAD: &str = "
    SELECT version, event_type, payload FROM retell_events
    WHERE aggregate_type = ?1 AND aggregate_id = ?2 AND version > ?3
    ORDER BY version";

const SNAPSHOT: &str = "SELECT version, state FROM retell_snapshots WHERE aggregate_type = ?1 AND aggregate_id = ?2";

const ALL: &str = "SELECT position, event_type, payload FROM retell_events ORDER BY position";

const VERSION: &str = "SELECT max(version) FROM retell_events WHERE aggregate_type = ?1 AND aggregate_id = ?2";

/// Binds: event id, aggregate type, aggregate id, version, event type, recorded at, payload.
const INSERT: &str = "
    INSERT INTO retell_events
        (event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec, recorded_at, payload)
    VALUES (?1, ?2, ?3, ?4, ?5, 1, 0, ?6, ?7)";
