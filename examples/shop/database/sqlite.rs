//! The tables in SQLite.

use retell::rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use retell::rusqlite::{self, Connection, params_from_iter};
use retell::{BoxError, async_trait};

use super::{Database, Insert, Row, Select, Value};

#[async_trait]
impl Database for Connection {
    async fn create(&mut self, tables: &'static str) -> Result<(), BoxError> {
        Ok(self.execute_batch(tables)?)
    }

    /// Writes one row per statement, since there is no round trip to save.
    async fn insert(&mut self, insert: &Insert, rows: Vec<Row>) -> Result<(), BoxError> {
        let Some(first) = rows.first() else { return Ok(()) };
        let places = vec!["?"; first.0.len()].join(", ");
        let mut one = self.prepare_cached(&format!("{} VALUES ({places}) {}", insert.into, insert.on_conflict))?;
        for row in rows {
            one.execute(params_from_iter(row.0))?;
        }
        Ok(())
    }

    async fn select(&mut self, query: &Select, binds: Row) -> Result<Vec<Row>, BoxError> {
        Ok(select(self, query, binds)?)
    }
}

/// Reads rows through a connection that others may also read through.
pub fn select(db: &Connection, select: &Select, binds: Row) -> rusqlite::Result<Vec<Row>> {
    let mut statement = db.prepare_cached(select.sql)?;
    let columns = statement.column_count();
    statement
        .query_map(params_from_iter(binds.0), |row| {
            (0..columns).map(|column| value(row, column)).collect::<Result<_, _>>().map(Row)
        })?
        .collect()
}

fn value(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Value> {
    match row.get_ref(column)? {
        ValueRef::Integer(number) => Ok(Value::Number(number)),
        _ => row.get(column).map(Value::Text),
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Self::Text(text) => text.to_sql(),
            Self::Number(number) => number.to_sql(),
        }
    }
}
