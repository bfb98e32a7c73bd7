//! The wire format for consumers outside this library: one message per event, with a JSON envelope as its body.
//!
//! The body is one object. Its keys are always in this order: `event_id`, `event_type`, `aggregate_type`, `aggregate_id`, `version`,
//! `timestamp` (Unix seconds), `metadata`, `payload`, `position`, `schema_version`, `recorded_at` (RFC 3339 in UTC, with microseconds).
//! `metadata` starts with `source`, `correlation_id` and `causation_id`, each `null` if it is unknown, followed by all other metadata
//! entries. An entry with one of these three names is left out of the envelope and stays in the log. Text is unescaped UTF-8.
//!
//! The payload is copied from the store without being parsed. A payload of [`Codec::Compact`] is not JSON: then `payload` is a base64
//! string, followed by the key `payload_encoding` with the value `compact`. If the message would be larger than the broker accepts, `payload` is
//! `null` and `payload_encoding` is `omitted`: a consumer that needs the payload reads the event from the log.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::SecondsFormat;
use serde::Serialize;

#[cfg(feature = "zstd")]
use crate::broker::zip;
use crate::codec::Codec;
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::event::{Metadata, RecordedEvent};
use crate::id::{EventId, EventType};
use crate::trace::context::{MAX_STATE_BYTES, TRACEPARENT, TRACESTATE};

/// Estimated size of an envelope without its payload, in bytes.
const ENVELOPE_BYTES: usize = 640;

/// A longer `traceparent` is none that the W3C defines (55 bytes), and stays in the body: brokers limit all headers together, RabbitMQ to 128 KiB.
const MAX_TRACE_BYTES: usize = 255;

/// The content type of every envelope.
pub const CONTENT_TYPE: &str = "application/json";

/// The metadata keys that every envelope has.
const RESERVED_KEYS: [&str; 3] = ["source", "correlation_id", "causation_id"];

/// One event as a broker message, with all that a client needs to send it. The client decides whether the message is persistent.
///
/// ```
/// use retell::broker::envelope::Announcement;
/// use retell::testing::store::{event, stream};
/// use retell::{DateTime, Position, RecordedEvent, Version};
///
/// let noted = event(r#"{"note":"hello"}"#);
/// let noted = RecordedEvent::new(Position::new(7), stream("1"), Version::new(1), DateTime::UNIX_EPOCH, noted);
/// let message = Announcement::from_event(&noted)?;
/// assert_eq!(message.routing_key.as_str(), "account.noted");
/// assert!(message.body.ends_with(br#""payload":{"note":"hello"},"position":7,"schema_version":1,"recorded_at":"1970-01-01T00:00:00.000000Z"}"#));
/// # Ok::<(), retell::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Announcement {
    /// The key to publish under: the event's type.
    pub routing_key: EventType,
    /// The envelope.
    pub body: Bytes,
    /// The content type of the body before compression.
    pub content_type: &'static str,
    /// The compression of the body, such as `zstd`; `None` if the body is not compressed.
    pub content_encoding: Option<&'static str>,
    /// The event's id.
    pub message_id: EventId,
    /// When the store recorded the event, in seconds since 1970.
    pub timestamp: u64,
    /// The event's type.
    pub event_type: EventType,
    /// The message headers in this order: `aggregate_type`, `aggregate_id`, `version`, `correlation_id` (if there is one), `position`,
    /// `schema_version`, `traceparent` and `tracestate` (each if the metadata has one, of at most 255 and 512 bytes).
    pub headers: Vec<(&'static str, HeaderValue)>,
}

/// The value of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderValue {
    /// A string.
    Text(String),
    /// An integer.
    Number(i64),
}

/// Shows the size of the body only, so that no payload gets into a log.
impl fmt::Debug for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcement")
            .field("routing_key", &self.routing_key)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("content_type", &self.content_type)
            .field("content_encoding", &self.content_encoding)
            .field("message_id", &self.message_id)
            .field("timestamp", &self.timestamp)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

impl Announcement {
    /// Creates the message for `event`.
    ///
    /// # Errors
    /// [`ErrorKind::Unencodable`] if a text of the event cannot be written as JSON.
    pub fn from_event(event: &RecordedEvent) -> Result<Self> {
        Self::with_body(event, body(event, true))
    }

    /// Creates the message for `event` without its payload, for a broker that does not accept a message of that size.
    ///
    /// # Errors
    /// The errors of [`from_event`](Self::from_event).
    pub fn without_payload(event: &RecordedEvent) -> Result<Self> {
        Self::with_body(event, body(event, false))
    }

    fn with_body(event: &RecordedEvent, body: Result<Vec<u8>, BoxError>) -> Result<Self> {
        Ok(Self {
            routing_key: event.event.event_type.clone(),
            body: body.map_err(|error| unencodable(event, error))?.into(),
            content_type: CONTENT_TYPE,
            content_encoding: None,
            message_id: event.event.id,
            timestamp: u64::try_from(event.recorded_at.timestamp()).unwrap_or(0),
            event_type: event.event.event_type.clone(),
            headers: headers(event),
        })
    }

    /// Compresses the body with zstd if it has more than `over` bytes and gets smaller. A body over 64 MiB stays uncompressed, so that a
    /// consumer can limit how far it decompresses input from others.
    ///
    /// # Errors
    /// [`ErrorKind::Unencodable`] if zstd is out of memory.
    #[cfg(feature = "zstd")]
    #[cfg_attr(docsrs, doc(cfg(feature = "zstd")))]
    pub fn compressed(self, over: usize) -> Result<Self> {
        if self.content_encoding.is_some() || self.body.len() <= over || self.body.len() > zip::MAX_EXPANDED {
            return Ok(self);
        }
        let kind = || ErrorKind::Unencodable(format!("the envelope of event {}", self.message_id));
        let body = zip::compress(&self.body).map_err(|error| Error::with_source(kind(), error))?;
        if body.len() < self.body.len() {
            Ok(Self { body: body.into(), content_encoding: Some("zstd"), ..self })
        } else {
            Ok(self)
        }
    }
}

fn unencodable(event: &RecordedEvent, source: BoxError) -> Error {
    Error::with_source(ErrorKind::Unencodable(format!("the envelope of event {}", event.event.id)), source)
}

fn headers(recorded: &RecordedEvent) -> Vec<(&'static str, HeaderValue)> {
    let RecordedEvent { position, stream, version, event, .. } = recorded;
    let text = |text: &str| HeaderValue::Text(text.to_owned());
    let number = |number: u64| HeaderValue::Number(i64::try_from(number).unwrap_or(i64::MAX));
    let correlation = event.metadata.correlation_id.map(|id| HeaderValue::Text(id.to_string()));
    let entry =
        |name, most| event.metadata.extra.get(name).filter(|entry| entry.len() <= most).map(|entry| text(entry));
    let trace = entry(TRACEPARENT, MAX_TRACE_BYTES);
    // Without the first header, the second one means nothing.
    let state = trace.as_ref().and_then(|_| entry(TRACESTATE, MAX_STATE_BYTES));
    let headers = [
        ("aggregate_type", Some(text(stream.aggregate_type().as_str()))),
        ("aggregate_id", Some(text(stream.aggregate_id().as_str()))),
        ("version", Some(number(version.get()))),
        ("correlation_id", correlation),
        ("position", Some(number(position.get()))),
        ("schema_version", Some(number(event.schema_version.into()))),
        (TRACEPARENT, trace),
        (TRACESTATE, state),
    ];
    headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn body(recorded: &RecordedEvent, has_payload: bool) -> Result<Vec<u8>, BoxError> {
    let RecordedEvent { position, stream, version, recorded_at, event } = recorded;
    let payload_bytes = if has_payload { event.payload.len() } else { 0 };
    let mut object = Object::with_capacity(payload_bytes + ENVELOPE_BYTES);
    object.field("event_id", &event.id)?;
    object.field("event_type", event.event_type.as_str())?;
    object.field("aggregate_type", stream.aggregate_type().as_str())?;
    object.field("aggregate_id", stream.aggregate_id().as_str())?;
    object.field("version", version)?;
    object.field("timestamp", &recorded_at.timestamp())?;
    object.raw("metadata", &metadata(&event.metadata)?)?;
    match event.codec {
        _ if !has_payload => {
            object.raw("payload", b"null")?;
            object.field("payload_encoding", "omitted")?;
        }
        // An event without fields may have been stored without a payload.
        Codec::Json if event.payload.is_empty() => object.raw("payload", b"null")?,
        Codec::Json => object.raw("payload", &event.payload)?,
        Codec::Compact => {
            object.field("payload", &STANDARD.encode(&event.payload))?;
            object.field("payload_encoding", "compact")?;
        }
    }
    object.field("position", position)?;
    object.field("schema_version", &event.schema_version)?;
    object.field("recorded_at", &recorded_at.to_rfc3339_opts(SecondsFormat::Micros, true))?;
    Ok(object.end())
}

fn metadata(metadata: &Metadata) -> Result<Vec<u8>, BoxError> {
    let mut object = Object::with_capacity(ENVELOPE_BYTES);
    let [source, correlation_id, causation_id] = RESERVED_KEYS;
    object.field(source, &metadata.source)?;
    object.field(correlation_id, &metadata.correlation_id)?;
    object.field(causation_id, &metadata.causation_id)?;
    // Parsers disagree on duplicate keys, so each key is written once.
    for (name, value) in metadata.extra.iter().filter(|(name, _)| !RESERVED_KEYS.contains(&name.as_str())) {
        object.field(name, value)?;
    }
    Ok(object.end())
}

/// A JSON object under construction: keeps the order of its keys and accepts values that are already encoded.
struct Object(Vec<u8>);

impl Object {
    fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), BoxError> {
        self.key(name)?;
        Ok(serde_json::to_writer(&mut self.0, value)?)
    }

    /// Adds a value that is already JSON.
    fn raw(&mut self, name: &str, json: &[u8]) -> Result<(), BoxError> {
        self.key(name)?;
        self.0.extend_from_slice(json);
        Ok(())
    }

    fn key(&mut self, name: &str) -> Result<(), BoxError> {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        serde_json::to_writer(&mut self.0, name)?;
        self.0.push(b':');
        Ok(())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}
