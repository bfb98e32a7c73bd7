//! Reads and writes the rows of parked aggregates.

use sqlx::mysql::{MySqlArguments, MySqlRow};
use sqlx::query::Query;
use sqlx::{MySql, Row};

use crate::id::ProjectionName;
use crate::store::model::parking::{ParkedColumns, ParkingChange};
use crate::store::mysql::convert::{text, time_to_sql};
use crate::store::server::convert::to_sql;

/// Returns the query that parks or releases an aggregate.
pub(crate) fn park<'c>(projection: &'c ProjectionName, change: &'c ParkingChange) -> Query<'c, MySql, MySqlArguments> {
    let statement = match change {
        ParkingChange::Park(_) => PARK,
        ParkingChange::Release(_) => RELEASE,
    };
    let stream = change.stream();
    let query = sqlx::query(statement)
        .bind(projection.as_str().as_bytes())
        .bind(stream.aggregate_type().as_str().as_bytes())
        .bind(stream.aggregate_id().as_str().as_bytes());
    match change {
        ParkingChange::Park(parked) => query
            .bind(to_sql(parked.from_version.get()))
            .bind(to_sql(parked.from_position.get()))
            .bind(parked.error.as_bytes())
            .bind(i64::from(parked.attempts))
            .bind(time_to_sql(parked.next_at))
            .bind(parked.state.as_str().as_bytes()),
        ParkingChange::Release(_) => query,
    }
}

pub(crate) fn columns(row: &MySqlRow) -> Result<ParkedColumns<'_>, sqlx::Error> {
    Ok(ParkedColumns {
        aggregate_type: text(row.try_get(0)?)?,
        aggregate_id: text(row.try_get(1)?)?,
        from_version: row.try_get(2)?,
        from_position: row.try_get(3)?,
        error: text(row.try_get(4)?)?,
        attempts: row.try_get(5)?,
        next_at: row.try_get(6)?,
        state: text(row.try_get(7)?)?,
    })
}

/// Binds: projection, limit. Forces the index: the optimizer could sort all rows of the projection instead.
pub(crate) const PARKED: &str = "
    SELECT aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state
    FROM retell_parked FORCE INDEX (parked_from) WHERE projection = ?
    ORDER BY from_position LIMIT ?";

/// Binds: projection, aggregate type, aggregate id.
pub(crate) const PARKED_AT: &str = "
    SELECT aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state
    FROM retell_parked WHERE projection = ? AND aggregate_type = ? AND aggregate_id = ?";

/// Binds: projection, aggregate type, aggregate id, version, position, error, attempts, next time, state.
const PARK: &str = "
    REPLACE INTO retell_parked
        (projection, aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// Binds: projection, aggregate type, aggregate id.
const RELEASE: &str = "DELETE FROM retell_parked WHERE projection = ? AND aggregate_type = ? AND aggregate_id = ?";

/// Binds: now, projection, aggregate type, aggregate id.
pub(crate) const RETRY: &str = "
    UPDATE retell_parked SET state = 'waiting', attempts = 0, next_at = ?
    WHERE projection = ? AND aggregate_type = ? AND aggregate_id = ?";
