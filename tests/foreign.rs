//! A consumer in another language reads what is announced: `examples/foreign/consumer.py`, as a process, from a real RabbitMQ.
//!
//! Needs `AMQP_URL`, and `PIKA_PYTHON`: a Python that has pika. What it prints is compared with `tests/fixtures/foreign/orders.txt`.

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
    env::var(name).unwrap_or_else(|_| panic!("{name} names {what}: tests/run.sh makes one"))
}

fn url() -> String {
    variable("AMQP_URL", "a RabbitMQ")
}

/// The shop's channel for orders, under names that no other test has.
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

/// Three orders among others, with text and numbers that a careless reader would spoil.
fn events() -> [RecordedEvent; 5] {
    [
        event(1, "user.registered", "1", "{}"),
        event(2, "order.created", "order-2", r#"{"order_id":"order-2","total_amount":1177,"items":[]}"#),
        event(3, "order.created", "zoë's \"🦀\"", r#"{"name":"Zoë 🦀 \"x\"","total_amount":9007199254740993}"#),
        event(4, "payment.completed", "payment-2", "{}"),
        event(5, "order.cancelled", "order-2", "null"),
    ]
}

/// The consumer on a channel, until it ends.
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

/// How many messages a channel holds.
async fn held(queue: &str) -> u32 {
    let connection = Connection::connect(&url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap().message_count()
}

#[tokio::test]
async fn a_consumer_in_python_reads_the_orders_of_a_channel_that_was_declared_for_it() {
    let topology = topology();
    let broker = broker(&topology);
    assert_eq!(broker.announce(&events()).await.unwrap().await.unwrap(), Announced::new(2));
    assert_eq!(printed(&consume(&topology, 3)), golden());
    assert_eq!(held(&topology.channels[0].queue).await, 0, "it has acknowledged each");
}

#[tokio::test]
async fn a_channel_that_it_has_declared_by_hand_is_the_same() {
    let topology = topology();
    assert_eq!(printed(&consume(&topology, 0)), "");
    let broker = broker(&topology);
    broker.declare().await.unwrap();
    broker.announce(&events()).await.unwrap().await.unwrap();
    assert_eq!(printed(&consume(&topology, 3)), golden());
}

#[tokio::test]
async fn what_it_cannot_read_it_refuses_and_leaves_there() {
    let topology = topology();
    let options = RabbitMqOptions::new(&url()).unwrap().with_topology(topology.clone());
    let broker = broker_with(options.with_compressed_envelopes(100));
    let large = event(1, "order.created", "order-1", format!("{{\"note\":\"{}\"}}", "x".repeat(10_000)));
    broker.announce(&[large]).await.unwrap().await.unwrap();
    let output = consume(&topology, 1);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true), "{message}");
    assert!(message.contains("is compressed (content_encoding: zstd)"), "{message}");
    assert_eq!(held(&topology.channels[0].queue).await, 1);
}

#[tokio::test]
async fn what_is_no_envelope_it_refuses_by_name() {
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
    assert!(
        output.status.code() == Some(1) && message.contains("message joke is no envelope of an event"),
        "{message}"
    );
    let message = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap();
    assert_eq!(message.unwrap().data, b"\xff");
}
