//! Reads and writes the rows of checkpoints.

use rusqlite::Connection;

use crate::id::{Position, ProjectionName};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::checkpoint_row::Checkpoint;
use crate::store::sqlite::convert::{from_sql, position_from_sql, to_sql};
use crate::store::sqlite::error::Failure;

/// Returns a projection's row, or that of a projection that never ran if there is no row.
pub(crate) fn checkpoint(db: &Connection, projection: &ProjectionName) -> Result<Checkpoint, Failure> {
    let mut statement = db.prepare_cached(CHECKPOINT)?;
    let mut rows = statement.query([projection.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(Checkpoint::default()) };
    Ok(Checkpoint {
        position: position_from_sql(row.get(0)?)?,
        parking_changes: from_sql(row.get(1)?, "count")?,
        per_aggregate: row.get(2)?,
        state: ProjectionState::parse(row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?)?,
    })
}

pub(crate) fn set_checkpoint(
    db: &Connection,
    projection: &ProjectionName,
    to: Position,
    changes: u64,
) -> Result<(), Failure> {
    let binds = (projection.as_str(), to_sql(to.get()), to_sql(changes));
    db.prepare_cached(SET_CHECKPOINT)?.execute(binds)?;
    Ok(())
}

const CHECKPOINT: &str =
    "SELECT position, parking_changes, per_aggregate, state FROM retell_checkpoints WHERE projection = ?1";

/// Binds: projection, position, count of changes.
const SET_CHECKPOINT: &str = "
    INSERT INTO retell_checkpoints (projection, position, parking_changes) VALUES (?1, ?2, ?3)
    ON CONFLICT (projection) DO UPDATE SET position = excluded.position, parking_changes = excluded.parking_changes";
