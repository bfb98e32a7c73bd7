//! The forms of an event: the domain's own type, encoded for an append, recorded in the log, and decoded for a projection.

mod decoding;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec::Codec;
use crate::error::{BoxError, Error, ErrorKind, fmt_chain};
use crate::id::mark::Mark;
use crate::id::{CorrelationId, EventId, EventType, Position, StreamId, Version};
use crate::panics::catch;
use crate::shape::Shapes;
use crate::shape::declared::{Body, Of};
use crate::shape::types::Type;
use crate::trace;
use crate::trace::context::TraceContext;

/// A type of domain event that can be stored and read back. `#[derive(Event)]` implements it.
///
/// Each kind of event has a stored name that stays the same if its Rust name changes. The log keeps the events of former names, and the type
/// can [name them](EventSchema::former_names).
///
/// # Examples
/// ```
/// use retell::{Event, NewEvent};
///
/// #[derive(Event)]
/// enum OrderEvent {
///     #[event("order.placed")]
///     Placed { cents: u64 },
///     #[event("order.canceled")]
///     Canceled,
/// }
///
/// let placed = NewEvent::new(&OrderEvent::Placed { cents: 500 })?;
/// assert_eq!(placed.event_type.as_str(), "order.placed");
/// # Ok::<(), retell::Error>(())
/// ```
pub trait Event: Sized + Send + Sync + 'static {
    /// The kinds of event that this type can hold.
    const TYPES: EventTypes;

    /// The stored names of events that the log may have and that no longer are events of this type. Readers pass over them.
    const RETIRED: &'static [&'static str] = &[];

    /// Returns the stored name, schema version and codec of this event.
    fn schema(&self) -> EventSchema;

    /// Encodes the event with the codec of its [`schema`](Self::schema), and appends the bytes to `payload`.
    ///
    /// # Errors
    /// Returns the error of a field's own `Serialize`.
    fn encode(&self, payload: &mut Vec<u8>) -> Result<(), BoxError>;

    /// Decodes a stored event of any known schema version.
    ///
    /// # Errors
    /// Returns a [`DecodeError`] that says whether the type, the schema version or the payload cannot be read. It is
    /// [`DecodeError::NotOne`] for a stored event that is not exactly one event of this type: see [`decode_all`](Self::decode_all).
    fn decode(stored: StoredEvent<'_>) -> Result<Self, DecodeError>;

    /// Decodes a stored event for which [`decode`](Self::decode) returns [`DecodeError::NotOne`]: none if its name is
    /// [retired](Self::RETIRED), and several if an upcaster splits it. They share the place of the stored event, and their order is always the
    /// same.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    fn decode_all(stored: StoredEvent<'_>) -> Result<Vec<Self>, DecodeError> {
        one_or_none(stored)
    }

    /// Returns whether this event is certain to be decoded exactly as it was encoded. The derive knows that of some types of fields. It is
    /// not part of the public API.
    #[doc(hidden)]
    fn reads_back(&self) -> bool {
        false
    }
}

/// Decodes a stored event that no upcaster splits: none if its name is retired, and one otherwise. It is not part of the public API.
#[doc(hidden)]
pub fn one_or_none<E: Event>(stored: StoredEvent<'_>) -> Result<Vec<E>, DecodeError> {
    if E::RETIRED.contains(&stored.event_type) { Ok(Vec::new()) } else { E::decode(stored).map(|event| vec![event]) }
}

/// The stored form of one kind of event. Two are equal if the stored form is the same, wherever it is declared.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct EventSchema {
    /// The stored name, such as `order.created`.
    pub name: &'static str,
    /// The names under which such events were stored before. They are read as this kind of event, and nothing is stored under them.
    pub former_names: &'static [&'static str],
    /// The newest schema version. The first version is 1.
    pub version: u32,
    /// The codec that encodes new events.
    pub codec: Codec,
    /// The stored name of the only aggregate that has such events, if it is declared.
    pub aggregate: Option<&'static str>,
    /// Whether programs of other teams read such events, so that [`Registry::check`](crate::registry::Registry::check) refuses every change
    /// that they could not follow.
    pub is_public: bool,
    /// The path of the Rust type that declares this kind of event. Empty for an implementation by hand that names none.
    pub declaration: &'static str,
    pub(crate) fields: Option<&'static Body>,
    /// The shapes that the upcasters take, by version.
    pub(crate) older: &'static [Of],
}

impl PartialEq for EventSchema {
    fn eq(&self, other: &Self) -> bool {
        let form = |schema: &Self| (schema.name, schema.version, schema.codec, schema.aggregate);
        form(self) == form(other)
    }
}

impl Eq for EventSchema {}

impl EventSchema {
    /// Creates the schema of the kind of event with the stored name `name`. `version` is its newest schema version.
    pub const fn new(name: &'static str, version: u32, codec: Codec) -> Self {
        Self {
            name,
            former_names: &[],
            version,
            codec,
            aggregate: None,
            is_public: false,
            declaration: "",
            fields: None,
            older: &[],
        }
    }

    /// Sets the names under which such events were stored before. A schema version means the same under each of the names.
    pub const fn with_former_names(mut self, names: &'static [&'static str]) -> Self {
        self.former_names = names;
        self
    }

    /// Sets the aggregate that has such events: a [filter](crate::Filter::of) for them passes no event of the same name of another aggregate.
    pub const fn with_aggregate(mut self, aggregate: &'static str) -> Self {
        self.aggregate = Some(aggregate);
        self
    }

    /// Marks such events as read by programs of other teams.
    pub const fn with_public(mut self) -> Self {
        self.is_public = true;
        self
    }

    /// Sets the path of the Rust type that declares this kind of event.
    pub const fn with_declaration(mut self, path: &'static str) -> Self {
        self.declaration = path;
        self
    }

    /// Sets the derive's declaration of the fields. It is not part of the public API.
    #[doc(hidden)]
    pub const fn with_fields(mut self, fields: &'static Body) -> Self {
        self.fields = Some(fields);
        self
    }

    /// Sets the derive's declaration of what the upcasters take, oldest version first. It is not part of the public API.
    #[doc(hidden)]
    pub const fn with_older(mut self, shapes: &'static [Of]) -> Self {
        self.older = shapes;
        self
    }

    /// Returns the names under which the log may have such events: the stored name, and then the former ones.
    ///
    /// # Examples
    /// ```
    /// use retell::Event;
    ///
    /// #[derive(Event)]
    /// #[event("shoe.sold", renamed_from = "shoe.bought")]
    /// struct Sold;
    ///
    /// assert_eq!(Sold.schema().names().collect::<Vec<_>>(), ["shoe.sold", "shoe.bought"]);
    /// ```
    pub fn names(&self) -> impl Iterator<Item = &'static str> + Clone + use<> {
        std::iter::once(self.name).chain(self.former_names.iter().copied())
    }

    /// Returns whether an event with the stored name `event_type` is one of this kind.
    pub fn is_named(&self, event_type: &str) -> bool {
        self.name == event_type || self.former_names.contains(&event_type)
    }

    /// Returns the wire shape of the newest schema version. `None` for an implementation by hand.
    ///
    /// # Examples
    /// ```
    /// use retell::Event;
    /// use retell::event::EventTypes;
    ///
    /// #[derive(Event)]
    /// #[event("shoe.sold")]
    /// struct Sold {
    ///     sku: String,
    ///     cents: u64,
    /// }
    ///
    /// let sold = Sold { sku: "s-1".into(), cents: 500 };
    /// assert_eq!(sold.schema().shape().unwrap().to_string(), "{sku: text, cents: u64}");
    /// ```
    pub fn shape(&self) -> Option<Type> {
        self.fields.map(|fields| Shapes::default().body(fields))
    }

    /// Returns the wire shape that reads the payloads of a schema version: for an older one, that of the upcaster's argument, which is
    /// [`Type::Opaque`] if its type has none. `None` for an implementation by hand, and for a version that is not known.
    ///
    /// # Examples
    /// ```
    /// use retell::{Event, Value};
    ///
    /// #[derive(Event)]
    /// #[event("shoe.sold", version = 2, upcast(sold_v1))]
    /// struct Sold {
    ///     cents: u64,
    /// }
    ///
    /// #[derive(Value)]
    /// struct SoldV1 {
    ///     dollars: u32,
    /// }
    ///
    /// fn sold_v1(old: SoldV1) -> Sold {
    ///     Sold { cents: u64::from(old.dollars) * 100 }
    /// }
    ///
    /// let schema = Sold { cents: 500 }.schema();
    /// assert_eq!(schema.shape_of(1).unwrap().to_string(), "{dollars: u32}");
    /// assert_eq!(schema.shape_of(2), schema.shape());
    /// ```
    pub fn shape_of(&self, version: u32) -> Option<Type> {
        if version == self.version {
            return self.shape();
        }
        let place = usize::try_from(version.checked_sub(1)?).ok()?;
        self.older.get(place).map(|of| of(&mut Shapes::default()))
    }
}

/// The kinds of event a type can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventTypes {
    /// Every kind of event, including kinds that do not exist yet.
    All,
    /// Only these kinds of event.
    Only(&'static [EventSchema]),
}

impl EventTypes {
    /// Returns whether the type can hold an event with the stored name `event_type`, which may be a former one.
    pub fn contains(self, event_type: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(schemas) => schemas.iter().any(|schema| schema.is_named(event_type)),
        }
    }

    /// Returns each stored name, former ones included, with the newest schema version.
    pub(crate) fn newest_versions(self) -> impl Iterator<Item = (&'static str, u32)> {
        let schemas = match self {
            Self::All => &[],
            Self::Only(schemas) => schemas,
        };
        schemas.iter().flat_map(|schema| schema.names().map(|name| (name, schema.version)))
    }
}

/// The stored name of the steps of processes. A process manager reads the newest steps of its own process when it starts.
pub(crate) const PROCESS_STEPPED: &str = "process.stepped";

/// The stored form of an event, borrowed from the store's buffer.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredEvent<'a> {
    /// The stored name.
    pub event_type: &'a str,
    /// The schema version of the payload.
    pub schema_version: u32,
    /// The codec of the payload.
    pub codec: Codec,
    /// The encoded payload.
    pub payload: &'a [u8],
}

/// Shows the size of the payload only, so that no payload gets into a log.
impl fmt::Debug for StoredEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredEvent")
            .field("event_type", &self.event_type)
            .field("schema_version", &self.schema_version)
            .field("codec", &self.codec)
            .field("payload", &format_args!("{} bytes", self.payload.len()))
            .finish()
    }
}

impl<'a> StoredEvent<'a> {
    /// Creates a stored event from its parts. For drivers.
    #[inline]
    pub const fn new(event_type: &'a str, schema_version: u32, codec: Codec, payload: &'a [u8]) -> Self {
        Self { event_type, schema_version, codec, payload }
    }

    /// Decodes the payload.
    ///
    /// # Errors
    /// Returns [`DecodeError::Payload`] with the codec's error.
    #[inline]
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        self.codec.decode(self.payload).map_err(DecodeError::Payload)
    }
}

/// The reason why a stored event cannot be decoded.
///
/// `{:#}` displays the codec's error, too.
#[derive(Debug)]
#[non_exhaustive]
pub enum DecodeError {
    /// The Rust type holds no event of this stored name.
    UnknownType,
    /// The schema version is unknown.
    UnknownSchema {
        /// The schema version in the store.
        found: u32,
        /// The newest known schema version.
        known: u32,
    },
    /// The stored event is not exactly one event of the Rust type. [`Event::decode_all`] returns what it is.
    NotOne,
    /// The payload does not match its type and schema version.
    Payload(BoxError),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownType => f.write_str("unknown event type"),
            Self::UnknownSchema { found, known } => {
                write!(f, "schema version {found} is unknown, this release knows 1 to {known}")
            }
            Self::NotOne => f.write_str("the stored event is not exactly one event of this type"),
            Self::Payload(error) => fmt_chain(f, &"cannot decode the payload", Some(&**error as _)),
        }
    }
}

impl std::error::Error for DecodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::UnknownType | Self::UnknownSchema { .. } | Self::NotOne => None,
            Self::Payload(error) => Some(&**error as _),
        }
    }
}

impl DecodeError {
    /// Converts this into an [`Error`] that names the event's stream, version and type.
    pub fn at(self, stream: &StreamId, version: Version, event_type: &EventType) -> Error {
        let (stream, event_type) = (stream.clone(), event_type.clone());
        match self {
            Self::UnknownType => ErrorKind::UnknownEventType { stream, version, event_type }.into(),
            Self::UnknownSchema { found, known } => {
                ErrorKind::UnknownSchema { stream, version, event_type, found, known }.into()
            }
            Self::NotOne => ErrorKind::NotOneEvent { stream, version, event_type }.into(),
            Self::Payload(source) => Error::with_source(ErrorKind::Undecodable { stream, version, event_type }, source),
        }
    }
}

/// Data about an event besides its payload.
///
/// # Examples
/// ```
/// use retell::Metadata;
///
/// let metadata = Metadata::new().with_source("checkout").with_entry("tenant", "acme");
/// assert_eq!(metadata.extra["tenant"], "acme");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Metadata {
    /// The id that all events of one outside request share.
    pub correlation_id: Option<CorrelationId>,
    /// The event that directly caused this one.
    pub causation_id: Option<EventId>,
    /// The writer, such as a service's name.
    pub source: Option<Arc<str>>,
    /// Other entries of the application.
    pub extra: BTreeMap<String, String>,
}

/// The part of the metadata that is stored as JSON because it is rarely present. The two ids have their own columns.
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

    /// Returns the correlation id of the request that the event `id` with this metadata belongs to. An event without one begins a request, and
    /// its own id is the correlation id of the events that follow.
    pub fn chain(&self, id: EventId) -> CorrelationId {
        self.correlation_id.unwrap_or(id.into())
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

    /// Adds an entry of the application. The name `source` is reserved.
    pub fn with_entry(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.extra.insert(name.into(), value.into());
        self
    }

    /// Sets the entries `traceparent` and `tracestate`. A context that is set here wins over that of the current trace.
    pub fn with_trace_context(mut self, context: &TraceContext) -> Self {
        trace::write(&mut self.extra, context);
        self
    }

    /// Returns the context in the entries `traceparent` and `tracestate`. `None` if there is none, or if it is not valid.
    pub fn trace_context(&self) -> Option<TraceContext> {
        trace::read(&self.extra)
    }

    /// Returns the source and the extra entries as one JSON object, or `None` if there are none.
    ///
    /// # Errors
    /// Returns an error if an extra entry has the reserved name `source`.
    pub fn to_json(&self) -> Result<Option<String>, BoxError> {
        if self.source.is_none() && self.extra.is_empty() {
            return Ok(None);
        }
        if self.extra.contains_key("source") {
            return Err("the name `source` is reserved: set it by `with_source`, not as an extra entry".into());
        }
        let stored = StoredMetadata { source: self.source.clone(), extra: self.extra.clone() };
        Ok(Some(serde_json::to_string(&stored)?))
    }

    /// Restores the metadata from its three stored parts.
    ///
    /// # Errors
    /// Returns an error unless `json` is an object of strings.
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

/// The Rust type that an event in memory was encoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Declared {
    /// The path of the type.
    pub(crate) path: &'static str,
    /// The only aggregate that has such events, if the type names it.
    pub(crate) aggregate: Option<&'static str>,
    /// The other stored names that the type reads as such events.
    pub(crate) former_names: &'static [&'static str],
}

impl Declared {
    /// Returns what `schema` says. `None` if it names neither its type nor its aggregate.
    fn of(schema: &EventSchema) -> Option<Self> {
        let declared =
            Self { path: schema.declaration, aggregate: schema.aggregate, former_names: schema.former_names };
        (!declared.path.is_empty() || declared.aggregate.is_some()).then_some(declared)
    }
}

/// An encoded event, ready to append. Two are equal if they are stored in the same way.
///
/// # Examples
/// ```
/// use retell::{Event, Metadata, NewEvent};
///
/// #[derive(Event)]
/// #[event("shoe.sold")]
/// struct Sold {
///     cents: u64,
/// }
///
/// let sold = NewEvent::new(&Sold { cents: 500 })?.with_metadata(Metadata::new().with_source("web shop"));
/// assert_eq!(sold.event_type.as_str(), "shoe.sold");
/// assert_eq!(sold.payload, r#"{"cents":500}"#);
/// # Ok::<(), retell::Error>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct NewEvent {
    /// Its id, unique in the log.
    pub id: EventId,
    /// Its stored name.
    pub event_type: EventType,
    /// The schema version of the payload.
    pub schema_version: u32,
    /// The codec of the payload.
    pub codec: Codec,
    /// The encoded payload.
    pub payload: Bytes,
    /// Data about the event besides its payload.
    pub metadata: Metadata,
    /// The type that it was encoded from, if that is known. It is not stored.
    pub(crate) declared: Option<Declared>,
}

impl PartialEq for NewEvent {
    fn eq(&self, other: &Self) -> bool {
        let form = |event: &Self| (event.id, event.schema_version, event.codec);
        form(self) == form(other)
            && self.event_type == other.event_type
            && self.payload == other.payload
            && self.metadata == other.metadata
    }
}

impl Eq for NewEvent {}

/// Shows the size of the payload only, so that no payload gets into a log.
impl fmt::Debug for NewEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEvent")
            .field("id", &self.id)
            .field("event_type", &self.event_type)
            .field("schema_version", &self.schema_version)
            .field("codec", &self.codec)
            .field("payload", &format_args!("{} bytes", self.payload.len()))
            .field("metadata", &self.metadata)
            .finish_non_exhaustive()
    }
}

impl NewEvent {
    /// Encodes `event` under a new id, without metadata. Decodes it again, so that no event is written that cannot be read.
    ///
    /// A derived event is not decoded again if it is certain to decode to the same value: if each field is a `bool`, an integer of at most
    /// 64 bits, a `char`, a text, a UUID, an id of this crate, or a `Vec`, `Box`, `Option`, array, tuple or `#[derive(Value)]` of these, and
    /// no `#[serde(..)]` but a default or a new name is present.
    ///
    /// # Errors
    /// [`ErrorKind::Unencodable`] if a field cannot be encoded or the encoded event cannot be decoded, [`ErrorKind::Invalid`] if no store
    /// accepts the stored name.
    pub fn new<E: Event>(event: &E) -> Result<Self, Error> {
        let new = Self::encode(event)?;
        if !event.reads_back() {
            new.decode_again::<E>()?;
        }
        Ok(new)
    }

    /// As [`new`](Self::new), and also returns the event as every reader will decode it. It differs from `event` in what the encoding does
    /// not keep, such as a skipped field.
    pub(crate) fn with_stored_form<E: Event>(event: E) -> Result<(Self, E), Error> {
        let new = Self::encode(&event)?;
        let stored = if event.reads_back() { event } else { new.decode_again()? };
        Ok((new, stored))
    }

    /// Encodes `event` without a check that it can be decoded.
    pub(crate) fn encode<E: Event>(event: &E) -> Result<Self, Error> {
        let schema = event.schema();
        let mut payload = Vec::with_capacity(128);
        let encoded = catch(|| event.encode(&mut payload)).unwrap_or_else(|panicked| Err(panicked.into()));
        encoded.map_err(|source| unencodable(schema.name, "", source))?;
        let event_type = EventType::new(schema.name)?;
        let mut new = Self::stored(EventId::generate(), event_type, schema.version, schema.codec, payload.into());
        new.declared = Declared::of(&schema);
        Ok(new)
    }

    /// Returns the event as every reader will decode it.
    fn decode_again<E: Event>(&self) -> Result<E, Error> {
        let stored = StoredEvent::new(self.event_type.as_str(), self.schema_version, self.codec, &self.payload);
        decode_stored::<E>(stored).map_err(|error| {
            let source = match error {
                DecodeError::Payload(source) => source,
                other => other.into(),
            };
            unencodable(self.event_type.as_str(), ": it could not be decoded again", source)
        })
    }

    /// Returns the form of `event` that every reader will decode. It decodes whatever the type of `event`.
    #[cfg(feature = "testing")]
    pub(crate) fn round_trip<E: Event>(event: &E) -> Result<E, Error> {
        Self::encode(event)?.decode_again()
    }

    /// Creates an event whose payload is already encoded. For drivers that read an event back, and for copies from another log.
    pub fn stored(id: EventId, event_type: EventType, schema_version: u32, codec: Codec, payload: Bytes) -> Self {
        Self { id, event_type, schema_version, codec, payload, metadata: Metadata::default(), declared: None }
    }

    /// Sets the metadata.
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }
}

fn unencodable(event_type: &str, what: &str, source: BoxError) -> Error {
    Error::with_source(ErrorKind::Unencodable(format!("event {event_type}{what}")), source)
}

/// An event as the log records it, still encoded.
///
/// # Examples
/// ```
/// use retell::{RecordedEvent, prelude::*};
///
/// #[derive(Event, Debug, PartialEq)]
/// #[event("shoe.sold")]
/// struct Sold {
///     cents: u64,
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// log.append_events(("shoe", "1"), ExpectedVersion::NoStream, [Sold { cents: 500 }]).await?;
/// let recorded: Vec<RecordedEvent> = log.read_stream(&StreamId::parse("shoe", "1")?, Version::ZERO, 100).await?;
/// assert_eq!(recorded[0].event.event_type.as_str(), "shoe.sold");
/// assert_eq!(recorded[0].decode::<Sold>()?.event, Sold { cents: 500 });
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedEvent {
    /// Its position in the log.
    pub position: Position,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Its version in that stream.
    pub version: Version,
    /// The time at which the store recorded it, to the microsecond.
    pub recorded_at: DateTime<Utc>,
    /// The event as it was appended.
    pub event: NewEvent,
}

impl RecordedEvent {
    /// Creates a recorded event from its parts. For drivers.
    pub fn new(
        position: Position,
        stream: StreamId,
        version: Version,
        recorded_at: DateTime<Utc>,
        event: NewEvent,
    ) -> Self {
        Self { position, stream, version, recorded_at, event }
    }

    /// Returns the place of the event in the log.
    pub fn mark(&self) -> Mark {
        Mark::new(self.position, self.event.id)
    }

    /// Returns the size of the encoded payload in bytes.
    pub fn payload_bytes(&self) -> usize {
        self.event.payload.len()
    }

    /// Returns the parts of the event that [`Event::decode`] needs.
    pub fn stored(&self) -> StoredEvent<'_> {
        StoredEvent {
            event_type: self.event.event_type.as_str(),
            schema_version: self.event.schema_version,
            codec: self.event.codec,
            payload: &self.event.payload,
        }
    }
}

/// Decodes a stored event. A panic of its upcaster or of a field's own `Deserialize` is an error of this event.
#[inline]
pub(crate) fn decode_stored<E: Event>(stored: StoredEvent<'_>) -> Result<E, DecodeError> {
    catch(|| E::decode(stored)).unwrap_or_else(|panicked| Err(DecodeError::Payload(panicked.into())))
}

/// Decodes a stored event that is not exactly one event. A panic is an error, as in [`decode_stored`].
#[cold]
pub(crate) fn decode_not_one<E: Event>(stored: StoredEvent<'_>) -> Result<Vec<E>, DecodeError> {
    catch(|| E::decode_all(stored)).unwrap_or_else(|panicked| Err(DecodeError::Payload(panicked.into())))
}

/// A decoded event with its place in the log and its metadata, as projections and reactions receive it.
///
/// # Examples
/// ```
/// use retell::{Context, Envelope};
///
/// /// Returns the context of a command that a reaction sends because of `placed`, under the tenant of the event.
/// fn follow_up<E>(placed: &Envelope<E>) -> Context {
///     let context = Context::caused_by(placed);
///     match placed.metadata.extra.get("tenant") {
///         Some(tenant) => context.with_entry("tenant", tenant),
///         None => context,
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Envelope<E> {
    /// Its position in the log.
    pub position: Position,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Its version in that stream.
    pub version: Version,
    /// The time at which the store recorded it.
    pub recorded_at: DateTime<Utc>,
    /// Its id. All events that a stored event has become share it: see [`part_id`](Self::part_id).
    pub id: EventId,
    /// Its place among the events that the stored event has become, beginning with 0. An event that is not split is the only one.
    pub part: u32,
    /// Data about the event besides its payload.
    pub metadata: Metadata,
    /// The domain event.
    pub event: E,
}

impl<E> Envelope<E> {
    /// Returns an id that no other event has, even if a stored event is split into several: for the first of them its [`id`](Self::id), and
    /// for each other one an id that is derived from it, always the same. An effect outside takes it as its idempotency key.
    pub fn part_id(&self) -> EventId {
        part_id(self.id, self.part)
    }
}

/// Returns the id of a part of a stored event, as [`Envelope::part_id`].
pub(crate) fn part_id(id: EventId, part: u32) -> EventId {
    match part {
        0 => id,
        part => EventId::from(Uuid::new_v5(id.as_uuid(), format!("part {part}").as_bytes())),
    }
}

/// An undecoded event of any type, for projections that read the whole log, such as an audit trail.
///
/// # Examples
/// ```
/// use retell::prelude::*;
///
/// /// Lists, for each stream, the events that it has had.
/// struct AuditTrail;
///
/// impl View for AuditTrail {
///     const NAME: &'static str = "audit_trail";
///     type Event = AnyEvent;
///     type State = Vec<String>;
///
///     fn key(&self, event: &Envelope<AnyEvent>) -> Option<String> {
///         Some(event.stream.to_string())
///     }
///
///     fn apply(&self, trail: &mut Vec<String>, event: Envelope<AnyEvent>) {
///         trail.push(format!("{} {}", event.recorded_at, event.event.event_type));
///     }
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnyEvent {
    /// Its stored name.
    pub event_type: EventType,
    /// The schema version of the payload.
    pub schema_version: u32,
    /// The codec of the payload.
    pub codec: Codec,
    /// The encoded payload.
    pub payload: Bytes,
}

/// Shows the size of the payload only, so that no payload gets into a log.
impl fmt::Debug for AnyEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyEvent")
            .field("event_type", &self.event_type)
            .field("schema_version", &self.schema_version)
            .field("codec", &self.codec)
            .field("payload", &format_args!("{} bytes", self.payload.len()))
            .finish()
    }
}

impl Event for AnyEvent {
    const TYPES: EventTypes = EventTypes::All;

    /// Returns a placeholder. The stored name of an event that was read is in [`event_type`](Self::event_type).
    fn schema(&self) -> EventSchema {
        EventSchema::new("retell.any", self.schema_version, self.codec)
    }

    fn encode(&self, _: &mut Vec<u8>) -> Result<(), BoxError> {
        Err("`AnyEvent` can be read, but not appended".into())
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
