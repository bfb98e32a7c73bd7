//! The lines of an export.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::codec::Codec;
use crate::error::{ErrorKind, Result};
use crate::id::{EventType, IdempotencyKey, Position, ProjectionName, StreamId, Version};
use crate::operate::archive::counted::ArchivedRows;
use crate::operate::archive::event::EventLine;
use crate::operate::archive::value::{bad, digest, hex, time, time_to_text, unknown_codec};
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

/// The text between the header and its digest.
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
    Claim(ClaimLine<'a>),
    #[serde(borrow)]
    Shape(ShapeLine<'a>),
    #[serde(borrow)]
    Processor(ProcessorLine<'a>),
    #[serde(borrow)]
    Event(EventLine<'a>),
    #[serde(borrow)]
    Key(KeyLine<'a>),
    Seal(SealLine),
    End(End),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClaimLine<'a> {
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
pub(super) struct ShapeLine<'a> {
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
pub(super) struct ProcessorLine<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    declared: String,
    first_seen: String,
    #[serde(borrow)]
    program: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyLine<'a> {
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
    /// The digest of the lines between the first and the last one.
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
        Self::Claim(ClaimLine {
            scope: claim.scope.as_str().into(),
            value: claim.value.as_str().into(),
            aggregate_type: claim.holder.aggregate_type().as_str().into(),
            aggregate_id: claim.holder.aggregate_id().as_str().into(),
        })
    }

    pub(super) fn of_shape(shape: &'a RegisteredShape) -> Result<Self> {
        Ok(Self::Shape(ShapeLine {
            event_type: shape.event_type.as_str().into(),
            version: shape.version,
            codec: shape.codec.number(),
            shape: shape.shape.as_str().into(),
            first_seen: time_to_text(shape.first_seen)?,
            program: shape.program.as_str().into(),
        }))
    }

    pub(super) fn of_processor(name: &'a ProjectionName, processor: &'a RegisteredProcessor) -> Result<Self> {
        Ok(Self::Processor(ProcessorLine {
            name: name.as_str().into(),
            declared: processor.stored(),
            first_seen: time_to_text(processor.first_seen)?,
            program: processor.program.as_str().into(),
        }))
    }

    pub(super) fn of_event(position: u64, ordinal: i32, row: &'a StoredRow) -> Result<Self> {
        EventLine::of(position, ordinal, row).map(Self::Event).map_err(|problem| {
            ErrorKind::Corrupt(format!("position {position}: {problem}, so the log is not exported; run `verify`"))
                .into()
        })
    }

    pub(super) fn of_key(key: &ArchivedKey) -> Line<'_> {
        let streams = key.streams.iter().map(|(stream, before, after)| {
            let (kind, id) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
            (kind.to_owned(), id.to_owned(), before.get(), after.get())
        });
        Line::Key(KeyLine {
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

impl ClaimLine<'_> {
    pub(super) fn parse(&self) -> Result<ArchivedClaim> {
        ArchivedClaim::parse(&self.scope, &self.value, &self.aggregate_type, &self.aggregate_id)
    }
}

impl ShapeLine<'_> {
    pub(super) fn parse(&self) -> Result<RegisteredShape> {
        let codec = Codec::from_number(self.codec).ok_or_else(|| unknown_codec(self.codec))?;
        let (event_type, first_seen) = (EventType::new(&self.event_type)?, time(&self.first_seen)?);
        Ok(RegisteredShape::new(event_type, self.version, codec, &*self.shape, first_seen, &*self.program))
    }
}

impl ProcessorLine<'_> {
    pub(super) fn parse(&self) -> Result<(ProjectionName, RegisteredProcessor)> {
        let processor = RegisteredProcessor::parse(&self.declared, time(&self.first_seen)?, &*self.program)?;
        Ok((ProjectionName::new(&self.name)?, processor))
    }
}

impl KeyLine<'_> {
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
