//! Reads, locks and moves the rows of checkpoints.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::error::Result;
use crate::id::ProjectionName;
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::checkpoint_row::Checkpoint;
use crate::store::model::parking::Step;
use crate::store::postgres::error::classify;
use crate::store::postgres::schema::Schema;
use crate::store::server::convert::{from_sql, id_to_sql, mark_from_sql, to_sql};

/// Locks the row and moves it from the step's start to its end. Returns `false` if the row does not exist or is not at the step's start.
pub(crate) async fn advance(schema: &Schema, step: &Step, tx: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query(schema.sql(ADVANCE))
        .bind(step.projection.as_str())
        .bind(to_sql(step.from.position.get()))
        .bind(id_to_sql(step.from))
        .bind(to_sql(step.changes))
        .bind(to_sql(step.to.position.get()))
        .bind(id_to_sql(step.to))
        .bind(to_sql(step.changes_after()))
        .fetch_optional(tx)
        .await?;
    Ok(moved.is_some())
}

/// Runs `statement`, which inserts or updates the row of a projection and so locks it. It returns the row's columns.
pub(crate) async fn lock(
    schema: &Schema,
    statement: &'static str,
    projection: &ProjectionName,
    tx: &mut PgConnection,
) -> Result<Checkpoint> {
    let row = sqlx::query_as(schema.sql(statement)).bind(projection.as_str()).fetch_one(tx).await;
    let (position, event_id, changes, per_aggregate, state, paused): (i64, Option<Uuid>, i64, bool, String, bool) =
        row.map_err(|error| classify(error, "lock a checkpoint"))?;
    Ok(Checkpoint {
        mark: mark_from_sql((position, event_id))?,
        changes: from_sql(changes, "count")?,
        per_aggregate,
        state: ProjectionState::parse(&state)?,
        paused,
    })
}

pub(crate) const READ: &str = "
    SELECT CASE WHEN state = 'inline'
        THEN coalesce((SELECT first_position + events - 1 FROM {schema}.log ORDER BY first_position DESC LIMIT 1), 0)
        ELSE position END, CASE WHEN state = 'inline' THEN NULL ELSE event_id END
    FROM {schema}.checkpoints WHERE projection = $1";

/// Binds: limit.
pub(crate) const PROJECTIONS: &str = "
    SELECT projection, CASE WHEN state = 'inline'
        THEN coalesce((SELECT first_position + events - 1 FROM {schema}.log ORDER BY first_position DESC LIMIT 1), 0)
        ELSE position END, CASE WHEN state = 'inline' THEN NULL ELSE event_id END, per_aggregate, state
    FROM {schema}.checkpoints ORDER BY projection LIMIT $1";

pub(crate) const NAMES: &str = "SELECT projection FROM {schema}.checkpoints ORDER BY projection";

pub(crate) const STATE: &str = "SELECT state FROM {schema}.checkpoints WHERE projection = $1";

/// Binds: projection, old position and event, old count of changes, new position and event, new count of changes. A process that is paused while it holds the row
/// would block every other worker of its projection, so the server ends a transaction that is idle for 30 seconds.
/// If the worker drops a handler, it closes the connection. On Linux, a server can notice that while a statement of the handler still runs.
const ADVANCE: &str = "
    UPDATE {schema}.checkpoints SET position = $5, event_id = $6, changes = $7
    WHERE projection = $1 AND position = $2 AND ($3::uuid IS NULL OR event_id = $3) AND changes = $4 AND NOT per_aggregate
        AND state = 'running'
    RETURNING set_config('idle_in_transaction_session_timeout', '30s', true),
        CASE WHEN version() LIKE '%linux%' THEN set_config('client_connection_check_interval', '1s', true) END";

/// Binds: projection, position, event, count of changes.
pub(crate) const RESET: &str =
    "UPDATE {schema}.checkpoints SET position = $2, event_id = $3, changes = $4 WHERE projection = $1";

/// Locks the row. Inserts it first if it does not exist. As [`ADVANCE`], lets the server notice a closed connection.
pub(crate) const LOCK: &str = "
    INSERT INTO {schema}.checkpoints AS c (projection, position) VALUES ($1, 0)
    ON CONFLICT (projection) DO UPDATE SET position = c.position
    RETURNING position, event_id, changes, per_aggregate, state, paused_at IS NOT NULL,
        CASE WHEN version() LIKE '%linux%' THEN set_config('client_connection_check_interval', '1s', true) END";

pub(crate) const CHANGES: &str = "SELECT changes FROM {schema}.checkpoints WHERE projection = $1";

/// Binds: reaction, position, event.
pub(crate) const RESET_START: &str =
    "UPDATE {schema}.reactions SET begins_after = $2, event_id = $3 WHERE reaction = $1";

pub(crate) const FORGET_PROGRESS: &str = "DELETE FROM {schema}.progress WHERE projection = $1";

pub(crate) const FORGET_PARKED: &str = "DELETE FROM {schema}.parked WHERE projection = $1";
