//! The tables in PostgreSQL and MySQL. The two implementations differ only in the statements they use.

use retell::sqlx::{self, Column, ColumnIndex, QueryBuilder};
#[cfg(feature = "mysql")]
use retell::sqlx::{MySql, MySqlConnection};
#[cfg(feature = "postgres")]
use retell::sqlx::{PgConnection, Postgres};
use retell::{BoxError, async_trait};

use super::{Database, Insert, Row, Select, Value};

macro_rules! database {
    ($server:ty, $connection:ty, $existing:ident, $select:ident) => {
        #[async_trait]
        impl Database for $connection {
            async fn create(&mut self, tables: &'static str) -> Result<(), BoxError> {
                sqlx::raw_sql(tables).execute(self).await?;
                Ok(())
            }

            /// Writes all rows in one statement, since each statement is a round trip to the server.
            async fn insert(&mut self, insert: &Insert, rows: Vec<Row>) -> Result<(), BoxError> {
                if rows.is_empty() {
                    return Ok(());
                }
                let mut sql = QueryBuilder::<$server>::new(insert.into);
                sql.push(" ").push_values(rows, |mut places, row| {
                    for value in row.0 {
                        match value {
                            Value::Text(text) => places.push_bind(text),
                            Value::Number(number) => places.push_bind(number),
                        };
                    }
                });
                sql.push(" ").push(insert.$existing);
                sql.build().execute(self).await?;
                Ok(())
            }

            async fn select(&mut self, select: &Select, binds: Row) -> Result<Vec<Row>, BoxError> {
                let query = binds.0.into_iter().fold(sqlx::query(select.$select), |query, value| match value {
                    Value::Text(text) => query.bind(text),
                    Value::Number(number) => query.bind(number),
                });
                let rows = query.fetch_all(self).await?;
                Ok(rows.iter().map(values).collect::<Result<_, _>>()?)
            }
        }
    };
}

#[cfg(feature = "postgres")]
database!(Postgres, PgConnection, on_conflict, sql);
#[cfg(feature = "mysql")]
database!(MySql, MySqlConnection, on_duplicate_key, mysql);

fn values<R: sqlx::Row>(row: &R) -> Result<Row, sqlx::Error>
where
    usize: ColumnIndex<R>,
    for<'r> i64: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    for<'r> String: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    let value = |column| row.try_get(column).map(Value::Number).or_else(|_| row.try_get(column).map(Value::Text));
    row.columns().iter().map(|column| value(column.ordinal())).collect::<Result<_, _>>().map(Row)
}
