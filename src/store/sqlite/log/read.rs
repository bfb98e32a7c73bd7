//! Reads the log in pages.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension};

use crate::error::{Error, ErrorKind};
use crate::event::RecordedEvent;
use crate::id::mark::Mark;
use crate::id::{AggregateType, CorrelationId, EventId, EventType, Position, StreamId, Version};
use crate::store::log::columns::event_columns;
use crate::store::log::mark::check_mark;
use crate::store::log::query::{Filter, PAGE_BYTES, Page};
use crate::store::sqlite::convert::{event_id_from_sql, event_id_to_sql, from_sql, position_from_sql, to_sql};
use crate::store::sqlite::error::{Failure, corrupt};
use crate::store::sqlite::log::row::events;

/// The most rows that one page scans for events that pass the filter, so that no call occupies a reader for long.
const SCANNED_ROWS: u64 = 200_000;

pub(crate) fn head(db: &Connection) -> Result<Position, Failure> {
    let head: Option<i64> = db.prepare_cached(HEAD)?.query_row([], |row| row.get(0))?;
    position_from_sql(head.unwrap_or(0))
}

pub(crate) fn page(db: &mut Connection, after: Mark, limit: usize, filter: &Filter) -> Result<Page, Failure> {
    // One snapshot for the head and the rows: otherwise the page would seem to cover an event that was committed between the two reads.
    let tx = db.transaction()?;
    page_in(&tx, after, limit, filter)
}

/// Reads a page within the caller's transaction.
pub(crate) fn page_in(tx: &Connection, mark: Mark, limit: usize, filter: &Filter) -> Result<Page, Failure> {
    let (head, after) = (head(tx)?, mark.position);
    if limit == 0 {
        return Ok(Page::new(Vec::new(), mark));
    }
    if mark.event_id.is_some() {
        check_mark(mark, mark_at(tx, after)?.event_id)?;
    }
    if after >= head {
        return Ok(Page::new(Vec::new(), mark));
    }
    let end = if filter.is_all() { head } else { head.min(after.plus(SCANNED_ROWS)) };
    let events = if filter.is_all() {
        unfiltered(tx, after, limit, PAGE_BYTES)?
    } else {
        let (first, last, rows) = (to_sql(after.get()), to_sql(end.get()), limit_to_sql(limit));
        let (kinds, types) = (
            json_names(filter.aggregate_types.iter().map(AggregateType::as_str))?,
            json_names(filter.event_types.iter().map(EventType::as_str))?,
        );
        events(tx, FILTERED, (first, last, rows, kinds, types), limit, PAGE_BYTES)?
    };
    let mut page = Page::of(events, limit, end);
    if page.through_id.is_none() {
        page.through_id = mark_at(tx, page.through)?.event_id;
    }
    Ok(page)
}

/// Returns the mark of the event at a position.
pub(crate) fn mark_at(db: &Connection, position: Position) -> Result<Mark, Failure> {
    let id = db.prepare_cached(EVENT_ID)?.query_row([to_sql(position.get())], |row| row.get(0)).optional()?;
    Ok(Mark::from(position).with_event_id(event_id_from_sql(id)))
}

/// Returns a JSON list of `names` for `json_each`, or `None` if there are none, which lets every event pass.
fn json_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<Option<String>, Failure> {
    let names: Vec<_> = names.collect();
    if names.is_empty() {
        return Ok(None);
    }
    let json = serde_json::to_string(&names)
        .map_err(|error| Error::with_source(ErrorKind::Unencodable("a filter".into()), error))?;
    Ok(Some(json))
}

fn limit_to_sql(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(crate) fn stream(
    db: &Connection,
    stream: &StreamId,
    after: Version,
    limit: usize,
) -> Result<Vec<RecordedEvent>, Failure> {
    let (kind, id) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
    events(db, STREAM, (kind, id, to_sql(after.get()), limit_to_sql(limit)), limit, usize::MAX)
}

pub(crate) fn newest(db: &Connection, event_type: &EventType, limit: usize) -> Result<Vec<RecordedEvent>, Failure> {
    events(db, NEWEST, (event_type.as_str(), limit_to_sql(limit)), limit, usize::MAX)
}

pub(crate) fn event(db: &Connection, id: EventId, limit: usize) -> Result<Vec<RecordedEvent>, Failure> {
    events(db, EVENT, (event_id_to_sql(Some(id)), limit_to_sql(limit)), limit, usize::MAX)
}

pub(crate) fn chain(
    db: &Connection,
    id: CorrelationId,
    after: Position,
    limit: usize,
) -> Result<Vec<RecordedEvent>, Failure> {
    events(db, CHAIN, (id.as_uuid().as_bytes(), to_sql(after.get()), limit_to_sql(limit)), limit, usize::MAX)
}

/// Returns the first event type after `after`.
pub(crate) fn next_event_type(db: &Connection, after: Option<&EventType>) -> Result<Option<EventType>, Failure> {
    let after = after.map_or("", EventType::as_str);
    let next: Option<String> = db.prepare_cached(NEXT_EVENT_TYPE)?.query_row([after], |row| row.get(0)).optional()?;
    next.map(|name| EventType::new(&name).map_err(|problem| corrupt(format!("event type: {problem}")))).transpose()
}

pub(crate) fn recorded_after(
    db: &mut Connection,
    time: DateTime<Utc>,
    limit: usize,
) -> Result<Vec<RecordedEvent>, Failure> {
    let tx = db.transaction()?;
    let mut ends = tx.prepare_cached(CLOCK_STEPS)?.query_map([], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    ends.push(to_sql(head(&tx)?.next().get()));
    let (mut found, mut before) = (Vec::new(), 0);
    for end in ends {
        // Within a section between two steps of the clock, times never decrease.
        let end = from_sql(end, "position")?.saturating_sub(1);
        let first = last_recorded_by(&tx, time.timestamp_micros(), before, end)?;
        let wanted = usize::try_from(end - first).unwrap_or(usize::MAX).min(limit - found.len());
        found.extend(unfiltered(&tx, Position::new(first), wanted, usize::MAX)?);
        before = end;
    }
    Ok(found)
}

/// Returns events without a filter and checks that their positions are contiguous: no projection would ever get a missing event.
fn unfiltered(
    db: &Connection,
    after: Position,
    limit: usize,
    enough_bytes: usize,
) -> Result<Vec<RecordedEvent>, Failure> {
    let events = events(db, ALL, (to_sql(after.get()), limit_to_sql(limit)), limit, enough_bytes)?;
    let mut position = after;
    for event in &events {
        position = position.next();
        if event.position != position {
            return Err(corrupt(format!("position {position}: found position {} instead", event.position)));
        }
    }
    Ok(events)
}

/// Returns the last position after `before` and up to `end` that was recorded at `time` or earlier; `before` if there is none. Times never
/// decrease between the two, so a binary search with some 20 lookups finds it, and appends need not maintain an index.
fn last_recorded_by(db: &Connection, time: i64, before: u64, end: u64) -> Result<u64, Failure> {
    let mut statement = db.prepare_cached(RECORDED_AT)?;
    let (mut early, mut late) = (before, end + 1);
    while early + 1 < late {
        let middle = early + (late - early) / 2;
        let recorded_at: Option<i64> = statement.query_row([to_sql(middle)], |row| row.get(0)).optional()?;
        let recorded_at = recorded_at.ok_or_else(|| corrupt(format!("position {middle} is missing")))?;
        if recorded_at <= time {
            early = middle;
        } else {
            late = middle;
        }
    }
    Ok(early)
}

const EVENT_ID: &str = "SELECT event_id FROM retell_events WHERE position = ?1";

const HEAD: &str = "SELECT max(position) FROM retell_events";

/// Binds: after, limit.
const ALL: &str = concat!(
    "SELECT position, ",
    event_columns!(""),
    "
    FROM retell_events WHERE position > ?1
    ORDER BY position LIMIT ?2"
);

/// Binds: after, up to, limit, aggregate types and event types as JSON arrays or NULL. The unary plus prevents the use of other indexes, so the scan
/// stays in log order.
const FILTERED: &str = concat!(
    "SELECT position, ",
    event_columns!(""),
    "
    FROM retell_events WHERE position > ?1 AND position <= ?2
        AND (?4 IS NULL OR +aggregate_type IN (SELECT value FROM json_each(?4)))
        AND (?5 IS NULL OR +event_type IN (SELECT value FROM json_each(?5)))
    ORDER BY position LIMIT ?3"
);

/// Binds: aggregate type, aggregate id, after, limit.
const STREAM: &str = concat!(
    "SELECT position, ",
    event_columns!(""),
    "
    FROM retell_events WHERE aggregate_type = ?1 AND aggregate_id = ?2 AND version > ?3
    ORDER BY version LIMIT ?4"
);

const NEWEST: &str = concat!(
    "SELECT position, ",
    event_columns!(""),
    "
    FROM retell_events WHERE event_type = ?1
    ORDER BY position DESC LIMIT ?2"
);

/// Binds: event, limit.
const EVENT: &str =
    concat!("SELECT position, ", event_columns!(""), " FROM retell_events WHERE event_id = ?1 LIMIT ?2");

/// Binds: correlation id, after, limit. The condition on both ids is that of the index.
const CHAIN: &str = concat!(
    "SELECT position, ",
    event_columns!(""),
    "
    FROM retell_events WHERE position IN (
        SELECT position FROM (
            SELECT position FROM retell_events WHERE correlation_id = ?1 AND correlation_id <> event_id AND position > ?2
            ORDER BY position LIMIT ?3)
        UNION ALL
        SELECT position FROM retell_events WHERE event_id = ?1 AND (correlation_id IS NULL OR correlation_id = ?1) AND position > ?2
    )
    ORDER BY position LIMIT ?3"
);

/// Binds: after. One step in the index of event types.
const NEXT_EVENT_TYPE: &str = "SELECT event_type FROM retell_events WHERE event_type > ?1 ORDER BY event_type LIMIT 1";

const CLOCK_STEPS: &str = "SELECT position FROM retell_clock_steps ORDER BY position";

const RECORDED_AT: &str = "SELECT recorded_at FROM retell_events WHERE position = ?1";
