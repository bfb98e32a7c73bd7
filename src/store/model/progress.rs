//! How far a projection has got with each aggregate: what order per aggregate rests on.

use std::collections::HashMap;
use std::hash::BuildHasher;

use futures::future::BoxFuture;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{ProjectionName, StreamId, Version};
use crate::store::model::parking::{Parked, ParkingChange};

/// How far a projection has got with one aggregate.
///
/// Invariant: `seen` is beyond `applied` if and only if the aggregate is parked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Which aggregate.
    pub stream: StreamId,
    /// Everything up to this version is applied or not wanted.
    pub applied: Version,
    /// The last version that was applied, or passed over since the aggregate is parked. A retry that does not find it in the log must not
    /// take what it finds for all there is.
    pub seen: Version,
    /// Why it is parked, if it is.
    pub parked: Option<Parked>,
}

impl Progress {
    /// Creates the progress of an aggregate that the projection has not seen.
    pub fn new(stream: StreamId) -> Self {
        Self { stream, applied: Version::ZERO, seen: Version::ZERO, parked: None }
    }
}

/// The work of a projection inside its transaction, while the progress rows of some aggregates are locked. It may change the rows,
/// except for [`Progress::stream`].
pub type Turn<Tx> = Box<dyn for<'t> FnOnce(&'t mut Tx, &'t mut [Progress]) -> BoxFuture<'t, Result<()>> + Send>;

/// Returns each aggregate once, in the order in which every store locks their rows: two turns that share aggregates then wait for each other at
/// the first of them, never crosswise.
pub fn in_key_order(mut streams: Vec<StreamId>) -> Vec<StreamId> {
    streams.sort_unstable();
    streams.dedup();
    streams
}

/// What a store keeps of an aggregate: the versions that are [applied](Progress::applied) and [seen](Progress::seen).
pub type Row = (Version, Version);

/// Returns the progress of these aggregates as a turn gets it, in their order. An aggregate without a row is at zero. `parked` has exactly those
/// whose row has seen more than it has applied.
///
/// # Errors
/// [`ErrorKind::Corrupt`] if an aggregate is parked and its row says otherwise, or the other way round.
pub fn progress_of<S: BuildHasher>(
    streams: Vec<StreamId>,
    rows: &HashMap<StreamId, Row, S>,
    parked: Vec<Parked>,
) -> Result<Vec<Progress>> {
    let mut parked: HashMap<_, _> = parked.into_iter().map(|parked| (parked.stream.clone(), parked)).collect();
    let progress = streams.into_iter().map(|stream| {
        let (applied, seen) = rows.get(&stream).copied().unwrap_or_default();
        let parked = parked.remove(&stream);
        if parked.is_some() != (seen > applied) {
            return Err(ErrorKind::Corrupt(format!("what is parked of {stream} does not fit its row")).into());
        }
        Ok(Progress { stream, applied, seen, parked })
    });
    progress.collect()
}

/// A row as the servers have it.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) fn stored((kind, id, applied, seen): (&str, &str, i64, i64)) -> Result<(StreamId, Row)> {
    let damaged = |what: &str| Error::new(ErrorKind::Corrupt(format!("the progress of {kind}/{id}: {what}")));
    let version = |number: i64| u64::try_from(number).map(Version::new).map_err(|_| damaged("a negative version"));
    let stream = StreamId::parse(kind, id).map_err(|error| damaged(&error.to_string()))?;
    Ok((stream, (version(applied)?, version(seen)?)))
}

/// Those of the rows that are parked.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) fn parked_of<'s>(streams: &'s [StreamId], rows: &HashMap<StreamId, Row>) -> Vec<&'s StreamId> {
    let is_parked = |stream: &&StreamId| rows.get(*stream).is_some_and(|(applied, seen)| seen > applied);
    streams.iter().filter(is_parked).collect()
}

/// Returns what a turn has changed: the progress rows to write, and the changes of the parking. A store writes both in the turn's transaction.
pub fn changes<'p>(before: &[Progress], after: &'p [Progress]) -> (Vec<&'p Progress>, Vec<ParkingChange>) {
    let pairs = || before.iter().zip(after);
    let moved = |(before, after): &(&Progress, &Progress)| (before.applied, before.seen) != (after.applied, after.seen);
    let rows = pairs().filter(moved).map(|(_, after)| after).collect();
    let parking =
        pairs().filter(|(before, after)| before.parked != after.parked).map(|(_, after)| match &after.parked {
            Some(parked) => ParkingChange::Park(parked.clone()),
            None => ParkingChange::Release(after.stream.clone()),
        });
    (rows, parking.collect())
}

/// Returns the error of a worker in per-aggregate order that finds a projection in log order: its checkpoint is beyond zero, and it has never
/// begun in per-aggregate order.
pub fn in_log_order(projection: &ProjectionName) -> Error {
    let problem = "has begun in log order: give it another name for order per aggregate";
    ErrorKind::Invalid(format!("projection {projection} {problem}")).into()
}

/// Returns the error of a worker in log order that finds a projection in per-aggregate order.
pub fn in_aggregate_order(projection: &ProjectionName) -> Error {
    let problem = "has order per aggregate: in log order its events would be applied again";
    ErrorKind::Invalid(format!("projection {projection} {problem}")).into()
}
