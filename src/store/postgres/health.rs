//! What an operator asks of a log.

use std::time::Duration;

use sqlx::PgPool;

use crate::error::Result;
use crate::id::{Position, ProjectionName};
use crate::store::postgres::connection::{Schema, classify};
use crate::store::sql::from_sql;

/// How a log is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The last position given out.
    pub head: Position,
    /// Commits that are visible and have no position yet. More than a few for more than a moment: nobody reads the log's end.
    pub unsequenced: u64,
    /// Who holds a lane now, longest first. A transaction that holds one for long is a caller's own.
    pub lanes: Vec<HeldLane>,
    /// The projections whose read models lie in this schema, and how many positions each is behind.
    pub projections: Vec<(ProjectionName, u64)>,
}

/// A session that holds a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldLane {
    /// Which lane.
    pub lane: u32,
    /// The server's process id: `pg_terminate_backend` takes it.
    pub pid: i32,
    /// What it last ran.
    pub query: String,
    /// How long its transaction has been open.
    pub age: Duration,
}

pub(super) async fn health(pool: &PgPool, schema: &Schema) -> Result<Health> {
    let failed = |error| classify(error, "ask for the log's health");
    let (head, unsequenced): (i64, i64) =
        sqlx::query_as(schema.statement(LOG).sql()).fetch_one(pool).await.map_err(failed)?;
    let lanes: Vec<(i64, i32, String, f64)> =
        sqlx::query_as(schema.statement(LANES).sql()).fetch_all(pool).await.map_err(failed)?;
    let checkpoints: Vec<(String, i64)> =
        sqlx::query_as(schema.statement(PROJECTIONS).sql()).fetch_all(pool).await.map_err(failed)?;
    let head = Position::new(from_sql(head, "position")?);
    let projection = |(name, position): (String, i64)| {
        let position = Position::new(from_sql(position, "position")?);
        Ok((ProjectionName::new(name)?, head.since(position)))
    };
    let lane = |(lane, pid, query, age): (i64, i32, String, f64)| HeldLane {
        lane: u32::try_from(lane).unwrap_or(u32::MAX),
        pid,
        query,
        age: Duration::try_from_secs_f64(age).unwrap_or_default(),
    };
    Ok(Health {
        head,
        unsequenced: from_sql(unsequenced, "count")?,
        lanes: lanes.into_iter().map(lane).collect(),
        projections: checkpoints.into_iter().map(projection).collect::<Result<_>>()?,
    })
}

const LOG: &str = "
    SELECT
        coalesce((SELECT first_position + events - 1 FROM {schema}.log ORDER BY first_position DESC LIMIT 1), 0),
        (SELECT count(*) FROM {schema}.lanes l JOIN {schema}.commits c ON c.lane = l.lane AND c.commit_id > l.sequenced)";

/// The lock's upper half is the log's key, as the function `take_lane` makes it.
const LANES: &str = "
    SELECT l.objid::bigint, l.pid, coalesce(a.query, ''),
        coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::double precision
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.objid < 64
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.classid::bigint = (('{schema}.events'::regclass::oid::bigint - 2147483648) & 4294967295)
    ORDER BY a.xact_start";

const PROJECTIONS: &str = "SELECT projection, position FROM {schema}.checkpoints ORDER BY projection";
