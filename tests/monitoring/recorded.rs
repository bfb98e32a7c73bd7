//! The metrics of commands, workers, relays, brokers and tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use retell::broker::rabbitmq::topology::{Channel, Topology};
use retell::event::NewEvent;
use retell::metrics::ALL;
use retell::operate::ObserverOptions;
use retell::store::{Appended, BatchAppend, GroupCommit, ProcessorKind, RegisteredProcessor};
use retell::testing::faulty::{Fault, FaultyBroker};
use retell::worker::{ParkingOptions, WorkerOptions};
use retell::{
    App, Append, CancellationToken, Claim, Codec, Context, ErrorKind, EventId, EventStore, EventType, ExpectedVersion,
    Filter, IdempotencyKey, MemoryBroker, MemoryReadModel, MemoryStore, Projection, ProjectionName, RabbitMqBroker,
    RabbitMqOptions, ReadModel, Relay, Repository, RepositoryOptions, SqliteStore, StreamId, Utc, Worker, async_trait,
};

use crate::program::{Fragile, Meter, Read, Record};
use crate::rabbitmq::RabbitMq;
use crate::workers::{reached, until, while_running};
use crate::{Recorded, assert_values, samples, until_values, value, with_recorder};

fn stream(id: &str) -> StreamId {
    StreamId::parse("meter", id).unwrap()
}

fn fragile() -> ProjectionName {
    ProjectionName::new(Fragile::NAME).unwrap()
}

fn reading(id: &str, watts: u64) -> Append {
    Append::new(stream(id), ExpectedVersion::Any, vec![NewEvent::new(&Read { watts }).unwrap()])
}

/// A reading of the first schema version.
fn old_reading(id: &str) -> Append {
    let event_type = EventType::new("meter.read").unwrap();
    let event = NewEvent::stored(EventId::generate(), event_type, 1, Codec::Json, r#"{"kilowatts":2}"#.into());
    Append::new(stream(id), ExpectedVersion::Any, vec![event])
}

/// Remembers which metrics the cases have seen.
fn names(all: &BTreeMap<String, Vec<f64>>) -> BTreeSet<String> {
    all.keys().map(|key| key.split('{').next().unwrap().to_owned()).collect()
}

#[test]
fn handle_from_before_the_recorder_records_nothing() {
    let early = MemoryStore::new();
    with_recorder(async |recorded| {
        early.append(reading("1", 1)).await.unwrap();
        assert!(recorded.all().is_empty(), "{:?}", recorded.all().keys());
        let late = MemoryStore::new();
        late.append(reading("1", 1)).await.unwrap();
        assert_values(&recorded.all(), &[("retell_appends_total{store=memory,outcome=ok}", 1.0)]);
    });
}

/// A driver that is down.
struct Down;

#[async_trait]
impl BatchAppend for Down {
    async fn append_batch(&self, batch: Vec<Append>) -> Vec<retell::Result<Appended>> {
        batch.iter().map(|_| Err(ErrorKind::Transient("append".into()).into())).collect()
    }
}

#[test]
fn each_outcome_of_an_append_is_counted() {
    with_recorder(async |recorded| {
        let log = SqliteStore::in_memory().await.unwrap();
        let meters = Repository::<Meter>::new(log.clone());
        meters.execute("1", Record(5)).await.unwrap();
        log.append(reading("1", 6)).await.unwrap();
        let stale = NewEvent::new(&Read { watts: 7 }).unwrap();
        let id = stale.id;
        let stale = Append::new(stream("1"), ExpectedVersion::NoStream, vec![stale]);
        assert!(log.append(stale.clone()).await.unwrap_err().is_conflict());

        let claim = || vec![Claim::reserve("serial", "s-1").unwrap()];
        log.append(reading("2", 1).with_claims(claim())).await.unwrap();
        assert!(log.append(reading("3", 1).with_claims(claim())).await.unwrap_err().is_taken());

        let known =
            NewEvent::stored(id, EventType::new("meter.read").unwrap(), 2, Codec::Json, r#"{"watts":1}"#.into());
        let known = Append::new(stream("4"), ExpectedVersion::Any, vec![known]);
        log.append(known.clone()).await.unwrap();
        assert!(matches!(log.append(known).await.unwrap_err().kind(), ErrorKind::DuplicateEvent(_)));

        let context = || Context::new().with_key(IdempotencyKey::new("pay").unwrap());
        meters.execute_with("5", Record(1), context()).await.unwrap();
        meters.execute_with("5", Record(1), context()).await.unwrap();

        let down = GroupCommit::new(Arc::new(Down)).with_name("down");
        assert!(down.append(reading("1", 1)).await.unwrap_err().is_transient());

        let all = recorded.all();
        assert_values(
            &all,
            &[
                ("retell_appends_total{store=sqlite,outcome=ok}", 5.0),
                ("retell_appends_total{store=sqlite,outcome=conflict}", 1.0),
                ("retell_appends_total{store=sqlite,outcome=taken}", 1.0),
                ("retell_appends_total{store=sqlite,outcome=refused}", 1.0),
                ("retell_appends_total{store=sqlite,outcome=duplicate}", 1.0),
                ("retell_appends_total{store=sqlite,outcome=transient}", 0.0),
                ("retell_appends_total{store=down,outcome=transient}", 1.0),
            ],
        );
        assert_eq!(samples(&all, "retell_append_seconds{store=sqlite}"), 9);
        assert_eq!(all["retell_commit_appends{store=sqlite}"], [1.0; 9]);
        assert_eq!(all["retell_commit_events{store=sqlite}"], [1.0; 9]);
    });
}

#[test]
fn appends_that_share_a_commit_are_counted_together() {
    with_recorder(async |recorded| {
        let log = MemoryStore::new();
        let (one, two, three) = (reading("1", 1), reading("2", 1), reading("3", 1));
        let appended = futures::join!(log.append(one), log.append(two), log.append(three));
        assert!(appended.0.is_ok() && appended.1.is_ok() && appended.2.is_ok());
        let all = recorded.all();
        for key in ["retell_commit_appends{store=memory}", "retell_commit_events{store=memory}"] {
            assert!((all[key].iter().sum::<f64>() - 3.0).abs() < 1e-9, "{key}: {:?}", all[key]);
        }
        assert!(samples(&all, "retell_commit_appends{store=memory}") < 3, "one of the commits has two appends");
    });
}

#[test]
fn loads_are_counted_by_their_source() {
    with_recorder(async |recorded| {
        let log = MemoryStore::new();
        log.append(old_reading("1")).await.unwrap();
        let meters = Repository::<Meter>::new(log.clone());
        for watts in 2..=5 {
            meters.execute("1", Record(watts)).await.unwrap();
        }
        meters.flush().await;
        meters.load("1").await.unwrap();
        let uncached = meters.clone().with_options(RepositoryOptions::new().with_cached_aggregates(0));
        log.append(reading("1", 6)).await.unwrap();
        assert_eq!(uncached.load("1").await.unwrap().state.watts, 6);

        let all = recorded.all();
        assert_eq!(all["retell_load_events{aggregate_type=meter,source=replay}"], [1.0]);
        assert_eq!(all["retell_load_events{aggregate_type=meter,source=cache}"], [0.0]);
        let from_snapshot = &all["retell_load_events{aggregate_type=meter,source=snapshot}"];
        assert!(matches!(from_snapshot[..], [replayed] if (1.0..=2.0).contains(&replayed)), "{from_snapshot:?}");
        for source in ["replay", "cache", "snapshot"] {
            assert_eq!(samples(&all, &format!("retell_load_seconds{{aggregate_type=meter,source={source}}}")), 1);
        }
        assert_values(
            &all,
            &[
                ("retell_cache_hits_total{aggregate_type=meter}", 3.0),
                ("retell_snapshots_total{aggregate_type=meter,outcome=saved}", 1.0),
                ("retell_snapshots_total{aggregate_type=meter,outcome=failed}", 0.0),
                ("retell_schema_upcasts_total{event_type=meter.read,from=1}", 1.0),
            ],
        );
    });
}

/// Options without waits, for a handler that keeps failing.
pub(crate) fn impatient() -> WorkerOptions {
    let parking = ParkingOptions::new().with_delays(Duration::from_millis(1), Duration::from_millis(1));
    WorkerOptions::new().with_retries(0).with_parking(parking.with_retries(2)).with_sweep(Duration::from_mins(10))
}

fn worker(log: &MemoryStore, models: &MemoryReadModel, projection: &Fragile) -> Worker<Fragile, MemoryReadModel> {
    Worker::new(projection.clone(), log.clone(), models.clone()).with_options(impatient())
}

#[test]
fn worker_counts_applied_failed_and_parked() {
    for per_aggregate in [false, true] {
        with_recorder(async |recorded| {
            let (log, models, projection) = (MemoryStore::new(), MemoryReadModel::new(), Fragile::default());
            projection.is_broken.store(true, Ordering::SeqCst);
            log.append(old_reading("1")).await.unwrap();
            for (id, watts) in [("2", 9_500), ("3", 1), ("2", 1)] {
                log.append(reading(id, watts)).await.unwrap();
            }
            let worker = worker(&log, &models, &projection);
            let worker = if per_aggregate { worker.with_order_per_aggregate() } else { worker };
            let parked = worker.catch_up().await.unwrap().parked;
            assert_eq!(parked.len(), 1);
            let all = recorded.all();
            assert_values(
                &all,
                &[
                    ("retell_parkings_total{processor=fragile,reason=handler}", 1.0),
                    ("retell_parkings_total{processor=fragile,reason=undecodable}", 0.0),
                    ("retell_parkings_total{processor=fragile,reason=state}", 0.0),
                    ("retell_applied_total{processor=fragile,outcome=ok}", 2.0),
                    ("retell_behind_deploy{processor=fragile}", 0.0),
                ],
            );
            assert!(value(&all, "retell_applied_total{processor=fragile,outcome=failed}") >= 1.0);
            assert!(value(&all, "retell_schema_upcasts_total{event_type=meter.read,from=1}") >= 1.0);
            assert!(samples(&all, "retell_apply_seconds{processor=fragile}") >= 2);
        });
    }
}

#[test]
fn undecodable_event_is_parked_for_its_own_reason() {
    with_recorder(async |recorded| {
        let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
        let event_type = EventType::new("meter.read").unwrap();
        let broken = NewEvent::stored(EventId::generate(), event_type, 2, Codec::Json, "{}".into());
        log.append(Append::new(stream("1"), ExpectedVersion::Any, vec![broken])).await.unwrap();
        worker(&log, &models, &Fragile::default()).catch_up().await.unwrap();
        assert_values(
            &recorded.all(),
            &[
                ("retell_parkings_total{processor=fragile,reason=handler}", 0.0),
                ("retell_parkings_total{processor=fragile,reason=undecodable}", 1.0),
            ],
        );
    });
}

#[test]
fn outage_parks_nothing() {
    with_recorder(async |recorded| {
        let (log, models, projection) = (MemoryStore::new(), MemoryReadModel::new(), Fragile::default());
        projection.is_broken.store(true, Ordering::SeqCst);
        for id in 0..9 {
            log.append(reading(&id.to_string(), 9_500)).await.unwrap();
        }
        let running = [worker(&log, &models, &projection)];
        while_running(&running, async {
            let mut status = running[0].status();
            status.wait_for(|status| !status.waits.is_empty()).await.unwrap();
            projection.is_broken.store(false, Ordering::SeqCst);
            reached(&models, &fragile(), 9).await;
        })
        .await;
        let all = recorded.all();
        assert_values(
            &all,
            &[
                ("retell_parkings_total{processor=fragile,reason=handler}", 0.0),
                ("retell_applied_total{processor=fragile,outcome=ok}", 9.0),
            ],
        );
    });
}

#[test]
fn worker_behind_a_deploy_says_so() {
    with_recorder(async |recorded| {
        let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
        let replaced = EventType::new("meter.replaced").unwrap();
        let types = [EventType::new("meter.read").unwrap(), replaced.clone()];
        let options = impatient().with_sweep(Duration::from_millis(50));
        let running = [worker(&log, &models, &Fragile::default()).with_options(options)];
        while_running(&running, async {
            until(async || !models.processors(&fragile()).await.unwrap().is_empty()).await;
            let newer = RegisteredProcessor::new(
                ProcessorKind::Projection,
                Filter::all().with_event_types(types),
                Utc::now(),
                "newer",
            );
            models.register_processor(&fragile(), &newer).await.unwrap();
            let event = NewEvent::stored(EventId::generate(), replaced.clone(), 1, Codec::Json, "{}".into());
            log.append(Append::new(stream("1"), ExpectedVersion::Any, vec![event])).await.unwrap();
            let waits = |all: &BTreeMap<_, _>| value(all, "retell_behind_deploy{processor=fragile}") > 0.0;
            until_values(&recorded, "the worker waits", waits).await;
            models.forget_processor(&fragile(), &newer).await.unwrap();
            until_values(&recorded, "the worker continues", |all| !waits(all)).await;
        })
        .await;
    });
}

#[test]
fn messages_that_bring_nothing_are_counted() {
    with_recorder(async |recorded| {
        let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
        let faults = [Fault::Deliver, Fault::Double, Fault::Drop, Fault::Deliver, Fault::Junk];
        let broker = FaultyBroker::new(MemoryBroker::new(), faults);
        let relay = Relay::new(log.clone(), broker.clone());
        let running = [worker(&log, &models, &Fragile::default()).with_broker(broker)];
        let (stop, mut published) = (CancellationToken::new(), relay.published());
        let relayed = async {
            for number in 1..=5_u64 {
                log.append(reading("1", number)).await.unwrap();
                published.wait_for(|position| position.get() >= number).await.unwrap();
                if number != 3 {
                    reached(&models, &fragile(), number).await;
                }
            }
            let unreadable = "retell_gate_drops_total{processor=fragile,reason=unreadable}";
            until_values(&recorded, "the message is rejected", |all| value(all, unreadable) > 0.0).await;
            stop.cancel();
        };
        let (ended, ()) = futures::join!(relay.run(stop.clone()), while_running(&running, relayed));
        ended.unwrap();
        let all = recorded.all();
        assert_values(
            &all,
            &[
                ("retell_gate_drops_total{processor=fragile,reason=known}", 1.0),
                ("retell_gate_drops_total{processor=fragile,reason=unreadable}", 1.0),
                ("retell_holes_healed_total{processor=fragile}", 1.0),
                ("retell_frames_total{relay=local}", 5.0),
                ("retell_relayed_events_total{relay=local}", 5.0),
                ("retell_unconfirmed{relay=local}", 0.0),
                ("retell_unroutable_total{relay=local}", 0.0),
            ],
        );
    });
}

#[test]
fn task_that_restarts_is_counted() {
    with_recorder(async |recorded| {
        let projection = Fragile::default();
        projection.cannot_start.store(true, Ordering::SeqCst);
        let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
        let running = App::new(log, models).projection(projection.clone()).start();
        let failures = "retell_task_failures_total{task=fragile}";
        until_values(&recorded, "the task fails twice", |all| value(all, failures) >= 2.0).await;
        projection.cannot_start.store(false, Ordering::SeqCst);
        running.wait_for_all(Duration::from_mins(5)).await.unwrap();
        running.stop().await.unwrap();
    });
}

/// Runs a program on RabbitMQ that loses its connections. At the end, every metric of the code has been recorded.
#[test]
fn program_on_rabbitmq_records_every_metric() {
    let server = RabbitMq::start();
    with_recorder(async |recorded| on_rabbitmq(recorded, &server).await);
}

async fn on_rabbitmq(recorded: Recorded, server: &RabbitMq) {
    let url = format!("amqp://guest:guest@{}/%2f?heartbeat=60", server.address());
    let topology = Topology::new().with_channel(Channel::new("shop.events", ["shop.#"]));
    let options = RabbitMqOptions::new(&url).unwrap().with_topology(topology).with_unroutable_count();
    let broker = RabbitMqBroker::new(options).unwrap();
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    let meters = Repository::<Meter>::new(log.clone());
    let app = App::new(log.clone(), models.clone()).projection(Fragile::default());
    let observer = ObserverOptions::new().with_interval(Duration::from_millis(20));
    let running = app.with_shared_broker(broker.clone(), "main").with_observer(observer).start();
    let both = ["main", "main announcements"];
    let relayed = async |events: f64| {
        let is_relayed = |all: &BTreeMap<_, _>| {
            both.iter().all(|relay| value(all, &format!("retell_relay_lag_events{{relay={relay}}}")) == 0.0)
                && value(all, "retell_head{log=main}") >= events
        };
        until_values(&recorded, "everything is relayed", is_relayed).await;
    };
    let leads = |all: &BTreeMap<_, _>| {
        both.iter().all(|relay| all.get(&format!("retell_relay_leader{{relay={relay}}}")) == Some(&vec![1.0]))
    };
    until_values(&recorded, "both relays have a leader", leads).await;
    for watts in 1..=3 {
        meters.execute("1", Record(watts)).await.unwrap();
    }
    relayed(3.0).await;
    let all = recorded.all();
    assert_values(
        &all,
        &[
            ("retell_relayed_events_total{relay=main}", 3.0),
            ("retell_relayed_events_total{relay=main announcements}", 3.0),
            ("retell_unroutable_total{relay=main announcements}", 3.0),
            ("retell_unroutable_total{relay=main}", 0.0),
            ("retell_reconnects_total{connection=publishing,outcome=ok}", 0.0),
            ("retell_reconnects_total{connection=announcing,outcome=ok}", 0.0),
            ("retell_relay_leader{relay=main}", 1.0),
        ],
    );
    assert!((1.0..=3.0).contains(&value(&all, "retell_frames_total{relay=main}")));
    let seen = names(&all);

    server.ctl(&["close_all_connections", "for a test"]);
    meters.execute("1", Record(4)).await.unwrap();
    relayed(4.0).await;
    for connection in ["publishing", "announcing", "consuming"] {
        let key = format!("retell_reconnects_total{{connection={connection},outcome=ok}}");
        until_values(&recorded, "the connection is back", |all| value(all, &key) >= 1.0).await;
    }
    let key = "retell_reconnects_total{connection=publishing,outcome=failed}";
    let before = value(&recorded.all(), key);
    // Nothing listens on this port.
    let nobody = RabbitMqBroker::new(RabbitMqOptions::new("amqp://127.0.0.1:9/%2f").unwrap()).unwrap();
    assert!(nobody.declare().await.unwrap_err().is_transient());
    assert_values(&recorded.all(), &[(key, before + 1.0)]);
    running.stop().await.unwrap();
    broker.close().await.unwrap();
    let missing: Vec<_> = ALL.iter().map(|metric| metric.name).filter(|name| !seen.contains(*name)).collect();
    assert!(missing.is_empty(), "never recorded: {missing:?}");
}
