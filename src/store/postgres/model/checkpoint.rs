//! Reads, locks and moves the rows of checkpoints.

use sqlx::PgConnection;

use crate::error::Result;
use crate::id::{Position, ProjectionName};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::checkpoint_row::Checkpoint;
use crate::store::model::parking::Step;
use crate::store::postgres::error::classify;
use crate::store::postgres::schema::Schema;
use crate::store::server::convert::{from_sql, to_sql};

/// Locks the row and moves it from the step's start to its end. Returns `false` if the row does not exist or is not at the step's start.
pub(crate) async fn advance(schema: &Schema, step: &Step, tx: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query(schema.sql(ADVANCE))
        .bind(step.projection.as_str())
        .bind(to_sql(step.from.get()))
        .bind(to_sql(step.changes))
        .bind(to_sql(step.to.get()))
        .bind(to_sql(step.changes_after()))
        .fetch_optional(tx)
        .await?;
    Ok(moved.is_some())
}

/// Runs `statement`, which inserts or updates the row of a projection and so locks it. It returns the row's four columns.
pub(crate) async fn lock(
    schema: &Schema,
    statement: &'static str,
    projection: &ProjectionName,
    tx: &mut PgConnection,
) -> Result<Checkpoint> {
    let row = sqlx::query_as(schema.sql(statement)).bind(projection.as_str()).fetch_one(tx).await;
    let (position, changes, per_aggregate, state): (i64, i64, bool, String) =
        row.map_err(|error| classify(error, "lock a checkpoint"))?;
    Ok(Checkpoint {
        position: Position::new(from_sql(position, "position")?),
        parking_changes: from_sql(changes, "count")?,
        per_aggregate,
        state: ProjectionState::parse(&state)?,
    })
}

pub(crate) const READ: &str = "
    SELECT CASE WHEN state = 'inline'
        THEN coalesce((SELECT first_position + events - 1 FROM {schema}.log ORDER BY first_position DESC LIMIT 1), 0)
        ELSE position END
    FROM {schema}.checkpoints WHERE projection = $1";

pub(crate) const STATE: &str = "SELECT state FROM {schema}.checkpoints WHERE projection = $1";

/// Binds: projection, old position, old count of changes, new position, new count of changes. A process that is paused while it holds the row
/// would block every other worker of its projection, so the server ends a transaction that is idle for 30 seconds.
const ADVANCE: &str = "
    UPDATE {schema}.checkpoints SET position = $4, parking_changes = $5
    WHERE projection = $1 AND position = $2 AND parking_changes = $3 AND NOT per_aggregate AND state = 'running'
    RETURNING set_config('idle_in_transaction_session_timeout', '30s', true)";

/// Locks the row. Inserts it first if it does not exist.
pub(crate) const LOCK: &str = "
    INSERT INTO {schema}.checkpoints AS c (projection, position) VALUES ($1, 0)
    ON CONFLICT (projection) DO UPDATE SET position = c.position
    RETURNING position, parking_changes, per_aggregate, state";

pub(crate) const CHANGES: &str = "SELECT parking_changes FROM {schema}.checkpoints WHERE projection = $1";
