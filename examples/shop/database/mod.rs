//! The few tables the consumers keep, in whatever database they lie.
//!
//! A consumer writes through a [`Database`] and does not know which it is. Its SQL is plain enough that one text serves several databases;
//! where they differ, [`Insert`] and [`Select`] hold both texts side by side.

#[cfg(any(feature = "postgres", feature = "mysql"))]
mod server;
pub mod sqlite;

use retell::{BoxError, async_trait};

/// A connection, and what a consumer may do with it: all of it happens in the transaction of a batch.
#[async_trait]
pub trait Database: Send + 'static {
    /// Makes tables, if they are not there.
    async fn create(&mut self, tables: &'static str) -> Result<(), BoxError>;

    /// Writes rows, in as few statements as the database allows.
    async fn insert(&mut self, insert: &Insert, rows: Vec<Row>) -> Result<(), BoxError>;

    /// Reads rows.
    async fn select(&mut self, select: &Select, binds: Row) -> Result<Vec<Row>, BoxError>;
}

/// Rows into a table.
#[derive(Debug)]
pub struct Insert {
    /// `INSERT INTO` with its columns; the rows follow.
    pub into: &'static str,
    /// What SQLite and PostgreSQL do where a row with the same key is there.
    pub on_conflict: &'static str,
    /// What MySQL does there.
    #[cfg_attr(not(feature = "mysql"), expect(dead_code, reason = "the statements are complete in every build"))]
    pub on_duplicate_key: &'static str,
}

/// Rows out of a table.
#[derive(Debug)]
pub struct Select {
    /// For SQLite and PostgreSQL. The binds are `$1`, `$2` ..
    pub sql: &'static str,
    /// For MySQL. The binds are `?`.
    #[cfg_attr(not(feature = "mysql"), expect(dead_code, reason = "the statements are complete in every build"))]
    pub mysql: &'static str,
}

impl Select {
    /// A text that every database understands.
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

/// The table is not what the statement takes it for.
#[derive(Debug, thiserror::Error)]
#[error("{found:?} in column {column}, where {wanted} was to be")]
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

    /// Databases keep numbers with a sign; ours have none.
    pub fn number(&self, column: usize) -> Result<u64, BadColumn> {
        let found = self.0.get(column);
        let number = match found {
            Some(Value::Number(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        number.ok_or_else(|| BadColumn { column, wanted: "a number from zero", found: found.cloned() })
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
