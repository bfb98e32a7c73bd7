//! Reads the health of a log.

use std::time::Duration;

use crate::error::Result;
use crate::store::mysql::connection::Connections;
use crate::store::mysql::error::{classify, is_not_granted};
use crate::store::server::health::{Health, OpenTransaction, OpenTransactions};

pub(crate) async fn health(connections: &Connections) -> Result<Health> {
    let failed = |error| classify(error, "read the log's health");
    let log = connections.one(sqlx::query_as(LOG)).await.map_err(failed)?;
    let checkpoints = connections.all(sqlx::query_as(PROJECTIONS)).await.map_err(failed)?;
    let open = match connections.all(sqlx::query_as(TRANSACTIONS)).await {
        Ok(found) => OpenTransactions::Seen(found.into_iter().map(transaction).collect()),
        Err(error) if is_not_granted(&error) => OpenTransactions::NotGranted,
        Err(error) => return Err(failed(error)),
    };
    Health::new(log, open, checkpoints)
}

fn transaction((session, query, seconds): (u64, String, i64)) -> OpenTransaction {
    OpenTransaction { session, lane: None, query, age: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)) }
}

const LOG: &str = "
    SELECT position, (SELECT COUNT(*) FROM retell_commits), (
        SELECT e.recorded_at FROM retell_log l STRAIGHT_JOIN retell_events e ON e.commit_id = l.commit_id AND e.ordinal = l.events
        ORDER BY l.first_position DESC LIMIT 1)
    FROM retell_head WHERE id = 1";

const PROJECTIONS: &str = "SELECT CONVERT(projection USING utf8mb4), position, CONVERT(state USING utf8mb4) FROM retell_checkpoints ORDER BY projection";

/// The server records the start of a transaction in its own time zone.
const TRANSACTIONS: &str = "
    SELECT trx_mysql_thread_id, CONVERT(COALESCE(trx_query, '') USING utf8mb4),
        CAST(TIMESTAMPDIFF(SECOND, CONVERT_TZ(trx_started, 'SYSTEM', '+00:00'), UTC_TIMESTAMP()) AS SIGNED)
    FROM information_schema.innodb_trx WHERE trx_mysql_thread_id NOT IN (0, CONNECTION_ID()) ORDER BY trx_started LIMIT 100";
