//! The wire format for external consumers: one event per message, as a JSON envelope.
//!
//! The body is one object, its keys always in this order: `event_id`, `event_type`, `aggregate_type`, `aggregate_id`, `version`,
//! `timestamp` (unix seconds), `metadata`, `payload`, `position`, `schema_version`, `recorded_at` (RFC 3339 in UTC, with microseconds).
//! `metadata` has `source`, `correlation_id` and `causation_id`, each `null` where it is not known, and then whatever else was kept; an
//! entry that has the name of one of these three stays in the log. Text is in UTF-8, unescaped.
//!
//! The payload stands there as it was stored; nothing here parses it. One of [`Codec::Compact`] is no JSON: then `payload` is text in
//! base64, and the key `payload_encoding` with the value `compact` follows it.

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

/// The approximate size of an envelope without its payload, in bytes.
const ROOM: usize = 640;

/// The content type of every envelope.
pub const CONTENT_TYPE: &str = "application/json";

/// The names of the metadata's own fields.
const FIELDS: [&str; 3] = ["source", "correlation_id", "causation_id"];

/// One event as a message: everything a broker's client needs to send it. Making it persistent is up to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Announcement {
    /// The routing key: the event's type.
    pub routing_key: EventType,
    /// The envelope.
    pub body: Bytes,
    /// The content type of the body before compression.
    pub content_type: &'static str,
    /// The compression of the body; `None` if it is not compressed.
    pub content_encoding: Option<&'static str>,
    /// The event's id.
    pub message_id: EventId,
    /// When the store recorded the event, in seconds since 1970.
    pub timestamp: u64,
    /// The event's type.
    pub event_type: EventType,
    /// The headers, in the order of the format: `aggregate_type`, `aggregate_id`, `version`, `correlation_id` (if there is one), `position`,
    /// `schema_version`, `traceparent` (if the metadata has one).
    pub headers: Vec<(&'static str, HeaderValue)>,
}

/// The value of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderValue {
    /// Text.
    Text(String),
    /// A number.
    Number(i64),
}

impl Announcement {
    /// Creates the message for an event.
    ///
    /// # Errors
    /// [`ErrorKind::Unencodable`] if some text of the event's cannot be written.
    pub fn of(event: &RecordedEvent) -> Result<Self> {
        Ok(Self {
            routing_key: event.event.event_type.clone(),
            body: body(event).map_err(|error| unencodable(event, error))?.into(),
            content_type: CONTENT_TYPE,
            content_encoding: None,
            message_id: event.event.id,
            timestamp: u64::try_from(event.recorded_at.timestamp()).unwrap_or(0),
            event_type: event.event.event_type.clone(),
            headers: headers(event),
        })
    }

    /// Compresses the body with zstd if it has more than `over` bytes and becomes smaller. A body over 64 MiB stays as it is, so that a
    /// consumer can limit what it expands.
    ///
    /// # Errors
    /// [`ErrorKind::Unencodable`] if zstd is out of memory.
    #[cfg(feature = "zstd")]
    #[cfg_attr(docsrs, doc(cfg(feature = "zstd")))]
    pub fn compressed(self, over: usize) -> Result<Self> {
        if self.content_encoding.is_some() || self.body.len() <= over || self.body.len() > zip::MAX_EXPANDED {
            return Ok(self);
        }
        let what = || ErrorKind::Unencodable(format!("the envelope of event {}", self.message_id));
        let body = zip::compress(&self.body).map_err(|error| Error::with_source(what(), error))?;
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
    let trace = event.metadata.extra.get("traceparent").map(|trace| text(trace));
    let headers = [
        ("aggregate_type", Some(text(stream.aggregate_type().as_str()))),
        ("aggregate_id", Some(text(stream.aggregate_id().as_str()))),
        ("version", Some(number(version.get()))),
        ("correlation_id", correlation),
        ("position", Some(number(position.get()))),
        ("schema_version", Some(number(event.schema_version.into()))),
        ("traceparent", trace),
    ];
    headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn body(recorded: &RecordedEvent) -> Result<Vec<u8>, BoxError> {
    let RecordedEvent { position, stream, version, recorded_at, event } = recorded;
    let mut object = Object::with_capacity(event.payload.len() + ROOM);
    object.field("event_id", &event.id)?;
    object.field("event_type", event.event_type.as_str())?;
    object.field("aggregate_type", stream.aggregate_type().as_str())?;
    object.field("aggregate_id", stream.aggregate_id().as_str())?;
    object.field("version", version)?;
    object.field("timestamp", &recorded_at.timestamp())?;
    object.raw("metadata", &metadata(&event.metadata)?)?;
    match event.codec {
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
    let mut object = Object::with_capacity(ROOM);
    let [source, correlation_id, causation_id] = FIELDS;
    object.field(source, &metadata.source)?;
    object.field(correlation_id, &metadata.correlation_id)?;
    object.field(causation_id, &metadata.causation_id)?;
    // A key twice would be read one way by some and another way by others.
    for (name, value) in metadata.extra.iter().filter(|(name, _)| !FIELDS.contains(&name.as_str())) {
        object.field(name, value)?;
    }
    Ok(object.end())
}

/// A JSON object as it is written: its keys keep their order, and a value can be spliced in.
struct Object(Vec<u8>);

impl Object {
    fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), BoxError> {
        self.key(name)?;
        Ok(serde_json::to_writer(&mut self.0, value)?)
    }

    /// A value that is JSON already.
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
