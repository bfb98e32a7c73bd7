//! Brings a file to the schema of this release.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use crate::error::{Error, ErrorKind, Result};
use crate::store::sqlite::error::Failure;

/// One step of the schema. Never changed once released.
#[derive(Debug)]
pub(crate) struct Migration {
    number: u32,
    name: &'static str,
    sql: &'static str,
}

const CHECKPOINTS: Migration =
    Migration { number: 2, name: "read_model", sql: include_str!("../../../migrations/sqlite/0002_read_model.sql") };

const PARKING: Migration =
    Migration { number: 4, name: "parking", sql: include_str!("../../../migrations/sqlite/0004_parking.sql") };

const PROGRESS: Migration =
    Migration { number: 5, name: "progress", sql: include_str!("../../../migrations/sqlite/0005_progress.sql") };

const VIEWS: Migration =
    Migration { number: 6, name: "views", sql: include_str!("../../../migrations/sqlite/0006_views.sql") };

const DEADLINES: Migration =
    Migration { number: 8, name: "deadlines", sql: include_str!("../../../migrations/sqlite/0008_deadlines.sql") };

const INBOX: Migration =
    Migration { number: 9, name: "inbox", sql: include_str!("../../../migrations/sqlite/0009_inbox.sql") };

/// What a log needs.
pub(crate) static LOG: [Migration; 9] = [
    Migration { number: 1, name: "log", sql: include_str!("../../../migrations/sqlite/0001_log.sql") },
    CHECKPOINTS,
    Migration { number: 3, name: "leases", sql: include_str!("../../../migrations/sqlite/0003_leases.sql") },
    PARKING,
    PROGRESS,
    VIEWS,
    Migration {
        number: 7,
        name: "reservations",
        sql: include_str!("../../../migrations/sqlite/0007_reservations.sql"),
    },
    DEADLINES,
    INBOX,
];

/// What a file of read models needs.
pub(crate) static READ_MODEL: [Migration; 6] = [CHECKPOINTS, PARKING, PROGRESS, VIEWS, DEADLINES, INBOX];

/// The newest step this release knows, of any kind of file.
const NEWEST: u32 = 9;

/// Applies what is missing, in one transaction: of several processes that start at once, one does it and the others find it done.
pub(crate) fn apply(db: &mut Connection, migrations: &[Migration]) -> Result<(), Failure> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(CREATE_TABLE)?;
    check(&tx)?;
    for Migration { number, name, sql } in migrations {
        if tx.execute(RECORD, (number, name))? == 1 {
            tx.execute_batch(sql)?;
        }
    }
    Ok(tx.commit()?)
}

/// Refuses a file that a newer release has changed.
pub(crate) fn check(db: &Connection) -> Result<(), Failure> {
    let found: Option<u32> = db.query_row(NEWEST_APPLIED, [], |row| row.get(0)).optional()?.flatten();
    match found {
        Some(found) if found > NEWEST => Err(Error::new(ErrorKind::NewerStore { found, known: NEWEST }).into()),
        _ => Ok(()),
    }
}

const CREATE_TABLE: &str = "
    CREATE TABLE IF NOT EXISTS retell_migrations (
        number INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
    ) STRICT";

const RECORD: &str = "INSERT INTO retell_migrations (number, name) VALUES (?1, ?2) ON CONFLICT DO NOTHING";

const NEWEST_APPLIED: &str = "SELECT max(number) FROM retell_migrations";
