//! Lists and deletes idempotency keys.

use crate::error::Result;
use crate::id::Position;
use crate::store::log::keys::KeyRow;
use crate::store::mysql::connection::Connections;
use crate::store::mysql::error::classify;
use crate::store::server::convert::{from_sql, limit_to_sql, to_sql};

pub(crate) async fn keys(connections: &Connections, after: &str, limit: usize) -> Result<Vec<KeyRow>> {
    let failed = |error| classify(error, "list the idempotency keys");
    let read = || async {
        let query = sqlx::query_as(KEYS).bind(after.as_bytes()).bind(limit_to_sql(limit));
        let rows: Vec<(String, Option<i64>, bool)> = connections.all(query).await.map_err(failed)?;
        let row = |(key, position, is_whole): (String, Option<i64>, bool)| {
            let position = position.map(|position| from_sql(position, "position").map(Position::new)).transpose()?;
            Ok(KeyRow::new(key, position, is_whole))
        };
        rows.into_iter().map(row).collect()
    };
    connections.repeat("list the idempotency keys", read).await
}

/// Deletes in a transaction that is read committed, which locks only the rows that it deletes.
pub(crate) async fn delete(connections: &Connections, after: &str, last: &str, through: Position) -> Result<u64> {
    let failed = |error| classify(error, "delete idempotency keys");
    let mut lease = connections.lease().await.map_err(failed)?;
    let deleted = async {
        let mut tx = lease.begin().await?;
        let query = sqlx::query(DELETE_KEYS).bind(after.as_bytes()).bind(last.as_bytes()).bind(to_sql(through.get()));
        let deleted = query.execute(&mut *tx).await?.rows_affected();
        tx.commit().await?;
        Ok::<_, sqlx::Error>(deleted)
    };
    let deleted = connections.limits().statements(deleted).await;
    lease.end(deleted).map_err(failed)
}

/// Binds: after, limit.
const KEYS: &str = "
    SELECT CONVERT(k.idempotency_key USING utf8mb4), l.first_position + k.last_ordinal - 1, EXISTS (
        SELECT 1 FROM retell_events e WHERE e.commit_id = k.commit_id AND e.ordinal = k.last_ordinal)
    FROM (
        SELECT idempotency_key, commit_id, last_ordinal FROM retell_keys
        WHERE idempotency_key > ? ORDER BY idempotency_key LIMIT ?
    ) AS k LEFT JOIN retell_log l ON l.commit_id = k.commit_id
    ORDER BY k.idempotency_key";

/// Binds: after, last, position.
const DELETE_KEYS: &str = "
    DELETE k FROM retell_keys AS k JOIN retell_log AS l ON l.commit_id = k.commit_id
    WHERE k.idempotency_key > ? AND k.idempotency_key <= ? AND l.first_position + k.last_ordinal - 1 <= ?
        AND NOT (k.idempotency_key >= 'process:' AND k.idempotency_key < 'process;')";
