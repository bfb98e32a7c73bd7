//! What an event is: to the domain, on its way into the log, in the log, and to a projection.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::Codec;
use crate::error::{BoxError, Error, ErrorKind};
use crate::id::{CorrelationId, EventId, EventType, Position, StreamId, Version};

/// A type of domain events that can be stored and read back; `#[derive(Event)]` writes it.
///
/// Each kind of event has a stored name that never changes, whatever its Rust name becomes.
pub trait Event: Sized + Send + Sync + 'static {
    /// The kinds of event this type holds.
    const TYPES: EventTypes;

    /// The stored name, schema version and codec of this event.
    fn schema(&self) -> EventSchema;

    /// Appends the payload to `payload`, in the codec that [`schema`](Self::schema) names.
    ///
    /// # Errors
    /// Returns the error of a field's own `Serialize`.
    fn encode(&self, payload: &mut Vec<u8>) -> Result<(), BoxError>;

    /// Reads an event back from any known schema version.
    ///
    /// # Errors
    /// [`DecodeError`] says whether the type, the schema version or the payload cannot be read.
    fn decode(stored: StoredEvent<'_>) -> Result<Self, DecodeError>;
}

/// The stored form of one kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventSchema {
    /// The stored name, such as `order.created`.
    pub name: &'static str,
    /// The newest schema version, from 1.
    pub version: u32,
    /// The codec of new events.
    pub codec: Codec,
}

impl EventSchema {
    /// Describes the kind of event with the stored name `name`, whose newest schema version is `version`.
    pub const fn new(name: &'static str, version: u32, codec: Codec) -> Self {
        Self { name, version, codec }
    }
}

/// The kinds of event a type can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventTypes {
    /// Every kind, including those that do not exist yet.
    All,
    /// Only these.
    Only(&'static [EventSchema]),
}

impl EventTypes {
    /// Returns whether the type can hold an event of this stored name.
    pub fn contains(self, event_type: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(schemas) => schemas.iter().any(|schema| schema.name == event_type),
        }
    }
}

/// An event's stored form, borrowed from the store's own buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredEvent<'a> {
    /// The stored name.
    pub event_type: &'a str,
    /// The schema version it was written in.
    pub schema_version: u32,
    /// The codec of the payload.
    pub codec: Codec,
    /// The encoded payload.
    pub payload: &'a [u8],
}

impl<'a> StoredEvent<'a> {
    /// Puts the parts together, as a driver reads them.
    #[inline]
    pub const fn new(event_type: &'a str, schema_version: u32, codec: Codec, payload: &'a [u8]) -> Self {
        Self { event_type, schema_version, codec, payload }
    }

    /// Decodes the payload.
    ///
    /// # Errors
    /// [`DecodeError::Payload`] with the codec's error.
    #[inline]
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        self.codec.decode(self.payload).map_err(DecodeError::Payload)
    }
}

/// Why a stored event could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The type holds no event of that name.
    #[error("unknown event type")]
    UnknownType,
    /// The schema version is not among the known ones.
    #[error("schema version {found} is not among the known 1 to {known}")]
    UnknownSchema {
        /// What the store says.
        found: u32,
        /// The newest known.
        known: u32,
    },
    /// The payload does not have the shape its type and schema version say.
    #[error("cannot decode the payload")]
    Payload(#[source] BoxError),
}

impl DecodeError {
    /// Returns the full error, with the event's place in its stream.
    pub fn at(self, stream: &StreamId, version: Version, event_type: &EventType) -> Error {
        let (stream, event_type) = (stream.clone(), event_type.clone());
        match self {
            Self::UnknownType => ErrorKind::UnknownEventType { stream, version, event_type }.into(),
            Self::UnknownSchema { found, known } => {
                ErrorKind::UnknownSchema { stream, version, event_type, found, known }.into()
            }
            Self::Payload(source) => Error::with_source(ErrorKind::Undecodable { stream, version, event_type }, source),
        }
    }
}

/// What is known about an event besides its payload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Metadata {
    /// The request that led here, shared along the whole chain.
    pub correlation_id: Option<CorrelationId>,
    /// The event that directly caused this one.
    pub causation_id: Option<EventId>,
    /// The writer, such as a service's name.
    pub source: Option<Arc<str>>,
    /// Anything else the application wants to keep.
    pub extra: BTreeMap<String, String>,
}

/// The part of the metadata that is rarely present and stored as JSON; the two ids have columns of their own.
#[derive(Debug, Serialize, Deserialize)]
struct StoredMetadata {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<Arc<str>>,
    #[serde(flatten)]
    extra: BTreeMap<String, String>,
}

impl Metadata {
    /// Creates empty metadata; every part is optional.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the id that all events of one outside request share.
    pub fn with_correlation(mut self, id: CorrelationId) -> Self {
        self.correlation_id = Some(id);
        self
    }

    /// Sets the event that directly caused this one.
    pub fn with_causation(mut self, id: EventId) -> Self {
        self.causation_id = Some(id);
        self
    }

    /// Sets the writer, such as a service's name.
    pub fn with_source(mut self, source: impl Into<Arc<str>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds an entry of the application's own. The name `source` is reserved.
    pub fn with_entry(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.extra.insert(name.into(), value.into());
        self
    }

    /// Returns source and extra entries as one JSON object; `None` if there are none.
    ///
    /// # Errors
    /// Refuses an extra entry with the reserved name `source`.
    pub fn to_json(&self) -> Result<Option<String>, BoxError> {
        if self.source.is_none() && self.extra.is_empty() {
            return Ok(None);
        }
        if self.extra.contains_key("source") {
            return Err("`source` is a field of its own, not an extra entry".into());
        }
        let stored = StoredMetadata { source: self.source.clone(), extra: self.extra.clone() };
        Ok(Some(serde_json::to_string(&stored)?))
    }

    /// Reads the metadata back from its three stored parts.
    ///
    /// # Errors
    /// Refuses `json` unless it is an object of strings.
    pub fn from_parts(
        correlation_id: Option<CorrelationId>,
        causation_id: Option<EventId>,
        json: Option<&str>,
    ) -> Result<Self, BoxError> {
        let mut metadata = Self { correlation_id, causation_id, ..Self::default() };
        if let Some(json) = json {
            let stored: StoredMetadata = serde_json::from_str(json)?;
            metadata.source = stored.source;
            metadata.extra = stored.extra;
        }
        Ok(metadata)
    }
}

/// An encoded event on its way into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewEvent {
    /// Its id; unique in the log.
    pub id: EventId,
    /// Its stored name.
    pub event_type: EventType,
    /// The schema version of the payload.
    pub schema_version: u32,
    /// How the payload is written.
    pub codec: Codec,
    /// The encoded payload.
    pub payload: Bytes,
    /// What else is known about it.
    pub metadata: Metadata,
}

impl NewEvent {
    /// Encodes a domain event under a fresh id, without metadata.
    ///
    /// # Errors
    /// [`ErrorKind::Unencodable`] if a field refuses to be encoded, [`ErrorKind::Invalid`] if no store accepts the stored name.
    pub fn new<E: Event>(event: &E) -> Result<Self, Error> {
        let schema = event.schema();
        let mut payload = Vec::with_capacity(128);
        event
            .encode(&mut payload)
            .map_err(|source| Error::with_source(ErrorKind::Unencodable(format!("event {}", schema.name)), source))?;
        let event_type = EventType::new(schema.name)?;
        Ok(Self::stored(EventId::generate(), event_type, schema.version, schema.codec, payload.into()))
    }

    /// Takes an event that is encoded already: for a driver that reads it back, or a copy from another log.
    pub fn stored(id: EventId, event_type: EventType, schema_version: u32, codec: Codec, payload: Bytes) -> Self {
        Self { id, event_type, schema_version, codec, payload, metadata: Metadata::default() }
    }

    /// Sets the metadata.
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }
}

/// An event as it stands in the log, still encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedEvent {
    /// Its place in the log.
    pub position: Position,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Its place in that stream.
    pub version: Version,
    /// When the store recorded it, to the microsecond.
    pub recorded_at: DateTime<Utc>,
    /// What was appended.
    pub event: NewEvent,
}

impl RecordedEvent {
    /// Puts an event at its place in the log: for a driver.
    pub fn new(
        position: Position,
        stream: StreamId,
        version: Version,
        recorded_at: DateTime<Utc>,
        event: NewEvent,
    ) -> Self {
        Self { position, stream, version, recorded_at, event }
    }

    /// Returns the size of the payload as it is stored.
    pub fn payload_bytes(&self) -> usize {
        self.event.payload.len()
    }

    /// Returns the part that decoding needs.
    pub fn stored(&self) -> StoredEvent<'_> {
        StoredEvent {
            event_type: self.event.event_type.as_str(),
            schema_version: self.event.schema_version,
            codec: self.event.codec,
            payload: &self.event.payload,
        }
    }

    /// Decodes the payload.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownEventType`], [`ErrorKind::UnknownSchema`] or [`ErrorKind::Undecodable`], each with stream and version.
    pub fn decode<E: Event>(&self) -> Result<Envelope<E>, Error> {
        let event =
            E::decode(self.stored()).map_err(|error| error.at(&self.stream, self.version, &self.event.event_type))?;
        Ok(Envelope {
            position: self.position,
            stream: self.stream.clone(),
            version: self.version,
            recorded_at: self.recorded_at,
            id: self.event.id,
            metadata: self.event.metadata.clone(),
            event,
        })
    }

    /// Decodes the payload and consumes the event: cheaper than [`decode`](Self::decode), which copies the rest.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn into_envelope<E: Event>(self) -> Result<Envelope<E>, Error> {
        let event =
            E::decode(self.stored()).map_err(|error| error.at(&self.stream, self.version, &self.event.event_type))?;
        Ok(Envelope {
            position: self.position,
            stream: self.stream,
            version: self.version,
            recorded_at: self.recorded_at,
            id: self.event.id,
            metadata: self.event.metadata,
            event,
        })
    }
}

/// A decoded event with everything known about it, as projections and reactions see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Envelope<E> {
    /// Its place in the log.
    pub position: Position,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Its place in that stream.
    pub version: Version,
    /// When the store recorded it.
    pub recorded_at: DateTime<Utc>,
    /// Its id.
    pub id: EventId,
    /// What else is known about it.
    pub metadata: Metadata,
    /// The domain event.
    pub event: E,
}

/// Any event of any type, undecoded: for projections that watch the whole log, such as an audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnyEvent {
    /// Its stored name.
    pub event_type: EventType,
    /// The schema version of the payload.
    pub schema_version: u32,
    /// How the payload is written.
    pub codec: Codec,
    /// The encoded payload.
    pub payload: Bytes,
}

impl Event for AnyEvent {
    const TYPES: EventTypes = EventTypes::All;

    /// Not called for events that were read: their name is in [`event_type`](Self::event_type).
    fn schema(&self) -> EventSchema {
        EventSchema { name: "retell.any", version: self.schema_version, codec: self.codec }
    }

    fn encode(&self, _: &mut Vec<u8>) -> Result<(), BoxError> {
        Err("events of any type are only read".into())
    }

    fn decode(stored: StoredEvent<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            event_type: EventType::new(stored.event_type).map_err(|error| DecodeError::Payload(error.into()))?,
            schema_version: stored.schema_version,
            codec: stored.codec,
            payload: Bytes::copy_from_slice(stored.payload),
        })
    }
}
