//! The sizes of tables.

use serde::{Deserialize, Serialize};

/// The size of a store: its tables, and the bytes that it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StoreSize {
    /// The tables, by name.
    pub tables: Vec<TableSize>,
    /// The bytes on disk: of all tables with their indexes, in SQLite of the file. `None` in memory.
    pub bytes: Option<u64>,
}

impl StoreSize {
    /// Creates the size of a store from its tables.
    pub fn new(mut tables: Vec<TableSize>, bytes: Option<u64>) -> Self {
        tables.sort_unstable_by(|one, other| one.table.cmp(&other.table));
        Self { tables, bytes }
    }
}

/// The size of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TableSize {
    /// The name, without a prefix or a schema.
    pub table: String,
    /// The number of rows.
    pub rows: u64,
    /// How the number was found.
    pub count: RowCount,
    /// The bytes on disk, with indexes; `None` if the store does not know them for each table.
    pub bytes: Option<u64>,
}

impl TableSize {
    /// Creates the size of a table.
    pub fn new(table: impl Into<String>, rows: u64, count: RowCount, bytes: Option<u64>) -> Self {
        Self { table: table.into(), rows, count, bytes }
    }
}

/// How a number of rows was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RowCount {
    /// It was counted.
    Exact,
    /// It is from the statistics of the server, which may be old.
    Estimate,
    /// It was counted up to a limit: there are more rows.
    AtLeast,
}

/// The tables of a log.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) const LOG_TABLES: [&str; 13] = [
    "commits",
    "events",
    "head",
    "keys",
    "lanes",
    "leases",
    "log",
    "relays",
    "reservations",
    "seals",
    "sequencer",
    "shapes",
    "snapshots",
];

/// The tables of read models.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) const MODEL_TABLES: [&str; 13] = [
    "audit",
    "checkpoints",
    "deadlines",
    "gates",
    "inbox",
    "parked",
    "processors",
    "progress",
    "reactions",
    "skipped",
    "view_fields",
    "view_generations",
    "views",
];
