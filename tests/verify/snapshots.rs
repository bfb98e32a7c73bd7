//! Compares snapshots with the events that they stand for.

use retell::prelude::*;
use retell::repository::SnapshotCheck;
use retell::store::Inspect;
use retell::{AggregateId, AggregateType, MySqlStore, PostgresStore};

use crate::databases::{Database, Place};
use crate::planted::without_triggers;

#[derive(Debug, Event)]
enum CounterEvent {
    #[event("counter.raised")]
    Raised { by: u32 },
}

#[derive(Debug, Default, Clone, Aggregate, serde::Serialize, serde::Deserialize)]
#[aggregate("counter", event = CounterEvent, snapshots = 2)]
struct Counter {
    total: u32,
}

impl Apply<CounterEvent> for Counter {
    fn apply(&mut self, event: CounterEvent) {
        let CounterEvent::Raised { by } = event;
        self.total += by;
    }
}

struct Raise(u32);

impl Handle<Raise> for Counter {
    type Error = std::convert::Infallible;

    fn handle(&self, raise: &Raise) -> Result<Vec<CounterEvent>, Self::Error> {
        Ok(vec![CounterEvent::Raised { by: raise.0 }])
    }
}

#[tokio::test]
async fn snapshot_is_the_fold_of_its_events() {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
    let log = SqliteStore::open(path).await.unwrap();
    let counters = Repository::<Counter>::new(log.clone());
    assert_eq!(counters.verify_snapshot("1").await.unwrap(), SnapshotCheck::None);
    for by in 1..=4 {
        counters.execute("1", Raise(by)).await.unwrap();
        counters.flush().await;
    }
    assert_eq!(counters.verify_snapshot("1").await.unwrap(), SnapshotCheck::Equal(Version::new(4)));
    database
        .place
        .run("UPDATE retell_snapshots SET state = CAST(replace(CAST(state AS TEXT), '10', '11') AS BLOB)")
        .await;
    assert_eq!(counters.verify_snapshot("1").await.unwrap(), SnapshotCheck::Differs(Version::new(4)));
    // A state that cannot be decoded differs, too.
    database.place.run("UPDATE retell_snapshots SET state = X'00'").await;
    assert_eq!(counters.verify_snapshot("1").await.unwrap(), SnapshotCheck::Differs(Version::new(4)));
    without_triggers(&database.place).await;
    // The snapshot counts only with its event.
    database.place.run("UPDATE retell_snapshots SET event_id = zeroblob(16)").await;
    assert_eq!(counters.verify_snapshot("1").await.unwrap(), SnapshotCheck::None);
}

/// Lists the aggregates that have snapshots, a page at a time.
async fn listed(log: &(impl Inspect + EventStore + Clone)) {
    let counters = Repository::<Counter>::new(log.clone());
    for id in ["b", "a/1", "名", "B", "few"] {
        // A snapshot follows every second event.
        for by in 0..if id == "few" { 1 } else { 5 } {
            counters.execute(id, Raise(by)).await.unwrap();
        }
    }
    counters.flush().await;
    let kind = AggregateType::new("counter").unwrap();
    let mut ids: Vec<AggregateId> = Vec::new();
    loop {
        let page = log.snapshots(&kind, ids.last(), 2).await.unwrap().unwrap();
        assert!(page.len() <= 2);
        if page.is_empty() {
            break;
        }
        ids.extend(page);
    }
    assert_eq!(ids.iter().map(AggregateId::as_str).collect::<Vec<_>>(), ["B", "a/1", "b", "名"]);
    let other = AggregateType::new("counte").unwrap();
    assert_eq!(log.snapshots(&other, None, 10).await.unwrap(), Some(Vec::new()));
}

#[tokio::test]
async fn snapshots_are_listed_on_each_store() {
    listed(&MemoryStore::new()).await;
    for database in [Database::sqlite(), Database::postgres().await, Database::mysql().await] {
        match &database.place {
            Place::Sqlite(path) => listed(&SqliteStore::open(path).await.unwrap()).await,
            Place::Postgres(url) => listed(&PostgresStore::connect(url).await.unwrap()).await,
            Place::MySql(url) => listed(&MySqlStore::connect(url).await.unwrap()).await,
        }
    }
}
