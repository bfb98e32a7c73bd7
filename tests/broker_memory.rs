//! The in-memory broker passes the conformance suite for brokers, and drops messages beyond its capacity.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use retell::MemoryBroker;
use retell::broker::frame::Frame;
use retell::broker::{Broker, Publisher, SubscriptionMode};
use retell::id::{Position, ProjectionName};

retell::broker_conformance!(MemoryBroker::new());

#[tokio::test]
async fn a_full_queue_drops_the_newest() {
    let broker = MemoryBroker::with_capacity(2);
    let mut consumer =
        broker.subscribe(&ProjectionName::new("full").unwrap(), SubscriptionMode::Exclusive).await.unwrap();
    let frame = |n: u8| Frame::unchecked(Position::new(1), vec![n]);
    broker.publish(&[frame(1), frame(2), frame(3)]).await.unwrap().await.unwrap();
    let bodies: Vec<_> = consumer.next(10).await.unwrap().into_iter().map(|delivery| delivery.body[0]).collect();
    assert_eq!(bodies, [1, 2]);
}
