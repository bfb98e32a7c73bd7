//! A connection to the broker that is opened on first use and reopened after a loss.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connect, Connection, ConnectionProperties, ExchangeKind};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::broker::rabbitmq::options::RabbitMqOptions;
use crate::broker::rabbitmq::topology::Exchange;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::broker::ConnectionMeter;

/// Heartbeat interval. Either side closes the connection after about two intervals of silence; nothing else detects a half-open connection.
const HEARTBEAT_SECONDS: u16 = 10;

/// A node that does not answer within this time is passed over for the next one.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a connection is asked whether the broker blocks it.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(500);

/// Why publishers wait, and what a person can do about it.
pub(super) const BLOCKED: &str = "RabbitMQ blocks all publishers, because it is low on memory or disk space; free some, or change \
                                  vm_memory_high_watermark or disk_free_limit";

/// The purpose of a connection, which decides what it declares.
///
/// RabbitMQ blocks a connection that publishes too fast, and with it the acknowledgements on that connection, so publishing and consuming use
/// separate ones. In a cluster, a queue cannot be declared while its only node is down. Therefore frames depend on no queue, and dead letters
/// on no queue but their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Publishes frames.
    Publishing,
    /// Publishes single events.
    Announcing,
    /// Publishes dead letters.
    DeadLetters,
    /// Consumes frames. Each consumer declares its queue.
    Consuming,
    /// Looks at the broker, and declares nothing.
    Examining,
}

impl Purpose {
    /// Returns the label of its metrics.
    fn label(self) -> &'static str {
        match self {
            Self::Publishing => "publishing",
            Self::Announcing => "announcing",
            Self::DeadLetters => "dead_letters",
            Self::Consuming => "consuming",
            Self::Examining => "examining",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publishing => "publishing",
            Self::Announcing => "announcing",
            Self::DeadLetters => "dead letters",
            Self::Consuming => "consuming",
            Self::Examining => "examining",
        })
    }
}

/// A connection for one purpose.
pub(super) struct Link {
    options: Arc<RabbitMqOptions>,
    purpose: Purpose,
    live: Mutex<Option<Live>>,
    /// The index of the node that the next attempt to connect tries first.
    node: AtomicUsize,
    /// The most bytes of a message that the broker accepts, as far as it is known.
    largest: AtomicUsize,
    meter: ConnectionMeter,
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

    /// Returns an error if the broker has told its publishers to wait.
    fn check_free(&self) -> Result<()> {
        if !self.connection.status().blocked() {
            return Ok(());
        }
        Err(ErrorKind::Transient(format!("publish: {BLOCKED}")).into())
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(options: Arc<RabbitMqOptions>, purpose: Purpose) -> Self {
        Self {
            options,
            purpose,
            live: Mutex::default(),
            node: AtomicUsize::new(0),
            largest: AtomicUsize::new(usize::MAX),
            meter: ConnectionMeter::new(purpose.label()),
        }
    }

    /// Connects and declares, unless the connection is up.
    pub(super) async fn declare(&self) -> Result<()> {
        self.up(&mut *self.live.lock().await).await.map(drop)
    }

    /// Returns the channel for publishing, in confirm mode. Returns an error while the broker blocks publishers: a message sent now would only
    /// fill the socket.
    pub(super) async fn channel(&self) -> Result<Channel> {
        // The lock is held while connecting: one task connects and the others wait for it.
        let mut live = self.live.lock().await;
        let live = self.up(&mut live).await?;
        live.check_free()?;
        Ok(live.channel.clone())
    }

    /// Returns whether the broker has told this connection to wait. It has not while the connection is being opened, which this does not wait
    /// for.
    pub(super) fn is_blocked(&self) -> bool {
        let Ok(live) = self.live.try_lock() else { return false };
        live.as_ref().is_some_and(|live| live.is_up() && live.connection.status().blocked())
    }

    /// Returns an error as soon as the broker blocks this connection.
    pub(super) async fn until_blocked(&self) -> Error {
        while !self.is_blocked() {
            sleep(ASK_EVERY).await;
        }
        ErrorKind::Transient(format!("publish: {BLOCKED}")).into()
    }

    /// Connects, and returns the most bytes of a message that the broker is known to accept.
    pub(super) async fn largest(&self) -> Result<usize> {
        self.declare().await?;
        Ok(self.largest.load(Ordering::Relaxed))
    }

    /// Classifies an error of publishing, and learns the limit that a message has exceeded.
    pub(super) fn failed_to_publish(&self, exchange: &str, error: lapin::Error) -> Error {
        let limit = size_limit(&error);
        // After any other error the broker may be back with another limit.
        self.largest.store(limit.unwrap_or(usize::MAX), Ordering::Relaxed);
        match limit {
            Some(limit) => {
                let problem = format!(
                    "publish to exchange {exchange}: a message is larger than RabbitMQ's max_message_size of {limit} bytes"
                );
                Error::with_source(ErrorKind::Transient(problem), error)
            }
            None => failed(error, &format!("publish to exchange {exchange}")),
        }
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
        let known = live.take();
        let was_up = known.is_some();
        let up = if let Some(up) = known.filter(Live::is_up) {
            up
        } else {
            if was_up {
                // A broker that was restarted may have another limit.
                self.largest.store(usize::MAX, Ordering::Relaxed);
            }
            // One timeout for all steps, since declaring takes many round trips.
            let connected = timeout(self.options.timeout, self.connect()).await;
            let late = |late| Err(Error::with_source(ErrorKind::Transient("connect to RabbitMQ".into()), late));
            let connected = connected.unwrap_or_else(late);
            self.meter.attempted(&connected);
            connected?
        };
        Ok(live.insert(up))
    }

    async fn connect(&self) -> Result<Live> {
        let connection = self.open().await?;
        let channel = connection.create_channel().await.map_err(|error| failed(error, "open a channel"))?;
        self.declare_on(&channel).await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default()).await;
        confirms.map_err(|error| failed(error, "enable publisher confirms"))?;
        Ok(Live { connection, channel })
    }

    /// Declares what this connection's messages need.
    async fn declare_on(&self, channel: &Channel) -> Result<()> {
        let (topology, creates) = (&self.options.topology, self.options.creates);
        match self.purpose {
            Purpose::Publishing | Purpose::Consuming => {
                declare_exchange(channel, &topology.log_exchange, creates).await
            }
            Purpose::Announcing => {
                declare_exchange(channel, &topology.event_exchange, creates).await?;
                for other in &topology.channels {
                    declare_queue(channel, &other.queue, other.arguments(), creates).await?;
                    for binding in &other.bindings {
                        bind(channel, &other.queue, &topology.event_exchange, binding, creates).await?;
                    }
                }
                Ok(())
            }
            Purpose::DeadLetters => {
                let Some(exchange) = &topology.dead_letter_exchange else { return Ok(()) };
                let queue = &topology.dead_letter_queue;
                declare_exchange(channel, exchange, creates).await?;
                declare_queue(channel, &queue.queue, queue.arguments(), creates).await?;
                bind(channel, &queue.queue, exchange, "#", creates).await
            }
            Purpose::Examining => Ok(()),
        }
    }

    /// Connects to the first node that answers, beginning with the one that answered last.
    pub(super) async fn open(&self) -> Result<Connection> {
        let (nodes, first) = (&self.options.uris, self.node.load(Ordering::Relaxed));
        let mut refused = None;
        for place in (first..first + nodes.len()).map(|place| place % nodes.len()) {
            let attempt =
                format!("connect to RabbitMQ at {}:{}", nodes[place].authority.host, nodes[place].authority.port);
            let limit = if nodes.len() == 1 { self.options.timeout } else { NODE_TIMEOUT.min(self.options.timeout) };
            let error = match timeout(limit, self.open_node(&nodes[place])).await {
                Ok(Ok(connection)) => {
                    self.node.store(place, Ordering::Relaxed);
                    return Ok(connection);
                }
                Ok(Err(error)) => failed(error, &attempt),
                Err(elapsed) => Error::with_source(ErrorKind::Transient(attempt), elapsed),
            };
            // A node that is down says less than one that refuses the user.
            if refused.as_ref().is_none_or(Error::is_transient) {
                refused = Some(error);
            }
        }
        Err(refused.unwrap_or_else(|| ErrorKind::Transient("connect to RabbitMQ".into()).into()))
    }

    async fn open_node(&self, uri: &AMQPUri) -> lapin::Result<Connection> {
        let mut uri = uri.clone();
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

/// Returns the limit that the broker names when it refuses a message for its size.
pub(super) fn size_limit(error: &lapin::Error) -> Option<usize> {
    let lapin::ErrorKind::ProtocolError(problem) = error.kind() else { return None };
    let text = problem.get_message().as_str();
    let (_, limit) = text.split_once("larger than")?;
    limit.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?.parse().ok()
}

/// Declares an exchange, or only looks it up unless it `creates` it.
async fn declare_exchange(channel: &Channel, exchange: &Exchange, creates: bool) -> Result<()> {
    let options = ExchangeDeclareOptions { durable: true, passive: !creates, ..ExchangeDeclareOptions::default() };
    let kind = ExchangeKind::Custom(exchange.kind.clone());
    let declared = channel.exchange_declare(short(&exchange.name)?, kind, options, FieldTable::default()).await;
    declared.map_err(|error| failed(error, &format!("declare exchange {}", exchange.name)))
}

/// Declares a queue, or only looks it up unless it `creates` it.
pub(super) async fn declare_queue(channel: &Channel, queue: &str, arguments: FieldTable, creates: bool) -> Result<()> {
    let options = QueueDeclareOptions { passive: !creates, ..QueueDeclareOptions::durable() };
    let declared = channel.queue_declare(short(queue)?, options, arguments).await;
    declared.map(drop).map_err(|error| failed(error, &format!("declare queue {queue}")))
}

/// Binds a queue, unless this broker does not declare anything.
pub(super) async fn bind(channel: &Channel, queue: &str, exchange: &Exchange, key: &str, creates: bool) -> Result<()> {
    if !creates {
        return Ok(());
    }
    let (name, options) = (short(&exchange.name)?, QueueBindOptions::default());
    let bound = channel.queue_bind(short(queue)?, name, short(key)?, options, FieldTable::default()).await;
    bound.map_err(|error| failed(error, &format!("bind queue {queue} to {}", exchange.name)))
}
