//! A row of the log before it is decoded.

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
