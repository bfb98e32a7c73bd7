//! The records of changes.

use sqlx::MySqlConnection;

use crate::error::Result;
use crate::store::model::interventions::{AuditColumns, AuditEntry, audit_entry};
use crate::store::mysql::connection::Connections;
use crate::store::mysql::convert::time_to_sql;
use crate::store::mysql::error::classify;
use crate::store::server::convert::{limit_to_sql, to_sql};

/// Writes a record in the transaction of its change.
pub(crate) async fn insert_audit(tx: &mut MySqlConnection, entry: &AuditEntry) -> Result<(), sqlx::Error> {
    let query = sqlx::query(AUDIT)
        .bind(time_to_sql(entry.at))
        .bind(entry.by.who.as_bytes())
        .bind(entry.action.as_str().as_bytes())
        .bind(entry.target.as_bytes())
        .bind(entry.by.reason.as_bytes())
        .bind(to_sql(entry.count));
    query.execute(tx).await.map(drop)
}

/// Returns the last `limit` records before number `before`, the newest first.
pub(crate) async fn entries(connections: &Connections, limit: usize, before: Option<u64>) -> Result<Vec<AuditEntry>> {
    let read = || async {
        let query = sqlx::query_as(ENTRIES).bind(before.map_or(i64::MAX, to_sql));
        let rows = connections.all(query.bind(limit_to_sql(limit))).await;
        let rows: Vec<AuditColumns> = rows.map_err(|error| classify(error, "read the audit"))?;
        rows.into_iter().map(audit_entry).collect()
    };
    connections.repeat("read the audit", read).await
}

/// Binds: time, operator, action, target, reason, count.
const AUDIT: &str = "
    INSERT INTO retell_audit (at, who, action, target, reason, count) VALUES (?, ?, ?, ?, ?, ?)";

/// Binds: number, limit.
const ENTRIES: &str = "
    SELECT id, at, CONVERT(who USING utf8mb4), CONVERT(action USING utf8mb4), CONVERT(target USING utf8mb4),
        CONVERT(reason USING utf8mb4), count
    FROM retell_audit WHERE id < ? ORDER BY id DESC LIMIT ?";
