//! Replays a stream in chunks: decodes one chunk while the next is read.

use std::ops::Range;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::event::StoredEvent;
use crate::id::{EventId, StreamId, Version};
use crate::store::log::history::stream_changed;
use crate::store::log::reader::{Replay, UpTo, Visitor};
use crate::store::sqlite::connection::Pool;
use crate::store::sqlite::convert::{from_sql, to_sql};
use crate::store::sqlite::error::{Failure, corrupt};
use crate::store::sqlite::log::row::{CHUNK_BYTES, RESERVED_ROWS, codec};

/// The most chunks that may wait to be decoded.
const CHUNKS_AHEAD: usize = 2;

/// Part of a stream, copied out of SQLite's pages.
#[derive(Default)]
struct Chunk {
    /// The snapshot, if this is the first chunk and the stream has one. Sending it separately would wake the visitor once more for no gain.
    snapshot: Option<(Version, EventId, Vec<u8>)>,
    bytes: Vec<u8>,
    rows: Vec<ChunkRow>,
}

impl Chunk {
    /// Creates an empty chunk with the capacity of a full one.
    fn with_full_capacity() -> Self {
        Self {
            snapshot: None,
            bytes: Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4),
            rows: Vec::with_capacity(RESERVED_ROWS),
        }
    }
}

struct ChunkRow {
    version: Version,
    id: EventId,
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
    // Both run at once: one chunk is decoded while the next one is read. After an error of the visitor, the reading thread finds the channel
    // closed and ends.
    let (last, ()) = futures::future::try_join(reading, visiting).await?;
    visit(&last, stream, visitor)
}

fn visit(chunk: &Chunk, stream: &StreamId, visitor: &mut dyn Visitor) -> Result<()> {
    if let Some((version, id, state)) = &chunk.snapshot {
        visitor.snapshot(*version, *id, state)?;
    }
    chunk.rows.iter().try_for_each(|row| {
        let event_type = std::str::from_utf8(&chunk.bytes[row.event_type.clone()]).map_err(|error| {
            let what = format!("{stream} version {}: the event type is not UTF-8", row.version);
            Error::with_source(ErrorKind::Corrupt(what), error)
        })?;
        let payload = &chunk.bytes[row.payload.clone()];
        let (schema_version, codec) = (row.schema_version, row.codec);
        visitor.event(row.version, row.id, StoredEvent { event_type, schema_version, codec, payload })
    })
}

/// Sends full chunks to `chunks` and returns the last one, so that a short stream sends nothing through the channel.
fn read_stream(
    db: &mut Connection,
    stream: &StreamId,
    replay: Replay,
    chunks: &mpsc::Sender<Chunk>,
) -> Result<Chunk, Failure> {
    let (kind, id) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
    let last = match replay.up_to {
        UpTo::Head => i64::MAX,
        UpTo::Version(version) => to_sql(version.get()),
        UpTo::Time(time) => {
            let mut found = db.prepare_cached(LAST_RECORDED_BY)?;
            let last = found.query_row((kind, id, time.timestamp_micros()), |row| row.get(0)).optional()?;
            last.unwrap_or(0)
        }
    };
    if let Some(fingerprint) = replay.snapshot
        && replay.after_event.is_none()
    {
        let mut statement = db.prepare_cached(SNAPSHOT)?;
        let binds = (kind, id, fingerprint.cast_signed(), to_sql(replay.after.get()), last);
        let row = |row: &Row<'_>| Ok((row.get(0)?, EventId::from(Uuid::from_bytes(row.get(1)?)), row.get(2)?));
        if let Some((version, event, state)) = statement.query_row(binds, row).optional()? {
            let version = Version::new(from_sql(version, "snapshot version")?);
            let first = Chunk { snapshot: Some((version, event, state)), ..Chunk::default() };
            // If the log does not have the snapshot's event, the snapshot belongs to another history and does not count.
            if let Some(last_chunk) = read_events(db, stream, (version, Some(event)), last, first, chunks)? {
                return Ok(last_chunk);
            }
        }
    }
    let start = (replay.after, replay.after_event);
    match (read_events(db, stream, start, last, Chunk::default(), chunks)?, replay.after_event) {
        (Some(last_chunk), _) => Ok(last_chunk),
        (None, Some(known)) => {
            let at = (kind, id, to_sql(replay.after.get()));
            let found =
                db.prepare_cached(EVENT_AT)?.query_row(at, |row| Ok(Uuid::from_bytes(row.get(0)?))).optional()?;
            Err(stream_changed(stream, replay.after, known, found.map(EventId::from)).into())
        }
        (None, None) => Ok(Chunk::default()),
    }
}

/// Reads the events after the version `after` into `chunk`, sends full chunks and returns the last one. If `known` is the id of the event at
/// `after`, the same statement reads that event once more. Returns `None`, and sends nothing, if the stream has another event there.
fn read_events(
    db: &Connection,
    stream: &StreamId,
    (after, known): (Version, Option<EventId>),
    last: i64,
    mut chunk: Chunk,
    chunks: &mpsc::Sender<Chunk>,
) -> Result<Option<Chunk>, Failure> {
    let (kind, id) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
    let from = match (after, known) {
        // The scan starts below version 1, so that it finds a damaged version there instead of skipping it.
        (Version::ZERO, None) => i64::MIN,
        (after, None) => to_sql(after.next().get()),
        (after, Some(_)) => to_sql(after.get()),
    };
    let mut statement = db.prepare_cached(REPLAY)?;
    let mut rows = statement.query((kind, id, from, last.max(to_sql(after.get()))))?;
    if let Some(known) = known {
        let Some(row) = rows.next()? else { return Ok(None) };
        if (from_sql(row.get(0)?, "version")?, event_id(row)?) != (after.get(), known) {
            return Ok(None);
        }
    }
    let mut version = after;
    while let Some(row) = rows.next()? {
        version = version.next();
        chunk.push(row, version).map_err(|failure| failure.in_row(format_args!("{stream} version {version}")))?;
        if chunk.bytes.len() >= CHUNK_BYTES
            && chunks.blocking_send(std::mem::replace(&mut chunk, Chunk::with_full_capacity())).is_err()
        {
            // The visitor has failed, or the caller has dropped the call.
            return Ok(Some(Chunk::default()));
        }
    }
    Ok(Some(chunk))
}

fn event_id(row: &Row<'_>) -> Result<EventId, Failure> {
    let id = row.get_ref(5)?.as_blob().map_err(rusqlite::Error::from)?;
    Uuid::from_slice(id).map(EventId::from).map_err(|error| corrupt(error.to_string()))
}

impl Chunk {
    /// Adds a row and checks that versions are contiguous: a replay with a missing event would lead to a state that never existed.
    fn push(&mut self, row: &Row<'_>, version: Version) -> Result<(), Failure> {
        let found = from_sql(row.get(0)?, "version")?;
        if found != version.get() {
            return Err(corrupt(format!("found version {found} instead")));
        }
        let number: i64 = row.get(3)?;
        let codec = codec(number).ok_or_else(|| corrupt(format!("unknown codec {number}")))?;
        let event_type = self.keep(row.get_ref(1)?.as_bytes().map_err(rusqlite::Error::from)?);
        let payload = self.keep(row.get_ref(4)?.as_blob().map_err(rusqlite::Error::from)?);
        self.rows.push(ChunkRow {
            version,
            id: event_id(row)?,
            schema_version: row.get(2)?,
            codec,
            event_type,
            payload,
        });
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }
}

/// Binds: aggregate type, aggregate id, first version, up to version.
const REPLAY: &str = "
    SELECT version, event_type, schema_version, codec, payload, event_id FROM retell_events
    WHERE aggregate_type = ?1 AND aggregate_id = ?2 AND version >= ?3 AND version <= ?4
    ORDER BY version";

/// Binds: aggregate type, aggregate id, time. An earlier event may have a later time, if the clock went back in between.
const LAST_RECORDED_BY: &str = "
    SELECT version FROM retell_events WHERE aggregate_type = ?1 AND aggregate_id = ?2 AND recorded_at <= ?3
    ORDER BY version DESC LIMIT 1";

/// Binds: aggregate type, aggregate id, fingerprint, after, up to version. A snapshot counts only if the log has its event under its version.
const SNAPSHOT: &str = "
    SELECT version, event_id, state FROM retell_snapshots s
    WHERE aggregate_type = ?1 AND aggregate_id = ?2 AND fingerprint = ?3 AND version > ?4 AND version <= ?5 AND EXISTS (
        SELECT 1 FROM retell_events e
        WHERE e.aggregate_type = ?1 AND e.aggregate_id = ?2 AND e.version = s.version AND e.event_id = s.event_id
    )
    ORDER BY version DESC LIMIT 1";

/// Binds: aggregate type, aggregate id, version.
const EVENT_AT: &str =
    "SELECT event_id FROM retell_events WHERE aggregate_type = ?1 AND aggregate_id = ?2 AND version = ?3";
