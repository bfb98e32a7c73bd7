//! Numbers as the columns hold them.

use crate::id::Position;
use crate::store::sqlite::error::{Failure, corrupt};

/// A count as SQLite's signed integer. No log gets longer than that, so a larger number only ever asks for "all".
pub(crate) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A stored count.
pub(crate) fn from_sql(number: i64, what: &str) -> Result<u64, Failure> {
    u64::try_from(number).map_err(|_| corrupt(format!("negative {what} {number}")))
}

/// A stored position.
pub(crate) fn position_from_sql(number: i64) -> Result<Position, Failure> {
    from_sql(number, "position").map(Position::new)
}
