//! Finds each kind of planted damage by its name, on every store, and nothing in a log that is whole. Needs `POSTGRES_URL` and `MYSQL_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/databases.rs"]
mod databases;
mod planted;
mod sealed;
mod snapshots;

use std::collections::BTreeSet;

use retell::operate::{self, Verified, VerifyOptions};
use retell::store::Inspect;
use retell::{EventStore, ReadModel, RelayStore};

use databases::{Database, Place};

pub(crate) trait Log: EventStore + RelayStore + Inspect {}
impl<L: EventStore + RelayStore + Inspect> Log for L {}

/// Runs a case on an empty log in each database.
macro_rules! on_each_database {
    ($($case:path as $name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let database = super::Database::sqlite();
                let super::Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
                let log = retell::SqliteStore::open(path).await.unwrap();
                let models = retell::SqliteReadModel::open(path).await.unwrap();
                $case(&log, &models, &database.place).await;
                retell::EventStore::close(&log).await.unwrap();
                retell::ReadModel::close(&models).await.unwrap();
            })*
        }

        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let database = super::Database::postgres().await;
                let super::Place::Postgres(url) = &database.place else { unreachable!("a database on PostgreSQL") };
                let log = retell::PostgresStore::connect(url).await.unwrap();
                $case(&log, &log.read_model(), &database.place).await;
                retell::EventStore::close(&log).await.unwrap();
            })*
        }

        mod mysql {
            $(#[tokio::test]
            async fn $name() {
                let database = super::Database::mysql().await;
                let super::Place::MySql(url) = &database.place else { unreachable!("a database on MySQL") };
                let log = retell::MySqlStore::connect(url).await.unwrap();
                $case(&log, &log.read_model(), &database.place).await;
                retell::EventStore::close(&log).await.unwrap();
            })*
        }
    };
}

on_each_database!(
    super::planted::whole_log_has_no_fault as whole_log_has_no_fault,
    super::planted::each_fault_is_found_by_its_name as each_fault_is_found_by_its_name,
    super::planted::place_ahead_is_set_back as place_ahead_is_set_back,
    super::sealed::sealed_log_is_compared as sealed_log_is_compared,
    super::sealed::each_change_of_a_sealed_event_is_found as each_change_of_a_sealed_event_is_found,
    super::sealed::changed_seals_are_found as changed_seals_are_found,
    super::sealed::stopped_verification_continues as stopped_verification_continues,
    super::sealed::seal_cannot_be_changed as seal_cannot_be_changed,
    super::sealed::digest_is_the_same_in_every_store as digest_is_the_same_in_every_store,
);

/// Verifies the whole log.
pub(crate) async fn verify(log: &impl Log, models: &impl ReadModel) -> Verified {
    operate::verify(log, models, VerifyOptions::new()).await.unwrap()
}

/// Returns the names of the faults.
pub(crate) fn ids(verified: &Verified) -> BTreeSet<&'static str> {
    verified.faults.iter().map(|fault| fault.id.as_str()).collect()
}

#[tokio::test]
async fn log_in_memory_is_verified() {
    let log = retell::MemoryStore::new();
    planted::fill(&log, &log.read_model()).await;
    let verified = verify(&log, &log.read_model()).await;
    assert!(verified.is_whole(), "{verified:?}");
    assert_eq!((verified.events, verified.head.get(), verified.seals.count), (11, 11, 0));
    assert_eq!(verified.unchecked, ["claims, snapshots and indexes"]);
    operate::seal(&log, operate::SealOptions::new()).await.unwrap();
    let verified = verify(&log, &log.read_model()).await;
    assert!(verified.is_whole() && verified.seals.count == 1, "{verified:?}");
}
