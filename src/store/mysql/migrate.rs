//! Upgrades a database to the schema of this release.

use sqlx::{Connection, MySqlConnection};

use crate::error::{Error, ErrorKind, Result};
use crate::store::mysql::connection::Connections;
use crate::store::mysql::error::classify;

/// The steps of the schema. A step never changes once it is released. Every statement can run again, because the server commits each one
/// separately.
const STEPS: [(u32, &str, &str); 1] = [(1, "tables", include_str!("../../../migrations/mysql/0001_tables.sql"))];

/// The newest step that this release knows.
const KNOWN: u32 = 1;

/// Applies the missing steps. Processes that start at once take turns.
pub(crate) async fn apply(connections: &Connections) -> Result<()> {
    // A user without the right to change the schema can use one that is up to date.
    if newest(connections).await? == KNOWN {
        return Ok(());
    }
    // The lock belongs to the session. A detached connection ends it with the migration, even if this future is dropped.
    let mut connection = connections.detached().await.map_err(|error| classify(error, "connect"))?;
    let applied = run(&mut connection).await;
    let closed = connection.close().await;
    applied?;
    closed.map_err(|error| classify(error, "migrate"))
}

/// Refuses a database without the schema of this release.
pub(crate) async fn require(connections: &Connections) -> Result<()> {
    match newest(connections).await? {
        KNOWN => Ok(()),
        found => Err(ErrorKind::NotMigrated { found, known: KNOWN }.into()),
    }
}

/// Returns the schema's newest step; zero if there is no schema.
async fn newest(connections: &Connections) -> Result<u32> {
    let failed = |error| classify(error, "check the schema");
    let (tables,): (i64,) = connections.one(sqlx::query_as(TABLE_EXISTS)).await.map_err(failed)?;
    if tables == 0 {
        return Ok(0);
    }
    let (applied,): (i64,) = connections.one(sqlx::query_as(NEWEST)).await.map_err(failed)?;
    known(applied)
}

/// Returns the schema's newest step. Refuses a schema that a newer release has changed.
fn known(applied: i64) -> Result<u32> {
    let found = u32::try_from(applied).unwrap_or(0);
    if found > KNOWN { Err(ErrorKind::NewerStore { found, known: KNOWN }.into()) } else { Ok(found) }
}

async fn run(connection: &mut MySqlConnection) -> Result<()> {
    let failed = |error| classify(error, "migrate");
    let locked: Option<i64> = sqlx::query_scalar(LOCK).fetch_one(&mut *connection).await.map_err(failed)?;
    if locked != Some(1) {
        return Err(Error::new(ErrorKind::Transient("migrate: another process is migrating the same database".into())));
    }
    sqlx::raw_sql(CREATE_TABLE).execute(&mut *connection).await.map_err(failed)?;
    let applied: i64 = sqlx::query_scalar(NEWEST).fetch_one(&mut *connection).await.map_err(failed)?;
    let found = known(applied)?;
    for (number, name, sql) in STEPS.into_iter().filter(|(number, ..)| *number > found) {
        for statement in statements(sql) {
            sqlx::raw_sql(statement).execute(&mut *connection).await.map_err(failed)?;
        }
        sqlx::query(RECORD).bind(number).bind(name).execute(&mut *connection).await.map_err(failed)?;
    }
    Ok(())
}

/// Returns the statements of a step. Each must end with a line. If a trigger is sent together with other statements, MySQL keeps the semicolon
/// after it as a part of its body, and the file that `mysqldump` writes then is invalid.
fn statements(sql: &'static str) -> impl Iterator<Item = &'static str> {
    sql.split(";\n").filter(|statement| !statement.trim().is_empty())
}

/// Waits up to a minute. The lock is named after the database. A lock's name has at most 64 characters, so databases with long names may share
/// a lock, and then take turns.
const LOCK: &str = "SELECT CAST(GET_LOCK(LEFT(CONCAT('retell ', DATABASE()), 64), 60) AS SIGNED)";

const TABLE_EXISTS: &str = "
    SELECT CAST(COUNT(*) AS SIGNED) FROM information_schema.tables
    WHERE table_schema = DATABASE() AND table_name = 'retell_migrations'";

const CREATE_TABLE: &str = "
    CREATE TABLE IF NOT EXISTS retell_migrations (
        number INT NOT NULL,
        name VARCHAR(64) NOT NULL,
        applied_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
        PRIMARY KEY (number)
    ) ENGINE = InnoDB";

const NEWEST: &str = "SELECT CAST(COALESCE(MAX(number), 0) AS SIGNED) FROM retell_migrations";

const RECORD: &str = "INSERT INTO retell_migrations (number, name) VALUES (?, ?)";
