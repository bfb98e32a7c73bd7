//! The exchanges and queues on the broker, and the check that they are safe.

use lapin::types::{AMQPValue, FieldTable};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::broker::SubscriptionMode;
use crate::error::{ErrorKind, Result};
use crate::id::ProjectionName;

/// Maximum length of a name in AMQP (a "short string"), in bytes.
const MAX_NAME_BYTES: usize = 255;

/// The exchanges and queues of one log. It can be read from a configuration file; every field has a default.
///
/// ```
/// use retell::broker::rabbitmq::topology::{Channel, Topology};
///
/// let topology = Topology::new().with_channel(Channel::new("order.events", ["order.*"])).with_prefix("shop.");
/// assert_eq!(topology.channels[0].queue, "shop.order.events");
/// topology.check()?;
/// # Ok::<(), retell::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Topology {
    /// Exchange for frames, bound to the queue of every projection. Default: `event.log`, a fanout exchange.
    pub log_exchange: Exchange,
    /// Exchange for single events, which are published under their type. Default: `event.exchange`, a topic exchange.
    pub event_exchange: Exchange,
    /// Exchange for events that a projection has given up on, and for messages that are no frames, bound to `dead_letter_queue`. Default:
    /// `event.dead`, a fanout exchange.
    pub dead_letter_exchange: Option<Exchange>,
    /// Queue that keeps dead letters for operators. Default: `dead.events`, 7 days, 1,000,000 messages.
    pub dead_letter_queue: Channel,
    /// Settings of the queues of projections.
    pub projections: ProjectionQueues,
    /// Queues of consumers outside this library.
    pub channels: Vec<Channel>,
}

/// An exchange. All exchanges are durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Exchange {
    /// The name of the exchange.
    pub name: String,
    /// The type in RabbitMQ's terms, such as `fanout` or `topic`.
    pub kind: String,
}

impl Exchange {
    /// Creates an exchange of type `kind`.
    pub fn new(name: impl Into<String>, kind: impl Into<String>) -> Self {
        Self { name: name.into(), kind: kind.into() }
    }
}

/// Settings of the queues of projections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ProjectionQueues {
    /// Prefix of the queue names; the projection's name follows. Default: `projection.`.
    pub prefix: String,
    /// The queue type. Default: `quorum`, whose messages survive the loss of a node.
    pub kind: String,
    /// Number of deliveries of a message before it is dropped. Default: 20. Without a limit, a message that kills its worker would be
    /// redelivered forever. Its events are not lost, since the worker reads them from the store.
    pub delivery_limit: Option<u32>,
    /// Maximum number of messages in a queue. A full queue drops its oldest message, and the worker reads the store. Default: 100,000.
    pub max_length: Option<u32>,
    /// Time after which an unconsumed message is dropped, in milliseconds. Default: no limit.
    pub message_ttl_ms: Option<u64>,
}

impl Default for ProjectionQueues {
    fn default() -> Self {
        Self {
            prefix: "projection.".into(),
            kind: "quorum".into(),
            delivery_limit: Some(20),
            max_length: Some(100_000),
            message_ttl_ms: None,
        }
    }
}

/// A queue of single events for consumers outside this library. It has no arguments besides those listed here, so a consumer that declares
/// the queue by hand can match them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Channel {
    /// The name of the queue.
    pub queue: String,
    /// Patterns of the event types that the queue gets, such as `order.*` or `#`.
    #[serde(default)]
    pub bindings: Vec<String>,
    /// Time after which an unconsumed message is dropped, in milliseconds. Default: 7 days.
    #[serde(default = "Channel::ttl")]
    pub message_ttl_ms: u64,
    /// Maximum number of messages; a full queue drops its oldest message. Default: 1,000,000.
    #[serde(default = "Channel::length")]
    pub max_length: u32,
    /// The queue type, such as `quorum`, which is recommended in a cluster: other queues are on a single node. Default: none, which is the
    /// server's default type.
    #[serde(default)]
    pub kind: Option<String>,
}

impl Channel {
    /// Creates a queue that gets the events whose types match one of `bindings`.
    pub fn new<P: Into<String>>(queue: impl Into<String>, bindings: impl IntoIterator<Item = P>) -> Self {
        let bindings = bindings.into_iter().map(Into::into).collect();
        Self { queue: queue.into(), bindings, message_ttl_ms: Self::ttl(), max_length: Self::length(), kind: None }
    }

    /// Sets the queue type, such as `quorum`.
    pub fn with_kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Sets how long a message waits, in milliseconds.
    pub fn with_message_ttl_ms(mut self, ttl: u64) -> Self {
        self.message_ttl_ms = ttl;
        self
    }

    /// Sets the most messages the queue holds.
    pub fn with_max_length(mut self, messages: u32) -> Self {
        self.max_length = messages;
        self
    }

    const fn ttl() -> u64 {
        7 * 24 * 60 * 60 * 1_000
    }

    const fn length() -> u32 {
        1_000_000
    }

    pub(super) fn arguments(&self) -> FieldTable {
        let mut arguments = FieldTable::default();
        arguments.insert("x-message-ttl".into(), long(self.message_ttl_ms));
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(i64::from(self.max_length)));
        if let Some(kind) = &self.kind {
            arguments.insert("x-queue-type".into(), text(kind));
        }
        arguments
    }

    /// Returns the arguments of the queue as JSON.
    pub fn arguments_as_json(&self) -> Map<String, Value> {
        as_json(&self.arguments())
    }
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            log_exchange: Exchange::new("event.log", "fanout"),
            event_exchange: Exchange::new("event.exchange", "topic"),
            dead_letter_exchange: Some(Exchange::new("event.dead", "fanout")),
            dead_letter_queue: Channel::new("dead.events", [""; 0]),
            projections: ProjectionQueues::default(),
            channels: Vec::new(),
        }
    }
}

impl Topology {
    /// Creates the default topology: the exchanges and the queues of projections, without channels.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a queue for consumers outside this library.
    pub fn with_channel(mut self, channel: Channel) -> Self {
        self.channels.push(channel);
        self
    }

    /// Prepends `prefix` to every name, so that several logs can share a virtual host.
    pub fn with_prefix(mut self, prefix: &str) -> Self {
        let names = [&mut self.log_exchange.name, &mut self.event_exchange.name, &mut self.dead_letter_queue.queue];
        let names = names.into_iter().chain([&mut self.projections.prefix]);
        let names = names.chain(self.dead_letter_exchange.as_mut().map(|exchange| &mut exchange.name));
        for name in names.chain(self.channels.iter_mut().map(|channel| &mut channel.queue)) {
            name.insert_str(0, prefix);
        }
        self
    }

    /// Refuses a setup that would break the order of events or lose messages.
    ///
    /// # Errors
    /// [`ErrorKind::Topology`] with all problems found.
    pub fn check(&self) -> Result<()> {
        let faults: Vec<String> = self.exchange_faults().chain(self.queue_faults()).chain(self.name_faults()).collect();
        if faults.is_empty() { Ok(()) } else { Err(ErrorKind::Topology(faults.join("; ")).into()) }
    }

    fn exchange_faults(&self) -> impl Iterator<Item = String> {
        let log = &self.log_exchange;
        let dead = self.dead_letter_exchange.as_ref();
        let faults = [
            (log.kind == "x-consistent-hash").then(|| {
                format!("{} spreads the log over queues by a hash, which keeps no order: use a fanout", log.name)
            }),
            (log.kind != "fanout" && log.kind != "x-consistent-hash").then(|| {
                format!("{} is a {} exchange, but each projection needs every frame: use a fanout", log.name, log.kind)
            }),
            (self.event_exchange.kind != "topic").then(|| {
                let Exchange { name, kind } = &self.event_exchange;
                format!("{name} is a {kind} exchange, but channels are bound by patterns of event types: use a topic")
            }),
            dead.is_none().then(|| "there is no dead-letter exchange: dead letters would be lost".to_owned()),
            dead.filter(|dead| dead.kind != "fanout" && dead.kind != "topic").map(|dead| {
                format!("{} is a {} exchange, but every dead letter must arrive: use a fanout", dead.name, dead.kind)
            }),
        ];
        faults.into_iter().flatten()
    }

    fn queue_faults(&self) -> impl Iterator<Item = String> {
        let queues = &self.projections;
        let quorum = queues.kind == "quorum";
        let faults = [
            (!quorum).then(|| {
                let kind = &queues.kind;
                format!("projections have {kind} queues, which may reorder redelivered messages: use quorum queues")
            }),
            (quorum && queues.delivery_limit.is_none_or(|limit| limit == 0)).then(|| {
                "the queues of projections have no delivery limit: a message that kills its worker would return forever"
                    .to_owned()
            }),
            (queues.max_length == Some(0)).then(|| "the queues of projections have a maximum length of 0".to_owned()),
        ];
        let unbound = self.channels.iter().filter(|channel| channel.bindings.is_empty());
        let unbound =
            unbound.map(|channel| format!("channel {} has no binding and would get no events", channel.queue));
        faults.into_iter().flatten().chain(unbound)
    }

    fn name_faults(&self) -> impl Iterator<Item = String> {
        let exchanges = [&self.log_exchange, &self.event_exchange].into_iter().chain(&self.dead_letter_exchange);
        let names = exchanges.map(|exchange| &exchange.name).chain([&self.dead_letter_queue.queue]);
        let names =
            names.chain(self.channels.iter().flat_map(|channel| channel.bindings.iter().chain([&channel.queue])));
        names.filter(|name| name.is_empty() || name.len() > MAX_NAME_BYTES).map(|name| {
            if name.is_empty() {
                "an exchange, a queue or a binding has an empty name".to_owned()
            } else {
                format!("a name has {} bytes, the limit is {MAX_NAME_BYTES}: {name}", name.len())
            }
        })
    }

    /// Returns the name of the queue of `projection`. The queue of [`SubscriptionMode::Competing`] has the suffix `.shared`, since the arguments of
    /// an existing queue cannot change.
    ///
    /// # Errors
    /// [`ErrorKind::Topology`] if the name is too long.
    pub fn queue(&self, projection: &ProjectionName, mode: SubscriptionMode) -> Result<String> {
        let suffix = match mode {
            SubscriptionMode::Exclusive => "",
            SubscriptionMode::Competing => ".shared",
        };
        let name = format!("{}{projection}{suffix}", self.projections.prefix);
        if name.len() > MAX_NAME_BYTES {
            let problem = format!("the queue's name has {} bytes, the limit is {MAX_NAME_BYTES}: {name}", name.len());
            return Err(ErrorKind::Topology(problem).into());
        }
        Ok(name)
    }

    /// Returns the arguments of a projection's queue. Quorum queues keep the publishing order even after a redelivery, and a single active
    /// consumer leaves the others on standby. There is no dead-letter exchange: the frames that a full queue drops are no dead letters.
    pub(super) fn projection_arguments(&self, mode: SubscriptionMode) -> FieldTable {
        let queues = &self.projections;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), text(&queues.kind));
        if mode == SubscriptionMode::Exclusive {
            arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        }
        if let Some(limit) = queues.delivery_limit {
            arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(i64::from(limit)));
        }
        if let Some(length) = queues.max_length {
            arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(i64::from(length)));
        }
        if let Some(ttl) = queues.message_ttl_ms {
            arguments.insert("x-message-ttl".into(), long(ttl));
        }
        arguments
    }

    /// Returns the arguments of a projection's queue as JSON.
    pub fn projection_arguments_as_json(&self, mode: SubscriptionMode) -> Map<String, Value> {
        as_json(&self.projection_arguments(mode))
    }
}

fn as_json(arguments: &FieldTable) -> Map<String, Value> {
    let value = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => json!(text.to_string()),
        AMQPValue::LongLongInt(number) => json!(number),
        AMQPValue::Boolean(flag) => json!(flag),
        // No queue has an argument of another type.
        _ => Value::Null,
    };
    arguments.into_iter().map(|(name, argument)| (name.to_string(), value(argument))).collect()
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn long(value: u64) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(value).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(change: impl FnOnce(&mut Topology)) -> String {
        let mut topology = Topology::new().with_channel(Channel::new("order.events", ["order.*"]));
        change(&mut topology);
        topology.check().map_err(|error| error.to_string()).err().unwrap_or_default()
    }

    #[test]
    fn default_topology_is_safe() {
        assert_eq!(faults(|_| {}), "");
    }

    #[test]
    fn each_unsafe_topology_is_refused_with_advice() {
        type Change = fn(&mut Topology);
        let cases: [(Change, &str); 9] = [
            (|t| t.log_exchange.kind = "x-consistent-hash".into(), "keeps no order: use a fanout"),
            (|t| t.log_exchange.kind = "topic".into(), "each projection needs every frame: use a fanout"),
            (|t| t.event_exchange.kind = "direct".into(), "bound by patterns of event types: use a topic"),
            (|t| t.dead_letter_exchange = None, "there is no dead-letter exchange"),
            (|t| t.dead_letter_exchange = Some(Exchange::new("dead", "direct")), "every dead letter must arrive"),
            (|t| t.projections.kind = "classic".into(), "use quorum queues"),
            (|t| t.projections.delivery_limit = None, "no delivery limit"),
            (|t| t.channels[0].bindings.clear(), "channel order.events has no binding"),
            (|t| t.channels[0].queue = "x".repeat(256), "a name has 256 bytes, the limit is 255"),
        ];
        for (change, expected) in cases {
            let found = faults(change);
            assert!(found.starts_with("unsafe set-up of the broker: ") && found.contains(expected), "{found}");
        }
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let found = faults(|topology| {
            topology.projections.delivery_limit = Some(0);
            topology.dead_letter_exchange = None;
        });
        assert!(found.contains("no delivery limit") && found.contains("no dead-letter exchange"), "{found}");
    }

    #[test]
    fn topology_file_needs_only_what_differs() {
        let read: Topology =
            serde_json::from_str(r##"{"channels": [{"queue": "all.events", "bindings": ["#"]}]}"##).unwrap();
        assert_eq!(read, Topology::new().with_channel(Channel::new("all.events", ["#"])));
        assert!(serde_json::from_str::<Topology>(r#"{"chanels": []}"#).is_err());
    }

    #[test]
    fn prefix_is_prepended_to_every_name() {
        let topology = Topology::new().with_channel(Channel::new("all.events", ["#"])).with_prefix("test.");
        assert_eq!(topology.log_exchange.name, "test.event.log");
        assert_eq!(topology.channels[0].queue, "test.all.events");
        let sales = ProjectionName::new("sales").unwrap();
        assert_eq!(topology.queue(&sales, SubscriptionMode::Exclusive).unwrap(), "test.projection.sales");
        assert_eq!(topology.queue(&sales, SubscriptionMode::Competing).unwrap(), "test.projection.sales.shared");
        let long = ProjectionName::new("x".repeat(250)).unwrap();
        assert!(matches!(
            topology.queue(&long, SubscriptionMode::Exclusive).unwrap_err().kind(),
            ErrorKind::Topology(_)
        ));
    }
}
