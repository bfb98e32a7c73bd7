//! Saves snapshots.

use sqlx::QueryBuilder;

use crate::error::Result;
use crate::id::{StreamId, Version};
use crate::store::log::event_store::Snapshot;
use crate::store::log::snapshots::{KeptSnapshot, snapshot_changes};
use crate::store::mysql::error::classify;
use crate::store::mysql::log::append::Writer;
use crate::store::server::convert::{from_sql, to_sql};

impl Writer {
    /// Saves a snapshot whose event is in the log, and deletes those that it replaces.
    pub(crate) async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        let failed = |error| classify(error, "save a snapshot");
        let (kind, id) = (stream.aggregate_type().as_str().as_bytes(), stream.aggregate_id().as_str().as_bytes());
        let (version, event_id) = (to_sql(snapshot.version.get()), *snapshot.event_id.as_uuid());
        let find = sqlx::query_as(FIND).bind(kind).bind(id).bind(version).bind(event_id).bind(kind).bind(id);
        let found: Vec<(Option<i64>, Option<i64>, i64)> = self.connections.all(find).await.map_err(failed)?;
        let (mut is_in_log, mut kept) = (false, Vec::new());
        for row in found {
            let (Some(version), Some(fingerprint), has_event) = row else {
                is_in_log = true;
                continue;
            };
            let version = Version::new(from_sql(version, "snapshot version")?);
            kept.push(KeptSnapshot::new(version, fingerprint.cast_unsigned(), has_event > 0));
        }
        let changes = snapshot_changes(&snapshot, &kept);
        if !is_in_log || !changes.save {
            return Ok(());
        }
        let save = sqlx::query(SAVE_SNAPSHOT)
            .bind(kind)
            .bind(id)
            .bind(version)
            .bind(event_id)
            .bind(snapshot.fingerprint.cast_signed())
            .bind(&snapshot.state);
        self.connections.execute(save).await.map_err(failed)?;
        if changes.delete.is_empty() {
            return Ok(());
        }
        let mut delete = QueryBuilder::new(DELETE);
        delete.push_bind(kind).push(OF_STREAM).push_bind(id).push(AT_VERSIONS);
        let mut versions = delete.separated(", ");
        for version in &changes.delete {
            versions.push_bind(to_sql(version.get()));
        }
        versions.push_unseparated(")");
        self.connections.execute(delete.build()).await.map_err(failed)
    }
}

/// Binds: aggregate type, aggregate id, version, event id; aggregate type, aggregate id. The first row, without a version, is there if the log
/// has the event. The others are the stored snapshots, and whether the log has their events. A plain read: the statement that writes would lock the
/// events that it reads. If the log changes between the two, a load still ignores a snapshot whose event it does not find.
const FIND: &str = "
    SELECT NULL, NULL, 1 FROM retell_events WHERE aggregate_type = ? AND aggregate_id = ? AND version = ? AND event_id = ?
    UNION ALL
    SELECT s.version, s.fingerprint, (
        SELECT COUNT(*) FROM retell_events e
        WHERE e.aggregate_type = s.aggregate_type AND e.aggregate_id = s.aggregate_id AND e.version = s.version AND e.event_id = s.event_id
    )
    FROM retell_snapshots s WHERE s.aggregate_type = ? AND s.aggregate_id = ?";

/// Binds: aggregate type, aggregate id, version, event id, fingerprint, state.
const SAVE_SNAPSHOT: &str = "
    INSERT INTO retell_snapshots (aggregate_type, aggregate_id, version, event_id, fingerprint, state)
    VALUES (?, ?, ?, ?, ?, ?)
    ON DUPLICATE KEY UPDATE event_id = VALUES(event_id), fingerprint = VALUES(fingerprint), state = VALUES(state)";

const DELETE: &str = "DELETE FROM retell_snapshots WHERE aggregate_type = ";
const OF_STREAM: &str = " AND aggregate_id = ";
const AT_VERSIONS: &str = " AND version IN (";
