//! The rows of a stream.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::codec::Codec;
use crate::error::Result;
use crate::event::{NewEvent, RecordedEvent};
use crate::id::{CorrelationId, EventId, EventType, Position, StreamId, Version};
use crate::shape::types::Type;
use crate::store::log::query::PAGE_BYTES;
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::log::shapes::RegisteredShape;

/// The most rows that one call of [`stream`] returns. Payloads of more than 16 MiB together end the list earlier.
pub const MAX_ROWS: usize = 1_000;

/// The number of events that are read at a time.
const CHUNK: usize = 50;

/// The first rows of a stream after a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rows {
    /// The stream.
    pub stream: StreamId,
    /// The events, in version order.
    pub rows: Vec<Row>,
    /// Whether the list ended at a limit: ask again after the version of the last row.
    pub truncated: bool,
}

/// An event of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Row {
    /// Its version in the stream.
    pub version: Version,
    /// Its position in the log.
    pub position: Position,
    /// Its id.
    pub event_id: EventId,
    /// Its stored name.
    pub event_type: EventType,
    /// The version of its schema.
    pub schema_version: u32,
    /// The codec of its payload: `json` or `compact`.
    pub codec: String,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
    /// The id that all events of one outside request share.
    pub correlation_id: Option<CorrelationId>,
    /// The event that directly caused this one.
    pub causation_id: Option<EventId>,
    /// The writer and the other entries of the metadata.
    pub metadata: Value,
    /// The payload as JSON; `None` if it cannot be read.
    pub payload: Option<Value>,
    /// Why the payload cannot be read.
    pub problem: Option<String>,
    /// The size of the stored payload.
    pub payload_bytes: u64,
}

/// Returns at most `limit` rows of `stream` after the version `after`, up to [`MAX_ROWS`], with payloads as JSON.
///
/// A compact payload is read by the shapes that programs have [registered](EventReader::registered_shapes) with the log. A payload that cannot
/// be read is `None`, with the [`problem`](Row::problem).
///
/// # Examples
/// ```
/// use retell::operate;
/// use retell::prelude::*;
/// use retell::registry::Registry;
///
/// #[derive(Debug, Event)]
/// enum ShelfEvent {
///     #[event("shelf.filled", codec = "compact")]
///     Filled { books: u32 },
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// Registry::new().with::<ShelfEvent>()?.register(&log).await?;
/// log.append_events(("shelf", "1"), ExpectedVersion::NoStream, [ShelfEvent::Filled { books: 12 }]).await?;
///
/// let found = operate::stream(&log, &StreamId::parse("shelf", "1")?, Version::ZERO, 100).await?;
/// assert_eq!(found.rows[0].payload.as_ref().expect("its shape is registered")["books"], 12);
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// A [read error](crate::Error#read-errors). A stream without events has no rows.
pub async fn stream<L>(log: &L, stream: &StreamId, after: Version, limit: usize) -> Result<Rows>
where
    L: EventReader + ?Sized,
{
    let shapes = log.registered_shapes().await?;
    let limit = limit.min(MAX_ROWS);
    let (mut rows, mut bytes, mut last) = (Vec::new(), 0, after);
    loop {
        let wanted = CHUNK.min(limit - rows.len());
        // One event more tells whether the list is complete.
        let mut events = log.read_stream(stream, last, wanted + 1).await?;
        let more = events.len() > wanted;
        events.truncate(wanted);
        for event in events {
            bytes += event.payload_bytes();
            last = event.version;
            rows.push(Row::of(event, &shapes));
            if bytes >= PAGE_BYTES {
                let truncated = more || !log.read_stream(stream, last, 1).await?.is_empty();
                return Ok(Rows { stream: stream.clone(), rows, truncated });
            }
        }
        if !more || rows.len() >= limit {
            return Ok(Rows { stream: stream.clone(), rows, truncated: more });
        }
    }
}

impl Row {
    /// Creates the row of an event. `shapes` are those that programs have [registered](EventReader::registered_shapes) with its log.
    pub fn of(event: RecordedEvent, shapes: &[RegisteredShape]) -> Self {
        let RecordedEvent { position, version, recorded_at, event, .. } = event;
        let (payload, problem) = match read(&event, shapes) {
            Ok(payload) => (Some(payload), None),
            Err(problem) => (None, Some(problem)),
        };
        let metadata = &event.metadata;
        Self {
            version,
            position,
            event_id: event.id,
            schema_version: event.schema_version,
            codec: event.codec.name().to_owned(),
            recorded_at,
            correlation_id: metadata.correlation_id,
            causation_id: metadata.causation_id,
            metadata: serde_json::json!({ "source": metadata.source, "extra": metadata.extra }),
            payload,
            problem,
            payload_bytes: event.payload.len() as u64,
            event_type: event.event_type,
        }
    }
}

/// Reads a payload by the first registered shape that fits.
fn read(event: &NewEvent, shapes: &[RegisteredShape]) -> Result<Value, String> {
    if event.codec == Codec::Json {
        if std::str::from_utf8(&event.payload).is_err() {
            return Err("the payload is not UTF-8".to_owned());
        }
        // No error of the decoder: it could quote the payload.
        return serde_json::from_slice(&event.payload).map_err(|_| "the payload is not JSON".to_owned());
    }
    let is_own = |shape: &&RegisteredShape| {
        (&shape.event_type, shape.version, shape.codec) == (&event.event_type, event.schema_version, event.codec)
    };
    let mut problem = "no program has registered its shape".to_owned();
    for shape in shapes.iter().filter(is_own) {
        let read = shape.shape.parse::<Type>().map_err(|error| error.to_string());
        match read.and_then(|shape| shape.decode(event.codec, &event.payload).map_err(|error| error.to_string())) {
            Ok(payload) => return Ok(payload),
            Err(error) => problem = error,
        }
    }
    Err(problem)
}
