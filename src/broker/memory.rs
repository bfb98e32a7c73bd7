//! A broker inside the process that behaves like a real one: bounded queues that drop messages, and redelivery of unacknowledged ones.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::ready;
use tokio::sync::Notify;

use crate::broker::frame::Frame;
use crate::broker::{
    Broker, Confirm, Consumer, DeadLetter, DeadLetters, Delivery, DeliveryTag, Publisher, SubscriptionMode,
};
use crate::error::Result;
use crate::id::ProjectionName;

/// Default number of messages in a queue. The queues share the bytes of a message.
const DEFAULT_CAPACITY: usize = 256;

/// A broker that keeps its queues in memory. Clones share the same queues.
///
/// ```
/// use retell::broker::frame::Frame;
/// use retell::broker::{Consumer, SubscriptionMode, Publisher};
/// use retell::testing::store::{event, stream};
/// use retell::{Broker, DateTime, MemoryBroker, Position, ProjectionName, RecordedEvent, Version};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), retell::BoxError> {
/// let broker = MemoryBroker::new();
/// let mut consumer = broker.subscribe(&ProjectionName::new("sales")?, SubscriptionMode::Exclusive).await?;
///
/// let event = RecordedEvent::new(Position::new(1), stream("1"), Version::new(1), DateTime::UNIX_EPOCH, event("{}"));
/// let frames = Frame::split(&[event], 100, 64 * 1024)?;
/// broker.publish(&frames).await?.await?;
///
/// let deliveries = consumer.next(10).await?;
/// assert_eq!(&deliveries[0].body, frames[0].body());
/// consumer.ack_through(deliveries[0].tag).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MemoryBroker {
    queues: Arc<Mutex<Queues>>,
    capacity: usize,
    dead_letters: Arc<Mutex<Vec<DeadLetter>>>,
}

impl MemoryBroker {
    /// Creates a broker whose queues hold 256 messages.
    pub fn new() -> Self {
        Self::with_capacity(DEFAULT_CAPACITY)
    }

    /// Creates a broker whose queues hold at most `messages` messages. A message for a full queue is dropped: the worker notices the gap
    /// and reads the store instead, so a slow worker never fills the memory.
    pub fn with_capacity(messages: usize) -> Self {
        Self { queues: Arc::default(), capacity: messages, dead_letters: Arc::default() }
    }

    /// Returns the dead letters in the order in which they arrived.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.letters().clone()
    }

    fn letters(&self) -> MutexGuard<'_, Vec<DeadLetter>> {
        self.dead_letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

type Queues = HashMap<(ProjectionName, SubscriptionMode), Arc<Queue>>;

#[derive(Default)]
struct Queue {
    messages: Mutex<VecDeque<Bytes>>,
    arrived: Notify,
}

impl Queue {
    fn messages(&self) -> MutexGuard<'_, VecDeque<Bytes>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("messages", &self.messages().len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Publisher for MemoryBroker {
    async fn publish(&self, frames: &[Frame]) -> Result<Confirm> {
        for queue in self.queues().values() {
            {
                let mut messages = queue.messages();
                let free = self.capacity.saturating_sub(messages.len());
                messages.extend(frames.iter().take(free).map(|frame| frame.body().clone()));
            }
            queue.arrived.notify_one();
        }
        Ok(ready(Ok(())).boxed())
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn subscribe(&self, projection: &ProjectionName, mode: SubscriptionMode) -> Result<Box<dyn Consumer>> {
        let queue = self.queues().entry((projection.clone(), mode)).or_default().clone();
        Ok(Box::new(MemoryConsumer { queue, delivered: 0, unacknowledged: VecDeque::new() }))
    }
}

#[async_trait]
impl DeadLetters for MemoryBroker {
    async fn add(&self, letter: &DeadLetter) -> Result<()> {
        self.letters().push(letter.clone());
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryConsumer {
    queue: Arc<Queue>,
    delivered: u64,
    unacknowledged: VecDeque<Delivery>,
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next(&mut self, limit: usize) -> Result<Vec<Delivery>> {
        loop {
            // Registered before the queue is checked, so that a message that arrives in between is not missed.
            let queue = self.queue.clone();
            let arrived = queue.arrived.notified();
            let (bodies, rest): (Vec<_>, _) = {
                let mut messages = queue.messages();
                let count = messages.len().min(limit.max(1));
                (messages.drain(..count).collect(), messages.len())
            };
            if rest > 0 {
                // Publishing wakes one consumer. Wake the next one for the messages that remain.
                queue.arrived.notify_one();
            }
            if !bodies.is_empty() {
                return Ok(bodies.into_iter().map(|body| self.deliver(body)).collect());
            }
            arrived.await;
        }
    }

    async fn ack_through(&mut self, tag: DeliveryTag) -> Result<()> {
        while self.unacknowledged.front().is_some_and(|delivery| delivery.tag <= tag) {
            self.unacknowledged.pop_front();
        }
        Ok(())
    }

    async fn reject(&mut self, rejected: Delivery, _: &str) -> Result<()> {
        self.unacknowledged.retain(|delivery| delivery.tag != rejected.tag);
        Ok(())
    }
}

impl MemoryConsumer {
    fn deliver(&mut self, body: Bytes) -> Delivery {
        self.delivered += 1;
        let delivery = Delivery::new(DeliveryTag::new(self.delivered), body);
        self.unacknowledged.push_back(delivery.clone());
        delivery
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        let mut messages = self.queue.messages();
        for delivery in self.unacknowledged.drain(..).rev() {
            messages.push_front(delivery.body);
        }
        drop(messages);
        self.queue.arrived.notify_one();
    }
}
