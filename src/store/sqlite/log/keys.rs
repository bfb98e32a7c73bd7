//! Lists and deletes idempotency keys.

use rusqlite::Connection;

use crate::error::Result;
use crate::id::Position;
use crate::store::log::keys::KeyRow;
use crate::store::sqlite::convert::{position_from_sql, to_sql};
use crate::store::sqlite::store::SqliteStore;

impl SqliteStore {
    pub(crate) async fn keys_after(&self, after: &str, limit: usize) -> Result<Vec<KeyRow>> {
        let after = after.to_owned();
        let read = move |db: &mut Connection| {
            let mut select = db.prepare_cached(KEYS)?;
            let mut rows = select.query((&after, to_sql(limit as u64)))?;
            let mut keys = Vec::new();
            while let Some(row) = rows.next()? {
                let position = position_from_sql(row.get(1)?)?;
                keys.push(KeyRow::new(row.get::<_, String>(0)?, Some(position), row.get(2)?));
            }
            Ok(keys)
        };
        self.readers.run("list the idempotency keys", read).await
    }

    pub(crate) async fn delete_keys_in(&self, after: &str, last: &str, through: Position) -> Result<u64> {
        let (after, last, through) = (after.to_owned(), last.to_owned(), to_sql(through.get()));
        let delete =
            move |db: &mut Connection| Ok(db.prepare_cached(DELETE_KEYS)?.execute((&after, &last, through))? as u64);
        self.writer.pool.run("delete idempotency keys", delete).await
    }
}

/// Binds: after, limit. The commit of a key is the position of its last event.
const KEYS: &str = "
    SELECT k.idempotency_key, k.commit_id, EXISTS (SELECT 1 FROM retell_events e WHERE e.position = k.commit_id)
    FROM retell_keys k WHERE k.idempotency_key > ?1 ORDER BY k.idempotency_key LIMIT ?2";

/// Binds: after, last, position.
const DELETE_KEYS: &str = "
    DELETE FROM retell_keys
    WHERE idempotency_key > ?1 AND idempotency_key <= ?2 AND commit_id <= ?3
        AND NOT (idempotency_key >= 'process:' AND idempotency_key < 'process;')";
