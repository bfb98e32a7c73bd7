//! Errors of a log whose history changed: it does not have an event that a caller remembers.

use crate::error::{Error, ErrorKind, Result};
use crate::id::{EventId, Place, Position, StreamId, Version};
use crate::store::log::event_store::Snapshot;
use crate::store::log::token::Token;

/// Returns the error of a replay or an append that continues after an event which the stream does not have. `found` is the event at that
/// version, if there is one and the store knows its id.
pub fn stream_changed(stream: &StreamId, version: Version, remembered: EventId, found: Option<EventId>) -> Error {
    let (what, place) = (format!("a state of {stream}"), Place::Stream(stream.clone(), version));
    let remedy = "drop the state and load the aggregate again";
    ErrorKind::HistoryChanged { what, place, remembered: Some(remembered), found, remedy }.into()
}

/// Returns the position of a token, if the event at `position`, where the token's commit ends, is the token's. `found` is the id of that event, or
/// `None` if the log does not have the commit. The default token is at position zero.
///
/// # Errors
/// [`ErrorKind::HistoryChanged`] if `found` is another event.
pub fn token_at(token: Token, position: Position, found: Option<EventId>) -> Result<Option<Position>> {
    let Some(last_event) = token.last_event() else { return Ok(Some(Position::ZERO)) };
    match found {
        Some(found) if found != last_event => Err(token_changed(token, position, Some(found))),
        found => Ok(found.map(|_| position)),
    }
}

/// Returns whether a store saves `snapshot` in place of `kept`. `event_at` returns the id of the event at a version of the stream.
///
/// # Errors
/// The error of `event_at`.
pub fn snapshot_replaces<E>(
    snapshot: &Snapshot,
    kept: Option<&Snapshot>,
    event_at: impl Fn(Version) -> Result<Option<EventId>, E>,
) -> Result<bool, E> {
    if event_at(snapshot.version)? != Some(snapshot.event_id) {
        return Ok(false);
    }
    let Some(kept) = kept else { return Ok(true) };
    let is_older = kept.fingerprint != snapshot.fingerprint || kept.version < snapshot.version;
    Ok(is_older || event_at(kept.version)? != Some(kept.event_id))
}

/// Returns the error of a token if the log has another event at the end of its commit, or a shorter commit. `position` is the position of that
/// event.
pub(crate) fn token_changed(token: Token, position: Position, found: Option<EventId>) -> Error {
    let (what, place) = (format!("the token of commit {}", token.commit()), Place::Log(position));
    let remedy = "the events of the token are lost: execute the command again";
    ErrorKind::HistoryChanged { what, place, remembered: token.last_event(), found, remedy }.into()
}
