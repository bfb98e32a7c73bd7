//! What an operator asks of a log.

use std::path::Path;

use rusqlite::Connection;

use crate::error::{Error, Result};
use crate::id::{Position, ProjectionName};
use crate::store::sqlite::convert::position_from_sql;
use crate::store::sqlite::error::Failure;
use crate::store::sqlite::log::read;

/// How a log is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The last position given out. Here an append gives out its positions itself: none ever waits for one.
    pub head: Position,
    /// The projections whose read models lie in the log's own file, and how many positions each is behind. A generation of a view
    /// that is being deleted is not listed. Of a read model in a file of
    /// its own, [`SqliteReadModel::behind`](crate::store::sqlite::SqliteReadModel::behind) knows it.
    pub projections: Vec<(ProjectionName, u64)>,
    /// Bytes of the log's file.
    pub file_bytes: u64,
    /// Bytes of the file beside it, `-wal`, in which commits wait to be carried over. More than some MiB for more than a moment: somebody
    /// keeps a read transaction open.
    pub wal_bytes: u64,
}

pub(crate) fn health(db: &mut Connection) -> Result<Health, Failure> {
    // One snapshot: a projection is never ahead of the head it is measured by.
    let tx = db.transaction()?;
    let head = read::head(&tx)?;
    let (path, wal) = (tx.path().map(str::to_owned), tx.path().map(|path| format!("{path}-wal")));
    Ok(Health { head, projections: behind(&tx, head)?, file_bytes: bytes(path), wal_bytes: bytes(wal) })
}

/// The projections of a file, by name, and how far each is behind a log's head.
pub(crate) fn behind(db: &Connection, head: Position) -> Result<Vec<(ProjectionName, u64)>, Failure> {
    let mut checkpoints = db.prepare_cached(CHECKPOINTS)?;
    let mut rows = checkpoints.query([])?;
    let mut behind = Vec::new();
    while let Some(row) = rows.next()? {
        let name = ProjectionName::new(row.get::<_, String>(0)?).map_err(Error::from)?;
        behind.push((name, head.since(position_from_sql(row.get(1)?)?)));
    }
    Ok(behind)
}

/// None for a database in memory, and where there is no such file now.
fn bytes(path: Option<String>) -> u64 {
    let file = path.filter(|path| !path.is_empty()).and_then(|path| Path::new(&path).metadata().ok());
    file.map_or(0, |file| file.len())
}

const CHECKPOINTS: &str = "
    SELECT projection, position FROM retell_checkpoints WHERE state <> 'deleting' ORDER BY projection";
