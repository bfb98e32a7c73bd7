//! Errors of a log whose history changed: it does not have an event that a caller remembers.

use crate::error::{Error, ErrorKind};
use crate::id::{EventId, Place, Position, StreamId, Version};
use crate::store::log::token::Token;

/// Returns the error of a replay or an append that continues after an event which the stream does not have. `found` is the event at that
/// version, if there is one and the store knows its id.
pub fn stream_changed(stream: &StreamId, version: Version, remembered: EventId, found: Option<EventId>) -> Error {
    let (what, place) = (format!("a state of {stream}"), Place::Stream(stream.clone(), version));
    let remedy = "drop the state and load the aggregate again";
    ErrorKind::HistoryChanged { what, place, remembered: Some(remembered), found, remedy }.into()
}

/// Returns the error of a token if the log has another event at the end of its commit, or a shorter commit. `position` is the position of that
/// event.
pub fn token_changed(token: Token, position: Position, found: Option<EventId>) -> Error {
    let (what, place) = (format!("the token of commit {}", token.commit()), Place::Log(position));
    let remedy = "the events of the token are lost: execute the command again";
    ErrorKind::HistoryChanged { what, place, remembered: token.last_event(), found, remedy }.into()
}
