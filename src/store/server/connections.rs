//! Connections for the drivers of database servers: from a pool of sqlx, or reused directly after another call.
//!
//! Nothing here waits for a connection without a limit, also not to return or to close it.

use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::query::{Query, QueryAs};
use sqlx::{Executor, FromRow, IntoArguments, Pool};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::error::{ErrorKind, Result};
use crate::store::held::{self, Held};
use crate::store::server::fault::{Fault, Server};
use crate::store::server::hosts::Hosts;
use crate::store::server::lease::Lease;
use crate::store::server::limits::{Limits, MAX_ANSWER};
use crate::store::server::orphans::SessionId;
use crate::store::server::sessions::{Asked, Sessions, give_back};

/// The longest wait for a connection after an earlier call got none. Meanwhile [`Prober`] waits for the server as long as it takes.
const OUTAGE_WAIT: Duration = Duration::from_millis(250);

/// The pause before another connection is asked for after one that did not go to the primary.
const PAUSE: Duration = Duration::from_millis(20);

/// Decides whether a call that has failed runs once more, in another session.
pub(crate) struct Retries<DB: Server> {
    sessions: Sessions<DB>,
    replaced: u64,
    had_ended: bool,
}

impl<DB: Server> Retries<DB> {
    /// Returns whether a call with this result may succeed in another session, if it has had no effect.
    pub(crate) fn may_pass<T>(&mut self, result: &Result<T>) -> bool {
        result.as_ref().is_err_and(|error| self.may_pass_after(Fault::of::<DB>(error)))
    }

    /// Returns whether a call whose session had this fault may succeed in another one: once after the end of a session, and as long as
    /// read-only sessions are replaced.
    pub(crate) fn may_pass_after(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::Other => false,
            Fault::Ended => !std::mem::replace(&mut self.had_ended, true),
            Fault::ReadOnly => {
                let replaced = self.sessions.replaced();
                std::mem::replace(&mut self.replaced, replaced) != replaced
            }
        }
    }
}

/// The connections of a driver to its server.
pub(crate) struct Connections<DB: Server> {
    sessions: Sessions<DB>,
    limits: Limits,
    hosts: Hosts,
    /// Permits for transactions that run handlers, see [`turn`](Self::turn).
    turns: Arc<Semaphore>,
    /// The task that waits for a server that is down.
    prober: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl<DB: Server> Connections<DB> {
    /// Returns connections to the server of `hosts` that accepts writes.
    pub(crate) async fn open(pool: Pool<DB>, limits: Limits, hosts: &[String]) -> Result<Self> {
        let hosts = Hosts::parse(hosts)?;
        hosts.search_first(&pool, limits.wait).await?;
        Ok(Self::with_hosts(pool, limits, hosts))
    }

    fn with_hosts(pool: Pool<DB>, limits: Limits, hosts: Hosts) -> Self {
        // Handlers may use a quarter of the connections, at least one, while transactions that run handlers hold all others.
        let connections = usize::try_from(pool.options().get_max_connections()).unwrap_or(Semaphore::MAX_PERMITS);
        let turns = (connections - (connections / 4).max(1).min(connections)).clamp(1, Semaphore::MAX_PERMITS);
        let turns = Arc::new(Semaphore::new(turns));
        Self { sessions: Sessions::of(pool), limits, hosts, turns, prober: Arc::default() }
    }

    /// Returns connections of their own to the same database, with the same settings: at least two, and as many as these.
    pub(crate) fn apart(&self) -> Self {
        let options: PoolOptions<DB> = self.sessions.pool.options().clone();
        let connections = options.get_max_connections().max(2);
        // Connects with the first call, so a program that never uses them pays nothing.
        let options = options.max_connections(connections).min_connections(0);
        let pool = options.connect_lazy_with((*self.sessions.pool.connect_options()).clone());
        // They find a new primary on their own.
        Self::with_hosts(pool, self.limits, self.hosts.apart())
    }

    /// Returns the pool, for callers of the library.
    pub(crate) fn pool(&self) -> &Pool<DB> {
        &self.sessions.pool
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Runs a call within the limit. `attempt` completes "cannot ..".
    pub(crate) async fn call<T>(&self, attempt: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.limits.call(attempt, call).await
    }

    /// Starts the count of the retries of a call.
    pub(crate) fn retries(&self) -> Retries<DB> {
        Retries { sessions: self.sessions.clone(), replaced: self.sessions.replaced(), had_ended: false }
    }

    /// Runs a call that may be repeated, and repeats it if its session had ended or had become read-only. All runs together have the limit.
    /// `attempt` completes "cannot ..".
    pub(crate) async fn repeat<T, F: Future<Output = Result<T>>>(
        &self,
        attempt: &str,
        mut call: impl FnMut() -> F,
    ) -> Result<T> {
        let repeated = async {
            let mut retries = self.retries();
            loop {
                let result = call().await;
                if !retries.may_pass(&result) {
                    return result;
                }
            }
        };
        self.call(attempt, repeated).await
    }

    /// Waits for the turn of a transaction that runs handlers. The turns leave some connections to the handlers, and to short calls. Turns have
    /// no time limit: the transactions before this one end by their own limits.
    pub(crate) async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        self.turns.clone().acquire_owned().await.map_err(|_| ErrorKind::Closed("the store").into())
    }

    /// Returns the mark for the tasks that run handlers within a transaction on these connections.
    pub(crate) fn held(&self) -> Held {
        // All handles of a pool share its options.
        Held::pool(std::ptr::from_ref(self.sessions.pool.options()).addr())
    }

    /// Returns an error if the calling handler runs in a transaction that occupies the pool's only connection.
    pub(crate) fn check_free(&self) -> Result<()> {
        if self.sessions.pool.options().get_max_connections() > 1 || !held::is_held(&self.held()) {
            return Ok(());
        }
        let problem = "a handler needs a second connection of a pool that has one, which its transaction occupies: give the pool two \
                       connections, or the read model a pool of its own (`read_model()` of a store has one)";
        Err(ErrorKind::Invalid(problem.into()).into())
    }

    /// Leases a connection for one call.
    pub(crate) async fn lease(&self) -> Result<Lease<DB>, sqlx::Error> {
        let (connection, acquired_at, session) = match self.sessions.cached().await {
            Some(cached) => (cached.connection, cached.acquired_at, cached.session),
            None => (self.acquire().await?, Instant::now(), SessionId::default()),
        };
        Ok(Lease::of(connection, acquired_at, session, self.sessions.clone(), self.limits))
    }

    /// Acquires a connection from the pool that answers, and that goes to the server that accepts writes as far as that is known.
    pub(crate) async fn acquire(&self) -> Result<PoolConnection<DB>, sqlx::Error> {
        self.check_free().map_err(|error| sqlx::Error::Configuration(error.into()))?;
        let answers_before = self.sessions.answers();
        let is_down = self.sessions.is_down();
        let deadline = Instant::now() + if is_down { OUTAGE_WAIT.min(self.limits.wait) } else { self.limits.wait };
        let mut refusal = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.hosts.are_named() && self.sessions.take_doubt() {
                drop(timeout(left, self.search()).await);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // If the pool has no unused connection, the connection will be new, or another call has just used it.
            let is_idle = self.sessions.pool.num_idle() > 0;
            let tests_itself = self.sessions.pool.options().get_test_before_acquire();
            let wait = if is_idle { MAX_ANSWER.min(left) } else { left };
            match timeout(wait, self.new_or_idle()).await {
                Ok(Ok(connection)) if self.hosts.are_named() => {
                    if let Some(connection) = Asked::ask_primary(connection, &self.hosts).await {
                        return Ok(connection);
                    }
                    // A replica may be about to be promoted.
                    sleep(PAUSE.min(left)).await;
                }
                Ok(Ok(connection)) if is_idle && !tests_itself => {
                    if let Some(connection) = Asked::ask(connection).await {
                        return Ok(connection);
                    }
                }
                // The pool may be asking a connection that does not answer.
                Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) if is_idle && wait < left => {}
                Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => break,
                // A refusal of one server says nothing about the others: one that has just been set up in the place of the primary may not have
                // the database yet.
                Ok(Err(refused)) if self.hosts.are_named() && !matches!(refused, sqlx::Error::PoolClosed) => {
                    if left <= OUTAGE_WAIT {
                        refusal = Some(refused);
                        break;
                    }
                    sleep(OUTAGE_WAIT).await;
                }
                Ok(acquired) => return acquired,
            }
            // The others are probably lost too.
            self.sessions.discard_idle();
        }
        if self.sessions.answers() == answers_before {
            self.sessions.set_down(true);
            self.probe();
        }
        Err(refusal.map_or(sqlx::Error::PoolTimedOut, |refused| sqlx::Error::Io(io::Error::other(refused))))
    }

    /// Takes a connection from the pool. While the server gives none, looks whether another one accepts writes.
    async fn new_or_idle(&self) -> Result<PoolConnection<DB>, sqlx::Error> {
        if !self.hosts.are_named() {
            return self.sessions.pool.acquire().await;
        }
        loop {
            let answers = self.sessions.answers();
            let moved = async {
                loop {
                    sleep(OUTAGE_WAIT).await;
                    // A server that answers other calls is only busy.
                    if self.sessions.answers() == answers && self.search().await {
                        return;
                    }
                }
            };
            match select(pin!(self.sessions.pool.acquire()), pin!(moved)).await {
                Either::Left((acquired, _)) => {
                    if acquired.is_err() {
                        self.sessions.doubt();
                    }
                    return acquired;
                }
                // The attempt goes to the server that was the primary before.
                Either::Right(_) => {}
            }
        }
    }

    /// Directs new connections to the server that accepts writes. Returns whether that is another one than before.
    async fn search(&self) -> bool {
        let has_moved = self.hosts.search(&self.sessions.pool).await;
        if has_moved {
            self.sessions.discard_idle();
            // It has been searched just now.
            self.sessions.take_doubt();
        }
        has_moved
    }

    /// Starts the task that waits for the server to come back, unless it is running.
    fn probe(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        let mut prober = self.prober.lock().unwrap_or_else(PoisonError::into_inner);
        if prober.as_ref().is_none_or(JoinHandle::is_finished) {
            let (connections, sessions, wait) = (self.clone(), self.sessions.clone(), self.limits.wait);
            *prober = Some(runtime.spawn(async move {
                // The connection goes to the pool, where the next call finds it.
                if let Ok(Ok(connection)) = timeout(wait, connections.new_or_idle()).await {
                    give_back(connection);
                    sessions.set_down(false);
                }
            }));
        }
    }

    /// Waits for the calls in flight, then closes the pool. A call in flight ends within the limit, so this does, too.
    pub(crate) async fn close(&self) {
        let prober = self.prober.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(prober) = prober {
            prober.abort();
            drop(prober.await);
        }
        self.sessions.end().await;
        // They hold locks that other programs wait for.
        self.sessions.orphans.join(self.limits.wait).await;
        // After the limit, connections that the caller has taken from the pool stay open until it drops them.
        drop(timeout(self.limits.call + MAX_ANSWER, self.sessions.pool.close()).await);
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
        let (sessions, turns, prober) = (self.sessions.clone(), self.turns.clone(), self.prober.clone());
        Self { sessions, limits: self.limits, hosts: self.hosts.clone(), turns, prober }
    }
}

impl<DB: Server> fmt::Debug for Connections<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connections").field(self.pool()).finish()
    }
}
