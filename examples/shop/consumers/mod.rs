//! Who listens to the events. Each keeps a read model of its own.

pub mod analytics;
pub mod audit;
pub mod notification;
pub mod search;

use retell::rusqlite::{self, Row};

/// A number that SQLite keeps with a sign.
fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}
