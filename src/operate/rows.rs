//! The rows of a log in order, from stores that give them out and from those that do not.

use std::collections::HashMap;

use crate::error::Result;
use crate::event::RecordedEvent;
use crate::id::{Position, StreamId, Version};
use crate::store::log::inspect::{Cursor, Inspect, LogRow};
use crate::store::log::query::Filter;
use crate::store::log::reader::EventReaderExt;
use crate::store::log::stored_row::StoredRow;

/// The most commits that are read at once.
const PAGE_COMMITS: usize = 500;

/// Reads the rows of a log page by page.
pub(super) struct Rows<'l, L: ?Sized> {
    log: &'l L,
    cursor: Cursor,
    is_raw: bool,
}

impl<'l, L: Inspect + ?Sized> Rows<'l, L> {
    pub(super) fn after(log: &'l L, position: Position) -> Self {
        Self { log, cursor: Cursor::Position(position), is_raw: true }
    }

    /// Returns whether the rows are those of the store, damaged ones included.
    pub(super) fn is_raw(&self) -> bool {
        self.is_raw
    }

    /// Returns the next rows; none at the end of the log.
    pub(super) async fn next(&mut self) -> Result<Vec<LogRow>> {
        if self.is_raw {
            match self.log.rows(self.cursor, PAGE_COMMITS).await? {
                Some(rows) => {
                    self.cursor = rows.last().map_or(self.cursor, LogRow::cursor);
                    return Ok(rows);
                }
                None => self.is_raw = false,
            }
        }
        let after = match self.cursor {
            Cursor::Position(after) => after,
            Cursor::Row { first, .. } => Position::new(first.unsigned_abs()),
        };
        let events = self.log.read_all(after, PAGE_COMMITS, &Filter::all()).await?.events;
        let rows = as_rows(self.log, &events).await?;
        self.cursor = rows.last().map_or(self.cursor, LogRow::cursor);
        Ok(rows)
    }
}

/// Converts events to rows, each with the position of the event before it in its stream.
async fn as_rows<L: Inspect + ?Sized>(log: &L, events: &[RecordedEvent]) -> Result<Vec<LogRow>> {
    let mut places: HashMap<(&StreamId, Version), Position> = HashMap::new();
    let mut rows = Vec::with_capacity(events.len());
    for event in events {
        let previous = match event.version.get().checked_sub(1).filter(|before| *before > 0) {
            None => None,
            Some(before) => match places.get(&(&event.stream, Version::new(before))) {
                Some(place) => Some(*place),
                None => previous(log, &event.stream, Version::new(before)).await?,
            },
        };
        places.insert((&event.stream, event.version), event.position);
        let signed = |position: Position| position.get().cast_signed();
        rows.push(LogRow {
            first: signed(event.position),
            ordinal: 1,
            events: 1,
            is_on_time: true,
            previous: previous.map(signed),
            event: Some(StoredRow::of(event)?),
        });
    }
    Ok(rows)
}

async fn previous<L: Inspect + ?Sized>(log: &L, stream: &StreamId, version: Version) -> Result<Option<Position>> {
    let after = Version::new(version.get() - 1);
    let found = log.read_stream(stream, after, 1).await?;
    Ok(found.first().filter(|event| event.version == version).map(|event| event.position))
}
