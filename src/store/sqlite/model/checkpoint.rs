//! The rows of checkpoints.

use rusqlite::{Connection, OptionalExtension};

use crate::id::{Position, ProjectionName};
use crate::store::sqlite::convert::{from_sql, position_from_sql, to_sql};
use crate::store::sqlite::error::Failure;

/// The position, and the count of the parking's changes.
pub(crate) fn checkpoint(db: &Connection, projection: &ProjectionName) -> Result<(Position, u64), Failure> {
    let mut statement = db.prepare_cached(CHECKPOINT)?;
    let found = statement.query_row([projection.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let (position, changes) = found.unwrap_or_default();
    Ok((position_from_sql(position)?, from_sql(changes, "count")?))
}

/// Whether the position is the swept position of a projection with order per aggregate.
pub(crate) fn is_per_aggregate(db: &Connection, projection: &ProjectionName) -> Result<bool, Failure> {
    let mut statement = db.prepare_cached(IS_PER_AGGREGATE)?;
    Ok(statement.query_row([projection.as_str()], |row| row.get(0)).optional()?.unwrap_or(false))
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

const CHECKPOINT: &str = "SELECT position, parking_changes FROM retell_checkpoints WHERE projection = ?1";

const IS_PER_AGGREGATE: &str = "SELECT per_aggregate FROM retell_checkpoints WHERE projection = ?1";

/// Binds: projection, position, count of changes.
const SET_CHECKPOINT: &str = "
    INSERT INTO retell_checkpoints (projection, position, parking_changes) VALUES (?1, ?2, ?3)
    ON CONFLICT (projection) DO UPDATE SET position = excluded.position, parking_changes = excluded.parking_changes";
