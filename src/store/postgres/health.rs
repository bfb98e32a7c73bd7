//! Reads the health of a log.

use std::time::Duration;

use crate::error::Result;
use crate::store::postgres::connection::Connections;
use crate::store::postgres::error::classify;
use crate::store::postgres::schema::Schema;
use crate::store::server::health::{Health, OpenTransaction, OpenTransactions};

pub(crate) async fn health(connections: &Connections, schema: &Schema) -> Result<Health> {
    let failed = |error| classify(error, "read the log's health");
    let log = connections.one(sqlx::query_as(schema.sql(LOG))).await.map_err(failed)?;
    let lanes = connections.all(sqlx::query_as(schema.sql(LANES))).await.map_err(failed)?;
    let checkpoints = connections.all(sqlx::query_as(schema.sql(PROJECTIONS))).await.map_err(failed)?;
    let lane = |(lane, pid, query, age): (i64, i32, String, f64)| OpenTransaction {
        session: u64::from(pid.unsigned_abs()),
        lane: u32::try_from(lane).ok(),
        query,
        age: Duration::try_from_secs_f64(age).unwrap_or_default(),
    };
    Health::new(log, OpenTransactions::Seen(lanes.into_iter().map(lane).collect()), checkpoints)
}

const LOG: &str = "
    SELECT
        coalesce((SELECT first_position + events - 1 FROM {schema}.log ORDER BY first_position DESC LIMIT 1), 0),
        {schema}.unsequenced(),
        (SELECT recorded_at FROM {schema}.log ORDER BY first_position DESC LIMIT 1)";

/// The advisory lock of a lane has the log's key as its upper half and the lane's number as its lower half.
const LANES: &str = "
    SELECT l.objid::bigint, l.pid, coalesce(a.query, ''),
        coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::double precision
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.objid < 64
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.classid::bigint = ({schema}.lane_key()::bigint & 4294967295)
    ORDER BY a.xact_start";

const PROJECTIONS: &str =
    "SELECT projection, position, state FROM {schema}.checkpoints WHERE NOT retired ORDER BY projection";
