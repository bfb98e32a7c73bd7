//! Saves snapshots.

use crate::error::Result;
use crate::id::{StreamId, Version};
use crate::store::log::event_store::Snapshot;
use crate::store::log::snapshots::{KeptSnapshot, snapshot_changes};
use crate::store::postgres::error::classify;
use crate::store::postgres::log::append::Writer;
use crate::store::server::convert::{from_sql, to_sql};

impl Writer {
    /// Saves a snapshot whose event is in the log, and deletes those that it replaces.
    pub(crate) async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        let failed = |error| classify(error, "save a snapshot");
        let (kind, id) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
        let kept = sqlx::query_as(self.schema.sql(KEPT)).bind(kind).bind(id);
        let kept: Vec<(i64, i64, bool)> = self.connections.all(kept).await.map_err(failed)?;
        let kept = kept.into_iter().map(|(version, fingerprint, is_in_log)| {
            let version = Version::new(from_sql(version, "snapshot version")?);
            Ok(KeptSnapshot::new(version, fingerprint.cast_unsigned(), is_in_log))
        });
        let changes = snapshot_changes(&snapshot, &kept.collect::<Result<Vec<_>>>()?);
        if !changes.save {
            return Ok(());
        }
        let save = sqlx::query_as(self.schema.sql(SAVE_SNAPSHOT))
            .bind(kind)
            .bind(id)
            .bind(to_sql(snapshot.version.get()))
            .bind(*snapshot.event_id.as_uuid())
            .bind(snapshot.fingerprint.cast_signed())
            .bind(snapshot.state)
            .bind(changes.delete.iter().map(|version| to_sql(version.get())).collect::<Vec<_>>());
        self.connections.optional::<(bool,)>(save).await.map(drop).map_err(failed)
    }
}

/// Binds: aggregate type, aggregate id.
const KEPT: &str = "
    SELECT s.version, s.fingerprint, EXISTS (
        SELECT FROM {schema}.events e
        WHERE e.aggregate_type = $1 AND e.aggregate_id = $2 AND e.version = s.version AND e.event_id = s.event_id
    )
    FROM {schema}.snapshots s WHERE s.aggregate_type = $1 AND s.aggregate_id = $2";

/// Binds: aggregate type, aggregate id, version, event id, fingerprint, state, versions to delete. Deletes nothing if the log does not have the
/// event.
const SAVE_SNAPSHOT: &str = "
    WITH saved AS (
        INSERT INTO {schema}.snapshots (aggregate_type, aggregate_id, version, event_id, fingerprint, state)
        SELECT $1, $2, $3, $4, $5, $6
        WHERE EXISTS (
            SELECT FROM {schema}.events WHERE aggregate_type = $1 AND aggregate_id = $2 AND version = $3 AND event_id = $4
        )
        ON CONFLICT (aggregate_type, aggregate_id, version) DO UPDATE
        SET event_id = excluded.event_id, fingerprint = excluded.fingerprint, state = excluded.state
        RETURNING true AS is_saved
    ), deleted AS (
        DELETE FROM {schema}.snapshots
        WHERE aggregate_type = $1 AND aggregate_id = $2 AND version = ANY ($7) AND (SELECT is_saved FROM saved)
    )
    SELECT is_saved FROM saved";
