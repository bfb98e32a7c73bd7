//! Saves snapshots.

use rusqlite::Connection;

use crate::error::Result;
use crate::id::{StreamId, Version};
use crate::store::log::event_store::Snapshot;
use crate::store::log::snapshots::{KeptSnapshot, snapshot_changes};
use crate::store::sqlite::convert::{from_sql, to_sql};
use crate::store::sqlite::error::Failure;
use crate::store::sqlite::log::append::Writer;
use crate::store::sqlite::transaction::OpenTransaction;

impl Writer {
    /// Saves a snapshot whose event is in the log, and deletes those that it replaces.
    pub(crate) async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        let stream = stream.clone();
        self.pool
            .run("save a snapshot", move |db| {
                let open = OpenTransaction::begin(db)?;
                save(open.db, &stream, &snapshot)?;
                open.commit()
            })
            .await
    }
}

fn save(db: &Connection, stream: &StreamId, snapshot: &Snapshot) -> Result<(), Failure> {
    let (kind, id) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
    let mut find = db.prepare_cached(KEPT)?;
    let mut rows = find.query((kind, id))?;
    let mut kept = Vec::new();
    while let Some(row) = rows.next()? {
        let version = Version::new(from_sql(row.get(0)?, "snapshot version")?);
        kept.push(KeptSnapshot::new(version, row.get::<_, i64>(1)?.cast_unsigned(), row.get(2)?));
    }
    let changes = snapshot_changes(snapshot, &kept);
    if !changes.save {
        return Ok(());
    }
    let saved = db.prepare_cached(SAVE_SNAPSHOT)?.execute((
        kind,
        id,
        to_sql(snapshot.version.get()),
        snapshot.event_id.as_uuid().as_bytes(),
        snapshot.fingerprint.cast_signed(),
        &snapshot.state,
    ))?;
    // Without its event, the snapshot is of another history and replaces nothing.
    if saved > 0 {
        for version in changes.delete {
            db.prepare_cached(DELETE)?.execute((kind, id, to_sql(version.get())))?;
        }
    }
    Ok(())
}

/// Binds: aggregate type, aggregate id.
const KEPT: &str = "
    SELECT version, fingerprint, EXISTS (
        SELECT 1 FROM retell_events e
        WHERE e.aggregate_type = ?1 AND e.aggregate_id = ?2 AND e.version = s.version AND e.event_id = s.event_id
    )
    FROM retell_snapshots s WHERE aggregate_type = ?1 AND aggregate_id = ?2";

/// Binds: aggregate type, aggregate id, version, event id, fingerprint, state.
const SAVE_SNAPSHOT: &str = "
    INSERT INTO retell_snapshots (aggregate_type, aggregate_id, version, event_id, fingerprint, state)
    SELECT ?1, ?2, ?3, ?4, ?5, ?6
    WHERE EXISTS (
        SELECT 1 FROM retell_events WHERE aggregate_type = ?1 AND aggregate_id = ?2 AND version = ?3 AND event_id = ?4
    )
    ON CONFLICT (aggregate_type, aggregate_id, version) DO UPDATE
    SET event_id = excluded.event_id, fingerprint = excluded.fingerprint, state = excluded.state";

/// Binds: aggregate type, aggregate id, version.
const DELETE: &str = "DELETE FROM retell_snapshots WHERE aggregate_type = ?1 AND aggregate_id = ?2 AND version = ?3";
