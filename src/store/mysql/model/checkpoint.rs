//! Reads, locks and moves the rows of checkpoints.

use sqlx::mysql::MySqlArguments;
use sqlx::query::Query;
use sqlx::{MySql, MySqlConnection};
use uuid::Uuid;

use crate::error::Result;
use crate::id::ProjectionName;
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::checkpoint_row::Checkpoint;
use crate::store::model::parking::Step;
use crate::store::mysql::error::classify;
use crate::store::mysql::session::session_id;
use crate::store::server::convert::{from_sql, id_to_sql, mark_from_sql, to_sql};
use crate::store::server::orphans::SessionId;

/// Locks the projection's row. Inserts it first if it does not exist.
pub(crate) async fn lock_checkpoint(tx: &mut MySqlConnection, projection: &ProjectionName) -> Result<Checkpoint> {
    lock_checkpoint_in(tx, projection, &SessionId::default()).await
}

/// As [`lock_checkpoint`], and notes the id of the session.
pub(crate) async fn lock_checkpoint_in(
    tx: &mut MySqlConnection,
    projection: &ProjectionName,
    session: &SessionId,
) -> Result<Checkpoint> {
    let (position, event_id, changes, per_aggregate, state, paused, id) =
        row(tx, projection).await.map_err(|error| classify(error, "lock a checkpoint"))?;
    session.set(id);
    Ok(Checkpoint {
        mark: mark_from_sql((position, event_id))?,
        changes: from_sql(changes, "count")?,
        per_aggregate,
        state: ProjectionState::parse(&state)?,
        paused,
    })
}

/// Position, event, count of changes, whether the projection has per-aggregate order, state, whether it is paused, and the id of the session.
type Row = (i64, Option<Uuid>, i64, bool, String, bool, u64);

async fn row(tx: &mut MySqlConnection, projection: &ProjectionName) -> Result<Row, sqlx::Error> {
    let name = projection.as_str().as_bytes();
    if let Some(row) = sqlx::query_as(LOCK).bind(name).fetch_optional(&mut *tx).await? {
        return Ok(row);
    }
    sqlx::query(INSERT).bind(name).execute(&mut *tx).await?;
    sqlx::query_as(LOCK).bind(name).fetch_one(&mut *tx).await
}

/// Returns the query that moves a checkpoint from the step's start to its end. It changes no row if the checkpoint is not at the start.
pub(crate) fn advance(step: &Step) -> Query<'_, MySql, MySqlArguments> {
    sqlx::query(ADVANCE)
        .bind(to_sql(step.to.position.get()))
        .bind(id_to_sql(step.to))
        .bind(to_sql(step.changes_after()))
        .bind(step.projection.as_str().as_bytes())
        .bind(to_sql(step.from.position.get()))
        .bind(id_to_sql(step.from))
        .bind(id_to_sql(step.from))
        .bind(to_sql(step.changes))
}

pub(crate) const READ: &str = "
    SELECT CASE WHEN state = 'inline' THEN (SELECT position FROM retell_head WHERE id = 1) ELSE position END,
        CASE WHEN state = 'inline' THEN NULL ELSE event_id END
    FROM retell_checkpoints WHERE projection = ?";

/// Binds: limit.
pub(crate) const PROJECTIONS: &str = "
    SELECT CONVERT(projection USING utf8mb4),
        CASE WHEN state = 'inline' THEN (SELECT position FROM retell_head WHERE id = 1) ELSE position END,
        CASE WHEN state = 'inline' THEN NULL ELSE event_id END, per_aggregate, CONVERT(state USING utf8mb4)
    FROM retell_checkpoints ORDER BY projection LIMIT ?";

pub(crate) const NAMES: &str = "SELECT CONVERT(projection USING utf8mb4) FROM retell_checkpoints ORDER BY projection";

pub(crate) const STATE: &str = "SELECT CONVERT(state USING utf8mb4) FROM retell_checkpoints WHERE projection = ?";

pub(crate) const CHANGES: &str = "SELECT changes FROM retell_checkpoints WHERE projection = ?";

const LOCK: &str = concat!(
    "SELECT position, event_id, changes, per_aggregate, CONVERT(state USING utf8mb4), paused_at IS NOT NULL, ",
    session_id!(),
    " FROM retell_checkpoints WHERE projection = ? FOR UPDATE"
);

/// Takes an exclusive lock even if another transaction has inserted the row: two transactions with shared locks would deadlock.
const INSERT: &str = "
    INSERT INTO retell_checkpoints (projection, position) VALUES (?, 0) ON DUPLICATE KEY UPDATE position = position";

/// Binds: new position and event, new count of changes, projection, old position, old event twice, old count. Compares the old values again: work that creates a table
/// commits implicitly, and another worker may then move the checkpoint.
const ADVANCE: &str = "
    UPDATE retell_checkpoints SET position = ?, event_id = ?, changes = ?
    WHERE projection = ? AND position = ? AND (? IS NULL OR event_id = ?) AND changes = ?";

/// Binds: position, event, count of changes, projection.
pub(crate) const RESET: &str =
    "UPDATE retell_checkpoints SET position = ?, event_id = ?, changes = ? WHERE projection = ?";

/// Binds: position, event, reaction.
pub(crate) const RESET_START: &str = "UPDATE retell_reactions SET begins_after = ?, event_id = ? WHERE reaction = ?";

pub(crate) const FORGET_PROGRESS: &str = "DELETE FROM retell_progress WHERE projection = ?";

pub(crate) const FORGET_PARKED: &str = "DELETE FROM retell_parked WHERE projection = ?";
