//! The ports of transport. A broker is the fast path: whatever it loses, doubles or reorders costs time, never an event.

pub mod envelope;
pub mod frame;
pub mod memory;
#[cfg(feature = "rabbitmq")]
#[cfg_attr(docsrs, doc(cfg(feature = "rabbitmq")))]
pub mod rabbitmq;
#[cfg(feature = "zstd")]
mod zip;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

use crate::broker::frame::Frame;
use crate::error::Result;
use crate::event::RecordedEvent;
use crate::id::ProjectionName;

/// Waits until the broker has taken responsibility for everything that one call has sent. Holds none of it; dropped, it takes nothing back.
///
/// Its errors are those of the call: what was sent is in doubt then. Sending it again is safe.
pub type Confirm<T = ()> = BoxFuture<'static, Result<T>>;

/// Sends frames to every queue.
#[async_trait]
pub trait Publisher: Send + Sync + 'static {
    /// Sends frames, after those of earlier calls, and returns before the broker confirms them: more can be sent meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::Transient`](crate::ErrorKind::Transient) or [`ErrorKind::Closed`](crate::ErrorKind::Closed): some may have been
    /// sent. Sending them again is safe.
    ///
    /// # Cancel safety
    /// A dropped call may have sent some.
    async fn publish(&self, frames: &[Frame]) -> Result<Confirm>;
}

/// Sends events one by one, for external consumers: those that are no projection of this library.
#[async_trait]
pub trait Announcer: Send + Sync + 'static {
    /// Sends events, after those of earlier calls, and returns before the broker confirms them: more can be sent meanwhile.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    ///
    /// # Cancel safety
    /// A dropped call may have sent some.
    async fn announce(&self, events: &[RecordedEvent]) -> Result<Confirm<Announced>>;
}

/// The outcome of announced events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Announced {
    /// The count of those that no queue wanted. The broker has confirmed and discarded them.
    pub unroutable: u64,
}

impl Announced {
    /// Creates the outcome of a call whose events are all confirmed, `unroutable` of which no queue wanted.
    pub fn new(unroutable: u64) -> Self {
        Self { unroutable }
    }
}

/// Gives each projection a queue of its own.
#[async_trait]
pub trait Broker: Publisher {
    /// Subscribes to the projection's queue. The queue is created if it does not exist, and gets every frame published from then on. A
    /// projection has one queue for each kind of consumption.
    ///
    /// # Errors
    /// [`ErrorKind::Transient`](crate::ErrorKind::Transient) if the broker is out of reach.
    async fn subscribe(&self, projection: &ProjectionName, consumption: Consumption) -> Result<Box<dyn Consumer>>;
}

/// How the consumers of one queue share its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Consumption {
    /// One consumer gets every message, in order. A broker may let the others wait until it leaves.
    Sole,
    /// The consumers compete: each message goes to one of them.
    Shared,
}

#[async_trait]
impl<B: Publisher + ?Sized> Publisher for Arc<B> {
    async fn publish(&self, frames: &[Frame]) -> Result<Confirm> {
        (**self).publish(frames).await
    }
}

#[async_trait]
impl<B: Announcer + ?Sized> Announcer for Arc<B> {
    async fn announce(&self, events: &[RecordedEvent]) -> Result<Confirm<Announced>> {
        (**self).announce(events).await
    }
}

#[async_trait]
impl<B: Broker + ?Sized> Broker for Arc<B> {
    async fn subscribe(&self, projection: &ProjectionName, consumption: Consumption) -> Result<Box<dyn Consumer>> {
        (**self).subscribe(projection, consumption).await
    }
}

/// Stores copies of dead-lettered events for people to look at. The aggregate stays parked in the read model's database and is retried from
/// there.
#[async_trait]
pub trait DeadLetters: Send + Sync + 'static {
    /// Adds a letter and returns once it is safe. The same letter may be added again.
    ///
    /// # Errors
    /// [`ErrorKind::Transient`](crate::ErrorKind::Transient) if the letters are out of reach: the worker adds it again later.
    ///
    /// # Cancel safety
    /// A dropped call may have added the letter.
    async fn add(&self, letter: &DeadLetter) -> Result<()>;
}

#[async_trait]
impl<D: DeadLetters + ?Sized> DeadLetters for Arc<D> {
    async fn add(&self, letter: &DeadLetter) -> Result<()> {
        (**self).add(letter).await
    }
}

/// An event that a projection has failed on too often.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The projection that failed.
    pub projection: ProjectionName,
    /// The event, as the log has it.
    pub event: RecordedEvent,
    /// The error of the last attempt, with its causes.
    pub reason: String,
    /// The count of failed attempts.
    pub attempts: u32,
}

impl DeadLetter {
    /// Creates the letter for an event that `projection` has failed on in `attempts` attempts.
    pub fn new(projection: ProjectionName, event: RecordedEvent, reason: String, attempts: u32) -> Self {
        Self { projection, event, reason, attempts }
    }
}

/// Receives from one queue. What was not acknowledged when it is dropped is delivered again.
#[async_trait]
pub trait Consumer: Send + 'static {
    /// Waits for at least one message and returns up to `limit` of those that are there.
    ///
    /// # Errors
    /// [`ErrorKind::Transient`](crate::ErrorKind::Transient) if the connection is lost: subscribe again.
    ///
    /// # Cancel safety
    /// A dropped call loses no message.
    async fn next(&mut self, limit: usize) -> Result<Vec<Delivery>>;

    /// Acknowledges everything up to and including a delivery.
    ///
    /// # Errors
    /// As [`next`](Self::next); the messages come again then.
    async fn ack_through(&mut self, tag: DeliveryTag) -> Result<()>;

    /// Moves a message that is not a frame to the dead letters, never back to the queue.
    ///
    /// # Errors
    /// As [`next`](Self::next); the message comes again then.
    async fn reject(&mut self, delivery: Delivery, reason: &str) -> Result<()>;
}

/// Numbers the deliveries of one consumer, in increasing order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeliveryTag(u64);

impl DeliveryTag {
    /// Wraps a number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A message as it was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// Identifies the delivery when it is acknowledged.
    pub tag: DeliveryTag,
    /// The body: a frame, if the message comes from a relay.
    pub body: Bytes,
}

impl Delivery {
    /// Creates a delivery of `body`.
    pub fn new(tag: DeliveryTag, body: Bytes) -> Self {
        Self { tag, body }
    }
}
