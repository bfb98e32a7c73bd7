//! A connection to the broker that is opened on first use and reopened after a loss.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connect, Connection, ConnectionProperties, ExchangeKind};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::broker::rabbitmq::options::RabbitMqOptions;
use crate::broker::rabbitmq::topology::{Exchange, Topology};
use crate::error::{Error, ErrorKind, Result};

/// Heartbeat interval. Either side closes the connection after about two intervals of silence; nothing else detects a half-open connection.
const HEARTBEAT_SECONDS: u16 = 10;

/// A connection for one purpose. RabbitMQ blocks a connection that publishes too fast, and with it the acknowledgements on that connection,
/// so publishing and consuming use separate ones.
pub(super) struct Link {
    options: Arc<RabbitMqOptions>,
    purpose: &'static str,
    live: Mutex<Option<Live>>,
}

/// An open connection and its channel for publishing.
struct Live {
    connection: Connection,
    channel: Channel,
}

impl Live {
    fn is_up(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(options: Arc<RabbitMqOptions>, purpose: &'static str) -> Self {
        Self { options, purpose, live: Mutex::default() }
    }

    /// Returns the channel for publishing, in confirm mode.
    pub(super) async fn channel(&self) -> Result<Channel> {
        // The lock is held while connecting: one task connects and the others wait for it.
        let mut live = self.live.lock().await;
        Ok(self.up(&mut live).await?.channel.clone())
    }

    /// Opens a channel for the caller alone.
    pub(super) async fn new_channel(&self) -> Result<Channel> {
        let mut live = self.live.lock().await;
        let connection = &self.up(&mut live).await?.connection;
        self.within("open a channel", connection.create_channel()).await
    }

    /// Drops the connection after it failed to answer or refused a message.
    pub(super) async fn forget(&self) {
        *self.live.lock().await = None;
    }

    /// Closes the connection in order.
    pub(super) async fn close(&self) -> Result<()> {
        let Some(live) = self.live.lock().await.take() else { return Ok(()) };
        if !live.connection.status().connected() {
            return Ok(());
        }
        self.within("close the connection", live.connection.close(200, "done".into())).await
    }

    async fn up<'l>(&self, live: &'l mut Option<Live>) -> Result<&'l Live> {
        let up = match live.take().filter(Live::is_up) {
            Some(up) => up,
            // One timeout for all steps, since declaring takes many round trips.
            None => timeout(self.options.timeout, self.connect())
                .await
                .map_err(|elapsed| Error::with_source(ErrorKind::Transient("connect to RabbitMQ".into()), elapsed))??,
        };
        Ok(live.insert(up))
    }

    async fn connect(&self) -> Result<Live> {
        let connection = self.open().await.map_err(|error| failed(error, "connect to RabbitMQ"))?;
        let channel = connection.create_channel().await.map_err(|error| failed(error, "open a channel"))?;
        declare_exchanges(&channel, &self.options.topology).await?;
        declare_channels(&channel, &self.options.topology).await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default()).await;
        confirms.map_err(|error| failed(error, "enable publisher confirms"))?;
        Ok(Live { connection, channel })
    }

    async fn open(&self) -> lapin::Result<Connection> {
        let mut uri: AMQPUri = self.options.uri.clone();
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        let name = format!("{} ({})", self.options.name, self.purpose);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        uri.connect_with_config(properties, self.options.tls.clone(), lapin::runtime::default_runtime()?).await
    }

    /// Returns the time limit for an answer of the broker.
    pub(super) fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// Waits for `answer` and returns an error if it takes longer than the timeout.
    pub(super) async fn within<T>(&self, attempt: &str, answer: impl Future<Output = lapin::Result<T>>) -> Result<T> {
        match timeout(self.options.timeout, answer).await {
            Ok(answer) => answer.map_err(|error| failed(error, attempt)),
            Err(elapsed) => Err(Error::with_source(ErrorKind::Transient(attempt.to_owned()), elapsed)),
        }
    }
}

/// Classifies `error`. Errors that a retry cannot fix are not transient: a wrong password, a missing virtual host, a different topology.
pub(super) fn failed(error: lapin::Error, attempt: &str) -> Error {
    let code = match error.kind() {
        lapin::ErrorKind::ProtocolError(problem) => Some(problem.kind().clone()),
        _ => None,
    };
    let kind = match code {
        Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)) => {
            ErrorKind::Topology(format!("{attempt}: already exists with other arguments: {error}"))
        }
        Some(
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
            | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::INVALIDPATH | AMQPHardError::COMMANDINVALID),
        ) => ErrorKind::Backend(attempt.to_owned()),
        _ => ErrorKind::Transient(attempt.to_owned()),
    };
    Error::with_source(kind, error)
}

pub(super) fn short(text: &str) -> Result<ShortString> {
    ShortString::try_new(text)
        .map_err(|error| Error::with_source(ErrorKind::Topology(format!("a name is too long: {text}")), error))
}

async fn declare_exchanges(channel: &Channel, topology: &Topology) -> Result<()> {
    let exchanges =
        [&topology.log_exchange, &topology.event_exchange].into_iter().chain(&topology.dead_letter_exchange);
    for exchange in exchanges {
        declare_exchange(channel, exchange).await?;
    }
    Ok(())
}

async fn declare_exchange(channel: &Channel, exchange: &Exchange) -> Result<()> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let kind = ExchangeKind::Custom(exchange.kind.clone());
    let declared = channel.exchange_declare(short(&exchange.name)?, kind, options, FieldTable::default()).await;
    declared.map_err(|error| failed(error, &format!("declare exchange {}", exchange.name)))
}

async fn declare_channels(channel: &Channel, topology: &Topology) -> Result<()> {
    for other in &topology.channels {
        declare_queue(channel, &other.queue, other.arguments()).await?;
        for binding in &other.bindings {
            bind(channel, &other.queue, &topology.event_exchange, binding).await?;
        }
    }
    if let Some(exchange) = &topology.dead_letter_exchange {
        let queue = &topology.dead_letter_queue;
        declare_queue(channel, &queue.queue, queue.arguments()).await?;
        bind(channel, &queue.queue, exchange, "#").await?;
    }
    Ok(())
}

pub(super) async fn declare_queue(channel: &Channel, queue: &str, arguments: FieldTable) -> Result<()> {
    let declared = channel.queue_declare(short(queue)?, QueueDeclareOptions::durable(), arguments).await;
    declared.map(drop).map_err(|error| failed(error, &format!("declare queue {queue}")))
}

pub(super) async fn bind(channel: &Channel, queue: &str, exchange: &Exchange, key: &str) -> Result<()> {
    let (name, options) = (short(&exchange.name)?, QueueBindOptions::default());
    let bound = channel.queue_bind(short(queue)?, name, short(key)?, options, FieldTable::default()).await;
    bound.map_err(|error| failed(error, &format!("bind queue {queue} to {}", exchange.name)))
}
