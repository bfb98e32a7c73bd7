//! An AsyncAPI document: the exchanges, queues and messages on RabbitMQ, for other teams and their tools.

mod message;

use serde_json::{Map, Value, json};

use crate::broker::SubscriptionMode;
use crate::broker::rabbitmq::topology::{Channel, Exchange, Topology};
use crate::error::{ErrorKind, Result};
use crate::id::ProjectionName;
use crate::registry::asyncapi::message::{BINDING, EventMessage, FRAME, dead_letter, frame, schemas, unreadable};
use crate::registry::json_schema::define;
use crate::registry::lock::Lock;
use crate::shape::json_schema::{Contract, Definitions, Dialect, pointer_step};

/// The content of `info.description`.
const ABOUT: &str = "Events are announced on a topic exchange under their type, at least once and in log order. After a failure, earlier \
    events come again: `event_id` and `position` identify a repetition. Ignore fields that you do not know. Everything is durable, and \
    messages are persistent. `x-retell` holds what the AMQP bindings cannot express, such as the arguments of queues.";

/// Builds an AsyncAPI 3.0 document of everything that the library declares on RabbitMQ.
///
/// The document describes:
/// - a channel for each event type, with the routing key as its address, and the messages that are announced there: headers, envelope and
///   payload. The payloads of all versions in the lock have a schema, because the log holds events of earlier releases.
/// - a channel for each queue of the topology, with the events that it gets. Its bindings and arguments are under `x-retell`.
/// - the exchange of frames and the queues of the given projections. Frames are binary, so they have no schema.
/// - the exchange and the queue of dead letters.
///
/// Schemas are in draft 7 of JSON Schema, the only format besides AsyncAPI's own that every tool supports. They follow
/// [`Contract::Read`].
///
/// # Examples
/// ```
/// use retell::Event;
/// use retell::broker::rabbitmq::topology::{Channel, Topology};
/// use retell::registry::Registry;
/// use retell::registry::asyncapi::AsyncApi;
///
/// #[derive(Event)]
/// #[event("order.placed")]
/// struct Placed {
///     customer: String,
/// }
///
/// let topology = Topology::new().with_channel(Channel::new("order.events", ["order.*"]));
/// let events = Registry::new().with::<Placed>()?.lock();
/// let document = AsyncApi::new("Shop", "1.0.0", topology).with_events(events).document()?;
/// assert_eq!(document["channels"]["event.order.placed"]["address"], "order.placed");
/// assert_eq!(document["channels"]["queue.order.events"]["x-retell"]["arguments"]["x-max-length"], 1_000_000);
/// # Ok::<(), retell::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct AsyncApi {
    title: String,
    version: String,
    topology: Topology,
    events: Lock,
    projections: Vec<(ProjectionName, SubscriptionMode)>,
}

impl AsyncApi {
    /// Creates a document without events. `version` is the version of the application's interface.
    pub fn new(title: impl Into<String>, version: impl Into<String>, topology: Topology) -> Self {
        let (title, version) = (title.into(), version.into());
        Self { title, version, topology, events: Lock::default(), projections: Vec::new() }
    }

    /// Sets the events that are announced: the content of `events.lock`, or [`Registry::lock`](crate::registry::Registry::lock).
    pub fn with_events(mut self, events: Lock) -> Self {
        self.events = events;
        self
    }

    /// Adds the queue of a projection.
    pub fn with_projection(mut self, projection: ProjectionName, mode: SubscriptionMode) -> Self {
        self.projections.push((projection, mode));
        self
    }

    /// Returns the document. The keys of its objects are sorted, so its text is the same on every machine.
    ///
    /// # Errors
    /// - [`ErrorKind::Topology`] if the topology is unsafe, or the name of a projection's queue is too long.
    /// - [`ErrorKind::Invalid`] if the name of an event has other characters than letters, digits, `.`, `-` and `_`, which AsyncAPI does not
    ///   accept.
    pub fn document(&self) -> Result<Value> {
        self.topology.check()?;
        let mut definitions = Definitions::new(Dialect::Draft07, Contract::Read, "#/components/schemas/".into());
        let mut messages = Vec::new();
        for ((event, version, codec), block) in &self.events.blocks {
            check_name(event)?;
            let name = define(&mut definitions, (event, *version, *codec), block);
            let reference = definitions.reference(&name);
            let is_public = block.is_public;
            messages.push(EventMessage {
                event,
                version: *version,
                codec: *codec,
                is_public,
                name,
                payload: reference,
            });
        }
        let mut parts = Parts::default();
        self.announcements(&mut parts, &messages);
        self.frames(&mut parts)?;
        self.dead_letters(&mut parts);
        let schemas: Map<_, _> = definitions.found.into_iter().chain(schemas()).collect();
        let Self { title, version, .. } = self;
        let mut document = json!({
            "asyncapi": "3.0.0",
            "info": { "title": title, "version": version, "description": ABOUT },
            "defaultContentType": "application/json",
            "channels": parts.channels,
            "operations": parts.operations,
            "components": { "messages": parts.messages, "schemas": schemas },
        });
        document.sort_all_objects();
        Ok(document)
    }

    fn announcements(&self, parts: &mut Parts, messages: &[EventMessage<'_>]) {
        for of_type in messages.chunk_by(|one, other| one.event == other.event) {
            let event = of_type[0].event;
            let names = of_type.iter().map(|message| &*message.name).collect::<Vec<_>>();
            let channel = Part {
                address: json!(event),
                description: format!("Announces each event `{event}`."),
                binding: routing_key(&self.topology.event_exchange),
                extra: None,
            };
            let id = parts.channel(&format!("event.{event}"), channel, &names);
            parts.operation(&format!("announce.{event}"), "send", &id, &names);
        }
        for channel in &self.topology.channels {
            let is_bound = |message: &&EventMessage<'_>| channel.bindings.iter().any(|each| gets(each, message.event));
            let names: Vec<_> = messages.iter().filter(is_bound).map(|message| &*message.name).collect();
            let part = queue_of(channel, &self.topology.event_exchange, &channel.bindings);
            parts.channel(&format!("queue.{}", channel.queue), part, &names);
        }
        parts.messages.extend(messages.iter().map(|message| (message.name.clone(), message.to_json())));
    }

    fn frames(&self, parts: &mut Parts) -> Result<()> {
        let Topology { log_exchange, dead_letter_exchange, .. } = &self.topology;
        let channel = Part {
            address: json!(""),
            description:
                "Sends frames, runs of the log, to the queue of each projection. Only this library reads them.".into(),
            binding: routing_key(log_exchange),
            extra: None,
        };
        let id = parts.channel("frames", channel, &[FRAME]);
        parts.operation("send.frames", "send", &id, &[FRAME]);
        parts.messages.insert(FRAME.into(), frame());
        for (projection, mode) in &self.projections {
            let queue = self.topology.queue(projection, *mode)?;
            let extra = json!({
                "arguments": self.topology.projection_arguments_as_json(*mode),
                "bindings": [binding(log_exchange, "")],
                "unreadableTo": dead_letter_exchange.as_ref().map(|exchange| &exchange.name),
            });
            let part = queue_part(&queue, format!("Frames for the projection `{projection}`."), extra);
            let id = parts.channel(&format!("queue.{queue}"), part, &[FRAME]);
            parts.operation(&format!("apply.{projection}"), "receive", &id, &[FRAME]);
        }
        Ok(())
    }

    fn dead_letters(&self, parts: &mut Parts) {
        let Some(exchange) = &self.topology.dead_letter_exchange else { return };
        let messages = [dead_letter(), unreadable()];
        let names = messages.each_ref().map(|(name, _)| *name);
        let channel = Part {
            // An event is sent under its type, and any other message under an empty key.
            address: Value::Null,
            description: "Keeps events that a projection has given up on, under their type, and messages that are no frames. People look \
                at them; the projection itself retries."
                .into(),
            binding: routing_key(exchange),
            extra: None,
        };
        let id = parts.channel("dead-letters", channel, &names);
        parts.operation("send.dead-letters", "send", &id, &names);
        let queue = &self.topology.dead_letter_queue;
        parts.channel(&format!("queue.{}", queue.queue), queue_of(queue, exchange, &["#"]), &names);
        parts.messages.extend(messages.map(|(name, message)| (name.to_owned(), message)));
    }
}

/// A channel of the document.
struct Part {
    address: Value,
    description: String,
    binding: Value,
    /// The content of `x-retell`.
    extra: Option<Value>,
}

/// The parts of the document that refer to each other.
#[derive(Default)]
struct Parts {
    channels: Map<String, Value>,
    operations: Map<String, Value>,
    messages: Map<String, Value>,
}

impl Parts {
    /// Adds a channel. Returns the reference to it.
    fn channel(&mut self, id: &str, part: Part, messages: &[&str]) -> String {
        let message = |name: &&str| ((*name).to_owned(), reference("#/components/messages", name));
        let messages: Map<_, _> = messages.iter().map(message).collect();
        let mut channel = json!({
            "address": part.address,
            "description": part.description,
            "messages": messages,
            "bindings": { "amqp": part.binding },
        });
        if let Some(extra) = part.extra {
            channel["x-retell"] = extra;
        }
        self.channels.insert(id.to_owned(), channel);
        format!("#/channels/{}", pointer_step(id))
    }

    /// Adds an operation on a channel.
    fn operation(&mut self, id: &str, action: &str, channel: &str, messages: &[&str]) {
        let place = format!("{channel}/messages");
        let messages: Vec<_> = messages.iter().map(|name| reference(&place, name)).collect();
        let binding = match action {
            "send" => json!({ "deliveryMode": 2, "bindingVersion": BINDING }),
            _ => json!({ "ack": true, "bindingVersion": BINDING }),
        };
        let operation = json!({
            "action": action,
            "channel": { "$ref": channel },
            "messages": messages,
            "bindings": { "amqp": binding },
        });
        self.operations.insert(id.to_owned(), operation);
    }
}

fn reference(place: &str, name: &str) -> Value {
    json!({ "$ref": format!("{place}/{}", pointer_step(name)) })
}

fn routing_key(exchange: &Exchange) -> Value {
    let Exchange { name, kind } = exchange;
    json!({
        "is": "routingKey",
        "exchange": { "name": name, "type": kind, "durable": true, "autoDelete": false },
        "bindingVersion": BINDING,
    })
}

fn queue_of<P: AsRef<str>>(queue: &Channel, exchange: &Exchange, patterns: &[P]) -> Part {
    let bindings: Vec<_> = patterns.iter().map(|pattern| binding(exchange, pattern.as_ref())).collect();
    let extra = json!({ "arguments": queue.arguments_as_json(), "bindings": bindings });
    queue_part(&queue.queue, format!("Receive from the queue `{}`.", queue.queue), extra)
}

fn queue_part(name: &str, description: String, extra: Value) -> Part {
    let binding = json!({
        "is": "queue",
        "queue": { "name": name, "durable": true, "exclusive": false, "autoDelete": false },
        "bindingVersion": BINDING,
    });
    Part { address: json!(name), description, binding, extra: Some(extra) }
}

fn binding(exchange: &Exchange, key: &str) -> Value {
    json!({ "exchange": exchange.name, "routingKey": key })
}

fn check_name(event: &str) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if event.chars().all(is_plain) {
        return Ok(());
    }
    let problem = format!(
        "AsyncAPI accepts no event with the name {event:?}: only letters, digits, `.`, `-` and `_` are allowed in the name of a component"
    );
    Err(ErrorKind::Invalid(problem).into())
}

/// Returns whether a queue that is bound to a topic exchange by `pattern` gets messages under `key`.
fn gets(pattern: &str, key: &str) -> bool {
    fn words(pattern: &[&str], key: &[&str]) -> bool {
        match pattern {
            [] => key.is_empty(),
            ["#", "#", ..] => words(&pattern[1..], key),
            ["#", rest @ ..] => (0..=key.len()).any(|skipped| words(rest, &key[skipped..])),
            [word, rest @ ..] => {
                key.split_first().is_some_and(|(first, key)| (*word == "*" || word == first) && words(rest, key))
            }
        }
    }
    words(&pattern.split('.').collect::<Vec<_>>(), &key.split('.').collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_rabbitmq() {
        for (pattern, key, expected) in [
            ("order.placed", "order.placed", true),
            ("order.placed", "order.placed.late", false),
            ("order.*", "order.placed", true),
            ("order.*", "order", false),
            ("order.*", "order.placed.late", false),
            ("*.placed", "order.placed", true),
            ("#", "order.placed", true),
            ("order.#", "order", true),
            ("order.#", "order.placed.late", true),
            ("#.late", "order.placed.late", true),
            ("#.late", "order.placed", false),
            ("#.#.placed", "order.placed", true),
            ("order", "orders", false),
        ] {
            assert_eq!(gets(pattern, key), expected, "{pattern} {key}");
        }
    }
}
