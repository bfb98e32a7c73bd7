//! The consumers' tables, in any of the databases.
//!
//! A consumer writes through a [`Database`] and does not know which one it is. Most statements are plain enough for all databases; where
//! the databases differ, [`Insert`] and [`Select`] hold both versions.

#[cfg(any(feature = "postgres", feature = "mysql"))]
mod server;
pub mod sqlite;

use retell::{BoxError, async_trait};

/// A connection for the use of a consumer. All of its statements are part of a batch's transaction.
#[async_trait]
pub trait Database: Send + 'static {
    /// Creates tables if they do not exist.
    async fn create(&mut self, tables: &'static str) -> Result<(), BoxError>;

    /// Writes rows, in as few statements as the database allows.
    async fn insert(&mut self, insert: &Insert, rows: Vec<Row>) -> Result<(), BoxError>;

    /// Reads rows.
    async fn select(&mut self, select: &Select, binds: Row) -> Result<Vec<Row>, BoxError>;
}

/// A statement that writes rows.
#[derive(Debug)]
pub struct Insert {
    /// `INSERT INTO` with the columns; the rows follow.
    pub into: &'static str,
    /// The clause of SQLite and PostgreSQL for a row whose key already exists.
    pub on_conflict: &'static str,
    /// The clause of MySQL for the same case.
    #[cfg_attr(not(feature = "mysql"), expect(dead_code, reason = "every build has all statements"))]
    pub on_duplicate_key: &'static str,
}

/// A statement that reads rows.
#[derive(Debug)]
pub struct Select {
    /// For SQLite and PostgreSQL, with `$1`, `$2` and so on as parameters.
    pub sql: &'static str,
    /// For MySQL, with `?` as parameters.
    #[cfg_attr(not(feature = "mysql"), expect(dead_code, reason = "every build has all statements"))]
    pub mysql: &'static str,
}

impl Select {
    /// Creates a statement that is the same in every database.
    pub const fn same(sql: &'static str) -> Self {
        Self { sql, mysql: sql }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Number(i64),
}

/// The values of a row, in the order of its columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row(Vec<Value>);

/// A row has other columns than the statement expects.
#[derive(Debug, thiserror::Error)]
#[error("column {column}: expected {wanted}, found {found:?}")]
pub struct BadColumn {
    column: usize,
    wanted: &'static str,
    found: Option<Value>,
}

impl Row {
    pub fn text(&self, column: usize) -> Result<String, BadColumn> {
        match self.0.get(column) {
            Some(Value::Text(text)) => Ok(text.clone()),
            found => Err(BadColumn { column, wanted: "a text", found: found.cloned() }),
        }
    }

    /// Returns a number. Databases store signed numbers; the shop has no negative ones.
    pub fn number(&self, column: usize) -> Result<u64, BadColumn> {
        let found = self.0.get(column);
        let number = match found {
            Some(Value::Number(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        number.ok_or_else(|| BadColumn { column, wanted: "a number of at least 0", found: found.cloned() })
    }
}

impl<const COLUMNS: usize> From<[Value; COLUMNS]> for Row {
    fn from(values: [Value; COLUMNS]) -> Self {
        Self(values.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}
