//! A consumer that does not use the library: it reads a channel and parses the envelopes.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::place::block_on;

/// The longest wait for the next message.
const TIMEOUT: Duration = Duration::from_mins(5);

/// Reads a channel until it has delivered `events` distinct events, and returns their positions. A relay may send an
/// event twice.
pub(crate) fn read_events(broker: &str, queue: &str, events: u64) -> BTreeSet<u64> {
    block_on(async {
        let connection = Connection::connect(broker, ConnectionProperties::default()).await.expect("the broker is up");
        let channel = connection.create_channel().await.expect("a channel can be opened");
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumed = channel.basic_consume(queue.into(), "external".into(), options, arguments).await;
        let mut messages = consumed.expect("the channel is declared");
        let mut positions = BTreeSet::new();
        while positions.len() as u64 != events {
            let next = timeout(TIMEOUT, messages.next()).await;
            let next = next.unwrap_or_else(|_| panic!("expected {events} events in {queue}, got: {positions:?}"));
            let message = next.expect("the queue stays").expect("the connection stays");
            let envelope: Value = serde_json::from_slice(&message.data).expect("an envelope is JSON");
            assert_eq!(envelope["event_type"], message.routing_key.as_str(), "{envelope}");
            positions.insert(envelope["position"].as_u64().expect("an envelope has a position"));
            message.ack(BasicAckOptions::default()).await.expect("the connection stays");
        }
        connection.close(200, "done".into()).await.expect("the connection can be closed");
        positions
    })
}

/// Waits until a queue holds at least `count` messages.
pub(crate) fn await_messages(broker: &str, queue: &str, count: u32) {
    block_on(async {
        let started = Instant::now();
        while message_count(broker, queue).await.unwrap_or(0) < count {
            assert!(started.elapsed() < TIMEOUT, "{queue} did not reach {count} messages");
            sleep(Duration::from_millis(50)).await;
        }
    });
}

/// Returns the number of messages in the queue, or an error if it is not declared yet.
async fn message_count(broker: &str, queue: &str) -> lapin::Result<u32> {
    let connection = Connection::connect(broker, ConnectionProperties::default()).await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let channel = connection.create_channel().await?;
    let queue = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
    Ok(queue.message_count())
}
