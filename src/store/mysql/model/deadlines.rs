//! Deadlines in MySQL and MariaDB.

use async_trait::async_trait;
use chrono::{DateTime, NaiveDateTime, Utc};
use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, QueryBuilder, Row as _};
use uuid::Uuid;

use crate::error::Result;
use crate::id::ProjectionName;
use crate::store::model::deadlines::{Deadline, DeadlineChange, DeadlineColumns, DeadlineStore, parts};
use crate::store::mysql::convert::{text, time_to_sql};
use crate::store::mysql::error::classify;
use crate::store::mysql::model::read_model::MySqlReadModel;
use crate::store::server::convert::limit_to_sql;

/// The most rows in one statement.
const ROWS: usize = 256;

#[async_trait]
impl DeadlineStore for MySqlReadModel {
    async fn change_deadlines(
        &self,
        tx: &mut MySqlConnection,
        process: &ProjectionName,
        changes: &[DeadlineChange],
    ) -> Result<()> {
        change(tx, process, changes).await.map_err(|error| classify(error, "change deadlines"))
    }

    async fn settle_deadlines(&self, process: &ProjectionName, changes: &[DeadlineChange]) -> Result<()> {
        let failed = |error| classify(error, "change deadlines");
        let settle = || async {
            let mut lease = self.connections.lease().await.map_err(failed)?;
            let mut tx = lease.begin().await.map_err(failed)?;
            change(&mut tx, process, changes).await.map_err(failed)?;
            let committed = tx.commit().await;
            lease.end(committed).map_err(failed)
        };
        self.connections.repeat("change deadlines", settle).await
    }

    async fn due_deadlines(&self, process: &ProjectionName, now: DateTime<Utc>, limit: usize) -> Result<Vec<Deadline>> {
        let failed = |error| classify(error, "read deadlines");
        let read = || async {
            let due = sqlx::query(DUE).bind(process.as_str().as_bytes()).bind(time_to_sql(now));
            let rows = self.connections.rows(due.bind(limit_to_sql(limit))).await.map_err(failed)?;
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
        let query = sqlx::query(POSTPONE).bind(time_to_sql(until)).bind(error.as_bytes());
        let query = query.bind(process.as_str().as_bytes()).bind(id);
        self.connections.execute(query).await.map(drop).map_err(|error| classify(error, "postpone a deadline"))
    }
}

async fn change(
    tx: &mut MySqlConnection,
    process: &ProjectionName,
    changes: &[DeadlineChange],
) -> Result<(), sqlx::Error> {
    let (set, ended) = parts(changes);
    for chunk in set.chunks(ROWS) {
        let mut query = QueryBuilder::new(SET);
        query.push_values(chunk, |mut row, deadline| {
            row.push_bind(process.as_str().as_bytes())
                .push_bind(deadline.id)
                .push_bind(deadline.key.as_str().as_bytes());
            row.push_bind(deadline.name.as_bytes()).push_bind(time_to_sql(deadline.at));
            row.push_bind(deadline.correlation_id.map(|id| *id.as_uuid()));
            row.push_bind(deadline.causation_id.map(|id| *id.as_uuid()));
            row.push_bind(deadline.trace.as_ref().map(|trace| trace.to_string().into_bytes()));
        });
        query.push(IGNORE_EXISTING).build().execute(&mut *tx).await?;
    }
    for chunk in ended.chunks(ROWS) {
        let mut query = QueryBuilder::new(END);
        query.push_bind(process.as_str().as_bytes()).push(AMONG);
        let mut ids = query.separated(", ");
        for id in chunk {
            ids.push_bind(*id);
        }
        ids.push_unseparated(")");
        query.build().execute(&mut *tx).await?;
    }
    Ok(())
}

fn columns(row: &MySqlRow) -> Result<DeadlineColumns<'_>, sqlx::Error> {
    let at: NaiveDateTime = row.try_get(3)?;
    Ok(DeadlineColumns {
        id: row.try_get(0)?,
        key: text(row.try_get(1)?)?,
        name: text(row.try_get(2)?)?,
        at: at.and_utc(),
        correlation_id: row.try_get(4)?,
        causation_id: row.try_get(5)?,
        trace: row.try_get::<Option<_>, _>(6)?.map(text).transpose()?,
        attempts: row.try_get(7)?,
    })
}

/// Binds for each row: process, id, key, name, time, correlation id, causation id, trace.
const SET: &str = "INSERT INTO retell_deadlines (process, deadline_id, process_key, name, due_at, correlation_id, causation_id, trace) ";

const IGNORE_EXISTING: &str = " ON DUPLICATE KEY UPDATE attempts = retell_deadlines.attempts";

const END: &str = "DELETE FROM retell_deadlines WHERE process = ";

const AMONG: &str = " AND deadline_id IN (";

const DUE: &str = "
    SELECT deadline_id, process_key, name, due_at, correlation_id, causation_id, trace, attempts FROM retell_deadlines
    WHERE process = ? AND due_at <= ?
    ORDER BY due_at LIMIT ?";

/// Binds: time, error, process, id.
const POSTPONE: &str = "
    UPDATE retell_deadlines SET due_at = ?, attempts = attempts + 1, error = ? WHERE process = ? AND deadline_id = ?";
