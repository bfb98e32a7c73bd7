//! Connections for the drivers of database servers: from a pool of sqlx, or reused directly after another call.
//!
//! An sqlx pool pings a connection when it is returned, and this round trip costs as much as a quick statement. Therefore a connection stays
//! cached here for [`MAX_IDLE`] after a call and is returned to the pool if no other call uses it. If the pool has no other connection to
//! give, the connection is returned immediately. A caller that finds the pool exhausted just before that waits at most twice [`MAX_IDLE`].

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::query::{Query, QueryAs};
use sqlx::{Database, Executor, FromRow, IntoArguments, Pool};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// An unused connection is returned to the pool after this time.
const MAX_IDLE: Duration = Duration::from_millis(20);

/// A connection is returned to the pool after this time even if calls use it constantly, because the pool closes connections that are too
/// old.
const MAX_KEPT: Duration = Duration::from_secs(1);

/// The connections of a driver to its server.
pub(crate) struct Connections<DB: Database> {
    pool: Pool<DB>,
    cache: Arc<SharedCache<DB>>,
}

impl<DB: Database> Connections<DB> {
    pub(crate) fn of(pool: Pool<DB>) -> Self {
        Self { pool, cache: Arc::default() }
    }

    /// Returns the pool, for callers of the library and for rare statements.
    pub(crate) fn pool(&self) -> &Pool<DB> {
        &self.pool
    }

    /// Leases a connection for one call.
    pub(crate) async fn lease(&self) -> Result<Lease<DB>, sqlx::Error> {
        let cached = if self.pool.is_closed() { None } else { self.cache.lock().unused.pop() };
        let (connection, acquired_at) = match cached {
            Some(cached) => (cached.connection, cached.acquired_at),
            None => (self.pool.acquire().await?, Instant::now()),
        };
        Ok(Lease { connection: Some(connection), acquired_at, reuse: Reuse::Suspect, connections: self.clone() })
    }

    /// Waits for the calls in flight, then closes the pool.
    pub(crate) async fn close(&self) {
        let reaper = self.cache.lock().reaper.take();
        if let Some(reaper) = reaper {
            reaper.abort();
            // The task has no result. However it ended, it returned the cached connections to the pool.
            drop(reaper.await);
        }
        self.pool.close().await;
    }

    fn keep(&self, connection: PoolConnection<DB>, acquired_at: Instant) {
        let pool = &self.pool;
        let spare = pool.num_idle() > 0 || pool.size() < pool.options().get_max_connections();
        // Dropping a connection returns it to the pool.
        let Ok(runtime) = Handle::try_current() else { return };
        if !spare || pool.is_closed() || acquired_at.elapsed() >= MAX_KEPT {
            return;
        }
        let needs_reaper =
            self.cache.lock().put(CachedConnection { connection, acquired_at, unused_since: Instant::now() });
        if needs_reaper {
            // Spawn without holding the lock: a runtime that shuts down drops the task immediately, and the drop takes the lock.
            let reaper = runtime.spawn(Reaper(self.cache.clone()).run());
            self.cache.lock().reaper = Some(reaper);
        }
    }
}

/// Calls that consist of one statement.
impl<DB: Database> Connections<DB>
where
    DB::Arguments: IntoArguments<DB>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    /// Runs a statement that returns no rows.
    pub(crate) async fn execute(&self, query: Query<'_, DB, DB::Arguments>) -> Result<(), sqlx::Error> {
        let mut lease = self.lease().await?;
        let done = query.execute(&mut *lease).await;
        lease.end(done).map(drop)
    }

    /// Runs a statement and returns its only row, if there is one.
    pub(crate) async fn optional<T>(&self, query: QueryAs<'_, DB, T, DB::Arguments>) -> Result<Option<T>, sqlx::Error>
    where
        T: Send + Unpin + for<'r> FromRow<'r, DB::Row>,
    {
        let mut lease = self.lease().await?;
        let row = query.fetch_optional(&mut *lease).await;
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
        let rows = query.fetch_all(&mut *lease).await;
        lease.end(rows)
    }
}

impl<DB: Database> Clone for Connections<DB> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), cache: self.cache.clone() }
    }
}

impl<DB: Database> fmt::Debug for Connections<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connections").field(&self.pool).finish()
    }
}

/// A connection for one call. If the call is dropped or does not reach [`end`](Self::end), the state of the connection is unknown.
pub(crate) struct Lease<DB: Database> {
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

impl<DB: Database> Lease<DB> {
    /// Ends the call with its `result`, which determines whether the connection can be reused.
    ///
    /// After a complete answer the next call can use the connection. After an error of the server it can, too, unless the error ended the
    /// session, so the pool checks the connection first. Any other error, such as a row that cannot be decoded, may have occurred in the
    /// middle of an answer.
    pub(crate) fn end<T>(mut self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.reuse = match &result {
            Ok(_) | Err(sqlx::Error::RowNotFound) => Reuse::Keep,
            Err(sqlx::Error::Database(_)) => Reuse::ReturnToPool,
            Err(_) => Reuse::Suspect,
        };
        result
    }
}

impl<DB: Database> Deref for Lease<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        self.connection.as_ref().expect(HAS_CONNECTION)
    }
}

impl<DB: Database> DerefMut for Lease<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.connection.as_mut().expect(HAS_CONNECTION)
    }
}

impl<DB: Database> Drop for Lease<DB> {
    fn drop(&mut self) {
        match self.connection.take() {
            Some(connection) if self.reuse == Reuse::Keep => self.connections.keep(connection, self.acquired_at),
            // The MySQL driver of sqlx cannot resynchronize with the protocol: the next call on this connection would wait forever or read
            // the answer to another call.
            Some(mut connection) if self.reuse == Reuse::Suspect && DB::NAME == "MySQL" => connection.close_on_drop(),
            _ => {}
        }
    }
}

impl<DB: Database> fmt::Debug for Lease<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("reuse", &self.reuse).finish_non_exhaustive()
    }
}

// Only `drop` takes the connection out.
const HAS_CONNECTION: &str = "a lease owns its connection until it is dropped";

/// The cached connections, and the task that returns them to the pool.
struct Cache<DB: Database> {
    /// A stack: the most recently used connection is reused first.
    unused: Vec<CachedConnection<DB>>,
    has_reaper: bool,
    reaper: Option<JoinHandle<()>>,
}

impl<DB: Database> Cache<DB> {
    /// Caches a connection. Returns whether the caller must start the reaper.
    fn put(&mut self, unused: CachedConnection<DB>) -> bool {
        self.unused.push(unused);
        !std::mem::replace(&mut self.has_reaper, true)
    }
}

struct CachedConnection<DB: Database> {
    connection: PoolConnection<DB>,
    /// The time when the pool handed the connection out.
    acquired_at: Instant,
    unused_since: Instant,
}

struct SharedCache<DB: Database>(Mutex<Cache<DB>>);

impl<DB: Database> SharedCache<DB> {
    fn lock(&self) -> MutexGuard<'_, Cache<DB>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<DB: Database> Default for SharedCache<DB> {
    fn default() -> Self {
        Self(Mutex::new(Cache { unused: Vec::new(), has_reaper: false, reaper: None }))
    }
}

/// The task that returns unused connections to the pool. When its runtime shuts down, it is dropped and returns all of them, because later
/// there is no runtime to do so.
struct Reaper<DB: Database>(Arc<SharedCache<DB>>);

impl<DB: Database> Reaper<DB> {
    async fn run(self) {
        loop {
            tokio::time::sleep(MAX_IDLE).await;
            let mut cache = self.0.lock();
            cache.unused.retain(|unused| unused.unused_since.elapsed() < MAX_IDLE);
            if cache.unused.is_empty() {
                return;
            }
        }
    }
}

impl<DB: Database> Drop for Reaper<DB> {
    fn drop(&mut self) {
        let mut cache = self.0.lock();
        cache.has_reaper = false;
        cache.unused.clear();
    }
}
