//! Connections for the drivers of database servers: from a pool of sqlx, or reused directly after another call.
//!
//! An sqlx pool pings a connection when it is returned, and this round trip costs as much as a quick statement. Therefore a connection stays
//! cached here for [`MAX_IDLE`] after a call and is returned to the pool if no other call uses it. If the pool has no other connection to
//! give, the connection is returned immediately. A caller that finds the pool exhausted just before that waits at most twice [`MAX_IDLE`].
//!
//! The server may end a session, and the network may lose it without a sign, while no call uses it. Therefore a connection that was unused
//! for [`TRUSTED`] is asked before its next use, and replaced if it does not answer. Nothing here waits for a connection without a limit, also
//! not to return or to close it: a connection in doubt is dropped, which closes its socket.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::query::{Query, QueryAs};
use sqlx::{Connection, Database, Executor, FromRow, IntoArguments, Pool, SqlSafeStr, Transaction};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::error::{Error, ErrorKind, Result, chain};
use crate::store::held::{self, Held};
use crate::store::server::limits::Limits;

/// An unused connection is returned to the pool after this time.
const MAX_IDLE: Duration = Duration::from_millis(20);

/// A connection is returned to the pool after this time even if calls use it constantly, because the pool closes connections that are too
/// old.
const MAX_KEPT: Duration = Duration::from_secs(1);

/// A connection that was used within this time is used again without asking: the question is a round trip, and a busy program would pay it
/// for each call.
const TRUSTED: Duration = Duration::from_millis(5);

/// The longest wait for the answer of an idle connection. A new connection costs less than a longer wait.
const MAX_ANSWER: Duration = Duration::from_secs(1);

/// The longest wait for a connection after an earlier call got none. Meanwhile [`Prober`] waits for the server as long as it takes.
const OUTAGE_WAIT: Duration = Duration::from_millis(250);

/// A server that refuses writes on a connection as new as this one is read-only itself, and another connection would not help.
const READ_ONLY_AGAIN: Duration = Duration::from_secs(1);

/// A database server of a driver.
pub(crate) trait Server: Database {
    /// The statement that begins a transaction, if it is not `BEGIN`.
    const BEGIN: Option<&'static str>;

    /// Whether the driver can use a connection on which a call was dropped half-way.
    const RECOVERS: bool;

    /// Returns the effect of an error on its session.
    fn fault(error: &sqlx::Error) -> Fault;
}

/// The effect of an error on its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The session has ended. A statement in it may or may not have been executed.
    Ended,
    /// The session is read-only, so the statement was not executed.
    ReadOnly,
    /// The session is not at fault.
    Other,
}

impl Fault {
    /// Returns whether a transaction whose handler has not run yet may succeed in another session.
    pub(crate) fn may_pass<DB: Server, T>(result: &Result<T>) -> bool {
        result.as_ref().is_err_and(|error| Self::of::<DB>(error) != Self::Other)
    }

    /// Returns the effect of `error` on its session, by the first error of the database in its chain.
    pub(crate) fn of<DB: Server>(error: &Error) -> Self {
        let cause = chain(error).find_map(|cause| cause.downcast_ref::<sqlx::Error>());
        cause.map_or(Self::Other, DB::fault)
    }
}

/// Returns whether a connection was lost, as opposed to silent.
pub(crate) fn is_lost(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::ConnectionRefused)
}

/// The connections of a driver to its server.
pub(crate) struct Connections<DB: Server> {
    pool: Pool<DB>,
    limits: Limits,
    shared: Arc<Shared<DB>>,
}

/// The state that the clones of [`Connections`] share.
struct Shared<DB: Server> {
    cache: Mutex<Cache<DB>>,
    /// The number of answers from the server. A caller that gets no connection compares it, to tell a busy server from one that is down.
    answers: AtomicU64,
    /// Whether the last caller that waited for a connection got none, and no answer has come since.
    is_down: AtomicBool,
    /// Permits for transactions that run handlers, see [`Connections::turn`].
    turns: Arc<Semaphore>,
}

impl<DB: Server> Connections<DB> {
    pub(crate) fn of(pool: Pool<DB>, limits: Limits) -> Self {
        // Handlers may use a quarter of the connections, at least one, while transactions that run handlers hold all others.
        let connections = usize::try_from(pool.options().get_max_connections()).unwrap_or(Semaphore::MAX_PERMITS);
        let turns = (connections - (connections / 4).max(1).min(connections)).clamp(1, Semaphore::MAX_PERMITS);
        let shared = Shared {
            cache: Mutex::new(Cache::default()),
            answers: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
            turns: Arc::new(Semaphore::new(turns)),
        };
        Self { pool, limits, shared: Arc::new(shared) }
    }

    /// Returns connections of their own to the same database, with the same settings: at least two, and as many as these.
    pub(crate) fn apart(&self) -> Self {
        let options: PoolOptions<DB> = self.pool.options().clone();
        let connections = options.get_max_connections().max(2);
        // Connects with the first call, so a program that never uses them pays nothing.
        let options = options.max_connections(connections).min_connections(0);
        Self::of(options.connect_lazy_with((*self.pool.connect_options()).clone()), self.limits)
    }

    /// Returns the pool, for callers of the library.
    pub(crate) fn pool(&self) -> &Pool<DB> {
        &self.pool
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Runs a call within the limit. `attempt` completes "cannot ..".
    pub(crate) async fn call<T>(&self, attempt: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.limits.call(attempt, call).await
    }

    /// Runs a call that may be repeated, and repeats it once if its session had ended or had become read-only. Each run has the limit.
    /// `attempt` completes "cannot ..".
    pub(crate) async fn repeat<T, F: Future<Output = Result<T>>>(
        &self,
        attempt: &str,
        mut call: impl FnMut() -> F,
    ) -> Result<T> {
        match self.call(attempt, call()).await {
            Err(error) if Fault::of::<DB>(&error) != Fault::Other => self.call(attempt, call()).await,
            result => result,
        }
    }

    /// Waits for the turn of a transaction that runs handlers. The turns leave some connections to the handlers, and to short calls. Turns have
    /// no time limit: the transactions before this one end by their own limits.
    pub(crate) async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        self.shared.turns.clone().acquire_owned().await.map_err(|_| ErrorKind::Closed("the store").into())
    }

    /// Returns the mark for the tasks that run handlers within a transaction on these connections.
    pub(crate) fn held(&self) -> Held {
        // All handles of a pool share its settings.
        Held::pool(Arc::as_ptr(&self.pool.connect_options()).addr())
    }

    /// Returns an error if the calling handler runs in a transaction that occupies the pool's only connection.
    pub(crate) fn check_free(&self) -> Result<()> {
        if self.pool.options().get_max_connections() > 1 || !held::is_held(&self.held()) {
            return Ok(());
        }
        let problem = "a handler needs a second connection of a pool that has one, which its transaction occupies: give the pool two \
                       connections, or the read model a pool of its own (`read_model()` of a store has one)";
        Err(ErrorKind::Invalid(problem.into()).into())
    }

    /// Leases a connection for one call.
    pub(crate) async fn lease(&self) -> Result<Lease<DB>, sqlx::Error> {
        let (connection, acquired_at) = match self.cached().await {
            Some(cached) => (cached.connection, cached.acquired_at),
            None => (self.acquire().await?, Instant::now()),
        };
        Ok(Lease { connection: Some(connection), acquired_at, reuse: Reuse::Suspect, connections: self.clone() })
    }

    /// Returns a connection that an earlier call has left, if there is one and it answers.
    async fn cached(&self) -> Option<CachedConnection<DB>> {
        let cached = if self.pool.is_closed() { None } else { self.shared.lock().unused.pop() }?;
        if cached.unused_since.elapsed() < TRUSTED {
            return Some(cached);
        }
        let CachedConnection { connection, acquired_at, unused_since } = cached;
        let answering = Asked::ask(connection).await;
        if answering.is_none() {
            self.discard_idle();
        }
        answering.map(|connection| CachedConnection { connection, acquired_at, unused_since })
    }

    /// Acquires a connection from the pool that answers.
    pub(crate) async fn acquire(&self) -> Result<PoolConnection<DB>, sqlx::Error> {
        self.check_free().map_err(|error| sqlx::Error::Configuration(error.into()))?;
        let answers_before = self.shared.answers.load(Ordering::Relaxed);
        let is_down = self.shared.is_down.load(Ordering::Relaxed);
        let deadline = Instant::now() + if is_down { OUTAGE_WAIT.min(self.limits.wait) } else { self.limits.wait };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // If the pool has no unused connection, the connection will be new, or another call has just used it.
            let is_idle = self.pool.num_idle() > 0;
            let tests_itself = self.pool.options().get_test_before_acquire();
            let wait = if is_idle { MAX_ANSWER.min(left) } else { left };
            match timeout(wait, self.pool.acquire()).await {
                Ok(Ok(connection)) if is_idle && !tests_itself => {
                    if let Some(connection) = Asked::ask(connection).await {
                        return Ok(connection);
                    }
                }
                // The pool may be asking a connection that does not answer.
                Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) if is_idle && wait < left => {}
                Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => break,
                Ok(acquired) => return acquired,
            }
            // The others are probably lost too.
            self.discard_idle();
        }
        if self.shared.answers.load(Ordering::Relaxed) == answers_before {
            self.shared.is_down.store(true, Ordering::Relaxed);
            self.probe();
        }
        Err(sqlx::Error::PoolTimedOut)
    }

    /// Starts the task that waits for the server to come back, unless it is running.
    fn probe(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        let mut cache = self.shared.lock();
        if cache.prober.as_ref().is_none_or(JoinHandle::is_finished) {
            let (pool, shared, wait) = (self.pool.clone(), Arc::downgrade(&self.shared), self.limits.wait);
            cache.prober = Some(runtime.spawn(async move {
                // The connection goes to the pool, where the next call finds it.
                if let Ok(Ok(connection)) = timeout(wait, pool.acquire()).await {
                    give_back(connection);
                    if let Some(shared) = shared.upgrade() {
                        shared.is_down.store(false, Ordering::Relaxed);
                    }
                }
            }));
        }
    }

    /// Closes all connections that no call uses.
    fn discard_idle(&self) {
        let cached = std::mem::take(&mut self.shared.lock().unused);
        for cached in cached {
            discard(cached.connection);
        }
        while let Some(idle) = self.pool.try_acquire() {
            discard(idle);
        }
    }

    /// Waits for the calls in flight, then closes the pool. A call in flight ends within the limit, so this does, too.
    pub(crate) async fn close(&self) {
        let (reaper, prober) = {
            let mut cache = self.shared.lock();
            (cache.reaper.take(), cache.prober.take())
        };
        for task in [reaper, prober].into_iter().flatten() {
            task.abort();
            // The task has no result. However it ended, it returned the cached connections to the pool.
            drop(task.await);
        }
        // After the limit, connections that the caller has taken from the pool stay open until it drops them.
        drop(timeout(self.limits.call + MAX_ANSWER, self.pool.close()).await);
    }

    fn keep(&self, connection: PoolConnection<DB>, acquired_at: Instant) {
        let pool = &self.pool;
        let spare = pool.num_idle() > 0 || pool.size() < pool.options().get_max_connections();
        let Ok(runtime) = Handle::try_current() else { return discard(connection) };
        let is_stale = self.shared.lock().read_only_since.is_some_and(|since| acquired_at < since);
        if is_stale {
            return discard(connection);
        }
        if !spare || pool.is_closed() || acquired_at.elapsed() >= MAX_KEPT {
            return give_back(connection);
        }
        let needs_reaper =
            self.shared.lock().put(CachedConnection { connection, acquired_at, unused_since: Instant::now() });
        if needs_reaper {
            // Spawn without holding the lock: a runtime that shuts down drops the task immediately, and the drop takes the lock.
            let reaper = runtime.spawn(Reaper(self.shared.clone()).run());
            self.shared.lock().reaper = Some(reaper);
        }
    }

    /// Notes that a session acquired at `acquired_at` is read-only. Returns whether other sessions may not be: the connection is then older
    /// than the last such note, or that was long ago.
    fn note_read_only(&self, acquired_at: Instant) -> bool {
        {
            let mut cache = self.shared.lock();
            match cache.read_only_since {
                Some(since) if acquired_at < since => return true,
                Some(since) if since.elapsed() < READ_ONLY_AGAIN => return false,
                _ => cache.read_only_since = Some(Instant::now()),
            }
        }
        // A demoted primary keeps its sessions read-only, while new sessions reach the new primary.
        self.discard_idle();
        true
    }
}

/// A connection that is being asked whether it answers. If the caller is dropped before the answer, the connection is closed: the answer
/// would be taken for the answer to the next statement.
struct Asked<DB: Database>(Option<PoolConnection<DB>>);

impl<DB: Database> Asked<DB> {
    /// Returns the connection if the server answers on it, and closes it otherwise.
    async fn ask(connection: PoolConnection<DB>) -> Option<PoolConnection<DB>> {
        let mut asked = Self(Some(connection));
        let ping = asked.0.as_mut()?.ping();
        let is_answered = timeout(MAX_ANSWER, ping).await.is_ok_and(|answer| answer.is_ok());
        if is_answered { asked.0.take() } else { None }
    }
}

impl<DB: Database> Drop for Asked<DB> {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            discard(connection);
        }
    }
}

/// Closes a connection without a goodbye, which a connection in doubt might never send.
fn discard<DB: Database>(connection: PoolConnection<DB>) {
    drop(connection.detach());
}

/// Returns a connection to the pool. The pool asks whether it answers; a connection that does not would occupy its place in the pool.
fn give_back<DB: Database>(mut connection: PoolConnection<DB>) {
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(timeout(MAX_ANSWER, connection.return_to_pool()))),
        Err(_) => discard(connection),
    }
}

/// Calls that consist of one statement.
impl<DB: Server> Connections<DB>
where
    DB::Arguments: IntoArguments<DB>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    /// Runs a statement that returns no rows.
    pub(crate) async fn execute(&self, query: Query<'_, DB, DB::Arguments>) -> Result<(), sqlx::Error> {
        let mut lease = self.lease().await?;
        let done = self.limits.statements(query.execute(&mut *lease)).await;
        lease.end(done).map(drop)
    }

    /// Runs a statement and returns its rows as they are.
    pub(crate) async fn rows(&self, query: Query<'_, DB, DB::Arguments>) -> Result<Vec<DB::Row>, sqlx::Error> {
        let mut lease = self.lease().await?;
        let rows = self.limits.statements(query.fetch_all(&mut *lease)).await;
        lease.end(rows)
    }

    /// Runs a statement and returns its only row, if there is one.
    pub(crate) async fn optional<T>(&self, query: QueryAs<'_, DB, T, DB::Arguments>) -> Result<Option<T>, sqlx::Error>
    where
        T: Send + Unpin + for<'r> FromRow<'r, DB::Row>,
    {
        let mut lease = self.lease().await?;
        let row = self.limits.statements(query.fetch_optional(&mut *lease)).await;
        lease.end(row)
    }

    /// Runs a statement and returns its only row.
    pub(crate) async fn one<T>(&self, query: QueryAs<'_, DB, T, DB::Arguments>) -> Result<T, sqlx::Error>
    where
        T: Send + Unpin + for<'r> FromRow<'r, DB::Row>,
    {
        self.optional(query).await?.ok_or(sqlx::Error::RowNotFound)
    }

    /// Runs a statement and returns all of its rows.
    pub(crate) async fn all<T>(&self, query: QueryAs<'_, DB, T, DB::Arguments>) -> Result<Vec<T>, sqlx::Error>
    where
        T: Send + Unpin + for<'r> FromRow<'r, DB::Row>,
    {
        let mut lease = self.lease().await?;
        let rows = self.limits.statements(query.fetch_all(&mut *lease)).await;
        lease.end(rows)
    }
}

impl<DB: Server> Clone for Connections<DB> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), limits: self.limits, shared: self.shared.clone() }
    }
}

impl<DB: Server> fmt::Debug for Connections<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connections").field(&self.pool).finish()
    }
}

/// A connection for one call. If the call is dropped or does not reach [`end`](Self::end), the state of the connection is unknown.
pub(crate) struct Lease<DB: Server> {
    /// Always `Some` until the lease is dropped.
    connection: Option<PoolConnection<DB>>,
    acquired_at: Instant,
    reuse: Reuse,
    connections: Connections<DB>,
}

/// Whether another call may use a leased connection.
#[derive(Debug, PartialEq)]
enum Reuse {
    /// The last call got its complete answer, so the next call may use the connection directly.
    Keep,
    /// The server has sent its complete answer, but the session may have ended. The pool checks the connection.
    ReturnToPool,
    /// An answer may still be in flight.
    Suspect,
}

impl<DB: Server> Lease<DB> {
    /// Ends the call with its `result`, which determines whether the connection can be reused.
    ///
    /// After a complete answer the next call can use the connection. After an error of the server it can, too, unless the error ended the
    /// session, so the pool checks the connection first. Any other error, such as a row that cannot be decoded, may have occurred in the
    /// middle of an answer.
    pub(crate) fn end<T>(mut self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        match &result {
            Ok(_) | Err(sqlx::Error::RowNotFound) => self.answered(Reuse::Keep),
            Err(error @ sqlx::Error::Database(_)) => self.failed(DB::fault(error)),
            Err(_) => {}
        }
        result
    }

    /// Ends a call of several statements with its `result`. If the call failed, it has dropped its transaction.
    pub(crate) fn finish<T>(mut self, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.answered(Reuse::Keep),
            // The pool's question also carries the rollback. The MySQL driver of sqlx cannot tell whether an answer is still in flight.
            Err(error) if DB::RECOVERS || Fault::of::<DB>(error) != Fault::Other => self.failed(Fault::of::<DB>(error)),
            Err(_) => {}
        }
        result
    }

    /// Notes that this session is read-only although the store was opened for writing. Returns whether other sessions may not be, and then this
    /// connection is not used again.
    #[cfg(feature = "postgres")]
    pub(crate) fn is_read_only(&mut self) -> bool {
        self.connections.note_read_only(self.acquired_at)
    }

    fn failed(&mut self, fault: Fault) {
        match fault {
            Fault::Other => self.answered(Reuse::ReturnToPool),
            Fault::ReadOnly if !self.connections.note_read_only(self.acquired_at) && DB::RECOVERS => {
                self.answered(Reuse::ReturnToPool);
            }
            Fault::ReadOnly | Fault::Ended => {}
        }
    }

    fn answered(&mut self, reuse: Reuse) {
        self.reuse = reuse;
        let shared = &self.connections.shared;
        shared.answers.fetch_add(1, Ordering::Relaxed);
        if shared.is_down.load(Ordering::Relaxed) {
            shared.is_down.store(false, Ordering::Relaxed);
        }
    }

    /// Begins a transaction.
    pub(crate) fn begin(&mut self) -> BoxFuture<'_, Result<Transaction<'_, DB>, sqlx::Error>> {
        let limits = self.connections.limits;
        match DB::BEGIN.map(SqlSafeStr::into_sql_str) {
            None => limits.statements(Connection::begin(&mut **self)).boxed(),
            Some(begin) => limits.statements(Connection::begin_with(&mut **self, begin)).boxed(),
        }
    }
}

impl<DB: Server> Deref for Lease<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        self.connection.as_ref().expect(HAS_CONNECTION)
    }
}

impl<DB: Server> DerefMut for Lease<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.connection.as_mut().expect(HAS_CONNECTION)
    }
}

impl<DB: Server> Drop for Lease<DB> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        match self.reuse {
            Reuse::Keep => self.connections.keep(connection, self.acquired_at),
            Reuse::ReturnToPool => give_back(connection),
            // An answer may never come. Even if it does, the MySQL driver of sqlx cannot resynchronize with the protocol.
            Reuse::Suspect => discard(connection),
        }
    }
}

impl<DB: Server> fmt::Debug for Lease<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("reuse", &self.reuse).finish_non_exhaustive()
    }
}

// Only `drop` takes the connection out.
const HAS_CONNECTION: &str = "a lease owns its connection until it is dropped";

/// The cached connections, and the task that returns them to the pool.
struct Cache<DB: Server> {
    /// A stack: the most recently used connection is reused first.
    unused: Vec<CachedConnection<DB>>,
    has_reaper: bool,
    reaper: Option<JoinHandle<()>>,
    prober: Option<JoinHandle<()>>,
    /// The time of the last error that a session is read-only. Older connections are not used again.
    read_only_since: Option<Instant>,
}

impl<DB: Server> Default for Cache<DB> {
    fn default() -> Self {
        Self { unused: Vec::new(), has_reaper: false, reaper: None, prober: None, read_only_since: None }
    }
}

impl<DB: Server> Cache<DB> {
    /// Caches a connection. Returns whether the caller must start the reaper.
    fn put(&mut self, unused: CachedConnection<DB>) -> bool {
        self.unused.push(unused);
        !std::mem::replace(&mut self.has_reaper, true)
    }
}

struct CachedConnection<DB: Server> {
    connection: PoolConnection<DB>,
    /// The time when the pool handed the connection out.
    acquired_at: Instant,
    unused_since: Instant,
}

impl<DB: Server> Shared<DB> {
    fn lock(&self) -> MutexGuard<'_, Cache<DB>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that returns unused connections to the pool. When its runtime shuts down, it is dropped and returns all of them, because later
/// there is no runtime to do so.
struct Reaper<DB: Server>(Arc<Shared<DB>>);

impl<DB: Server> Reaper<DB> {
    async fn run(self) {
        loop {
            tokio::time::sleep(MAX_IDLE).await;
            let mut cache = self.0.lock();
            let is_idle = |unused: &mut CachedConnection<DB>| unused.unused_since.elapsed() >= MAX_IDLE;
            cache.unused.extract_if(.., is_idle).for_each(|unused| give_back(unused.connection));
            if cache.unused.is_empty() {
                return;
            }
        }
    }
}

impl<DB: Server> Drop for Reaper<DB> {
    fn drop(&mut self) {
        let mut cache = self.0.lock();
        cache.has_reaper = false;
        cache.unused.drain(..).for_each(|unused| give_back(unused.connection));
    }
}
