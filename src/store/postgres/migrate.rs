//! Upgrades a schema to that of this release: tables by numbered steps, functions by their current text.
//!
//! A step is never changed once it is released. A function is one file with its current text, and is installed if the hash of that text is not
//! the one stored in the schema. Every release that changes a function also adds a step, possibly without SQL, so one number identifies the
//! tables and the functions together. A program refuses a schema with a larger number than its own. Two releases that open one schema in
//! turn therefore never reinstall each other's functions: the newer one installs its own, and the older one no longer opens the schema.
//! A release that removes a function drops it in its step.

use std::collections::HashMap;

use sqlx::{Connection, PgConnection};

use crate::error::{Error, ErrorKind, Result};
use crate::store::postgres::error::classify;
use crate::store::postgres::schema::Schema;

/// The steps of the schema. A step never changes once it is released.
const STEPS: [(i32, &str, &str); 1] = [(1, "tables", include_str!("../../../migrations/postgres/0001_tables.sql"))];

/// The newest step that this release knows.
const KNOWN: i32 = 1;

/// The functions. Each follows the functions that it calls.
const FUNCTIONS: [Function; 11] = [
    Function::new("lane_key", include_str!("../../../migrations/postgres/functions/lane_key.sql")),
    Function::new("wait_for_disk", include_str!("../../../migrations/postgres/functions/wait_for_disk.sql")),
    Function::new("version_fits", include_str!("../../../migrations/postgres/functions/version_fits.sql")),
    Function::new("take_lane", include_str!("../../../migrations/postgres/functions/take_lane.sql")),
    Function::new("lock_claims", include_str!("../../../migrations/postgres/functions/lock_claims.sql")),
    Function::new("keep_claims", include_str!("../../../migrations/postgres/functions/keep_claims.sql")),
    Function::new("append", include_str!("../../../migrations/postgres/functions/append.sql")),
    Function::new("append_one", include_str!("../../../migrations/postgres/functions/append_one.sql")),
    Function::new("sequence_commits", include_str!("../../../migrations/postgres/functions/sequence_commits.sql")),
    Function::new("load_rows", include_str!("../../../migrations/postgres/functions/load_rows.sql")),
    Function::new("unsequenced", include_str!("../../../migrations/postgres/functions/unsequenced.sql")),
];

/// The current text of one of the schema's functions.
struct Function {
    name: &'static str,
    sql: &'static str,
    hashes: Hashes,
}

/// The hashes of an installed function, as the schema stores them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hashes {
    /// The hash of its whole file.
    text: i64,
    /// The hash of its parameters and results. `CREATE OR REPLACE` cannot change these.
    signature: i64,
}

impl Function {
    const fn new(name: &'static str, sql: &'static str) -> Self {
        let bytes = sql.as_bytes();
        let start = find(bytes, b"CREATE OR REPLACE FUNCTION", 0);
        let end = find(bytes, b"LANGUAGE", start);
        let hashes = Hashes { text: hash(bytes, 0, bytes.len()), signature: hash(bytes, start, end) };
        Self { name, sql, hashes }
    }
}

/// Returns where `wanted` begins in `text`, at `from` or later.
const fn find(text: &[u8], wanted: &[u8], from: usize) -> usize {
    let mut start = from;
    loop {
        let mut length = 0;
        while length < wanted.len() && text[start + length] == wanted[length] {
            length += 1;
        }
        if length == wanted.len() {
            return start;
        }
        start += 1;
    }
}

/// Returns the 64-bit FNV-1a hash of a part of a text. It only has to distinguish two texts.
const fn hash(text: &[u8], from: usize, to: usize) -> i64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut place = from;
    while place < to {
        hash = (hash ^ text[place] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        place += 1;
    }
    hash.cast_signed()
}

/// Returns whether the tables, which exist, and the functions are those of this release.
pub(crate) async fn is_up_to_date(connection: &mut PgConnection, schema: &Schema) -> Result<bool> {
    if newest(connection, schema).await? < KNOWN {
        return Ok(false);
    }
    let installed = installed(connection, schema).await?;
    Ok(FUNCTIONS.iter().all(|function| installed.get(function.name) == Some(&function.hashes)))
}

/// Returns the name and the body of each function that this release installs.
pub(crate) fn bodies(schema: &Schema) -> impl Iterator<Item = (&'static str, String)> {
    let of_tables = STEPS.iter().map(|(.., sql)| ("refuse_change", *sql));
    let functions = FUNCTIONS.iter().map(|function| (function.name, function.sql));
    functions.chain(of_tables).filter_map(|(name, sql)| {
        let body = sql.split("$$").nth(1)?;
        Some((name, schema.script(body).0))
    })
}

/// Returns the error of a schema that is missing or not that of this release.
pub(crate) async fn missing(connection: &mut PgConnection, schema: &Schema, has_tables: bool) -> Result<Error> {
    let found = if has_tables { newest(connection, schema).await? } else { 0 };
    Ok(ErrorKind::NotMigrated { found: found.unsigned_abs(), known: KNOWN.unsigned_abs() }.into())
}

/// Returns the schema's newest step. Refuses a schema that a newer release has changed.
async fn newest(connection: &mut PgConnection, schema: &Schema) -> Result<i32> {
    let newest: i32 = sqlx::query_scalar(schema.script(NEWEST))
        .fetch_one(connection)
        .await
        .map_err(|error| classify(error, "check the schema"))?;
    if newest > KNOWN {
        let (found, known) = (newest.unsigned_abs(), KNOWN.unsigned_abs());
        return Err(ErrorKind::NewerStore { found, known }.into());
    }
    Ok(newest)
}

async fn installed(connection: &mut PgConnection, schema: &Schema) -> Result<HashMap<String, Hashes>> {
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(schema.script(INSTALLED))
        .fetch_all(connection)
        .await
        .map_err(|error| classify(error, "check the schema"))?;
    Ok(rows.into_iter().map(|(name, text, signature)| (name, Hashes { text, signature })).collect())
}

/// Applies the missing steps and installs the functions that differ, in one transaction. Processes that start at once take turns.
/// `CREATE SCHEMA` demands a right on the database even if the schema exists, so it runs only if the schema is missing.
pub(crate) async fn run(connection: &mut PgConnection, schema: &Schema, schema_exists: bool) -> Result<()> {
    let failed = |error| classify(error, "migrate");
    let mut tx = connection.begin().await.map_err(failed)?;
    // The key is the schema's name, because the schema may not exist yet.
    sqlx::query(LOCK).bind(schema.name()).execute(&mut *tx).await.map_err(failed)?;
    for sql in [CREATE_SCHEMA, CREATE_STEPS, CREATE_FUNCTIONS].into_iter().skip(usize::from(schema_exists)) {
        sqlx::query(schema.script(sql)).execute(&mut *tx).await.map_err(failed)?;
    }
    let applied = newest(&mut tx, schema).await?;
    for (number, name, sql) in STEPS.into_iter().filter(|(number, ..)| *number > applied) {
        sqlx::raw_sql(schema.script(sql)).execute(&mut *tx).await.map_err(failed)?;
        sqlx::query(schema.script(RECORD)).bind(number).bind(name).execute(&mut *tx).await.map_err(failed)?;
    }
    let installed = installed(&mut tx, schema).await?;
    for function in &FUNCTIONS {
        install(&mut tx, schema, function, installed.get(function.name)).await.map_err(failed)?;
    }
    tx.commit().await.map_err(failed)
}

/// Replaces a function and keeps the rights granted on it. If its signature has changed, drops the old function first: otherwise PostgreSQL
/// would refuse, or keep both.
async fn install(
    db: &mut PgConnection,
    schema: &Schema,
    function: &Function,
    installed: Option<&Hashes>,
) -> Result<(), sqlx::Error> {
    if installed == Some(&function.hashes) {
        return Ok(());
    }
    if installed.is_none_or(|installed| installed.signature != function.hashes.signature) {
        let drop = DROP_FUNCTION.replace("{name}", function.name);
        sqlx::raw_sql(schema.script(&drop)).execute(&mut *db).await?;
    }
    sqlx::raw_sql(schema.script(function.sql)).execute(&mut *db).await?;
    let recorded = sqlx::query(schema.script(RECORD_FUNCTION)).bind(function.name);
    recorded.bind(function.hashes.text).bind(function.hashes.signature).execute(db).await.map(drop)
}

const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('retell migrations of ' || $1, 0))";

const CREATE_SCHEMA: &str = "CREATE SCHEMA IF NOT EXISTS {schema}";

const CREATE_STEPS: &str = "
    CREATE TABLE IF NOT EXISTS {schema}.retell_migrations (
        number integer PRIMARY KEY,
        name text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )";

const CREATE_FUNCTIONS: &str = "
    CREATE TABLE IF NOT EXISTS {schema}.retell_functions (
        name text PRIMARY KEY,
        text_hash bigint NOT NULL,
        signature_hash bigint NOT NULL
    )";

const NEWEST: &str = "SELECT coalesce(max(number), 0) FROM {schema}.retell_migrations";

const RECORD: &str = "INSERT INTO {schema}.retell_migrations (number, name) VALUES ($1, $2)";

const INSTALLED: &str = "SELECT name, text_hash, signature_hash FROM {schema}.retell_functions";

const DROP_FUNCTION: &str = "DROP FUNCTION IF EXISTS {schema}.{name}";

/// Binds: name, hash of the text, hash of the signature.
const RECORD_FUNCTION: &str = "
    INSERT INTO {schema}.retell_functions (name, text_hash, signature_hash) VALUES ($1, $2, $3)
    ON CONFLICT (name) DO UPDATE SET text_hash = excluded.text_hash, signature_hash = excluded.signature_hash";

#[cfg(test)]
mod tests {
    use super::*;

    /// The newest step, and the hash of all functions as of that step.
    const FUNCTIONS_OF_NEWEST_STEP: (i32, i64) = (1, -3_942_714_734_656_979_601);

    #[test]
    fn functions_change_only_with_a_new_step() {
        let all: Vec<u8> = FUNCTIONS.iter().flat_map(|function| function.hashes.text.to_be_bytes()).collect();
        let current = (KNOWN, hash(&all, 0, all.len()));
        assert_eq!(
            current, FUNCTIONS_OF_NEWEST_STEP,
            "if the newest step is released, add a step; then record its number and this hash here"
        );
    }

    #[test]
    fn steps_are_numbered_without_gaps() {
        let numbers: Vec<i32> = STEPS.iter().map(|(number, ..)| *number).collect();
        assert_eq!(numbers, (1..=KNOWN).collect::<Vec<_>>());
    }

    #[test]
    fn signature_hash_ignores_the_body() {
        let one = "-- CREATE\nCREATE OR REPLACE FUNCTION {schema}.f(a integer) RETURNS integer LANGUAGE sql AS $$ SELECT 1 $$;";
        let body = "CREATE OR REPLACE FUNCTION {schema}.f(a integer) RETURNS integer LANGUAGE sql AS $$ SELECT 2 $$;";
        let other = "CREATE OR REPLACE FUNCTION {schema}.f(a bigint) RETURNS integer LANGUAGE sql AS $$ SELECT 1 $$;";
        let [one, body, other] = [one, body, other].map(|sql| Function::new("f", sql).hashes);
        assert!(one.text != body.text && one.signature == body.signature && one.signature != other.signature);
    }
}
