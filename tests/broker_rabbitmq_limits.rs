//! RabbitMQ refuses large messages, a full queue refuses frames, a user has no rights, publishers are blocked, and a worker is too slow. Each
//! test starts a RabbitMQ.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "broker_rabbitmq_limits/consumer_timeout.rs"]
mod consumer_timeout;
#[path = "support/programs.rs"]
mod programs;
#[path = "support/rabbitmq.rs"]
mod rabbitmq;

use std::collections::BTreeMap;
use std::time::Duration;

use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use rabbitmq::RabbitMq;
use retell::broker::frame::Frame;
use retell::broker::rabbitmq::topology::{Channel, Topology};
use retell::broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use retell::broker::{Announcer, Broker, DeadLetter, DeadLetters, Publisher, SubscriptionMode};
use retell::event::{Metadata, NewEvent, RecordedEvent};
use retell::id::{Position, ProjectionName};
use retell::status::{Status, Wait};
use retell::store::{Append, EventStore};
use retell::testing::store::{event, stream};
use retell::{DateTime, ErrorKind, ExpectedVersion, MemoryStore, Relay, RelayOptions, Version};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn url(address: &str) -> String {
    format!("amqp://guest:guest@{address}/%2f?heartbeat=60")
}

fn topology() -> Topology {
    Topology::new().with_channel(Channel::new("all.events", ["#"]))
}

fn options(server: &RabbitMq) -> RabbitMqOptions {
    RabbitMqOptions::new(&url(&server.address())).unwrap().with_topology(topology())
}

fn name(name: &str) -> ProjectionName {
    ProjectionName::new(name).unwrap()
}

fn frame(position: u64, bytes: usize) -> Frame {
    Frame::unchecked(Position::new(position), vec![b'x'; bytes])
}

fn recorded(position: u64, note: &str) -> RecordedEvent {
    let event: NewEvent = event(format!(r#"{{"note":"{note}"}}"#));
    RecordedEvent::new(Position::new(position), stream("1"), Version::new(position), DateTime::UNIX_EPOCH, event)
}

/// Publishes as a relay does: an error that passes is followed by another attempt with everything.
async fn publish(broker: &RabbitMqBroker, frames: &[Frame]) {
    for _ in 0..3 {
        let published = async { broker.publish(frames).await?.await };
        match published.await {
            Ok(()) => return,
            Err(error) => assert!(error.is_transient(), "{error:#}"),
        }
    }
    panic!("the frames were not published");
}

async fn plain_client(server: &RabbitMq) -> lapin::Channel {
    let connection = Connection::connect(&url(&server.address()), ConnectionProperties::default()).await.unwrap();
    connection.create_channel().await.unwrap()
}

/// Takes all messages of a queue.
async fn drain(channel: &lapin::Channel, queue: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some(message) = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap() {
        found.push(message.delivery.data);
    }
    found
}

fn queue(projection: &str) -> String {
    topology().queue(&name(projection), SubscriptionMode::Competing).unwrap()
}

#[tokio::test]
async fn an_event_over_the_message_size_stops_no_other() {
    let server = RabbitMq::start_with("[{rabbit, [{max_message_size, 100000}]}].");
    let broker = RabbitMqBroker::new(options(&server)).unwrap();
    drop(broker.subscribe(&name("sales"), SubscriptionMode::Competing).await.unwrap());
    let frames = [frame(1, 10), frame(2, 200_000), frame(3, 10)];
    publish(&broker, &frames).await;
    assert_eq!(broker.unsent_frames(), 1);

    let events = [recorded(1, "a"), recorded(2, &"b".repeat(200_000)), recorded(3, "c")];
    let first = async { broker.announce(&events).await?.await };
    let error = first.await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("max_message_size of 100000 bytes"), "{error:#}");
    broker.announce(&events).await.unwrap().await.unwrap();
    let client = plain_client(&server).await;
    let mut announced = BTreeMap::new();
    for message in drain(&client, "all.events").await {
        let message: serde_json::Value = serde_json::from_slice(&message).unwrap();
        announced.insert(message["position"].as_u64().unwrap(), message);
    }
    assert_eq!(announced.len(), 3);
    assert_eq!((&announced[&2]["payload"], &announced[&2]["payload_encoding"]), (&().into(), &"omitted".into()));
    assert_eq!((&announced[&3]["payload"]["note"], announced[&3].get("payload_encoding")), (&"c".into(), None));
    let first_bytes: Vec<_> = drain(&client, &queue("sales")).await.iter().map(Vec::len).collect();
    assert!(first_bytes.iter().all(|bytes| *bytes == 10) && first_bytes.len() >= 2, "{first_bytes:?}");
}

#[tokio::test]
async fn a_queue_that_refuses_frames_does_not_block_the_others() {
    let server = RabbitMq::start();
    let broker = RabbitMqBroker::new(options(&server)).unwrap();
    drop(broker.subscribe(&name("sales"), SubscriptionMode::Competing).await.unwrap());
    let client = plain_client(&server).await;
    let mut full = FieldTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    full.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    client.queue_declare("full".into(), QueueDeclareOptions::durable(), full).await.unwrap();
    let bound = client.queue_bind(
        "full".into(),
        "event.log".into(),
        "".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.unwrap();
    for position in 1..=20 {
        broker.publish(&[frame(position, 10)]).await.unwrap().await.unwrap();
    }
    assert!(broker.unsent_frames() >= 15, "{}", broker.unsent_frames());
    assert_eq!(drain(&client, &queue("sales")).await.len(), 20, "each frame once");
}

#[tokio::test]
async fn a_queue_that_nobody_reads_makes_no_dead_letters() {
    let server = RabbitMq::start();
    let mut topology = topology();
    topology.projections.max_length = Some(2);
    let broker = RabbitMqBroker::new(options(&server).with_topology(topology)).unwrap();
    broker.declare().await.unwrap();
    drop(broker.subscribe(&name("sales"), SubscriptionMode::Competing).await.unwrap());
    for position in 1..=20 {
        broker.publish(&[frame(position, 10)]).await.unwrap().await.unwrap();
    }
    let client = plain_client(&server).await;
    assert_eq!(drain(&client, "dead.events").await.len(), 0);
    assert_eq!(drain(&client, &queue("sales")).await.len(), 2);
}

#[tokio::test]
async fn a_user_without_the_right_to_configure_uses_what_is_there() {
    let server = RabbitMq::start();
    let operator = RabbitMqBroker::new(options(&server)).unwrap();
    operator.declare().await.unwrap();
    drop(operator.subscribe(&name("sales"), SubscriptionMode::Competing).await.unwrap());
    server.ctl(&["add_user", "app", "secret"]);
    server.ctl(&["set_permissions", "app", "", ".*", ".*"]);
    let options = RabbitMqOptions::new(&format!("amqp://app:secret@{}/%2f", server.address())).unwrap();
    let options = options.with_topology(topology());
    let refused = RabbitMqBroker::new(options.clone()).unwrap().declare().await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Backend(_)), "{refused:#}");

    let broker = RabbitMqBroker::new(options.without_declaring()).unwrap();
    broker.declare().await.unwrap();
    let mut consumer = broker.subscribe(&name("sales"), SubscriptionMode::Competing).await.unwrap();
    broker.publish(&[frame(1, 10)]).await.unwrap().await.unwrap();
    assert_eq!(consumer.next(10).await.unwrap().len(), 1);
    broker.announce(&[recorded(1, "a")]).await.unwrap().await.unwrap();
    assert_eq!(drain(&plain_client(&server).await, "all.events").await.len(), 1);
    let missing = broker.subscribe(&name("unknown"), SubscriptionMode::Competing).await.err().unwrap();
    assert!(missing.is_transient() && format!("{missing:#}").contains("NOT_FOUND"), "{missing:#}");
}

#[tokio::test]
async fn a_blocked_publisher_waits_and_sends_nothing_twice() {
    let server = RabbitMq::start();
    let broker = RabbitMqBroker::new(options(&server).with_timeout(Duration::from_secs(2))).unwrap();
    drop(broker.subscribe(&name("sales"), SubscriptionMode::Competing).await.unwrap());
    broker.publish(&[frame(1, 10)]).await.unwrap().await.unwrap();
    server.ctl(&["set_vm_memory_high_watermark", "0.0000001"]);
    // The broker notices that it blocks a connection when that publishes.
    let mut waiting = broker.publish(&[frame(2, 10)]).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(6), waiting.as_mut()).await;
    assert!(waited.is_err(), "{waited:?}");
    let error = broker.publish(&[frame(3, 10)]).await.err().unwrap();
    assert!(error.is_transient() && error.to_string().contains("low on memory"), "{error:#}");
    let publishers = server.ctl(&["list_connections", "client_properties"]).matches("publishing").count();
    assert_eq!(publishers, 1, "no second connection was opened");

    server.ctl(&["set_vm_memory_high_watermark", "0.6"]);
    waiting.await.unwrap();
    publish(&broker, &[frame(3, 10)]).await;
    assert_eq!(drain(&plain_client(&server).await, &queue("sales")).await.len(), 3, "each frame once");
}

#[tokio::test]
async fn the_next_node_takes_over() {
    let mut server = RabbitMq::start();
    let other = RabbitMq::start();
    let url = url(&format!("{},{}", server.address(), other.address()));
    let options = RabbitMqOptions::new(&url).unwrap().with_timeout(Duration::from_secs(5));
    let broker = RabbitMqBroker::new(options).unwrap();
    broker.publish(&[frame(1, 10)]).await.unwrap().await.unwrap();
    server.kill();
    publish(&broker, &[frame(2, 10)]).await;
    drop(broker.subscribe(&name("sales"), SubscriptionMode::Competing).await.unwrap());
    publish(&broker, &[frame(3, 10)]).await;
    assert_eq!(drain(&plain_client(&other).await, &queue("sales")).await.len(), 1);
    drop(other);
    // The first attempt may find the old connection.
    drop(broker.publish(&[frame(4, 10)]).await);
    let error = broker.publish(&[frame(4, 10)]).await.err().unwrap();
    assert!(error.is_transient() && error.to_string().contains("connect to RabbitMQ at 127.0.0.1"), "{error:#}");
}

#[tokio::test]
async fn frames_need_no_queue_of_a_channel() {
    let server = RabbitMq::start();
    let broker = RabbitMqBroker::new(options(&server)).unwrap();
    let client = plain_client(&server).await;
    // A queue that cannot be declared, as one whose node is down.
    client.queue_declare("all.events".into(), QueueDeclareOptions::durable(), FieldTable::default()).await.unwrap();
    drop(broker.subscribe(&name("sales"), SubscriptionMode::Competing).await.unwrap());
    broker.publish(&[frame(1, 10)]).await.unwrap().await.unwrap();
    assert_eq!(drain(&client, &queue("sales")).await.len(), 1);
    assert!(matches!(broker.declare().await.unwrap_err().kind(), ErrorKind::Topology(_)));
}

#[tokio::test]
async fn channels_can_be_quorum_queues() {
    let server = RabbitMq::start();
    let mut topology = Topology::new().with_channel(Channel::new("all.events", ["#"]).with_kind("quorum"));
    topology.dead_letter_queue = topology.dead_letter_queue.with_kind("quorum");
    RabbitMqBroker::new(options(&server).with_topology(topology)).unwrap().declare().await.unwrap();
    let queues = server.ctl(&["list_queues", "name", "type", "--silent"]);
    let quorum = |name: &str| queues.lines().any(|line| line.starts_with(name) && line.ends_with("quorum"));
    assert!(quorum("all.events") && quorum("dead.events"), "{queues}");
}

/// A relay of single events, with the events in its log.
struct Announcing {
    log: MemoryStore,
    status: watch::Receiver<Status>,
    published: watch::Receiver<Position>,
    stop: CancellationToken,
    task: JoinHandle<retell::Result<()>>,
}

impl Announcing {
    fn start(options: RabbitMqOptions) -> Self {
        let (log, stop) = (MemoryStore::new(), CancellationToken::new());
        let relay = Relay::announcing(log.clone(), RabbitMqBroker::new(options).unwrap());
        let options = RelayOptions::new().with_longest_delay(Duration::from_millis(100));
        let relay = relay.with_checkpoint(log.clone(), "announcements").with_options(options);
        let (status, published, stopped) = (relay.status(), relay.published(), stop.clone());
        let task = tokio::spawn(async move { relay.run(stopped).await });
        Self { log, status, published, stop, task }
    }

    async fn append(&self, event: NewEvent) {
        self.log.append(Append::new(stream("1"), ExpectedVersion::Any, vec![event])).await.unwrap();
    }

    async fn reached(&mut self, position: u64) {
        let reached = self.published.wait_for(|at| *at == Position::new(position));
        tokio::time::timeout(Duration::from_mins(5), reached).await.expect("the relay publishes").unwrap();
    }

    /// Waits until the relay waits for the broker, and returns the error.
    async fn waits(&mut self) -> String {
        let waits = self.status.wait_for(|status| status.wait().is_some_and(|wait| wait.error.is_some()));
        let status = tokio::time::timeout(Duration::from_mins(5), waits).await.expect("the relay says why").unwrap();
        let wait = status.wait().unwrap();
        assert_eq!(wait.on, Wait::Broker);
        wait.error.clone().unwrap()
    }

    async fn is_good(&mut self) {
        let good = self.status.wait_for(|status| status.wait().is_none());
        drop(tokio::time::timeout(Duration::from_mins(5), good).await.expect("the wait is over").unwrap());
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn positions(messages: &[Vec<u8>]) -> Vec<u64> {
    let position =
        |message: &Vec<u8>| serde_json::from_slice::<serde_json::Value>(message).unwrap()["position"].as_u64();
    messages.iter().map(|message| position(message).unwrap()).collect()
}

#[tokio::test]
async fn a_blocked_relay_with_nothing_more_to_send_says_why() {
    let server = RabbitMq::start();
    let mut relay = Announcing::start(options(&server));
    relay.append(event("1")).await;
    relay.reached(1).await;
    server.ctl(&["set_vm_memory_high_watermark", "0.0000001"]);
    relay.append(event("2")).await;
    let error = relay.waits().await;
    assert!(error.contains("low on memory or disk") && error.contains("vm_memory_high_watermark"), "{error}");
    server.ctl(&["set_vm_memory_high_watermark", "0.6"]);
    relay.reached(2).await;
    relay.is_good().await;
    relay.stop().await;
    assert_eq!(positions(&drain(&plain_client(&server).await, "all.events").await), [1, 2], "nothing was sent twice");
}

#[tokio::test]
async fn a_dead_letter_does_not_wait_for_an_alarm_to_end() {
    let server = RabbitMq::start();
    let broker = RabbitMqBroker::new(options(&server)).unwrap();
    let letter = DeadLetter::new(name("sales"), recorded(1, "a"), "refused".into(), 3);
    broker.add(&letter).await.unwrap();
    server.ctl(&["set_vm_memory_high_watermark", "0.0000001"]);
    for _ in 0..3 {
        let added = tokio::time::timeout(Duration::from_secs(20), broker.add(&letter)).await.expect("an answer");
        let error = added.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("low on memory"), "{error:#}");
    }
    server.ctl(&["set_vm_memory_high_watermark", "0.6"]);
    while broker.add(&letter).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let letters = drain(&plain_client(&server).await, "dead.events").await.len();
    assert!((2..=3).contains(&letters), "{letters}: the first attempt in the alarm may arrive later");
}

#[tokio::test]
async fn an_event_that_never_fits_is_named_and_waits_alone() {
    let mut server = RabbitMq::start_with("[{rabbit, [{max_message_size, 100000}]}].");
    let mut relay = Announcing::start(options(&server));
    for number in 1..=5 {
        let event = event(number.to_string());
        let large = Metadata::new().with_entry("note", "x".repeat(200_000));
        relay.append(if number == 3 { event.with_metadata(large) } else { event }).await;
    }
    relay.reached(2).await;
    let attempts = async {
        let mut error = relay.waits().await;
        while !error.contains("RelayStore::reset") {
            relay.status.changed().await.unwrap();
            error = relay.waits().await;
        }
        error
    };
    let error = tokio::time::timeout(Duration::from_mins(5), attempts).await.unwrap();
    for part in ["at position 3", "exchange event.exchange", "max_message_size is 100000 bytes", "without its payload"]
    {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(*relay.published.borrow(), Position::new(2));
    // A broker that takes larger messages gets the event, without a restart of the program.
    server.kill();
    server.set("[{rabbit, [{max_message_size, 1000000}]}].");
    server.start_again();
    relay.reached(5).await;
    relay.is_good().await;
    relay.stop().await;
    let mut announced = positions(&drain(&plain_client(&server).await, "all.events").await);
    announced.dedup();
    assert!(announced.ends_with(&[3, 4, 5]) && announced.starts_with(&[1]), "{announced:?}");
}

#[tokio::test]
async fn an_announcement_that_a_full_queue_refuses_waits_alone() {
    let server = RabbitMq::start();
    RabbitMqBroker::new(options(&server)).unwrap().declare().await.unwrap();
    let client = plain_client(&server).await;
    let mut full = FieldTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongLongInt(20));
    full.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    client.queue_declare("full".into(), QueueDeclareOptions::durable(), full).await.unwrap();
    let bind = QueueBindOptions::default();
    client.queue_bind("full".into(), "event.exchange".into(), "#".into(), bind, FieldTable::default()).await.unwrap();
    let mut relay = Announcing::start(options(&server));
    for number in 1..=90 {
        relay.append(event(number.to_string())).await;
    }
    let error = relay.waits().await;
    for part in ["exchange event.exchange", "the event at", "overflow reject-publish", "raise its max-length"] {
        assert!(error.contains(part), "{error}");
    }
    // While the queue is full, only the first event that it refuses is sent again.
    let (mut last, mut same) = (None, 0);
    while same < 5 {
        let others = positions(&drain(&client, "all.events").await);
        let again: Vec<u64> = others.iter().copied().filter(|position| Some(*position) != last).collect();
        same = if again.is_empty() && !others.is_empty() { same + 1 } else { 0 };
        last = others.last().copied().or(last);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let refused = last.unwrap();
    assert_eq!(refused, relay.published.borrow().get() + 1);
    // A consumer of the full queue gets every event, in order.
    let mut consumed = Vec::new();
    while *relay.published.borrow() < Position::new(90) {
        consumed.extend(positions(&drain(&client, "full").await));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    relay.is_good().await;
    relay.stop().await;
    consumed.extend(positions(&drain(&client, "full").await));
    let mut seen = std::collections::HashSet::new();
    consumed.retain(|position| seen.insert(*position));
    assert_eq!(consumed, (1..=90).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_header_of_any_size_stops_no_announcement() {
    let server = RabbitMq::start();
    let mut relay = Announcing::start(options(&server));
    for bytes in [55, 200_000, 55] {
        let traced = Metadata::new().with_entry("traceparent", "x".repeat(bytes));
        relay.append(event("1").with_metadata(traced)).await;
    }
    relay.reached(3).await;
    relay.is_good().await;
    relay.stop().await;
    let client = plain_client(&server).await;
    let mut traces = Vec::new();
    while let Some(message) = client.basic_get("all.events".into(), BasicGetOptions { no_ack: true }).await.unwrap() {
        let headers = message.delivery.properties.headers().clone().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&message.delivery.data).unwrap();
        let bytes = body["metadata"]["traceparent"].as_str().unwrap().len();
        traces.push((bytes, headers.inner().contains_key("traceparent")));
    }
    assert_eq!(traces, [(55, true), (200_000, false), (55, true)]);
}
