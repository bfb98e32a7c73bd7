//! The messages of the document: their headers, properties and bodies.

use serde_json::{Value, json};

use crate::broker::envelope::CONTENT_TYPE;
use crate::broker::rabbitmq::FRAME_TYPE;
use crate::broker::rabbitmq::options::{PERSISTENT, UNREADABLE_TYPE};
use crate::codec::Codec;
use crate::shape::json_schema::leaf::format;

/// The version of the AMQP bindings in the document.
pub(super) const BINDING: &str = "0.3.0";

/// The format of the schemas in the document.
const DRAFT_07: &str = "application/schema+json;version=draft-07";

/// The names of the messages and schemas that are not events. No event has one of them, because its name ends with its version.
pub(super) const FRAME: &str = "retell.frame";
const DEAD_LETTER: &str = "retell.dead-letter";
const UNREADABLE: &str = "retell.unreadable";
const ENVELOPE: &str = "retell.envelope";
const HEADERS: &str = "retell.headers";

/// The announcement of one version of an event.
pub(super) struct EventMessage<'e> {
    pub(super) event: &'e str,
    pub(super) version: u32,
    pub(super) codec: Codec,
    pub(super) is_public: bool,
    pub(super) name: String,
    /// The reference to the schema of its payload.
    pub(super) payload: String,
}

impl EventMessage<'_> {
    pub(super) fn to_json(&self) -> Value {
        let Self { event, version, codec, is_public, name, payload } = self;
        let whole = match codec {
            Codec::Json => json!({
                "properties": { "payload": { "$ref": payload }, "payload_encoding": false },
            }),
            Codec::Compact => json!({
                "properties": {
                    "payload": {
                        "type": "string",
                        "contentEncoding": "base64",
                        "$comment": format!("postcard; {payload} is the JSON that retell shows for it"),
                    },
                    "payload_encoding": { "const": "compact" },
                },
                "required": ["payload_encoding"],
            }),
        };
        let omitted = json!({
            "properties": { "payload": { "type": "null" }, "payload_encoding": { "const": "omitted" } },
            "required": ["payload_encoding"],
        });
        let body = json!({
            "allOf": [
                schema(ENVELOPE),
                { "properties": { "event_type": { "const": event }, "schema_version": { "const": version } } },
                { "anyOf": [whole, omitted] },
            ],
        });
        let mut properties = event_properties();
        properties["content_encoding"] =
            "`zstd` if the application compresses large envelopes, otherwise missing".into();
        json!({
            "name": name,
            "title": format!("{event}, version {version}"),
            "contentType": CONTENT_TYPE,
            "headers": schema(HEADERS),
            "payload": draft_07(&body),
            "correlationId": {
                "description": "The id that all events of one request share. The header may be missing.",
                "location": "$message.header#/correlation_id",
            },
            "bindings": { "amqp": { "messageType": event, "bindingVersion": BINDING } },
            "x-retell": { "codec": codec.name(), "properties": properties, "public": is_public },
        })
    }
}

/// Returns the message with a run of the log.
pub(super) fn frame() -> Value {
    json!({
        "name": FRAME,
        "title": "A run of the log",
        "summary": "Binary. JSON Schema cannot describe it, so it has no schema here.",
        "contentType": FRAME_TYPE,
        "headers": {
            "type": "object",
            "properties": { "first_position": position(), "last_position": position() },
            "required": ["first_position", "last_position"],
        },
        "x-retell": { "properties": properties(FRAME_TYPE) },
    })
}

/// Returns the message with an event that a projection has given up on.
pub(super) fn dead_letter() -> (&'static str, Value) {
    let message = json!({
        "name": DEAD_LETTER,
        "title": "An event that a projection has given up on",
        "contentType": CONTENT_TYPE,
        "headers": {
            "allOf": [
                schema(HEADERS),
                {
                    "type": "object",
                    "properties": {
                        "projection": { "type": "string" },
                        "reason": { "type": "string" },
                        "attempts": { "type": "integer", "minimum": 0 },
                    },
                    "required": ["projection", "reason", "attempts"],
                },
            ],
        },
        "payload": draft_07(&schema(ENVELOPE)),
        "x-retell": { "properties": event_properties() },
    });
    (DEAD_LETTER, message)
}

/// Returns the message with bytes that are no frame.
pub(super) fn unreadable() -> (&'static str, Value) {
    let message = json!({
        "name": UNREADABLE,
        "title": "A message in the queue of a projection that is no frame",
        "summary": "The body is that of the original message. Nothing is known about it, so it has no schema here.",
        "contentType": UNREADABLE_TYPE,
        "headers": {
            "type": "object",
            "properties": { "reason": { "type": "string" }, "queue": { "type": "string" } },
            "required": ["reason", "queue"],
        },
        "x-retell": { "properties": properties(UNREADABLE_TYPE) },
    });
    (UNREADABLE, message)
}

/// Returns the schemas of headers and envelopes.
pub(super) fn schemas() -> [(String, Value); 2] {
    let nullable = |schema: Value| json!({ "anyOf": [schema, { "type": "null" }] });
    let uuid = format("uuid");
    let text = json!({ "type": "string" });
    let number = json!({ "type": "integer", "minimum": 1 });
    let headers = json!({
        "type": "object",
        "properties": {
            "aggregate_type": text,
            "aggregate_id": text,
            "version": number,
            "correlation_id": uuid,
            "position": position(),
            "schema_version": number,
            "traceparent": { "type": "string", "maxLength": 255 },
            "tracestate": { "type": "string", "maxLength": 512 },
        },
        "required": ["aggregate_type", "aggregate_id", "version", "position", "schema_version"],
    });
    let envelope = json!({
        "type": "object",
        "properties": {
            "event_id": uuid,
            "event_type": text,
            "aggregate_type": text,
            "aggregate_id": text,
            "version": number,
            "timestamp": { "type": "integer", "description": "When the event was recorded, in seconds since 1970." },
            "metadata": {
                "type": "object",
                "properties": {
                    "source": nullable(text.clone()),
                    "correlation_id": nullable(uuid.clone()),
                    "causation_id": nullable(uuid.clone()),
                },
                "required": ["source", "correlation_id", "causation_id"],
                "additionalProperties": text,
            },
            "payload": { "description": "The payload as it is stored." },
            "payload_encoding": {
                "enum": ["compact", "omitted"],
                "description": "`compact` if the payload is binary, in base64. `omitted` if the message would be larger than the broker \
                    accepts: the payload is `null`, and the event has to be read from the log. Missing if the payload is JSON.",
            },
            "position": position(),
            "schema_version": number,
            "recorded_at": { "type": "string", "format": "date-time" },
        },
        "required": [
            "event_id",
            "event_type",
            "aggregate_type",
            "aggregate_id",
            "version",
            "timestamp",
            "metadata",
            "payload",
            "position",
            "schema_version",
            "recorded_at",
        ],
    });
    [(HEADERS.to_owned(), headers), (ENVELOPE.to_owned(), envelope)]
}

/// Returns the AMQP properties of each message.
fn properties(content_type: &str) -> Value {
    json!({ "content_type": content_type, "delivery_mode": PERSISTENT })
}

/// Returns the AMQP properties of a message with an event.
fn event_properties() -> Value {
    let mut properties = properties(CONTENT_TYPE);
    for (name, value) in [
        ("message_id", "the `event_id`"),
        ("timestamp", "when the event was recorded, in seconds since 1970"),
        ("type", "the `event_type`"),
    ] {
        properties[name] = value.into();
    }
    properties
}

fn position() -> Value {
    json!({ "type": "integer", "minimum": 1, "description": "The place in the log." })
}

fn schema(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn draft_07(schema: &Value) -> Value {
    json!({ "schemaFormat": DRAFT_07, "schema": schema })
}
