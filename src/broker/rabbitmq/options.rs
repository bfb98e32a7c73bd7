//! Settings of a broker.

use std::time::Duration;

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::AMQPUri;

use crate::broker::rabbitmq::topology::Topology;
use crate::error::{Error, ErrorKind, Result};

/// Makes a message outlive a restart of the broker.
pub(super) const PERSISTENT: u8 = 2;

/// Settings of a [`RabbitMqBroker`](super::RabbitMqBroker).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RabbitMqOptions {
    pub(super) uri: AMQPUri,
    pub(super) name: String,
    pub(super) tls: OwnedTLSConfig,
    pub(super) topology: Topology,
    pub(super) prefetch: u16,
    pub(super) compress_over: usize,
    pub(super) timeout: Duration,
}

impl RabbitMqOptions {
    /// Creates the settings for the broker at `url`: `amqp://user:password@host:5672/vhost`, or `amqps://` for TLS. The virtual host `/`
    /// is written `%2f`.
    ///
    /// The defaults are: connections named `retell`, the default [`Topology`], 100 unacknowledged messages per worker, and 30 seconds for
    /// an answer of the broker.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `url` is no such address.
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

    /// Sets the name of the connections in the broker's management pages.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Trusts a certificate authority of your own, given in PEM.
    pub fn with_ca(mut self, pem: impl Into<String>) -> Self {
        self.tls.cert_chain = Some(pem.into());
        self
    }

    /// Sets the exchanges and queues.
    pub fn with_topology(mut self, topology: Topology) -> Self {
        self.topology = topology;
        self
    }

    /// Sets the most unacknowledged messages that a worker holds in memory (minimum 1).
    pub fn with_prefetch(mut self, messages: u16) -> Self {
        self.prefetch = messages.max(1);
        self
    }

    /// Compresses the envelopes of single events that have more than `over` bytes, with zstd (`content_encoding: zstd`). Every consumer must
    /// be able to read it. By default none are compressed.
    pub fn with_compressed_envelopes(mut self, over: usize) -> Self {
        self.compress_over = over;
        self
    }

    /// Sets how long the broker may take to answer. After that the connection counts as lost, and unconfirmed messages are sent again.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}
