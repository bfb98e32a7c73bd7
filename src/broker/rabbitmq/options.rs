//! Settings of the RabbitMQ broker.

use std::time::Duration;

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::AMQPUri;

use crate::broker::rabbitmq::topology::Topology;
use crate::error::{Error, ErrorKind, Result};
use crate::hosts::each_host;

/// AMQP delivery mode of a message that survives a restart of the broker.
pub(crate) const PERSISTENT: u8 = 2;

/// The content type of a message that is no frame, in the queue of dead letters.
pub(crate) const UNREADABLE_TYPE: &str = "application/octet-stream";

/// Settings of a [`RabbitMqBroker`](super::RabbitMqBroker).
///
/// ```
/// use std::time::Duration;
///
/// use retell::RabbitMqOptions;
/// use retell::broker::rabbitmq::topology::Topology;
///
/// let options = RabbitMqOptions::new("amqps://shop:secret@mq.example.com/orders")?
///     .with_name("shop")
///     .with_topology(Topology::new().with_prefix("shop."))
///     .with_timeout(Duration::from_secs(10));
/// # Ok::<(), retell::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RabbitMqOptions {
    /// The broker's nodes, tried in this order.
    pub(super) uris: Vec<AMQPUri>,
    pub(super) name: String,
    pub(super) tls: OwnedTLSConfig,
    pub(super) topology: Topology,
    pub(super) prefetch: u16,
    pub(super) compress_over: usize,
    pub(super) timeout: Duration,
    pub(super) counts_unroutable: bool,
    pub(super) creates: bool,
}

impl RabbitMqOptions {
    /// Creates settings for the broker at `url`: `amqp://user:password@host:5672/vhost`, or `amqps://` for TLS. The virtual host `/` is
    /// written `%2f`.
    ///
    /// For a cluster, name its nodes: `amqp://user:password@mq1:5672,mq2:5672,mq3:5672/vhost`. If one does not answer within five seconds, the
    /// next one is tried.
    ///
    /// The defaults are: connections named `retell`, the default [`Topology`], a prefetch of 100 messages, no compression of envelopes, and
    /// a timeout of 30 seconds.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `url` is not an AMQP URL.
    pub fn new(url: &str) -> Result<Self> {
        Ok(Self {
            uris: each_host(url).iter().map(|url| parsed(url)).collect::<Result<_>>()?,
            name: "retell".into(),
            tls: OwnedTLSConfig::default(),
            topology: Topology::new(),
            prefetch: 100,
            compress_over: usize::MAX,
            timeout: Duration::from_secs(30),
            counts_unroutable: false,
            creates: true,
        })
    }

    /// Uses the exchanges, queues and bindings that are there and creates none, for a user without the right to configure. A missing exchange or
    /// queue is an error that is retried. The queue of each projection, too, must exist and be bound to the exchange for frames; without the
    /// binding, the worker reads every event from the store.
    pub fn without_declaring(mut self) -> Self {
        self.creates = false;
        self
    }

    /// Returns the name of the user.
    pub fn user(&self) -> &str {
        // There is at least one URL.
        self.uris.first().map_or("", |uri| &uri.authority.userinfo.username)
    }

    /// Returns the virtual host.
    pub fn virtual_host(&self) -> &str {
        self.uris.first().map_or("/", |uri| &uri.vhost)
    }

    /// Returns the exchanges and queues.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Sets the name under which RabbitMQ lists the connections.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Trusts an additional certificate authority, given in PEM.
    pub fn with_ca(mut self, pem: impl Into<String>) -> Self {
        self.tls.cert_chain = Some(pem.into());
        self
    }

    /// Sets the exchanges and queues.
    pub fn with_topology(mut self, topology: Topology) -> Self {
        self.topology = topology;
        self
    }

    /// Limits the unacknowledged messages that a worker holds in memory to `messages` (minimum 1).
    pub fn with_prefetch(mut self, messages: u16) -> Self {
        self.prefetch = messages.max(1);
        self
    }

    /// Compresses the envelopes of single events that have more than `over` bytes, with zstd (`content_encoding: zstd`). All their
    /// consumers must support it. By default envelopes are not compressed.
    pub fn with_compressed_envelopes(mut self, over: usize) -> Self {
        self.compress_over = over;
        self
    }

    /// Counts the announced events that no queue receives, for [`Relay::unroutable`](crate::Relay::unroutable). By default they are not counted.
    ///
    /// RabbitMQ then sends each of these messages back, and the client library `lapin` logs it **with its payload** at the level WARN. Exclude
    /// the target `lapin::returned_messages` from your log before you call this.
    pub fn with_unroutable_count(mut self) -> Self {
        self.counts_unroutable = true;
        self
    }

    /// Limits how long an answer of the broker may take. After that the connection counts as lost, and unconfirmed messages are sent again. While
    /// RabbitMQ blocks publishers because it is low on memory or disk space, a confirm has no limit.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

fn parsed(url: &str) -> Result<AMQPUri> {
    url.parse().map_err(|problem: String| {
        // The message leaves `url` out, since it contains the password.
        Error::new(ErrorKind::Invalid(format!("not a RabbitMQ URL: {problem}")))
    })
}
