//! The stores that a test runs on.

use std::sync::Arc;

use retell::MemoryStore;
use retell::store::EventStore;

use crate::databases::Database;

/// An empty log in one of the stores.
pub(crate) struct Log {
    pub(crate) name: &'static str,
    pub(crate) events: Arc<dyn EventStore>,
    /// Drops the database at the end of the test.
    _database: Option<Database>,
}

/// Creates an empty log in every store.
pub(crate) async fn every_store() -> Vec<Log> {
    let mut logs = vec![Log { name: "memory", events: Arc::new(MemoryStore::new()), _database: None }];
    let databases =
        [("sqlite", Database::sqlite()), ("postgres", Database::postgres().await), ("mysql", Database::mysql().await)];
    for (name, database) in databases {
        let events = database.place.open().await.unwrap().events;
        logs.push(Log { name, events, _database: Some(database) });
    }
    logs
}
