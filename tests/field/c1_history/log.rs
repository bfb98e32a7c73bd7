//! The log side: cached states, snapshots, appends, tokens and deadlines.

use retell::testing::store::{event_at, position_of};
use retell::{
    Append, Context, EventReader, EventReaderExt, EventStore, ExpectedVersion, IdempotencyKey, NewEvent, Repository,
    RepositoryOptions, StreamId, Version,
};

use crate::counter::{Add, Counter, CounterEvent};
use crate::databases::{Database, Place, Store};

fn counter() -> StreamId {
    StreamId::parse("counter", "a").unwrap()
}

/// Takes the events after a version out of the log, beneath open connections, as a restored dump does. Snapshots stay.
pub(super) async fn go_back_to(place: &Place, version: u64) {
    let sql = match place {
        Place::Sqlite(_) => format!(
            "BEGIN; DROP TRIGGER retell_events_no_delete;
             DELETE FROM retell_keys WHERE commit_id IN (SELECT position FROM retell_events WHERE version > {version});
             DELETE FROM retell_events WHERE version > {version};
             CREATE TRIGGER retell_events_no_delete BEFORE DELETE ON retell_events
             BEGIN SELECT RAISE(ABORT, 'events are immutable'); END; COMMIT;"
        ),
        Place::Postgres(_) => format!(
            "BEGIN; ALTER TABLE retell.events DISABLE TRIGGER USER;
             DELETE FROM retell.events WHERE version > {version};
             ALTER TABLE retell.events ENABLE TRIGGER USER;
             DELETE FROM retell.keys WHERE commit_id NOT IN (SELECT commit_id FROM retell.events);
             DELETE FROM retell.log WHERE commit_id NOT IN (SELECT commit_id FROM retell.events);
             DELETE FROM retell.commits WHERE commit_id NOT IN (SELECT commit_id FROM retell.events);
             UPDATE retell.lanes l SET sequenced = coalesce((SELECT max(commit_id) FROM retell.commits c WHERE c.lane = l.lane), 0);
             SELECT setval('retell.commit_number', (SELECT max(commit_id) FROM retell.events)); COMMIT;"
        ),
        Place::MySql(_) => format!(
            "DROP TRIGGER retell_events_no_delete;
             DELETE FROM retell_events WHERE version > {version};
             CREATE TRIGGER retell_events_no_delete BEFORE DELETE ON retell_events
             FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'events are immutable';
             DELETE FROM retell_keys WHERE commit_id NOT IN (SELECT commit_id FROM retell_events);
             DELETE FROM retell_log WHERE commit_id NOT IN (SELECT commit_id FROM retell_events);
             UPDATE retell_head SET position = (SELECT SUM(events) FROM retell_log);
             ALTER TABLE retell_commits AUTO_INCREMENT = 1;"
        ),
    };
    place.run(&sql).await;
}

/// Adds one event at a time, at any version, without the cache of a repository.
async fn add_elsewhere(store: &Store, amounts: &[i64]) {
    for &amount in amounts {
        let added = NewEvent::new(&CounterEvent::Added { amount }).unwrap();
        let appended = store.events.append(Append::new(counter(), ExpectedVersion::Any, vec![added])).await.unwrap();
        position_of(&*store.events, &appended).await;
    }
}

/// Returns the fold of all events that the log has.
async fn fold(store: &Store) -> (i64, Version) {
    let events = store.events.read_stream(&counter(), Version::ZERO, 1_000).await.unwrap();
    let amount = |event: &retell::RecordedEvent| match event.decode::<CounterEvent>().unwrap().event {
        CounterEvent::Added { amount } => amount,
        CounterEvent::Renamed(_) => 0,
    };
    (events.iter().map(amount).sum(), events.last().map_or(Version::ZERO, |event| event.version))
}

async fn loaded(counters: &Repository<Counter>) -> (i64, Version) {
    let loaded = counters.load("a").await.unwrap();
    (loaded.state.total, loaded.version)
}

pub(super) async fn databases() -> [Database; 3] {
    [Database::sqlite(), Database::postgres().await, Database::mysql().await]
}

#[tokio::test]
async fn c1_no_state_mixes_two_histories() {
    // The new history ends before, at and after the version that the cache knows.
    for grown in [vec![], vec![-1], vec![-1, -2, -3, -4], vec![-1, -2, -3, -4, -5, -6]] {
        for database in databases().await {
            let (here, there) = (database.place.open().await.unwrap(), database.place.open().await.unwrap());
            let cached = Repository::<Counter>::over(here.events.clone());
            for _ in 0..10 {
                cached.execute("a", Add(vec![100])).await.unwrap();
            }
            cached.flush().await;
            position_of_newest(&here).await;
            go_back_to(&database.place, 6).await;
            add_elsewhere(&there, &grown).await;

            let end = fold(&there).await;
            let fresh = Repository::<Counter>::over(there.events.clone());
            assert_eq!(loaded(&fresh).await, end, "{grown:?}: the snapshot of a lost event counts for nothing");
            let at = retell::UpTo::Version(end.1);
            assert_eq!(fresh.load_at("a", at).await.unwrap().version, end.1, "{grown:?}: time travel");
            assert_eq!(cached.load("a").await.unwrap().version, end.1, "{grown:?}: the cached state is dropped");
            assert_eq!(loaded(&cached).await, end, "{grown:?}");
            cached.execute("a", Add(vec![10; 5])).await.unwrap();
            cached.flush().await;
            assert_eq!(loaded(&cached).await, fold(&there).await);
            let uncached = Repository::<Counter>::over(here.events.clone())
                .with_options(RepositoryOptions::new().with_cached_aggregates(0));
            assert_eq!(loaded(&uncached).await, fold(&there).await, "{grown:?}: from the new snapshot");
            assert_eq!(cached.snapshot_failures(), 0);
        }
    }
}

#[tokio::test]
async fn c1_a_command_on_a_lost_state_is_decided_again() {
    for database in databases().await {
        let (here, there) = (database.place.open().await.unwrap(), database.place.open().await.unwrap());
        let cached = Repository::<Counter>::over(here.events.clone());
        for _ in 0..8 {
            cached.execute("a", Add(vec![100])).await.unwrap();
        }
        position_of_newest(&here).await;
        go_back_to(&database.place, 6).await;
        // The same version, other events: only their ids tell the histories apart.
        add_elsewhere(&there, &[-300, -300]).await;
        assert_eq!(fold(&there).await, (0, Version::new(8)));
        let refused = cached.execute("a", Add(vec![-1])).await;
        assert!(refused.is_err(), "the cached 800 would allow it: {refused:?}");
        cached.execute("a", Add(vec![5])).await.unwrap();
        assert_eq!(loaded(&cached).await, (5, Version::new(9)));
    }
}

#[tokio::test]
async fn c1_a_token_of_a_lost_event_is_not_reached() {
    for database in databases().await {
        let (here, there) = (database.place.open().await.unwrap(), database.place.open().await.unwrap());
        add_elsewhere(&here, &[1, 2]).await;
        let key = Context::new().with_key(IdempotencyKey::new("pay").unwrap());
        let counters = Repository::<Counter>::over(here.events.clone());
        let lost = counters.execute_with("a", Add(vec![3]), key.clone()).await.unwrap();
        position_of_newest(&here).await;
        go_back_to(&database.place, 2).await;
        assert!(!matches!(there.events.position_of(lost.token).await, Ok(Some(_))));
        add_elsewhere(&there, &[7, 7, 7]).await;
        match there.events.position_of(lost.token).await {
            Ok(position) => assert_eq!(position, None),
            Err(error) => assert!(error.is_history_changed(), "{error:?}"),
        }
        // The key was lost with its events, so the command is executed.
        let again = counters.execute_with("a", Add(vec![3]), key).await.unwrap();
        assert_eq!(again.last_event, Some(event_at(&*there.events, &counter(), again.version.get()).await));
        assert_eq!(loaded(&counters).await, fold(&there).await);
    }
}

/// Waits until every event has a position, so that the sequencer has no work when the log goes back.
pub(super) async fn position_of_newest(store: &Store) {
    store.events.head().await.unwrap();
}
