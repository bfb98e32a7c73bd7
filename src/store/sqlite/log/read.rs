//! Reads the log: streams in chunks that are decoded while the next one is read, pages that share one buffer.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Params, Row};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Metadata, NewEvent, RecordedEvent, StoredEvent};
use crate::id::{AggregateId, AggregateType, EventType, Position, StreamId, Version};
use crate::store::log::query::{Filter, PAGE_BYTES, Page};
use crate::store::log::reader::{Replay, UpTo, Visitor};
use crate::store::sqlite::connection::Pool;
use crate::store::sqlite::convert::{from_sql, position_from_sql, to_sql};
use crate::store::sqlite::error::{Failure, corrupt};

/// A chunk of a stream is handed over when it has this many bytes: enough to hide the hand-over, little enough to stay in a cache, and
/// below the size from which allocators ask the system for fresh pages each time (128 KiB), which costs more than reading them.
const CHUNK_BYTES: usize = 64 * 1024;

/// Rows that a page of events is made for at the start; a longer one grows.
const RESERVED_ROWS: usize = 512;

/// Chunks that may wait to be decoded.
const CHUNKS_AHEAD: usize = 2;

/// Rows one page may pass over in search of events that pass the filter: no call blocks a reader for long.
const SCANNED_ROWS: u64 = 200_000;

/// Part of a stream, copied out of SQLite's pages.
#[derive(Default)]
struct Chunk {
    /// In the first chunk, if there is one. Handed over by itself it would wake the visitor once more, for nothing.
    snapshot: Option<(Version, Vec<u8>)>,
    bytes: Vec<u8>,
    rows: Vec<ChunkRow>,
}

impl Chunk {
    /// An empty chunk with room for what one holds.
    fn roomy() -> Self {
        Self {
            snapshot: None,
            bytes: Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4),
            rows: Vec::with_capacity(RESERVED_ROWS),
        }
    }
}

struct ChunkRow {
    version: Version,
    schema_version: u32,
    codec: Codec,
    event_type: Range<usize>,
    payload: Range<usize>,
}

pub(crate) async fn replay(
    readers: &Arc<Pool>,
    stream: &StreamId,
    replay: Replay,
    visitor: &mut dyn Visitor,
) -> Result<()> {
    let (chunks, mut arriving) = mpsc::channel(CHUNKS_AHEAD);
    let names = stream.clone();
    let reading = readers.run("replay a stream", move |db| read_stream(db, &names, replay, &chunks));
    let visiting = async {
        while let Some(chunk) = arriving.recv().await {
            visit(&chunk, stream, visitor)?;
        }
        Ok::<(), Error>(())
    };
    // Both at once: one chunk is decoded while the next one is read. After an error of the visitor's, the reading thread finds that
    // nobody listens and ends.
    let (last, ()) = futures::future::try_join(reading, visiting).await?;
    visit(&last, stream, visitor)
}

fn visit(chunk: &Chunk, stream: &StreamId, visitor: &mut dyn Visitor) -> Result<()> {
    if let Some((version, state)) = &chunk.snapshot {
        visitor.snapshot(*version, state)?;
    }
    chunk.rows.iter().try_for_each(|row| {
        let event_type = std::str::from_utf8(&chunk.bytes[row.event_type.clone()]).map_err(|error| {
            let what = format!("{stream} version {}: the event type is not text", row.version);
            Error::with_source(ErrorKind::Corrupt(what), error)
        })?;
        let payload = &chunk.bytes[row.payload.clone()];
        let (schema_version, codec) = (row.schema_version, row.codec);
        visitor.event(row.version, StoredEvent { event_type, schema_version, codec, payload })
    })
}

/// Sends full chunks on and returns the last one, so that a short stream costs no channel.
fn read_stream(
    db: &mut Connection,
    stream: &StreamId,
    replay: Replay,
    chunks: &mpsc::Sender<Chunk>,
) -> Result<Chunk, Failure> {
    let (kind, id) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
    let (last, until) = match replay.up_to {
        UpTo::Head => (i64::MAX, i64::MAX),
        UpTo::Version(version) => (to_sql(version.get()), i64::MAX),
        UpTo::Time(time) => (i64::MAX, time.timestamp_micros()),
    };
    let mut after = to_sql(replay.after.get());
    let mut chunk = Chunk::default();
    if let Some(fingerprint) = replay.snapshot
        && until == i64::MAX
    {
        let mut snapshot = db.prepare_cached(SNAPSHOT)?;
        let binds = (kind, id, fingerprint.cast_signed(), after, last);
        if let Some((version, state)) = snapshot.query_row(binds, |row| Ok((row.get(0)?, row.get(1)?))).optional()? {
            after = version;
            chunk.snapshot = Some((Version::new(from_sql(version, "snapshot version")?), state));
        }
    }
    let mut version = Version::new(from_sql(after, "version")?);
    if version == Version::ZERO {
        // From the very beginning, so that a damaged version below 1 is met and not passed over.
        after = i64::MIN;
    }
    let mut statement = db.prepare_cached(REPLAY)?;
    let mut rows = statement.query((kind, id, after, last, until))?;
    while let Some(row) = rows.next()? {
        version = version.next();
        chunk.push(row, version).map_err(|failure| failure.in_row(format_args!("{stream} version {version}")))?;
        if chunk.bytes.len() >= CHUNK_BYTES
            && chunks.blocking_send(std::mem::replace(&mut chunk, Chunk::roomy())).is_err()
        {
            // The visitor has seen enough, or the caller is gone.
            return Ok(Chunk::default());
        }
    }
    Ok(chunk)
}

impl Chunk {
    /// Invariant: versions are contiguous; a hole would be a state that never was.
    fn push(&mut self, row: &Row<'_>, version: Version) -> Result<(), Failure> {
        let found = from_sql(row.get(0)?, "version")?;
        if found != version.get() {
            return Err(corrupt(format!("found version {found} in its place")));
        }
        let number: i64 = row.get(3)?;
        let codec = codec(number).ok_or_else(|| corrupt(format!("unknown codec {number}")))?;
        let event_type = self.keep(row.get_ref(1)?.as_bytes().map_err(rusqlite::Error::from)?);
        let payload = self.keep(row.get_ref(4)?.as_blob().map_err(rusqlite::Error::from)?);
        self.rows.push(ChunkRow { version, schema_version: row.get(2)?, codec, event_type, payload });
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }
}

fn codec(number: i64) -> Option<Codec> {
    u8::try_from(number).ok().and_then(Codec::from_number)
}

pub(crate) fn head(db: &Connection) -> Result<Position, Failure> {
    let head: Option<i64> = db.prepare_cached(HEAD)?.query_row([], |row| row.get(0))?;
    position_from_sql(head.unwrap_or(0))
}

pub(crate) fn page(db: &mut Connection, after: Position, limit: usize, filter: &Filter) -> Result<Page, Failure> {
    // One snapshot for head and rows: otherwise an event between the two would seem looked at.
    let tx = db.transaction()?;
    page_in(&tx, after, limit, filter)
}

/// The same within a transaction.
pub(crate) fn page_in(tx: &Connection, after: Position, limit: usize, filter: &Filter) -> Result<Page, Failure> {
    let head = head(tx)?;
    if limit == 0 || after >= head {
        return Ok(Page { events: Vec::new(), through: after });
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
    Ok(Page::of(events, limit, end))
}

/// A list for `json_each`; `None` lets everything pass.
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

pub(crate) fn recorded_after(
    db: &mut Connection,
    time: DateTime<Utc>,
    limit: usize,
) -> Result<Vec<RecordedEvent>, Failure> {
    let tx = db.transaction()?;
    let first = last_recorded_by(&tx, time.timestamp_micros())?;
    unfiltered(&tx, Position::new(first), limit, usize::MAX)
}

/// Invariant: positions are contiguous; a hole would be an event that no projection ever gets.
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
            return Err(corrupt(format!("position {position}: found position {} in its place", event.position)));
        }
    }
    Ok(events)
}

/// The last position recorded at `time` or before. Times never decrease along the log, so some 20 look-ups find it, without an index
/// that every append would pay for.
fn last_recorded_by(db: &Connection, time: i64) -> Result<u64, Failure> {
    let mut statement = db.prepare_cached(RECORDED_AT)?;
    let (mut early, mut late) = (0, head(db)?.get() + 1);
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

/// Reads whole events, until there are no more or their payloads have enough bytes. Their payloads share few buffers and their types one allocation each.
fn events(
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
        let aggregate_type = known(&mut self.aggregate_types, text(row, 2)?, AggregateType::as_str)?;
        let aggregate_id = AggregateId::new(text(row, 3)?).map_err(Error::from)?;
        let event_type = known(&mut self.event_types, text(row, 5)?, EventType::as_str)?;
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
            recorded_at: DateTime::from_timestamp_micros(micros).ok_or_else(|| corrupt(format!("time {micros}")))?,
            event: NewEvent {
                id: id(row, 1)?.ok_or_else(|| corrupt("no event id".into()))?.into(),
                event_type,
                schema_version: row.get(6)?,
                codec: codec(number).ok_or_else(|| corrupt(format!("unknown codec {number}")))?,
                payload: self.keep(payload),
                metadata,
            },
        })
    }

    /// Copies a payload into a buffer it shares with its neighbours.
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

/// A log has few kinds of things: the same text is the same allocation.
fn known<'t, T>(known: &mut Vec<T>, text: &'t str, as_str: fn(&T) -> &str) -> Result<T, Failure>
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

const HEAD: &str = "SELECT max(position) FROM retell_events";

/// Binds: aggregate type, aggregate id, after, up to version, up to time.
const REPLAY: &str = "
    SELECT version, event_type, schema_version, codec, payload FROM retell_events
    WHERE aggregate_type = ?1 AND aggregate_id = ?2 AND version > ?3 AND version <= ?4 AND recorded_at <= ?5
    ORDER BY version";

/// Binds: aggregate type, aggregate id, fingerprint, after, up to version.
const SNAPSHOT: &str = "
    SELECT version, state FROM retell_snapshots
    WHERE aggregate_type = ?1 AND aggregate_id = ?2 AND fingerprint = ?3 AND version > ?4 AND version <= ?5";

/// Binds: after, limit.
const ALL: &str = "
    SELECT position, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec, recorded_at,
        correlation_id, causation_id, metadata, payload
    FROM retell_events WHERE position > ?1
    ORDER BY position LIMIT ?2";

/// Binds: after, up to, limit, aggregate types and event types as JSON arrays or NULL. The plus keeps the scan in log order.
const FILTERED: &str = "
    SELECT position, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec, recorded_at,
        correlation_id, causation_id, metadata, payload
    FROM retell_events WHERE position > ?1 AND position <= ?2
        AND (?4 IS NULL OR +aggregate_type IN (SELECT value FROM json_each(?4)))
        AND (?5 IS NULL OR +event_type IN (SELECT value FROM json_each(?5)))
    ORDER BY position LIMIT ?3";

/// Binds: aggregate type, aggregate id, after, limit.
const STREAM: &str = "
    SELECT position, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec, recorded_at,
        correlation_id, causation_id, metadata, payload
    FROM retell_events WHERE aggregate_type = ?1 AND aggregate_id = ?2 AND version > ?3
    ORDER BY version LIMIT ?4";

const NEWEST: &str = "
    SELECT position, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec, recorded_at,
        correlation_id, causation_id, metadata, payload
    FROM retell_events WHERE event_type = ?1
    ORDER BY position DESC LIMIT ?2";

const RECORDED_AT: &str = "SELECT recorded_at FROM retell_events WHERE position = ?1";
