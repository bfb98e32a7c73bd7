//! The changes that operators make to a projection, and their records.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Postgres, Row};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::id::{ProjectionName, StreamId};
use crate::store::model::interventions::{AuditEntry, By, Intervention, Pause, check_pausable};
use crate::store::model::read_model::ReadModel;
use crate::store::model::skipped::{Skipped, SkippedColumns};
use crate::store::postgres::audit::insert_audit;
use crate::store::postgres::error::classify;
use crate::store::postgres::model::checkpoint::{LOCK, lock};
use crate::store::postgres::model::parking::{PARKED_AT, RETRY, columns};
use crate::store::postgres::model::processors::{COUNT, FORGET};
use crate::store::postgres::model::read_model::PostgresReadModel;
use crate::store::server::convert::{limit_to_sql, to_sql};
use crate::store::server::lease::Lease;

const ATTEMPT: &str = "change a projection";

fn failed(error: sqlx::Error) -> Error {
    classify(error, ATTEMPT)
}

impl PostgresReadModel {
    pub(crate) async fn change_as(
        &self,
        projection: &ProjectionName,
        intervention: &Intervention,
        by: &By,
    ) -> Result<bool> {
        by.check()?;
        self.check_name(projection).await?;
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let changed = self.change_on(&mut lease, projection, intervention, by);
        let changed = self.connections.limits().call(ATTEMPT, changed).await;
        let is_changed = lease.finish(changed)?;
        if matches!(intervention, Intervention::Pause | Intervention::Retire) {
            // From here on, a turn that begins is refused. Those before hold the row, and have ended when this statement has locked it.
            let drained = sqlx::query(self.schema.sql(DRAIN)).bind(projection.as_str());
            self.connections.execute(drained).await.map_err(failed)?;
        }
        Ok(is_changed)
    }

    async fn change_on(
        &self,
        lease: &mut Lease<Postgres>,
        projection: &ProjectionName,
        intervention: &Intervention,
        by: &By,
    ) -> Result<bool> {
        let mut tx = lease.begin().await.map_err(failed)?;
        if let Intervention::SkipParked { stream, .. } = intervention {
            // A turn of the aggregate ends first, or sees the count of this change.
            let held = bind(sqlx::query(self.schema.sql(HOLD)).bind(projection.as_str()), stream);
            held.execute(&mut *tx).await.map_err(failed)?;
        }
        let found = lock(&self.schema, LOCK, projection, &mut tx).await?;
        let name = projection.as_str();
        let is_changed = match intervention {
            Intervention::Pause | Intervention::Retire => {
                check_pausable(projection, found.state)?;
                let begun = intervention.pause_after(self.pause_on(&mut tx, projection).await?.as_ref(), by);
                if let Some(pause) = &begun {
                    let query = sqlx::query(self.schema.sql(PAUSE)).bind(name).bind(pause.since);
                    let query = query.bind(&by.who).bind(&by.reason).bind(pause.retired);
                    query.execute(&mut *tx).await.map_err(failed)?;
                }
                begun.is_some()
            }
            Intervention::Resume => {
                sqlx::query(self.schema.sql(RESUME)).bind(name).execute(&mut *tx).await.map_err(failed)?;
                found.paused
            }
            Intervention::RetryParked(stream) => self.revive(&mut tx, projection, stream).await?,
            Intervention::SkipParked { stream, version, event_id } => {
                let query = bind(sqlx::query(self.schema.sql(PARKED_AT)).bind(name), stream);
                let parked = query.fetch_optional(&mut *tx).await.map_err(failed)?;
                let parked = parked.map(|row| columns(&row).map_err(failed)?.parse()).transpose()?;
                let skipped = Skipped::of(projection, (stream, *version, *event_id), parked, by)?;
                let is_new =
                    !skipped.is_last_of(&self.skipped_on(&mut tx, projection, Some(stream), usize::MAX).await?);
                if is_new {
                    self.insert_skipped(&mut tx, &skipped).await?;
                }
                self.revive(&mut tx, projection, stream).await?;
                is_new
            }
            Intervention::WithdrawSkip { stream, version } => {
                let rows = self.skipped_on(&mut tx, projection, Some(stream), usize::MAX).await?;
                let last = rows.into_iter().rev().find(|row| row.version == *version);
                match last.and_then(|last| last.withdraw(projection, by)) {
                    Some(withdrawn) => self.insert_skipped(&mut tx, &withdrawn).await.map(|()| true)?,
                    None => false,
                }
            }
            Intervention::ForgetProcessor(processor) => {
                let query = sqlx::query(self.schema.sql(FORGET)).bind(name).bind(processor.digest());
                query.execute(&mut *tx).await.map_err(failed)?.rows_affected() > 0
            }
        };
        if is_changed && intervention.counts() {
            let count = sqlx::query(self.schema.sql(COUNT)).bind(name).bind(to_sql(found.changes + 1));
            count.execute(&mut *tx).await.map_err(failed)?;
        }
        if is_changed {
            let entry = AuditEntry::new(intervention.action(), intervention.target(projection), by);
            insert_audit(&self.schema, &mut tx, &entry).await.map_err(failed)?;
        }
        tx.commit().await.map_err(failed)?;
        Ok(is_changed)
    }

    async fn revive(&self, tx: &mut PgConnection, projection: &ProjectionName, stream: &StreamId) -> Result<bool> {
        let query = bind(sqlx::query(self.schema.sql(RETRY)).bind(projection.as_str()), stream).bind(Utc::now());
        Ok(query.fetch_optional(tx).await.map_err(failed)?.is_some())
    }

    async fn insert_skipped(&self, tx: &mut PgConnection, skipped: &Skipped) -> Result<()> {
        let query = sqlx::query(self.schema.sql(SKIP)).bind(Skipped::shared_name(&skipped.projection));
        let query = bind(query.bind(skipped.projection.as_str()), &skipped.stream);
        let query = query
            .bind(to_sql(skipped.version.get()))
            .bind(to_sql(skipped.position.get()))
            .bind(skipped.event_id.map(|id| *id.as_uuid()))
            .bind(&skipped.error)
            .bind(skipped.at)
            .bind(&skipped.by.who)
            .bind(&skipped.by.reason)
            .bind(skipped.state.as_str());
        query.execute(tx).await.map(drop).map_err(failed)
    }

    pub(crate) async fn pause_of(&self, projection: &ProjectionName) -> Result<Option<Pause>> {
        let read = || async {
            let mut lease = self.connections.lease().await.map_err(failed)?;
            let pause = self.pause_on(&mut lease, projection).await;
            lease.finish(pause)
        };
        self.connections.repeat("read a pause", read).await
    }

    pub(crate) async fn pause_on(&self, db: &mut PgConnection, projection: &ProjectionName) -> Result<Option<Pause>> {
        let query = sqlx::query_as(self.schema.sql(PAUSED)).bind(projection.as_str());
        let row: Option<(DateTime<Utc>, String, String, bool)> =
            query.fetch_optional(db).await.map_err(|error| classify(error, "read a pause"))?;
        Ok(row.map(|(since, who, reason, retired)| Pause::new(since, By::new(who, reason)).with_retired(retired)))
    }

    pub(crate) async fn skipped_of(
        &self,
        projection: &ProjectionName,
        stream: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<Skipped>> {
        let read = || async {
            let mut lease = self.connections.lease().await.map_err(failed)?;
            let rows = self.skipped_on(&mut lease, projection, stream, limit).await;
            lease.finish(rows)
        };
        self.connections.repeat("read skipped events", read).await
    }

    async fn skipped_on(
        &self,
        db: &mut PgConnection,
        projection: &ProjectionName,
        stream: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<Skipped>> {
        let failed = |error| classify(error, "read skipped events");
        let name = Skipped::shared_name(projection);
        let query = match stream {
            Some(stream) => bind(sqlx::query(self.schema.sql(SKIPPED_AT)).bind(name), stream),
            None => sqlx::query(self.schema.sql(SKIPPED)).bind(name),
        };
        let rows = query.bind(limit_to_sql(limit)).fetch_all(db).await.map_err(failed)?;
        rows.iter().map(|row| skipped_columns(row).map_err(failed)?.parse()).collect()
    }
}

type Query<'q> = sqlx::query::Query<'q, Postgres, sqlx::postgres::PgArguments>;

/// Binds the two names of a stream.
fn bind<'q>(query: Query<'q>, stream: &'q StreamId) -> Query<'q> {
    query.bind(stream.aggregate_type().as_str()).bind(stream.aggregate_id().as_str())
}

fn skipped_columns(row: &PgRow) -> Result<SkippedColumns, sqlx::Error> {
    Ok(SkippedColumns {
        projection: row.try_get(0)?,
        aggregate_type: row.try_get(1)?,
        aggregate_id: row.try_get(2)?,
        version: row.try_get(3)?,
        position: row.try_get(4)?,
        event_id: row.try_get::<Option<Uuid>, _>(5)?.map(Into::into),
        error: row.try_get(6)?,
        at: row.try_get(7)?,
        who: row.try_get(8)?,
        reason: row.try_get(9)?,
        state: row.try_get(10)?,
    })
}

/// Binds: projection, time, operator, reason, whether it is retired.
const PAUSE: &str = "
    UPDATE {schema}.checkpoints SET paused_at = $2, paused_by = $3, pause_reason = $4, retired = $5 WHERE projection = $1";

const RESUME: &str = "
    UPDATE {schema}.checkpoints SET paused_at = NULL, paused_by = NULL, pause_reason = NULL, retired = false
    WHERE projection = $1";

/// Waits for the turns that hold the row `FOR KEY SHARE`. Unlike an update, this lock excludes them.
const DRAIN: &str = "SELECT 1 FROM {schema}.checkpoints WHERE projection = $1 FOR UPDATE";

const PAUSED: &str = "
    SELECT paused_at, paused_by, pause_reason, retired FROM {schema}.checkpoints
    WHERE projection = $1 AND paused_at IS NOT NULL";

/// Binds: projection, aggregate type, aggregate id.
const HOLD: &str = "
    SELECT 1 FROM {schema}.progress
    WHERE projection = $1 AND aggregate_type = $2 AND aggregate_id = $3 FOR UPDATE";

/// Binds: shared name, projection, aggregate type, aggregate id, version, position, event, error, time, operator, reason, state.
const SKIP: &str = "
    INSERT INTO {schema}.skipped (shared_name, projection, aggregate_type, aggregate_id, version, position, event_id, error, at,
        who, reason, state)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

/// Binds: shared name, limit.
const SKIPPED: &str = "
    SELECT projection, aggregate_type, aggregate_id, version, position, event_id, error, at, who, reason, state
    FROM {schema}.skipped WHERE shared_name = $1
    ORDER BY number LIMIT $2";

/// Binds: shared name, aggregate type, aggregate id, limit.
const SKIPPED_AT: &str = "
    SELECT projection, aggregate_type, aggregate_id, version, position, event_id, error, at, who, reason, state
    FROM {schema}.skipped WHERE shared_name = $1 AND aggregate_type = $2 AND aggregate_id = $3
    ORDER BY number LIMIT $4";
