//! Publishing and consuming without the library: plain lapin with persistent messages, quorum queues, confirms, and acknowledgements after
//! the commit.

use std::collections::VecDeque;
use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use futures::{FutureExt, StreamExt, TryStreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use retell::event::{NewEvent, StoredEvent};
use retell::{Codec, Event};
use sqlx::{PgPool, Row};
use uuid::Uuid;

/// Maximum number of outstanding confirms.
const OUTSTANDING: usize = 1_000;

pub(crate) async fn channel(url: &str) -> Channel {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    channel
}

/// Declares a quorum queue that gets every message of an exchange.
pub(crate) async fn queue(channel: &Channel, queue: &str, exchange: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(queue.into(), exchange.into(), "#".into(), options, none).await.unwrap();
}

/// Deletes the queue and returns the number of messages in it.
pub(crate) async fn delete(channel: &Channel, queue: &str) -> u32 {
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap()
}

/// Publishes the whole log, one message per event, with the same body, properties and headers as the library's announcements.
pub(crate) async fn publish_all(pool: &PgPool, channel: &Channel, exchange: &str) {
    let mut rows = sqlx::query(LOG).fetch(pool);
    let mut confirms = VecDeque::with_capacity(OUTSTANDING);
    while let Some(row) = rows.try_next().await.unwrap() {
        let (position, event_id, recorded_at): (i64, Uuid, DateTime<Utc>) = (row.get(0), row.get(1), row.get(2));
        let (aggregate_type, aggregate_id, event_type): (&str, &str, &str) = (row.get(3), row.get(4), row.get(5));
        let (version, schema_version, payload): (i64, i64, &[u8]) = (row.get(6), row.get(7), row.get(8));
        let mut body = String::with_capacity(payload.len() + 640);
        write!(
            body,
            r#"{{"event_id":"{event_id}","event_type":"{event_type}","aggregate_type":"{aggregate_type}","aggregate_id":"{aggregate_id}","version":{version},"timestamp":{},"metadata":{{"source":null,"correlation_id":null,"causation_id":null}},"payload":{},"position":{position},"schema_version":{schema_version},"recorded_at":"{}"}}"#,
            recorded_at.timestamp(),
            std::str::from_utf8(payload).unwrap(),
            recorded_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        )
        .unwrap();
        let mut headers = FieldTable::default();
        headers.insert("aggregate_type".into(), AMQPValue::LongString(aggregate_type.into()));
        headers.insert("aggregate_id".into(), AMQPValue::LongString(aggregate_id.into()));
        headers.insert("version".into(), AMQPValue::LongLongInt(version));
        headers.insert("position".into(), AMQPValue::LongLongInt(position));
        headers.insert("schema_version".into(), AMQPValue::LongLongInt(schema_version));
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_message_id(event_id.to_string().into())
            .with_timestamp(recorded_at.timestamp().cast_unsigned())
            .with_type(event_type.into())
            .with_headers(headers);
        if confirms.len() == OUTSTANDING {
            confirmed(confirms.pop_front()).await;
        }
        let options = BasicPublishOptions::default();
        let published = channel.basic_publish(exchange.into(), event_type.into(), options, body.as_bytes(), properties);
        confirms.push_back(published.await.unwrap());
    }
    for confirm in confirms {
        confirmed(Some(confirm)).await;
    }
}

/// Publishes one event with `number` as its message id, and waits for the confirm.
pub(crate) async fn publish(channel: &Channel, exchange: &str, number: u64, event: &NewEvent) {
    let event_type = event.event_type.as_str();
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id(number.to_string().into())
        .with_type(event_type.into());
    let options = BasicPublishOptions::default();
    let published = channel.basic_publish(exchange.into(), event_type.into(), options, &event.payload, properties);
    confirmed(Some(published.await.unwrap())).await;
}

/// Returns the number and the event of a message from `publish`.
pub(crate) fn received<E: Event>(message: &lapin::message::Delivery) -> (u64, E) {
    let properties = &message.properties;
    let number = properties.message_id().as_ref().unwrap().as_str().parse().unwrap();
    let event_type = properties.kind().as_ref().unwrap().as_str();
    let stored = StoredEvent::new(event_type, 1, Codec::Json, &message.data);
    (number, E::decode(stored).unwrap_or_else(|_| panic!("{event_type}")))
}

async fn confirmed(confirm: Option<lapin::PublisherConfirm>) {
    assert!(confirm.unwrap().await.unwrap().is_ack());
}

/// A consumer. `next` returns the messages that are available, up to a limit.
pub(crate) struct Messages {
    channel: Channel,
    consumer: lapin::Consumer,
}

impl Messages {
    pub(crate) async fn consume(channel: Channel, queue: &str, prefetch: u16) -> Self {
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.unwrap();
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap();
        Self { channel, consumer }
    }

    pub(crate) async fn next(&mut self, messages: usize) -> Vec<lapin::message::Delivery> {
        let mut received = vec![self.consumer.next().await.unwrap().unwrap()];
        while received.len() < messages
            && let Some(Some(message)) = self.consumer.next().now_or_never()
        {
            received.push(message.unwrap());
        }
        received
    }

    pub(crate) async fn ack_through(&self, tag: u64) {
        self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await.unwrap();
    }
}

const LOG: &str = "
    SELECT first_position + ordinal - 1, event_id, e.recorded_at, aggregate_type, aggregate_id, event_type, version, schema_version, payload
    FROM log l JOIN events e USING (commit_id) ORDER BY first_position, ordinal";
