//! RabbitMQ as a broker: confirmed publishing of frames to the queues of projections, and consumers for their workers.

mod connection;
mod consumer;
mod examine;
pub(crate) mod options;
mod publish;
pub mod topology;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::FutureExt;
use lapin::BasicProperties;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::timeout;
use tracing::Instrument;

use crate::broker::envelope::{Announcement, HeaderValue};
use crate::broker::frame::Frame;
use crate::broker::rabbitmq::connection::{BLOCKED, Link, Purpose, bind, declare_queue, short};
use crate::broker::rabbitmq::consumer::RabbitMqConsumer;
use crate::broker::rabbitmq::options::PERSISTENT;
use crate::broker::rabbitmq::publish::Message;
use crate::broker::{
    Announced, Announcer, Broker, Confirm, Consumer, DeadLetter, DeadLetters, Publisher, SubscriptionMode,
};
use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::{Position, ProjectionName};
use crate::trace::span;

pub use examine::RabbitMqExamination;
pub use options::RabbitMqOptions;

/// The content type of a frame.
pub(crate) const FRAME_TYPE: &str = "application/vnd.retell.frame";

/// A broker on RabbitMQ 3.10 or later. Clones share the same connections.
///
/// Connects on first use and reconnects after each loss, and then declares those exchanges and queues of its
/// [`Topology`](topology::Topology) that the connection's messages need. No event is lost while RabbitMQ is unreachable: relays retry and
/// workers read the store.
///
/// ```
/// use retell::{RabbitMqBroker, RabbitMqOptions};
///
/// let options = RabbitMqOptions::new("amqp://guest:guest@localhost:5672/%2f")?.with_name("shop");
/// let broker = RabbitMqBroker::new(options)?;
/// # Ok::<(), retell::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RabbitMqBroker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Arc<RabbitMqOptions>,
    publishing: Arc<Link>,
    announcing: Arc<Link>,
    dead_letters: Arc<Link>,
    consuming: Link,
    unsent_frames: AtomicU64,
}

impl RabbitMqBroker {
    /// Creates a broker without connecting yet.
    ///
    /// # Errors
    /// [`ErrorKind::Topology`] if the topology is unsafe.
    pub fn new(options: RabbitMqOptions) -> Result<Self> {
        options.topology.check()?;
        let options = Arc::new(options);
        let link = |purpose| Link::new(options.clone(), purpose);
        let [publishing, announcing, dead_letters] =
            [Purpose::Publishing, Purpose::Announcing, Purpose::DeadLetters].map(|purpose| Arc::new(link(purpose)));
        let (consuming, unsent_frames) = (link(Purpose::Consuming), AtomicU64::new(0));
        Ok(Self { inner: Arc::new(Inner { options, publishing, announcing, dead_letters, consuming, unsent_frames }) })
    }

    /// Connects and declares the topology now. A program that calls this when it starts learns of a wrong setup immediately.
    ///
    /// # Errors
    /// - [`ErrorKind::Topology`] if an exchange or queue already exists with other arguments.
    /// - [`ErrorKind::Backend`] if the user, password or virtual host is wrong.
    /// - [`ErrorKind::Transient`] if the broker is unreachable. The program can continue without it.
    pub async fn declare(&self) -> Result<()> {
        let Inner { publishing, announcing, dead_letters, .. } = &*self.inner;
        for link in [publishing, announcing, dead_letters] {
            link.declare().await?;
        }
        Ok(())
    }

    /// Returns how many frames did not get into every queue: each was larger than the broker's `max_message_size`, or a full queue with
    /// `overflow: reject-publish` refused it. Workers read their events from the store.
    pub fn unsent_frames(&self) -> u64 {
        self.inner.unsent_frames.load(Ordering::Relaxed)
    }

    /// Closes the connections. Later calls open new ones.
    ///
    /// # Errors
    /// [`ErrorKind::Transient`] if the broker does not answer. The connections are dropped anyway.
    pub async fn close(&self) -> Result<()> {
        let inner = &self.inner;
        let (published, announced) = (inner.publishing.close().await, inner.announcing.close().await);
        published.and(announced).and(inner.dead_letters.close().await).and(inner.consuming.close().await)
    }
}

#[async_trait]
impl Publisher for RabbitMqBroker {
    /// A frame that the broker refuses is not sent again: the same queue would refuse it, and all other queues would have it twice.
    async fn publish(&self, frames: &[Frame]) -> Result<Confirm> {
        let exchange = &self.inner.options.topology.log_exchange.name;
        let (options, largest) = (BasicPublishOptions::default(), self.inner.publishing.largest().await?);
        let fitting = frames.iter().filter(|frame| frame.body().len() <= largest);
        let unsent = (frames.len() - fitting.clone().count()) as u64;
        let messages =
            fitting.map(|frame| Message { key: "", body: frame.body(), properties: frame_properties(frame), options });
        let span = span::send(exchange, frames.len());
        let sent = self.inner.publishing.send(exchange, messages).instrument(span).await?;
        let inner = self.inner.clone();
        Ok(async move {
            let refused = sent.refused().await?;
            inner.unsent_frames.fetch_add(unsent + refused, Ordering::Relaxed);
            Ok(())
        }
        .boxed())
    }

    async fn publishing_blocked(&self) -> Option<String> {
        self.inner.publishing.is_blocked().then(|| BLOCKED.into())
    }
}

#[async_trait]
impl Broker for RabbitMqBroker {
    async fn subscribe(&self, projection: &ProjectionName, mode: SubscriptionMode) -> Result<Box<dyn Consumer>> {
        let options = &self.inner.options;
        let queue = options.topology.queue(projection, mode)?;
        let link = &self.inner.consuming;
        let channel = link.new_channel().await?;
        let declared = async {
            declare_queue(&channel, &queue, options.topology.projection_arguments(mode), options.creates).await?;
            bind(&channel, &queue, &options.topology.log_exchange, "", options.creates).await
        };
        // A queue whose node is down does not answer for a minute.
        let late = |elapsed| Error::with_source(ErrorKind::Transient(format!("declare queue {queue}")), elapsed);
        timeout(options.timeout, declared).await.map_err(late)??;
        link.within("set the prefetch limit", channel.basic_qos(options.prefetch, BasicQosOptions::default())).await?;
        let consume =
            channel.basic_consume(short(&queue)?, "".into(), BasicConsumeOptions::default(), FieldTable::default());
        let messages = link.within(&format!("consume from {queue}"), consume).await?;
        let dead_letters = self.inner.dead_letters.clone();
        Ok(Box::new(RabbitMqConsumer::new(channel, messages, queue, options.clone(), dead_letters)))
    }
}

#[async_trait]
impl Announcer for RabbitMqBroker {
    async fn announce(&self, events: &[RecordedEvent]) -> Result<Confirm<Announced>> {
        let (options, largest) = (&self.inner.options, self.inner.announcing.largest().await?);
        let exchange = &options.topology.event_exchange.name;
        let fitted = events.iter().map(|event| fitting(event, options.compress_over, largest, exchange));
        let announcements: Vec<Announcement> = fitted.collect::<Result<_>>()?;
        let messages = announcements.iter().map(|announcement| Message {
            key: announcement.routing_key.as_str(),
            body: &announcement.body,
            properties: announcement_properties(announcement),
            // `mandatory` makes the broker return a message that no queue wants, so that it is counted. The broker confirms it anyway. The client
            // library logs each returned message with its payload.
            options: BasicPublishOptions { mandatory: options.counts_unroutable, ..BasicPublishOptions::default() },
        });
        let span = span::send(exchange, events.len());
        let sent = self.inner.announcing.send(exchange, messages).instrument(span).await?;
        let positions: Vec<Position> = events.iter().map(|event| event.position).collect();
        let place =
            move |number: usize| positions.get(number).map_or_else(String::new, |at| format!("the event at {at}"));
        Ok(async { Ok(Announced::new(sent.confirmed(place).await?)) }.boxed())
    }

    async fn announcing_blocked(&self) -> Option<String> {
        self.inner.announcing.is_blocked().then(|| BLOCKED.into())
    }
}

#[async_trait]
impl DeadLetters for RabbitMqBroker {
    /// Publishes the event's envelope to the dead-letter exchange, with the additional headers `projection`, `reason` and `attempts`.
    async fn add(&self, letter: &DeadLetter) -> Result<()> {
        let Some(exchange) = &self.inner.options.topology.dead_letter_exchange else { return Ok(()) };
        let largest = self.inner.dead_letters.largest().await?;
        let announcement = fitting(&letter.event, usize::MAX, largest, &exchange.name)?;
        let mut headers = headers(&announcement);
        headers.insert("projection".into(), AMQPValue::LongString(letter.projection.as_str().into()));
        headers.insert("reason".into(), AMQPValue::LongString(letter.reason.as_str().into()));
        headers.insert("attempts".into(), AMQPValue::LongLongInt(letter.attempts.into()));
        let properties = announcement_properties(&announcement).with_headers(headers);
        let (key, options) = (announcement.routing_key.as_str(), BasicPublishOptions::default());
        let message = Message { key, body: &announcement.body, properties, options };
        self.inner.dead_letters.deliver(&exchange.name, message).await
    }
}

/// Creates the message for an event. If it is larger than the broker accepts, it leaves out the payload.
fn fitting(event: &RecordedEvent, compress_over: usize, largest: usize, exchange: &str) -> Result<Announcement> {
    let whole = Announcement::from_event(event)?.compressed(compress_over)?;
    if whole.body.len() <= largest {
        return Ok(whole);
    }
    let short = Announcement::without_payload(event)?.compressed(compress_over)?;
    if short.body.len() <= largest {
        return Ok(short);
    }
    let (id, position, bytes) = (event.event.id, event.position, short.body.len());
    let problem = format!(
        "publish event {id} at position {position} to exchange {exchange}: its metadata makes it {bytes} bytes large even without its \
         payload, and RabbitMQ's max_message_size is {largest} bytes; raise max_message_size, or skip the event with `RelayStore::reset`"
    );
    Err(ErrorKind::Transient(problem).into())
}

/// Returns the AMQP properties that consumers of single events rely on.
fn announcement_properties(announcement: &Announcement) -> BasicProperties {
    let properties = BasicProperties::default()
        .with_content_type(announcement.content_type.into())
        .with_delivery_mode(PERSISTENT)
        .with_message_id(announcement.message_id.to_string().into())
        .with_timestamp(announcement.timestamp)
        .with_type(announcement.event_type.as_str().into())
        .with_headers(headers(announcement));
    match announcement.content_encoding {
        Some(encoding) => properties.with_content_encoding(encoding.into()),
        None => properties,
    }
}

fn headers(announcement: &Announcement) -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, value) in &announcement.headers {
        let value = match value {
            HeaderValue::Text(text) => AMQPValue::LongString(text.as_str().into()),
            HeaderValue::Number(number) => AMQPValue::LongLongInt(*number),
        };
        headers.insert((*name).into(), value);
    }
    headers
}

fn frame_properties(frame: &Frame) -> BasicProperties {
    let position = |position: Position| AMQPValue::LongLongInt(i64::try_from(position.get()).unwrap_or(i64::MAX));
    let mut headers = FieldTable::default();
    headers.insert("first_position".into(), position(frame.first()));
    headers.insert("last_position".into(), position(frame.last()));
    BasicProperties::default().with_delivery_mode(PERSISTENT).with_content_type(FRAME_TYPE.into()).with_headers(headers)
}
