//! The conformance suite of [`Broker`]: one function per case, each with a broker whose queues are new.
//!
//! [`broker_conformance!`](crate::broker_conformance) expands to one test per case.

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a case panics if the broker breaks the rule in its name"
)]

use bytes::Bytes;
use futures::FutureExt;

use crate::broker::frame::Frame;
use crate::broker::{Broker, Consumer, Delivery, DeliveryTag, SubscriptionMode};
use crate::id::{Position, ProjectionName};

fn frames(numbers: impl IntoIterator<Item = u8>) -> Vec<Frame> {
    let frame = |number| Frame::unchecked(Position::new(u64::from(number)), Bytes::copy_from_slice(&[number]));
    numbers.into_iter().map(frame).collect()
}

fn projection(name: &str) -> ProjectionName {
    ProjectionName::new(name).unwrap()
}

/// Takes `count` messages in as many calls as needed. Returns the first byte and the tag of each.
async fn take(consumer: &mut dyn Consumer, count: usize) -> (Vec<u8>, Vec<DeliveryTag>) {
    let (mut bodies, mut tags) = (Vec::new(), Vec::new());
    while bodies.len() < count {
        for delivery in consumer.next(count - bodies.len()).await.unwrap() {
            bodies.push(delivery.body[0]);
            tags.push(delivery.tag);
        }
    }
    (bodies, tags)
}

/// Each queue receives every frame published after the queue was created, unchanged and in order.
pub async fn every_projection_gets_every_frame_in_order(broker: impl Broker) {
    let mut first = broker.subscribe(&projection("first"), SubscriptionMode::Exclusive).await.unwrap();
    broker.publish(&frames(1..=3)).await.unwrap().await.unwrap();
    let mut second = broker.subscribe(&projection("second"), SubscriptionMode::Exclusive).await.unwrap();
    broker.publish(&frames(4..=5)).await.unwrap().await.unwrap();
    assert_eq!(take(&mut *first, 5).await.0, [1, 2, 3, 4, 5]);
    assert_eq!(take(&mut *second, 2).await.0, [4, 5]);
}

/// The broker drops a frame that no queue receives.
pub async fn publishing_without_a_queue_succeeds(broker: impl Broker) {
    broker.publish(&frames(1..=3)).await.unwrap().await.unwrap();
    broker.publish(&[]).await.unwrap().await.unwrap();
}

/// A call of [`next`](Consumer::next) returns at most `limit` messages, and delivery tags increase across calls.
pub async fn next_returns_at_most_limit_messages(broker: impl Broker) {
    let mut consumer = broker.subscribe(&projection("limited"), SubscriptionMode::Exclusive).await.unwrap();
    broker.publish(&frames(1..=5)).await.unwrap().await.unwrap();
    assert!(consumer.next(2).await.unwrap().len() <= 2);
    let (_, tags) = take(&mut *consumer, 3).await;
    assert!(tags.is_sorted(), "delivery tags decrease: {tags:?}");
}

/// The next consumer receives the unacknowledged messages in order, and no acknowledged one.
pub async fn unacknowledged_messages_are_redelivered(broker: impl Broker) {
    let mut consumer = broker.subscribe(&projection("again"), SubscriptionMode::Exclusive).await.unwrap();
    broker.publish(&frames(1..=5)).await.unwrap().await.unwrap();
    let (_, tags) = take(&mut *consumer, 5).await;
    consumer.ack_through(tags[1]).await.unwrap();
    drop(consumer);
    let mut consumer = broker.subscribe(&projection("again"), SubscriptionMode::Exclusive).await.unwrap();
    let (bodies, tags) = take(&mut *consumer, 3).await;
    assert_eq!(bodies, [3, 4, 5]);
    consumer.ack_through(tags[2]).await.unwrap();
    drop(consumer);
    let mut consumer = broker.subscribe(&projection("again"), SubscriptionMode::Exclusive).await.unwrap();
    broker.publish(&frames([6])).await.unwrap().await.unwrap();
    assert_eq!(take(&mut *consumer, 1).await.0, [6]);
}

/// The next consumer receives the other messages, but not the rejected one.
pub async fn rejected_messages_are_not_redelivered(broker: impl Broker) {
    let mut consumer = broker.subscribe(&projection("rejecting"), SubscriptionMode::Exclusive).await.unwrap();
    broker.publish(&frames(1..=3)).await.unwrap().await.unwrap();
    let (_, tags) = take(&mut *consumer, 3).await;
    let second = Delivery::new(tags[1], Bytes::from_static(&[2]));
    consumer.reject(second, "not a frame").await.unwrap();
    drop(consumer);
    let mut consumer = broker.subscribe(&projection("rejecting"), SubscriptionMode::Exclusive).await.unwrap();
    assert_eq!(take(&mut *consumer, 2).await.0, [1, 3]);
}

/// [`ack_through`](Consumer::ack_through) acknowledges the messages before a rejected one. Repeating the call changes nothing.
pub async fn acknowledging_through_a_rejected_message_succeeds(broker: impl Broker) {
    let mut consumer = broker.subscribe(&projection("through"), SubscriptionMode::Exclusive).await.unwrap();
    broker.publish(&frames(1..=2)).await.unwrap().await.unwrap();
    let (_, tags) = take(&mut *consumer, 2).await;
    consumer.reject(Delivery::new(tags[1], Bytes::from_static(&[2])), "not a frame").await.unwrap();
    consumer.ack_through(tags[1]).await.unwrap();
    consumer.ack_through(tags[1]).await.unwrap();
    broker.publish(&frames([3])).await.unwrap().await.unwrap();
    assert_eq!(take(&mut *consumer, 1).await.0, [3]);
}

/// A queue outlives its consumer and keeps what is published meanwhile.
pub async fn a_queue_fills_without_a_consumer(broker: impl Broker) {
    drop(broker.subscribe(&projection("kept"), SubscriptionMode::Exclusive).await.unwrap());
    broker.publish(&frames(1..=2)).await.unwrap().await.unwrap();
    let mut consumer = broker.subscribe(&projection("kept"), SubscriptionMode::Exclusive).await.unwrap();
    assert_eq!(take(&mut *consumer, 2).await.0, [1, 2]);
}

/// Dropping a pending call of [`next`](Consumer::next) loses no message.
pub async fn a_dropped_wait_loses_no_message(broker: impl Broker) {
    let mut consumer = broker.subscribe(&projection("dropped"), SubscriptionMode::Exclusive).await.unwrap();
    assert!(consumer.next(10).now_or_never().is_none(), "there is nothing to deliver yet");
    broker.publish(&frames(1..=2)).await.unwrap().await.unwrap();
    assert_eq!(take(&mut *consumer, 2).await.0, [1, 2]);
}

/// Each message goes to one consumer, and no consumer waits for another.
pub async fn consumers_of_a_shared_queue_compete(broker: impl Broker) {
    let mut first = broker.subscribe(&projection("shared"), SubscriptionMode::Competing).await.unwrap();
    let mut second = broker.subscribe(&projection("shared"), SubscriptionMode::Competing).await.unwrap();
    broker.publish(&frames(1..=10)).await.unwrap().await.unwrap();
    let (mut bodies, _) = take(&mut *first, 1).await;
    bodies.extend(take(&mut *second, 1).await.0);
    while bodies.len() < 10 {
        let delivery = tokio::select! {
            deliveries = first.next(1) => deliveries.unwrap().remove(0),
            deliveries = second.next(1) => deliveries.unwrap().remove(0),
        };
        bodies.push(delivery.body[0]);
    }
    bodies.sort_unstable();
    assert_eq!(bodies, (1..=10).collect::<Vec<_>>());
}

/// The broker redelivers the messages that the dropped consumer did not acknowledge.
pub async fn messages_of_a_dropped_consumer_go_to_the_others(broker: impl Broker) {
    let mut first = broker.subscribe(&projection("left"), SubscriptionMode::Competing).await.unwrap();
    broker.publish(&frames(1..=4)).await.unwrap().await.unwrap();
    let (_, tags) = take(&mut *first, 4).await;
    let mut second = broker.subscribe(&projection("left"), SubscriptionMode::Competing).await.unwrap();
    assert!(second.next(1).now_or_never().is_none(), "the first consumer has every message");
    first.ack_through(tags[1]).await.unwrap();
    drop(first);
    assert_eq!(take(&mut *second, 2).await.0, [3, 4]);
}

/// A projection has one queue for each subscription mode, and both receive every message.
pub async fn shared_and_sole_queues_are_separate(broker: impl Broker) {
    let mut sole = broker.subscribe(&projection("both"), SubscriptionMode::Exclusive).await.unwrap();
    let mut shared = broker.subscribe(&projection("both"), SubscriptionMode::Competing).await.unwrap();
    broker.publish(&frames(1..=2)).await.unwrap().await.unwrap();
    assert_eq!(take(&mut *sole, 2).await.0, [1, 2]);
    assert_eq!(take(&mut *shared, 2).await.0, [1, 2]);
}

/// Expands to one test per case, named after the case. The expression returns a broker with new queues.
///
/// # Examples
/// ```
/// use retell::MemoryBroker;
///
/// retell::broker_conformance!(MemoryBroker::new());
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! broker_conformance {
    ($broker:expr) => {
        $crate::broker_conformance!(@cases $broker,
            every_projection_gets_every_frame_in_order,
            publishing_without_a_queue_succeeds,
            next_returns_at_most_limit_messages,
            unacknowledged_messages_are_redelivered,
            rejected_messages_are_not_redelivered,
            acknowledging_through_a_rejected_message_succeeds,
            a_queue_fills_without_a_consumer,
            a_dropped_wait_loses_no_message,
            consumers_of_a_shared_queue_compete,
            messages_of_a_dropped_consumer_go_to_the_others,
            shared_and_sole_queues_are_separate,
        );
    };
    (@cases $broker:expr, $($case:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $case() {
            $crate::testing::broker::$case($broker).await;
        })*
    };
}
