//! Gives the stored rows of a log to a verification, and keeps seals.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

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
use crate::store::postgres::error::classify;
use crate::store::postgres::log::read::Reader;
use crate::store::postgres::store::PostgresStore;
use crate::store::server::convert::{limit_to_sql, to_sql};
use crate::store::server::stray::{StrayRow, faults, held_values, seal_from_sql};

#[async_trait]
impl Inspect for PostgresStore {
    async fn rows(&self, from: Cursor, limit: usize) -> Result<Option<Vec<LogRow>>> {
        let reader = &self.reader;
        reader.connections.repeat("read the rows of the log", || rows(reader, from, limit)).await.map(Some)
    }

    async fn strays(&self, limit: usize) -> Result<Option<Vec<Fault>>> {
        let reader = &self.reader;
        let look = strays(reader, limit_to_sql(limit));
        reader.connections.limits().long().call("look for stray rows", look).await.map(Some)
    }

    async fn snapshots(
        &self,
        aggregate_type: &AggregateType,
        after: Option<&AggregateId>,
        limit: usize,
    ) -> Result<Option<Vec<AggregateId>>> {
        let Reader { connections, schema, .. } = &self.reader;
        let after = after.map_or("", AggregateId::as_str);
        let select = || {
            sqlx::query_as(schema.sql(SNAPSHOTS)).bind(aggregate_type.as_str()).bind(after).bind(limit_to_sql(limit))
        };
        let read = || async { connections.all(select()).await.map_err(|error| classify(error, "list the snapshots")) };
        let rows: Vec<(String,)> = connections.repeat("list the snapshots", read).await?;
        Ok(Some(rows.into_iter().map(|(id,)| AggregateId::new(id)).collect::<Result<_, _>>()?))
    }

    async fn held_values(&self, stream: &StreamId, limit: usize) -> Result<Option<Vec<HeldValue>>> {
        let Reader { connections, schema, .. } = &self.reader;
        let failed = |error| classify(error, "list the values of a stream");
        let read = || async {
            let select = sqlx::query_as(schema.sql(HELD_VALUES)).bind(stream.aggregate_type().as_str());
            let select = select.bind(stream.aggregate_id().as_str()).bind(limit_to_sql(limit));
            connections.all(select).await.map_err(failed)
        };
        let rows: Vec<(String, String)> = connections.repeat("list the values of a stream", read).await?;
        held_values(rows).map(Some)
    }

    async fn seals(&self, after: Position, limit: usize) -> Result<Option<Vec<Seal>>> {
        let Reader { connections, schema, .. } = &self.reader;
        let select = || sqlx::query_as(schema.sql(SEALS)).bind(to_sql(after.get())).bind(limit_to_sql(limit));
        let read = || async { connections.all(select()).await.map_err(|error| classify(error, "read the seals")) };
        let rows = connections.repeat("read the seals", read).await?;
        rows.into_iter().map(seal_from_sql).collect::<Result<_>>().map(Some)
    }

    async fn last_seal(&self) -> Result<Option<Seal>> {
        let Reader { connections, schema, .. } = &self.reader;
        let select = || sqlx::query_as(schema.sql(LAST_SEAL));
        let read = || async { connections.optional(select()).await.map_err(|error| classify(error, "read a seal")) };
        connections.repeat("read a seal", read).await?.map(seal_from_sql).transpose()
    }

    async fn add_seal(&self, seal: &Seal) -> Result<()> {
        let Reader { connections, schema, .. } = &self.reader;
        let add = || {
            let insert = sqlx::query(schema.sql(ADD_SEAL));
            let insert = insert.bind(to_sql(seal.first.get())).bind(to_sql(seal.last.get()));
            insert.bind(seal.previous.as_bytes().to_vec()).bind(seal.digest.as_bytes().to_vec()).bind(seal.sealed_at)
        };
        let write = || async { connections.execute(add()).await.map_err(|error| classify(error, "store a seal")) };
        connections.repeat("store a seal", write).await
    }

    async fn keys(&self, after: &str, limit: usize) -> Result<Option<Vec<KeyRow>>> {
        self.reader.keys_after(after, limit).await.map(Some)
    }

    async fn delete_keys(&self, after: &str, last: &str, through: Position) -> Result<u64> {
        self.reader.delete_keys_in(after, last, through).await
    }

    async fn old_commits(&self, before: DateTime<Utc>, limit: usize) -> Result<Option<u64>> {
        self.reader.count_old_commits(before, limit).await.map(Some)
    }

    async fn delete_old_commits(&self, before: DateTime<Utc>, limit: usize) -> Result<u64> {
        self.reader.delete_commits(before, limit).await
    }
}

async fn rows(reader: &Reader, from: Cursor, limit: usize) -> Result<Vec<LogRow>> {
    let failed = |error| classify(error, "read the rows of the log");
    let Reader { connections, schema, .. } = reader;
    let (first, ordinal) = match from {
        Cursor::Row { first, ordinal } => (first, ordinal),
        Cursor::Position(after) => {
            let query = sqlx::query_as(schema.sql(COMMIT_OF)).bind(to_sql(after.get()).saturating_add(1));
            let (first,): (i64,) = connections.one(query).await.map_err(failed)?;
            (first, i32::try_from(to_sql(after.get()) + 1 - first).unwrap_or(i32::MAX))
        }
    };
    // The commit of `from` may have no rows left.
    let commits = limit_to_sql(limit.max(1)).saturating_add(1);
    let mut lease = connections.lease().await.map_err(failed)?;
    let limits = connections.limits();
    let mut answer = sqlx::query(schema.sql(ROWS)).bind(first).bind(ordinal).bind(commits).fetch(&mut *lease);
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

fn log_row(row: &PgRow) -> Result<LogRow, sqlx::Error> {
    let first: i64 = row.try_get_unchecked(14)?;
    let ordinal: Option<i32> = row.try_get_unchecked(1)?;
    let bytes = |column: usize| row.try_get_unchecked::<&[u8], _>(column).map(<[u8]>::to_vec);
    let id =
        |column: usize| row.try_get_unchecked::<Option<Uuid>, _>(column).map(|id| id.map(|id| id.as_bytes().to_vec()));
    let time = |column: usize| row.try_get_unchecked::<DateTime<Utc>, _>(column).map(|time| time.timestamp_micros());
    let event = || {
        Ok::<_, sqlx::Error>(StoredRow {
            event_id: id(2)?.unwrap_or_default(),
            aggregate_type: bytes(3)?,
            aggregate_id: bytes(4)?,
            version: row.try_get_unchecked(5)?,
            event_type: bytes(6)?,
            schema_version: row.try_get_unchecked(7)?,
            codec: row.try_get_unchecked::<i16, _>(8)?.into(),
            recorded_at: time(9)?,
            correlation_id: id(10)?,
            causation_id: id(11)?,
            metadata: row.try_get_unchecked::<Option<&[u8]>, _>(12)?.map(<[u8]>::to_vec),
            payload: bytes(13)?,
        })
    };
    Ok(LogRow {
        first,
        ordinal: ordinal.unwrap_or(0),
        events: row.try_get_unchecked(15)?,
        is_on_time: row.try_get_unchecked::<Option<bool>, _>(16)?.unwrap_or(true),
        previous: row.try_get_unchecked(17)?,
        event: ordinal.map(|_| event()).transpose()?,
    })
}

async fn strays(reader: &Reader, limit: i64) -> Result<Vec<Fault>> {
    let failed = |error| classify(error, "look for stray rows");
    let Reader { connections, schema, .. } = reader;
    // These statements read whole indexes.
    let limits = connections.limits().long();
    let mut lease = connections.lease().await.map_err(failed)?;
    let mut found = Vec::new();
    let missing: Vec<String> = limits
        .statements(sqlx::query_scalar(schema.sql(MISSING_INDEXES)).fetch_all(&mut *lease))
        .await
        .map_err(failed)?;
    found.extend(
        missing
            .iter()
            .map(|name| Fault::new(FaultId::IndexMissing, format!("the unique index {name} is missing or invalid"))),
    );
    for (id, index, statement) in STRAYS {
        // While the index is there, the server refuses what the statement would find.
        if index.is_some_and(|index| !missing.iter().any(|name| name == index)) {
            continue;
        }
        let query = sqlx::query_as::<_, StrayRow>(schema.sql(statement)).bind(limit);
        let rows = limits.statements(query.fetch_all(&mut *lease)).await.map_err(failed)?;
        found.extend(faults(id, rows));
    }
    lease.end(Ok(found)).map_err(failed)
}

/// Binds: position. The first position of the commit that holds the position.
const COMMIT_OF: &str = "SELECT coalesce(max(first_position), 0) FROM {schema}.log WHERE first_position <= $1";

/// Binds: first position of the commit to begin with, ordinal after which to begin in it, limit. `LATERAL` with `OFFSET 0` forces a lookup for each
/// commit.
const ROWS: &str = concat!(
    "SELECT e.commit_id, e.ordinal, ",
    event_columns!("e."),
    ", l.first_position, l.events, e.recorded_at = l.recorded_at, (
        SELECT pl.first_position + p.ordinal - 1 FROM {schema}.events p JOIN {schema}.log pl ON pl.commit_id = p.commit_id
        WHERE p.aggregate_type = e.aggregate_type AND p.aggregate_id = e.aggregate_id AND p.version = e.version - 1 LIMIT 1)
    FROM (
        SELECT first_position, commit_id, events, recorded_at FROM {schema}.log
        WHERE first_position >= $1 ORDER BY first_position LIMIT $3
    ) AS l LEFT JOIN LATERAL (SELECT * FROM {schema}.events e WHERE e.commit_id = l.commit_id OFFSET 0) AS e ON true
    WHERE l.first_position > $1 OR coalesce(e.ordinal, 1) > $2
    ORDER BY l.first_position, e.ordinal"
);

pub(crate) const MISSING_INDEXES: &str = "
    SELECT wanted.name FROM (VALUES
        ('events_pkey'), ('events_stream'), ('events_id'), ('log_pkey'), ('log_commit_id_key')) AS wanted (name)
    WHERE NOT EXISTS (
        SELECT FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
        WHERE c.relnamespace = '{schema}'::regnamespace AND c.relname = wanted.name AND i.indisunique AND i.indisvalid)";

/// Each kind of stray row with the index without which there can be one, and the statement that finds it. Binds: limit. Selects: position,
/// aggregate type, aggregate id, version, detail.
const STRAYS: [(FaultId, Option<&str>, &str); 6] = [
    (FaultId::EventStray, None, EVENTS_OF_NO_COMMIT),
    (FaultId::CommitMismatch, None, UNEQUAL_COMMITS),
    (FaultId::ClaimStray, None, CLAIMS_WITHOUT_STREAM),
    (FaultId::SnapshotAhead, None, SNAPSHOTS_AHEAD),
    (FaultId::IdTwice, Some("events_id"), IDS_TWICE),
    (FaultId::VersionTwice, Some("events_stream"), VERSIONS_TWICE),
];

const EVENTS_OF_NO_COMMIT: &str = "
    SELECT NULL::bigint, e.aggregate_type, e.aggregate_id, e.version, format('event %s is of the unknown commit %s', e.event_id, e.commit_id)
    FROM {schema}.events e
    WHERE NOT EXISTS (SELECT FROM {schema}.log l WHERE l.commit_id = e.commit_id) AND NOT EXISTS (
        SELECT FROM {schema}.commits c JOIN {schema}.lanes n ON n.lane = c.lane
        WHERE c.commit_id = e.commit_id AND c.commit_id > n.sequenced)
    LIMIT $1";

/// Commits that have their positions, but have none, or other numbers than in the order of the log.
const UNEQUAL_COMMITS: &str = "
    SELECT l.first_position, NULL::text, NULL::text, NULL::bigint,
        CASE WHEN l.commit_id IS NULL THEN format('commit %s of %s events has no position', c.commit_id, c.events)
        ELSE format('commit %s has %s events at %s, but %s events at %s in the order of the log',
            c.commit_id, c.events, c.recorded_at, l.events, l.recorded_at) END
    FROM {schema}.commits c JOIN {schema}.lanes n ON n.lane = c.lane LEFT JOIN {schema}.log l ON l.commit_id = c.commit_id
    WHERE c.commit_id <= n.sequenced
        AND (l.commit_id IS NULL OR l.events <> c.events OR l.recorded_at <> c.recorded_at)
    LIMIT $1";

const CLAIMS_WITHOUT_STREAM: &str = "
    SELECT NULL::bigint, r.aggregate_type, r.aggregate_id, NULL::bigint, format('a value of the scope %s is held by a stream without events', r.scope)
    FROM {schema}.reservations r
    WHERE NOT EXISTS (
        SELECT FROM {schema}.events e WHERE e.aggregate_type = r.aggregate_type AND e.aggregate_id = r.aggregate_id)
    LIMIT $1";

const SNAPSHOTS_AHEAD: &str = "
    SELECT NULL::bigint, s.aggregate_type, s.aggregate_id, s.version, format('the stream does not have the event %s of the snapshot', s.event_id)
    FROM {schema}.snapshots s
    WHERE NOT EXISTS (
        SELECT FROM {schema}.events e
        WHERE e.aggregate_type = s.aggregate_type AND e.aggregate_id = s.aggregate_id AND e.version = s.version AND e.event_id = s.event_id)
    LIMIT $1";

const IDS_TWICE: &str = "
    SELECT NULL::bigint, NULL::text, NULL::text, NULL::bigint, format('%s events have the id %s', count(*), event_id)
    FROM {schema}.events GROUP BY event_id HAVING count(*) > 1 LIMIT $1";

const VERSIONS_TWICE: &str = "
    SELECT NULL::bigint, aggregate_type, aggregate_id, version, format('%s events have this version', count(*))
    FROM {schema}.events GROUP BY aggregate_type, aggregate_id, version HAVING count(*) > 1 LIMIT $1";

/// Binds: aggregate type, id, limit.
const SNAPSHOTS: &str = "
    SELECT DISTINCT aggregate_id FROM {schema}.snapshots WHERE aggregate_type = $1 AND aggregate_id > $2 ORDER BY aggregate_id LIMIT $3";

/// Binds: aggregate type, aggregate id, limit. The condition on the type is that of the index.
const HELD_VALUES: &str = "
    SELECT scope, value FROM {schema}.reservations WHERE aggregate_type = $1 AND aggregate_id = $2 AND aggregate_type <> ''
    ORDER BY scope, value LIMIT $3";

/// Binds: after, limit.
const SEALS: &str = "
    SELECT first_position, last_position, previous, digest, sealed_at FROM {schema}.seals
    WHERE first_position > coalesce((SELECT max(first_position) - 1 FROM {schema}.seals WHERE first_position <= $1 AND last_position > $1), $1)
    ORDER BY first_position LIMIT $2";

const LAST_SEAL: &str = "
    SELECT first_position, last_position, previous, digest, sealed_at FROM {schema}.seals ORDER BY first_position DESC LIMIT 1";

/// Binds: first position, last position, previous digest, digest, time.
pub(crate) const ADD_SEAL: &str = "
    INSERT INTO {schema}.seals (first_position, last_position, previous, digest, sealed_at)
    VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
