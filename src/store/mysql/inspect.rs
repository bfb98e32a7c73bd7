//! Gives the stored rows of a log to a verification, and keeps seals.

use async_trait::async_trait;
use chrono::NaiveDateTime;
use sqlx::Row;
use sqlx::mysql::MySqlRow;

use crate::claim::HeldValue;
use crate::error::Result;
use crate::id::{AggregateId, AggregateType, Position, StreamId};
use crate::store::log::columns::event_columns;
use crate::store::log::fault::{Fault, FaultId};
use crate::store::log::inspect::{Cursor, Inspect, LogRow};
use crate::store::log::keys::KeyRow;
use crate::store::log::query::PAGE_BYTES;
use crate::store::log::seal::Seal;
use crate::store::log::stored_row::StoredRow;
use crate::store::mysql::connection::Connections;
use crate::store::mysql::convert::{text, time_to_sql};
use crate::store::mysql::error::classify;
use crate::store::mysql::log::keys;
use crate::store::mysql::store::MySqlStore;
use crate::store::server::convert::{limit_to_sql, to_sql};
use crate::store::server::stray::{StrayRow, faults, held_values, seal_from_sql};

/// First position, last position, previous digest, digest, time.
type SealRow = (i64, i64, Vec<u8>, Vec<u8>, NaiveDateTime);

#[async_trait]
impl Inspect for MySqlStore {
    async fn rows(&self, from: Cursor, limit: usize) -> Result<Option<Vec<LogRow>>> {
        let connections = &self.reader.connections;
        connections.repeat("read the rows of the log", || rows(connections, from, limit)).await.map(Some)
    }

    async fn strays(&self, limit: usize) -> Result<Option<Vec<Fault>>> {
        let connections = &self.reader.connections;
        let look = strays(connections, limit_to_sql(limit));
        connections.limits().long().call("look for stray rows", look).await.map(Some)
    }

    async fn snapshots(
        &self,
        aggregate_type: &AggregateType,
        after: Option<&AggregateId>,
        limit: usize,
    ) -> Result<Option<Vec<AggregateId>>> {
        let connections = &self.reader.connections;
        let after = after.map_or("", AggregateId::as_str);
        let select = || sqlx::query_as(SNAPSHOTS).bind(aggregate_type.as_str()).bind(after).bind(limit_to_sql(limit));
        let read = || async { connections.all(select()).await.map_err(|error| classify(error, "list the snapshots")) };
        let rows: Vec<(String,)> = connections.repeat("list the snapshots", read).await?;
        Ok(Some(rows.into_iter().map(|(id,)| AggregateId::new(id)).collect::<Result<_, _>>()?))
    }

    async fn held_values(&self, stream: &StreamId, limit: usize) -> Result<Option<Vec<HeldValue>>> {
        let connections = &self.reader.connections;
        let failed = |error| classify(error, "list the values of a stream");
        let read = || async {
            let select = sqlx::query_as(HELD_VALUES).bind(stream.aggregate_type().as_str().as_bytes());
            let select = select.bind(stream.aggregate_id().as_str().as_bytes()).bind(limit_to_sql(limit));
            connections.all(select).await.map_err(failed)
        };
        let rows: Vec<(Vec<u8>, Vec<u8>)> = connections.repeat("list the values of a stream", read).await?;
        let texts = rows.iter().map(|(scope, value)| Ok((text(scope)?.to_owned(), text(value)?.to_owned())));
        held_values(texts.collect::<Result<_, sqlx::Error>>().map_err(failed)?).map(Some)
    }

    async fn seals(&self, after: Position, limit: usize) -> Result<Option<Vec<Seal>>> {
        let connections = &self.reader.connections;
        let after = to_sql(after.get());
        let select = || sqlx::query_as(SEALS).bind(after).bind(after).bind(after).bind(limit_to_sql(limit));
        let read = || async { connections.all(select()).await.map_err(|error| classify(error, "read the seals")) };
        let rows: Vec<SealRow> = connections.repeat("read the seals", read).await?;
        rows.into_iter().map(seal).collect::<Result<_>>().map(Some)
    }

    async fn last_seal(&self) -> Result<Option<Seal>> {
        let connections = &self.reader.connections;
        let select = || sqlx::query_as(LAST_SEAL);
        let read = || async { connections.optional(select()).await.map_err(|error| classify(error, "read a seal")) };
        let row: Option<SealRow> = connections.repeat("read a seal", read).await?;
        row.map(seal).transpose()
    }

    async fn add_seal(&self, seal: &Seal) -> Result<()> {
        let connections = &self.reader.connections;
        let add = || {
            let insert = sqlx::query(ADD_SEAL).bind(to_sql(seal.first.get())).bind(to_sql(seal.last.get()));
            let insert = insert.bind(seal.previous.as_bytes().to_vec()).bind(seal.digest.as_bytes().to_vec());
            insert.bind(time_to_sql(seal.sealed_at))
        };
        let write = || async { connections.execute(add()).await.map_err(|error| classify(error, "store a seal")) };
        connections.repeat("store a seal", write).await
    }

    async fn keys(&self, after: &str, limit: usize) -> Result<Option<Vec<KeyRow>>> {
        keys::keys(&self.reader.connections, after, limit).await.map(Some)
    }

    async fn delete_keys(&self, after: &str, last: &str, through: Position) -> Result<u64> {
        keys::delete(&self.reader.connections, after, last, through).await
    }
}

fn seal((first, last, previous, digest, sealed_at): SealRow) -> Result<Seal> {
    seal_from_sql((first, last, previous, digest, sealed_at.and_utc()))
}

async fn rows(connections: &Connections, from: Cursor, limit: usize) -> Result<Vec<LogRow>> {
    let failed = |error| classify(error, "read the rows of the log");
    let (first, ordinal) = match from {
        Cursor::Row { first, ordinal } => (first, ordinal),
        Cursor::Position(after) => {
            let query = sqlx::query_as(COMMIT_OF).bind(to_sql(after.get()).saturating_add(1));
            let (first,): (i64,) = connections.one(query).await.map_err(failed)?;
            (first, i32::try_from(to_sql(after.get()) + 1 - first).unwrap_or(i32::MAX))
        }
    };
    // The commit of `from` may have no rows left.
    let commits = limit_to_sql(limit.max(1)).saturating_add(1);
    let mut lease = connections.lease().await.map_err(failed)?;
    let limits = connections.limits();
    let query = sqlx::query(ROWS).bind(first).bind(commits).bind(first).bind(ordinal);
    let mut answer = query.fetch(&mut *lease);
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(row) = limits.next_row(&mut answer).await.map_err(failed)? {
        let row = log_row(&row).map_err(failed)?;
        bytes += row.payload_bytes();
        found.push(row);
        if bytes >= PAGE_BYTES {
            // The rest of the answer is dropped with the connection.
            return Ok(found);
        }
    }
    drop(answer);
    lease.end(Ok(found)).map_err(failed)
}

fn log_row(row: &MySqlRow) -> Result<LogRow, sqlx::Error> {
    let ordinal: Option<i32> = row.try_get_unchecked(1)?;
    let bytes = |column: usize| row.try_get_unchecked::<Vec<u8>, _>(column);
    let optional = |column: usize| row.try_get_unchecked::<Option<Vec<u8>>, _>(column);
    let event = || {
        Ok::<_, sqlx::Error>(StoredRow {
            event_id: bytes(2)?,
            aggregate_type: bytes(3)?,
            aggregate_id: bytes(4)?,
            version: row.try_get_unchecked(5)?,
            event_type: bytes(6)?,
            schema_version: row.try_get_unchecked(7)?,
            codec: row.try_get_unchecked::<i16, _>(8)?.into(),
            recorded_at: row.try_get_unchecked::<NaiveDateTime, _>(9)?.and_utc().timestamp_micros(),
            correlation_id: optional(10)?,
            causation_id: optional(11)?,
            metadata: optional(12)?,
            payload: bytes(13)?,
        })
    };
    Ok(LogRow {
        first: row.try_get_unchecked(14)?,
        ordinal: ordinal.unwrap_or(0),
        events: row.try_get_unchecked(15)?,
        is_on_time: true,
        previous: row.try_get_unchecked(16)?,
        event: ordinal.map(|_| event()).transpose()?,
    })
}

async fn strays(connections: &Connections, limit: i64) -> Result<Vec<Fault>> {
    let failed = |error| classify(error, "look for stray rows");
    // These statements read whole indexes.
    let limits = connections.limits().long();
    let mut lease = connections.lease().await.map_err(failed)?;
    let mut found = Vec::new();
    let present: Vec<(String,)> =
        limits.statements(sqlx::query_as(UNIQUE_INDEXES).fetch_all(&mut *lease)).await.map_err(failed)?;
    let is_missing = |index: &str| !present.iter().any(|(name,)| name.eq_ignore_ascii_case(index));
    for index in INDEXES.iter().filter(|index| is_missing(index)) {
        found.push(Fault::new(FaultId::IndexMissing, format!("the unique index {index} is missing")));
    }
    for (id, index, statement) in STRAYS {
        // While the index is there, the server refuses what the statement would find.
        if index.is_some_and(|index| !is_missing(index)) {
            continue;
        }
        let query = sqlx::query_as::<_, StrayRow>(statement).bind(limit);
        let rows = limits.statements(query.fetch_all(&mut *lease)).await.map_err(failed)?;
        found.extend(faults(id, rows));
    }
    lease.end(Ok(found)).map_err(failed)
}

/// Binds: position. The first position of the commit that holds the position.
const COMMIT_OF: &str =
    "SELECT CAST(COALESCE(MAX(first_position), 0) AS SIGNED) FROM retell_log WHERE first_position <= ?";

/// Binds: first position of the commit to begin with, limit, the same first position, ordinal after which to begin in it.
const ROWS: &str = concat!(
    "SELECT e.commit_id, e.ordinal, ",
    event_columns!("e."),
    ", l.first_position, l.events, (
        SELECT pl.first_position + p.ordinal - 1 FROM retell_events p JOIN retell_log pl ON pl.commit_id = p.commit_id
        WHERE p.aggregate_type = e.aggregate_type AND p.aggregate_id = e.aggregate_id AND p.version = e.version - 1 LIMIT 1)
    FROM (
        SELECT first_position, commit_id, events FROM retell_log WHERE first_position >= ? ORDER BY first_position LIMIT ?
    ) AS l LEFT JOIN retell_events e ON e.commit_id = l.commit_id
    WHERE l.first_position > ? OR COALESCE(e.ordinal, 1) > ?
    ORDER BY l.first_position, e.ordinal"
);

/// The unique indexes, by table and name.
const INDEXES: [&str; 5] = [
    "retell_events.PRIMARY",
    "retell_events.events_stream",
    "retell_events.events_id",
    "retell_log.PRIMARY",
    "retell_log.log_commit",
];

const UNIQUE_INDEXES: &str = "
    SELECT DISTINCT CONVERT(CONCAT(table_name, '.', index_name) USING utf8mb4) FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name IN ('retell_events', 'retell_log') AND non_unique = 0";

/// Each kind of stray row with the index without which there can be one, and the statement that finds it. Binds: limit. Selects: position,
/// aggregate type, aggregate id, version, detail.
const STRAYS: [(FaultId, Option<&str>, &str); 5] = [
    (FaultId::EventStray, None, EVENTS_OF_NO_COMMIT),
    (FaultId::ClaimStray, None, CLAIMS_WITHOUT_STREAM),
    (FaultId::SnapshotAhead, None, SNAPSHOTS_AHEAD),
    (FaultId::IdTwice, Some("retell_events.events_id"), IDS_TWICE),
    (FaultId::VersionTwice, Some("retell_events.events_stream"), VERSIONS_TWICE),
];

const EVENTS_OF_NO_COMMIT: &str = "
    SELECT CAST(NULL AS SIGNED), CONVERT(e.aggregate_type USING utf8mb4), CONVERT(e.aggregate_id USING utf8mb4), e.version,
        CONVERT(CONCAT('event ', LOWER(HEX(e.event_id)), ' is of the unknown commit ', e.commit_id) USING utf8mb4)
    FROM retell_events e
    WHERE NOT EXISTS (SELECT 1 FROM retell_log l WHERE l.commit_id = e.commit_id)
        AND NOT EXISTS (SELECT 1 FROM retell_commits c WHERE c.commit_id = e.commit_id)
    LIMIT ?";

const CLAIMS_WITHOUT_STREAM: &str = "
    SELECT CAST(NULL AS SIGNED), CONVERT(r.aggregate_type USING utf8mb4), CONVERT(r.aggregate_id USING utf8mb4), CAST(NULL AS SIGNED),
        CONVERT(CONCAT('a value of the scope ', r.scope, ' is held by a stream without events') USING utf8mb4)
    FROM retell_reservations r
    WHERE NOT EXISTS (SELECT 1 FROM retell_events e WHERE e.aggregate_type = r.aggregate_type AND e.aggregate_id = r.aggregate_id)
    LIMIT ?";

const SNAPSHOTS_AHEAD: &str = "
    SELECT CAST(NULL AS SIGNED), CONVERT(s.aggregate_type USING utf8mb4), CONVERT(s.aggregate_id USING utf8mb4), s.version,
        CONVERT(CONCAT('the stream does not have the event ', LOWER(HEX(s.event_id)), ' of the snapshot') USING utf8mb4)
    FROM retell_snapshots s
    WHERE NOT EXISTS (
        SELECT 1 FROM retell_events e
        WHERE e.aggregate_type = s.aggregate_type AND e.aggregate_id = s.aggregate_id AND e.version = s.version AND e.event_id = s.event_id)
    LIMIT ?";

const IDS_TWICE: &str = "
    SELECT CAST(NULL AS SIGNED), CAST(NULL AS CHAR), CAST(NULL AS CHAR), CAST(NULL AS SIGNED),
        CONVERT(CONCAT(COUNT(*), ' events have the id ', LOWER(HEX(event_id))) USING utf8mb4)
    FROM retell_events GROUP BY event_id HAVING COUNT(*) > 1 LIMIT ?";

const VERSIONS_TWICE: &str = "
    SELECT CAST(NULL AS SIGNED), CONVERT(aggregate_type USING utf8mb4), CONVERT(aggregate_id USING utf8mb4), version,
        CONVERT(CONCAT(COUNT(*), ' events have this version') USING utf8mb4)
    FROM retell_events GROUP BY aggregate_type, aggregate_id, version HAVING COUNT(*) > 1 LIMIT ?";

/// Binds: aggregate type, id, limit.
const SNAPSHOTS: &str = "
    SELECT CONVERT(listed.aggregate_id USING utf8mb4) FROM (
        SELECT DISTINCT aggregate_id FROM retell_snapshots WHERE aggregate_type = ? AND aggregate_id > ? ORDER BY aggregate_id LIMIT ?
    ) AS listed ORDER BY listed.aggregate_id";

/// Binds: aggregate type, aggregate id, limit.
const HELD_VALUES: &str = "
    SELECT scope, value FROM retell_reservations FORCE INDEX (reservations_stream) WHERE aggregate_type = ? AND aggregate_id = ?
    ORDER BY scope, value LIMIT ?";

/// Binds: after (three times), limit.
const SEALS: &str = "
    SELECT first_position, last_position, previous, digest, sealed_at FROM retell_seals
    WHERE first_position > COALESCE((
        SELECT MAX(s.first_position) - 1 FROM retell_seals s WHERE s.first_position <= ? AND s.last_position > ?), ?)
    ORDER BY first_position LIMIT ?";

const LAST_SEAL: &str = "
    SELECT first_position, last_position, previous, digest, sealed_at FROM retell_seals ORDER BY first_position DESC LIMIT 1";

/// Binds: first position, last position, previous digest, digest, time.
pub(crate) const ADD_SEAL: &str = "
    INSERT IGNORE INTO retell_seals (first_position, last_position, previous, digest, sealed_at) VALUES (?, ?, ?, ?, ?)";
