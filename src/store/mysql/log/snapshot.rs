//! Saves snapshots.

use crate::error::Result;
use crate::id::StreamId;
use crate::store::log::event_store::Snapshot;
use crate::store::mysql::error::classify;
use crate::store::mysql::log::append::Writer;
use crate::store::server::convert::to_sql;

impl Writer {
    /// Saves a snapshot whose event is in the log, unless a newer one with its fingerprint is stored.
    pub(crate) async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        let failed = |error| classify(error, "save a snapshot");
        let (kind, id) = (stream.aggregate_type().as_str().as_bytes(), stream.aggregate_id().as_str().as_bytes());
        let (version, fingerprint) = (to_sql(snapshot.version.get()), snapshot.fingerprint.cast_signed());
        let event_id = *snapshot.event_id.as_uuid();
        let check = sqlx::query_as(CHECK).bind(kind).bind(id).bind(version).bind(event_id).bind(kind).bind(id);
        let (in_log, stale): (i64, i64) = self.connections.one(check).await.map_err(failed)?;
        if in_log == 0 {
            return Ok(());
        }
        let stale = stale > 0;
        let save = sqlx::query(SAVE_SNAPSHOT)
            .bind(kind)
            .bind(id)
            .bind(version)
            .bind(event_id)
            .bind(fingerprint)
            .bind(&snapshot.state)
            .bind(stale)
            .bind(fingerprint)
            .bind(version)
            .bind(&snapshot.state)
            .bind(stale)
            .bind(fingerprint)
            .bind(version)
            .bind(event_id)
            .bind(stale)
            .bind(fingerprint)
            .bind(version)
            .bind(version)
            .bind(fingerprint);
        self.connections.execute(save).await.map_err(failed)
    }
}

/// Binds: aggregate type, aggregate id, version, event id; aggregate type, aggregate id. Returns whether the log has the event, and whether the
/// stored snapshot is of another history. A plain read: the statement that writes would lock the events that it reads. If the log changes between
/// the two, a load still ignores a snapshot whose event it does not find.
const CHECK: &str = "
    SELECT
        (SELECT COUNT(*) FROM retell_events WHERE aggregate_type = ? AND aggregate_id = ? AND version = ? AND event_id = ?),
        (SELECT COUNT(*) FROM retell_snapshots s WHERE s.aggregate_type = ? AND s.aggregate_id = ? AND NOT EXISTS (
            SELECT 1 FROM retell_events e
            WHERE e.aggregate_type = s.aggregate_type AND e.aggregate_id = s.aggregate_id AND e.version = s.version AND e.event_id = s.event_id
        ))";

/// Binds: aggregate type, aggregate id, version, event id, fingerprint, state; then whether the stored snapshot is stale, fingerprint, version,
/// state; stale, fingerprint, version, event id; stale or another fingerprint, version, version; fingerprint. The server assigns from left to
/// right, and each assignment sees those before it.
const SAVE_SNAPSHOT: &str = "
    INSERT INTO retell_snapshots (aggregate_type, aggregate_id, version, event_id, fingerprint, state)
    VALUES (?, ?, ?, ?, ?, ?)
    ON DUPLICATE KEY UPDATE
        state = IF(? OR fingerprint <> ? OR version < ?, ?, state),
        event_id = IF(? OR fingerprint <> ? OR version < ?, ?, event_id),
        version = IF(? OR fingerprint <> ?, ?, GREATEST(version, ?)),
        fingerprint = ?";
