//! The records of changes.

use sqlx::PgConnection;

use crate::error::Result;
use crate::store::model::interventions::{AuditColumns, AuditEntry, audit_entry};
use crate::store::postgres::connection::Connections;
use crate::store::postgres::error::classify;
use crate::store::postgres::schema::Schema;
use crate::store::server::convert::{limit_to_sql, to_sql};

/// Writes a record in the transaction of its change.
pub(crate) async fn insert_audit(
    schema: &Schema,
    tx: &mut PgConnection,
    entry: &AuditEntry,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query(schema.sql(AUDIT))
        .bind(entry.at)
        .bind(&entry.by.who)
        .bind(entry.action.as_str())
        .bind(&entry.target)
        .bind(&entry.by.reason)
        .bind(to_sql(entry.count));
    query.execute(tx).await.map(drop)
}

/// Returns the last `limit` records before number `before`, the newest first.
pub(crate) async fn entries(
    connections: &Connections,
    schema: &Schema,
    limit: usize,
    before: Option<u64>,
) -> Result<Vec<AuditEntry>> {
    let read = || async {
        let query = sqlx::query_as(schema.sql(ENTRIES)).bind(before.map_or(i64::MAX, to_sql));
        let rows = connections.all(query.bind(limit_to_sql(limit))).await;
        let rows: Vec<AuditColumns> = rows.map_err(|error| classify(error, "read the audit"))?;
        rows.into_iter().map(audit_entry).collect()
    };
    connections.repeat("read the audit", read).await
}

/// Binds: time, operator, action, target, reason, count.
const AUDIT: &str = "
    INSERT INTO {schema}.audit (at, who, action, target, reason, count) VALUES ($1, $2, $3, $4, $5, $6)";

/// Binds: number, limit.
const ENTRIES: &str = "
    SELECT id, at, who, action, target, reason, count FROM {schema}.audit WHERE id < $1 ORDER BY id DESC LIMIT $2";
