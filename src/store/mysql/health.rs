//! Reads the health of a log.

use std::time::Duration;

use crate::error::Result;
use crate::store::mysql::connection::Connections;
use crate::store::mysql::error::{classify, is_not_granted, is_not_text};
use crate::store::server::health::{Health, OpenTransaction, OpenTransactions};

pub(crate) async fn health(connections: &Connections) -> Result<Health> {
    let failed = |error| classify(error, "read the log's health");
    let log = connections.one(sqlx::query_as(LOG)).await.map_err(failed)?;
    let checkpoints = connections.all(sqlx::query_as(PROJECTIONS)).await.map_err(failed)?;
    let open = open_transactions(connections).await.map_err(failed)?;
    Health::new(log, open, checkpoints)
}

/// Returns the open transactions of other sessions.
pub(crate) async fn open_transactions(connections: &Connections) -> Result<OpenTransactions, sqlx::Error> {
    let found = match connections.all(sqlx::query_as(TRANSACTIONS)).await {
        // Its table of transactions cannot be read while one of them executes a statement with a binary value.
        Err(error) if is_not_text(&error) => connections.all(sqlx::query_as(MEASURED_TRANSACTIONS)).await,
        found => found,
    };
    match found {
        Ok(found) => Ok(OpenTransactions::Seen(found.into_iter().map(transaction).collect())),
        Err(error) if is_not_granted(&error) => Ok(OpenTransactions::NotGranted),
        Err(error) => Err(error),
    }
}

fn transaction((session, query, seconds): (u64, Vec<u8>, i64)) -> OpenTransaction {
    let query = String::from_utf8_lossy(&query).into_owned();
    OpenTransaction { session, lane: None, query, age: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)) }
}

const LOG: &str = "
    SELECT position, (SELECT COUNT(*) FROM retell_commits), (
        SELECT e.recorded_at FROM retell_log l STRAIGHT_JOIN retell_events e ON e.commit_id = l.commit_id AND e.ordinal = l.events
        ORDER BY l.first_position DESC LIMIT 1)
    FROM retell_head WHERE id = 1";

const PROJECTIONS: &str = "
    SELECT CONVERT(projection USING utf8mb4), position, CONVERT(state USING utf8mb4) FROM retell_checkpoints
    WHERE NOT retired ORDER BY projection";

/// The server records the start of a transaction in its own time zone.
const TRANSACTIONS: &str = "
    SELECT trx_mysql_thread_id, CAST(COALESCE(trx_query, '') AS BINARY),
        CAST(TIMESTAMPDIFF(SECOND, CONVERT_TZ(trx_started, 'SYSTEM', '+00:00'), UTC_TIMESTAMP()) AS SIGNED)
    FROM information_schema.innodb_trx WHERE trx_mysql_thread_id NOT IN (0, CONNECTION_ID()) ORDER BY trx_started LIMIT 100";

/// The same from the measurements of MySQL 8 and 9, which need the right to read `performance_schema`. A statement ends before its first binary value.
const MEASURED_TRANSACTIONS: &str = "
    SELECT CAST(t.processlist_id AS UNSIGNED), CAST(COALESCE(t.processlist_info, '') AS BINARY),
        CAST(e.timer_wait DIV 1000000000000 AS SIGNED)
    FROM performance_schema.events_transactions_current e JOIN performance_schema.threads t ON t.thread_id = e.thread_id
    WHERE e.state = 'ACTIVE' AND t.processlist_id <> CONNECTION_ID() ORDER BY e.timer_wait DESC LIMIT 100";
