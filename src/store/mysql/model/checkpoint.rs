//! The rows of checkpoints.

use sqlx::mysql::MySqlArguments;
use sqlx::query::Query;
use sqlx::{MySql, MySqlConnection};

use crate::error::Result;
use crate::id::{Position, ProjectionName};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::checkpoint_row::Checkpoint;
use crate::store::model::parking::Step;
use crate::store::mysql::error::classify;
use crate::store::server::convert::{from_sql, to_sql};

/// Locks the projection's row, and makes it if it does not exist.
pub(crate) async fn take(tx: &mut MySqlConnection, projection: &ProjectionName) -> Result<Checkpoint> {
    let (position, changes, per_aggregate, state) =
        row(tx, projection).await.map_err(|error| classify(error, "lock a checkpoint"))?;
    Ok(Checkpoint {
        position: Position::new(from_sql(position, "position")?),
        parking_changes: from_sql(changes, "count")?,
        per_aggregate,
        state: ProjectionState::parse(&state)?,
    })
}

async fn row(tx: &mut MySqlConnection, projection: &ProjectionName) -> Result<(i64, i64, bool, String), sqlx::Error> {
    let name = projection.as_str().as_bytes();
    if let Some(row) = sqlx::query_as(LOCK).bind(name).fetch_optional(&mut *tx).await? {
        return Ok(row);
    }
    sqlx::query(MAKE).bind(name).execute(&mut *tx).await?;
    sqlx::query_as(LOCK).bind(name).fetch_one(&mut *tx).await
}

/// Returns the query that moves a checkpoint as a step says, if it is there as the step begins with it.
pub(crate) fn move_on(step: &Step) -> Query<'_, MySql, MySqlArguments> {
    sqlx::query(MOVE_ON)
        .bind(to_sql(step.to.get()))
        .bind(to_sql(step.changes_after()))
        .bind(step.projection.as_str().as_bytes())
        .bind(to_sql(step.from.get()))
        .bind(to_sql(step.changes))
}

pub(crate) const READ: &str = "
    SELECT CASE WHEN state = 'inline' THEN (SELECT position FROM retell_head WHERE id = 1) ELSE position END
    FROM retell_checkpoints WHERE projection = ?";

pub(crate) const STATE: &str = "SELECT CONVERT(state USING utf8mb4) FROM retell_checkpoints WHERE projection = ?";

pub(crate) const CHANGES: &str = "SELECT parking_changes FROM retell_checkpoints WHERE projection = ?";

const LOCK: &str = "
    SELECT position, parking_changes, per_aggregate, CONVERT(state USING utf8mb4)
    FROM retell_checkpoints WHERE projection = ? FOR UPDATE";

/// Locks the row for writing also where somebody else was faster: two who held it for reading would wait for each other.
const MAKE: &str = "
    INSERT INTO retell_checkpoints (projection, position) VALUES (?, 0) ON DUPLICATE KEY UPDATE position = position";

/// Binds: position and count of changes, projection, position and count before. Compares once more: work that makes a table commits on
/// its way, and others may come in between.
const MOVE_ON: &str = "
    UPDATE retell_checkpoints SET position = ?, parking_changes = ? WHERE projection = ? AND position = ? AND parking_changes = ?";
