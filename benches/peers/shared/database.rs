//! Databases and pools, the same for every side. A source of both packages, which differ in their sqlx: 0.8 takes any text as a statement, 0.9
//! wants it to be vouched for, by `statement` of the package.

use std::str::FromStr;
use std::time::Duration;

use peers::side::Place;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, Executor, PgConnection, PgPool, SqlitePool};

use crate::statement;

/// A database of the side's own.
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
            // Not every side has made all of them.
            std::fs::remove_file(file).ok();
        }
    }
}

/// What a server that has run for a while would have done by itself: statistics, and a checkpoint behind it.
pub(crate) async fn settle(place: &Place) {
    if place.is_postgres() {
        for what in ["VACUUM ANALYZE", "CHECKPOINT"] {
            run(&place.url, what.into()).await;
        }
    } else {
        let pool = sqlite(place).await;
        for what in ["ANALYZE", "PRAGMA wal_checkpoint(TRUNCATE)"] {
            pool.execute(what).await.unwrap();
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

/// As durable as the server's: a commit waits for the disk.
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
