//! Databases and pools, the same for every side. Both packages include this file, but their versions of sqlx differ: 0.8 takes any string
//! as a statement, 0.9 requires a safety assertion, which the package's `statement` makes.

use std::str::FromStr;
use std::time::Duration;

use peers::side::Place;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, Executor, PgConnection, PgPool, SqlitePool};

use crate::statement;

/// Creates the side's database.
pub(crate) async fn create(place: &Place) {
    if place.is_postgres() {
        let (server, name) = place.server();
        run(&server, format!("CREATE DATABASE {name}")).await;
    }
}

pub(crate) async fn drop(place: &Place) {
    if place.is_postgres() {
        let (server, name) = place.server();
        run(&server, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
    } else {
        let views = place.url.replace(".db", ".views");
        for file in
            [&place.url, &views].into_iter().flat_map(|file| ["", "-wal", "-shm"].map(|end| format!("{file}{end}")))
        {
            // Not every side creates all of these files.
            std::fs::remove_file(file).ok();
        }
    }
}

/// Does what a server that has been running for a while would have done: collects statistics and completes a checkpoint.
pub(crate) async fn settle(place: &Place) {
    if place.is_postgres() {
        for statement_text in ["VACUUM ANALYZE", "CHECKPOINT"] {
            run(&place.url, statement_text.into()).await;
        }
    } else {
        let pool = sqlite(place).await;
        for statement_text in ["ANALYZE", "PRAGMA wal_checkpoint(TRUNCATE)"] {
            pool.execute(statement_text).await.unwrap();
        }
        pool.close().await;
    }
}

async fn run(url: &str, sql: String) {
    let mut db = PgConnection::connect(url).await.unwrap();
    db.execute(statement(sql)).await.unwrap();
    db.close().await.unwrap();
}

pub(crate) async fn postgres(place: &Place) -> PgPool {
    postgres_options(place).connect_with(postgres_address(place)).await.unwrap()
}

pub(crate) fn postgres_address(place: &Place) -> PgConnectOptions {
    PgConnectOptions::from_str(&place.url).unwrap()
}

pub(crate) fn postgres_options(place: &Place) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(place.connections)
        .min_connections(place.connections)
        .acquire_timeout(Duration::from_mins(1))
        .test_before_acquire(false)
}

/// Opens a pool with the same durability as the server's: a commit waits for the disk.
pub(crate) async fn sqlite(place: &Place) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(&place.url)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_mins(1))
        .pragma("cache_size", "-16384");
    SqlitePoolOptions::new()
        .max_connections(place.connections)
        .min_connections(place.connections)
        .acquire_timeout(Duration::from_mins(1))
        .test_before_acquire(false)
        .connect_with(options)
        .await
        .unwrap()
}
