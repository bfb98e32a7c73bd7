//! A broker within the process, with the manners of a real one: bounded queues that drop, redelivery of what was not acknowledged.

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
    Broker, Confirm, Consumer, Consumption, DeadLetter, DeadLetters, Delivery, DeliveryTag, Publisher,
};
use crate::error::Result;
use crate::id::ProjectionName;

/// Messages a queue holds by default. A message shares its bytes with the other queues.
const QUEUE: usize = 256;

/// Queues in memory. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct MemoryBroker {
    queues: Arc<Mutex<Queues>>,
    capacity: usize,
    dead_letters: Arc<Mutex<Vec<DeadLetter>>>,
}

impl MemoryBroker {
    /// Creates a broker whose queues hold 256 messages.
    pub fn new() -> Self {
        Self::with_capacity(QUEUE)
    }

    /// Creates a broker whose queues hold up to `messages`. A message for a full queue is dropped: the worker finds the gap and reads the
    /// store instead, so a slow worker never fills the memory.
    pub fn with_capacity(messages: usize) -> Self {
        Self { queues: Arc::default(), capacity: messages, dead_letters: Arc::default() }
    }

    /// Returns the dead letters, in the order they came.
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

type Queues = HashMap<(ProjectionName, Consumption), Arc<Queue>>;

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
    async fn subscribe(&self, projection: &ProjectionName, consumption: Consumption) -> Result<Box<dyn Consumer>> {
        let queue = self.queues().entry((projection.clone(), consumption)).or_default().clone();
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
            // Made before looking, so that a message that comes in between wakes it.
            let queue = self.queue.clone();
            let arrived = queue.arrived.notified();
            let (bodies, rest): (Vec<_>, _) = {
                let mut messages = queue.messages();
                let count = messages.len().min(limit.max(1));
                (messages.drain(..count).collect(), messages.len())
            };
            if rest > 0 {
                // Publishing wakes one consumer. What that one leaves is for the next.
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
