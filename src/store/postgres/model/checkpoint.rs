//! The rows of checkpoints.

use sqlx::PgConnection;

use crate::error::Result;
use crate::id::{Position, ProjectionName};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::checkpoint_row::Checkpoint;
use crate::store::model::parking::Step;
use crate::store::postgres::error::classify;
use crate::store::postgres::schema::Schema;
use crate::store::server::convert::{from_sql, to_sql};

/// Locks the row and moves it as the step says, if it is there as the step begins with it. Returns whether it was.
pub(crate) async fn move_on(schema: &Schema, step: &Step, tx: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query(schema.sql(MOVE_ON))
        .bind(step.projection.as_str())
        .bind(to_sql(step.from.get()))
        .bind(to_sql(step.changes))
        .bind(to_sql(step.to.get()))
        .bind(to_sql(step.changes_after()))
        .fetch_optional(tx)
        .await?;
    Ok(moved.is_some())
}

/// Runs a statement that makes or changes the row of a projection, and so locks it. `statement` returns the row's four columns.
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

/// Binds: projection, position, count of changes, and both as they are to be. A process that is paused with the row in its hands would stop
/// every other worker of its projection: so the server ends the transaction when it hears nothing in it for 30 seconds.
const MOVE_ON: &str = "
    UPDATE {schema}.checkpoints SET position = $4, parking_changes = $5
    WHERE projection = $1 AND position = $2 AND parking_changes = $3 AND NOT per_aggregate AND state = 'running'
    RETURNING set_config('idle_in_transaction_session_timeout', '30s', true)";

/// Makes the row if it is not there, and locks it.
pub(crate) const LOCK: &str = "
    INSERT INTO {schema}.checkpoints AS c (projection, position) VALUES ($1, 0)
    ON CONFLICT (projection) DO UPDATE SET position = c.position
    RETURNING position, parking_changes, per_aggregate, state";

pub(crate) const CHANGES: &str = "SELECT parking_changes FROM {schema}.checkpoints WHERE projection = $1";
