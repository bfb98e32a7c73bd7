//! Numbers as the servers store them.

use std::time::Duration;

use crate::error::{ErrorKind, Result};
use crate::id::{CommitId, Position};
use crate::store::log::relay::LONGEST_LEASE;

/// Bits of a `CommitId` that say the place of an append's last event in its commit; the rest is the commit's number.
pub(crate) const ORDINAL_BITS: u32 = 24;

/// A commit's number and the place of an append's last event in it.
pub(crate) fn commit_id(number: i64, ordinal: i32) -> CommitId {
    CommitId::new(number.unsigned_abs() << ORDINAL_BITS | u64::from(ordinal.unsigned_abs()))
}

/// The commit's number, and the place of the append's last event in it.
pub(crate) fn split_commit_id(commit: CommitId) -> (i64, i64) {
    let (number, ordinal) = (commit.get() >> ORDINAL_BITS, commit.get() & ((1 << ORDINAL_BITS) - 1));
    (to_sql(number), to_sql(ordinal))
}

/// How many things one append brings: `Append` fits into memory, so its counts fit.
pub(crate) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A count as the server's signed integer. No log gets longer than that, so a larger number only ever asks for "all".
pub(crate) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A limit likewise.
pub(crate) fn limit_to_sql(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The length of a lease, in microseconds.
pub(crate) fn micros_to_sql(length: Duration) -> i64 {
    i64::try_from(length.min(LONGEST_LEASE).as_micros()).unwrap_or(i64::MAX)
}

/// A stored count.
pub(crate) fn from_sql(number: i64, what: &str) -> Result<u64> {
    u64::try_from(number).map_err(|_| ErrorKind::Corrupt(format!("negative {what} {number}")).into())
}

/// Where the event at a place of the commit that begins at position `first` stands.
pub(crate) fn position(first: u64, ordinal: i32) -> Position {
    Position::new((first + u64::from(ordinal.unsigned_abs())).saturating_sub(1))
}
