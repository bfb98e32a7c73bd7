//! Brings a schema to that of this release.

use sqlx::{Connection, PgConnection, PgPool};

use crate::error::{ErrorKind, Result};
use crate::store::postgres::error::classify;
use crate::store::postgres::schema::Schema;

/// The steps of the schema. Never changed once released.
const MIGRATIONS: [(i32, &str, &str); 13] = [
    (1, "log", include_str!("../../../migrations/postgres/0001_log.sql")),
    (2, "read_model", include_str!("../../../migrations/postgres/0002_read_model.sql")),
    (3, "leases", include_str!("../../../migrations/postgres/0003_leases.sql")),
    (4, "parking", include_str!("../../../migrations/postgres/0004_parking.sql")),
    (5, "progress", include_str!("../../../migrations/postgres/0005_progress.sql")),
    (6, "views", include_str!("../../../migrations/postgres/0006_views.sql")),
    (7, "reservations", include_str!("../../../migrations/postgres/0007_reservations.sql")),
    (8, "deadlines", include_str!("../../../migrations/postgres/0008_deadlines.sql")),
    (9, "inbox", include_str!("../../../migrations/postgres/0009_inbox.sql")),
    (10, "view_rows", include_str!("../../../migrations/postgres/0010_view_rows.sql")),
    (11, "plans", include_str!("../../../migrations/postgres/0011_plans.sql")),
    (12, "append", include_str!("../../../migrations/postgres/0012_append.sql")),
    (13, "append_one", include_str!("../../../migrations/postgres/0013_append_one.sql")),
];

/// The newest step this release knows.
const KNOWN: i32 = 13;

/// Applies what is missing in one transaction. Processes that start at once take turns.
pub(crate) async fn apply(pool: &PgPool, schema: &Schema) -> Result<()> {
    let mut connection = pool.acquire().await.map_err(|error| classify(error, "connect"))?;
    // A replica, or a user who may not change the schema, can use one that is up to date.
    if is_up_to_date(&mut connection, schema).await? { Ok(()) } else { run(&mut connection, schema).await }
}

async fn is_up_to_date(connection: &mut PgConnection, schema: &Schema) -> Result<bool> {
    let failed = |error| classify(error, "look at the schema");
    let there: bool = sqlx::query_scalar(schema.script(IS_THERE)).fetch_one(&mut *connection).await.map_err(failed)?;
    if !there {
        return Ok(false);
    }
    let applied: i32 = sqlx::query_scalar(schema.script(NEWEST)).fetch_one(&mut *connection).await.map_err(failed)?;
    check_known(applied).map(|()| applied == KNOWN)
}

/// Refuses a schema that a newer release has changed.
fn check_known(applied: i32) -> Result<()> {
    if applied > KNOWN {
        let (found, known) = (applied.unsigned_abs(), KNOWN.unsigned_abs());
        return Err(ErrorKind::NewerStore { found, known }.into());
    }
    Ok(())
}

async fn run(connection: &mut PgConnection, schema: &Schema) -> Result<()> {
    let failed = |error| classify(error, "migrate");
    let mut tx = connection.begin().await.map_err(failed)?;
    // The schema may not be there yet, so its name is the key.
    sqlx::query(LOCK).bind(schema.name()).execute(&mut *tx).await.map_err(failed)?;
    for sql in [CREATE_SCHEMA, CREATE_TABLE] {
        sqlx::query(schema.script(sql)).execute(&mut *tx).await.map_err(failed)?;
    }
    let applied: i32 = sqlx::query_scalar(schema.script(NEWEST)).fetch_one(&mut *tx).await.map_err(failed)?;
    check_known(applied)?;
    for (number, name, sql) in MIGRATIONS.into_iter().filter(|(number, ..)| *number > applied) {
        sqlx::raw_sql(schema.script(sql)).execute(&mut *tx).await.map_err(failed)?;
        sqlx::query(schema.script(RECORD)).bind(number).bind(name).execute(&mut *tx).await.map_err(failed)?;
    }
    tx.commit().await.map_err(failed)
}

const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('retell migrations of ' || $1, 0))";

const CREATE_SCHEMA: &str = "CREATE SCHEMA IF NOT EXISTS {schema}";

const CREATE_TABLE: &str = "
    CREATE TABLE IF NOT EXISTS {schema}.retell_migrations (
        number integer PRIMARY KEY,
        name text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )";

const IS_THERE: &str = "SELECT to_regclass('{schema}.retell_migrations') IS NOT NULL";

const NEWEST: &str = "SELECT coalesce(max(number), 0) FROM {schema}.retell_migrations";

const RECORD: &str = "INSERT INTO {schema}.retell_migrations (number, name) VALUES ($1, $2)";
