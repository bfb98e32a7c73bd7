//! The sizes of tables, from the statistics of the server.

use crate::error::Result;
use crate::store::postgres::connection::Connections;
use crate::store::postgres::error::classify;
use crate::store::postgres::log::read::Reader;
use crate::store::postgres::schema::Schema;
use crate::store::server::convert::from_sql;
use crate::store::size::{LOG_TABLES, RowCount, StoreSize, TableSize};

impl Reader {
    pub(crate) async fn size(&self) -> Result<StoreSize> {
        size(&self.connections, &self.schema, &LOG_TABLES).await
    }
}

pub(crate) async fn size(connections: &Connections, schema: &Schema, tables: &[&str]) -> Result<StoreSize> {
    let names: Vec<String> = tables.iter().map(|table| (*table).to_owned()).collect();
    let read = || async {
        let query = sqlx::query_as(schema.sql(SIZES)).bind(&names);
        let rows: Vec<(String, i64, i64)> =
            connections.all(query).await.map_err(|error| classify(error, "read the sizes of tables"))?;
        let size = |(table, rows, bytes): (String, i64, i64)| {
            let (rows, bytes) = (from_sql(rows, "count")?, from_sql(bytes, "size")?);
            Ok(TableSize::new(table, rows, RowCount::Estimate, Some(bytes)))
        };
        let tables = rows.into_iter().map(size).collect::<Result<Vec<_>>>()?;
        let bytes = tables.iter().filter_map(|table| table.bytes).sum();
        Ok(StoreSize::new(tables, Some(bytes)))
    };
    connections.repeat("read the sizes of tables", read).await
}

/// Binds: tables. The statistics of a server that has crashed begin at zero, and those of the planner may be missing.
const SIZES: &str = "
    SELECT c.relname::text, greatest(coalesce(s.n_live_tup, 0), c.reltuples::bigint, 0), pg_total_relation_size(c.oid)
    FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
    WHERE c.relnamespace = '{schema}'::regnamespace AND c.relkind = 'r' AND c.relname = ANY($1)";
