//! Finds the sessions that keep commits from getting positions.

use crate::error::Result;
use crate::store::log::blocker::{Blocker, Hold};
use crate::store::postgres::error::classify;
use crate::store::postgres::log::read::Reader;
use crate::store::server::convert::limit_to_sql;

/// The second key of the sequencer's advisory lock. Lanes have the numbers below.
const SEQUENCER: i64 = 64;

/// The columns of a session: second key of the lock, session, seconds, client, program, state.
type Row = (i64, i32, i64, Option<String>, Option<String>, Option<String>);

impl Reader {
    pub(crate) async fn blockers(&self, limit: usize) -> Result<Vec<Blocker>> {
        let query = sqlx::query_as(self.schema.sql(BLOCKERS)).bind(limit_to_sql(limit));
        let found: Vec<Row> = self
            .connections
            .all(query)
            .await
            .map_err(|error| classify(error, "find the sessions that block the log"))?;
        let blocker = |(lock, pid, seconds, client, program, state): Row| {
            let holds = match u32::try_from(lock) {
                Ok(lane) if lock != SEQUENCER => Hold::Lane(lane),
                _ => Hold::Sequencer,
            };
            let seconds = seconds.max(0).unsigned_abs();
            Blocker { client, program, state, ..Blocker::new(pid.unsigned_abs().into(), holds, seconds) }
        };
        Ok(found.into_iter().map(blocker).collect())
    }
}

/// Binds: limit. The advisory lock of a lane has the log's key as its upper half and the lane's number as its lower half.
const BLOCKERS: &str = "
    SELECT l.objid::bigint, l.pid, coalesce(floor(extract(epoch FROM clock_timestamp() - a.xact_start)), 0)::bigint,
        host(a.client_addr), nullif(a.application_name, ''), a.state
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.objid <= 64 AND l.pid <> pg_backend_pid()
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.classid::bigint = ({schema}.lane_key()::bigint & 4294967295)
    ORDER BY a.xact_start, l.pid LIMIT $1";
