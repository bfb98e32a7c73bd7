//! Reads the log: streams as the rows arrive, pages by two range scans that are merged here.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgPool, Postgres, Row};
use uuid::Uuid;

use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Metadata, NewEvent, RecordedEvent, StoredEvent};
use crate::id::{AggregateId, AggregateType, CommitId, EventType, Position, StreamId, Version};
use crate::store::postgres::append::split_commit_id;
use crate::store::postgres::connection::{Schema, Statement, classify, from_sql, lost_race, to_sql};
use crate::store::{Filter, Page, Replay, UpTo, Visitor};

/// Commits one page of a filtered read looks at, at least: with a narrow filter few of their events come back.
const SCANNED_COMMITS: usize = 5_000;

/// How often to look again while another session gives out positions; it takes milliseconds.
const SEQUENCER_LOOKS: usize = 200;

#[derive(Debug, Clone)]
pub(super) struct Reader {
    pub(super) pool: PgPool,
    replay: Statement,
    replay_from_snapshot: Statement,
    sequence: Statement,
    head: Statement,
    position_of: Statement,
    log: Statement,
    events: Statement,
    filtered: Statement,
    newest: Statement,
    recorded_after: Statement,
}

/// A commit's place in the log.
struct Placed {
    first: u64,
    commit: i64,
    events: u64,
}

impl Reader {
    pub(super) fn new(pool: PgPool, schema: &Schema) -> Self {
        Self {
            pool,
            replay: schema.statement(REPLAY),
            replay_from_snapshot: schema.statement(REPLAY_FROM_SNAPSHOT),
            sequence: schema.statement(SEQUENCE),
            head: schema.statement(HEAD),
            position_of: schema.statement(POSITION_OF),
            log: schema.statement(LOG),
            events: schema.statement(EVENTS),
            filtered: schema.statement(FILTERED),
            newest: schema.statement(NEWEST),
            recorded_after: schema.statement(RECORDED_AFTER),
        }
    }

    pub(super) async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()> {
        let (last, until) = match replay.up_to {
            UpTo::Head => (i64::MAX, None),
            UpTo::Version(version) => (to_sql(version.get()), None),
            UpTo::Time(time) => (i64::MAX, Some(time)),
        };
        let snapshot = replay.snapshot.filter(|_| until.is_none());
        let statement = if snapshot.is_some() { &self.replay_from_snapshot } else { &self.replay };
        let mut query = sqlx::query(statement.sql())
            .bind(stream.aggregate_type().as_str())
            .bind(stream.aggregate_id().as_str())
            .bind(to_sql(replay.after.get()))
            .bind(last);
        query = match snapshot {
            Some(fingerprint) => query.bind(fingerprint.cast_signed()),
            None => query.bind(until),
        };
        let mut rows = query.fetch(&self.pool);
        let mut due = None;
        while let Some(row) = rows.try_next().await.map_err(|error| classify(error, "replay a stream"))? {
            visit(stream, &row, &mut due, visitor)?;
        }
        Ok(())
    }

    pub(super) async fn page(&self, after: Position, limit: usize, filter: &Filter) -> Result<Page> {
        if limit == 0 {
            return Ok(Page { events: Vec::new(), through: after });
        }
        let commits = if filter.is_all() { limit } else { limit.max(SCANNED_COMMITS) };
        let mut placed = self.placed(after, commits).await?;
        if placed.len() < commits {
            // This is the log's end: there may be commits without positions.
            self.sequence().await?;
            placed = self.placed(after, commits).await?;
        }
        let wanted = if filter.is_all() { limit as u64 } else { (limit.max(SCANNED_COMMITS)) as u64 };
        let placed = enough(placed, after, wanted);
        let (Some(first), Some(last)) = (placed.first(), placed.last()) else {
            return Ok(Page { events: Vec::new(), through: after });
        };
        let end = Position::new(last.first + last.events - 1);
        if first.first > after.get() + 1 {
            return Err(ErrorKind::Corrupt(format!("no commit at position {}", after.next())).into());
        }
        let mut events = self.events_of(&placed, filter).await?;
        events.retain(|event| event.position > after);
        events.sort_unstable_by_key(|event| event.position);
        let all = events.len();
        events.truncate(limit);
        let through = if all >= limit
            && let Some(last) = events.last()
        {
            last.position
        } else {
            end
        };
        if filter.is_all() && events.len() as u64 != through.since(after) {
            return Err(
                ErrorKind::Corrupt(format!("events are missing between positions {after} and {through}")).into()
            );
        }
        Ok(Page { events, through })
    }

    async fn placed(&self, after: Position, commits: usize) -> Result<Vec<Placed>> {
        let failed = |error| classify(error, "read the log");
        let rows = sqlx::query_as::<_, (i64, i64, i32)>(self.log.sql())
            .bind(to_sql(after.get()))
            .bind(limit_to_sql(commits))
            .fetch_all(&self.pool)
            .await
            .map_err(failed)?;
        let placed = |(first, commit, events): (i64, i64, i32)| {
            Ok(Placed { first: from_sql(first, "position")?, commit, events: from_sql(events.into(), "count")? })
        };
        rows.into_iter().map(placed).collect()
    }

    /// The events of commits that stand together in the log stand almost together by commit number, too: one range holds them all, and
    /// the few others in it are passed over.
    async fn events_of(&self, placed: &[Placed], filter: &Filter) -> Result<Vec<RecordedEvent>> {
        let firsts: HashMap<i64, u64> = placed.iter().map(|placed| (placed.commit, placed.first)).collect();
        let first = placed.iter().map(|placed| placed.commit).min();
        let last = placed.iter().map(|placed| placed.commit).max();
        let statement = if filter.is_all() { &self.events } else { &self.filtered };
        let mut query = sqlx::query(statement.sql()).bind(first).bind(last);
        if !filter.is_all() {
            query = query
                .bind(names(filter.aggregate_types.iter().map(AggregateType::as_str)))
                .bind(names(filter.event_types.iter().map(EventType::as_str)));
        }
        let mut rows = query.fetch(&self.pool);
        let mut reader = EventReader::default();
        let mut events = Vec::new();
        while let Some(row) = rows.try_next().await.map_err(|error| classify(error, "read events"))? {
            let commit: i64 = row.try_get("commit_id").map_err(|error| classify(error, "read events"))?;
            if let Some(first) = firsts.get(&commit) {
                events.push(reader.read(&row, *first)?);
            }
        }
        Ok(events)
    }

    pub(super) async fn newest(&self, event_type: &EventType, limit: usize) -> Result<Vec<RecordedEvent>> {
        self.sequence().await?;
        self.joined(sqlx::query(self.newest.sql()).bind(event_type.as_str()).bind(limit_to_sql(limit))).await
    }

    pub(super) async fn recorded_after(&self, time: DateTime<Utc>, limit: usize) -> Result<Vec<RecordedEvent>> {
        self.sequence().await?;
        self.joined(sqlx::query(self.recorded_after.sql()).bind(time).bind(limit_to_sql(limit))).await
    }

    /// Events that the server has joined with their places.
    async fn joined(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<RecordedEvent>> {
        let rows = query.fetch_all(&self.pool).await.map_err(|error| classify(error, "read events"))?;
        let mut reader = EventReader::default();
        let read = |row: &PgRow| {
            let first: i64 = row.try_get("first_position").map_err(|error| classify(error, "read events"))?;
            reader.read(row, from_sql(first, "position")?)
        };
        rows.iter().map(read).collect()
    }

    pub(super) async fn head(&self) -> Result<Position> {
        self.sequence().await?;
        let head: Option<i64> = sqlx::query_scalar(self.head.sql())
            .fetch_optional(&self.pool)
            .await
            .map_err(|e| classify(e, "read the head"))?;
        from_sql(head.unwrap_or(0), "position").map(Position::new)
    }

    pub(super) async fn position_of(&self, commit: CommitId) -> Result<Option<Position>> {
        if commit == CommitId::ZERO {
            return Ok(Some(Position::ZERO));
        }
        let (number, ordinal) = split_commit_id(commit);
        for looked in [false, true] {
            let position: Option<i64> = sqlx::query_scalar(self.position_of.sql())
                .bind(number)
                .bind(ordinal)
                .fetch_optional(&self.pool)
                .await
                .map_err(|error| classify(error, "find a commit's position"))?;
            if let Some(position) = position {
                return from_sql(position, "position").map(Position::new).map(Some);
            }
            if !looked {
                self.sequence().await?;
            }
        }
        Ok(None)
    }

    /// Gives positions to all commits that are visible now. If another session is at it, waits for it.
    pub(super) async fn sequence(&self) -> Result<()> {
        for _ in 0..SEQUENCER_LOOKS {
            match sqlx::query_scalar::<_, Option<i64>>(self.sequence.sql()).fetch_one(&self.pool).await {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => {}
                // Where sessions default to `repeatable read`, the snapshot is older than the lock: another session was at it between.
                Err(error) if lost_race(&error) => {}
                Err(error) => return Err(classify(error, "give out positions")),
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err(Error::new(ErrorKind::Transient("give out positions: another session is at it".into())))
    }
}

/// As many commits as hold the events wanted.
fn enough(placed: Vec<Placed>, after: Position, wanted: u64) -> Vec<Placed> {
    let end = after.get().saturating_add(wanted);
    placed.into_iter().take_while(|placed| placed.first <= end).collect()
}

fn visit(stream: &StreamId, row: &PgRow, due: &mut Option<Version>, visitor: &mut dyn Visitor) -> Result<()> {
    let damaged = |error: sqlx::Error| Error::with_source(ErrorKind::Corrupt(format!("a row of {stream}")), error);
    let version = Version::new(from_sql(row.try_get(0).map_err(damaged)?, "version")?);
    let payload: &[u8] = row.try_get(4).map_err(damaged)?;
    let Some(event_type) = row.try_get::<Option<&str>, _>(1).map_err(damaged)? else {
        *due = Some(version.next());
        return visitor.snapshot(version, payload);
    };
    if due.is_some_and(|due| due != version) {
        return Err(ErrorKind::Corrupt(format!("{stream}: version {version} is out of line")).into());
    }
    *due = Some(version.next());
    let number: i16 = row.try_get(3).map_err(damaged)?;
    let codec = codec(number)
        .ok_or_else(|| Error::new(ErrorKind::Corrupt(format!("{stream} version {version}: unknown codec {number}"))))?;
    let schema_version = schema_version(row.try_get(2).map_err(damaged)?)?;
    visitor.event(version, StoredEvent { event_type, schema_version, codec, payload })
}

fn codec(number: i16) -> Option<Codec> {
    u8::try_from(number).ok().and_then(Codec::from_number)
}

fn schema_version(number: i64) -> Result<u32> {
    u32::try_from(number).map_err(|_| ErrorKind::Corrupt(format!("schema version {number}")).into())
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> Option<Vec<&'a str>> {
    let names: Vec<_> = names.collect();
    (!names.is_empty()).then_some(names)
}

fn limit_to_sql(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Reads whole events; their types share one allocation each.
#[derive(Default)]
struct EventReader {
    aggregate_types: Vec<AggregateType>,
    event_types: Vec<EventType>,
}

impl EventReader {
    fn read(&mut self, row: &PgRow, first: u64) -> Result<RecordedEvent> {
        let place =
            || row.try_get::<i32, _>("ordinal").map_or(first, |ordinal| first + u64::from(ordinal.unsigned_abs()) - 1);
        self.read_row(row, Position::new(place())).map_err(|error| match error {
            ReadError::Ours(error) => ErrorKind::Corrupt(format!("position {}: {error}", place())).into(),
            ReadError::Sqlx(error) => Error::with_source(ErrorKind::Corrupt(format!("position {}", place())), error),
        })
    }

    fn read_row(&mut self, row: &PgRow, position: Position) -> Result<RecordedEvent, ReadError> {
        let aggregate_type = known(&mut self.aggregate_types, row.try_get("aggregate_type")?, AggregateType::as_str)?;
        let aggregate_id = AggregateId::new(row.try_get::<&str, _>("aggregate_id")?).map_err(Error::from)?;
        let event_type = known(&mut self.event_types, row.try_get("event_type")?, EventType::as_str)?;
        let number: i16 = row.try_get("codec")?;
        let unknown = || Error::new(ErrorKind::Corrupt(format!("unknown codec {number}")));
        let metadata = Metadata::from_parts(
            row.try_get::<Option<Uuid>, _>("correlation_id")?.map(Into::into),
            row.try_get::<Option<Uuid>, _>("causation_id")?.map(Into::into),
            row.try_get("metadata")?,
        )
        .map_err(|error| Error::new(ErrorKind::Corrupt(format!("metadata: {error}"))))?;
        Ok(RecordedEvent {
            position,
            stream: StreamId::new(aggregate_type, aggregate_id),
            version: Version::new(from_sql(row.try_get("version")?, "version")?),
            recorded_at: row.try_get("recorded_at")?,
            event: NewEvent {
                id: row.try_get::<Uuid, _>("event_id")?.into(),
                event_type,
                schema_version: schema_version(row.try_get("schema_version")?)?,
                codec: codec(number).ok_or_else(unknown)?,
                payload: Bytes::copy_from_slice(row.try_get("payload")?),
                metadata,
            },
        })
    }
}

/// What reading a row met: a column of another kind than ours, or a value that cannot be.
enum ReadError {
    Sqlx(sqlx::Error),
    Ours(Error),
}

impl From<sqlx::Error> for ReadError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlx(error)
    }
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

/// A log has few kinds of things: the same text is the same allocation.
fn known<'t, T>(known: &mut Vec<T>, text: &'t str, as_str: fn(&T) -> &str) -> Result<T>
where
    T: Clone + TryFrom<&'t str>,
    Error: From<T::Error>,
{
    if let Some(name) = known.iter().find(|name| as_str(name) == text) {
        return Ok(name.clone());
    }
    let name = T::try_from(text)?;
    known.push(name.clone());
    Ok(name)
}

/// Binds: aggregate type, aggregate id, after, up to version, up to time or NULL.
const REPLAY: &str = "
    SELECT version, event_type, schema_version, codec, payload FROM {schema}.events
    WHERE aggregate_type = $1 AND aggregate_id = $2 AND version > $3 AND version <= $4
        AND ($5::timestamptz IS NULL OR recorded_at <= $5)
    ORDER BY version";

/// Binds: aggregate type, aggregate id, after, up to version, fingerprint. The snapshot, if it is used, is a row without event type.
const REPLAY_FROM_SNAPSHOT: &str = "
    WITH snapshot AS MATERIALIZED (
        SELECT version, state FROM {schema}.snapshots
        WHERE aggregate_type = $1 AND aggregate_id = $2 AND version > $3 AND version <= $4 AND fingerprint = $5
    )
    SELECT version, NULL, NULL, NULL, state FROM snapshot
    UNION ALL
    (SELECT version, event_type, schema_version, codec, payload FROM {schema}.events
    WHERE aggregate_type = $1 AND aggregate_id = $2 AND version > coalesce((SELECT version FROM snapshot), $3) AND version <= $4
    ORDER BY version)";

const SEQUENCE: &str = "SELECT {schema}.sequence_commits()";

const HEAD: &str = "SELECT first_position + events - 1 FROM {schema}.log ORDER BY first_position DESC LIMIT 1";

/// Binds: commit, place in it.
const POSITION_OF: &str = "SELECT first_position + $2 - 1 FROM {schema}.log WHERE commit_id = $1";

/// Binds: after, limit. Begins with the commit that holds the next position.
const LOG: &str = "
    SELECT first_position, commit_id, events FROM {schema}.log
    WHERE first_position + events - 1 > $1
        AND first_position >= coalesce((SELECT max(first_position) FROM {schema}.log WHERE first_position <= $1 + 1), 0)
    ORDER BY first_position LIMIT $2";

/// Binds: first commit, last commit.
const EVENTS: &str = "
    SELECT commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec, recorded_at,
        correlation_id, causation_id, metadata, payload
    FROM {schema}.events WHERE commit_id BETWEEN $1 AND $2";

/// Binds: first commit, last commit, aggregate types and event types as arrays or NULL.
const FILTERED: &str = "
    SELECT commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec, recorded_at,
        correlation_id, causation_id, metadata, payload
    FROM {schema}.events WHERE commit_id BETWEEN $1 AND $2
        AND ($3::text[] IS NULL OR aggregate_type = ANY ($3)) AND ($4::text[] IS NULL OR event_type = ANY ($4))";

/// Binds: event type, limit.
const NEWEST: &str = "
    SELECT l.first_position, e.commit_id, e.ordinal, e.event_id, e.aggregate_type, e.aggregate_id, e.version, e.event_type,
        e.schema_version, e.codec, e.recorded_at, e.correlation_id, e.causation_id, e.metadata, e.payload
    FROM {schema}.log l JOIN {schema}.events e ON e.commit_id = l.commit_id
    WHERE e.event_type = $1
    ORDER BY l.first_position DESC, e.ordinal DESC LIMIT $2";

/// Binds: time, limit.
const RECORDED_AFTER: &str = "
    SELECT l.first_position, e.commit_id, e.ordinal, e.event_id, e.aggregate_type, e.aggregate_id, e.version, e.event_type,
        e.schema_version, e.codec, e.recorded_at, e.correlation_id, e.causation_id, e.metadata, e.payload
    FROM {schema}.log l JOIN {schema}.events e ON e.commit_id = l.commit_id
    WHERE e.recorded_at > $1
    ORDER BY l.first_position, e.ordinal LIMIT $2";
