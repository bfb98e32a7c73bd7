//! Lists and deletes idempotency keys, and deletes rows of commits that have positions.

use chrono::{DateTime, Utc};
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use crate::error::Result;
use crate::id::Position;
use crate::store::log::keys::KeyRow;
use crate::store::postgres::error::classify;
use crate::store::postgres::log::read::Reader;
use crate::store::server::convert::{from_sql, limit_to_sql, to_sql};

impl Reader {
    pub(crate) async fn keys_after(&self, after: &str, limit: usize) -> Result<Vec<KeyRow>> {
        let failed = |error| classify(error, "list the idempotency keys");
        let read = || async {
            let query = sqlx::query_as(self.schema.sql(KEYS)).bind(after).bind(limit_to_sql(limit));
            let rows: Vec<(String, Option<i64>, bool)> = self.connections.all(query).await.map_err(failed)?;
            rows.into_iter().map(|(key, position, is_whole)| key_row(key, position, is_whole)).collect()
        };
        self.connections.repeat("list the idempotency keys", read).await
    }

    pub(crate) async fn delete_keys_in(&self, after: &str, last: &str, through: Position) -> Result<u64> {
        let query = sqlx::query(self.schema.sql(DELETE_KEYS)).bind(after).bind(last).bind(to_sql(through.get()));
        self.delete("delete idempotency keys", query).await
    }

    pub(crate) async fn count_old_commits(&self, before: DateTime<Utc>, limit: usize) -> Result<u64> {
        let failed = |error| classify(error, "count the rows of commits");
        let read = || async {
            let query = sqlx::query_as(self.schema.sql(OLD_COMMITS)).bind(before).bind(limit_to_sql(limit));
            let (rows,): (i64,) = self.connections.one(query).await.map_err(failed)?;
            from_sql(rows, "count")
        };
        self.connections.repeat("count the rows of commits", read).await
    }

    pub(crate) async fn delete_commits(&self, before: DateTime<Utc>, limit: usize) -> Result<u64> {
        let query = sqlx::query(self.schema.sql(DELETE_COMMITS)).bind(before).bind(limit_to_sql(limit));
        self.delete("delete rows of commits", query).await
    }

    async fn delete(&self, attempt: &'static str, query: Query<'_, Postgres, PgArguments>) -> Result<u64> {
        let mut lease = self.connections.lease().await.map_err(|error| classify(error, attempt))?;
        let deleted = self.connections.limits().statements(query.execute(&mut *lease)).await;
        Ok(lease.end(deleted).map_err(|error| classify(error, attempt))?.rows_affected())
    }
}

fn key_row(key: String, position: Option<i64>, is_whole: bool) -> Result<KeyRow> {
    let position = position.map(|position| from_sql(position, "position").map(Position::new)).transpose()?;
    Ok(KeyRow::new(key, position, is_whole))
}

/// Binds: after, limit.
const KEYS: &str = "
    SELECT k.idempotency_key, l.first_position + k.last_ordinal - 1, k.last_ordinal - k.first_ordinal + 1 = (
        SELECT count(*) FROM {schema}.events e
        WHERE e.commit_id = k.commit_id AND e.ordinal BETWEEN k.first_ordinal AND k.last_ordinal)
    FROM (SELECT * FROM {schema}.keys WHERE idempotency_key > $1 ORDER BY idempotency_key LIMIT $2) AS k
    LEFT JOIN {schema}.log l ON l.commit_id = k.commit_id
    ORDER BY k.idempotency_key";

/// Binds: after, last, position.
const DELETE_KEYS: &str = "
    DELETE FROM {schema}.keys k USING {schema}.log l
    WHERE l.commit_id = k.commit_id AND l.first_position + k.last_ordinal - 1 <= $3
        AND k.idempotency_key > $1 AND k.idempotency_key <= $2
        AND NOT (k.idempotency_key >= 'process:' AND k.idempotency_key < 'process;')";

/// Binds: time, limit. A lane's oldest commits come first, so this reads at most the limit of each lane.
const OLD_COMMITS: &str = "
    SELECT count(*) FROM (
        SELECT FROM {schema}.lanes l, LATERAL (
            SELECT c.recorded_at FROM {schema}.commits c WHERE c.lane = l.lane AND c.commit_id <= l.sequenced
            ORDER BY c.commit_id LIMIT $2
        ) AS c
        WHERE c.recorded_at < $1 LIMIT $2
    ) AS old";

/// Binds: time, limit. The sequencer reads the commits after its marks only, and a mark never goes back.
const DELETE_COMMITS: &str = "
    DELETE FROM {schema}.commits d USING (
        SELECT c.lane, c.commit_id FROM {schema}.lanes l, LATERAL (
            SELECT c.lane, c.commit_id, c.recorded_at FROM {schema}.commits c
            WHERE c.lane = l.lane AND c.commit_id <= l.sequenced
            ORDER BY c.commit_id LIMIT $2
        ) AS c
        WHERE c.recorded_at < $1 LIMIT $2
    ) AS old
    WHERE d.lane = old.lane AND d.commit_id = old.commit_id";
