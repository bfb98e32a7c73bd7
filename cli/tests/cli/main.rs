//! The program `retell` on every store: golden output of each command, and how it fails. Needs `POSTGRES_URL` and `MYSQL_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod blocked;
#[path = "../../../tests/support/databases.rs"]
mod databases;
mod failures;
mod golden;
mod opening;
mod plant;
#[path = "../../../tests/operate/planted.rs"]
mod planted;
mod streaming;
#[path = "../support/tool.rs"]
mod tool;

use databases::{Database, Place};
use retell::{
    EventStore, MySqlReadModel, MySqlStore, PostgresReadModel, PostgresStore, ReadModel, SqliteReadModel, SqliteStore,
};

/// Plants the situation in a database.
async fn planted(database: &Database) {
    match &database.place {
        Place::Sqlite(path) => {
            let models = SqliteReadModel::open(path.with_extension("models.db")).await.unwrap();
            let log = SqliteStore::open(path).await.unwrap();
            plant::everything(&log, &models).await;
            models.close().await.unwrap();
            log.close().await.unwrap();
        }
        Place::Postgres(url) => {
            let (log, models) =
                (PostgresStore::connect(url).await.unwrap(), PostgresReadModel::connect(url).await.unwrap());
            plant::everything(&log, &models).await;
            models.close().await.unwrap();
            log.close().await.unwrap();
        }
        Place::MySql(url) => {
            let (log, models) = (MySqlStore::connect(url).await.unwrap(), MySqlReadModel::connect(url).await.unwrap());
            plant::everything(&log, &models).await;
            models.close().await.unwrap();
            log.close().await.unwrap();
        }
    }
}

/// Runs cases on a database of each kind.
macro_rules! on_each_store {
    ($($case:path as $name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                $case(&super::Database::sqlite()).await;
            })*
        }

        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                $case(&super::Database::postgres().await).await;
            })*
        }

        mod mysql {
            $(#[tokio::test]
            async fn $name() {
                $case(&super::Database::mysql().await).await;
            })*
        }
    };
}

on_each_store!(
    super::golden::each_command_prints_its_golden_output as each_command_prints_its_golden_output,
    super::opening::empty_database_is_refused_and_stays_empty as empty_database_is_refused_and_stays_empty,
    super::opening::other_schema_is_refused as other_schema_is_refused,
    super::golden::doctor_names_a_cure_for_each_finding as doctor_names_a_cure_for_each_finding,
    super::streaming::tail_follows_the_log as tail_follows_the_log,
);
