//! Reads the health of a log.

use std::path::Path;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension};

use crate::error::{Error, Result};
use crate::id::{Position, ProjectionName};
use crate::store::log::clock::far_ahead;
use crate::store::sqlite::convert::position_from_sql;
use crate::store::sqlite::error::Failure;
use crate::store::sqlite::log::read;

/// The health of a log.
///
/// # Examples
/// ```
/// use retell::prelude::*;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let health = SqliteStore::in_memory().await?.health().await?;
/// for (projection, behind) in &health.projections {
///     println!("{projection} is {behind} positions behind {}", health.head);
/// }
/// if health.wal_bytes > 64 * 1024 * 1024 {
///     println!("a process keeps a read transaction open");
/// }
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The last position in the log. In SQLite an append assigns its positions in its own commit, so no event waits for one.
    pub head: Position,
    /// The time of the newest event if it is more than a minute ahead of this process's clock. One of the two clocks is, or was, wrong: events
    /// appended later have the right time again, but a deadline that counts from this event comes late.
    pub future_event: Option<DateTime<Utc>>,
    /// The projections whose read models are in the log's own file, and how many positions each is behind. A generation of a view that is being
    /// deleted, and a retired projection, are not listed. For read models in a separate file, call
    /// [`SqliteReadModel::behind`](crate::store::sqlite::SqliteReadModel::behind).
    pub projections: Vec<(ProjectionName, u64)>,
    /// The size of the log's file in bytes.
    pub file_bytes: u64,
    /// The size in bytes of the `-wal` file, where commits wait until SQLite copies them into the log's file. If it stays above a few MiB, some
    /// process keeps a read transaction open.
    pub wal_bytes: u64,
}

pub(crate) fn health(db: &mut Connection) -> Result<Health, Failure> {
    // One snapshot for both, so that no projection is ahead of the head.
    let tx = db.transaction()?;
    let head = read::head(&tx)?;
    let (path, wal) = (tx.path().map(str::to_owned), tx.path().map(|path| format!("{path}-wal")));
    let newest: Option<i64> = tx.prepare_cached(NEWEST_TIME)?.query_row([], |row| row.get(0)).optional()?;
    let future_event = newest.and_then(DateTime::from_timestamp_micros).and_then(far_ahead);
    Ok(Health { head, future_event, projections: behind(&tx, head)?, file_bytes: bytes(path), wal_bytes: bytes(wal) })
}

/// Returns the projections of a file, by name, and how many positions each is behind `head`.
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

/// Returns the size of a file, or 0 for a database in memory or a file that does not exist.
pub(super) fn bytes(path: Option<String>) -> u64 {
    let file = path.filter(|path| !path.is_empty()).and_then(|path| Path::new(&path).metadata().ok());
    file.map_or(0, |file| file.len())
}

const NEWEST_TIME: &str = "SELECT recorded_at FROM retell_events ORDER BY position DESC LIMIT 1";

const CHECKPOINTS: &str = "
    SELECT projection, position FROM retell_checkpoints WHERE state <> 'deleting' AND retired = 0 ORDER BY projection";
