//! RabbitMQ: frames to the queues of projections, confirmed, and from there to their workers.

mod connection;
mod consumer;
pub mod topology;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use tokio::time::{Instant, timeout_at};

use crate::broker::envelope::{Announcement, HeaderValue};
use crate::broker::frame::Frame;
use crate::broker::rabbitmq::connection::{Link, bind, declare_queue, failed, short};
use crate::broker::rabbitmq::consumer::RabbitMqConsumer;
use crate::broker::rabbitmq::topology::Topology;
use crate::broker::{Announced, Announcer, Broker, Confirm, Consumer, Consumption, DeadLetter, DeadLetters, Publisher};
use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::ProjectionName;

/// Makes a message outlive a restart of the broker.
const PERSISTENT: u8 = 2;

/// Bytes handed to a connection before they are written, and a message. It keeps a copy of them, and sends them even if nobody waits for
/// it any more: so not a whole page.
const AHEAD: usize = 256 * 1024;

const FRAME_TYPE: &str = "application/vnd.retell.frame";

/// Settings of a [`RabbitMqBroker`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RabbitMqOptions {
    uri: AMQPUri,
    name: String,
    tls: OwnedTLSConfig,
    topology: Topology,
    prefetch: u16,
    compress_over: usize,
    timeout: Duration,
}

impl RabbitMqOptions {
    /// `url`: `amqp://user:password@host:5672/vhost`, or `amqps://` for TLS; the virtual host `/` is written `%2f`.
    ///
    /// Connections named `retell`, the default [`Topology`], 100 messages under way to a worker, and 30 seconds for an answer of the
    /// broker's.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it is no such address.
    pub fn new(url: &str) -> Result<Self> {
        let uri = url.parse().map_err(|problem: String| {
            // The address itself has a password in it.
            Error::new(ErrorKind::Invalid(format!("not an address of RabbitMQ: {problem}")))
        })?;
        Ok(Self {
            uri,
            name: "retell".into(),
            tls: OwnedTLSConfig::default(),
            topology: Topology::new(),
            prefetch: 100,
            compress_over: usize::MAX,
            timeout: Duration::from_secs(30),
        })
    }

    /// What the broker's own pages call the connections.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Trusts a certificate authority of your own, given in PEM.
    pub fn with_ca(mut self, pem: impl Into<String>) -> Self {
        self.tls.cert_chain = Some(pem.into());
        self
    }

    /// Other exchanges and queues.
    pub fn with_topology(mut self, topology: Topology) -> Self {
        self.topology = topology;
        self
    }

    /// The most messages a worker has in memory that it has not acknowledged.
    pub fn with_prefetch(mut self, messages: u16) -> Self {
        self.prefetch = messages.max(1);
        self
    }

    /// Compresses the envelopes of single events that have more bytes, by zstd (`content_encoding: zstd`): for consumers that all know it.
    /// None, by default.
    pub fn with_compressed_envelopes(mut self, over: usize) -> Self {
        self.compress_over = over;
        self
    }

    /// How long an answer of the broker's may take. Later the connection counts as lost, and what was sent is sent again.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// RabbitMQ 3.10 and later. Cloning gives another handle.
///
/// Connects when it is first used and again after each loss, and then declares what its [`Topology`] names. Nothing is lost while it
/// cannot: relays try again, workers read the store.
#[derive(Debug, Clone)]
pub struct RabbitMqBroker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Arc<RabbitMqOptions>,
    publishing: Arc<Link>,
    announcing: Arc<Link>,
    consuming: Link,
}

impl RabbitMqBroker {
    /// A broker that is not connected yet.
    ///
    /// # Errors
    /// [`ErrorKind::Topology`] for a set-up that is not safe.
    pub fn new(options: RabbitMqOptions) -> Result<Self> {
        options.topology.check()?;
        let options = Arc::new(options);
        let publishing = Arc::new(Link::new(options.clone(), "publishing"));
        let announcing = Arc::new(Link::new(options.clone(), "announcing"));
        let consuming = Link::new(options.clone(), "consuming");
        Ok(Self { inner: Arc::new(Inner { options, publishing, announcing, consuming }) })
    }

    /// Connects and declares now: a program that does so when it starts hears of a wrong set-up at once.
    ///
    /// # Errors
    /// [`ErrorKind::Topology`] if something is there with other arguments, [`ErrorKind::Backend`] for a wrong user, password or virtual
    /// host, [`ErrorKind::Transient`] if the broker is out of reach: the program may go on without it.
    pub async fn declare(&self) -> Result<()> {
        self.inner.publishing.channel().await.map(drop)
    }

    /// Closes the connections. A later use opens new ones.
    ///
    /// # Errors
    /// [`ErrorKind::Transient`] if the broker does not answer; the connections are given up all the same.
    pub async fn close(&self) -> Result<()> {
        let inner = &self.inner;
        let (published, announced) = (inner.publishing.close().await, inner.announcing.close().await);
        published.and(announced).and(inner.consuming.close().await)
    }
}

#[async_trait]
impl Publisher for RabbitMqBroker {
    async fn publish(&self, frames: &[Frame]) -> Result<Confirm> {
        let exchange = &self.inner.options.topology.log_exchange.name;
        let options = BasicPublishOptions::default();
        let messages =
            frames.iter().map(|frame| Message { key: "", body: &frame.body, properties: properties(frame), options });
        let sent = self.inner.publishing.send(exchange, messages).await?;
        Ok(async { sent.confirmed().await.map(drop) }.boxed())
    }
}

#[async_trait]
impl Broker for RabbitMqBroker {
    async fn subscribe(&self, projection: &ProjectionName, consumption: Consumption) -> Result<Box<dyn Consumer>> {
        let options = &self.inner.options;
        let queue = options.topology.queue(projection, consumption)?;
        let link = &self.inner.consuming;
        let channel = link.new_channel().await?;
        declare_queue(&channel, &queue, options.topology.projection_arguments(consumption)).await?;
        bind(&channel, &queue, &options.topology.log_exchange, "").await?;
        link.within("limit the messages under way", channel.basic_qos(options.prefetch, BasicQosOptions::default()))
            .await?;
        let consume =
            channel.basic_consume(short(&queue)?, "".into(), BasicConsumeOptions::default(), FieldTable::default());
        let messages = link.within(&format!("consume from {queue}"), consume).await?;
        let dead_letters = self.inner.announcing.clone();
        Ok(Box::new(RabbitMqConsumer::new(channel, messages, queue, options.clone(), dead_letters)))
    }
}

#[async_trait]
impl Announcer for RabbitMqBroker {
    async fn announce(&self, events: &[RecordedEvent]) -> Result<Confirm<Announced>> {
        let options = &self.inner.options;
        let announcements: Vec<Announcement> = events
            .iter()
            .map(|event| Announcement::of(event)?.compressed(options.compress_over))
            .collect::<Result<_>>()?;
        let messages = announcements.iter().map(|announcement| Message {
            key: announcement.routing_key.as_str(),
            body: &announcement.body,
            properties: announced(announcement),
            // The broker gives back what no queue wants, for us to count. It is confirmed all the same.
            options: BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
        });
        let sent = self.inner.announcing.send(&options.topology.event_exchange.name, messages).await?;
        Ok(async { Ok(Announced { unroutable: sent.confirmed().await? }) }.boxed())
    }
}

#[async_trait]
impl DeadLetters for RabbitMqBroker {
    /// The envelope of the event, to the dead-letter exchange, with the headers `projection`, `reason` and `attempts` besides its own.
    async fn bury(&self, letter: &DeadLetter) -> Result<()> {
        let Some(exchange) = &self.inner.options.topology.dead_letter_exchange else { return Ok(()) };
        let announcement = Announcement::of(&letter.event)?;
        let mut headers = headers(&announcement);
        headers.insert("projection".into(), AMQPValue::LongString(letter.projection.as_str().into()));
        headers.insert("reason".into(), AMQPValue::LongString(letter.reason.as_str().into()));
        headers.insert("attempts".into(), AMQPValue::LongLongInt(letter.attempts.into()));
        let properties = announced(&announcement).with_headers(headers);
        let (key, options) = (announcement.routing_key.as_str(), BasicPublishOptions::default());
        let message = Message { key, body: &announcement.body, properties, options };
        self.inner.announcing.send(&exchange.name, [message].into_iter()).await?.confirmed().await.map(drop)
    }
}

/// A message on its way out.
struct Message<'m> {
    key: &'m str,
    body: &'m [u8],
    properties: BasicProperties,
    options: BasicPublishOptions,
}

impl Link {
    /// Sends messages, one behind the other.
    async fn send<'m>(
        self: &Arc<Self>,
        exchange: &str,
        messages: impl Iterator<Item = Message<'m>> + Send,
    ) -> Result<Sent> {
        let channel = self.channel().await?;
        match self.within("publish", send(&channel, exchange, messages)).await {
            Ok(confirms) => Ok(Sent { link: self.clone(), confirms, until: Instant::now() + self.timeout() }),
            Err(error) => {
                self.forget().await;
                Err(error)
            }
        }
    }
}

/// Messages on their way to the broker.
#[must_use = "nothing is safe before the broker has confirmed it"]
struct Sent {
    link: Arc<Link>,
    confirms: Vec<PublisherConfirm>,
    until: Instant,
}

impl Sent {
    /// Waits for the broker's confirm of each. Returns how many went to no queue.
    async fn confirmed(self) -> Result<u64> {
        let confirmed = timeout_at(self.until, confirmed(self.confirms)).await;
        let confirmed = match confirmed {
            Ok(Ok(Confirmed { refused: 0, unroutable })) => return Ok(unroutable),
            Ok(Ok(Confirmed { refused, .. })) => ErrorKind::Transient(format!("publish: {refused} refused")).into(),
            Ok(Err(error)) => failed(error, "publish"),
            Err(elapsed) => Error::with_source(ErrorKind::Transient("publish".into()), elapsed),
        };
        self.link.forget().await;
        Err(confirmed)
    }
}

async fn send<'m>(
    channel: &Channel,
    exchange: &str,
    messages: impl Iterator<Item = Message<'m>>,
) -> lapin::Result<Vec<PublisherConfirm>> {
    let (mut confirms, mut handed_over, mut unwritten) = (Vec::new(), Vec::new(), 0);
    for Message { key, body, properties, options } in messages {
        let mut publish = Box::pin(channel.basic_publish(exchange.into(), key.into(), options, body, properties));
        unwritten += body.len();
        // The first poll hands the message to the connection's thread, so their order is ours. To wait until it is written is a turn of
        // that thread, and a packet: not for each message. They are written in order, so one that is says the same of those before.
        let written = if unwritten < AHEAD { publish.as_mut().now_or_never() } else { Some(publish.as_mut().await) };
        let Some(confirm) = written else {
            handed_over.push(publish);
            continue;
        };
        for publish in handed_over.drain(..) {
            confirms.push(publish.await?);
        }
        confirms.push(confirm?);
        unwritten = 0;
    }
    for publish in handed_over {
        confirms.push(publish.await?);
    }
    Ok(confirms)
}

/// What the broker said of a row of messages.
#[derive(Debug, Default)]
struct Confirmed {
    refused: u64,
    unroutable: u64,
}

async fn confirmed(confirms: Vec<PublisherConfirm>) -> lapin::Result<Confirmed> {
    let mut confirmed = Confirmed::default();
    for confirm in confirms {
        match confirm.await? {
            Confirmation::Ack(returned) => confirmed.unroutable += u64::from(returned.is_some()),
            _ => confirmed.refused += 1,
        }
    }
    Ok(confirmed)
}

/// The properties of the reference: what its consumers look for.
fn announced(announcement: &Announcement) -> BasicProperties {
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

fn properties(frame: &Frame) -> BasicProperties {
    let position =
        |position: crate::id::Position| AMQPValue::LongLongInt(i64::try_from(position.get()).unwrap_or(i64::MAX));
    let mut headers = FieldTable::default();
    headers.insert("first_position".into(), position(frame.first));
    headers.insert("last_position".into(), position(frame.last));
    BasicProperties::default().with_delivery_mode(PERSISTENT).with_content_type(FRAME_TYPE.into()).with_headers(headers)
}
