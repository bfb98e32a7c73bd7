//! The judgment of an append: what a store checks, and in which order, before it writes anything.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use crate::error::{Error, ErrorKind};
use crate::event::RecordedEvent;
use crate::id::{ClaimScope, ClaimValue, EventId, IdempotencyKey, Position, StreamId, Version};
use crate::store::log::append::{Append, Appended, KeptOutcome};
use crate::store::log::claims::claimed;

/// What a log holds, as [`judge`] asks for it. The answers include what the same commit has written already, and no other writer may change
/// them before the commit ends.
pub trait Written {
    /// The failure of a lookup.
    type Failure;

    /// Returns the outcome of the append that was made under `key`.
    ///
    /// # Errors
    /// A failure of the lookup.
    fn outcome(&self, key: &IdempotencyKey) -> Result<Option<KeptOutcome>, Self::Failure>;

    /// Returns the version of a stream; zero if it has no events.
    ///
    /// # Errors
    /// A failure of the lookup.
    fn version(&self, stream: &StreamId) -> Result<Version, Self::Failure>;

    /// Returns the stream that holds a unique value.
    ///
    /// # Errors
    /// A failure of the lookup.
    fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>, Self::Failure>;

    /// Returns whether the log has an event with this id.
    ///
    /// # Errors
    /// A failure of the lookup.
    fn contains(&self, event: EventId) -> Result<bool, Self::Failure>;
}

/// What to do with one append. It never concerns the other appends of the same commit.
#[derive(Debug)]
pub enum Verdict {
    /// Write it. The versions are those that its streams have now, in the append's order.
    Write(Vec<Version>),
    /// Write nothing: an append under the same idempotency key has this outcome.
    Repeated(Appended),
    /// Write nothing: it is refused for this reason.
    Refused(Error),
}

/// Judges one append. The order is part of the [port](crate::store::EventStore::append): the idempotency key, then the expected versions,
/// then the unique values, then the ids of the events.
///
/// # Errors
/// A failure of a lookup, which says nothing about the append.
pub fn judge<W: Written + ?Sized>(log: &W, append: &Append) -> Result<Verdict, W::Failure> {
    if let Some(key) = append.key()
        && let Some(kept) = log.outcome(key)?
    {
        return Ok(kept.repeat(key, append.stream_ids()).map_or_else(Verdict::Refused, Verdict::Repeated));
    }
    let mut versions = Vec::with_capacity(append.streams().len());
    for part in append.streams() {
        let actual = log.version(&part.stream)?;
        if !part.expected.allows(actual) {
            let (stream, expected) = (part.stream.clone(), part.expected);
            return Ok(Verdict::Refused(ErrorKind::Conflict { stream, expected, actual }.into()));
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

/// Returns the events of an append in log order, the first right after `head`, and the new version of each stream. `versions` are those of
/// [`Verdict::Write`].
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
