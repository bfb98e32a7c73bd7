//! Gives the stored rows of a log to a verification, and keeps seals.

use async_trait::async_trait;
use chrono::DateTime;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::claim::HeldValue;
use crate::error::Result;
use crate::id::{AggregateId, AggregateType, Position, StreamId};
use crate::store::log::columns::event_columns;
use crate::store::log::fault::{Fault, FaultId};
use crate::store::log::inspect::{Cursor, Inspect, LogRow};
use crate::store::log::keys::KeyRow;
use crate::store::log::query::PAGE_BYTES;
use crate::store::log::seal::{Seal, SealDigest};
use crate::store::log::stored_row::StoredRow;
use crate::store::sqlite::convert::{position_from_sql, to_sql};
use crate::store::sqlite::error::{Failure, corrupt};
use crate::store::sqlite::store::SqliteStore;

#[async_trait]
impl Inspect for SqliteStore {
    async fn rows(&self, from: Cursor, limit: usize) -> Result<Option<Vec<LogRow>>> {
        let after = match from {
            Cursor::Position(after) => to_sql(after.get()),
            Cursor::Row { first, ordinal } => first + i64::from(ordinal) - 1,
        };
        self.readers.run("read the rows of the log", move |db| rows(db, after, limit)).await.map(Some)
    }

    async fn strays(&self, limit: usize) -> Result<Option<Vec<Fault>>> {
        self.readers.run("look for stray rows", move |db| strays(db, limit)).await.map(Some)
    }

    async fn snapshots(
        &self,
        aggregate_type: &AggregateType,
        after: Option<&AggregateId>,
        limit: usize,
    ) -> Result<Option<Vec<AggregateId>>> {
        let (kind, after) = (aggregate_type.clone(), after.map_or_else(String::new, ToString::to_string));
        let read = move |db: &mut Connection| {
            let mut select = db.prepare_cached(SNAPSHOTS)?;
            let ids = select.query_map((kind.as_str(), after, to_sql(limit as u64)), |row| row.get::<_, String>(0))?;
            Ok(ids.collect::<Result<Vec<_>, _>>()?)
        };
        let ids = self.readers.run("list the snapshots", read).await?;
        Ok(Some(ids.into_iter().map(AggregateId::new).collect::<Result<_, _>>()?))
    }

    async fn held_values(&self, stream: &StreamId, limit: usize) -> Result<Option<Vec<HeldValue>>> {
        let stream = stream.clone();
        let read = move |db: &mut Connection| {
            let mut select = db.prepare_cached(HELD_VALUES)?;
            let (kind, id) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
            let mut rows = select.query((kind, id, to_sql(limit as u64)))?;
            let mut held = Vec::new();
            while let Some(row) = rows.next()? {
                let text = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_str()?);
                let found = HeldValue::parse(text(0)?, text(1)?);
                held.push(found.map_err(|problem| corrupt(format!("a value of {stream}: {problem}")))?);
            }
            Ok(held)
        };
        self.readers.run("list the values of a stream", read).await.map(Some)
    }

    async fn seals(&self, after: Position, limit: usize) -> Result<Option<Vec<Seal>>> {
        let read = move |db: &mut Connection| {
            let mut select = db.prepare_cached(SEALS)?;
            let mut rows = select.query((to_sql(after.get()), to_sql(limit as u64)))?;
            let mut seals = Vec::new();
            while let Some(row) = rows.next()? {
                seals.push(seal(row)?);
            }
            Ok(seals)
        };
        self.readers.run("read the seals", read).await.map(Some)
    }

    async fn last_seal(&self) -> Result<Option<Seal>> {
        let read = |db: &mut Connection| {
            let mut select = db.prepare_cached(LAST_SEAL)?;
            let mut rows = select.query([])?;
            rows.next()?.map(seal).transpose()
        };
        self.readers.run("read a seal", read).await
    }

    async fn add_seal(&self, seal: &Seal) -> Result<()> {
        let seal = seal.clone();
        self.writer.pool.run("store a seal", move |db| add_seal(db, &seal)).await
    }

    async fn keys(&self, after: &str, limit: usize) -> Result<Option<Vec<KeyRow>>> {
        self.keys_after(after, limit).await.map(Some)
    }

    async fn delete_keys(&self, after: &str, last: &str, through: Position) -> Result<u64> {
        self.delete_keys_in(after, last, through).await
    }
}

pub(crate) fn add_seal(db: &Connection, seal: &Seal) -> Result<(), Failure> {
    let (first, last) = (to_sql(seal.first.get()), to_sql(seal.last.get()));
    let time = seal.sealed_at.timestamp_micros();
    let (previous, digest) = (seal.previous.as_bytes(), seal.digest.as_bytes());
    db.prepare_cached(ADD_SEAL)?.execute((first, last, previous, digest, time))?;
    Ok(())
}

fn seal(row: &Row<'_>) -> Result<Seal, Failure> {
    let time: i64 = row.get(4)?;
    let sealed_at =
        DateTime::from_timestamp_micros(time).ok_or_else(|| corrupt(format!("a seal has the time {time}")))?;
    let (previous, digest) = (SealDigest::from_bytes(row.get(2)?), SealDigest::from_bytes(row.get(3)?));
    Ok(Seal::new(position_from_sql(row.get(0)?)?, position_from_sql(row.get(1)?)?, previous, digest, sealed_at))
}

fn rows(db: &Connection, after: i64, limit: usize) -> Result<Vec<LogRow>, Failure> {
    let mut select = db.prepare_cached(ROWS)?;
    let mut rows = select.query((after, to_sql(limit as u64)))?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while bytes < PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        let event = StoredRow {
            event_id: stored(row, 1)?.unwrap_or_default(),
            aggregate_type: stored(row, 2)?.unwrap_or_default(),
            aggregate_id: stored(row, 3)?.unwrap_or_default(),
            version: row.get(4)?,
            event_type: stored(row, 5)?.unwrap_or_default(),
            schema_version: row.get(6)?,
            codec: row.get(7)?,
            recorded_at: row.get(8)?,
            correlation_id: stored(row, 9)?,
            causation_id: stored(row, 10)?,
            metadata: stored(row, 11)?,
            payload: stored(row, 12)?.unwrap_or_default(),
        };
        bytes += event.payload.len();
        let (position, ordinal, previous): (i64, i32, _) = (row.get(0)?, row.get(13)?, row.get(14)?);
        let first = position - i64::from(ordinal) + 1;
        found.push(LogRow { first, ordinal, events: ordinal, is_on_time: true, previous, event: Some(event) });
    }
    Ok(found)
}

/// Returns the bytes of a text or a blob.
fn stored(row: &Row<'_>, column: usize) -> Result<Option<Vec<u8>>, Failure> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes.to_vec()),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => None,
    })
}

fn strays(db: &Connection, limit: usize) -> Result<Vec<Fault>, Failure> {
    let mut found = Vec::new();
    let is_missing = |index: &str| -> Result<bool, Failure> {
        Ok(db.prepare_cached(INDEX)?.query_row([index], |_| Ok(())).optional()?.is_none())
    };
    for (index, id, statement) in INDEXES {
        if is_missing(index)? {
            found.push(Fault::new(FaultId::IndexMissing, format!("the unique index {index} is missing")));
            found.extend(stray(db, id, statement, limit)?);
        }
    }
    found.extend(stray(db, FaultId::ClaimStray, CLAIMS_WITHOUT_STREAM, limit)?);
    found.extend(stray(db, FaultId::SnapshotAhead, SNAPSHOTS_AHEAD, limit)?);
    Ok(found)
}

fn stray(db: &Connection, id: FaultId, statement: &'static str, limit: usize) -> Result<Vec<Fault>, Failure> {
    let mut select = db.prepare_cached(statement)?;
    let faults = select.query_map([to_sql(limit as u64)], |row| {
        let fault = Fault::new(id, row.get::<_, String>(3)?);
        let (kind, key): (Option<String>, Option<String>) = (row.get(0)?, row.get(1)?);
        Ok(match (kind, key) {
            (Some(kind), Some(key)) => fault.with_stream(&kind, &key, row.get(2)?),
            _ => fault,
        })
    })?;
    Ok(faults.collect::<Result<_, _>>()?)
}

/// Binds: after, limit. The last column is the position of the event before in the stream.
const ROWS: &str = concat!(
    "SELECT e.position, ",
    event_columns!("e."),
    ", e.ordinal, (
        SELECT p.position FROM retell_events p
        WHERE p.aggregate_type = e.aggregate_type AND p.aggregate_id = e.aggregate_id AND p.version = e.version - 1)
    FROM retell_events e WHERE e.position > ?1
    ORDER BY e.position LIMIT ?2"
);

/// Binds: aggregate type, aggregate id, limit.
const HELD_VALUES: &str = "
    SELECT scope, value FROM retell_reservations WHERE aggregate_type = ?1 AND aggregate_id = ?2 ORDER BY scope, value LIMIT ?3";

/// Binds: name.
const INDEX: &str =
    "SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = ?1 AND sql LIKE 'CREATE UNIQUE INDEX%'";

/// Each unique index with what there can be without it, and the statement that finds that.
const INDEXES: [(&str, FaultId, &str); 2] = [
    ("retell_events_stream", FaultId::VersionTwice, VERSIONS_TWICE),
    ("retell_events_id", FaultId::IdTwice, IDS_TWICE),
];

/// Binds: limit. Selects: aggregate type, aggregate id, version, detail, as all statements below.
const IDS_TWICE: &str = "
    SELECT NULL, NULL, NULL, printf('%d events have the id %s', count(*), lower(hex(event_id)))
    FROM retell_events GROUP BY event_id HAVING count(*) > 1 LIMIT ?1";

const VERSIONS_TWICE: &str = "
    SELECT aggregate_type, aggregate_id, version, printf('%d events have this version', count(*))
    FROM retell_events GROUP BY aggregate_type, aggregate_id, version HAVING count(*) > 1 LIMIT ?1";

const CLAIMS_WITHOUT_STREAM: &str = "
    SELECT r.aggregate_type, r.aggregate_id, NULL, 'a value of the scope ' || r.scope || ' is held by a stream without events'
    FROM retell_reservations r
    WHERE NOT EXISTS (
        SELECT 1 FROM retell_events e WHERE e.aggregate_type = r.aggregate_type AND e.aggregate_id = r.aggregate_id)
    LIMIT ?1";

const SNAPSHOTS_AHEAD: &str = "
    SELECT s.aggregate_type, s.aggregate_id, s.version, 'the stream does not have the event ' || lower(hex(s.event_id)) || ' of the snapshot'
    FROM retell_snapshots s
    WHERE NOT EXISTS (
        SELECT 1 FROM retell_events e
        WHERE e.aggregate_type = s.aggregate_type AND e.aggregate_id = s.aggregate_id AND e.version = s.version AND e.event_id = s.event_id)
    LIMIT ?1";

/// Binds: aggregate type, id, limit.
const SNAPSHOTS: &str = "
    SELECT DISTINCT aggregate_id FROM retell_snapshots WHERE aggregate_type = ? AND aggregate_id > ? ORDER BY aggregate_id LIMIT ?";

/// Binds: after, limit.
const SEALS: &str = "
    SELECT first_position, last_position, previous, digest, sealed_at FROM retell_seals
    WHERE first_position > coalesce((
        SELECT max(first_position) - 1 FROM retell_seals WHERE first_position <= ?1 AND last_position > ?1), ?1)
    ORDER BY first_position LIMIT ?2";

const LAST_SEAL: &str = "
    SELECT first_position, last_position, previous, digest, sealed_at FROM retell_seals ORDER BY first_position DESC LIMIT 1";

/// Binds: first position, last position, previous digest, digest, time.
const ADD_SEAL: &str = "
    INSERT INTO retell_seals (first_position, last_position, previous, digest, sealed_at) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT DO NOTHING";
