//! The ports of the transport. A broker is only the fast path: lost, duplicated or reordered messages cost time, never an event.

pub mod envelope;
pub mod frame;
pub mod memory;
#[cfg(feature = "rabbitmq")]
#[cfg_attr(docsrs, doc(cfg(feature = "rabbitmq")))]
pub mod rabbitmq;
#[cfg(feature = "zstd")]
mod zip;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

use crate::broker::frame::Frame;
use crate::error::Result;
use crate::event::RecordedEvent;
use crate::id::ProjectionName;

/// Completes when the broker has taken responsibility for everything that one call has sent. It holds none of the messages, and dropping it
/// does not withdraw them.
///
/// An error means that the broker may or may not have the messages. Sending them again is safe.
pub type Confirm<T = ()> = BoxFuture<'static, Result<T>>;

/// Sends frames to the queues of all projections. [`MemoryBroker`](memory::MemoryBroker) shows its use.
#[async_trait]
pub trait Publisher: Send + Sync + 'static {
    /// Returns once `frames` are on their way, after those of earlier calls. The caller may send more before the broker confirms them.
    ///
    /// # Errors
    /// [`ErrorKind::Transient`](crate::ErrorKind::Transient) or [`ErrorKind::Closed`](crate::ErrorKind::Closed). Some frames may have been
    /// sent; sending them again is safe.
    ///
    /// # Cancel safety
    /// A dropped call may have sent some of the frames.
    async fn publish(&self, frames: &[Frame]) -> Result<Confirm>;

    /// Returns why the broker makes [`publish`](Self::publish) or its confirms wait, if it has said so. A relay asks when an answer is late, and
    /// shows the reason in its [status](crate::Relay::status). The default implementation returns `None`.
    async fn publishing_blocked(&self) -> Option<String> {
        None
    }
}

/// Publishes one message per event, for consumers outside this library.
///
/// ```
/// use futures::FutureExt;
/// use futures::future::ready;
/// use retell::broker::envelope::Announcement;
/// use retell::broker::{Announced, Announcer, Confirm};
/// use retell::{RecordedEvent, Result, async_trait};
///
/// /// Prints every event.
/// struct Console;
///
/// #[async_trait]
/// impl Announcer for Console {
///     async fn announce(&self, events: &[RecordedEvent]) -> Result<Confirm<Announced>> {
///         for event in events {
///             let message = Announcement::from_event(event)?;
///             println!("{}: {}", message.routing_key, String::from_utf8_lossy(&message.body));
///         }
///         Ok(ready(Ok(Announced::default())).boxed())
///     }
/// }
/// ```
#[async_trait]
pub trait Announcer: Send + Sync + 'static {
    /// Returns once the messages for `events` are on their way, after those of earlier calls. The caller may send more before the broker
    /// confirms them.
    ///
    /// # Errors
    /// The errors of [`Publisher::publish`].
    ///
    /// # Cancel safety
    /// A dropped call may have sent some of the messages.
    async fn announce(&self, events: &[RecordedEvent]) -> Result<Confirm<Announced>>;

    /// Returns why the broker makes [`announce`](Self::announce) or its confirms wait, as [`Publisher::publishing_blocked`] does.
    async fn announcing_blocked(&self) -> Option<String> {
        None
    }
}

/// The outcome of announcing events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Announced {
    /// Number of events that no queue is bound for. The broker has confirmed and discarded them.
    pub unroutable: u64,
}

impl Announced {
    /// Creates the outcome of a call whose events are all confirmed, `unroutable` of which no queue wanted.
    pub fn new(unroutable: u64) -> Self {
        Self { unroutable }
    }
}

/// Provides a queue for each projection. [`MemoryBroker`](memory::MemoryBroker) shows its use.
#[async_trait]
pub trait Broker: Publisher {
    /// Subscribes to the queue of `projection`. Creates the queue if it does not exist; from then on it gets every published frame. Each
    /// mode has its own queue.
    ///
    /// # Errors
    /// [`ErrorKind::Transient`](crate::ErrorKind::Transient) if the broker is unreachable.
    async fn subscribe(&self, projection: &ProjectionName, mode: SubscriptionMode) -> Result<Box<dyn Consumer>>;
}

/// How the consumers of one queue share its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SubscriptionMode {
    /// One consumer at a time gets every message, in order. The others may wait as standbys until it stops.
    Exclusive,
    /// The consumers compete: each message goes to one of them.
    Competing,
}

#[async_trait]
impl<B: Publisher + ?Sized> Publisher for Arc<B> {
    async fn publish(&self, frames: &[Frame]) -> Result<Confirm> {
        (**self).publish(frames).await
    }

    async fn publishing_blocked(&self) -> Option<String> {
        (**self).publishing_blocked().await
    }
}

#[async_trait]
impl<B: Announcer + ?Sized> Announcer for Arc<B> {
    async fn announce(&self, events: &[RecordedEvent]) -> Result<Confirm<Announced>> {
        (**self).announce(events).await
    }

    async fn announcing_blocked(&self) -> Option<String> {
        (**self).announcing_blocked().await
    }
}

#[async_trait]
impl<B: Broker + ?Sized> Broker for Arc<B> {
    async fn subscribe(&self, projection: &ProjectionName, mode: SubscriptionMode) -> Result<Box<dyn Consumer>> {
        (**self).subscribe(projection, mode).await
    }
}

/// Keeps copies of the events that a projection has given up on, for operators to inspect. The aggregate itself stays parked in the read
/// model's database and is resumed from there.
///
/// ```
/// use retell::broker::{DeadLetter, DeadLetters};
/// use retell::{Result, async_trait};
///
/// /// Prints dead letters for an operator.
/// struct Console;
///
/// #[async_trait]
/// impl DeadLetters for Console {
///     async fn add(&self, letter: &DeadLetter) -> Result<()> {
///         eprintln!("{} gave up on {}: {}", letter.projection, letter.event.stream, letter.reason);
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait DeadLetters: Send + Sync + 'static {
    /// Stores `letter` and returns once it is durable. The same letter may arrive more than once.
    ///
    /// # Errors
    /// [`ErrorKind::Transient`](crate::ErrorKind::Transient) if the dead letters are unreachable; the letter is sent again later.
    ///
    /// # Cancel safety
    /// A dropped call may have stored the letter.
    async fn add(&self, letter: &DeadLetter) -> Result<()>;
}

#[async_trait]
impl<D: DeadLetters + ?Sized> DeadLetters for Arc<D> {
    async fn add(&self, letter: &DeadLetter) -> Result<()> {
        (**self).add(letter).await
    }
}

/// An event that a projection has given up on after too many failures.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The projection that failed.
    pub projection: ProjectionName,
    /// The event as it is in the log.
    pub event: RecordedEvent,
    /// The error of the last attempt, with its causes.
    pub reason: String,
    /// Number of failed attempts on the aggregate.
    pub attempts: u32,
}

impl DeadLetter {
    /// Creates the letter for an event that `projection` has failed on in `attempts` attempts.
    pub fn new(projection: ProjectionName, event: RecordedEvent, reason: String, attempts: u32) -> Self {
        Self { projection, event, reason, attempts }
    }
}

/// Receives the messages of one queue. The broker redelivers the unacknowledged messages of a dropped consumer.
/// [`MemoryBroker`](memory::MemoryBroker) shows its use.
#[async_trait]
pub trait Consumer: Send + 'static {
    /// Waits for at least one message, then returns up to `limit` messages that are available.
    ///
    /// # Errors
    /// [`ErrorKind::Transient`](crate::ErrorKind::Transient) if the connection is lost; the caller subscribes again.
    ///
    /// # Cancel safety
    /// A dropped call loses no message.
    async fn next(&mut self, limit: usize) -> Result<Vec<Delivery>>;

    /// Acknowledges all deliveries up to and including `tag`.
    ///
    /// # Errors
    /// The errors of [`next`](Self::next); the broker then redelivers the messages.
    async fn ack_through(&mut self, tag: DeliveryTag) -> Result<()>;

    /// Moves a message that is not a valid frame to the dead letters, with `reason`. The message does not return to the queue.
    ///
    /// # Errors
    /// The errors of [`next`](Self::next); the broker then redelivers the message.
    async fn reject(&mut self, delivery: Delivery, reason: &str) -> Result<()>;
}

/// Identifies a delivery of one consumer. Tags increase.
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

/// Shows the size of the payload only, so that no payload gets into a log.
impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("tag", &self.tag)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

/// A received message.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// The tag to acknowledge this message with.
    pub tag: DeliveryTag,
    /// The body: a frame, if the message comes from a relay of this library.
    pub body: Bytes,
}

impl Delivery {
    /// Creates a delivery of `body`.
    pub fn new(tag: DeliveryTag, body: Bytes) -> Self {
        Self { tag, body }
    }
}
