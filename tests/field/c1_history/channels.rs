//! Queues in memory of which a test can tell that they are empty, and a list of the events that were announced.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::ready;
use retell::broker::frame::Frame;
use retell::broker::{
    Announced, Announcer, Confirm, Consumer, DeadLetter, DeadLetters, Delivery, DeliveryTag, Publisher,
    SubscriptionMode,
};
use retell::prelude::*;
use retell::{Broker, ProjectionName, RecordedEvent};

use super::program::Seen;

#[derive(Clone)]
pub(super) struct Channels {
    broker: MemoryBroker,
    seen: Arc<Seen>,
    traffic: Arc<Mutex<Traffic>>,
}

#[derive(Default)]
struct Traffic {
    queues: HashSet<(ProjectionName, SubscriptionMode)>,
    /// The last position of a frame.
    published: Position,
    /// The messages that no consumer has acknowledged.
    open: usize,
}

impl Channels {
    pub(super) fn new(seen: Arc<Seen>) -> Self {
        Self { broker: MemoryBroker::new(), seen, traffic: Arc::default() }
    }

    /// Waits until the frames up to `head` were published, and every consumer has acknowledged its messages.
    pub(super) async fn have_delivered(&self, head: Position) {
        let is_delivered = || {
            let traffic = self.traffic.lock().unwrap();
            traffic.published >= head && traffic.open == 0
        };
        while !is_delivered() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[async_trait]
impl Publisher for Channels {
    async fn publish(&self, frames: &[Frame]) -> retell::Result<Confirm> {
        let mut traffic = self.traffic.lock().unwrap();
        if let Some(last) = frames.last() {
            traffic.published = traffic.published.max(last.last());
        }
        traffic.open += frames.len() * traffic.queues.len();
        // No worker subscribes in between, and the broker in memory never waits.
        self.broker.publish(frames).now_or_never().unwrap()
    }
}

#[async_trait]
impl Broker for Channels {
    async fn subscribe(&self, name: &ProjectionName, mode: SubscriptionMode) -> retell::Result<Box<dyn Consumer>> {
        let mut traffic = self.traffic.lock().unwrap();
        let consumer = self.broker.subscribe(name, mode).now_or_never().unwrap()?;
        traffic.queues.insert((name.clone(), mode));
        Ok(Box::new(Counted { consumer, traffic: self.traffic.clone(), held: VecDeque::new() }))
    }
}

#[async_trait]
impl DeadLetters for Channels {
    async fn add(&self, letter: &DeadLetter) -> retell::Result<()> {
        self.broker.add(letter).await
    }
}

#[async_trait]
impl Announcer for Channels {
    async fn announce(&self, events: &[RecordedEvent]) -> retell::Result<Confirm<Announced>> {
        self.seen.announced.lock().unwrap().extend(events.iter().map(|event| event.event.id));
        Ok(ready(Ok(Announced::default())).boxed())
    }
}

/// Counts what it acknowledges.
struct Counted {
    consumer: Box<dyn Consumer>,
    traffic: Arc<Mutex<Traffic>>,
    held: VecDeque<DeliveryTag>,
}

impl Counted {
    /// Drops the messages that `is_done` names.
    fn done(&mut self, is_done: impl Fn(DeliveryTag) -> bool) {
        let before = self.held.len();
        self.held.retain(|tag| !is_done(*tag));
        self.traffic.lock().unwrap().open -= before - self.held.len();
    }
}

#[async_trait]
impl Consumer for Counted {
    async fn next(&mut self, limit: usize) -> retell::Result<Vec<Delivery>> {
        let deliveries = self.consumer.next(limit).await?;
        self.held.extend(deliveries.iter().map(|delivery| delivery.tag));
        Ok(deliveries)
    }

    async fn ack_through(&mut self, tag: DeliveryTag) -> retell::Result<()> {
        self.consumer.ack_through(tag).await?;
        self.done(|held| held <= tag);
        Ok(())
    }

    async fn reject(&mut self, rejected: Delivery, reason: &str) -> retell::Result<()> {
        let tag = rejected.tag;
        self.consumer.reject(rejected, reason).await?;
        self.done(|held| held == tag);
        Ok(())
    }
}
