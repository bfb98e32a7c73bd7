//! The records of changes.

use chrono::{DateTime, Utc};
use rusqlite::Connection;

use crate::store::model::interventions::{AuditEntry, audit_entry};
use crate::store::sqlite::convert::to_sql;
use crate::store::sqlite::error::{Failure, corrupt};

/// Writes a record in the transaction of its change.
pub(crate) fn insert_audit(db: &Connection, entry: &AuditEntry) -> Result<(), Failure> {
    let AuditEntry { at, by, action, target, count, .. } = entry;
    let binds = (at.timestamp_micros(), &by.who, action.as_str(), target, &by.reason, to_sql(*count));
    db.prepare_cached(AUDIT)?.execute(binds)?;
    Ok(())
}

/// Returns the last `limit` records before number `before`, the newest first.
pub(crate) fn entries(db: &Connection, limit: usize, before: Option<u64>) -> Result<Vec<AuditEntry>, Failure> {
    let mut select = db.prepare_cached(ENTRIES)?;
    let mut rows = select.query((before.map_or(i64::MAX, to_sql), limit_to_sql(limit)))?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let columns =
            (row.get(0)?, time(row.get(1)?)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?);
        entries.push(audit_entry(columns)?);
    }
    Ok(entries)
}

pub(crate) fn limit_to_sql(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(crate) fn time(micros: i64) -> Result<DateTime<Utc>, Failure> {
    DateTime::from_timestamp_micros(micros).ok_or_else(|| corrupt(format!("invalid time {micros}")))
}

/// Binds: time, operator, action, target, reason, count.
const AUDIT: &str = "
    INSERT INTO retell_audit (at, who, action, target, reason, count) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

/// Binds: number, limit.
const ENTRIES: &str = "
    SELECT id, at, who, action, target, reason, count FROM retell_audit WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
