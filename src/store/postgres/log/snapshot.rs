//! Saves snapshots.

use crate::error::Result;
use crate::id::StreamId;
use crate::store::log::event_store::Snapshot;
use crate::store::postgres::error::classify;
use crate::store::postgres::log::append::Writer;
use crate::store::server::convert::to_sql;

impl Writer {
    /// Saves a snapshot whose event is in the log, unless a newer one with its fingerprint is stored.
    pub(crate) async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        let query = sqlx::query(self.schema.sql(SAVE_SNAPSHOT))
            .bind(stream.aggregate_type().as_str())
            .bind(stream.aggregate_id().as_str())
            .bind(to_sql(snapshot.version.get()))
            .bind(*snapshot.event_id.as_uuid())
            .bind(snapshot.fingerprint.cast_signed())
            .bind(snapshot.state);
        self.connections.execute(query).await.map_err(|error| classify(error, "save a snapshot"))
    }
}

/// Binds: aggregate type, aggregate id, version, event id, fingerprint, state. A stored snapshot of another history gives way, whatever its
/// version.
const SAVE_SNAPSHOT: &str = "
    INSERT INTO {schema}.snapshots AS s (aggregate_type, aggregate_id, version, event_id, fingerprint, state)
    SELECT $1, $2, $3, $4, $5, $6
    WHERE EXISTS (
        SELECT FROM {schema}.events WHERE aggregate_type = $1 AND aggregate_id = $2 AND version = $3 AND event_id = $4
    )
    ON CONFLICT (aggregate_type, aggregate_id) DO UPDATE
    SET version = excluded.version, event_id = excluded.event_id, fingerprint = excluded.fingerprint, state = excluded.state
    WHERE s.fingerprint <> excluded.fingerprint OR s.version < excluded.version OR NOT EXISTS (
        SELECT FROM {schema}.events e
        WHERE e.aggregate_type = $1 AND e.aggregate_id = $2 AND e.version = s.version AND e.event_id = s.event_id
    )";
