//! Saves snapshots.

use crate::error::Result;
use crate::id::StreamId;
use crate::store::log::event_store::Snapshot;
use crate::store::mysql::error::classify;
use crate::store::mysql::log::append::Writer;
use crate::store::server::convert::to_sql;

impl Writer {
    /// Saves a snapshot, unless a newer one with its fingerprint is stored.
    pub(crate) async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        let (version, fingerprint) = (to_sql(snapshot.version.get()), snapshot.fingerprint.cast_signed());
        let save = sqlx::query(SAVE_SNAPSHOT)
            .bind(stream.aggregate_type().as_str().as_bytes())
            .bind(stream.aggregate_id().as_str().as_bytes())
            .bind(version)
            .bind(fingerprint)
            .bind(&snapshot.state)
            .bind(fingerprint)
            .bind(version)
            .bind(&snapshot.state)
            .bind(fingerprint)
            .bind(version)
            .bind(version)
            .bind(fingerprint);
        self.connections.execute(save).await.map_err(|error| classify(error, "save a snapshot"))
    }
}

/// Binds: aggregate type, aggregate id, version, fingerprint, state; then fingerprint, version, state; fingerprint, version, version;
/// fingerprint. The server assigns from left to right, and each assignment sees those before it.
const SAVE_SNAPSHOT: &str = "
    INSERT INTO retell_snapshots (aggregate_type, aggregate_id, version, fingerprint, state)
    VALUES (?, ?, ?, ?, ?)
    ON DUPLICATE KEY UPDATE
        state = IF(fingerprint <> ? OR version < ?, ?, state),
        version = IF(fingerprint <> ?, ?, GREATEST(version, ?)),
        fingerprint = ?";
