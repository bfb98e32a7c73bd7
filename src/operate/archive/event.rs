//! The line of an event.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::codec::Codec;
use crate::error::Result;
use crate::id::{EventType, StreamId};
use crate::operate::archive::value::{bad, time, time_to_text, unknown_codec};
use crate::store::log::stored_row::StoredRow;

/// An event with its place.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventLine<'a> {
    pub(super) position: u64,
    /// The number in the commit, from 1.
    pub(super) ordinal: i32,
    id: Uuid,
    #[serde(borrow)]
    aggregate_type: Cow<'a, str>,
    #[serde(borrow)]
    aggregate_id: Cow<'a, str>,
    version: u64,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    schema_version: u32,
    /// 0 is JSON, 1 is compact.
    codec: u8,
    #[serde(borrow)]
    recorded_at: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correlation_id: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    causation_id: Option<Uuid>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    metadata_text: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    payload_text: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl<'a> EventLine<'a> {
    pub(super) fn of(position: u64, ordinal: i32, row: &'a StoredRow) -> Result<Self, String> {
        let text = |bytes: &'a [u8], what: &str| std::str::from_utf8(bytes).map_err(|error| format!("{what}: {error}"));
        let id = |id: &[u8]| Uuid::from_slice(id).map_err(|error| format!("an id: {error}"));
        let recorded_at = DateTime::from_timestamp_micros(row.recorded_at).ok_or("its time is out of range")?;
        let metadata = row.metadata.as_deref().map(|metadata| text(metadata, "metadata")).transpose()?;
        let (metadata, metadata_text) = metadata.map_or((None, None), as_json);
        let (payload, payload_text, payload_base64) = match std::str::from_utf8(&row.payload) {
            Ok(text) => {
                let (json, text) = if row.codec == i64::from(Codec::Json.number()) {
                    as_json(text)
                } else {
                    (None, Some(text.into()))
                };
                (json, text, None)
            }
            Err(_) => (None, None, Some(STANDARD.encode(&row.payload))),
        };
        let number = |number: i64, what: &str| u64::try_from(number).map_err(|_| format!("{what} {number}"));
        let codec = u8::try_from(row.codec).ok().filter(|codec| Codec::from_number(*codec).is_some());
        Ok(Self {
            position,
            ordinal,
            id: id(&row.event_id)?,
            aggregate_type: text(&row.aggregate_type, "aggregate type")?.into(),
            aggregate_id: text(&row.aggregate_id, "aggregate id")?.into(),
            version: number(row.version, "version")?,
            event_type: text(&row.event_type, "event type")?.into(),
            schema_version: u32::try_from(row.schema_version).map_err(|error| format!("schema version: {error}"))?,
            codec: codec.ok_or_else(|| format!("unknown codec {}", row.codec))?,
            recorded_at: time_to_text(recorded_at).map_err(|error| error.to_string())?.into(),
            correlation_id: row.correlation_id.as_deref().map(id).transpose()?,
            causation_id: row.causation_id.as_deref().map(id).transpose()?,
            metadata,
            metadata_text,
            payload,
            payload_text,
            payload_base64,
        })
    }

    pub(super) fn parse(self) -> Result<StoredRow> {
        let stream = StreamId::parse(&self.aggregate_type, &self.aggregate_id)?;
        let event_type = EventType::new(&self.event_type)?;
        if Codec::from_number(self.codec).is_none() {
            return Err(unknown_codec(self.codec));
        }
        let json = |json: &RawValue| json.get().as_bytes().to_vec();
        let text = |text: Cow<'_, str>| text.into_owned().into_bytes();
        let payload = match (self.payload, self.payload_text, self.payload_base64) {
            (Some(payload), None, None) => json(payload),
            (None, Some(payload), None) => text(payload),
            (None, None, Some(payload)) => {
                STANDARD.decode(payload).map_err(|error| bad(&format!("position {}: {error}", self.position)))?
            }
            _ => return Err(bad(&format!("position {} has not exactly one payload", self.position))),
        };
        let id = |id: Uuid| id.as_bytes().to_vec();
        Ok(StoredRow {
            event_id: id(self.id),
            aggregate_type: stream.aggregate_type().as_str().into(),
            aggregate_id: stream.aggregate_id().as_str().into(),
            version: i64::try_from(self.version).map_err(|error| bad(&error.to_string()))?,
            event_type: event_type.as_str().into(),
            schema_version: self.schema_version.into(),
            codec: self.codec.into(),
            recorded_at: time(&self.recorded_at)?.timestamp_micros(),
            correlation_id: self.correlation_id.map(id),
            causation_id: self.causation_id.map(id),
            metadata: self.metadata.map(json).or(self.metadata_text.map(text)),
            payload,
        })
    }
}

/// Returns a text as JSON if a line keeps its bytes, and else as text: white space around JSON is lost, a line feed ends the line, and a reader
/// takes `null` for nothing.
fn as_json(text: &str) -> (Option<&RawValue>, Option<Cow<'_, str>>) {
    let json: Option<&RawValue> = serde_json::from_str(text).ok();
    let keeps = |json: &&RawValue| json.get() == text && text != "null" && !text.contains(['\n', '\r']);
    match json.filter(keeps) {
        Some(json) => (Some(json), None),
        None => (None, Some(text.into())),
    }
}
