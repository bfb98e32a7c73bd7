//! A consumer in another language, `examples/foreign/consumer.py`, reads announced events in its own process from a
//! real RabbitMQ.
//!
//! Needs `AMQP_URL`, and `PIKA_PYTHON`, a Python that has pika. The test compares the output with
//! `tests/fixtures/foreign/orders.txt`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::{env, fs};

use chrono::DateTime;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use retell::broker::rabbitmq::topology::{Channel, Topology};
use retell::broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use retell::broker::{Announced, Announcer};
use retell::event::{NewEvent, RecordedEvent};
use retell::{Codec, EventId, EventType, Position, StreamId, Version};
use uuid::Uuid;

fn variable(name: &str, what: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: tests/run.sh sets it to {what}"))
}

fn url() -> String {
    variable("AMQP_URL", "a RabbitMQ")
}

/// Returns the shop's channel for orders, with names that no other test uses.
fn topology() -> Topology {
    let orders = Channel::new("order.events", ["order.*"]);
    Topology::new().with_channel(orders).with_prefix(&format!("foreign-{}.", Uuid::new_v4()))
}

fn broker(topology: &Topology) -> RabbitMqBroker {
    broker_with(RabbitMqOptions::new(&url()).unwrap().with_topology(topology.clone()))
}

fn broker_with(options: RabbitMqOptions) -> RabbitMqBroker {
    RabbitMqBroker::new(options.with_name("tests")).unwrap()
}

fn event(position: u64, event_type: &str, id: &str, payload: impl Into<Vec<u8>>) -> RecordedEvent {
    let (kind, _) = event_type.split_once('.').unwrap();
    RecordedEvent::new(
        Position::new(position),
        StreamId::parse(kind, id).unwrap(),
        Version::new(1),
        DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
        NewEvent::stored(
            EventId::from(Uuid::from_u128(u128::from(position))),
            EventType::new(event_type).unwrap(),
            1,
            Codec::Json,
            payload.into().into(),
        ),
    )
}

/// Returns three orders among other events, with text and numbers that a careless parser would corrupt.
fn events() -> [RecordedEvent; 5] {
    [
        event(1, "user.registered", "1", "{}"),
        event(2, "order.created", "order-2", r#"{"order_id":"order-2","total_amount":1177,"items":[]}"#),
        event(3, "order.created", "zoë's \"🦀\"", r#"{"name":"Zoë 🦀 \"x\"","total_amount":9007199254740993}"#),
        event(4, "payment.completed", "payment-2", "{}"),
        event(5, "order.cancelled", "order-2", "null"),
    ]
}

/// Runs the consumer on a channel until it ends.
fn consume(topology: &Topology, count: usize) -> Output {
    let python = variable("PIKA_PYTHON", "a Python that has pika");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/foreign/consumer.py");
    let mut command = Command::new(python);
    command.arg(script).args(["--broker", &url(), "--count", &count.to_string()]);
    command.args(["--exchange", &topology.event_exchange.name, "--queue", &topology.channels[0].queue]);
    command.env("PYTHONIOENCODING", "utf-8").env("PYTHONDONTWRITEBYTECODE", "1");
    command.stdin(Stdio::null()).output().unwrap()
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn golden() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/foreign/orders.txt")).unwrap()
}

/// Returns the number of messages in a queue.
async fn message_count(queue: &str) -> u32 {
    let connection = Connection::connect(&url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap().message_count()
}

#[tokio::test]
async fn a_python_consumer_reads_the_orders_of_a_declared_channel() {
    let topology = topology();
    let options = RabbitMqOptions::new(&url()).unwrap().with_topology(topology.clone()).with_unroutable_count();
    let broker = broker_with(options);
    assert_eq!(broker.announce(&events()).await.unwrap().await.unwrap(), Announced::new(2));
    assert_eq!(printed(&consume(&topology, 3)), golden());
    assert_eq!(message_count(&topology.channels[0].queue).await, 0, "the consumer acknowledged every message");
}

#[tokio::test]
async fn a_channel_declared_by_the_consumer_is_compatible() {
    let topology = topology();
    assert_eq!(printed(&consume(&topology, 0)), "");
    let broker = broker(&topology);
    broker.declare().await.unwrap();
    broker.announce(&events()).await.unwrap().await.unwrap();
    assert_eq!(printed(&consume(&topology, 3)), golden());
}

#[tokio::test]
async fn a_compressed_message_is_refused_and_stays_in_the_queue() {
    let topology = topology();
    let options = RabbitMqOptions::new(&url()).unwrap().with_topology(topology.clone());
    let broker = broker_with(options.with_compressed_envelopes(100));
    let large = event(1, "order.created", "order-1", format!("{{\"note\":\"{}\"}}", "x".repeat(10_000)));
    broker.announce(&[large]).await.unwrap().await.unwrap();
    let output = consume(&topology, 1);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true), "{message}");
    assert!(message.contains("is compressed (content_encoding: zstd)"), "{message}");
    assert_eq!(message_count(&topology.channels[0].queue).await, 1);
}

#[tokio::test]
async fn a_message_that_is_not_an_envelope_is_refused_by_id() {
    let topology = topology();
    broker(&topology).declare().await.unwrap();
    let connection = Connection::connect(&url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let (queue, properties) = (topology.channels[0].queue.clone(), BasicProperties::default());
    let properties = properties.with_message_id("joke".into());
    let options = lapin::options::BasicPublishOptions::default();
    channel.basic_publish("".into(), queue.as_str().into(), options, b"\xff", properties).await.unwrap();
    let output = consume(&topology, 1);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && message.contains("message joke is not an event envelope"), "{message}");
    let message = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap();
    assert_eq!(message.unwrap().data, b"\xff");
}
