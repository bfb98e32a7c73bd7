//! Connections to a file, each used by one call at a time.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, ErrorKind, Result};
use crate::store::sqlite::convert::to_sql;
use crate::store::sqlite::error::Failure;
use crate::store::sqlite::migrate;
use crate::store::sqlite::options::{SqliteOptions, Synchronous};

/// Prepared statements a connection keeps: all of ours and a projection's dozens.
const CACHED_STATEMENTS: usize = 64;

/// The pages that SQLite keeps in memory, where the program has set no limit.
const CACHE_BYTES: i64 = 64 * 1024 * 1024;

/// Where the database lives.
#[derive(Debug, Clone)]
pub(crate) enum Location {
    File(PathBuf),
    Memory,
}

/// A fixed number of connections, each used by one call at a time on a blocking thread.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    size: u32,
}

impl Pool {
    /// One writer and the readers, after the file is migrated. A database in memory has one connection for both.
    pub(crate) async fn open(location: Location, options: SqliteOptions) -> Result<(Arc<Self>, Arc<Self>)> {
        blocking(move || {
            let mut writer = connect(&location, &options)?;
            if options.read_only {
                migrate::check(&writer)?;
            } else {
                migrate::apply(&mut writer)?;
            }
            let writers = Arc::new(Self::of(vec![writer]));
            let readers = match &location {
                Location::Memory => writers.clone(),
                Location::File(_) => {
                    let options = SqliteOptions { read_only: true, ..options };
                    let readers = (0..options.readers).map(|_| connect(&location, &options));
                    Arc::new(Self::of(readers.collect::<Result<_, _>>()?))
                }
            };
            Ok((writers, readers))
        })
        .await?
        .map_err(|failure: Failure| failure.to("open the database"))
    }

    fn of(connections: Vec<Connection>) -> Self {
        let size = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        let permits = Arc::new(Semaphore::new(connections.len()));
        Self { idle: Mutex::new(connections), permits, size }
    }

    /// Runs `work` with a connection of its own. The work runs to its end even if the caller is dropped.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        attempt: &'static str,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| closed())?;
        let pool = self.clone();
        blocking(move || {
            let mut checkout = Checkout { connection: pool.take(), pool, _permit: permit };
            let connection = checkout.connection.as_mut().ok_or_else(|| Failure::from(closed()))?;
            work(connection)
        })
        .await?
        .map_err(|failure| failure.to(attempt))
    }

    /// Waits for the calls under way and closes every connection. Closing twice is fine.
    pub(crate) async fn close(self: &Arc<Self>) -> Result<()> {
        // Only the first call gets the permits; it then owns every connection.
        let Ok(_all) = self.permits.acquire_many(self.size).await else { return Ok(()) };
        self.permits.close();
        let connections = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        blocking(move || connections.into_iter().try_for_each(|db| db.close().map_err(|(_, error)| error)))
            .await?
            .map_err(|error| Failure::from(error).to("close the database"))
    }

    fn take(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

/// Gives the connection back also when the work panics; an open transaction was rolled back by then.
struct Checkout {
    connection: Option<Connection>,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Checkout {
    fn drop(&mut self) {
        self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(self.connection.take());
    }
}

/// Runs on a thread that may block. A panic there goes on here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => Ok(value),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(Error::with_source(ErrorKind::Transient("run: the runtime is shutting down".into()), error)),
    }
}

fn connect(location: &Location, options: &SqliteOptions) -> Result<Connection, Failure> {
    let db = match location {
        Location::File(path) => open_file(path, options.read_only)?,
        Location::Memory => Connection::open_in_memory()?,
    };
    db.busy_timeout(options.busy_timeout)?;
    db.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    if !options.read_only {
        // WAL: readers do not wait for the writer, and a commit is one write and one sync.
        switch_to_wal(&db, options.busy_timeout)?;
        let synchronous = match options.synchronous {
            Synchronous::Full => "FULL",
            Synchronous::Normal => "NORMAL",
        };
        db.pragma_update(None, "synchronous", synchronous)?;
        if let Some(bytes) = options.max_file_bytes {
            let page: u32 = db.pragma_query_value(None, "page_size", |row| row.get(0))?;
            db.pragma_update(None, "max_page_count", to_sql((bytes / u64::from(page)).max(1)))?;
        }
    }
    if let Location::File(_) = location {
        // A negative number counts KiB.
        db.pragma_update(None, "cache_size", -(cache_bytes(&db)? / 1024))?;
    }
    Ok(db)
}

/// Returns the bytes that SQLite may cache in this process, for all connections together. As built by rusqlite they share one cache. A connection
/// that has used up its share takes the oldest pages of others, and once all shares are used up, SQLite drops the pages of the others as soon
/// as they are read: a reader that scans the log would leave the writer without a cache permanently. So each share is the whole limit.
fn cache_bytes(db: &Connection) -> Result<i64, rusqlite::Error> {
    let limit = db.pragma_query_value(None, "soft_heap_limit", |row| row.get(0))?;
    if limit > 0 {
        // The program's own.
        return Ok(limit);
    }
    db.pragma_update_and_check(None, "soft_heap_limit", CACHE_BYTES, |row| row.get(0))
}

/// Processes that switch a new file at the same time hold what the others need, so that SQLite refuses at once where it would wait
/// elsewhere: tried again until the busy timeout is over.
fn switch_to_wal(db: &Connection, timeout: Duration) -> Result<(), rusqlite::Error> {
    let deadline = Instant::now() + timeout;
    // Each process at a pace of its own, so that they do not meet again and again.
    let mut pause = Duration::from_micros(500 + u64::from(std::process::id() % 16) * 100);
    loop {
        match db.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}

fn open_file(path: &Path, read_only: bool) -> Result<Connection, rusqlite::Error> {
    let access = if read_only {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    } else {
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
    };
    // No mutex: a connection is used by one thread at a time. No URI: a path is a path, whatever is in it.
    Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed("the store"))
}
