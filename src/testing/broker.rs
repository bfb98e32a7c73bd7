//! What every broker must do. Each case gets a broker whose queues are new.

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a case panics where the broker breaks its promise"
)]

use bytes::Bytes;
use futures::FutureExt;

use crate::broker::frame::Frame;
use crate::broker::{Broker, Consumer, Consumption, Delivery, DeliveryTag};
use crate::id::{Position, ProjectionName};

fn frames(numbers: impl IntoIterator<Item = u8>) -> Vec<Frame> {
    let frame = |number| Frame::unchecked(Position::new(u64::from(number)), Bytes::copy_from_slice(&[number]));
    numbers.into_iter().map(frame).collect()
}

fn projection(name: &str) -> ProjectionName {
    ProjectionName::new(name).unwrap()
}

/// Takes `count` messages, one call after another, and returns the first byte of each.
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

/// Every queue gets every frame published after it was made, unchanged and in order.
pub async fn every_projection_gets_every_frame_in_order(broker: impl Broker) {
    let mut first = broker.subscribe(&projection("first"), Consumption::Sole).await.unwrap();
    broker.publish(&frames(1..=3)).await.unwrap().await.unwrap();
    let mut second = broker.subscribe(&projection("second"), Consumption::Sole).await.unwrap();
    broker.publish(&frames(4..=5)).await.unwrap().await.unwrap();
    assert_eq!(take(&mut *first, 5).await.0, [1, 2, 3, 4, 5]);
    assert_eq!(take(&mut *second, 2).await.0, [4, 5]);
}

/// A frame that no one waits for is no error.
pub async fn publishing_without_a_queue_succeeds(broker: impl Broker) {
    broker.publish(&frames(1..=3)).await.unwrap().await.unwrap();
    broker.publish(&[]).await.unwrap().await.unwrap();
}

/// A call returns no more than asked for, and delivery tags grow.
pub async fn next_keeps_to_its_limit(broker: impl Broker) {
    let mut consumer = broker.subscribe(&projection("limited"), Consumption::Sole).await.unwrap();
    broker.publish(&frames(1..=5)).await.unwrap().await.unwrap();
    assert!(consumer.next(2).await.unwrap().len() <= 2);
    let (_, tags) = take(&mut *consumer, 3).await;
    assert!(tags.is_sorted(), "delivery tags do not grow: {tags:?}");
}

/// What was not acknowledged comes again, in order; what was, does not.
pub async fn unacknowledged_messages_come_again(broker: impl Broker) {
    let mut consumer = broker.subscribe(&projection("again"), Consumption::Sole).await.unwrap();
    broker.publish(&frames(1..=5)).await.unwrap().await.unwrap();
    let (_, tags) = take(&mut *consumer, 5).await;
    consumer.ack_through(tags[1]).await.unwrap();
    drop(consumer);
    let mut consumer = broker.subscribe(&projection("again"), Consumption::Sole).await.unwrap();
    let (bodies, tags) = take(&mut *consumer, 3).await;
    assert_eq!(bodies, [3, 4, 5]);
    consumer.ack_through(tags[2]).await.unwrap();
    drop(consumer);
    let mut consumer = broker.subscribe(&projection("again"), Consumption::Sole).await.unwrap();
    broker.publish(&frames([6])).await.unwrap().await.unwrap();
    assert_eq!(take(&mut *consumer, 1).await.0, [6]);
}

/// A rejected message does not come again; the others do.
pub async fn rejected_messages_do_not_come_again(broker: impl Broker) {
    let mut consumer = broker.subscribe(&projection("rejecting"), Consumption::Sole).await.unwrap();
    broker.publish(&frames(1..=3)).await.unwrap().await.unwrap();
    let (_, tags) = take(&mut *consumer, 3).await;
    let second = Delivery::new(tags[1], Bytes::from_static(&[2]));
    consumer.reject(second, "not one of ours").await.unwrap();
    drop(consumer);
    let mut consumer = broker.subscribe(&projection("rejecting"), Consumption::Sole).await.unwrap();
    assert_eq!(take(&mut *consumer, 2).await.0, [1, 3]);
}

/// Where the last message was rejected, what came before it can still be acknowledged; and again, when all is.
pub async fn a_rejected_message_can_be_acknowledged_through(broker: impl Broker) {
    let mut consumer = broker.subscribe(&projection("through"), Consumption::Sole).await.unwrap();
    broker.publish(&frames(1..=2)).await.unwrap().await.unwrap();
    let (_, tags) = take(&mut *consumer, 2).await;
    consumer.reject(Delivery::new(tags[1], Bytes::from_static(&[2])), "not one of ours").await.unwrap();
    consumer.ack_through(tags[1]).await.unwrap();
    consumer.ack_through(tags[1]).await.unwrap();
    broker.publish(&frames([3])).await.unwrap().await.unwrap();
    assert_eq!(take(&mut *consumer, 1).await.0, [3]);
}

/// A queue lives on without a consumer.
pub async fn a_queue_fills_while_nobody_consumes(broker: impl Broker) {
    drop(broker.subscribe(&projection("kept"), Consumption::Sole).await.unwrap());
    broker.publish(&frames(1..=2)).await.unwrap().await.unwrap();
    let mut consumer = broker.subscribe(&projection("kept"), Consumption::Sole).await.unwrap();
    assert_eq!(take(&mut *consumer, 2).await.0, [1, 2]);
}

/// A dropped wait loses no message.
pub async fn a_dropped_wait_loses_nothing(broker: impl Broker) {
    let mut consumer = broker.subscribe(&projection("dropped"), Consumption::Sole).await.unwrap();
    assert!(consumer.next(10).now_or_never().is_none(), "there is nothing to deliver yet");
    broker.publish(&frames(1..=2)).await.unwrap().await.unwrap();
    assert_eq!(take(&mut *consumer, 2).await.0, [1, 2]);
}

/// Consumers of a shared queue compete: each message goes to one of them, and none waits for the other.
pub async fn consumers_of_a_shared_queue_compete(broker: impl Broker) {
    let mut first = broker.subscribe(&projection("shared"), Consumption::Shared).await.unwrap();
    let mut second = broker.subscribe(&projection("shared"), Consumption::Shared).await.unwrap();
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

/// What one consumer has and did not acknowledge goes to the others when it goes.
pub async fn what_a_dropped_consumer_had_goes_to_the_others(broker: impl Broker) {
    let mut first = broker.subscribe(&projection("left"), Consumption::Shared).await.unwrap();
    broker.publish(&frames(1..=4)).await.unwrap().await.unwrap();
    let (_, tags) = take(&mut *first, 4).await;
    let mut second = broker.subscribe(&projection("left"), Consumption::Shared).await.unwrap();
    assert!(second.next(1).now_or_never().is_none(), "the first has them all");
    first.ack_through(tags[1]).await.unwrap();
    drop(first);
    assert_eq!(take(&mut *second, 2).await.0, [3, 4]);
}

/// A projection has a queue for each kind of consumption.
pub async fn a_shared_queue_is_not_the_sole_one(broker: impl Broker) {
    let mut sole = broker.subscribe(&projection("both"), Consumption::Sole).await.unwrap();
    let mut shared = broker.subscribe(&projection("both"), Consumption::Shared).await.unwrap();
    broker.publish(&frames(1..=2)).await.unwrap().await.unwrap();
    assert_eq!(take(&mut *sole, 2).await.0, [1, 2]);
    assert_eq!(take(&mut *shared, 2).await.0, [1, 2]);
}

/// Expands to one test for each case; the expression makes a broker with new queues.
#[macro_export]
macro_rules! broker_conformance {
    ($broker:expr) => {
        $crate::broker_conformance!(@cases $broker,
            every_projection_gets_every_frame_in_order,
            publishing_without_a_queue_succeeds,
            next_keeps_to_its_limit,
            unacknowledged_messages_come_again,
            rejected_messages_do_not_come_again,
            a_rejected_message_can_be_acknowledged_through,
            a_queue_fills_while_nobody_consumes,
            a_dropped_wait_loses_nothing,
            consumers_of_a_shared_queue_compete,
            what_a_dropped_consumer_had_goes_to_the_others,
            a_shared_queue_is_not_the_sole_one,
        );
    };
    (@cases $broker:expr, $($case:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $case() {
            $crate::testing::broker::$case($broker).await;
        })*
    };
}
