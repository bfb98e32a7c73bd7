//! Conversions of numbers to and from the types of the database servers.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::codec::Codec;
use crate::error::{ErrorKind, Result};
use crate::id::mark::Mark;
use crate::id::{CommitId, EventType, Position, ProjectionName, StreamId, Version};
use crate::store::log::fingerprint::Fingerprint;
use crate::store::log::relay::{LONGEST_LEASE, RelayStatus};
use crate::store::log::shapes::RegisteredShape;
use crate::store::model::checkpoint::{ProjectionState, ProjectionStatus};
use crate::store::model::listing::ProgressRow;
use crate::store::model::processors::RegisteredProcessor;

/// The number of low bits of a `CommitId` that hold the ordinal of an append's last event in its commit. The other bits hold the number of the
/// commit.
pub(crate) const ORDINAL_BITS: u32 = 24;

/// Combines the number of a commit and the ordinal of an append's last event in it.
pub(crate) fn commit_id(number: i64, ordinal: i32) -> CommitId {
    CommitId::new(number.unsigned_abs() << ORDINAL_BITS | u64::from(ordinal.unsigned_abs()))
}

/// Returns the number of the commit and the ordinal of the append's last event in it.
pub(crate) fn split_commit_id(commit: CommitId) -> (i64, i64) {
    let (number, ordinal) = (commit.get() >> ORDINAL_BITS, commit.get() & ((1 << ORDINAL_BITS) - 1));
    (to_sql(number), to_sql(ordinal))
}

/// Converts a count within one append. An `Append` fits into memory, so its counts fit into `i32`.
pub(crate) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Converts a number to the server's signed integer. No log grows beyond `i64::MAX`, so a larger number always means "all".
pub(crate) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Converts a limit to the server's signed integer. A larger limit means "all".
pub(crate) fn limit_to_sql(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Converts the length of a lease to microseconds, at most [`LONGEST_LEASE`].
pub(crate) fn micros_to_sql(length: Duration) -> i64 {
    i64::try_from(length.min(LONGEST_LEASE).as_micros()).unwrap_or(i64::MAX)
}

/// Converts a stored number. `what` names it in the error.
pub(crate) fn from_sql(number: i64, what: &str) -> Result<u64> {
    u64::try_from(number).map_err(|_| ErrorKind::Corrupt(format!("negative {what} {number}")).into())
}

/// Returns the position of the event with the number `ordinal` in the commit that begins at position `first`.
pub(crate) fn position(first: u64, ordinal: i32) -> Position {
    Position::new((first + u64::from(ordinal.unsigned_abs())).saturating_sub(1))
}

/// Converts a stored fingerprint.
pub(crate) fn fingerprint_from(bytes: &[u8]) -> Result<Fingerprint> {
    let known = bytes.try_into().map(Fingerprint::from_bytes);
    known.map_err(|_| ErrorKind::Corrupt(format!("fingerprint of {} bytes", bytes.len())).into())
}

/// The columns of a row of progress: projection, aggregate type, aggregate id, applied and seen version, event seen.
pub(crate) type ProgressColumns = (String, String, String, i64, i64, Option<Uuid>);

/// Converts a stored row of progress.
pub(crate) fn progress_from_sql((name, kind, id, applied, seen, seen_id): ProgressColumns) -> Result<ProgressRow> {
    let version = |number| from_sql(number, "version").map(Version::new);
    let versions = (version(applied)?, version(seen)?);
    Ok(ProgressRow::new(ProjectionName::new(name)?, StreamId::parse(&kind, &id)?, versions, seen_id.map(Into::into)))
}

/// The columns of a mark: its position and the id of its event.
pub(crate) type MarkRow = (i64, Option<Uuid>);

/// Converts the stored columns of a mark.
pub(crate) fn mark_from_sql((position, event_id): MarkRow) -> Result<Mark> {
    let position = Position::new(from_sql(position, "position")?);
    Ok(Mark::from(position).with_event_id(event_id.map(Into::into)))
}

/// Converts the id of a mark's event.
pub(crate) fn id_to_sql(mark: Mark) -> Option<Uuid> {
    mark.event_id.map(|id| *id.as_uuid())
}

/// Converts a stored event type.
pub(crate) fn event_type_from_sql(row: Option<(String,)>) -> Result<Option<EventType>> {
    let read = |(name,): (String,)| {
        EventType::new(&name).map_err(|problem| ErrorKind::Corrupt(format!("event type: {problem}")).into())
    };
    row.map(read).transpose()
}

/// The columns of a registered processor: filter, time, program.
pub(crate) type ProcessorRow = (String, DateTime<Utc>, String);

/// Converts the rows of registered processors.
pub(crate) fn processors_from_sql(rows: Vec<ProcessorRow>) -> Result<Vec<RegisteredProcessor>> {
    rows.into_iter()
        .map(|(filter, first_seen, program)| RegisteredProcessor::parse(&filter, first_seen, program))
        .collect()
}

/// The columns of a relay and its lease: name, position, event, holder, end of the lease.
pub(crate) type RelayRow = (String, i64, Option<Uuid>, Option<Uuid>, Option<DateTime<Utc>>);

/// Converts the rows of relays.
pub(crate) fn relays_from_sql(rows: Vec<RelayRow>) -> Result<Vec<RelayStatus>> {
    let relays = rows.into_iter().map(|(relay, position, event_id, holder, ends_at)| {
        Ok(RelayStatus::new(relay, mark_from_sql((position, event_id))?).with_leader(holder.zip(ends_at)))
    });
    relays.collect()
}

/// The columns of a checkpoint: projection, position, event, whether the projection has per-aggregate order, state.
pub(crate) type ProjectionRow = (String, i64, Option<Uuid>, bool, String);

/// Converts the rows of checkpoints.
pub(crate) fn projections_from_sql(rows: Vec<ProjectionRow>) -> Result<Vec<ProjectionStatus>> {
    let statuses = rows.into_iter().map(|(projection, position, event_id, per_aggregate, state)| {
        let status = ProjectionStatus::new(ProjectionName::new(projection)?, mark_from_sql((position, event_id))?);
        Ok(status.with_per_aggregate(per_aggregate).with_state(ProjectionState::parse(&state)?))
    });
    statuses.collect()
}

/// The columns of a registered shape: event type, schema version, codec, shape, time, program.
pub(crate) type ShapeRow = (String, i64, i16, String, DateTime<Utc>, String);

/// Converts the rows of registered shapes. Leaves out those of a codec that only a newer release knows.
pub(crate) fn shapes_from_sql(rows: Vec<ShapeRow>) -> Result<Vec<RegisteredShape>> {
    let shapes = rows.into_iter().filter_map(|(name, version, codec, shape, first_seen, program)| {
        let codec = u8::try_from(codec).ok().and_then(Codec::from_number)?;
        let read = || {
            let event_type = EventType::new(name.as_str()).ok()?;
            let version = u32::try_from(version).ok()?;
            Some(RegisteredShape::new(event_type, version, codec, shape, first_seen, program))
        };
        let damaged = || ErrorKind::Corrupt(format!("the registered shape of {name}, version {version}")).into();
        Some(read().ok_or_else(damaged))
    });
    shapes.collect()
}
