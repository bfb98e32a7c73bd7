//! Saves snapshots.

use crate::error::Result;
use crate::id::StreamId;
use crate::store::log::event_store::Snapshot;
use crate::store::sqlite::convert::to_sql;
use crate::store::sqlite::log::append::Writer;

impl Writer {
    /// Saves a snapshot, unless a newer one with its fingerprint is stored.
    pub(crate) async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        let stream = stream.clone();
        self.pool
            .run("save a snapshot", move |db| {
                let mut save = db.prepare_cached(SAVE_SNAPSHOT)?;
                save.execute((
                    stream.aggregate_type().as_str(),
                    stream.aggregate_id().as_str(),
                    to_sql(snapshot.version.get()),
                    snapshot.fingerprint.cast_signed(),
                    snapshot.state,
                ))?;
                Ok(())
            })
            .await
    }
}

/// Binds: aggregate type, aggregate id, version, fingerprint, state.
const SAVE_SNAPSHOT: &str = "
    INSERT INTO retell_snapshots (aggregate_type, aggregate_id, version, fingerprint, state)
    VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT (aggregate_type, aggregate_id) DO UPDATE
    SET version = excluded.version, fingerprint = excluded.fingerprint, state = excluded.state
    WHERE fingerprint <> excluded.fingerprint OR version < excluded.version";
