//! The records of changes.

use crate::store::model::interventions::AuditEntry;

/// Adds a record.
pub(crate) fn add(audit: &mut Vec<AuditEntry>, entry: AuditEntry) {
    let id = audit.last().map_or(1, |last| last.id + 1);
    audit.push(AuditEntry { id, ..entry });
}

/// Returns the last `limit` records before number `before`, the newest first.
pub(crate) fn newest(audit: &[AuditEntry], limit: usize, before: Option<u64>) -> Vec<AuditEntry> {
    let older = audit.iter().rev().filter(|entry| before.is_none_or(|before| entry.id < before));
    older.take(limit).cloned().collect()
}
