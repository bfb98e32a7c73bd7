//! The events that payloads are read as, and their changes.

use std::fmt;

use crate::codec::Codec;
use crate::event::{DecodeError, Event, NewEvent, StoredEvent, decode_not_one, decode_stored};
use crate::testing::golden::json::differences;
use crate::testing::golden::kind::Kind;

/// An event in its newest form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) kind: Kind,
    pub(super) content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Json(String),
    /// A payload whose shape does not tell its fields.
    Bytes(Vec<u8>),
}

impl Reading {
    /// Reads the fields of an event and its payload.
    pub(super) fn of<E: Event>(event: &E, encoded: &NewEvent) -> Self {
        let payload = &encoded.payload;
        let json = match encoded.codec {
            Codec::Json => String::from_utf8(payload.to_vec()).ok(),
            Codec::Compact => {
                let shape = event.schema().shape();
                shape.and_then(|shape| shape.decode(Codec::Compact, payload).ok()).map(|value| value.to_string())
            }
        };
        let content = json.map_or_else(|| Content::Bytes(payload.to_vec()), Content::Json);
        Self { kind: Kind::of(encoded), content }
    }

    /// Returns the JSON of one of several events that a payload is read as.
    fn into_part(self) -> String {
        let content = match self.content {
            Content::Json(text) => text,
            Content::Bytes(bytes) => format!("{bytes:?}"),
        };
        format!("{{\"{}\":{content}}}", self.kind)
    }
}

/// Decodes a payload as a reader of the log does, and returns the event in its newest form.
pub(super) fn read<E: Event>(kind: &Kind, payload: &[u8]) -> Result<Reading, String> {
    let stored = StoredEvent::new(&kind.name, kind.version, kind.codec, payload);
    match decode_stored::<E>(stored) {
        Ok(event) => newest(&event),
        Err(DecodeError::NotOne) => {
            let events = decode_not_one::<E>(stored).map_err(|error| format!("{error:#}"))?;
            let parts: Vec<String> =
                events.iter().map(|event| newest(event).map(Reading::into_part)).collect::<Result<_, _>>()?;
            Ok(Reading { kind: kind.clone(), content: Content::Json(format!("[{}]", parts.join(","))) })
        }
        Err(error) => Err(format!("{error:#}")),
    }
}

fn newest<E: Event>(event: &E) -> Result<Reading, String> {
    let encoded = NewEvent::encode(event).map_err(|error| format!("{error:#}"))?;
    Ok(Reading::of(event, &encoded))
}

/// A change of the event that a payload is read as.
pub(super) enum Change {
    None,
    /// It needs a review only: a newer version, or new fields.
    Fits(String),
    /// Stored events mean something else. The text lists the places.
    Breaks(String),
}

impl Change {
    pub(super) fn between(before: Option<&Reading>, now: &Reading) -> Self {
        let Some(before) = before else { return Self::Fits(format!("is read as {}", now.kind)) };
        if before.kind != now.kind {
            return Self::Fits(format!("is read as {}, and no longer as {}", now.kind, before.kind));
        }
        let found = match (&before.content, &now.content) {
            (Content::Json(before), Content::Json(now)) => differences(before, now),
            (before, now) if before == now => return Self::None,
            _ => return Self::Breaks("\n      other bytes".into()),
        };
        let told = |places: &[String]| places.iter().flat_map(|place| ["\n      ", place]).collect::<String>();
        match (found.added.is_empty(), found.other.is_empty()) {
            (true, true) => Self::None,
            (false, true) => Self::Fits(format!("has new fields{}", told(&found.added))),
            (_, false) => Self::Breaks(told(&found.other)),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Fits(told) => write!(f, " it {told}"),
            Self::Breaks(places) => f.write_str(places),
        }
    }
}
