//! The program `retell` on every store: golden output of each command, and how it fails. Needs `POSTGRES_URL`, `MYSQL_URL` and
//! `PGBOUNCER`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod blocked;
#[path = "../../../tests/support/certificates.rs"]
mod certificates;
#[path = "../../../tests/support/databases.rs"]
mod databases;
mod doctor;
mod every;
mod failures;
mod golden;
mod maintained;
mod opening;
#[path = "../../../tests/support/pgbouncer.rs"]
mod pgbouncer;
mod plant;
#[path = "../../../tests/operate/planted.rs"]
mod planted;
#[path = "../../../tests/support/programs.rs"]
mod programs;
mod prune;
#[path = "../../../tests/support/rabbitmq.rs"]
mod rabbitmq;
#[path = "../../../tests/support/server.rs"]
mod server;
#[path = "../../../tests/history/server.rs"]
mod servers;
mod sizes;
#[path = "../support/steady.rs"]
mod steady;
mod streaming;
mod terminal;
mod tls;
#[path = "../support/tool.rs"]
mod tool;
mod trace;

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
    super::trace::request_is_printed_as_a_tree as request_is_printed_as_a_tree,
    super::prune::prune_prints_its_golden_output as prune_prints_its_golden_output,
    super::sizes::status_shows_the_sizes_of_tables as status_shows_the_sizes_of_tables,
    super::maintained::only_migrate_creates_a_schema as only_migrate_creates_a_schema,
    super::maintained::migrate_updates_an_older_schema as migrate_updates_an_older_schema,
    super::maintained::sealed_log_is_verified as sealed_log_is_verified,
    super::prune::rows_of_commits_are_pruned as rows_of_commits_are_pruned,
    super::every::command_leaves_nothing_behind as command_leaves_nothing_behind,
    super::every::held_table_is_tried_again as held_table_is_tried_again,
);
