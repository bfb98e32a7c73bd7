//! Converts numbers from and to SQLite's signed integers.

use uuid::Uuid;

use crate::id::mark::Mark;
use crate::id::{EventId, Position};
use crate::store::sqlite::error::{Failure, corrupt};

/// Converts a count to SQLite's signed integer. No log gets that long, so a larger number always means "all".
pub(crate) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns a stored count, or a [`Corrupt`](crate::ErrorKind::Corrupt) error if it is negative.
pub(crate) fn from_sql(number: i64, what: &str) -> Result<u64, Failure> {
    u64::try_from(number).map_err(|_| corrupt(format!("negative {what} {number}")))
}

/// Returns a stored position, or a [`Corrupt`](crate::ErrorKind::Corrupt) error if it is negative.
pub(crate) fn position_from_sql(number: i64) -> Result<Position, Failure> {
    from_sql(number, "position").map(Position::new)
}

/// Returns the id in a column of 16 bytes.
pub(crate) fn event_id_from_sql(id: Option<[u8; 16]>) -> Option<EventId> {
    id.map(|bytes| Uuid::from_bytes(bytes).into())
}

/// Returns the column of an id.
pub(crate) fn event_id_to_sql(id: Option<EventId>) -> Option<[u8; 16]> {
    id.map(|id| id.as_uuid().into_bytes())
}

/// Returns the mark in the columns of its position and its event's id.
pub(crate) fn mark_from_sql((position, event_id): (i64, Option<[u8; 16]>)) -> Result<Mark, Failure> {
    Ok(Mark::from(position_from_sql(position)?).with_event_id(event_id_from_sql(event_id)))
}
