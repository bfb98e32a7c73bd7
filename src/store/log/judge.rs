//! The checks of an append against the log: a store makes them, in a fixed order, before it writes anything.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use crate::error::{Error, ErrorKind};
use crate::event::RecordedEvent;
use crate::id::{ClaimScope, ClaimValue, EventId, IdempotencyKey, Position, StreamId, Version};
use crate::store::log::append::{Append, Appended, KeyedOutcome};
use crate::store::log::claims::claimed;
use crate::store::log::history::stream_changed;

/// The lookups that [`judge`] makes in the log. They include everything that the same commit has already written, and no other writer may
/// change their results before the commit ends.
pub trait Written {
    /// The error of a failed lookup.
    type Failure;

    /// Returns the outcome of the append under `key`.
    ///
    /// # Errors
    /// The error of a failed lookup.
    fn outcome(&self, key: &IdempotencyKey) -> Result<Option<KeyedOutcome>, Self::Failure>;

    /// Returns the version of `stream`; zero if it has no events.
    ///
    /// # Errors
    /// The error of a failed lookup.
    fn version(&self, stream: &StreamId) -> Result<Version, Self::Failure>;

    /// Returns the id of the last event of `stream`; `None` if it has no events. Called only for an append that requires an id.
    ///
    /// # Errors
    /// The error of a failed lookup.
    fn last_event(&self, stream: &StreamId) -> Result<Option<EventId>, Self::Failure>;

    /// Returns the stream that holds a unique value.
    ///
    /// # Errors
    /// The error of a failed lookup.
    fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>, Self::Failure>;

    /// Returns whether the log has an event with the id `event`.
    ///
    /// # Errors
    /// The error of a failed lookup.
    fn contains(&self, event: EventId) -> Result<bool, Self::Failure>;
}

/// The result of [`judge`] for one append. It does not affect the other appends of the same commit.
#[derive(Debug)]
pub enum Verdict {
    /// Write the append. The versions are the current ones of its streams, in the order of the append.
    Write(Vec<Version>),
    /// Write nothing: an earlier append under the same idempotency key had this outcome.
    Repeated(Appended),
    /// Write nothing: the append is refused with this error.
    Refused(Error),
}

/// Decides whether an append may be written.
///
/// The order of the checks is part of the [port](crate::store::EventStore::append): the idempotency key, then the expected versions and
/// last events, then the unique values, then the ids of the events.
///
/// # Errors
/// The error of a failed lookup. It says nothing about the append.
pub fn judge<W: Written + ?Sized>(log: &W, append: &Append) -> Result<Verdict, W::Failure> {
    if let Some(key) = append.key()
        && let Some(kept) = log.outcome(key)?
    {
        return Ok(kept.repeat(append).map_or_else(Verdict::Refused, Verdict::Repeated));
    }
    let mut versions = Vec::with_capacity(append.streams().len());
    for part in append.streams() {
        let actual = log.version(&part.stream)?;
        if !part.expected.allows(actual) {
            let (stream, expected) = (part.stream.clone(), part.expected);
            return Ok(Verdict::Refused(ErrorKind::Conflict { stream, expected, actual }.into()));
        }
        if let Some(remembered) = part.last_event {
            let found = log.last_event(&part.stream)?;
            if found != Some(remembered) {
                return Ok(Verdict::Refused(stream_changed(&part.stream, actual, remembered, found)));
            }
        }
        versions.push(actual);
    }
    for claim in claimed(append) {
        if let Some(refusal) = claim.refusal(log.holder(claim.scope, claim.value)?.as_ref()) {
            return Ok(Verdict::Refused(refusal));
        }
    }
    let mut new = HashSet::new();
    for event in append.streams().iter().flat_map(|part| &part.events) {
        if !new.insert(event.id) || log.contains(event.id)? {
            return Ok(Verdict::Refused(ErrorKind::DuplicateEvent(event.id).into()));
        }
    }
    Ok(Verdict::Write(versions))
}

/// Returns the events of an append in log order, starting at the position after `head`, and the new version of each stream. `versions` are
/// the versions of [`Verdict::Write`].
pub fn record(
    append: Append,
    mut versions: Vec<Version>,
    head: Position,
    recorded_at: DateTime<Utc>,
) -> (Vec<RecordedEvent>, Vec<Version>) {
    let mut recorded = Vec::with_capacity(append.streams.iter().map(|part| part.events.len()).sum());
    let mut position = head;
    for (part, version) in append.streams.into_iter().zip(&mut versions) {
        for event in part.events {
            (position, *version) = (position.next(), version.next());
            recorded.push(RecordedEvent::new(position, part.stream.clone(), *version, recorded_at, event));
        }
    }
    (recorded, versions)
}
