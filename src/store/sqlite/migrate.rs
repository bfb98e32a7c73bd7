//! Upgrades a file to the schema of this release.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use crate::error::{Error, ErrorKind, Result};
use crate::store::sqlite::error::Failure;

/// The steps of the schema, which logs and read models share. A step never changes once it is released.
const STEPS: [(u32, &str, &str); 1] = [(1, "tables", TABLES)];

/// The tables of the newest step.
pub(crate) const TABLES: &str = include_str!("../../../migrations/sqlite/0001_tables.sql");

/// The newest step that this release knows.
const KNOWN: u32 = 1;

/// Applies the missing steps in one transaction: if several processes start at once, one applies them and the others find them applied.
pub(crate) fn apply(db: &mut Connection) -> Result<(), Failure> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(CREATE_TABLE)?;
    check(&tx)?;
    for (number, name, sql) in STEPS {
        if tx.execute(RECORD, (number, name))? == 1 {
            tx.execute_batch(sql)?;
        }
    }
    Ok(tx.commit()?)
}

/// Refuses a file that a newer release has changed.
pub(crate) fn check(db: &Connection) -> Result<(), Failure> {
    let found: Option<u32> = db.query_row(NEWEST, [], |row| row.get(0)).optional()?.flatten();
    match found {
        Some(found) if found > KNOWN => Err(Error::new(ErrorKind::NewerStore { found, known: KNOWN }).into()),
        _ => Ok(()),
    }
}

/// Refuses a file without the schema of this release.
pub(crate) fn require(db: &Connection) -> Result<(), Failure> {
    if !db.table_exists(None, "retell_migrations")? {
        return Err(missing(0));
    }
    check(db)?;
    let found: Option<u32> = db.query_row(NEWEST, [], |row| row.get(0))?;
    if found == Some(KNOWN) { Ok(()) } else { Err(missing(found.unwrap_or(0))) }
}

/// Returns the error of a file that has the schema `found`, or none.
pub(crate) fn missing(found: u32) -> Failure {
    Error::new(ErrorKind::NotMigrated { found, known: KNOWN }).into()
}

const CREATE_TABLE: &str = "
    CREATE TABLE IF NOT EXISTS retell_migrations (
        number INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
    ) STRICT";

const RECORD: &str = "INSERT INTO retell_migrations (number, name) VALUES (?1, ?2) ON CONFLICT DO NOTHING";

const NEWEST: &str = "SELECT max(number) FROM retell_migrations";
