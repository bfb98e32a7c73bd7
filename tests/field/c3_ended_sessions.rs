//! C3. Sessions that the server ends cost no call.

use std::time::Duration;

use retell::store::mysql::MySqlStore;
use retell::store::postgres::PostgresStore;
use retell::store::{Append, EventStore};
use retell::testing::store::{event, stream};
use retell::{EventReaderExt, ExpectedVersion, Version};

use crate::databases::{Database, Place};

/// Appends, ends all sessions of the database, and calls again: no call may fail.
async fn survives(store: impl EventStore, place: &Place, end_sessions: &str) {
    let append = |id: &str| Append::new(stream(id), ExpectedVersion::Any, vec![event("{}")]);
    store.append(append("1")).await.unwrap();
    for round in 0..3 {
        place.run(end_sessions).await;
        // A session that is being ended may still answer.
        tokio::time::sleep(Duration::from_millis(200)).await;
        match round {
            0 => drop(store.append(append("1")).await.unwrap()),
            1 => drop(store.read_stream(&stream("1"), Version::ZERO, 10).await.unwrap()),
            _ => drop(store.head().await.unwrap()),
        }
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn terminated_sessions_cost_no_call_on_postgres() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!() };
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    survives(PostgresStore::connect(url).await.unwrap(), &database.place, end).await;
}

#[tokio::test]
async fn killed_sessions_cost_no_call_on_mysql() {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!() };
    let end = "BEGIN NOT ATOMIC FOR s IN (SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()) DO KILL s.id; END FOR; END";
    survives(MySqlStore::connect(url).await.unwrap(), &database.place, end).await;
}
