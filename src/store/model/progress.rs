//! The progress of a projection with each aggregate, which per-aggregate order is based on.

use std::collections::HashMap;
use std::hash::BuildHasher;

use futures::future::BoxFuture;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{EventId, ProjectionName, StreamId, Version};
use crate::store::model::parking::{Parked, ParkingChange};

/// The progress of a projection with one aggregate.
///
/// Invariant: `seen` is greater than `applied` if and only if the aggregate is parked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The stream of the aggregate.
    pub stream: StreamId,
    /// The version up to which every event is applied or does not pass the filter.
    pub applied: Version,
    /// The last version that was applied, or skipped because the aggregate is parked. A retry that does not find this version in the log
    /// knows that it has not read every event.
    pub seen: Version,
    /// The id of the event at `seen`; `None` if it is unknown. A log that has another event there has another history.
    pub seen_id: Option<EventId>,
    /// The parking row of the aggregate, if it is parked.
    pub parked: Option<Parked>,
}

impl Progress {
    /// Creates the progress of an aggregate that the projection has not seen.
    pub fn new(stream: StreamId) -> Self {
        Self { stream, applied: Version::ZERO, seen: Version::ZERO, seen_id: None, parked: None }
    }
}

/// The work of a projection inside its transaction, while the progress rows of some aggregates are locked. It may change every field of the
/// rows except [`Progress::stream`].
pub type Turn<Tx> = Box<dyn for<'t> FnOnce(&'t mut Tx, &'t mut [Progress]) -> BoxFuture<'t, Result<()>> + Send>;

/// Returns each aggregate once, in the order in which every store locks their rows. Two turns that share aggregates lock the first shared
/// row first, so they cannot deadlock.
pub fn in_key_order(mut streams: Vec<StreamId>) -> Vec<StreamId> {
    streams.sort_unstable();
    streams.dedup();
    streams
}

/// The progress row of an aggregate: the versions [applied](Progress::applied) and [seen](Progress::seen), and the [event](Progress::seen_id) at
/// the latter.
pub type Row = (Version, Version, Option<EventId>);

/// The last event of an aggregate that a projection has [seen](Progress::seen).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Seen {
    /// The version of the event.
    pub version: Version,
    /// The id of the event; `None` if it is unknown.
    pub event_id: Option<EventId>,
}

impl Seen {
    /// Creates the last event that a progress row has seen.
    pub fn of((_, version, event_id): Row) -> Self {
        Self { version, event_id }
    }
}

/// Returns the progress of `streams` as a turn gets it, in the same order. An aggregate without a row is at zero. `parked` must hold exactly
/// the aggregates whose row has seen more than it has applied.
///
/// # Errors
/// [`ErrorKind::Corrupt`] if the row of an aggregate and `parked` disagree on whether the aggregate is parked.
pub fn progress_of<S: BuildHasher>(
    streams: Vec<StreamId>,
    rows: &HashMap<StreamId, Row, S>,
    parked: Vec<Parked>,
) -> Result<Vec<Progress>> {
    let mut parked: HashMap<_, _> = parked.into_iter().map(|parked| (parked.stream.clone(), parked)).collect();
    let progress = streams.into_iter().map(|stream| {
        let (applied, seen, seen_id) = rows.get(&stream).copied().unwrap_or_default();
        let parked = parked.remove(&stream);
        if parked.is_some() != (seen > applied) {
            return Err(ErrorKind::Corrupt(format!("progress and parking rows of {stream} disagree")).into());
        }
        Ok(Progress { stream, applied, seen, seen_id, parked })
    });
    progress.collect()
}

/// The columns of a progress row: aggregate type, aggregate id, applied, seen, event at seen.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) type StoredRow<'r> = (&'r str, &'r str, i64, i64, Option<uuid::Uuid>);

/// Parses a progress row of a database server.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) fn stored((kind, id, applied, seen, seen_id): StoredRow<'_>) -> Result<(StreamId, Row)> {
    let damaged = |problem: &str| Error::new(ErrorKind::Corrupt(format!("progress of {kind}/{id}: {problem}")));
    let version = |number: i64| u64::try_from(number).map(Version::new).map_err(|_| damaged("negative version"));
    let stream = StreamId::parse(kind, id).map_err(|error| damaged(&error.to_string()))?;
    Ok((stream, (version(applied)?, version(seen)?, seen_id.map(Into::into))))
}

/// Returns the streams that are parked according to their progress rows.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) fn parked_of<'s>(streams: &'s [StreamId], rows: &HashMap<StreamId, Row>) -> Vec<&'s StreamId> {
    let is_parked = |stream: &&StreamId| rows.get(*stream).is_some_and(|(applied, seen, _)| seen > applied);
    streams.iter().filter(is_parked).collect()
}

/// Returns the changes that a turn has made: the progress rows to write, and the changes to the parked aggregates. A store writes both in the
/// transaction of the turn.
pub fn changes<'p>(before: &[Progress], after: &'p [Progress]) -> (Vec<&'p Progress>, Vec<ParkingChange>) {
    let pairs = || before.iter().zip(after);
    let place = |row: &Progress| (row.applied, row.seen, row.seen_id);
    let moved = |(before, after): &(&Progress, &Progress)| place(before) != place(after);
    let rows = pairs().filter(moved).map(|(_, after)| after).collect();
    let parking =
        pairs().filter(|(before, after)| before.parked != after.parked).map(|(_, after)| match &after.parked {
            Some(parked) => ParkingChange::Park(parked.clone()),
            None => ParkingChange::Release(after.stream.clone()),
        });
    (rows, parking.collect())
}

/// Returns the error of a worker in per-aggregate order for a projection in log order, which has a checkpoint beyond zero and has never
/// begun in per-aggregate order.
pub fn in_log_order(projection: &ProjectionName) -> Error {
    let problem = "has begun in log order: use another name to run it with order per aggregate";
    ErrorKind::Invalid(format!("projection {projection} {problem}")).into()
}

/// Returns the error of a worker in log order for a projection in per-aggregate order.
pub fn in_aggregate_order(projection: &ProjectionName) -> Error {
    let problem = "has order per aggregate: a worker in log order would apply its events again";
    ErrorKind::Invalid(format!("projection {projection} {problem}")).into()
}
