//! Connections to a file, each used by one call at a time.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, InterruptHandle, OpenFlags};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::store::held::{self, Held, holding_here};
use crate::store::sqlite::convert::to_sql;
use crate::store::sqlite::error::Failure;
use crate::store::sqlite::identity::OpenFiles;
use crate::store::sqlite::migrate;
use crate::store::sqlite::options::{SqliteOptions, Synchronous};

/// The prepared statements that a connection caches: enough for all of this driver and some dozens of a projection.
const CACHED_STATEMENTS: usize = 64;

/// The most bytes of pages that SQLite keeps in memory if the program has set no limit.
const CACHE_BYTES: i64 = 64 * 1024 * 1024;

/// The location of a database.
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
    thread: HandlerThread,
    acquire_timeout: Duration,
    /// The mark of the tasks whose transaction holds the only connection that can serve this pool's calls.
    held: Option<Held>,
    /// The files, which must still be at their paths. `None` for a database in memory.
    files: Option<Arc<OpenFiles>>,
}

impl Pool {
    /// Migrates the file and returns a pool with one writer and a pool of readers. A database in memory has one connection for both.
    pub(crate) async fn open(location: Location, options: SqliteOptions) -> Result<(Arc<Self>, Arc<Self>)> {
        blocking(move || {
            let mut writer = connect(&location, &options)?;
            if !options.migrate {
                migrate::require(&writer)?;
            } else if options.read_only {
                migrate::check(&writer)?;
            } else {
                migrate::apply(&mut writer)?;
            }
            let (held, files) = match &location {
                Location::File(path) => {
                    let held = Held::file(path.canonicalize().unwrap_or_else(|_| path.clone()));
                    (Some(held), OpenFiles::of(path, &writer).map(Arc::new))
                }
                Location::Memory => (None, None),
            };
            let writers = Arc::new(Self::new(vec![writer], &options, files.clone()).held_as(held));
            let readers = match &location {
                Location::Memory => writers.clone(),
                Location::File(_) => {
                    let options = SqliteOptions { read_only: true, ..options };
                    let readers = (0..options.readers).map(|_| connect(&location, &options));
                    Arc::new(Self::new(readers.collect::<Result<_, _>>()?, &options, files))
                }
            };
            Ok((writers, readers))
        })
        .await?
        .map_err(|failure: Failure| failure.to("open the database"))
    }

    fn new(connections: Vec<Connection>, options: &SqliteOptions, files: Option<Arc<OpenFiles>>) -> Self {
        let size = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        let permits = Arc::new(Semaphore::new(connections.len()));
        let (acquire_timeout, thread) = (options.acquire_timeout, HandlerThread::default());
        Self { idle: Mutex::new(connections), permits, size, thread, acquire_timeout, held: None, files }
    }

    /// Makes this a pool of one connection. All writers of a file share a mark; a database in memory has its own.
    fn held_as(mut self, file: Option<Held>) -> Self {
        self.held = Some(file.unwrap_or_else(|| Held::pool(Arc::as_ptr(&self.permits).addr())));
        self
    }

    /// Returns an error if the calling handler runs in a transaction that this pool's call would wait for.
    pub(crate) fn check_free(&self) -> Result<()> {
        if !self.held.as_ref().is_some_and(held::is_held) {
            return Ok(());
        }
        let problem = "a handler uses the SQLite file whose only writing connection its own transaction holds: keep the read model in a \
                       file of its own (`SqliteReadModel::open`)";
        Err(ErrorKind::Invalid(problem.into()).into())
    }

    /// Checks that the files at their paths are those that are open.
    pub(crate) fn check_files(&self) -> Result<()> {
        if self.permits.is_closed() {
            return Err(closed());
        }
        self.files.as_deref().map_or(Ok(()), OpenFiles::check)
    }

    /// Runs `work` with exclusive use of a connection. The work runs to its end even if this future is dropped.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        attempt: &'static str,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T> {
        blocking(self.checked_out(attempt, work).await?).await?.map_err(|failure| failure.to(attempt))
    }

    /// As [`run`](Self::run), for work that calls the program's code: it runs on a thread that does not keep the process from ending.
    pub(crate) async fn run_handler<T: Send + 'static>(
        self: &Arc<Self>,
        attempt: &'static str,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T> {
        let work = self.checked_out(attempt, work).await?;
        self.thread.run(work).await?.map_err(|failure| failure.to(attempt))
    }

    /// Waits for a free connection. Returns the function that takes it and does the work.
    async fn checked_out<T, W: FnOnce(&mut Connection) -> Result<T, Failure>>(
        self: &Arc<Self>,
        attempt: &str,
        work: W,
    ) -> Result<impl FnOnce() -> Result<T, Failure> + use<T, W>> {
        self.check_free()?;
        let Ok(permit) = timeout(self.acquire_timeout, self.permits.clone().acquire_owned()).await else {
            let waited = self.acquire_timeout;
            let problem = format!("{attempt}: other transactions have held the file's connection for {waited:?}");
            return Err(ErrorKind::Transient(problem).into());
        };
        let permit = permit.map_err(|_| closed())?;
        let pool = self.clone();
        Ok(move || {
            let mut checkout = Checkout { connection: pool.take(), pool, _permit: permit };
            let connection = checkout.connection.as_mut().ok_or_else(|| Failure::from(closed()))?;
            let files = checkout.pool.files.as_deref();
            files.map_or(Ok(()), OpenFiles::check_now_and_then)?;
            match checkout.pool.held.clone() {
                // Handlers run inside this work, on this thread.
                Some(held) => {
                    let done = holding_here(held, || work(connection))?;
                    // After the commit and before the answer: what is acknowledged is in the file at the path.
                    files.map_or(Ok(()), OpenFiles::check)?;
                    Ok(done)
                }
                None => work(connection),
            }
        })
    }

    /// Runs `work`, which calls the program's async code through [`AsyncWork::block_on`]. If this future is dropped, that code is dropped, too, and
    /// its statement is interrupted. Otherwise a handler that never returns would keep its connection.
    pub(crate) async fn run_async<T: Send + 'static>(
        self: &Arc<Self>,
        attempt: &'static str,
        work: impl FnOnce(&mut Connection, &AsyncWork) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T> {
        let call = AsyncWork { runtime: Handle::current(), dropped: CancellationToken::new(), running: Arc::default() };
        let _dropped = CallGuard { dropped: call.dropped.clone(), running: call.running.clone() };
        self.run_handler(attempt, move |db| {
            let _running = call.begin(db);
            work(db, &call)
        })
        .await
    }

    /// Waits for the calls under way and closes every connection. Closing twice is fine.
    pub(crate) async fn close(self: &Arc<Self>) -> Result<()> {
        // Only the first call gets the permits; it then owns every connection.
        let Ok(_all) = self.permits.acquire_many(self.size).await else { return Ok(()) };
        self.permits.close();
        let connections = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        let pool = self.clone();
        let close = move |db: Connection| {
            pool.keep_other_file(&db)?;
            db.close().map_err(|(_, error)| error)
        };
        blocking(move || connections.into_iter().try_for_each(close))
            .await?
            .map_err(|error| Failure::from(error).to("close the database"))
    }

    fn take(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Prepares a connection for its end. The last one copies the write-ahead log into the database file. If another file was copied over that one,
    /// this would write commits of the previous file into it.
    fn keep_other_file(&self, db: &Connection) -> Result<(), rusqlite::Error> {
        if self.files.as_deref().is_some_and(|files| files.check().is_err()) {
            db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        }
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for db in std::mem::take(self.idle.get_mut().unwrap_or_else(PoisonError::into_inner)) {
            // Nothing can be done about a setting that is refused.
            drop(self.keep_other_file(&db));
        }
    }
}

/// A thread for handlers. A handler may block it forever: unlike a thread of the runtime, it then does not keep the process from ending. It ends
/// with its pool.
#[derive(Debug, Default)]
struct HandlerThread(OnceLock<mpsc::Sender<Box<dyn FnOnce() + Send>>>);

impl HandlerThread {
    /// Runs `work` after the work that waits already. Its panic continues in the caller.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (sender, done) = oneshot::channel();
        let work = Box::new(move || drop(sender.send(catch_unwind(AssertUnwindSafe(work)))));
        let ended = || Error::new(ErrorKind::Backend("start a thread for handlers".into()));
        self.0.get_or_init(Self::start).send(work).map_err(|_| ended())?;
        done.await.map_err(|_| ended())?.map_err(|panic| resume_unwind(panic))
    }

    fn start() -> mpsc::Sender<Box<dyn FnOnce() + Send>> {
        let (sender, waiting) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let run = move || waiting.into_iter().for_each(|work| work());
        // Without a thread, the channel is closed, and each call is an error.
        drop(thread::Builder::new().name("retell-handlers".into()).spawn(run));
        sender
    }
}

/// A call that runs the program's async code on a blocking thread.
pub(crate) struct AsyncWork {
    runtime: Handle,
    /// Canceled when the call is dropped.
    dropped: CancellationToken,
    running: Arc<Interrupt>,
}

impl AsyncWork {
    /// Runs `work` to its end, or until the call is dropped.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let done = self.runtime.block_on(self.dropped.run_until_cancelled(work));
        done.ok_or_else(|| Error::new(ErrorKind::Transient("run a handler: its call was dropped".into())).into())
    }

    fn begin(&self, db: &Connection) -> Running<'_> {
        lock(&self.running).replace(db.get_interrupt_handle());
        Running(&self.running)
    }
}

/// The interrupt handle of a connection, while a call uses it.
type Interrupt = Mutex<Option<InterruptHandle>>;

fn lock(interrupt: &Interrupt) -> MutexGuard<'_, Option<InterruptHandle>> {
    interrupt.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the interrupt handle when the work ends: after that, another call may use the connection.
struct Running<'c>(&'c Interrupt);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(self.0).take();
    }
}

/// Ends the work of a call that is dropped.
struct CallGuard {
    dropped: CancellationToken,
    running: Arc<Interrupt>,
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.dropped.cancel();
        if let Some(statement) = &*lock(&self.running) {
            statement.interrupt();
        }
    }
}

/// Returns the connection to the pool when dropped, even if the work panics. An open transaction was rolled back before that.
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

/// Runs `work` on a thread that may block. A panic of the work continues in the caller.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => Ok(value),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => {
            Err(Error::with_source(ErrorKind::Transient("run a task: the runtime is shutting down".into()), error))
        }
    }
}

fn connect(location: &Location, options: &SqliteOptions) -> Result<Connection, Failure> {
    let db = match location {
        Location::File(path) if !options.migrate && !path.exists() => return Err(migrate::missing(0)),
        Location::File(path) => open_file(path, options)?,
        Location::Memory => Connection::open_in_memory()?,
    };
    db.busy_timeout(options.busy_timeout)?;
    db.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    if !options.read_only {
        if options.migrate {
            // With WAL, readers do not wait for the writer, and a commit is one write and one sync. A file keeps the mode.
            switch_to_wal(&db, options.busy_timeout)?;
        }
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
        // A negative size is in KiB.
        db.pragma_update(None, "cache_size", -(cache_bytes(&db)? / 1024))?;
    }
    Ok(db)
}

/// Returns the bytes that SQLite may cache in this process, for all connections together. In rusqlite's build of SQLite the connections share one
/// cache. A connection that has used up its share takes the oldest pages of the others. Once all shares are used up, SQLite drops the other
/// connections' pages as soon as they are read, so a reader that scans the log would leave the writer without a cache permanently. Therefore
/// each connection's share is the whole limit.
fn cache_bytes(db: &Connection) -> Result<i64, rusqlite::Error> {
    let limit = db.pragma_query_value(None, "soft_heap_limit", |row| row.get(0))?;
    if limit > 0 {
        // The program has set this limit.
        return Ok(limit);
    }
    db.pragma_update_and_check(None, "soft_heap_limit", CACHE_BYTES, |row| row.get(0))
}

/// Switches a file to WAL and retries until the busy timeout ends. Processes that switch a new file at the same time hold locks that the others
/// need, and SQLite then refuses at once instead of waiting.
fn switch_to_wal(db: &Connection, timeout: Duration) -> Result<(), rusqlite::Error> {
    let deadline = Instant::now() + timeout;
    // Each process retries at a different pace, so that two processes do not collide repeatedly.
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

fn open_file(path: &Path, options: &SqliteOptions) -> Result<Connection, rusqlite::Error> {
    let access = if options.read_only {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    } else if !options.migrate {
        OpenFlags::SQLITE_OPEN_READ_WRITE
    } else {
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
    };
    // No mutex, because one thread at a time uses a connection. No URI, so every path is taken literally.
    Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed("the store"))
}
