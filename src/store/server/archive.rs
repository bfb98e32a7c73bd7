//! Parts of export and import that the database servers share.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};

/// The pauses in milliseconds between the attempts to read the claims in a snapshot without commits that have no position: 20 seconds in total.
pub(crate) const SNAPSHOTS: [u64; 200] = [100; 200];

/// The error after the last attempt.
pub(crate) fn busy() -> Error {
    let problem = "read the claims at one position: every snapshot had commits without a position; export when fewer programs append";
    ErrorKind::Transient(problem.into()).into()
}

pub(crate) fn uuid(bytes: &[u8]) -> Result<Uuid> {
    Uuid::from_slice(bytes).map_err(|error| Error::with_source(ErrorKind::Invalid("an id".into()), error))
}

pub(crate) fn time(micros: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros).ok_or_else(|| ErrorKind::Invalid(format!("the time {micros}")).into())
}
