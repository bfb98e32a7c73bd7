//! The memory of a worker with order per aggregate from one sweep to the next.

use std::collections::HashMap;

use tokio::time::Instant;

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::event::RecordedEvent;
use crate::id::mark::Mark;
use crate::id::{EventId, StreamId, Version};
use crate::store::log::mark::changed_stream;
use crate::store::model::progress::Seen;
use crate::worker::transaction::Moved;

/// A page of the log that a sweep has moved over. Applying its events and moving the swept position are two transactions. If the read model is
/// restored between them, the position moves over events that its rows no longer have.
pub(super) struct Swept {
    pub(super) from: Mark,
    pub(super) to: Mark,
    pub(super) at: Instant,
    /// The last event of each stream in the page.
    last: HashMap<StreamId, Seen>,
}

impl Swept {
    /// Returns `None` for a page without events.
    pub(super) fn over(from: Mark, to: Mark, last: HashMap<StreamId, Seen>) -> Option<Self> {
        (!last.is_empty()).then(|| Self { from, to, at: Instant::now(), last })
    }

    /// Adds the rows that are ahead of the page.
    pub(super) fn add_rows_ahead(&self, seen: &HashMap<StreamId, Seen>, ahead: &mut Ahead) {
        ahead.add_rows(&self.last, seen);
    }

    pub(super) fn streams(&self) -> impl Iterator<Item = &StreamId> {
        self.last.keys()
    }

    /// Returns whether the rows still have every event of the page.
    pub(super) fn is_in(&self, seen: &HashMap<StreamId, Seen>) -> bool {
        let has = |row: &Seen, last: &Seen| row.version > last.version || row == last || row.event_id.is_none();
        self.last
            .iter()
            .all(|(stream, last)| seen.get(stream).is_some_and(|row| row.version >= last.version && has(row, last)))
    }
}

/// Events that the rows have seen and that no sweep has read yet. The log has them, and a sweep reads them soon, unless they are of a history that
/// the log has lost: then it gives their versions to other events.
#[derive(Default)]
pub(super) struct Ahead {
    seen: HashMap<StreamId, Vec<Event>>,
    /// The number of sweeps so far.
    sweeps: u64,
}

#[derive(Clone, Copy)]
struct Event {
    version: Version,
    id: EventId,
    /// The number of the last sweep before.
    since: u64,
}

impl Ahead {
    /// Adds events that this worker has applied.
    pub(super) fn add(&mut self, moved: &[Moved]) {
        for moved in moved {
            self.add_one(&moved.stream, moved.version, moved.mark.event_id);
        }
    }

    fn add_one(&mut self, stream: &StreamId, version: Version, id: Option<EventId>) {
        let Some(id) = id else { return };
        let events = self.seen.entry(stream.clone()).or_default();
        if events.iter().all(|event| (event.version, event.id) != (version, id)) {
            events.push(Event { version, id, since: self.sweeps });
        }
    }

    /// Adds what rows have seen that is ahead of the last events of a page.
    fn add_rows(&mut self, last: &HashMap<StreamId, Seen>, seen: &HashMap<StreamId, Seen>) {
        for (stream, last) in last {
            if let Some(row) = seen.get(stream).filter(|row| row.version > last.version) {
                self.add_one(stream, row.version, row.event_id);
            }
        }
    }

    /// Compares the events of a page with what the rows have seen, and adds what rows have seen that is ahead of the page.
    ///
    /// # Errors
    /// [`ErrorKind::HistoryChanged`] if a row has seen another event under the version of an event.
    pub(super) fn compare(
        &mut self,
        events: &[RecordedEvent],
        last: &HashMap<StreamId, Seen>,
        seen: &HashMap<StreamId, Seen>,
    ) -> Result<()> {
        for RecordedEvent { stream, version, event, .. } in events {
            let row = seen.get(stream).filter(|seen| seen.version == *version).and_then(|seen| seen.event_id);
            let ahead = self.seen.get(stream).into_iter().flatten();
            let ahead = ahead.filter(|event| event.version == *version).map(|event| event.id);
            if let Some(other) = row.into_iter().chain(ahead).find(|id| *id != event.id) {
                self.seen.remove(stream);
                return Err(changed_stream(stream, *version, other, Some(event.id)));
            }
        }
        for (stream, last) in last {
            if let Some(ahead) = self.seen.get_mut(stream) {
                ahead.retain(|event| event.version > last.version);
                if ahead.is_empty() {
                    self.seen.remove(stream);
                }
            }
        }
        self.add_rows(last, seen);
        Ok(())
    }

    /// Begins a sweep. Returns the events that were ahead when the last sweep began, and that it did not read.
    pub(super) fn begin_sweep(&mut self) -> Vec<(StreamId, Version, EventId)> {
        self.sweeps += 1;
        let is_old = |event: &&Event| event.since + 1 < self.sweeps;
        let old =
            self.seen.iter().flat_map(|(stream, events)| events.iter().filter(is_old).map(move |old| (stream, old)));
        old.map(|(stream, old)| (stream.clone(), old.version, old.id)).collect()
    }

    /// Forgets an event that no row has.
    pub(super) fn remove(&mut self, stream: &StreamId, version: Version) {
        if let Some(events) = self.seen.get_mut(stream) {
            events.retain(|event| event.version != version);
            if events.is_empty() {
                self.seen.remove(stream);
            }
        }
    }
}

/// Returns the last event of each stream.
pub(super) fn last_events(events: &[RecordedEvent]) -> HashMap<StreamId, Seen> {
    let seen = |event: &RecordedEvent| Seen { version: event.version, event_id: Some(event.event.id) };
    events.iter().map(|event| (event.stream.clone(), seen(event))).collect()
}
