//! Checks the rows of a log in their order.

use crate::codec::Codec;
use crate::event::Metadata;
use crate::id::{AggregateId, AggregateType, EventType, Position};
use crate::operate::verify::found::Found;
use crate::store::log::fault::{Fault, FaultId};
use crate::store::log::inspect::LogRow;
use crate::store::log::stored_row::StoredRow;

/// The place of a verification in the log.
pub(super) struct Walk {
    /// The next position that is due.
    due: u64,
    head: u64,
    /// The number of events seen.
    pub(super) events: u64,
    /// The first position of the commit before, and the first one after it.
    commit: (i64, i64),
}

impl Walk {
    pub(super) fn after(position: Position, head: Position) -> Self {
        Self { due: position.get() + 1, head: head.get(), events: 0, commit: (0, 0) }
    }

    /// Returns the last position that was checked.
    pub(super) fn through(&self) -> Position {
        Position::new(self.due - 1)
    }

    /// Checks a row. Returns the position and the event if the event is the one that readers find there.
    pub(super) fn check<'r>(&mut self, row: &'r LogRow, found: &mut Found) -> Option<(Position, &'r StoredRow)> {
        let position = row.position();
        self.check_commit(row, found);
        let event = row.event.as_ref()?;
        if position > self.head {
            return None;
        }
        let at = Position::new(position);
        let fault = |id, detail: String| named(Fault::new(id, detail).with_positions(at, at), event);
        if row.ordinal < 1 || row.ordinal > row.events {
            let detail = format!("event {} of a commit of {} events", row.ordinal, row.events);
            found.add(fault(FaultId::CommitMismatch, detail));
            return None;
        }
        if position < self.due {
            found.add(fault(FaultId::PositionTwice, "a second event at this position".into()));
            return None;
        }
        self.skip_to(position, found);
        self.due = position + 1;
        self.events += 1;
        if !row.is_on_time {
            found.add(fault(FaultId::CommitMismatch, "the event has another time than its commit".into()));
        }
        match row.previous.map(|previous| u64::try_from(previous).unwrap_or(0)) {
            Some(previous) if previous >= position => {
                found.add(fault(FaultId::VersionOrder, format!("the version before has the position {previous}")));
            }
            None if event.version > 1 => {
                found.add(fault(FaultId::VersionMissing, "the stream does not have the version before".into()));
            }
            _ => {}
        }
        if let Err(problem) = readable(event) {
            found.add(fault(FaultId::RowDamaged, problem));
        }
        Some((at, event))
    }

    /// Checks that a commit begins after the one before it. If it begins later than it could, events are missing.
    fn check_commit(&mut self, row: &LogRow, found: &mut Found) {
        let (first, end) = self.commit;
        if row.first == first {
            return;
        }
        if row.first < end {
            let detail = format!("the commit has {} positions, and the next one begins at {}", end - first, row.first);
            let [first, last] = [first, end - 1].map(|number| Position::new(number.unsigned_abs()));
            found.add(Fault::new(FaultId::CommitMismatch, detail).with_positions(first, last));
        }
        self.commit = (row.first, row.first + i64::from(row.events));
    }

    /// Checks that the log has reached its head.
    pub(super) fn end(&mut self, found: &mut Found) {
        self.skip_to(self.head + 1, found);
        self.due = self.due.max(self.head + 1);
    }

    fn skip_to(&self, position: u64, found: &mut Found) {
        if position > self.due {
            let what = match position - self.due {
                1 => "1 event is missing".to_owned(),
                events => format!("{events} events are missing"),
            };
            let missing = Fault::new(FaultId::EventMissing, what);
            found.add(missing.with_positions(Position::new(self.due), Position::new(position - 1)));
        }
    }
}

fn named(fault: Fault, event: &StoredRow) -> Fault {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    fault.with_stream(&text(&event.aggregate_type), &text(&event.aggregate_id), Some(event.version))
}

/// Checks that readers can make an event of the row.
fn readable(event: &StoredRow) -> Result<(), String> {
    let text = |bytes| std::str::from_utf8(bytes).map_err(|error| error.to_string());
    AggregateType::try_from(text(&event.aggregate_type)?).map_err(|error| error.to_string())?;
    AggregateId::try_from(text(&event.aggregate_id)?).map_err(|error| error.to_string())?;
    EventType::try_from(text(&event.event_type)?).map_err(|error| error.to_string())?;
    if event.version < 1 {
        return Err(format!("version {}", event.version));
    }
    if u32::try_from(event.schema_version).is_err() {
        return Err(format!("schema version {}", event.schema_version));
    }
    if u8::try_from(event.codec).ok().and_then(Codec::from_number).is_none() {
        return Err(format!("unknown codec {}", event.codec));
    }
    let ids = [Some(&event.event_id), event.correlation_id.as_ref(), event.causation_id.as_ref()];
    if let Some(id) = ids.into_iter().flatten().find(|id| id.len() != 16) {
        return Err(format!("an id of {} bytes", id.len()));
    }
    if let Some(metadata) = &event.metadata {
        Metadata::from_parts(None, None, Some(text(metadata)?)).map_err(|error| format!("metadata: {error}"))?;
    }
    Ok(())
}
