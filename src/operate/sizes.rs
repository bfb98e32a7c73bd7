//! How large the tables of a log and of its read models are.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::store::log::reader::EventReader;
use crate::store::model::read_model::ReadModel;
use crate::store::size::StoreSize;

/// The sizes of a log and its read models: the answer of [`sizes`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sizes {
    /// The tables of the log; `None` if the store does not know.
    pub log: Option<StoreSize>,
    /// The tables of the read models; `None` if the read model does not know.
    pub models: Option<StoreSize>,
}

impl Sizes {
    /// Returns the number of rows of a table; `None` if it is unknown.
    pub fn rows(&self, table: &str) -> Option<u64> {
        let stores = self.log.iter().chain(&self.models);
        stores.flat_map(|store| &store.tables).find(|size| size.table == table).map(|size| size.rows)
    }
}

/// Returns how large the tables of a log and of its read models are.
///
/// A server answers from its statistics, without reading the tables, so the numbers of rows are estimates. SQLite has no statistics: rows are
/// counted up to 100,000 for each table, and bytes are those of the file.
///
/// # Examples
/// ```
/// use retell::operate;
/// use retell::prelude::*;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// let sizes = operate::sizes(&log, &log.read_model()).await?;
/// assert_eq!((sizes.rows("keys"), sizes.rows("inbox"), sizes.rows("other")), (Some(0), Some(0), None));
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// A [read error](crate::Error#read-errors).
pub async fn sizes<L, M>(log: &L, models: &M) -> Result<Sizes>
where
    L: EventReader + ?Sized,
    M: ReadModel + ?Sized,
{
    Ok(Sizes { log: log.size().await?, models: models.size().await? })
}
