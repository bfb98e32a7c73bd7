//! The rule that a store reads on only from a place that is in its log.

use crate::error::{Error, ErrorKind, Result};
use crate::id::mark::Mark;
use crate::id::{EventId, Place, StreamId, Version};

/// Compares a mark with the id of the event that the log has at its position; `found` is `None` if the log ends before it. A store calls this
/// in the same snapshot in which it reads the events after the mark.
///
/// # Errors
/// [`ErrorKind::HistoryChanged`] if the mark knows its event and the log has another one or none.
pub fn check_mark(mark: Mark, found: Option<EventId>) -> Result<()> {
    if mark.event_id.is_none() || mark.event_id == found { Ok(()) } else { Err(changed(mark, found)) }
}

/// Returns the error for a mark that the log does not have.
pub(crate) fn changed(mark: Mark, found: Option<EventId>) -> Error {
    let kind = ErrorKind::HistoryChanged {
        what: "the reader".into(),
        place: Place::Log(mark.position),
        remembered: mark.event_id,
        found,
        remedy: "read again from the beginning",
    };
    kind.into()
}

/// Returns the error for an event of a stream that the log does not have at its version.
pub(crate) fn changed_stream(
    stream: &StreamId,
    version: Version,
    remembered: EventId,
    found: Option<EventId>,
) -> Error {
    let kind = ErrorKind::HistoryChanged {
        what: "the reader".into(),
        place: Place::Stream(stream.clone(), version),
        remembered: Some(remembered),
        found,
        remedy: "read again from the beginning",
    };
    kind.into()
}

/// Names the part that remembers the place in a [`ErrorKind::HistoryChanged`], and what to do about it. Returns any other error unchanged.
pub(crate) fn remembered_by(error: Error, what: impl FnOnce() -> String, remedy: &'static str) -> Error {
    match error.kind() {
        ErrorKind::HistoryChanged { place, remembered, found, .. } => {
            let (place, remembered, found) = (place.clone(), *remembered, *found);
            ErrorKind::HistoryChanged { what: what(), place, remembered, found, remedy }.into()
        }
        _ => error,
    }
}
