//! B6. One event that was recorded while a clock was far ahead changes the time of no other event.

use std::time::Duration;

use chrono::TimeDelta;
use retell::app::HealthOptions;
use retell::prelude::*;
use retell::process::CommandFailure;
use retell::store::{Append, EventStore, Replay};
use retell::testing::store::{event, replayed, stream, whole_log};
use retell::{
    AnyEvent, MemoryReadModel, MySqlStore, PostgresStore, ProcessManager, RecordedEvent, SqliteReadModel, UpTo, Utc,
};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::mpsc;

use crate::databases::{Database, Place};

async fn append(store: &dyn EventStore, id: &str) {
    store.append(Append::new(stream(id), ExpectedVersion::Any, vec![event("{}")])).await.unwrap();
}

/// Appends an event to the stream `a` while the clock is years ahead.
async fn append_in_the_future(place: &Place) {
    match place {
        Place::Sqlite(_) => place.run(FUTURE_EVENT_ON_SQLITE).await,
        Place::Postgres(url) => {
            place.run(CLOCK_AHEAD_ON_POSTGRES).await;
            let options: PgConnectOptions = url.parse().unwrap();
            let ahead = options.options([("search_path", "ahead,pg_catalog")]);
            let store = PostgresStore::open(PgPoolOptions::new().connect_with(ahead).await.unwrap()).await.unwrap();
            append(&store, "a").await;
            store.close().await.unwrap();
        }
        Place::MySql(url) => {
            let pool = MySqlPoolOptions::new().after_connect(|db, _| {
                Box::pin(async { sqlx::raw_sql(CLOCK_AHEAD_ON_MYSQL).execute(db).await.map(drop) })
            });
            let store = MySqlStore::open(pool.connect(url).await.unwrap()).await.unwrap();
            append(&store, "a").await;
            store.close().await.unwrap();
        }
    }
}

fn is_now(event: &RecordedEvent) -> bool {
    (event.recorded_at - Utc::now()).abs() < TimeDelta::hours(1)
}

/// Only the event that was recorded in the future has a time in the future, and reads by time find every event.
async fn wrong_time_is_not_followed(database: Database) {
    let place = &database.place;
    let store = place.open().await.unwrap().events;
    append(&store, "a").await;
    append_in_the_future(place).await;
    for id in ["a", "b", "a"] {
        append(&store, id).await;
    }
    let log = whole_log(&store).await.unwrap();
    let wrong: Vec<_> = log.iter().filter(|event| !is_now(event)).map(|event| event.position.get()).collect();
    assert_eq!(wrong, [2], "{place:?}");

    let up_to = async |time| {
        let replay = Replay::ALL.with_up_to(UpTo::Time(time));
        replayed(&store, &stream("a"), replay).await.unwrap().versions()
    };
    assert_eq!(up_to(log[0].recorded_at).await, [1]);
    assert_eq!(up_to(log[2].recorded_at).await, [1, 2, 3]);
    assert_eq!(up_to(Utc::now() + TimeDelta::hours(1)).await, [1, 2, 3, 4]);
    assert_eq!(up_to(log[0].recorded_at - TimeDelta::hours(1)).await, [0_u64; 0]);
    let later = [log[0].recorded_at - TimeDelta::hours(1), log[0].recorded_at, log[3].recorded_at, log[1].recorded_at];
    for time in later {
        let expected: Vec<_> = log.iter().filter(|event| event.recorded_at > time).cloned().collect();
        for limit in [1, 2, 10] {
            let found = store.recorded_after(time, limit).await.unwrap();
            assert_eq!(found, expected[..limit.min(expected.len())], "{place:?} after {time}");
        }
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_time_is_not_followed_on_sqlite() {
    wrong_time_is_not_followed(Database::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_time_is_not_followed_on_postgres() {
    wrong_time_is_not_followed(Database::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_time_is_not_followed_on_mysql() {
    wrong_time_is_not_followed(Database::mysql().await).await;
}

/// Reads by time are right after several steps of the clock.
#[tokio::test]
async fn many_steps_of_the_clock_keep_reads_by_time_right() {
    let database = Database::sqlite();
    let store = database.place.open().await.unwrap().events;
    for _ in 0..6 {
        append(&store, "a").await;
        append_in_the_future(&database.place).await;
        append_in_the_future(&database.place).await;
        append(&store, "b").await;
    }
    let log = whole_log(&store).await.unwrap();
    assert_eq!(log.iter().filter(|event| !is_now(event)).count(), 12);
    for time in log.iter().map(|event| event.recorded_at) {
        let expected: Vec<_> = log.iter().filter(|event| event.recorded_at > time).cloned().collect();
        for limit in [0, 1, 3, 5, 100] {
            let found = store.recorded_after(time, limit).await.unwrap();
            assert_eq!(found, expected[..limit.min(expected.len())], "after {time}, at most {limit}");
        }
    }
}

/// Health shows a newest event in the future, until the next event.
#[tokio::test(flavor = "multi_thread")]
async fn health_shows_an_event_in_the_future() {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!("a file") };
    let store = SqliteStore::open(path).await.unwrap();
    append(&store, "a").await;
    let options = HealthOptions::new().with_beat(Duration::from_millis(10));
    let app = App::new(store.clone(), MemoryReadModel::new()).with_health(options).start();
    let mut health = app.health();
    assert_eq!(store.health().await.unwrap().future_event, None);
    append_in_the_future(&database.place).await;
    assert!(store.health().await.unwrap().future_event.is_some());
    let told = health.wait_for(|health| health.future_event().is_some()).await.unwrap().to_string();
    assert!(told.contains("clock: the newest event is dated 20"), "{told}");
    append(&store, "a").await;
    assert_eq!(store.health().await.unwrap().future_event, None);
    health.wait_for(|health| health.future_event().is_none()).await.unwrap();
    app.stop().await.unwrap();
    for database in [Database::postgres().await, Database::mysql().await] {
        drop(database.place.open().await.unwrap());
        append_in_the_future(&database.place).await;
        let newest = match &database.place {
            Place::Postgres(url) => {
                let store = PostgresStore::connect(url).await.unwrap();
                store.head().await.unwrap();
                store.health().await.unwrap().future_event
            }
            Place::MySql(url) => {
                let store = MySqlStore::connect(url).await.unwrap();
                store.head().await.unwrap();
                store.health().await.unwrap().future_event
            }
            Place::Sqlite(_) => unreachable!("a server"),
        };
        assert!(newest.is_some(), "{:?}", database.place);
    }
}

/// Sets a deadline at the time of each event.
struct Reminder(mpsc::UnboundedSender<String>);

#[async_trait]
impl Process for Reminder {
    const NAME: &'static str = "reminder";
    type Event = AnyEvent;
    type State = ();
    type Command = ();

    fn key(&self, event: &Envelope<AnyEvent>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, (): &mut (), event: &Envelope<AnyEvent>, effects: &mut Effects<()>) {
        effects.set_deadline("now", event.recorded_at + Duration::from_millis(1));
    }

    fn on_deadline(&self, (): &mut (), _: &str, effects: &mut Effects<()>) {
        effects.send(());
    }

    async fn execute(&self, key: &AggregateId, (): (), _: Context) -> Result<(), CommandFailure> {
        drop(self.0.send(key.to_string()));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_come_after_a_wrong_time() {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!("a file") };
    let store = SqliteStore::open(path).await.unwrap();
    append(&store, "a").await;
    append_in_the_future(&database.place).await;
    append(&store, "b").await;
    let (sender, mut passed) = mpsc::unbounded_channel();
    let models = SqliteReadModel::open(path.with_file_name("models.db")).await.unwrap();
    let manager = ProcessManager::new(Reminder(sender), store.clone(), models);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { manager.run(stop).await }
    });
    let reminded = async { while passed.recv().await.unwrap() != "b" {} };
    tokio::time::timeout(Duration::from_mins(5), reminded).await.unwrap();
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// Adds the event that a process with a clock 70 years ahead would append to the stream `a`.
const FUTURE_EVENT_ON_SQLITE: &str = "
    INSERT INTO retell_events
        (position, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec, recorded_at, correlation_id, causation_id,
        metadata, payload)
    SELECT (SELECT max(position) + 1 FROM retell_events), randomblob(16), aggregate_type, aggregate_id, version + 1, event_type,
        schema_version, codec, (unixepoch() + 70 * 31557600) * 1000000, correlation_id, causation_id, metadata, payload
    FROM retell_events WHERE aggregate_id = 'a' ORDER BY version DESC LIMIT 1";

const CLOCK_AHEAD_ON_POSTGRES: &str = "
    CREATE SCHEMA ahead;
    CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql
    AS $$ SELECT pg_catalog.clock_timestamp() + interval '70 years' $$";

const CLOCK_AHEAD_ON_MYSQL: &str = "SET timestamp = UNIX_TIMESTAMP() + 9 * 31557600";
