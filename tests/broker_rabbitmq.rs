//! A real RabbitMQ passes the conformance suite for brokers, and a wrong setup gives a clear error. Needs `AMQP_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::env;
use std::error::Error as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::DateTime;
use futures::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use retell::broker::envelope::Announcement;
use retell::broker::frame::Frame;
use retell::broker::rabbitmq::topology::{Channel, Topology};
use retell::broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use retell::broker::{Announced, Announcer, Broker, Publisher, SubscriptionMode};
use retell::event::{NewEvent, RecordedEvent};
use retell::id::{Position, ProjectionName};
use retell::{Codec, ErrorKind, EventId, EventType, StreamId, Version};

retell::broker_conformance!(new_broker());

fn url() -> String {
    env::var("AMQP_URL").expect("AMQP_URL is not set: tests/run.sh starts a RabbitMQ")
}

/// Returns a topology with names that no other test uses.
fn topology() -> Topology {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Topology::new().with_prefix(&format!("test-{}-{number}.", uuid::Uuid::new_v4()))
}

fn broker(topology: &Topology) -> RabbitMqBroker {
    let options = RabbitMqOptions::new(&url()).unwrap().with_name("tests").with_topology(topology.clone());
    RabbitMqBroker::new(options).unwrap()
}

fn new_broker() -> RabbitMqBroker {
    broker(&topology())
}

fn sales() -> ProjectionName {
    ProjectionName::new("sales").unwrap()
}

fn frame(position: u64) -> Frame {
    let position = Position::new(position);
    Frame::unchecked(position, position.get().to_le_bytes().to_vec())
}

/// Opens a channel of a client that does not use the library.
async fn plain_client() -> lapin::Channel {
    let connection = Connection::connect(&url(), ConnectionProperties::default()).await.unwrap();
    connection.create_channel().await.unwrap()
}

/// Waits for a message in `queue`, and takes it.
async fn get(channel: &lapin::Channel, queue: &str) -> lapin::message::BasicGetMessage {
    loop {
        if let Some(message) = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap() {
            return message;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn header<'m>(message: &'m lapin::message::Delivery, name: &str) -> &'m AMQPValue {
    &message.properties.headers().as_ref().unwrap().inner()[name]
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

async fn publish(broker: &RabbitMqBroker, frames: &[Frame]) -> retell::Result<()> {
    broker.publish(frames).await?.await
}

#[tokio::test]
async fn a_frame_is_persistent_and_names_its_positions() {
    let topology = topology();
    let broker = broker(&topology);
    drop(broker.subscribe(&sales(), SubscriptionMode::Exclusive).await.unwrap());
    broker.publish(&[frame(7)]).await.unwrap().await.unwrap();
    let (plain_client, queue) = (plain_client().await, topology.queue(&sales(), SubscriptionMode::Exclusive).unwrap());
    let tag = "plain_client".into();
    let options = BasicConsumeOptions::default();
    let mut messages = plain_client.basic_consume(queue.into(), tag, options, FieldTable::default()).await.unwrap();
    let message = messages.next().await.unwrap().unwrap();
    assert_eq!(*message.properties.delivery_mode(), Some(2));
    assert_eq!(message.properties.content_type().as_ref().unwrap().as_str(), "application/vnd.retell.frame");
    assert_eq!(*header(&message, "first_position"), AMQPValue::LongLongInt(7));
    assert_eq!(*header(&message, "last_position"), AMQPValue::LongLongInt(7));
}

#[tokio::test]
async fn a_rejected_message_is_dead_lettered_with_the_reason() {
    let topology = topology();
    let broker = broker(&topology);
    let mut consumer = broker.subscribe(&sales(), SubscriptionMode::Exclusive).await.unwrap();
    broker.publish(&[frame(7)]).await.unwrap().await.unwrap();
    let delivery = consumer.next(1).await.unwrap().remove(0);
    consumer.reject(delivery, "not a frame: it is a joke").await.unwrap();
    let letter = get(&plain_client().await, &topology.dead_letter_queue.queue).await;
    assert_eq!(letter.data, *frame(7).body());
    assert_eq!(*header(&letter, "reason"), text("not a frame: it is a joke"));
    assert_eq!(*header(&letter, "queue"), text(&topology.queue(&sales(), SubscriptionMode::Exclusive).unwrap()));
}

#[tokio::test]
async fn a_consumer_ends_after_the_messages_it_has() {
    let topology = topology();
    let broker = broker(&topology);
    let mut consumer = broker.subscribe(&sales(), SubscriptionMode::Competing).await.unwrap();
    publish(&broker, &[frame(1), frame(2), frame(3)]).await.unwrap();
    assert_eq!(consumer.next(1).await.unwrap().len(), 1);
    let mut other = broker.subscribe(&sales(), SubscriptionMode::Competing).await.unwrap();
    let queue = topology.queue(&sales(), SubscriptionMode::Competing).unwrap();
    plain_client().await.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    // The end of the first consumer arrives at about the same time, behind two messages.
    while other.next(1).await.is_ok() {}
    let mut received = 0;
    let error = loop {
        match tokio::time::timeout(Duration::from_mins(5), consumer.next(10)).await.expect("the consumer ends") {
            Ok(deliveries) => received += deliveries.len(),
            Err(error) => break error,
        }
    };
    assert_eq!(received, 2);
    assert!(error.is_transient() && format!("{error:#}").contains("the queue was deleted"), "{error:#}");
}

#[tokio::test]
async fn one_of_two_consumers_gets_everything_until_it_ends() {
    let broker = new_broker();
    let mut first = broker.subscribe(&sales(), SubscriptionMode::Exclusive).await.unwrap();
    let mut second = broker.subscribe(&sales(), SubscriptionMode::Exclusive).await.unwrap();
    broker.publish(&[frame(1), frame(2)]).await.unwrap().await.unwrap();
    assert_eq!(first.next(1).await.unwrap().len(), 1);
    drop(first);
    let mut received = Vec::new();
    while received.len() < 2 {
        received.extend(second.next(2).await.unwrap());
    }
    assert_eq!(
        received.iter().map(|delivery| delivery.body.clone()).collect::<Vec<_>>(),
        [frame(1).body().clone(), frame(2).body().clone()]
    );
}

#[tokio::test]
async fn a_deleted_queue_is_an_error_and_is_declared_again() {
    let topology = topology();
    let broker = broker(&topology);
    let mut consumer = broker.subscribe(&sales(), SubscriptionMode::Exclusive).await.unwrap();
    let plain_client = plain_client().await;
    let queue = topology.queue(&sales(), SubscriptionMode::Exclusive).unwrap();
    plain_client.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let error = consumer.next(1).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let mut consumer = broker.subscribe(&sales(), SubscriptionMode::Exclusive).await.unwrap();
    broker.publish(&[frame(1)]).await.unwrap().await.unwrap();
    assert_eq!(consumer.next(1).await.unwrap()[0].body, *frame(1).body());
}

#[tokio::test]
async fn a_deleted_exchange_is_declared_again() {
    let topology = topology();
    let broker = broker(&topology);
    broker.publish(&[frame(1)]).await.unwrap().await.unwrap();
    let plain_client = plain_client().await;
    plain_client
        .exchange_delete(topology.log_exchange.name.as_str().into(), lapin::options::ExchangeDeleteOptions::default())
        .await
        .unwrap();
    let error = publish(&broker, &[frame(2)]).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    broker.publish(&[frame(2)]).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_refused() {
    let topology = topology();
    let queue = topology.queue(&sales(), SubscriptionMode::Exclusive).unwrap();
    let plain_client = plain_client().await;
    let classic =
        plain_client.queue_declare(queue.as_str().into(), QueueDeclareOptions::durable(), FieldTable::default());
    classic.await.unwrap();
    let error = broker(&topology).subscribe(&sales(), SubscriptionMode::Exclusive).await.map(drop).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Topology(_)), "{error}");
    let message = error.to_string();
    assert!(message.contains(&queue) && message.contains("other arguments"), "{message}");
}

#[tokio::test]
async fn an_exchange_of_another_type_is_refused_at_the_start() {
    let topology = topology();
    broker(&topology).declare().await.unwrap();
    let mut other = topology.clone();
    other.dead_letter_exchange.as_mut().unwrap().kind = "topic".into();
    let error = broker(&other).declare().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Topology(_)), "{error}");
    assert!(error.to_string().contains(&other.dead_letter_exchange.unwrap().name), "{error}");
}

#[test]
fn an_unsafe_topology_is_refused_before_anything_is_sent() {
    let mut topology = topology();
    topology.projections.delivery_limit = None;
    let error = RabbitMqBroker::new(RabbitMqOptions::new(&url()).unwrap().with_topology(topology)).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Topology(_)), "{error}");
}

#[tokio::test]
async fn a_channel_declared_by_hand_is_compatible() {
    let topology = topology().with_channel(Channel::new("orders.by.hand", ["order.*"]));
    let queue = topology.channels[0].queue.clone();
    broker(&topology).declare().await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(604_800_000));
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1_000_000));
    let plain_client = plain_client().await;
    plain_client.queue_declare(queue.as_str().into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
    let to = topology.event_exchange.name.as_str();
    let publish = |key: &'static str| {
        plain_client.basic_publish(
            to.into(),
            key.into(),
            BasicPublishOptions::default(),
            key.as_bytes(),
            BasicProperties::default(),
        )
    };
    publish("user.registered").await.unwrap();
    publish("order.created").await.unwrap();
    assert_eq!(get(&plain_client, &queue).await.data, b"order.created");
    plain_client.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
}

#[tokio::test]
async fn an_announced_event_is_routed_by_its_type() {
    let topology = topology().with_channel(Channel::new("order.events", ["order.*"]));
    let options = RabbitMqOptions::new(&url()).unwrap().with_topology(topology.clone()).with_unroutable_count();
    let broker = RabbitMqBroker::new(options).unwrap();
    let event = |position: u64, event_type: &str| {
        RecordedEvent::new(
            Position::new(position),
            StreamId::parse("order", "ü 1").unwrap(),
            Version::new(position),
            DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
            NewEvent::stored(
                EventId::generate(),
                EventType::new(event_type).unwrap(),
                1,
                Codec::Json,
                r#"{"total":7}"#.into(),
            ),
        )
    };
    let created = event(1, "order.created");
    let announced = broker.announce(&[created.clone(), event(2, "user.registered")]).await.unwrap().await.unwrap();
    assert_eq!(announced, Announced::new(1), "no channel is bound to user events");
    let expected = Announcement::from_event(&created).unwrap();
    let plain_client = plain_client().await;
    let queue = topology.channels[0].queue.clone();
    let message = get(&plain_client, &queue).await;
    plain_client.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    assert_eq!(message.routing_key.as_str(), "order.created");
    assert_eq!(message.data, expected.body);
    let properties = &message.properties;
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), created.event.id.to_string());
    assert_eq!(*properties.timestamp(), Some(1_700_000_000));
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "order.created");
    assert_eq!(*header(&message, "aggregate_id"), text("ü 1"));
    assert_eq!(*header(&message, "position"), AMQPValue::LongLongInt(1));
}

#[tokio::test]
async fn a_wrong_password_is_a_permanent_error() {
    let wrong = url().replace("guest:guest", "guest:wrong");
    let broker = RabbitMqBroker::new(RabbitMqOptions::new(&wrong).unwrap()).unwrap();
    let error = broker.declare().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Backend(_)), "{error}");
    assert!(!error.to_string().contains("wrong"), "the error shows the password: {error}");
}

#[tokio::test]
async fn a_missing_virtual_host_is_a_permanent_error() {
    let wrong_vhost = url().replace("%2f", "nowhere");
    let broker = RabbitMqBroker::new(RabbitMqOptions::new(&wrong_vhost).unwrap()).unwrap();
    let error = broker.declare().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Backend(_)), "{error}: {:?}", error.source());
}

#[tokio::test]
async fn an_unreachable_broker_is_transient_for_every_call() {
    // A port that was just released.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let options = RabbitMqOptions::new(&format!("amqp://guest:guest@127.0.0.1:{port}/%2f")).unwrap();
    let broker = RabbitMqBroker::new(options).unwrap();
    let errors = [
        broker.declare().await.unwrap_err(),
        publish(&broker, &[frame(1)]).await.unwrap_err(),
        broker.subscribe(&sales(), SubscriptionMode::Exclusive).await.map(drop).unwrap_err(),
    ];
    assert!(errors.iter().all(retell::Error::is_transient), "{errors:?}");
    broker.close().await.unwrap();
}

#[tokio::test]
async fn a_broker_that_never_answers_times_out() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://guest:guest@{}/%2f", silent.local_addr().unwrap());
    let options = RabbitMqOptions::new(&url).unwrap().with_timeout(Duration::from_millis(50));
    let error = publish(&RabbitMqBroker::new(options).unwrap(), &[frame(1)]).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[test]
fn an_invalid_url_is_refused_without_showing_its_password() {
    let error = RabbitMqOptions::new("http://guest:secret@host").unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid(_)) && !error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn a_call_after_close_connects_again() {
    let broker = new_broker();
    let mut consumer = broker.subscribe(&sales(), SubscriptionMode::Exclusive).await.unwrap();
    broker.close().await.unwrap();
    assert!(consumer.next(1).await.unwrap_err().is_transient());
    let mut consumer = broker.subscribe(&sales(), SubscriptionMode::Exclusive).await.unwrap();
    broker.publish(&[frame(3)]).await.unwrap().await.unwrap();
    assert_eq!(consumer.next(1).await.unwrap()[0].body, *frame(3).body());
}

#[tokio::test]
async fn many_small_and_large_messages_arrive_intact_and_in_order() {
    let broker = new_broker();
    let mut consumer = broker.subscribe(&sales(), SubscriptionMode::Exclusive).await.unwrap();
    let body = |number: u64| {
        let size = if number.is_multiple_of(300) { 300 * 1024 } else { 100 };
        let mut body = number.to_le_bytes().to_vec();
        body.resize(size, 7);
        bytes::Bytes::from(body)
    };
    let frames: Vec<Frame> = (1..=1_000).map(|number| Frame::unchecked(Position::new(number), body(number))).collect();
    broker.publish(&frames).await.unwrap().await.unwrap();
    let mut received = 0;
    while received < 1_000 {
        for delivery in consumer.next(100).await.unwrap() {
            received += 1;
            assert!(delivery.body == body(received), "message {received}");
            consumer.ack_through(delivery.tag).await.unwrap();
        }
    }
}
