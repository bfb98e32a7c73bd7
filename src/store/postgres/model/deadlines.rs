//! Deadlines in PostgreSQL.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::error::Result;
use crate::id::ProjectionName;
use crate::store::model::deadlines::{Deadline, DeadlineChange, DeadlineColumns, DeadlineStore, parts};
use crate::store::postgres::error::classify;
use crate::store::postgres::model::read_model::PostgresReadModel;
use crate::store::postgres::schema::Schema;
use crate::store::server::convert::limit_to_sql;

#[async_trait]
impl DeadlineStore for PostgresReadModel {
    async fn change_deadlines(
        &self,
        tx: &mut PgConnection,
        process: &ProjectionName,
        changes: &[DeadlineChange],
    ) -> Result<()> {
        change(&self.schema, tx, process, changes).await.map_err(|error| classify(error, "change deadlines"))
    }

    async fn settle_deadlines(&self, process: &ProjectionName, changes: &[DeadlineChange]) -> Result<()> {
        let failed = |error| classify(error, "change deadlines");
        let settle = || async {
            let mut lease = self.connections.lease().await.map_err(failed)?;
            let mut tx = lease.begin().await.map_err(failed)?;
            change(&self.schema, &mut tx, process, changes).await.map_err(failed)?;
            let committed = tx.commit().await;
            lease.end(committed).map_err(failed)
        };
        self.connections.repeat("change deadlines", settle).await
    }

    async fn due_deadlines(&self, process: &ProjectionName, now: DateTime<Utc>, limit: usize) -> Result<Vec<Deadline>> {
        let failed = |error| classify(error, "read deadlines");
        let read = || async {
            let due = sqlx::query(self.schema.sql(DUE)).bind(process.as_str()).bind(now).bind(limit_to_sql(limit));
            let rows = self.connections.rows(due).await.map_err(failed)?;
            rows.iter().map(|row| columns(row).map_err(failed)?.parse()).collect()
        };
        self.connections.repeat("read deadlines", read).await
    }

    async fn postpone_deadline(
        &self,
        process: &ProjectionName,
        id: Uuid,
        until: DateTime<Utc>,
        error: &str,
    ) -> Result<()> {
        let query = sqlx::query(self.schema.sql(POSTPONE)).bind(process.as_str()).bind(id).bind(until).bind(error);
        self.connections.execute(query).await.map_err(|error| classify(error, "postpone a deadline"))
    }
}

fn columns(row: &PgRow) -> Result<DeadlineColumns<'_>, sqlx::Error> {
    Ok(DeadlineColumns {
        id: row.try_get(0)?,
        key: row.try_get(1)?,
        name: row.try_get(2)?,
        at: row.try_get(3)?,
        correlation_id: row.try_get(4)?,
        causation_id: row.try_get(5)?,
        trace: row.try_get(6)?,
        attempts: row.try_get(7)?,
    })
}

async fn change(
    schema: &Schema,
    tx: &mut PgConnection,
    process: &ProjectionName,
    changes: &[DeadlineChange],
) -> Result<(), sqlx::Error> {
    let (set, ended) = parts(changes);
    if !set.is_empty() {
        let query = sqlx::query(schema.sql(SET))
            .bind(process.as_str())
            .bind(set.iter().map(|deadline| deadline.id).collect::<Vec<_>>())
            .bind(set.iter().map(|deadline| deadline.key.as_str()).collect::<Vec<_>>())
            .bind(set.iter().map(|deadline| deadline.name.as_str()).collect::<Vec<_>>())
            .bind(set.iter().map(|deadline| deadline.at).collect::<Vec<_>>())
            .bind(set.iter().map(|deadline| deadline.correlation_id.map(|id| *id.as_uuid())).collect::<Vec<_>>())
            .bind(set.iter().map(|deadline| deadline.causation_id.map(|id| *id.as_uuid())).collect::<Vec<_>>())
            .bind(set.iter().map(|deadline| deadline.trace.as_ref().map(ToString::to_string)).collect::<Vec<_>>());
        query.execute(&mut *tx).await?;
    }
    if !ended.is_empty() {
        sqlx::query(schema.sql(END)).bind(process.as_str()).bind(ended).execute(tx).await?;
    }
    Ok(())
}

/// Binds: process, ids, keys, names, times, correlation ids, causation ids, traces.
const SET: &str = "
    INSERT INTO {schema}.deadlines (process, deadline_id, process_key, name, due_at, correlation_id, causation_id, trace)
    SELECT $1, * FROM unnest($2::uuid[], $3::text[], $4::text[], $5::timestamptz[], $6::uuid[], $7::uuid[], $8::text[])
    ON CONFLICT (process, deadline_id) DO NOTHING";

/// Binds: process, ids. Looks up each row separately, so a plan made while the table was small stays fast. A row that another transaction
/// changes at the same time may stay, which is harmless.
const END: &str = "
    DELETE FROM {schema}.deadlines WHERE ctid = ANY (ARRAY(
        SELECT d.ctid FROM unnest($2::uuid[]) AS ended (id), LATERAL (
            SELECT ctid FROM {schema}.deadlines WHERE process = $1 AND deadline_id = ended.id OFFSET 0
        ) AS d
    ))";

/// Binds: process, now, limit.
const DUE: &str = "
    SELECT deadline_id, process_key, name, due_at, correlation_id, causation_id, trace, attempts FROM {schema}.deadlines
    WHERE process = $1 AND due_at <= $2
    ORDER BY due_at LIMIT $3";

/// Binds: process, id, time, error.
const POSTPONE: &str = "
    UPDATE {schema}.deadlines SET due_at = $3, attempts = attempts + 1, error = $4 WHERE process = $1 AND deadline_id = $2";
