//! The lines of an export.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{EventType, IdempotencyKey, Position, ProjectionName, StreamId, Version};
use crate::operate::archive::ArchivedRows;
use crate::store::log::archive::{ArchivedClaim, ArchivedKey};
use crate::store::log::fingerprint::Fingerprint;
use crate::store::log::seal::{Seal, SealDigest};
use crate::store::log::shapes::RegisteredShape;
use crate::store::log::stored_row::StoredRow;
use crate::store::model::processors::RegisteredProcessor;

/// The number of the form that this release writes and reads.
pub(super) const FORMAT: u32 = 1;

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) retell_export: u32,
    pub(super) head: u64,
    pub(super) made_at: String,
    pub(super) made_by: String,
}

/// What follows the rest of the header: its digest.
const SEAL: &str = ",\"sha256\":\"";

/// Returns the header with its own digest, because the last line must not depend on its time.
pub(super) fn sealed_header(header: &Header) -> String {
    // Numbers and text always encode as JSON.
    let text = serde_json::to_string(header).unwrap_or_default();
    let digest = hex(Sha256::digest(text.as_bytes()));
    format!("{}{SEAL}{digest}\"}}", text.trim_end_matches('}'))
}

/// Parses the first line.
pub(super) fn parse_header(line: &[u8]) -> Result<Header> {
    #[derive(Deserialize)]
    struct Format {
        retell_export: u32,
    }
    let none = || bad("it does not begin with the header of an export");
    let text = std::str::from_utf8(line).map_err(|_| none())?;
    let Format { retell_export: found } = serde_json::from_str(text).map_err(|_| none())?;
    if found > FORMAT {
        return Err(bad(&format!("it has format {found}, and this release reads up to {FORMAT}; upgrade retell")));
    }
    let changed = || bad("its header is changed");
    let (rest, _) = text.rsplit_once(SEAL).ok_or_else(changed)?;
    let header: Header = serde_json::from_str(&format!("{rest}}}")).map_err(|_| changed())?;
    if sealed_header(&header) == text { Ok(header) } else { Err(changed()) }
}

/// A line after the first one.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line<'a> {
    #[serde(borrow)]
    Claim(Claim<'a>),
    #[serde(borrow)]
    Shape(Shape<'a>),
    #[serde(borrow)]
    Processor(Processor<'a>),
    #[serde(borrow)]
    Event(Event<'a>),
    #[serde(borrow)]
    Key(Key<'a>),
    Seal(SealLine),
    End(End),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Claim<'a> {
    #[serde(borrow)]
    scope: Cow<'a, str>,
    #[serde(borrow)]
    value: Cow<'a, str>,
    #[serde(borrow)]
    aggregate_type: Cow<'a, str>,
    #[serde(borrow)]
    aggregate_id: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shape<'a> {
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    version: u32,
    codec: u8,
    #[serde(borrow)]
    shape: Cow<'a, str>,
    first_seen: String,
    #[serde(borrow)]
    program: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Processor<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    declared: String,
    first_seen: String,
    #[serde(borrow)]
    program: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Event<'a> {
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    fingerprint: String,
    /// The first position of the commit.
    commit: u64,
    /// The position of the append's last event.
    last: u64,
    /// Aggregate type, aggregate id, version before and after the append.
    streams: Vec<(String, String, u64, u64)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SealLine {
    first: u64,
    last: u64,
    previous: String,
    digest: String,
    sealed_at: String,
}

/// The last line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    pub(super) rows: ArchivedRows,
    /// Of the lines between the first and the last one.
    pub(super) sha256: String,
}

impl<'a> Line<'a> {
    pub(super) fn count(&self, rows: &mut ArchivedRows) {
        match self {
            Self::Claim(_) => rows.claims += 1,
            Self::Shape(_) => rows.shapes += 1,
            Self::Processor(_) => rows.processors += 1,
            Self::Event(_) => rows.events += 1,
            Self::Key(_) => rows.keys += 1,
            Self::Seal(_) => rows.seals += 1,
            Self::End(_) => {}
        }
    }

    pub(super) fn of_claim(claim: &'a ArchivedClaim) -> Self {
        Self::Claim(Claim {
            scope: claim.scope.as_str().into(),
            value: claim.value.as_str().into(),
            aggregate_type: claim.holder.aggregate_type().as_str().into(),
            aggregate_id: claim.holder.aggregate_id().as_str().into(),
        })
    }

    pub(super) fn of_shape(shape: &'a RegisteredShape) -> Result<Self> {
        Ok(Self::Shape(Shape {
            event_type: shape.event_type.as_str().into(),
            version: shape.version,
            codec: shape.codec.number(),
            shape: shape.shape.as_str().into(),
            first_seen: time_to_text(shape.first_seen)?,
            program: shape.program.as_str().into(),
        }))
    }

    pub(super) fn of_processor(name: &'a ProjectionName, processor: &'a RegisteredProcessor) -> Result<Self> {
        Ok(Self::Processor(Processor {
            name: name.as_str().into(),
            declared: processor.stored(),
            first_seen: time_to_text(processor.first_seen)?,
            program: processor.program.as_str().into(),
        }))
    }

    pub(super) fn of_event(position: u64, ordinal: i32, row: &'a StoredRow) -> Result<Self> {
        Event::of(position, ordinal, row).map(Self::Event).map_err(|problem| {
            ErrorKind::Corrupt(format!("position {position}: {problem}, so the log is not exported; run `verify`"))
                .into()
        })
    }

    pub(super) fn of_key(key: &ArchivedKey) -> Line<'_> {
        let streams = key.streams.iter().map(|(stream, before, after)| {
            let (kind, id) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
            (kind.to_owned(), id.to_owned(), before.get(), after.get())
        });
        Line::Key(Key {
            key: key.key.as_str().into(),
            fingerprint: hex(*key.fingerprint.as_bytes()),
            commit: key.commit.unsigned_abs(),
            last: key.last.unsigned_abs(),
            streams: streams.collect(),
        })
    }

    pub(super) fn of_seal(seal: &Seal) -> Result<Self> {
        Ok(Self::Seal(SealLine {
            first: seal.first.get(),
            last: seal.last.get(),
            previous: seal.previous.to_string(),
            digest: seal.digest.to_string(),
            sealed_at: time_to_text(seal.sealed_at)?,
        }))
    }
}

impl Claim<'_> {
    pub(super) fn parse(&self) -> Result<ArchivedClaim> {
        ArchivedClaim::parse(&self.scope, &self.value, &self.aggregate_type, &self.aggregate_id)
    }
}

impl Shape<'_> {
    pub(super) fn parse(&self) -> Result<RegisteredShape> {
        let codec = Codec::from_number(self.codec).ok_or_else(|| unknown_codec(self.codec))?;
        let (event_type, first_seen) = (EventType::new(&self.event_type)?, time(&self.first_seen)?);
        Ok(RegisteredShape::new(event_type, self.version, codec, &*self.shape, first_seen, &*self.program))
    }
}

impl Processor<'_> {
    pub(super) fn parse(&self) -> Result<(ProjectionName, RegisteredProcessor)> {
        let processor = RegisteredProcessor::parse(&self.declared, time(&self.first_seen)?, &*self.program)?;
        Ok((ProjectionName::new(&self.name)?, processor))
    }
}

impl<'a> Event<'a> {
    fn of(position: u64, ordinal: i32, row: &'a StoredRow) -> Result<Self, String> {
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

impl Key<'_> {
    pub(super) fn parse(self) -> Result<ArchivedKey> {
        let signed = |number: u64| i64::try_from(number).map_err(|error| bad(&error.to_string()));
        let streams = self.streams.iter().map(|(kind, id, before, after)| {
            Ok((StreamId::parse(kind, id)?, Version::new(*before), Version::new(*after)))
        });
        Ok(ArchivedKey {
            key: IdempotencyKey::new(&self.key)?,
            fingerprint: Fingerprint::from_bytes(digest(&self.fingerprint)?),
            commit: signed(self.commit)?,
            last: signed(self.last)?,
            streams: streams.collect::<Result<_>>()?,
        })
    }
}

impl SealLine {
    pub(super) fn parse(&self) -> Result<Seal> {
        let of = |text| digest(text).map(SealDigest::from_bytes);
        let (first, last) = (Position::new(self.first), Position::new(self.last));
        Ok(Seal::new(first, last, of(&self.previous)?, of(&self.digest)?, time(&self.sealed_at)?))
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

fn time_to_text(time: DateTime<Utc>) -> Result<String> {
    let text = time.to_rfc3339_opts(SecondsFormat::Micros, true);
    if (0..=9_999).contains(&time.year()) && time.timestamp_subsec_nanos().is_multiple_of(1_000) {
        return Ok(text);
    }
    Err(ErrorKind::Invalid(format!("the time {text} is not in the range of an export, or finer than a microsecond"))
        .into())
}

/// Parses a time. Refuses one that is more precise than a store keeps.
fn time(text: &str) -> Result<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text).map_err(|error| bad(&format!("time {text:?}: {error}")))?.to_utc();
    if time_to_text(time).is_ok_and(|exact| exact == text) {
        return Ok(time);
    }
    Err(bad(&format!("time {text:?}: a store keeps UTC to the microsecond, and this is another form")))
}

/// Returns a digest as hexadecimal digits.
pub(super) fn hex(digest: impl Into<[u8; 32]>) -> String {
    SealDigest::from_bytes(digest.into()).to_string()
}

fn digest(text: &str) -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    for (place, byte) in bytes.iter_mut().enumerate() {
        let digits = text.get(place * 2..place * 2 + 2);
        let parsed = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        *byte = parsed.ok_or_else(|| bad(&format!("{text:?} is no digest")))?;
    }
    if hex(bytes) == text { Ok(bytes) } else { Err(bad(&format!("{text:?} is no digest"))) }
}

fn unknown_codec(codec: u8) -> Error {
    bad(&format!("codec {codec} is not known to this release; upgrade retell"))
}

/// The error of an export that cannot be imported.
pub(super) fn bad(problem: &str) -> Error {
    ErrorKind::BadExport(problem.to_owned()).into()
}
