//! Reads the log: decodes streams as their rows arrive, and reads pages with two range scans.

use async_trait::async_trait;
use sqlx::mysql::{MySqlArguments, MySqlRow};
use sqlx::{MySql, MySqlConnection, QueryBuilder, Row};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::event::RecordedEvent;
use crate::id::{AggregateType, EventId, EventType, Position, StreamId, Version};
use crate::store::log::columns::event_columns;
use crate::store::log::query::{Filter, Page, Query, Select};
use crate::store::log::reader::{Replay, Visitor};
use crate::store::log::token::Token;
use crate::store::mysql::connection::Connections;
use crate::store::mysql::convert::{text, time_to_sql};
use crate::store::mysql::error::classify;
use crate::store::mysql::log::sequence::sequence;
use crate::store::server::convert::{from_sql, limit_to_sql, split_commit_id, to_sql};
use crate::store::server::fault::Fault;
use crate::store::server::limits::Limits;
use crate::store::server::page::{self, Rows, Scan, Scans};
use crate::store::server::row::{
    Columns, EventBuilder, Replayed, Visit, end_of, first_version, position_of, up_to_found,
};

#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) connections: Connections,
}

impl Reader {
    pub(crate) async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()> {
        let mut begun = false;
        match self.try_replay(stream, replay, visitor, &mut begun).await {
            // The visitor has seen nothing yet.
            Err(error) if !begun && Fault::of::<MySql>(&error) == Fault::Ended => {
                self.try_replay(stream, replay, visitor, &mut begun).await
            }
            replayed => replayed,
        }
    }

    /// Replays once. Sets `begun` when the visitor may have been called.
    async fn try_replay(
        &self,
        stream: &StreamId,
        replay: Replay,
        visitor: &mut dyn Visitor,
        begun: &mut bool,
    ) -> Result<()> {
        let failed = |error| classify(error, "replay a stream");
        let limits = self.connections.limits();
        let last = match end_of(replay) {
            Ok(last) => last,
            Err(time) => {
                let query = sqlx::query_as(LAST_RECORDED_BY)
                    .bind(stream.aggregate_type().as_str().as_bytes())
                    .bind(stream.aggregate_id().as_str().as_bytes())
                    .bind(time_to_sql(time));
                let found = self.connections.optional(query).await.map_err(failed)?;
                let replay = up_to_found(replay, found)?;
                return Box::pin(self.try_replay(stream, replay, visitor, begun)).await;
            }
        };
        let mut lease = self.connections.lease().await.map_err(failed)?;
        // A replay after a known event needs no snapshot: the caller has a state.
        if let (Some(fingerprint), None) = (replay.snapshot, replay.after_event) {
            let query = sqlx::query_as(SNAPSHOT)
                .bind(stream.aggregate_type().as_str().as_bytes())
                .bind(stream.aggregate_id().as_str().as_bytes())
                .bind(first_version(replay))
                .bind(last)
                .bind(fingerprint.cast_signed())
                .fetch_optional(&mut *lease);
            let snapshot: Option<(i64, Uuid, Vec<u8>)> = limits.statements(query).await.map_err(failed)?;
            if let Some((version, id, state)) = snapshot {
                let after = Version::new(from_sql(version, "version")?);
                let tail = Replay { after, after_event: Some(id.into()), snapshot: None, ..replay };
                let mut visit = Visit::from_snapshot(stream, &mut *visitor, tail, state);
                let visited = events(&mut lease, limits, tail, last, &mut visit).await;
                *begun = !visit.is_untouched();
                // If the log does not have the snapshot's event, the snapshot belongs to another history and does not count.
                if *begun || !visited.as_ref().is_err_and(Error::is_history_changed) {
                    return visited.and_then(|()| lease.end(Ok(())).map_err(failed));
                }
            }
        }
        let mut visit = Visit::new(stream, visitor, replay);
        let visited = events(&mut lease, limits, replay, last, &mut visit).await;
        *begun = !visit.is_untouched();
        visited?;
        lease.end(Ok(())).map_err(failed)
    }

    pub(crate) async fn read(&self, query: Query<'_>) -> Result<Page> {
        let limit = limit_to_sql(query.limit);
        let query = match query.select {
            Select::Log { after, filter } => return page::page(self, after, query.limit, filter).await,
            Select::Stream { stream, after } => sqlx::query(STREAM)
                .bind(stream.aggregate_type().as_str().as_bytes())
                .bind(stream.aggregate_id().as_str().as_bytes())
                .bind(to_sql(after.get()))
                .bind(limit),
            Select::Newest(event_type) => sqlx::query(NEWEST).bind(event_type.as_str().as_bytes()).bind(limit),
            Select::RecordedAfter(time) => sqlx::query(RECORDED_AFTER).bind(time_to_sql(time)).bind(limit),
            Select::Event(id) => sqlx::query(EVENT).bind(*id.as_uuid()).bind(limit),
            Select::Chain { id, after } => {
                let id = *id.as_uuid();
                sqlx::query(CHAIN).bind(id).bind(id).bind(id).bind(to_sql(after.get())).bind(limit)
            }
        };
        self.sequence().await?;
        self.joined(query).await.map(Page::found)
    }

    /// Returns the events of a query that joins them with their positions.
    async fn joined(&self, query: sqlx::query::Query<'_, MySql, MySqlArguments>) -> Result<Vec<RecordedEvent>> {
        let failed = |error| classify(error, "read events");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let rows = self.connections.limits().statements(query.fetch_all(&mut *lease)).await;
        let rows = lease.end(rows).map_err(failed)?;
        let mut builder = EventBuilder::default();
        let read = |row: &MySqlRow| {
            let first: i64 = row.try_get(14).map_err(failed)?;
            let ordinal = row.try_get(1).map_err(failed)?;
            builder.build(from_sql(first, "position")?, ordinal, columns(row))
        };
        rows.iter().map(read).collect()
    }

    pub(crate) async fn head(&self) -> Result<Position> {
        self.sequence().await?;
        let failed = |error| classify(error, "read the head");
        let (head,): (i64,) = self.connections.one(sqlx::query_as(HEAD)).await.map_err(failed)?;
        from_sql(head, "position").map(Position::new)
    }

    pub(crate) async fn unsequenced(&self) -> Result<u64> {
        let failed = |error| classify(error, "count the commits without a position");
        let (commits,): (i64,) = self.connections.one(sqlx::query_as(UNSEQUENCED)).await.map_err(failed)?;
        from_sql(commits, "count")
    }

    pub(crate) async fn position_of(&self, token: Token) -> Result<Option<Position>> {
        let Some(last_event) = token.last_event() else { return Ok(Some(Position::ZERO)) };
        let (number, ordinal) = split_commit_id(token.commit());
        let failed = |error| classify(error, "find a commit's position");
        for looked in [false, true] {
            let query = sqlx::query_as(POSITION_OF).bind(ordinal).bind(number).bind(ordinal).bind(number);
            let row: Option<(i64, Option<Uuid>)> = self.connections.optional(query).await.map_err(failed)?;
            if let Some((position, found)) = row {
                return position_of(token, last_event, position, found).map(Some);
            }
            if !looked {
                self.sequence().await?;
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Scans for Reader {
    async fn placed(&self, after: Position, end: Position) -> Result<Scan> {
        let failed = |error| classify(error, "read the log");
        let first = to_sql(after.get());
        let query = sqlx::query_as(LOG)
            .bind(first)
            .bind(first)
            .bind(to_sql(end.get()))
            .bind(first)
            .bind(to_sql(end.since(after).saturating_add(1)));
        let rows = self.connections.all(query).await.map_err(failed)?;
        Scan::of(rows, after)
    }

    async fn event_id(&self, commit: i64, ordinal: u64) -> Result<Option<EventId>> {
        let query = sqlx::query_as(EVENT_ID).bind(commit).bind(to_sql(ordinal));
        let found: Option<(Uuid,)> =
            self.connections.optional(query).await.map_err(|error| classify(error, "read the log"))?;
        Ok(found.map(|(id,)| id.into()))
    }

    async fn is_read_only(&self) -> Result<bool> {
        let asked = self.connections.one(sqlx::query_as::<_, (i64,)>(IS_READ_ONLY)).await;
        asked.map(|(is,)| is != 0).map_err(|error| classify(error, "check whether the database is read-only"))
    }

    async fn events_between(&self, first: i64, last: i64, filter: &Filter, take: Rows<'_>) -> Result<()> {
        let mut query = QueryBuilder::new(EVENTS_FROM);
        query.push_bind(first).push(EVENTS_TO).push_bind(last);
        push_names(&mut query, OF_AGGREGATE_TYPES, filter.aggregate_types.iter().map(AggregateType::as_str));
        push_names(&mut query, OF_EVENT_TYPES, filter.event_types.iter().map(EventType::as_str));
        let failed = |error| classify(error, "read events");
        let limits = self.connections.limits();
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let mut rows = query.build().fetch(&mut *lease);
        while let Some(row) = limits.next_row(&mut rows).await.map_err(failed)? {
            let commit = row.try_get(0).map_err(failed)?;
            let ordinal = row.try_get(1).map_err(failed)?;
            take(commit, ordinal, columns(&row))?;
        }
        drop(rows);
        lease.end(Ok(())).map_err(failed)
    }

    async fn tail(&self, after: Position, end: Position, take: Rows<'_>) -> Result<()> {
        let failed = |error| classify(error, "read events");
        let limits = self.connections.limits();
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let query = sqlx::query(TAIL)
            .bind(to_sql(end.get()))
            .bind(to_sql(after.get()))
            .bind(to_sql(after.get().saturating_add(1)));
        let mut rows = query.fetch(&mut *lease);
        while let Some(row) = limits.next_row(&mut rows).await.map_err(failed)? {
            take(row.try_get(14).map_err(failed)?, row.try_get(1).map_err(failed)?, columns(&row))?;
        }
        drop(rows);
        lease.end(Ok(())).map_err(failed)
    }

    async fn sequence(&self) -> Result<Option<Position>> {
        sequence(&self.connections).await
    }
}

fn push_names<'a>(query: &mut QueryBuilder<MySql>, of: &str, names: impl Iterator<Item = &'a str>) {
    let mut names = names.peekable();
    if names.peek().is_none() {
        return;
    }
    let mut list = query.push(of).separated(", ");
    for name in names {
        list.push_bind(name.as_bytes());
    }
    list.push_unseparated(")");
}

/// Passes the events of a replay up to the version `last` to `visit`.
async fn events(
    connection: &mut MySqlConnection,
    limits: Limits,
    replay: Replay,
    last: i64,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let stream = visit.stream;
    let mut rows = sqlx::query(REPLAY)
        .bind(stream.aggregate_type().as_str().as_bytes())
        .bind(stream.aggregate_id().as_str().as_bytes())
        .bind(first_version(replay))
        .bind(last)
        .fetch(connection);
    while let Some(row) = limits.next_row(&mut rows).await.map_err(|error| classify(error, "replay a stream"))? {
        let replayed = replayed(&row).map_err(|error| visit.damaged(error))?;
        visit.event(&replayed)?;
    }
    visit.end()
}

fn replayed(row: &MySqlRow) -> Result<Replayed<'_>, sqlx::Error> {
    Ok(Replayed {
        version: row.try_get(0)?,
        event_type: text(row.try_get(1)?)?,
        schema_version: row.try_get(2)?,
        codec: row.try_get(3)?,
        payload: row.try_get(4)?,
        id: row.try_get(5)?,
    })
}

/// Reads the columns by index, in the order that every query here selects: a lookup by name costs more than reading the value.
fn columns(row: &MySqlRow) -> Result<Columns<'_>, sqlx::Error> {
    Ok(Columns {
        event_id: row.try_get(2)?,
        aggregate_type: text(row.try_get(3)?)?,
        aggregate_id: text(row.try_get(4)?)?,
        version: row.try_get(5)?,
        event_type: text(row.try_get(6)?)?,
        schema_version: row.try_get(7)?,
        codec: row.try_get(8)?,
        recorded_at: row.try_get(9)?,
        correlation_id: row.try_get(10)?,
        causation_id: row.try_get(11)?,
        metadata: row.try_get::<Option<&[u8]>, _>(12)?.map(text).transpose()?,
        payload: row.try_get(13)?,
    })
}

/// Binds: aggregate type, aggregate id, first version, up to version. Forces the index: for a long stream, the optimizer would scan and sort
/// the whole table, and then the first row would arrive only after the last was read.
const REPLAY: &str = "
    SELECT version, event_type, schema_version, codec, payload, event_id FROM retell_events FORCE INDEX (events_stream)
    WHERE aggregate_type = ? AND aggregate_id = ? AND version >= ? AND version <= ?
    ORDER BY version";

/// Binds: aggregate type, aggregate id, time. An earlier event may have a later time, if the clock went back in between.
const LAST_RECORDED_BY: &str = "
    SELECT version FROM retell_events FORCE INDEX (events_stream) WHERE aggregate_type = ? AND aggregate_id = ? AND recorded_at <= ?
    ORDER BY version DESC LIMIT 1";

/// Binds: aggregate type, aggregate id, first version, up to version, fingerprint. A snapshot counts only if the log has its event under its
/// version.
const SNAPSHOT: &str = "
    SELECT s.version, s.event_id, s.state FROM retell_snapshots s
    WHERE s.aggregate_type = ? AND s.aggregate_id = ? AND s.version >= ? AND s.version <= ? AND s.fingerprint = ? AND EXISTS (
        SELECT 1 FROM retell_events e
        WHERE e.aggregate_type = s.aggregate_type AND e.aggregate_id = s.aggregate_id AND e.version = s.version
            AND e.event_id = s.event_id
    )
    ORDER BY s.version DESC LIMIT 1";

const HEAD: &str = "SELECT position FROM retell_head WHERE id = 1";

const UNSEQUENCED: &str = "SELECT COUNT(*) FROM retell_commits";

/// Binds: ordinal in the commit, commit, ordinal, commit.
const POSITION_OF: &str = "
    SELECT first_position + ? - 1, (SELECT event_id FROM retell_events WHERE commit_id = ? AND ordinal = ?) FROM retell_log
    WHERE commit_id = ? AND first_position <= (SELECT position FROM retell_head WHERE id = 1)";

/// Binds: after, after, end, after, limit. The first row is the commit that holds `after`, or the first commit, and has the id of the event
/// there. The limit only tells the optimizer to expect few rows.
const LOG: &str = "
    SELECT first_position, commit_id, events, CASE WHEN first_position <= ? THEN (
        SELECT e.event_id FROM retell_events AS e WHERE e.commit_id = l.commit_id AND e.ordinal = ? - l.first_position + 1) END
    FROM retell_log AS l
    WHERE first_position <= ?
        AND first_position >= (SELECT COALESCE(MAX(first_position), 0) FROM retell_log WHERE first_position <= ?)
        AND first_position <= (SELECT position FROM retell_head WHERE id = 1)
    ORDER BY first_position LIMIT ?";

/// Binds: commit, ordinal.
const EVENT_ID: &str = "SELECT event_id FROM retell_events WHERE commit_id = ? AND ordinal = ?";

const IS_READ_ONLY: &str = "SELECT CAST(@@global.read_only AS SIGNED)";

/// Binds: end, after, the position after `after`. The first row is the commit that holds the next position.
const TAIL: &str = concat!(
    "SELECT e.commit_id, e.ordinal, ",
    event_columns!("e."),
    ", l.first_position
    FROM retell_log AS l STRAIGHT_JOIN retell_events AS e FORCE INDEX (PRIMARY) ON e.commit_id = l.commit_id
    WHERE l.first_position <= ? AND l.first_position + l.events - 1 > ?
        AND l.first_position >= (SELECT COALESCE(MAX(first_position), 0) FROM retell_log WHERE first_position <= ?)"
);

/// Binds: first commit, last commit, and the names that pass the filter.
const EVENTS_FROM: &str = concat!(
    "SELECT commit_id, ordinal, ",
    event_columns!(""),
    "
    FROM retell_events FORCE INDEX (PRIMARY) WHERE commit_id >= "
);
const EVENTS_TO: &str = " AND commit_id <= ";
const OF_AGGREGATE_TYPES: &str = " AND aggregate_type IN (";
const OF_EVENT_TYPES: &str = " AND event_type IN (";

/// Binds: aggregate type, aggregate id, after, limit. Forces the index for the reason given at `REPLAY`.
const STREAM: &str = concat!(
    "SELECT e.commit_id, e.ordinal, ",
    event_columns!("e."),
    ", l.first_position
    FROM retell_events AS e FORCE INDEX (events_stream) STRAIGHT_JOIN retell_log AS l ON l.commit_id = e.commit_id
    WHERE e.aggregate_type = ? AND e.aggregate_id = ? AND e.version > ?
        AND l.first_position <= (SELECT position FROM retell_head WHERE id = 1)
    ORDER BY e.version LIMIT ?"
);

/// Binds: event type, limit. Sorts keys from indexes alone, and then reads the payloads of the selected rows.
const NEWEST: &str = concat!(
    "SELECT e.commit_id, e.ordinal, ",
    event_columns!("e."),
    ", found.first_position
    FROM (
        SELECT l.first_position, k.commit_id, k.ordinal FROM retell_log AS l JOIN retell_events AS k ON k.commit_id = l.commit_id
        WHERE k.event_type = ? AND l.first_position <= (SELECT position FROM retell_head WHERE id = 1)
        ORDER BY l.first_position DESC, k.ordinal DESC LIMIT ?
    ) AS found JOIN retell_events AS e ON e.commit_id = found.commit_id AND e.ordinal = found.ordinal
    ORDER BY found.first_position DESC, e.ordinal DESC"
);

/// Binds: time, limit. Sorts keys first, as `NEWEST` does.
const RECORDED_AFTER: &str = concat!(
    "SELECT e.commit_id, e.ordinal, ",
    event_columns!("e."),
    ", found.first_position
    FROM (
        SELECT l.first_position, k.commit_id, k.ordinal FROM retell_log AS l JOIN retell_events AS k ON k.commit_id = l.commit_id
        WHERE k.recorded_at > ? AND l.first_position <= (SELECT position FROM retell_head WHERE id = 1)
        ORDER BY l.first_position, k.ordinal LIMIT ?
    ) AS found JOIN retell_events AS e ON e.commit_id = found.commit_id AND e.ordinal = found.ordinal
    ORDER BY found.first_position, e.ordinal"
);

/// Binds: event, limit. Forces the index for the reason given at `REPLAY`.
const EVENT: &str = concat!(
    "SELECT e.commit_id, e.ordinal, ",
    event_columns!("e."),
    ", l.first_position
    FROM retell_events AS e FORCE INDEX (events_id) STRAIGHT_JOIN retell_log AS l ON l.commit_id = e.commit_id
    WHERE e.event_id = ? AND l.first_position <= (SELECT position FROM retell_head WHERE id = 1) LIMIT ?"
);

/// Binds: correlation id, three times, after, limit. Sorts keys first, as `NEWEST` does. The limit inside is `Query::MAX_CHAIN`: without it, a
/// long chain would be sorted whole.
const CHAIN: &str = concat!(
    "SELECT e.commit_id, e.ordinal, ",
    event_columns!("e."),
    ", found.first_position
    FROM (
        SELECT l.first_position, k.commit_id, k.ordinal FROM (
            (
                SELECT commit_id, ordinal FROM retell_events FORCE INDEX (events_chain) WHERE correlation_id = ?
                ORDER BY commit_id, ordinal LIMIT 10000
            )
            UNION
            (
                SELECT commit_id, ordinal FROM retell_events FORCE INDEX (events_id)
                WHERE event_id = ? AND COALESCE(correlation_id, event_id) = ?
            )
        ) AS k STRAIGHT_JOIN retell_log AS l ON l.commit_id = k.commit_id
        WHERE l.first_position + k.ordinal - 1 > ? AND l.first_position <= (SELECT position FROM retell_head WHERE id = 1)
        ORDER BY l.first_position, k.ordinal LIMIT ?
    ) AS found STRAIGHT_JOIN retell_events AS e FORCE INDEX (PRIMARY) ON e.commit_id = found.commit_id AND e.ordinal = found.ordinal
    ORDER BY found.first_position, e.ordinal"
);
