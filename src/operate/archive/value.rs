//! Values in the lines of an export.

use chrono::{DateTime, Datelike, SecondsFormat, Utc};

use crate::error::{Error, ErrorKind, Result};
use crate::store::log::seal::SealDigest;

pub(super) fn time_to_text(time: DateTime<Utc>) -> Result<String> {
    let text = time.to_rfc3339_opts(SecondsFormat::Micros, true);
    if (0..=9_999).contains(&time.year()) && time.timestamp_subsec_nanos().is_multiple_of(1_000) {
        return Ok(text);
    }
    Err(ErrorKind::Invalid(format!("the time {text} is not in the range of an export, or finer than a microsecond"))
        .into())
}

/// Parses a time. Refuses one that is more precise than a store keeps.
pub(super) fn time(text: &str) -> Result<DateTime<Utc>> {
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

pub(super) fn digest(text: &str) -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    for (place, byte) in bytes.iter_mut().enumerate() {
        let digits = text.get(place * 2..place * 2 + 2);
        let parsed = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        *byte = parsed.ok_or_else(|| bad(&format!("{text:?} is no digest")))?;
    }
    if hex(bytes) == text { Ok(bytes) } else { Err(bad(&format!("{text:?} is no digest"))) }
}

pub(super) fn unknown_codec(codec: u8) -> Error {
    bad(&format!("codec {codec} is not known to this release; upgrade retell"))
}

/// The error of an export that cannot be imported.
pub(super) fn bad(problem: &str) -> Error {
    ErrorKind::BadExport(problem.to_owned()).into()
}
