//! The gauges of an observer are the numbers of `operate::status`.

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use retell::event::NewEvent;
use retell::operate::{Observer, ObserverOptions};
use retell::store::{By, Deadline, DeadlineChange, Step, Work};
use retell::{
    AggregateId, Append, BoxError, DeadlineStore, ErrorKind, EventId, EventStore, ExpectedVersion, Mark, MemoryStore,
    Position, PostgresStore, ProjectionName, ReadModel, RelayStore, SqliteReadModel, SqliteStore, StreamId, Utc, Uuid,
    Worker,
};

use sqlx::{Connection, Executor, PgConnection};
use tokio::sync::oneshot;

use crate::databases::{Database, Place};
use crate::program::{Fragile, Read};
use crate::recorded::impatient;
use crate::workers::until;
use crate::{assert_values, value, with_recorder};

fn name(name: &str) -> ProjectionName {
    ProjectionName::new(name).unwrap()
}

fn nothing<Tx: ?Sized + 'static>() -> Work<Tx> {
    Box::new(|_| Box::pin(async { Ok(()) }))
}

async fn append(log: &impl EventStore, id: &str, watts: u64) {
    let stream = StreamId::parse("meter", id).unwrap();
    let event = NewEvent::new(&Read { watts }).unwrap();
    log.append(Append::new(stream, ExpectedVersion::Any, vec![event])).await.unwrap();
}

#[test]
fn gauges_follow_the_report() {
    with_recorder(async |recorded| {
        let log = MemoryStore::new();
        let models = log.read_model();
        for watts in [1, 9_500, 2] {
            append(&log, &watts.to_string(), watts).await;
        }
        let projection = Fragile::default();
        projection.is_broken.store(true, Ordering::SeqCst);
        let worker = Worker::new(projection, log.clone(), models.clone()).with_options(impatient());
        worker.catch_up().await.unwrap();
        append(&log, "4", 3).await;
        append(&log, "5", 3).await;
        let lost = Mark::new(Position::new(2), EventId::generate());
        models.commit(Step::new(&name("lost"), Position::ZERO, lost), nothing()).await.unwrap();
        models.commit(Step::new(&name("alarms"), Position::ZERO, Position::new(5)), nothing()).await.unwrap();
        let key = AggregateId::new("m-1").unwrap();
        let deadline = Deadline::new(Uuid::from_u128(1), key, "reply", Utc::now() - Duration::from_mins(1));
        models.settle_deadlines(&name("alarms"), &[DeadlineChange::Set(deadline)]).await.unwrap();
        let leader = Uuid::from_u128(7);
        let fence = log.acquire_lease("main", leader, Duration::from_hours(1)).await.unwrap().unwrap();
        log.advance("main", Position::new(1).into(), fence).await.unwrap();

        let mut observer = Observer::new(log.clone(), models.clone(), ObserverOptions::new().with_log("meters"));
        let report = observer.observe().await.unwrap();
        let fragile = report.processors.items.iter().find(|one| one.name.as_str() == "fragile").unwrap();
        let all = recorded.all();
        assert_values(
            &all,
            &[
                ("retell_head{log=meters}", 5.0),
                ("retell_unsequenced_commits{log=meters}", 0.0),
                ("retell_unsequenced_age_seconds{log=meters}", 0.0),
                ("retell_keys_rows{log=meters}", 0.0),
                ("retell_inbox_rows{log=meters}", 0.0),
                ("retell_lag_events{processor=fragile}", 2.0),
                ("retell_lag_events{processor=alarms}", 0.0),
                ("retell_processor_state{processor=fragile,state=running}", 1.0),
                ("retell_processor_state{processor=lost,state=history_changed}", 1.0),
                ("retell_deadlines_due{processor=alarms}", 1.0),
                ("retell_deadlines_due{processor=fragile}", 0.0),
                ("retell_relay_lag_events{relay=main}", 4.0),
                ("retell_relay_leader{relay=main}", 1.0),
                ("retell_observations_total{log=meters,outcome=ok}", 1.0),
                ("retell_observations_total{log=meters,outcome=failed}", 0.0),
            ],
        );
        let parked = value(&all, "retell_parked{processor=fragile}") + value(&all, "retell_dead{processor=fragile}");
        assert_eq!((parked, fragile.parked.waiting.count + fragile.parked.dead.count), (1.0, 1));
        assert!(value(&all, "retell_lag_events{processor=lost}").is_nan(), "how far it is behind is unknown");
        let seen_at = value(&all, "retell_observed_timestamp_seconds{log=meters}");
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
        let expected = report.at.timestamp() as f64;
        assert!((seen_at - expected).abs() <= 1.0, "{seen_at} is not {expected}");

        // A state that is over does not stay.
        models.reset(&name("lost"), Mark::START, nothing()).await.unwrap();
        log.release_lease("main", leader).await.unwrap();
        models.pause(&name("fragile"), &By::new("ada", "a repair")).await.unwrap();
        observer.observe().await.unwrap();
        assert_values(
            &recorded.all(),
            &[
                ("retell_processor_state{processor=lost,state=history_changed}", 0.0),
                ("retell_processor_state{processor=lost,state=running}", 1.0),
                ("retell_lag_events{processor=lost}", 5.0),
                ("retell_relay_leader{relay=main}", 0.0),
                ("retell_processor_state{processor=fragile,state=running}", 0.0),
                ("retell_processor_state{processor=fragile,state=paused}", 1.0),
            ],
        );

        // Nothing of a retired processor is left for an alert.
        for retired in ["fragile", "alarms"] {
            models.retire(&name(retired), &By::new("ada", "replaced")).await.unwrap();
        }
        observer.observe().await.unwrap();
        let all = recorded.all();
        for gauge in ["lag_events", "lag_seconds", "parked", "dead", "parked_oldest_seconds", "deadlines_due"] {
            for retired in ["fragile", "alarms"] {
                assert_values(&all, &[(format!("retell_{gauge}{{processor={retired}}}").as_str(), 0.0)]);
            }
        }
        assert_values(
            &all,
            &[
                ("retell_processor_state{processor=fragile,state=paused}", 0.0),
                ("retell_processor_state{processor=fragile,state=retired}", 1.0),
            ],
        );
    });
}

/// The read model of another program has other processors. Those of the first one are gone.
#[test]
fn processor_that_is_gone_keeps_no_value() {
    with_recorder(async |recorded| {
        let log = SqliteStore::in_memory().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("models.db");
        let models = SqliteReadModel::open(&path).await.unwrap();
        append(&log, "1", 1).await;
        models.commit(Step::new(&name("old"), Position::ZERO, Position::ZERO), nothing()).await.unwrap();
        let mut observer = Observer::new(log.clone(), models.clone(), ObserverOptions::new());
        observer.observe().await.unwrap();
        let lag = "retell_lag_events{processor=old}";
        assert_values(&recorded.all(), &[(lag, 1.0)]);
        let file = rusqlite::Connection::open(&path).unwrap();
        file.execute("DELETE FROM retell_checkpoints", []).unwrap();
        observer.observe().await.unwrap();
        assert_values(&recorded.all(), &[(lag, 0.0), ("retell_processor_state{processor=old,state=running}", 0.0)]);
    });
}

#[test]
fn failed_observation_is_counted_and_changes_nothing() {
    with_recorder(async |recorded| {
        let log = MemoryStore::new();
        append(&log, "1", 1).await;
        let models = SqliteReadModel::in_memory().await.unwrap();
        let mut observer = Observer::new(log.clone(), models.clone(), ObserverOptions::new());
        observer.observe().await.unwrap();
        let before = recorded.all();
        models.close().await.unwrap();
        append(&log, "1", 1).await;
        assert!(matches!(observer.observe().await.unwrap_err().kind(), ErrorKind::Closed(_)));
        let (all, at) = (recorded.all(), "retell_observed_timestamp_seconds{log=main}");
        assert_values(
            &all,
            &[("retell_observations_total{log=main,outcome=failed}", 1.0), ("retell_head{log=main}", 1.0)],
        );
        assert_values(&all, &[(at, value(&before, at))]);
    });
}

/// A log that never answers.
/// Without a head, an observation fails. The number of commits that wait for their position tells why.
#[test]
fn commits_without_a_position_are_seen_without_a_head() {
    with_recorder(async |recorded| {
        let database = Database::postgres().await;
        let Place::Postgres(url) = &database.place else { unreachable!("a database on PostgreSQL") };
        let log = PostgresStore::connect(url).await.unwrap();
        let options = ObserverOptions::new().with_limit(Duration::from_secs(1));
        let mut observer = Observer::new(log.clone(), log.read_model(), options);
        append(&log, "1", 1).await;
        observer.observe().await.unwrap();
        let mut db = PgConnection::connect(url).await.unwrap();
        db.execute("SELECT pg_advisory_lock(retell.lane_key(), 64)").await.unwrap();
        append(&log, "1", 1).await;
        let (commits, age) = ("retell_unsequenced_commits{log=main}", "retell_unsequenced_age_seconds{log=main}");
        // The head may be readable at first.
        let began = Instant::now();
        while value(&recorded.all(), age) <= 0.0 {
            assert!(began.elapsed() < Duration::from_mins(2), "{:?}", recorded.all());
            drop(observer.observe().await);
        }
        assert_values(&recorded.all(), &[(commits, 1.0), ("retell_head{log=main}", 1.0)]);
        db.close().await.unwrap();
        until(async || observer.observe().await.is_ok()).await;
        assert_values(&recorded.all(), &[(commits, 0.0), (age, 0.0), ("retell_head{log=main}", 2.0)]);
        log.close().await.unwrap();
    });
}

/// An append that takes long holds up the reads of a log in memory.
#[test]
fn observation_ends_at_its_limit() {
    with_recorder(async |recorded| {
        let (log, models) = (SqliteStore::in_memory().await.unwrap(), SqliteReadModel::in_memory().await.unwrap());
        let options = ObserverOptions::new().with_limit(Duration::from_millis(20));
        let mut observer = Observer::new(log.clone(), models, options);
        let (release, released) = channel::<()>();
        let (enter, entered) = oneshot::channel();
        let stream = StreamId::parse("meter", "1").unwrap();
        let append = Append::new(stream, ExpectedVersion::Any, vec![NewEvent::new(&Read { watts: 1 }).unwrap()]);
        let appending = tokio::spawn(async move {
            let work = move |_: &rusqlite::Connection| {
                enter.send(()).unwrap();
                Ok::<_, BoxError>(released.recv()?)
            };
            log.append_with(append, work).await.map(drop)
        });
        entered.await.unwrap();
        assert!(observer.observe().await.unwrap_err().is_transient());
        assert_values(&recorded.all(), &[("retell_observations_total{log=main,outcome=failed}", 1.0)]);
        release.send(()).unwrap();
        appending.await.unwrap().unwrap();
    });
}
