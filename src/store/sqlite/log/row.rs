//! Reads events from rows. Payloads share a few buffers, and each type name has one allocation.

use bytes::{Bytes, BytesMut};
use chrono::DateTime;
use rusqlite::{Connection, Params, Row};
use uuid::Uuid;

use crate::codec::Codec;
use crate::error::Error;
use crate::event::{Metadata, NewEvent, RecordedEvent};
use crate::id::{AggregateId, AggregateType, EventType, Position, StreamId, Version};
use crate::store::sqlite::convert::{from_sql, position_from_sql};
use crate::store::sqlite::error::{Failure, corrupt};

/// The size in bytes of a stream's chunk and of a buffer that payloads share. It is large enough to hide the cost of the channel and small enough to
/// stay in a CPU cache. It is also below 128 KiB, the size from which allocators request fresh pages from the system each time, which costs more
/// than reading the rows.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;

/// The initial capacity of a page or a chunk, in rows.
pub(crate) const RESERVED_ROWS: usize = 512;

/// Returns the events that a statement selects, up to the one whose payload brings the total to `enough_bytes`. `at_most` is the number of rows to
/// reserve capacity for.
pub(crate) fn events(
    db: &Connection,
    sql: &'static str,
    binds: impl Params,
    at_most: usize,
    enough_bytes: usize,
) -> Result<Vec<RecordedEvent>, Failure> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(binds)?;
    let mut reader = EventsReader::default();
    let mut events = Vec::with_capacity(at_most.min(RESERVED_ROWS));
    let mut bytes = 0;
    while bytes < enough_bytes
        && let Some(row) = rows.next()?
    {
        let event = reader.read(row)?;
        bytes += event.payload_bytes();
        events.push(event);
    }
    Ok(events)
}

#[derive(Default)]
struct EventsReader {
    payloads: BytesMut,
    aggregate_types: Vec<AggregateType>,
    event_types: Vec<EventType>,
}

impl EventsReader {
    fn read(&mut self, row: &Row<'_>) -> Result<RecordedEvent, Failure> {
        let position = position_from_sql(row.get(0)?)?;
        self.read_at(position, row).map_err(|failure| failure.in_row(format_args!("position {position}")))
    }

    fn read_at(&mut self, position: Position, row: &Row<'_>) -> Result<RecordedEvent, Failure> {
        let aggregate_type = interned(&mut self.aggregate_types, text(row, 2)?, AggregateType::as_str)?;
        let aggregate_id = AggregateId::new(text(row, 3)?).map_err(Error::from)?;
        let event_type = interned(&mut self.event_types, text(row, 5)?, EventType::as_str)?;
        let number: i64 = row.get(7)?;
        let micros: i64 = row.get(8)?;
        let metadata = Metadata::from_parts(
            id(row, 9)?.map(Into::into),
            id(row, 10)?.map(Into::into),
            row.get_ref(11)?.as_str_or_null().map_err(rusqlite::Error::from)?,
        )
        .map_err(|error| corrupt(format!("metadata: {error}")))?;
        let payload = row.get_ref(12)?.as_blob().map_err(rusqlite::Error::from)?;
        Ok(RecordedEvent {
            position,
            stream: StreamId::new(aggregate_type, aggregate_id),
            version: Version::new(from_sql(row.get(4)?, "version")?),
            recorded_at: DateTime::from_timestamp_micros(micros)
                .ok_or_else(|| corrupt(format!("invalid time {micros}")))?,
            event: NewEvent {
                id: id(row, 1)?.ok_or_else(|| corrupt("the event id is NULL".into()))?.into(),
                event_type,
                schema_version: row.get(6)?,
                codec: codec(number).ok_or_else(|| corrupt(format!("unknown codec {number}")))?,
                payload: self.keep(payload),
                metadata,
                declared: None,
            },
        })
    }

    /// Copies a payload into a buffer that it shares with the payloads before and after it.
    fn keep(&mut self, payload: &[u8]) -> Bytes {
        if self.payloads.capacity() < payload.len() {
            self.payloads = BytesMut::with_capacity(payload.len().max(CHUNK_BYTES));
        }
        self.payloads.extend_from_slice(payload);
        self.payloads.split().freeze()
    }
}

fn text<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r str, Failure> {
    Ok(row.get_ref(column)?.as_str().map_err(rusqlite::Error::from)?)
}

fn id(row: &Row<'_>, column: usize) -> Result<Option<Uuid>, Failure> {
    let Some(bytes) = row.get_ref(column)?.as_blob_or_null().map_err(rusqlite::Error::from)? else {
        return Ok(None);
    };
    Uuid::from_slice(bytes).map(Some).map_err(|error| corrupt(error.to_string()))
}

/// Returns the name with this text, from `known` if it is there: a log has few types, so all events of a type share one allocation.
fn interned<'t, T>(known: &mut Vec<T>, text: &'t str, as_str: fn(&T) -> &str) -> Result<T, Failure>
where
    T: Clone + TryFrom<&'t str>,
    Error: From<T::Error>,
{
    if let Some(name) = known.iter().find(|name| as_str(name) == text) {
        return Ok(name.clone());
    }
    let name = T::try_from(text).map_err(Error::from)?;
    known.push(name.clone());
    Ok(name)
}

/// Returns the codec with this number.
pub(crate) fn codec(number: i64) -> Option<Codec> {
    u8::try_from(number).ok().and_then(Codec::from_number)
}
