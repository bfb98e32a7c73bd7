//! Saves snapshots.

use crate::error::Result;
use crate::id::StreamId;
use crate::store::log::event_store::Snapshot;
use crate::store::sqlite::convert::to_sql;
use crate::store::sqlite::log::append::Writer;

impl Writer {
    /// Saves a snapshot whose event is in the log, unless a newer one with its fingerprint is stored.
    pub(crate) async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        let stream = stream.clone();
        self.pool
            .run("save a snapshot", move |db| {
                let mut save = db.prepare_cached(SAVE_SNAPSHOT)?;
                save.execute((
                    stream.aggregate_type().as_str(),
                    stream.aggregate_id().as_str(),
                    to_sql(snapshot.version.get()),
                    snapshot.event_id.as_uuid().as_bytes(),
                    snapshot.fingerprint.cast_signed(),
                    snapshot.state,
                ))?;
                Ok(())
            })
            .await
    }
}

/// Binds: aggregate type, aggregate id, version, event id, fingerprint, state. A stored snapshot of another history gives way, whatever its
/// version.
const SAVE_SNAPSHOT: &str = "
    INSERT INTO retell_snapshots (aggregate_type, aggregate_id, version, event_id, fingerprint, state)
    SELECT ?1, ?2, ?3, ?4, ?5, ?6
    WHERE EXISTS (
        SELECT 1 FROM retell_events WHERE aggregate_type = ?1 AND aggregate_id = ?2 AND version = ?3 AND event_id = ?4
    )
    ON CONFLICT (aggregate_type, aggregate_id) DO UPDATE
    SET version = excluded.version, event_id = excluded.event_id, fingerprint = excluded.fingerprint, state = excluded.state
    WHERE fingerprint <> excluded.fingerprint OR version < excluded.version OR NOT EXISTS (
        SELECT 1 FROM retell_events e
        WHERE e.aggregate_type = ?1 AND e.aggregate_id = ?2 AND e.version = retell_snapshots.version
            AND e.event_id = retell_snapshots.event_id
    )";
