//! How the servers' drivers get their connections: from a pool, or one that another call has just ended with.
//!
//! A pool of sqlx asks a connection whether it still lives when that comes back: a round trip, as much work as a quick statement itself. So
//! a connection stays at hand for a moment after a call, and goes back once nobody wants it. Where the pool has no other to give it goes back
//! at once; who finds the pool used up right after that waits two moments at most.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::query::{Query, QueryAs};
use sqlx::{Database, Executor, FromRow, IntoArguments, Pool};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// An unused connection goes back to the pool after this time.
const MAX_IDLE: Duration = Duration::from_millis(20);

/// A connection goes back to the pool after this time even if it is in use all the time, because the pool closes connections that are too old.
const MAX_KEPT: Duration = Duration::from_secs(1);

/// A driver's way to its server.
pub(crate) struct Connections<DB: Database> {
    pool: Pool<DB>,
    at_hand: Arc<AtHand<DB>>,
}

impl<DB: Database> Connections<DB> {
    pub(crate) fn of(pool: Pool<DB>) -> Self {
        Self { pool, at_hand: Arc::default() }
    }

    /// The pool, to hand out, and for what is done seldom.
    pub(crate) fn pool(&self) -> &Pool<DB> {
        &self.pool
    }

    /// A connection for one call.
    pub(crate) async fn lease(&self) -> Result<Lease<DB>, sqlx::Error> {
        let at_hand = if self.pool.is_closed() { None } else { self.at_hand.lock().unused.pop() };
        let (connection, taken) = match at_hand {
            Some(unused) => (unused.connection, unused.taken),
            None => (self.pool.acquire().await?, Instant::now()),
        };
        Ok(Lease { connection: Some(connection), taken, reuse: Reuse::Suspect, connections: self.clone() })
    }

    /// Closes the pool. Calls under way end first.
    pub(crate) async fn close(&self) {
        let watch = self.at_hand.lock().watch.take();
        if let Some(watch) = watch {
            watch.abort();
            // It has no result. Ended in whatever way, it has given back what was at hand.
            drop(watch.await);
        }
        self.pool.close().await;
    }

    fn keep(&self, connection: PoolConnection<DB>, taken: Instant) {
        let pool = &self.pool;
        let spare = pool.num_idle() > 0 || pool.size() < pool.options().get_max_connections();
        // What is not kept goes back to the pool by being dropped.
        let Ok(runtime) = Handle::try_current() else { return };
        if !spare || pool.is_closed() || taken.elapsed() >= MAX_KEPT {
            return;
        }
        let unwatched = self.at_hand.lock().put(Unused { connection, taken, since: Instant::now() });
        if unwatched {
            // Not under the lock: a runtime that ends drops the task at once, and that takes the lock.
            let watch = runtime.spawn(Watch(self.at_hand.clone()).run());
            self.at_hand.lock().watch = Some(watch);
        }
    }
}

/// Calls of one statement.
impl<DB: Database> Connections<DB>
where
    DB::Arguments: IntoArguments<DB>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    /// Runs a statement that has no rows to show.
    pub(crate) async fn execute(&self, query: Query<'_, DB, DB::Arguments>) -> Result<(), sqlx::Error> {
        let mut lease = self.lease().await?;
        let done = query.execute(&mut *lease).await;
        lease.end(done).map(drop)
    }

    /// The one row of a statement, or none.
    pub(crate) async fn optional<T>(&self, query: QueryAs<'_, DB, T, DB::Arguments>) -> Result<Option<T>, sqlx::Error>
    where
        T: Send + Unpin + for<'r> FromRow<'r, DB::Row>,
    {
        let mut lease = self.lease().await?;
        let row = query.fetch_optional(&mut *lease).await;
        lease.end(row)
    }

    /// The one row of a statement.
    pub(crate) async fn one<T>(&self, query: QueryAs<'_, DB, T, DB::Arguments>) -> Result<T, sqlx::Error>
    where
        T: Send + Unpin + for<'r> FromRow<'r, DB::Row>,
    {
        self.optional(query).await?.ok_or(sqlx::Error::RowNotFound)
    }

    /// All rows of a statement.
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
        Self { pool: self.pool.clone(), at_hand: self.at_hand.clone() }
    }
}

impl<DB: Database> fmt::Debug for Connections<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connections").field(&self.pool).finish()
    }
}

/// A connection for one call. Of what the call was dropped out of, or did not bring to its [`end`](Self::end), nothing is known.
pub(crate) struct Lease<DB: Database> {
    /// There until it is dropped.
    connection: Option<PoolConnection<DB>>,
    taken: Instant,
    reuse: Reuse,
    connections: Connections<DB>,
}

/// What is known of a leased connection.
#[derive(Debug, PartialEq)]
enum Reuse {
    /// Its last call has had its answer.
    Keep,
    /// No answer is under way, but the session may have ended.
    ReturnToPool,
    Suspect,
}

impl<DB: Database> Lease<DB> {
    /// The call's result is there: an answer leaves the connection fit for the next call. So does a refusal of the server's, unless it was
    /// the session's last word: that the pool finds out. What else goes wrong, such as a row that cannot be decoded, may lie in the middle
    /// of an answer.
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
        self.connection.as_ref().expect(THERE)
    }
}

impl<DB: Database> DerefMut for Lease<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.connection.as_mut().expect(THERE)
    }
}

impl<DB: Database> Drop for Lease<DB> {
    fn drop(&mut self) {
        match self.connection.take() {
            Some(connection) if self.reuse == Reuse::Keep => self.connections.keep(connection, self.taken),
            // sqlx's driver for MySQL does not find its place in the protocol again, and whoever got the connection next would wait for
            // ever, or read another's answer.
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

// Only `drop` takes it out.
const THERE: &str = "a lease has its connection until it is dropped";

/// What is at hand, and whether a task looks after it.
struct Shelf<DB: Database> {
    /// Those that came last are taken first.
    unused: Vec<Unused<DB>>,
    watched: bool,
    watch: Option<JoinHandle<()>>,
}

impl<DB: Database> Shelf<DB> {
    /// Whether a task has to be started to look after it.
    fn put(&mut self, unused: Unused<DB>) -> bool {
        self.unused.push(unused);
        !std::mem::replace(&mut self.watched, true)
    }
}

struct Unused<DB: Database> {
    connection: PoolConnection<DB>,
    /// When it was taken from the pool.
    taken: Instant,
    since: Instant,
}

struct AtHand<DB: Database>(Mutex<Shelf<DB>>);

impl<DB: Database> AtHand<DB> {
    fn lock(&self) -> MutexGuard<'_, Shelf<DB>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<DB: Database> Default for AtHand<DB> {
    fn default() -> Self {
        Self(Mutex::new(Shelf { unused: Vec::new(), watched: false, watch: None }))
    }
}

/// The task that gives back what nobody uses. Dropped with its runtime, it gives back all: later there is no runtime to do it in.
struct Watch<DB: Database>(Arc<AtHand<DB>>);

impl<DB: Database> Watch<DB> {
    async fn run(self) {
        loop {
            tokio::time::sleep(MAX_IDLE).await;
            let mut at_hand = self.0.lock();
            at_hand.unused.retain(|unused| unused.since.elapsed() < MAX_IDLE);
            if at_hand.unused.is_empty() {
                return;
            }
        }
    }
}

impl<DB: Database> Drop for Watch<DB> {
    fn drop(&mut self) {
        let mut at_hand = self.0.lock();
        at_hand.watched = false;
        at_hand.unused.clear();
    }
}
