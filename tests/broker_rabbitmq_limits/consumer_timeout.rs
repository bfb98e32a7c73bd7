//! A handler takes longer than the consumer timeout. Before RabbitMQ 4.3, the broker closes the worker's channel. From 4.3 on, the queue takes
//! the late message back and cancels the consumer, whose channel and other messages stay.

use std::time::Duration;

use retell::broker::SubscriptionMode;
use retell::broker::rabbitmq::RabbitMqBroker;
use retell::id::ProjectionName;
use retell::store::{Append, EventStore};
use retell::testing::store::{event, stream};
use retell::{
    AnyEvent, BoxError, Envelope, ExpectedVersion, MemoryStore, Position, Projection, Relay, SqliteReadModel, Worker,
    WorkerOptions, async_trait, rusqlite,
};
use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::rabbitmq::RabbitMq;
use crate::{options, topology};

/// Time limit for everything to arrive.
const PATIENCE: Duration = Duration::from_mins(5);

/// The broker looks for late consumers four times within the timeout.
const SETTINGS: &str =
    "[{rabbit, [{consumer_timeout, 2000}, {channel_tick_interval, 500}, {quorum_tick_interval, 500}]}].";

/// The position of the event whose handler is slow.
const SLOW: u64 = 2;

/// Writes the position of each event into a table.
struct Noted {
    /// Whether the slow event is in the hands of its handler.
    begun: watch::Sender<bool>,
    /// Whether the slow event may pass.
    may_pass: watch::Receiver<bool>,
}

#[async_trait]
impl Projection for Noted {
    const NAME: &'static str = "noted";
    type Event = AnyEvent;
    type Tx = rusqlite::Connection;

    async fn setup(&self, db: &mut rusqlite::Connection) -> Result<(), BoxError> {
        db.execute_batch("CREATE TABLE IF NOT EXISTS noted (number INTEGER PRIMARY KEY, position INTEGER)")?;
        Ok(())
    }

    async fn apply(&self, db: &mut rusqlite::Connection, event: Envelope<AnyEvent>) -> Result<(), BoxError> {
        if event.position.get() == SLOW {
            self.begun.send_replace(true);
            self.may_pass.clone().wait_for(|may_pass| *may_pass).await?;
        }
        db.execute("INSERT INTO noted (position) VALUES (?)", [i64::try_from(event.position.get())?])?;
        Ok(())
    }
}

/// The messages and consumers of a queue, as the broker counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    ready: u64,
    all: u64,
    consumers: u64,
}

fn counts(server: &RabbitMq, queue: &str) -> Option<Counts> {
    let columns = ["name", "messages_ready", "messages", "consumers"];
    let listed = block_in_place(|| server.ctl(&[&["-q", "list_queues", "--no-table-headers"], &columns[..]].concat()));
    let line = listed.lines().find_map(|line| line.strip_prefix(queue))?;
    let mut numbers = line.split_whitespace().map_while(|number| number.parse().ok());
    Some(Counts { ready: numbers.next()?, all: numbers.next()?, consumers: numbers.next()? })
}

/// Waits until the broker counts what `is_so` wants to see.
async fn until(server: &RabbitMq, queue: &str, is_so: impl Fn(Counts) -> bool) {
    let mut last = None;
    let counted = async {
        while !last.is_some_and(&is_so) {
            sleep(Duration::from_millis(50)).await;
            last = counts(server, queue);
        }
    };
    let in_time = timeout(PATIENCE, counted).await;
    assert!(in_time.is_ok(), "the queue stays at {last:?}");
}

async fn append(store: &MemoryStore, count: u64) {
    for number in 0..count {
        let stream = stream(&(number % 3).to_string());
        store.append(Append::new(stream, ExpectedVersion::Any, vec![event("1")])).await.unwrap();
    }
}

async fn reached(positions: &mut watch::Receiver<Position>, position: u64) {
    let reached = positions.wait_for(|at| at.get() >= position);
    timeout(PATIENCE, reached).await.expect("the position is reached in time").unwrap();
}

async fn a_late_worker_continues(mode: SubscriptionMode) {
    let server = block_in_place(|| RabbitMq::start_with(SETTINGS));
    let broker = RabbitMqBroker::new(options(&server)).unwrap();
    let (store, models) = (MemoryStore::new(), SqliteReadModel::in_memory().await.unwrap());
    let ((begun, mut has_begun), (pass, may_pass)) = (watch::channel(false), watch::channel(false));
    let worker = Worker::new(Noted { begun, may_pass }, store.clone(), models.clone()).with_broker(broker.clone());
    let worker = worker.with_options(WorkerOptions::new().with_longest_call(Duration::from_mins(10)));
    let worker = if mode == SubscriptionMode::Competing { worker.with_order_per_aggregate() } else { worker };
    let relay = Relay::new(store.clone(), broker).with_checkpoint(store.clone(), "frames");
    let queue = topology().queue(&ProjectionName::new(Noted::NAME).unwrap(), mode).unwrap();
    let (mut applied, mut status, mut published) = (worker.applied(), worker.status(), relay.published());
    let stop = CancellationToken::new();
    let (of_worker, of_relay) = (stop.clone(), stop.clone());
    let worker = tokio::spawn(async move { worker.run(of_worker).await.unwrap() });
    let relay = tokio::spawn(async move { relay.run(of_relay).await.unwrap() });

    append(&store, 1).await;
    reached(&mut applied, 1).await;
    until(&server, &queue, |counts| counts.consumers == 1).await;
    append(&store, 1).await;
    timeout(PATIENCE, has_begun.wait_for(|begun| *begun)).await.expect("the slow event arrives").unwrap();
    // These wait in the worker's prefetch buffer, in frames of their own.
    append(&store, 6).await;
    reached(&mut published, 8).await;
    until(&server, &queue, |counts| counts.ready > 0).await;
    pass.send_replace(true);
    reached(&mut applied, 8).await;
    let seen = timeout(PATIENCE, status.wait_for(|status| status.last_error.is_some())).await;
    let seen = seen.expect("the worker tells that it has lost its consumer").unwrap().last_error.clone().unwrap().error;
    assert!(seen.contains("consumer timeout") || seen.contains("delivery acknowledgement on channel"), "{seen}");

    append(&store, 6).await;
    reached(&mut applied, 14).await;
    // It acknowledges what comes now, and nothing is left of the old consumer.
    let is_consumed = |counts: Counts| counts == Counts { ready: 0, all: 0, consumers: 1 };
    until(&server, &queue, is_consumed).await;
    append(&store, 6).await;
    reached(&mut applied, 20).await;
    until(&server, &queue, is_consumed).await;
    let is_good = timeout(PATIENCE, status.wait_for(|status| status.wait().is_none())).await;
    drop(is_good.expect("the wait for the broker is over").unwrap());

    stop.cancel();
    worker.await.unwrap();
    relay.await.unwrap();
    let noted: Vec<u64> = models
        .query(|db| {
            let mut positions = db.prepare("SELECT position FROM noted ORDER BY position")?;
            let positions = positions.query_map([], |row| row.get::<_, i64>(0))?;
            positions.map(|position| Ok(position?.cast_unsigned())).collect::<rusqlite::Result<_>>()
        })
        .await
        .unwrap();
    assert_eq!(noted, (1..=20).collect::<Vec<_>>(), "each event once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_over_the_consumer_timeout_continues() {
    a_late_worker_continues(SubscriptionMode::Exclusive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parallel_worker_over_the_timeout_continues() {
    a_late_worker_continues(SubscriptionMode::Competing).await;
}
