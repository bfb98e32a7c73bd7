//! A row of the log before it is decoded.

use crate::error::{ErrorKind, Result};
use crate::event::RecordedEvent;

/// The columns of an event as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// The event id: 16 bytes, unless the row is damaged.
    pub event_id: Vec<u8>,
    /// The aggregate type.
    pub aggregate_type: Vec<u8>,
    /// The aggregate id.
    pub aggregate_id: Vec<u8>,
    /// The version in the stream.
    pub version: i64,
    /// The event type.
    pub event_type: Vec<u8>,
    /// The schema version.
    pub schema_version: i64,
    /// The number of the codec.
    pub codec: i64,
    /// The time in microseconds since 1970.
    pub recorded_at: i64,
    /// The correlation id: 16 bytes.
    pub correlation_id: Option<Vec<u8>>,
    /// The causation id: 16 bytes.
    pub causation_id: Option<Vec<u8>>,
    /// The metadata as JSON text.
    pub metadata: Option<Vec<u8>>,
    /// The payload.
    pub payload: Vec<u8>,
}

impl StoredRow {
    /// Returns the columns that a store of ours has for the event.
    pub(crate) fn of(event: &RecordedEvent) -> Result<Self> {
        let stored = &event.event;
        let metadata = stored
            .metadata
            .to_json()
            .map_err(|error| ErrorKind::Corrupt(format!("position {}: {error}", event.position)))?;
        let id = |id: &uuid::Uuid| id.as_bytes().to_vec();
        Ok(Self {
            event_id: id(stored.id.as_uuid()),
            aggregate_type: event.stream.aggregate_type().as_str().into(),
            aggregate_id: event.stream.aggregate_id().as_str().into(),
            version: event.version.get().cast_signed(),
            event_type: stored.event_type.as_str().into(),
            schema_version: stored.schema_version.into(),
            codec: stored.codec.number().into(),
            recorded_at: event.recorded_at.timestamp_micros(),
            correlation_id: stored.metadata.correlation_id.map(|each| id(each.as_uuid())),
            causation_id: stored.metadata.causation_id.map(|each| id(each.as_uuid())),
            metadata: metadata.map(String::into_bytes),
            payload: stored.payload.to_vec(),
        })
    }

    /// Returns the size that batches of rows are limited by.
    pub(crate) fn bytes(&self) -> usize {
        self.payload.len() + self.metadata.as_ref().map_or(0, Vec::len)
    }
}
