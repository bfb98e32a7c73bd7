//! Reads the log: decodes streams as their rows arrive, and reads pages with two range scans.

use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Postgres, Row};
use tracing::Instrument;
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::{AggregateType, EventId, EventType, Position, StreamId};
use crate::store::log::columns::event_columns;
use crate::store::log::query::{Filter, Page, Query, Select};
use crate::store::log::reader::{Replay, Visitor};
use crate::store::log::token::Token;
use crate::store::postgres::connection::Connections;
use crate::store::postgres::error::{classify, refusal};
use crate::store::postgres::schema::Schema;
use crate::store::server::convert::{from_sql, limit_to_sql, split_commit_id, to_sql};
use crate::store::server::fault::Fault;
use crate::store::server::page::{self, Rows, Scan, Scans};
use crate::store::server::rounds::Refusal;
use crate::store::server::row::{
    Columns, EventBuilder, Replayed, Visit, end_of, first_version, position_of, up_to_found,
};
use crate::trace::span;

#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) connections: Connections,
    pub(crate) schema: Schema,
    /// Whether the store was opened for writing.
    pub(crate) expects_writes: bool,
}

impl Reader {
    pub(crate) async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()> {
        let mut begun = false;
        match self.try_replay(stream, replay, visitor, &mut begun).await {
            // The visitor has seen nothing yet.
            Err(error) if !begun && Fault::of::<Postgres>(&error) == Fault::Ended => {
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
        let (kind, id) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
        let last = match end_of(replay) {
            Ok(last) => last,
            Err(time) => {
                let query = sqlx::query_as(self.schema.sql(LAST_RECORDED_BY)).bind(kind).bind(id).bind(time);
                let found = self.connections.optional(query).await.map_err(failed)?;
                let replay = up_to_found(replay, found)?;
                return Box::pin(self.try_replay(stream, replay, visitor, begun)).await;
            }
        };
        // A replay after a known event needs no snapshot: the caller has a state.
        let snapshot = replay.snapshot.filter(|_| replay.after_event.is_none());
        let statement = if snapshot.is_some() { REPLAY_FROM_SNAPSHOT } else { REPLAY };
        let query = sqlx::query(self.schema.sql(statement)).bind(kind).bind(id).bind(first_version(replay)).bind(last);
        let query = match snapshot {
            Some(fingerprint) => query.bind(fingerprint.cast_signed()),
            None => query,
        };
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let limits = self.connections.limits();
        let mut rows = query.fetch(&mut *lease);
        let mut visit = Visit::new(stream, visitor, replay);
        while let Some(row) = limits.next_row(&mut rows).await.map_err(failed)? {
            let visited = visit_row(&mut visit, &row);
            *begun = !visit.is_untouched();
            visited?;
        }
        drop(rows);
        lease.end(Ok(())).map_err(failed)?;
        visit.end()
    }

    pub(crate) async fn read(&self, query: Query<'_>) -> Result<Page> {
        let limit = limit_to_sql(query.limit);
        let sql = |statement| sqlx::query(self.schema.sql(statement));
        let query = match query.select {
            Select::Log { after, filter } => return page::page(self, after, query.limit, filter).await,
            Select::Stream { stream, after } => sql(STREAM)
                .bind(stream.aggregate_type().as_str())
                .bind(stream.aggregate_id().as_str())
                .bind(to_sql(after.get()))
                .bind(limit),
            Select::Newest(event_type) => sql(NEWEST).bind(event_type.as_str()).bind(limit),
            Select::RecordedAfter(time) => sql(RECORDED_AFTER).bind(time).bind(limit),
            Select::Event(id) => sql(EVENT).bind(*id.as_uuid()).bind(limit),
            Select::Chain { id, after } => sql(CHAIN).bind(*id.as_uuid()).bind(to_sql(after.get())).bind(limit),
        };
        self.sequence().await?;
        self.joined(query).await.map(Page::found)
    }

    /// Returns the events of a query that joins them with their positions.
    async fn joined(&self, query: sqlx::query::Query<'_, Postgres, PgArguments>) -> Result<Vec<RecordedEvent>> {
        let failed = |error| classify(error, "read events");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let rows = self.connections.limits().statements(query.fetch_all(&mut *lease)).await;
        let rows = lease.end(rows).map_err(failed)?;
        let mut builder = EventBuilder::default();
        let read = |row: &PgRow| {
            let first: i64 = row.try_get(14).map_err(failed)?;
            let ordinal = row.try_get(1).map_err(failed)?;
            builder.build(from_sql(first, "position")?, ordinal, columns(row))
        };
        rows.iter().map(read).collect()
    }

    pub(crate) async fn head(&self) -> Result<Position> {
        if let Some(head) = self.sequence().await? {
            return Ok(head);
        }
        let head: Option<(i64,)> = self
            .connections
            .optional(sqlx::query_as(self.schema.sql(HEAD)))
            .await
            .map_err(|error| classify(error, "read the head"))?;
        from_sql(head.map_or(0, |(head,)| head), "position").map(Position::new)
    }

    pub(crate) async fn unsequenced(&self) -> Result<u64> {
        let (commits,): (i64,) = self
            .connections
            .one(sqlx::query_as(self.schema.sql(UNSEQUENCED)))
            .await
            .map_err(|error| classify(error, "count the commits without a position"))?;
        from_sql(commits, "count")
    }

    pub(crate) async fn position_of(&self, token: Token) -> Result<Option<Position>> {
        let Some(last_event) = token.last_event() else { return Ok(Some(Position::ZERO)) };
        let (number, ordinal) = split_commit_id(token.commit());
        for looked in [false, true] {
            let row: Option<(i64, Option<Uuid>)> = self
                .connections
                .optional(sqlx::query_as(self.schema.sql(POSITION_OF)).bind(number).bind(ordinal))
                .await
                .map_err(|error| classify(error, "find a commit's position"))?;
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
        let rows = sqlx::query_as(self.schema.sql(LOG)).bind(to_sql(after.get())).bind(to_sql(end.get()));
        let rows = self.connections.all(rows).await.map_err(|error| classify(error, "read the log"))?;
        Scan::of(rows, after)
    }

    async fn event_id(&self, commit: i64, ordinal: u64) -> Result<Option<EventId>> {
        let query = sqlx::query_as(self.schema.sql(EVENT_ID)).bind(commit).bind(to_sql(ordinal));
        let found: Option<(Uuid,)> =
            self.connections.optional(query).await.map_err(|error| classify(error, "read the log"))?;
        Ok(found.map(|(id,)| id.into()))
    }

    async fn is_read_only(&self) -> Result<bool> {
        let asked = self.connections.one(sqlx::query_as::<_, (bool,)>(IS_READ_ONLY)).await;
        asked.map(|(is,)| is).map_err(|error| classify(error, "check whether the database is read-only"))
    }

    async fn events_between(&self, first: i64, last: i64, filter: &Filter, take: Rows<'_>) -> Result<()> {
        let statement = if filter.is_all() { EVENTS } else { FILTERED };
        let mut query = sqlx::query(self.schema.sql(statement)).bind(first).bind(last);
        if !filter.is_all() {
            query = query
                .bind(names(filter.aggregate_types.iter().map(AggregateType::as_str)))
                .bind(names(filter.event_types.iter().map(EventType::as_str)));
        }
        let failed = |error| classify(error, "read events");
        let limits = self.connections.limits();
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let mut rows = query.fetch(&mut *lease);
        while let Some(row) = limits.next_row(&mut rows).await.map_err(failed)? {
            let commit = row.try_get_unchecked(0).map_err(failed)?;
            let ordinal = row.try_get_unchecked(1).map_err(failed)?;
            take(commit, ordinal, columns(&row))?;
        }
        drop(rows);
        lease.end(Ok(())).map_err(failed)
    }

    async fn tail(&self, after: Position, end: Position, take: Rows<'_>) -> Result<()> {
        let failed = |error| classify(error, "read events");
        let query = sqlx::query(self.schema.sql(TAIL)).bind(to_sql(after.get())).bind(to_sql(end.get()));
        let limits = self.connections.limits();
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let mut rows = query.fetch(&mut *lease);
        while let Some(row) = limits.next_row(&mut rows).await.map_err(failed)? {
            take(row.try_get(14).map_err(failed)?, row.try_get(1).map_err(failed)?, columns(&row))?;
        }
        drop(rows);
        lease.end(Ok(())).map_err(failed)
    }

    /// Waits while another session assigns positions.
    async fn sequence(&self) -> Result<Option<Position>> {
        for wait in page::looks() {
            match self.sequence_once().instrument(span::sequence()).await {
                Ok((Some(head),)) => return Ok(u64::try_from(head).ok().map(Position::new)),
                // If sessions use a snapshot older than the lock, the rows of the first sequencer refuse the second one.
                Err(error) if refusal(&error) == Refusal::Other => return Err(classify(error, "assign positions")),
                Ok((None,)) | Err(_) => tokio::time::sleep(wait).await,
            }
        }
        Err(Error::new(ErrorKind::Transient("assign positions: another session holds the sequencer's lock".into())))
    }
}

impl Reader {
    async fn sequence_once(&self) -> Result<(Option<i64>,), sqlx::Error> {
        let query = || sqlx::query_as::<_, (Option<i64>,)>(self.schema.sql(SEQUENCE));
        loop {
            let mut lease = self.connections.lease().await?;
            let head = self.connections.limits().statements(query().fetch_one(&mut *lease)).await;
            // A store that was opened for writing may be connected to a demoted primary, while new sessions reach the new one.
            if !(self.expects_writes && matches!(head, Ok((Some(READ_ONLY),))) && lease.is_read_only()) {
                return lease.end(head);
            }
        }
    }
}

fn visit_row(visit: &mut Visit<'_>, row: &PgRow) -> Result<()> {
    let damaged = |error| visit.damaged(error);
    let version: i64 = row.try_get_unchecked(0).map_err(damaged)?;
    let payload: &[u8] = row.try_get_unchecked(4).map_err(damaged)?;
    let id: Uuid = row.try_get_unchecked(5).map_err(damaged)?;
    let Some(event_type) = row.try_get_unchecked::<Option<&str>, _>(1).map_err(damaged)? else {
        return visit.snapshot(version, id, payload);
    };
    let schema_version: i64 = row.try_get_unchecked(2).map_err(damaged)?;
    let codec: i16 = row.try_get_unchecked(3).map_err(damaged)?;
    visit.event(&Replayed { version, id, event_type, schema_version, codec, payload })
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> Option<Vec<&'a str>> {
    let names: Vec<_> = names.collect();
    (!names.is_empty()).then_some(names)
}

/// Reads the columns by index, in the order that every query here selects: a lookup by name costs more than reading the value. The types
/// are those of our own tables, so they are not checked again in each row.
fn columns(row: &PgRow) -> Result<Columns<'_>, sqlx::Error> {
    Ok(Columns {
        event_id: row.try_get_unchecked(2)?,
        aggregate_type: row.try_get_unchecked(3)?,
        aggregate_id: row.try_get_unchecked(4)?,
        version: row.try_get_unchecked(5)?,
        event_type: row.try_get_unchecked(6)?,
        schema_version: row.try_get_unchecked(7)?,
        codec: row.try_get_unchecked(8)?,
        recorded_at: row.try_get_unchecked(9)?,
        correlation_id: row.try_get_unchecked(10)?,
        causation_id: row.try_get_unchecked(11)?,
        metadata: row.try_get_unchecked(12)?,
        payload: row.try_get_unchecked(13)?,
    })
}

/// Binds: aggregate type, aggregate id, first version, up to version.
const REPLAY: &str = "
    SELECT version, event_type, schema_version, codec, payload, event_id FROM {schema}.events
    WHERE aggregate_type = $1 AND aggregate_id = $2 AND version >= $3 AND version <= $4
    ORDER BY version";

/// Binds: aggregate type, aggregate id, time. An earlier event may have a later time, if the clock went back in between.
const LAST_RECORDED_BY: &str = "
    SELECT version FROM {schema}.events WHERE aggregate_type = $1 AND aggregate_id = $2 AND recorded_at <= $3
    ORDER BY version DESC LIMIT 1";

/// Binds: aggregate type, aggregate id, first version, up to version, fingerprint. A row without an event type is the snapshot. It counts only
/// if the log has its event under its version. `OFFSET 0` makes this one lookup by the stream.
const REPLAY_FROM_SNAPSHOT: &str = "
    WITH snapshot AS MATERIALIZED (
        SELECT s.version, s.state, s.event_id FROM {schema}.snapshots s, LATERAL (
            SELECT FROM {schema}.events e
            WHERE e.aggregate_type = $1 AND e.aggregate_id = $2 AND e.version = s.version AND e.event_id = s.event_id
            OFFSET 0
        ) AS kept
        WHERE s.aggregate_type = $1 AND s.aggregate_id = $2 AND s.version >= $3 AND s.version <= $4 AND s.fingerprint = $5
        ORDER BY s.version DESC LIMIT 1
    )
    SELECT version, NULL, NULL, NULL, state, event_id FROM snapshot
    UNION ALL
    (SELECT version, event_type, schema_version, codec, payload, event_id FROM {schema}.events
    WHERE aggregate_type = $1 AND aggregate_id = $2 AND version >= coalesce((SELECT version + 1 FROM snapshot), $3) AND version <= $4
    ORDER BY version)";

/// The answer of [`SEQUENCE`] in a session that cannot assign positions.
const READ_ONLY: i64 = -1;

/// A replica and a read-only session cannot assign positions: they read the positions that other sessions have assigned. The statement checks
/// this each time, because a replica may be promoted.
const SEQUENCE: &str = "
    SELECT CASE current_setting('transaction_read_only') WHEN 'on' THEN -1 ELSE {schema}.sequence_commits() END";

const HEAD: &str = "SELECT first_position + events - 1 FROM {schema}.log ORDER BY first_position DESC LIMIT 1";

const UNSEQUENCED: &str = "SELECT {schema}.unsequenced()";

/// Binds: commit, ordinal in it.
const POSITION_OF: &str = "
    SELECT first_position + $2 - 1, (SELECT event_id FROM {schema}.events WHERE commit_id = $1 AND ordinal = $2)
    FROM {schema}.log WHERE commit_id = $1";

/// Binds: after, end. The first row is the commit that holds `after`, or the first commit, and has the id of the event there. The limit only
/// tells the planner to expect few rows.
const LOG: &str = "
    SELECT first_position, commit_id, events, CASE WHEN first_position <= $1 THEN (
        SELECT event_id FROM {schema}.events e WHERE e.commit_id = l.commit_id AND e.ordinal = $1 - l.first_position + 1) END
    FROM {schema}.log l
    WHERE first_position <= $2
        AND first_position >= coalesce((SELECT max(first_position) FROM {schema}.log WHERE first_position <= $1), 0)
    ORDER BY first_position LIMIT $2 - $1 + 1";

/// Binds: commit, ordinal.
const EVENT_ID: &str = "SELECT event_id FROM {schema}.events WHERE commit_id = $1 AND ordinal = $2";

const IS_READ_ONLY: &str = "SELECT current_setting('transaction_read_only')::boolean";

/// Binds: after, end. The first row is the commit that holds the next position. The limit is there for the reason given at `LOG`.
///
/// Here and below, `LATERAL` with `OFFSET 0` forces a lookup for each row. A join that was planned while the table was empty would read the
/// whole table until it is analyzed.
const TAIL: &str = concat!(
    "SELECT e.commit_id, e.ordinal, ",
    event_columns!("e."),
    ", l.first_position
    FROM (
        SELECT first_position, commit_id FROM {schema}.log
        WHERE first_position + events - 1 > $1 AND first_position <= $2
            AND first_position >= coalesce((SELECT max(first_position) FROM {schema}.log WHERE first_position <= $1 + 1), 0)
        ORDER BY first_position LIMIT $2 - $1
    ) AS l, LATERAL (SELECT * FROM {schema}.events e WHERE e.commit_id = l.commit_id OFFSET 0) AS e"
);

/// Binds: first commit, last commit.
const EVENTS: &str = concat!(
    "SELECT commit_id, ordinal, ",
    event_columns!(""),
    "
    FROM {schema}.events WHERE commit_id BETWEEN $1 AND $2"
);

/// Binds: first commit, last commit, aggregate types and event types as arrays or NULL.
const FILTERED: &str = concat!(
    "SELECT commit_id, ordinal, ",
    event_columns!(""),
    "
    FROM {schema}.events WHERE commit_id BETWEEN $1 AND $2
        AND ($3::text[] IS NULL OR aggregate_type = ANY ($3)) AND ($4::text[] IS NULL OR event_type = ANY ($4))"
);

/// Binds: aggregate type, aggregate id, after, limit.
const STREAM: &str = concat!(
    "SELECT e.commit_id, e.ordinal, ",
    event_columns!("e."),
    ", l.first_position
    FROM {schema}.events e, LATERAL (SELECT first_position FROM {schema}.log l WHERE l.commit_id = e.commit_id OFFSET 0) AS l
    WHERE e.aggregate_type = $1 AND e.aggregate_id = $2 AND e.version > $3
    ORDER BY e.version LIMIT $4"
);

/// Binds: event type, limit.
const NEWEST: &str = concat!(
    "SELECT e.commit_id, e.ordinal, ",
    event_columns!("e."),
    ", l.first_position
    FROM {schema}.log l JOIN {schema}.events e ON e.commit_id = l.commit_id
    WHERE e.event_type = $1
    ORDER BY l.first_position DESC, e.ordinal DESC LIMIT $2"
);

/// Binds: time, limit.
const RECORDED_AFTER: &str = concat!(
    "SELECT e.commit_id, e.ordinal, ",
    event_columns!("e."),
    ", l.first_position
    FROM {schema}.log l JOIN {schema}.events e ON e.commit_id = l.commit_id
    WHERE l.recorded_at > $1
    ORDER BY l.first_position, e.ordinal LIMIT $2"
);

/// Binds: event, limit.
const EVENT: &str = concat!(
    "SELECT e.commit_id, e.ordinal, ",
    event_columns!("e."),
    ", l.first_position
    FROM {schema}.events e, LATERAL (SELECT first_position FROM {schema}.log l WHERE l.commit_id = e.commit_id OFFSET 0) AS l
    WHERE e.event_id = $1 LIMIT $2"
);

/// Binds: correlation id, after, limit. The condition on both ids is that of the index `events_chain`. `OFFSET 0` makes the joins one lookup
/// per event. The limit inside is `Query::MAX_CHAIN`: without it, a long chain would be sorted whole.
const CHAIN: &str = concat!(
    "SELECT e.commit_id, e.ordinal, ",
    event_columns!("e."),
    ", found.first_position
    FROM (
        SELECT l.first_position, k.commit_id, k.ordinal
        FROM (
            (
                SELECT commit_id, ordinal FROM {schema}.events WHERE correlation_id = $1 AND correlation_id <> event_id
                ORDER BY commit_id, ordinal LIMIT 10000
            )
            UNION ALL
            SELECT commit_id, ordinal FROM {schema}.events WHERE event_id = $1 AND (correlation_id IS NULL OR correlation_id = $1)
        ) AS k, LATERAL (SELECT first_position FROM {schema}.log l WHERE l.commit_id = k.commit_id OFFSET 0) AS l
        WHERE l.first_position + k.ordinal - 1 > $2
        ORDER BY l.first_position, k.ordinal LIMIT $3
    ) AS found,
        LATERAL (SELECT * FROM {schema}.events e WHERE e.commit_id = found.commit_id AND e.ordinal = found.ordinal OFFSET 0) AS e
    ORDER BY found.first_position, e.ordinal"
);
