//! The sessions of a pool that no call uses, and what is known about the server.
//!
//! An sqlx pool pings a connection when it is returned, and this round trip costs as much as a quick statement. Therefore a connection stays
//! cached here for [`MAX_IDLE`] after a call and is returned to the pool if no other call uses it. If the pool has no other connection to
//! give, the connection is returned immediately. A caller that finds the pool exhausted just before that waits at most twice [`MAX_IDLE`].
//!
//! The server may end a session, and the network may lose it without a sign, while no call uses it. Therefore a connection that was unused
//! for [`TRUSTED`] is asked before its next use, and replaced if it does not answer. A connection in doubt is dropped, which closes its socket:
//! a goodbye might never be sent.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection, Database, Pool};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::store::server::fault::Server;
use crate::store::server::hosts::Hosts;
use crate::store::server::limits::MAX_ANSWER;
use crate::store::server::orphans::{Orphans, SessionId};

/// An unused connection is returned to the pool after this time.
const MAX_IDLE: Duration = Duration::from_millis(20);

/// A connection is returned to the pool after this time even if calls use it constantly, because the pool closes connections that are too
/// old.
const MAX_KEPT: Duration = Duration::from_secs(1);

/// A connection that was used within this time is used again without asking: the question is a round trip, and a busy program would pay it
/// for each call.
const TRUSTED: Duration = Duration::from_millis(5);

/// A server that refuses writes on a connection as new as this one is read-only itself, and another connection would not help.
const READ_ONLY_AGAIN: Duration = Duration::from_secs(1);

/// The sessions of a pool. Clones share them.
pub(crate) struct Sessions<DB: Server> {
    pub(crate) pool: Pool<DB>,
    pub(crate) orphans: Orphans,
    shared: Arc<Shared<DB>>,
}

impl<DB: Server> Clone for Sessions<DB> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), orphans: self.orphans.clone(), shared: self.shared.clone() }
    }
}

struct Shared<DB: Server> {
    cache: Mutex<Cache<DB>>,
    /// The number of answers from the server. A caller that gets no connection compares it, to tell a busy server from one that is down.
    answers: AtomicU64,
    /// Whether the last caller that waited for a connection got none, and no answer has come since.
    is_down: AtomicBool,
    /// Whether a call has failed or got no answer since the last search for the server that accepts writes.
    is_in_doubt: AtomicBool,
}

impl<DB: Server> Sessions<DB> {
    pub(crate) fn of(pool: Pool<DB>) -> Self {
        let shared = Shared {
            cache: Mutex::new(Cache::default()),
            answers: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
            is_in_doubt: AtomicBool::new(false),
        };
        Self { pool, orphans: Orphans::default(), shared: Arc::new(shared) }
    }

    /// Returns the number of answers from the server.
    pub(crate) fn answers(&self) -> u64 {
        self.shared.answers.load(Ordering::Relaxed)
    }

    /// Returns whether the last caller that waited for a connection got none, and no answer has come since.
    pub(crate) fn is_down(&self) -> bool {
        self.shared.is_down.load(Ordering::Relaxed)
    }

    pub(crate) fn set_down(&self, is_down: bool) {
        self.shared.is_down.store(is_down, Ordering::Relaxed);
    }

    /// Notes an answer of the server.
    pub(crate) fn answered(&self) {
        self.shared.answers.fetch_add(1, Ordering::Relaxed);
        if self.is_down() {
            self.set_down(false);
        }
    }

    /// Notes that a call has failed or got no answer, so another server may have become the primary.
    pub(crate) fn doubt(&self) {
        self.shared.is_in_doubt.store(true, Ordering::Relaxed);
    }

    /// Returns whether there was a doubt, and ends it.
    pub(crate) fn take_doubt(&self) -> bool {
        self.shared.is_in_doubt.swap(false, Ordering::Relaxed)
    }

    /// Returns the number of read-only sessions that were closed because others may accept writes.
    pub(crate) fn replaced(&self) -> u64 {
        self.shared.lock().replaced
    }

    /// Returns a connection that an earlier call has left, if there is one and it answers.
    pub(crate) async fn cached(&self) -> Option<CachedConnection<DB>> {
        let cached = if self.pool.is_closed() { None } else { self.shared.lock().unused.pop() }?;
        if cached.unused_since.elapsed() < TRUSTED {
            return Some(cached);
        }
        let CachedConnection { connection, acquired_at, session, unused_since } = cached;
        let answering = Asked::ask(connection).await;
        if answering.is_none() {
            self.discard_idle();
        }
        answering.map(|connection| CachedConnection { connection, acquired_at, session, unused_since })
    }

    /// Returns the cached connections to the pool.
    pub(crate) async fn end(&self) {
        let reaper = self.shared.lock().reaper.take();
        if let Some(reaper) = reaper {
            reaper.abort();
            // The task has no result. However it ended, it returned the cached connections to the pool.
            drop(reaper.await);
        }
    }

    /// Closes all connections that no call uses, and returns their number.
    pub(crate) fn discard_idle(&self) -> u32 {
        self.doubt();
        let cached = std::mem::take(&mut self.shared.lock().unused);
        let cached = cached.into_iter().map(|cached| cached.connection);
        let idle = cached.chain(std::iter::from_fn(|| self.pool.try_acquire()));
        idle.map(discard).fold(0, |count, ()| count + 1)
    }

    /// Keeps a connection that was acquired at `acquired_at` for the next call, or returns it to the pool.
    pub(crate) fn keep(&self, connection: PoolConnection<DB>, acquired_at: Instant, session: SessionId) {
        let pool = &self.pool;
        let spare = pool.num_idle() > 0 || pool.size() < pool.options().get_max_connections();
        let Ok(runtime) = Handle::try_current() else { return discard(connection) };
        if self.shared.lock().is_in_doubt(acquired_at) {
            return discard(connection);
        }
        if !spare || pool.is_closed() || acquired_at.elapsed() >= MAX_KEPT {
            return give_back(connection);
        }
        let unused = CachedConnection { connection, acquired_at, session, unused_since: Instant::now() };
        let needs_reaper = self.shared.lock().put(unused);
        if needs_reaper {
            // Spawn without holding the lock: a runtime that shuts down drops the task immediately, and the drop takes the lock.
            let reaper = runtime.spawn(Reaper(self.shared.clone()).run());
            self.shared.lock().reaper = Some(reaper);
        }
    }

    /// Notes that a session is read-only although the store was opened for writing. Returns whether other sessions may not be: a demoted primary
    /// keeps its sessions read-only, while new sessions reach the new primary. Each session that was open at the first such note is then
    /// closed once it shows that it is read-only, and its call runs again.
    pub(crate) fn note_read_only(&self) -> bool {
        {
            let mut cache = self.shared.lock();
            if let Some(left) = cache.sessions_in_doubt.checked_sub(1) {
                cache.sessions_in_doubt = left;
                cache.replaced += 1;
                return true;
            }
            if cache.read_only_since.is_some_and(|since| since.elapsed() < READ_ONLY_AGAIN) {
                // Even a new session is read-only, so it is the server.
                return false;
            }
            cache.read_only_since = Some(Instant::now());
            cache.sessions_in_doubt = self.pool.size().saturating_sub(1);
            cache.replaced += 1;
        }
        let discarded = self.discard_idle();
        let mut cache = self.shared.lock();
        cache.sessions_in_doubt = cache.sessions_in_doubt.saturating_sub(discarded);
        true
    }
}

/// A connection that is being asked whether it answers. If the caller is dropped before the answer, the connection is closed: the answer
/// would be taken for the answer to the next statement.
pub(crate) struct Asked<DB: Database>(Option<PoolConnection<DB>>);

impl<DB: Server> Asked<DB> {
    /// Returns the connection if it goes to the primary, and closes it otherwise.
    pub(crate) async fn ask_primary(connection: PoolConnection<DB>, hosts: &Hosts) -> Option<PoolConnection<DB>> {
        let mut asked = Self(Some(connection));
        let question = DB::promotions(asked.0.as_mut()?);
        let promotions = timeout(MAX_ANSWER, question).await.ok()?.ok()?;
        if hosts.is_primary(promotions) { asked.0.take() } else { None }
    }
}

impl<DB: Database> Asked<DB> {
    /// Returns the connection if the server answers on it, and closes it otherwise.
    pub(crate) async fn ask(connection: PoolConnection<DB>) -> Option<PoolConnection<DB>> {
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
pub(crate) fn discard<DB: Database>(connection: PoolConnection<DB>) {
    drop(connection.detach());
}

/// Returns a connection to the pool. The pool asks whether it answers; a connection that does not would occupy its place in the pool.
pub(crate) fn give_back<DB: Database>(mut connection: PoolConnection<DB>) {
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(timeout(MAX_ANSWER, connection.return_to_pool()))),
        Err(_) => discard(connection),
    }
}

/// The cached connections, and the task that returns them to the pool.
struct Cache<DB: Server> {
    /// A stack: the most recently used connection is reused first.
    unused: Vec<CachedConnection<DB>>,
    has_reaper: bool,
    reaper: Option<JoinHandle<()>>,
    /// The time of the last error that a session is read-only. Connections that were acquired before are not used again.
    read_only_since: Option<Instant>,
    /// The number of sessions that were open at that time, and may still be open.
    sessions_in_doubt: u32,
    /// The number of read-only sessions that were closed because others may accept writes.
    replaced: u64,
}

impl<DB: Server> Default for Cache<DB> {
    fn default() -> Self {
        Self {
            unused: Vec::new(),
            has_reaper: false,
            reaper: None,

            read_only_since: None,
            sessions_in_doubt: 0,
            replaced: 0,
        }
    }
}

impl<DB: Server> Cache<DB> {
    /// Returns whether a connection that was acquired at `acquired_at` belongs to the sessions in doubt. It is then no longer counted.
    fn is_in_doubt(&mut self, acquired_at: Instant) -> bool {
        let is_in_doubt = self.read_only_since.is_some_and(|since| acquired_at < since);
        self.sessions_in_doubt = self.sessions_in_doubt.saturating_sub(u32::from(is_in_doubt));
        is_in_doubt
    }

    /// Caches a connection. Returns whether the caller must start the reaper.
    fn put(&mut self, unused: CachedConnection<DB>) -> bool {
        self.unused.push(unused);
        !std::mem::replace(&mut self.has_reaper, true)
    }
}

/// A connection that no call uses.
pub(crate) struct CachedConnection<DB: Server> {
    pub(crate) connection: PoolConnection<DB>,
    /// The time when the pool handed the connection out.
    pub(crate) acquired_at: Instant,
    pub(crate) session: SessionId,
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
