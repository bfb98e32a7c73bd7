//! Finds the sessions that keep commits from getting positions.

use crate::error::Result;
use crate::store::log::blocker::{Blocker, Hold};
use crate::store::mysql::error::{classify, is_not_granted, is_not_text};
use crate::store::mysql::health::open_transactions;
use crate::store::mysql::log::read::Reader;
use crate::store::server::convert::limit_to_sql;

/// The columns of a session: session, seconds, client, state.
type Row = (u64, i64, Option<Vec<u8>>, Option<Vec<u8>>);

impl Reader {
    pub(crate) async fn blockers(&self, limit: usize) -> Result<Vec<Blocker>> {
        let failed = |error| classify(error, "find the sessions that block the log");
        let found: Vec<Row> = match self.connections.all(sqlx::query_as(BLOCKERS).bind(limit_to_sql(limit))).await {
            Ok(found) => found,
            // A statement of another session has a binary value.
            Err(error) if is_not_text(&error) => {
                let open = open_transactions(&self.connections).await.map_err(failed)?;
                let open = open.seen().iter().take(limit);
                return Ok(open.map(|one| Blocker::new(one.session, Hold::Unknown, one.age.as_secs())).collect());
            }
            Err(error) if is_not_granted(&error) => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let text = |text: Vec<u8>| String::from_utf8_lossy(&text).into_owned();
        let blocker = |(session, seconds, client, state): Row| Blocker {
            client: client.map(text),
            state: state.map(text),
            ..Blocker::new(session, Hold::Unknown, seconds.max(0).unsigned_abs())
        };
        Ok(found.into_iter().map(blocker).collect())
    }
}

/// Binds: limit. The server does not tell which rows a transaction has locked. It records the start of a transaction in its own time zone.
const BLOCKERS: &str = "
    SELECT t.trx_mysql_thread_id,
        CAST(TIMESTAMPDIFF(SECOND, CONVERT_TZ(t.trx_started, 'SYSTEM', '+00:00'), UTC_TIMESTAMP()) AS SIGNED),
        CAST(p.host AS BINARY), CAST(p.command AS BINARY)
    FROM information_schema.innodb_trx t LEFT JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id
    WHERE t.trx_mysql_thread_id NOT IN (0, CONNECTION_ID())
    ORDER BY t.trx_started, t.trx_mysql_thread_id LIMIT ?";
