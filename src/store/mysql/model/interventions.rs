//! The changes that operators make to a projection, and their records.

use chrono::{DateTime, Utc};
use sqlx::mysql::{MySqlArguments, MySqlRow};
use sqlx::{MySql, MySqlConnection, Row};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::id::{ProjectionName, StreamId};
use crate::store::model::interventions::{AuditEntry, By, Intervention, Pause, check_pausable};
use crate::store::model::read_model::ReadModel;
use crate::store::model::skipped::{Skipped, SkippedColumns};
use crate::store::mysql::audit::insert_audit;
use crate::store::mysql::convert::{text, time_to_sql};
use crate::store::mysql::error::classify;
use crate::store::mysql::model::checkpoint::lock_checkpoint_in;
use crate::store::mysql::model::parking::{PARKED_AT, RETRY, columns};
use crate::store::mysql::model::processors::{COUNT, FORGET};
use crate::store::mysql::model::read_model::MySqlReadModel;
use crate::store::server::convert::{limit_to_sql, to_sql};
use crate::store::server::lease::Lease;

const ATTEMPT: &str = "change a projection";

fn failed(error: sqlx::Error) -> Error {
    classify(error, ATTEMPT)
}

impl MySqlReadModel {
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
        lease.finish(changed)
    }

    async fn change_on(
        &self,
        lease: &mut Lease<MySql>,
        projection: &ProjectionName,
        intervention: &Intervention,
        by: &By,
    ) -> Result<bool> {
        let session = lease.session();
        let mut tx = lease.begin().await.map_err(failed)?;
        if let Intervention::SkipParked { stream, .. } = intervention {
            // A turn of the aggregate ends first, or sees the count of this change.
            let held = bind(sqlx::query(HOLD).bind(projection.as_str().as_bytes()), stream);
            held.execute(&mut *tx).await.map_err(failed)?;
        }
        let found = lock_checkpoint_in(&mut tx, projection, &session).await?;
        let name = projection.as_str().as_bytes();
        let is_changed = match intervention {
            Intervention::Pause | Intervention::Retire => {
                check_pausable(projection, found.state)?;
                let begun = intervention.pause_after(self.pause_on(&mut tx, projection).await?.as_ref(), by);
                if let Some(pause) = &begun {
                    let query = sqlx::query(PAUSE).bind(time_to_sql(pause.since)).bind(by.who.as_bytes());
                    let query = query.bind(by.reason.as_bytes()).bind(pause.retired).bind(name);
                    query.execute(&mut *tx).await.map_err(failed)?;
                }
                // Waits for the turns in progress, which hold a shared lock on the row.
                sqlx::query(SET_GATE).bind(name).bind(true).execute(&mut *tx).await.map_err(failed)?;
                begun.is_some()
            }
            Intervention::Resume => {
                sqlx::query(RESUME).bind(name).execute(&mut *tx).await.map_err(failed)?;
                sqlx::query(SET_GATE).bind(name).bind(false).execute(&mut *tx).await.map_err(failed)?;
                found.paused
            }
            Intervention::RetryParked(stream) => self.revive(&mut tx, projection, stream).await?,
            Intervention::SkipParked { stream, version, event_id } => {
                let query = bind(sqlx::query(PARKED_AT).bind(name), stream);
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
                let query = sqlx::query(FORGET).bind(name).bind(processor.digest().to_vec());
                query.execute(&mut *tx).await.map_err(failed)?.rows_affected() > 0
            }
        };
        if is_changed && intervention.counts() {
            let count = sqlx::query(COUNT).bind(to_sql(found.changes + 1)).bind(name);
            count.execute(&mut *tx).await.map_err(failed)?;
        }
        if is_changed {
            let entry = AuditEntry::new(intervention.action(), intervention.target(projection), by);
            insert_audit(&mut tx, &entry).await.map_err(failed)?;
        }
        tx.commit().await.map_err(failed)?;
        Ok(is_changed)
    }

    async fn revive(&self, tx: &mut MySqlConnection, projection: &ProjectionName, stream: &StreamId) -> Result<bool> {
        let query = sqlx::query(RETRY).bind(time_to_sql(Utc::now())).bind(projection.as_str().as_bytes());
        Ok(bind(query, stream).execute(tx).await.map_err(failed)?.rows_affected() > 0)
    }

    async fn insert_skipped(&self, tx: &mut MySqlConnection, skipped: &Skipped) -> Result<()> {
        let query = sqlx::query(SKIP).bind(Skipped::shared_name(&skipped.projection).as_bytes());
        let query = bind(query.bind(skipped.projection.as_str().as_bytes()), &skipped.stream);
        let query = query
            .bind(to_sql(skipped.version.get()))
            .bind(to_sql(skipped.position.get()))
            .bind(skipped.event_id.map(|id| *id.as_uuid()))
            .bind(skipped.error.as_bytes())
            .bind(time_to_sql(skipped.at))
            .bind(skipped.by.who.as_bytes())
            .bind(skipped.by.reason.as_bytes())
            .bind(skipped.state.as_str().as_bytes());
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

    pub(crate) async fn pause_on(
        &self,
        db: &mut MySqlConnection,
        projection: &ProjectionName,
    ) -> Result<Option<Pause>> {
        let query = sqlx::query_as(PAUSED).bind(projection.as_str().as_bytes());
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
        db: &mut MySqlConnection,
        projection: &ProjectionName,
        stream: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<Skipped>> {
        let failed = |error| classify(error, "read skipped events");
        let name = Skipped::shared_name(projection).as_bytes();
        let query = match stream {
            Some(stream) => bind(sqlx::query(SKIPPED_AT).bind(name), stream),
            None => sqlx::query(SKIPPED).bind(name),
        };
        let rows = query.bind(limit_to_sql(limit)).fetch_all(db).await.map_err(failed)?;
        rows.iter().map(|row| skipped_columns(row).map_err(failed)?.parse()).collect()
    }
}

type Query<'q> = sqlx::query::Query<'q, MySql, MySqlArguments>;

/// Binds the two names of a stream.
fn bind<'q>(query: Query<'q>, stream: &'q StreamId) -> Query<'q> {
    query.bind(stream.aggregate_type().as_str().as_bytes()).bind(stream.aggregate_id().as_str().as_bytes())
}

fn skipped_columns(row: &MySqlRow) -> Result<SkippedColumns, sqlx::Error> {
    Ok(SkippedColumns {
        projection: text(row.try_get(0)?)?.to_owned(),
        aggregate_type: text(row.try_get(1)?)?.to_owned(),
        aggregate_id: text(row.try_get(2)?)?.to_owned(),
        version: row.try_get(3)?,
        position: row.try_get(4)?,
        event_id: row.try_get::<Option<Uuid>, _>(5)?.map(Into::into),
        error: text(row.try_get(6)?)?.to_owned(),
        at: row.try_get(7)?,
        who: text(row.try_get(8)?)?.to_owned(),
        reason: text(row.try_get(9)?)?.to_owned(),
        state: text(row.try_get(10)?)?.to_owned(),
    })
}

/// Binds: time, operator, reason, whether it is retired, projection.
const PAUSE: &str = "
    UPDATE retell_checkpoints SET paused_at = ?, paused_by = ?, pause_reason = ?, retired = ? WHERE projection = ?";

const RESUME: &str = "
    UPDATE retell_checkpoints SET paused_at = NULL, paused_by = NULL, pause_reason = NULL, retired = FALSE
    WHERE projection = ?";

/// Binds: projection, whether it is paused.
const SET_GATE: &str =
    "INSERT INTO retell_gates (projection, closed) VALUES (?, ?) ON DUPLICATE KEY UPDATE closed = VALUES(closed)";

const PAUSED: &str = "
    SELECT paused_at, CONVERT(paused_by USING utf8mb4), CONVERT(pause_reason USING utf8mb4), retired FROM retell_checkpoints
    WHERE projection = ? AND paused_at IS NOT NULL";

/// Binds: projection, aggregate type, aggregate id.
const HOLD: &str = "
    SELECT 1 FROM retell_progress WHERE projection = ? AND aggregate_type = ? AND aggregate_id = ? FOR UPDATE";

/// Binds: shared name, projection, aggregate type, aggregate id, version, position, event, error, time, operator, reason, state.
const SKIP: &str = "
    INSERT INTO retell_skipped (shared_name, projection, aggregate_type, aggregate_id, version, position, event_id, error, at,
        who, reason, state)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// Binds: shared name, limit.
const SKIPPED: &str = "
    SELECT projection, aggregate_type, aggregate_id, version, position, event_id, error, at, who, reason, state
    FROM retell_skipped WHERE shared_name = ? ORDER BY number LIMIT ?";

/// Binds: shared name, aggregate type, aggregate id, limit.
const SKIPPED_AT: &str = "
    SELECT projection, aggregate_type, aggregate_id, version, position, event_id, error, at, who, reason, state
    FROM retell_skipped WHERE shared_name = ? AND aggregate_type = ? AND aggregate_id = ? ORDER BY number LIMIT ?";
