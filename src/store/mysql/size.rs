//! The sizes of tables, from the statistics of the server.

use crate::error::Result;
use crate::store::mysql::connection::Connections;
use crate::store::mysql::error::classify;
use crate::store::mysql::log::read::Reader;
use crate::store::server::convert::from_sql;
use crate::store::size::{LOG_TABLES, RowCount, StoreSize, TableSize};

impl Reader {
    pub(crate) async fn size(&self) -> Result<StoreSize> {
        size(&self.connections, &LOG_TABLES).await
    }
}

pub(crate) async fn size(connections: &Connections, tables: &[&str]) -> Result<StoreSize> {
    let read = || async {
        let rows: Vec<(String, i64, i64)> = connections
            .all(sqlx::query_as(SIZES))
            .await
            .map_err(|error| classify(error, "read the sizes of tables"))?;
        let own = rows.into_iter().filter_map(|(name, rows, bytes)| {
            let table = tables.iter().find(|table| name.strip_prefix("retell_") == Some(**table))?;
            Some((*table, rows, bytes))
        });
        let size = |(table, rows, bytes)| {
            let (rows, bytes) = (from_sql(rows, "count")?, from_sql(bytes, "size")?);
            Ok(TableSize::new(table, rows, RowCount::Estimate, Some(bytes)))
        };
        let tables = own.map(size).collect::<Result<Vec<_>>>()?;
        let bytes = tables.iter().filter_map(|table| table.bytes).sum();
        Ok(StoreSize::new(tables, Some(bytes)))
    };
    connections.repeat("read the sizes of tables", read).await
}

const SIZES: &str = "
    SELECT CONVERT(table_name USING utf8mb4), CAST(COALESCE(table_rows, 0) AS SIGNED),
        CAST(COALESCE(data_length, 0) + COALESCE(index_length, 0) AS SIGNED)
    FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name LIKE 'retell\\_%'";
