//! The parts of a frame's body, as they are written and read.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Format number of a frame with uncompressed events.
pub(super) const PLAIN: u8 = 1;

/// Format number of a frame with compressed events.
pub(super) const COMPRESSED: u8 = 2;

#[derive(Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) format: u8,
    pub(super) first: u64,
    pub(super) count: u64,
    /// The id of the event before the first one.
    pub(super) after: Option<Uuid>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireEvent<'a> {
    pub(super) id: Uuid,
    pub(super) aggregate_type: &'a str,
    pub(super) aggregate_id: &'a str,
    pub(super) version: u64,
    pub(super) event_type: &'a str,
    pub(super) schema_version: u32,
    pub(super) codec: u8,
    pub(super) recorded_at_micros: i64,
    pub(super) correlation_id: Option<Uuid>,
    pub(super) causation_id: Option<Uuid>,
    pub(super) metadata: Option<String>,
    #[serde(with = "serde_bytes", borrow)]
    pub(super) payload: &'a [u8],
}
