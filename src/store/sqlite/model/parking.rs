//! Reads and writes the rows of parked aggregates.

use chrono::DateTime;
use rusqlite::{Connection, Row};

use crate::id::{ProjectionName, StreamId};
use crate::store::model::parking::{Parked, ParkedColumns, ParkingChange};
use crate::store::sqlite::convert::to_sql;
use crate::store::sqlite::error::{Failure, corrupt};

pub(crate) fn parked(db: &Connection, projection: &ProjectionName, limit: usize) -> Result<Vec<Parked>, Failure> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = db.prepare_cached(PARKED)?;
    let mut rows = statement.query((projection.as_str(), limit))?;
    let mut parked = Vec::new();
    while let Some(row) = rows.next()? {
        parked.push(parse_parked(row)?);
    }
    Ok(parked)
}

/// Returns the row of a parked aggregate.
pub(crate) fn parked_at(
    db: &Connection,
    projection: &ProjectionName,
    stream: &StreamId,
) -> Result<Option<Parked>, Failure> {
    let key = (projection.as_str(), stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
    let mut find = db.prepare_cached(PARKED_AT)?;
    let mut rows = find.query(key)?;
    rows.next()?.map(parse_parked).transpose()
}

pub(crate) fn parse_parked(row: &Row<'_>) -> Result<Parked, Failure> {
    let text = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_str()?);
    let micros: i64 = row.get(6)?;
    let next_at = DateTime::from_timestamp_micros(micros).ok_or_else(|| corrupt(format!("invalid time {micros}")))?;
    let columns = ParkedColumns {
        aggregate_type: text(0)?,
        aggregate_id: text(1)?,
        from_version: row.get(2)?,
        from_position: row.get(3)?,
        error: text(4)?,
        attempts: row.get(5)?,
        next_at,
        state: text(7)?,
    };
    Ok(columns.parse()?)
}

pub(crate) fn park(db: &Connection, projection: &ProjectionName, change: &ParkingChange) -> Result<(), Failure> {
    let stream = change.stream();
    let (kind, id) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
    match change {
        ParkingChange::Park(parked) => db.prepare_cached(PARK)?.execute((
            projection.as_str(),
            kind,
            id,
            to_sql(parked.from_version.get()),
            to_sql(parked.from_position.get()),
            &parked.error,
            parked.attempts,
            parked.next_at.timestamp_micros(),
            parked.state.as_str(),
        ))?,
        ParkingChange::Release(_) => db.prepare_cached(RELEASE)?.execute((projection.as_str(), kind, id))?,
    };
    Ok(())
}

const PARKED: &str = "
    SELECT aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state
    FROM retell_parked WHERE projection = ?1
    ORDER BY from_position LIMIT ?2";

const PARKED_AT: &str = "
    SELECT aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state
    FROM retell_parked WHERE projection = ?1 AND aggregate_type = ?2 AND aggregate_id = ?3";

/// Binds: projection, aggregate type, aggregate id, version, position, error, attempts, next time, state.
const PARK: &str = "
    INSERT INTO retell_parked
        (projection, aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
    ON CONFLICT (projection, aggregate_type, aggregate_id) DO UPDATE
    SET from_version = excluded.from_version, from_position = excluded.from_position, error = excluded.error,
        attempts = excluded.attempts, next_at = excluded.next_at, state = excluded.state";

const RELEASE: &str = "DELETE FROM retell_parked WHERE projection = ?1 AND aggregate_type = ?2 AND aggregate_id = ?3";

/// Binds: projection, aggregate type, aggregate id, now.
pub(crate) const RETRY: &str = "
    UPDATE retell_parked SET state = 'waiting', attempts = 0, next_at = ?4
    WHERE projection = ?1 AND aggregate_type = ?2 AND aggregate_id = ?3";
