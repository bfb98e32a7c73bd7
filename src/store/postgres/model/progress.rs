//! Order per aggregate in PostgreSQL: one statement creates and locks the rows of a batch, another writes the changed ones.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Postgres, Row as _};
use uuid::Uuid;

use crate::error::Result;
use crate::id::mark::Mark;
use crate::id::{ProjectionName, StreamId, Version};
use crate::store::held::holding;
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::parking::Parked;
use crate::store::model::processors::check_changes;
use crate::store::model::progress::{
    Progress, Row, Seen, StoredRow, Turn, changes, in_key_order, parked_of, progress_of, stored,
};
use crate::store::model::read_model::Work;
use crate::store::postgres::error::{classify, classify_work};
use crate::store::postgres::model::checkpoint;
use crate::store::postgres::model::parking::{columns, park};
use crate::store::postgres::model::read_model::PostgresReadModel;
use crate::store::postgres::schema::Schema;
use crate::store::server::convert::{from_sql, id_to_sql, mark_from_sql, to_sql};
use crate::store::server::inline::InlineModels;
use crate::store::server::lease::Lease;

impl PostgresReadModel {
    pub(crate) async fn begin_per_aggregate(
        &self,
        projection: &ProjectionName,
        work: Work<PgConnection>,
    ) -> Result<()> {
        self.begin_as(projection, ProjectionState::Running, work).await
    }

    pub(crate) async fn seen_versions(
        &self,
        projection: &ProjectionName,
        streams: &[StreamId],
    ) -> Result<HashMap<StreamId, Seen>> {
        let failed = |error| classify(error, "read progress");
        let read = || async {
            let mut lease = self.connections.lease().await.map_err(failed)?;
            let found = rows(&mut lease, &self.schema, FIND, projection, streams).await;
            Ok(lease.finish(found)?.0.into_iter().map(|(stream, row)| (stream, Seen::of(row))).collect())
        };
        self.connections.repeat("read progress", read).await
    }

    pub(crate) async fn run_turn(
        &self,
        projection: &ProjectionName,
        known: u64,
        streams: Vec<StreamId>,
        turn: Turn<PgConnection>,
    ) -> Result<()> {
        let streams = in_key_order(streams);
        let _turn = self.connections.turn().await?;
        let (mut turn, mut retries) = (Some(turn), self.connections.retries());
        loop {
            let lease = self.connections.lease().await;
            let mut lease = lease.map_err(|error| classify(error, "commit a batch"))?;
            let done = self.turn_on(&mut lease, (projection, known), &streams, &mut turn).await;
            let done = lease.finish(done);
            if turn.is_none() || !retries.may_pass(&done) {
                return done;
            }
        }
    }

    pub(crate) async fn sweep_to(&self, projection: &ProjectionName, known: u64, from: Mark, to: Mark) -> Result<Mark> {
        let query = sqlx::query_as(self.schema.sql(SWEEP))
            .bind(projection.as_str())
            .bind(to_sql(from.position.get()))
            .bind(id_to_sql(from))
            .bind(to_sql(to.position.get()))
            .bind(id_to_sql(to))
            .bind(to_sql(known));
        let swept: (i64, Option<Uuid>, i64) =
            self.connections.one(query).await.map_err(|error| classify(error, "advance a swept position"))?;
        check_changes(projection, known, from_sql(swept.2, "count")?)?;
        mark_from_sql((swept.0, swept.1))
    }
}

#[async_trait]
impl InlineModels for PostgresReadModel {
    async fn begin_inline(&self, projection: &ProjectionName, work: Work<PgConnection>) -> Result<()> {
        self.begin_as(projection, ProjectionState::Inline, work).await
    }
}

impl PostgresReadModel {
    /// Sets the projection up with order per aggregate, in this state.
    async fn begin_as(
        &self,
        projection: &ProjectionName,
        state: ProjectionState,
        work: Work<PgConnection>,
    ) -> Result<()> {
        let _turn = self.connections.turn().await?;
        let (mut work, mut retries) = (Some(work), self.connections.retries());
        loop {
            let lease = self.connections.lease().await;
            let mut lease = lease.map_err(|error| classify(error, "set up a projection"))?;
            let done = self.begin_on(&mut lease, projection, state, &mut work).await;
            let done = lease.finish(done);
            if work.is_none() || !retries.may_pass(&done) {
                return done;
            }
        }
    }

    /// Sets the projection up. Takes `work` when it runs it.
    async fn begin_on(
        &self,
        lease: &mut Lease<Postgres>,
        projection: &ProjectionName,
        state: ProjectionState,
        work: &mut Option<Work<PgConnection>>,
    ) -> Result<()> {
        let failed = |error| classify(error, "set up a projection");
        let limits = self.connections.limits();
        let mut tx = lease.begin().await.map_err(failed)?;
        let statement = if state == ProjectionState::Inline { BEGIN_INLINE } else { BEGIN_PER_AGGREGATE };
        let locked = checkpoint::lock(&self.schema, statement, projection, &mut tx);
        let begun = limits.call("set up a projection", locked).await?;
        if begun.state != ProjectionState::Inline || state != ProjectionState::Inline {
            begun.state.check_running(projection)?;
        }
        begun.check_aggregate_order(projection)?;
        if begun.paused
            && let Some(pause) = limits.call("set up a projection", self.pause_on(&mut tx, projection)).await?
        {
            return Err(pause.refuse(projection));
        }
        if let Some(work) = work.take() {
            holding(self.connections.held(), work(&mut tx)).await.map_err(classify_work)?;
        }
        limits.statements(tx.commit()).await.map_err(failed)
    }

    /// Runs a turn. Takes `turn` when it runs it.
    async fn turn_on(
        &self,
        lease: &mut Lease<Postgres>,
        (projection, known): (&ProjectionName, u64),
        streams: &[StreamId],
        turn: &mut Option<Turn<PgConnection>>,
    ) -> Result<()> {
        let failed = |error| classify(error, "commit a batch");
        let limits = self.connections.limits();
        let mut tx = lease.begin().await.map_err(failed)?;
        let locked = async {
            let (locked, stored) = rows(&mut tx, &self.schema, LOCK, projection, streams).await?;
            if let Some(stored) = stored {
                check_changes(projection, known, from_sql(stored, "count")?)?;
            }
            let parked = self.parked_of(&mut tx, projection, &parked_of(streams, &locked)).await?;
            progress_of(streams.to_vec(), &locked, parked)
        };
        let before = limits.call("commit a batch", locked).await?;
        let mut after = before.clone();
        if let Some(turn) = turn.take() {
            holding(self.connections.held(), turn(&mut tx, &mut after)).await.map_err(classify_work)?;
        }
        let (changed, parking) = changes(&before, &after);
        let committed = async {
            self.set(&mut tx, projection, &changed).await?;
            for change in &parking {
                park(&self.schema, projection, change).execute(&mut *tx).await?;
            }
            tx.commit().await
        };
        limits.statements(committed).await.map_err(failed)
    }

    async fn parked_of(
        &self,
        tx: &mut PgConnection,
        projection: &ProjectionName,
        streams: &[&StreamId],
    ) -> Result<Vec<Parked>> {
        if streams.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |error| classify(error, "read parked aggregates");
        let (kinds, ids) = keys(streams.iter().copied());
        let query = sqlx::query(self.schema.sql(PARKED)).bind(projection.as_str()).bind(kinds).bind(ids);
        let rows = query.fetch_all(tx).await.map_err(failed)?;
        rows.iter().map(|row| columns(row).map_err(failed)?.parse()).collect()
    }

    async fn set(
        &self,
        tx: &mut PgConnection,
        projection: &ProjectionName,
        changed: &[&Progress],
    ) -> Result<(), sqlx::Error> {
        let (kinds, ids) = keys(changed.iter().map(|row| &row.stream));
        let numbers = |number: fn(&Progress) -> Version| -> Vec<i64> {
            changed.iter().map(|row| to_sql(number(row).get())).collect()
        };
        let query = sqlx::query(self.schema.sql(SET)).bind(projection.as_str()).bind(kinds).bind(ids);
        let ids: Vec<Option<Uuid>> = changed.iter().map(|row| row.seen_id.map(|id| *id.as_uuid())).collect();
        let query = query.bind(numbers(|row| row.applied)).bind(numbers(|row| row.seen)).bind(ids);
        query.execute(tx).await.map(drop)
    }
}

fn keys<'s>(streams: impl Iterator<Item = &'s StreamId>) -> (Vec<&'s str>, Vec<&'s str>) {
    streams.map(|stream| (stream.aggregate_type().as_str(), stream.aggregate_id().as_str())).unzip()
}

/// Returns the rows, and the count of the projection's changes if `statement` selects it.
async fn rows(
    db: &mut PgConnection,
    schema: &Schema,
    statement: &'static str,
    projection: &ProjectionName,
    streams: &[StreamId],
) -> Result<(HashMap<StreamId, Row>, Option<i64>)> {
    let (kinds, ids) = keys(streams.iter());
    let query = sqlx::query(schema.sql(statement)).bind(projection.as_str()).bind(kinds).bind(ids);
    let failed = |error| classify(error, "read progress");
    let found = query.fetch_all(db).await.map_err(failed)?;
    let changes = found.first().filter(|row| row.len() > COLUMNS).map(|row| row.try_get(COLUMNS));
    let changes = changes.transpose().map_err(failed)?;
    Ok((found.iter().map(|row| row_of(row).map_err(failed).and_then(stored)).collect::<Result<_>>()?, changes))
}

/// The number of columns of a row.
const COLUMNS: usize = 5;

fn row_of(row: &PgRow) -> Result<StoredRow<'_>, sqlx::Error> {
    Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?))
}

/// A projection that has begun in log order keeps that order, unless it is still at position zero.
const BEGIN_PER_AGGREGATE: &str = "
    INSERT INTO {schema}.checkpoints AS c (projection, position, per_aggregate) VALUES ($1, 0, true)
    ON CONFLICT (projection) DO UPDATE SET per_aggregate = c.per_aggregate OR c.position = 0
    RETURNING position, event_id, changes, per_aggregate, state, paused_at IS NOT NULL";

/// `BEGIN_PER_AGGREGATE` for a projection that appends will apply inline.
const BEGIN_INLINE: &str = "
    INSERT INTO {schema}.checkpoints AS c (projection, position, per_aggregate, state) VALUES ($1, 0, true, 'inline')
    ON CONFLICT (projection) DO UPDATE SET per_aggregate = c.per_aggregate OR c.position = 0,
        state = CASE c.state WHEN 'running' THEN 'inline' ELSE c.state END
    RETURNING position, event_id, changes, per_aggregate, state, paused_at IS NOT NULL";

/// Binds: projection, aggregate types, aggregate ids. Looks up each row separately, so a plan made while the table was small stays fast.
const FIND: &str = "
    SELECT wanted.aggregate_type, wanted.aggregate_id, p.applied, p.seen, p.seen_id
    FROM unnest($2::text[], $3::text[]) AS wanted (aggregate_type, aggregate_id), LATERAL (
        SELECT applied, seen, seen_id FROM {schema}.progress AS p
        WHERE p.projection = $1 AND p.aggregate_type = wanted.aggregate_type AND p.aggregate_id = wanted.aggregate_id
        OFFSET 0
    ) AS p";

/// Binds: projection, aggregate types, aggregate ids.
///
/// Inserts the missing rows and locks all of them in the given order, which is key order. A row that another transaction has locked is read
/// after that transaction ends. A process that is paused while it holds the rows would block the other workers at these rows, so the server
/// ends a transaction that is idle for 30 seconds. On Linux it also ends one whose connection the worker has closed, as for a single checkpoint.
///
/// Locks the checkpoint with the weakest lock, which sweeps do not wait for, and reads its newest count: a pause first changes the count, and
/// then waits for this lock.
const LOCK: &str = "
    WITH known AS (SELECT changes FROM {schema}.checkpoints WHERE projection = $1 FOR KEY SHARE)
    INSERT INTO {schema}.progress AS p (projection, aggregate_type, aggregate_id, applied, seen)
    SELECT $1, aggregate_type, aggregate_id, 0, 0
    FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS wanted (aggregate_type, aggregate_id, place)
    ORDER BY place
    ON CONFLICT (projection, aggregate_type, aggregate_id) DO UPDATE SET applied = p.applied
    RETURNING aggregate_type, aggregate_id, applied, seen, seen_id,
        coalesce((SELECT changes FROM known), 0), set_config('idle_in_transaction_session_timeout', '30s', true),
        CASE WHEN version() LIKE '%linux%' THEN set_config('client_connection_check_interval', '1s', true) END";

/// Binds: projection, aggregate types, aggregate ids, versions applied, versions seen, events seen. All rows exist, so each insert becomes an update that
/// finds the row by its key.
const SET: &str = "
    INSERT INTO {schema}.progress (projection, aggregate_type, aggregate_id, applied, seen, seen_id)
    SELECT $1, * FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::uuid[])
    ON CONFLICT (projection, aggregate_type, aggregate_id) DO UPDATE
    SET applied = excluded.applied, seen = excluded.seen, seen_id = excluded.seen_id";

/// Binds: projection, aggregate types, aggregate ids.
const PARKED: &str = "
    SELECT aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state
    FROM unnest($2::text[], $3::text[]) AS wanted (aggregate_type, aggregate_id)
    JOIN {schema}.parked USING (aggregate_type, aggregate_id)
    WHERE projection = $1";

/// Binds: projection, old position and event, new position and event, count of changes. A projection without a row is at zero.
const SWEEP: &str = "
    INSERT INTO {schema}.checkpoints AS c (projection, position, event_id, per_aggregate)
    VALUES ($1, CASE WHEN $2 = 0 THEN $4 ELSE 0 END, CASE WHEN $2 = 0 THEN $5::uuid END, true)
    ON CONFLICT (projection) DO UPDATE SET
        position = CASE WHEN c.state = 'running' AND c.position = $2 AND ($3::uuid IS NULL OR c.event_id = $3) AND c.changes = $6
            THEN $4 ELSE c.position END,
        event_id = CASE WHEN c.state = 'running' AND c.position = $2 AND ($3::uuid IS NULL OR c.event_id = $3) AND c.changes = $6
            THEN $5 ELSE c.event_id END
    RETURNING position, event_id, changes";
