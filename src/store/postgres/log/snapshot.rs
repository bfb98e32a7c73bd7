//! Saves snapshots.

use crate::error::Result;
use crate::id::StreamId;
use crate::store::log::event_store::Snapshot;
use crate::store::postgres::error::classify;
use crate::store::postgres::log::append::Writer;
use crate::store::server::convert::to_sql;

impl Writer {
    /// Saves a snapshot, unless a newer one with its fingerprint is stored.
    pub(crate) async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        let query = sqlx::query(self.schema.sql(SAVE_SNAPSHOT))
            .bind(stream.aggregate_type().as_str())
            .bind(stream.aggregate_id().as_str())
            .bind(to_sql(snapshot.version.get()))
            .bind(snapshot.fingerprint.cast_signed())
            .bind(snapshot.state);
        self.connections.execute(query).await.map_err(|error| classify(error, "save a snapshot"))
    }
}

/// Binds: aggregate type, aggregate id, version, fingerprint, state.
const SAVE_SNAPSHOT: &str = "
    INSERT INTO {schema}.snapshots AS s (aggregate_type, aggregate_id, version, fingerprint, state)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (aggregate_type, aggregate_id) DO UPDATE
    SET version = excluded.version, fingerprint = excluded.fingerprint, state = excluded.state
    WHERE s.fingerprint <> excluded.fingerprint OR s.version < excluded.version";
