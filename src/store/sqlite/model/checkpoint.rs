//! Reads and writes the rows of checkpoints.

use rusqlite::Connection;

use crate::error::Error;
use crate::id::ProjectionName;
use crate::id::mark::Mark;
use crate::store::model::checkpoint::{ProjectionState, ProjectionStatus};
use crate::store::model::checkpoint_row::Checkpoint;
use crate::store::sqlite::convert::{event_id_to_sql, from_sql, mark_from_sql, to_sql};
use crate::store::sqlite::error::Failure;

/// Returns a projection's row, or that of a projection that never ran if there is no row.
pub(crate) fn checkpoint(db: &Connection, projection: &ProjectionName) -> Result<Checkpoint, Failure> {
    let mut statement = db.prepare_cached(CHECKPOINT)?;
    let mut rows = statement.query([projection.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(Checkpoint::default()) };
    Ok(Checkpoint {
        mark: mark_from_sql((row.get(0)?, row.get(1)?))?,
        changes: from_sql(row.get(2)?, "count")?,
        per_aggregate: row.get(3)?,
        state: ProjectionState::parse(row.get_ref(4)?.as_str().map_err(rusqlite::Error::from)?)?,
        paused: row.get(5)?,
    })
}

/// Returns the names of all projections that have run, sorted.
pub(crate) fn names(db: &Connection) -> Result<Vec<ProjectionName>, Failure> {
    let mut statement = db.prepare_cached(NAMES)?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    names.map(|name| Ok(ProjectionName::new(name?).map_err(Error::from)?)).collect()
}

/// Returns the first `limit` projections by name.
pub(crate) fn projections(db: &Connection, limit: usize) -> Result<Vec<ProjectionStatus>, Failure> {
    let mut statement = db.prepare_cached(PROJECTIONS)?;
    let mut rows = statement.query([i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let mut statuses = Vec::new();
    while let Some(row) = rows.next()? {
        let name = ProjectionName::new(row.get::<_, String>(0)?).map_err(Error::from)?;
        let mark = mark_from_sql((row.get(1)?, row.get(2)?))?;
        let state = ProjectionState::parse(row.get_ref(4)?.as_str().map_err(rusqlite::Error::from)?)?;
        statuses.push(ProjectionStatus::new(name, mark).with_per_aggregate(row.get(3)?).with_state(state));
    }
    Ok(statuses)
}

pub(crate) fn set_checkpoint(
    db: &Connection,
    projection: &ProjectionName,
    to: Mark,
    changes: u64,
) -> Result<(), Failure> {
    let binds = (projection.as_str(), to_sql(to.position.get()), event_id_to_sql(to.event_id), to_sql(changes));
    db.prepare_cached(SET_CHECKPOINT)?.execute(binds)?;
    Ok(())
}

const NAMES: &str = "SELECT projection FROM retell_checkpoints ORDER BY projection";

const PROJECTIONS: &str = "
    SELECT projection, position, event_id, per_aggregate, state FROM retell_checkpoints ORDER BY projection LIMIT ?1";

const CHECKPOINT: &str = "SELECT position, event_id, changes, per_aggregate, state, paused_at IS NOT NULL FROM retell_checkpoints WHERE projection = ?1";

/// Binds: projection, position, event, count of changes.
const SET_CHECKPOINT: &str = "
    INSERT INTO retell_checkpoints (projection, position, event_id, changes) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (projection) DO UPDATE
    SET position = excluded.position, event_id = excluded.event_id, changes = excluded.changes";

/// Notes whether appends move the position. Binds: projection, whether they do.
pub(crate) const SET_INLINE: &str = "UPDATE retell_checkpoints SET inline = ?2 WHERE projection = ?1 AND inline <> ?2";

/// Binds: reaction, position, event.
pub(crate) const RESET_START: &str = "UPDATE retell_reactions SET begins_after = ?2, event_id = ?3 WHERE reaction = ?1";

pub(crate) const FORGET_PROGRESS: &str = "DELETE FROM retell_progress WHERE projection = ?1";

pub(crate) const FORGET_PARKED: &str = "DELETE FROM retell_parked WHERE projection = ?1";
