//! Converts numbers from and to SQLite's signed integers.

use crate::id::Position;
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
