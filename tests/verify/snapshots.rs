//! Compares snapshots with the events that they stand for.

use retell::prelude::*;
use retell::repository::SnapshotCheck;

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
