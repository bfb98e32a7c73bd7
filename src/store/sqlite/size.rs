//! The sizes of the tables of a file.

use rusqlite::Connection;

use crate::store::size::{RowCount, StoreSize, TableSize};
use crate::store::sqlite::convert::from_sql;
use crate::store::sqlite::error::Failure;

/// The most rows that are counted of a table. SQLite has no statistics, and counting reads the table.
const MAX_COUNTED: u64 = 100_000;

/// A table, and the statement that counts its rows up to one more than [`MAX_COUNTED`].
type Counted = (&'static str, &'static str);

macro_rules! counted {
    ($($table:literal)*) => {
        [$(($table, concat!("SELECT count(*) FROM (SELECT 1 FROM retell_", $table, " LIMIT 100001)"))),*]
    };
}

pub(crate) const LOG: [Counted; 8] =
    counted!("clock_steps" "keys" "leases" "relays" "reservations" "seals" "shapes" "snapshots");

pub(crate) const MODELS: [Counted; 12] = counted!(
    "audit" "checkpoints" "deadlines" "inbox" "parked" "processors" "progress" "reactions" "skipped" "view_fields" "view_generations"
    "views"
);

/// Returns the sizes of the tables, and of the file.
pub(crate) fn size(db: &Connection, tables: &[Counted]) -> Result<StoreSize, Failure> {
    let mut sizes = Vec::new();
    for (table, count) in tables {
        let rows = from_sql(db.prepare_cached(count)?.query_row([], |row| row.get(0))?, "count")?;
        let known = if rows > MAX_COUNTED { RowCount::AtLeast } else { RowCount::Exact };
        sizes.push(TableSize::new(*table, rows.min(MAX_COUNTED), known, None));
    }
    let bytes = from_sql(db.prepare_cached(BYTES)?.query_row([], |row| row.get(0))?, "size")?;
    Ok(StoreSize::new(sizes, Some(bytes)))
}

/// As [`size`], with the events, which are numbered without gaps.
pub(crate) fn size_of_log(db: &Connection) -> Result<StoreSize, Failure> {
    let StoreSize { mut tables, bytes } = size(db, &LOG)?;
    let events = from_sql(db.prepare_cached(EVENTS)?.query_row([], |row| row.get(0))?, "count")?;
    tables.push(TableSize::new("events", events, RowCount::Exact, None));
    Ok(StoreSize::new(tables, bytes))
}

const BYTES: &str = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";

const EVENTS: &str = "SELECT coalesce(max(position), 0) FROM retell_events";
