//! Settings of a broker.

use std::time::Duration;

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::AMQPUri;

use crate::broker::rabbitmq::topology::Topology;
use crate::error::{Error, ErrorKind, Result};

/// Makes a message outlive a restart of the broker.
pub(super) const PERSISTENT: u8 = 2;

/// Settings of a [`RabbitMqBroker`](super::RabbitMqBroker).
#[derive(Debug, Clone)]
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
