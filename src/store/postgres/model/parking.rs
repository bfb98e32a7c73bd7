//! Reads and writes the rows of parked aggregates.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row};

use crate::id::ProjectionName;
use crate::store::model::parking::{ParkedColumns, ParkingChange};
use crate::store::postgres::schema::Schema;
use crate::store::server::convert::to_sql;

/// Returns the query that parks or releases an aggregate.
pub(crate) fn park<'c>(
    schema: &Schema,
    projection: &'c ProjectionName,
    change: &'c ParkingChange,
) -> Query<'c, Postgres, PgArguments> {
    let statement = match change {
        ParkingChange::Park(_) => PARK,
        ParkingChange::Release(_) => RELEASE,
    };
    let stream = change.stream();
    let query = sqlx::query(schema.sql(statement))
        .bind(projection.as_str())
        .bind(stream.aggregate_type().as_str())
        .bind(stream.aggregate_id().as_str());
    match change {
        ParkingChange::Park(parked) => query
            .bind(to_sql(parked.from_version.get()))
            .bind(to_sql(parked.from_position.get()))
            .bind(&parked.error)
            .bind(i64::from(parked.attempts))
            .bind(parked.next_at)
            .bind(parked.state.as_str()),
        ParkingChange::Release(_) => query,
    }
}

pub(crate) fn columns(row: &PgRow) -> Result<ParkedColumns<'_>, sqlx::Error> {
    Ok(ParkedColumns {
        aggregate_type: row.try_get(0)?,
        aggregate_id: row.try_get(1)?,
        from_version: row.try_get(2)?,
        from_position: row.try_get(3)?,
        error: row.try_get(4)?,
        attempts: row.try_get(5)?,
        next_at: row.try_get(6)?,
        state: row.try_get(7)?,
    })
}

/// Binds: projection, limit.
pub(crate) const PARKED: &str = "
    SELECT aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state
    FROM {schema}.parked WHERE projection = $1
    ORDER BY from_position LIMIT $2";

/// Binds: projection, aggregate type, aggregate id.
pub(crate) const PARKED_AT: &str = "
    SELECT aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state
    FROM {schema}.parked WHERE projection = $1 AND aggregate_type = $2 AND aggregate_id = $3";

/// Binds: projection, aggregate type, aggregate id, version, position, error, attempts, next time, state.
const PARK: &str = "
    INSERT INTO {schema}.parked
        (projection, aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (projection, aggregate_type, aggregate_id) DO UPDATE
    SET from_version = excluded.from_version, from_position = excluded.from_position, error = excluded.error,
        attempts = excluded.attempts, next_at = excluded.next_at, state = excluded.state";

/// Binds: projection, aggregate type, aggregate id.
const RELEASE: &str = "DELETE FROM {schema}.parked WHERE projection = $1 AND aggregate_type = $2 AND aggregate_id = $3";

/// Binds: projection, aggregate type, aggregate id, now.
pub(crate) const RETRY: &str = "
    UPDATE {schema}.parked SET state = 'waiting', attempts = 0, next_at = $4
    WHERE projection = $1 AND aggregate_type = $2 AND aggregate_id = $3
    RETURNING 1";
