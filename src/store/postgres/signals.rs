//! Tells readers that the log has grown: those of this process at once, those of others by `NOTIFY`.
//!
//! The notification is sent after the commit, in a transaction of its own: one inside the append's would make all appends of the database
//! commit one after another. It may get lost; whoever waits for it polls as well.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::id::Position;
use crate::store::postgres::connection::Schema;

/// The least time between two notifications: each is a transaction, and makes the server flush its log once more.
const BREATH: Duration = Duration::from_millis(5);

/// The same while the log is busy, which is at an append each millisecond. Whoever reads a busy log finds events without being told.
const LONGEST_BREATH: Duration = Duration::from_millis(40);

/// How long to wait before listening again after the connection was lost.
const PAUSE: Duration = Duration::from_secs(1);

/// Appends that no notification has told of yet.
#[derive(Default)]
struct Committed {
    appends: AtomicUsize,
    some: Notify,
}

/// The two ways of a signal. Its task ends when this is dropped.
pub(super) struct Signals {
    grown: watch::Sender<Position>,
    committed: Arc<Committed>,
    task: TaskTracker,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").finish_non_exhaustive()
    }
}

impl Signals {
    /// Signals within the process, and between processes if `pool` is there.
    pub(super) fn new(pool: Option<PgPool>, schema: &Schema) -> Self {
        let stop = CancellationToken::new();
        let signals = Self {
            grown: watch::Sender::new(Position::ZERO),
            committed: Arc::default(),
            task: TaskTracker::new(),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        };
        if let Some(pool) = pool {
            let channel = format!("retell_{}", schema.name());
            let exchange = exchange(pool, channel, signals.grown.clone(), signals.committed.clone());
            let stop = signals.stop.clone();
            signals.task.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = exchange => {}
                }
            });
        }
        signals.task.close();
        signals
    }

    /// So many appends were committed here.
    pub(super) fn kick(&self, appends: usize) {
        signal(&self.grown);
        self.committed.appends.fetch_add(appends, Ordering::Relaxed);
        self.committed.some.notify_one();
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Position> {
        self.grown.subscribe()
    }

    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.task.wait().await;
    }
}

/// The number only says that something is new; positions come later.
fn signal(grown: &watch::Sender<Position>) {
    grown.send_modify(|grown| *grown = grown.next());
}

/// Sends and receives until it is dropped.
async fn exchange(pool: PgPool, channel: String, grown: watch::Sender<Position>, committed: Arc<Committed>) {
    futures::join!(receive(&pool, &channel, &grown), send(&pool, &channel, &committed));
}

/// Listens on a connection of its own: one that still listened when it came back to the pool would fail the next call of whoever gets it.
async fn receive(pool: &PgPool, channel: &str, grown: &watch::Sender<Position>) {
    let options = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    loop {
        // A lost connection is no error: readers poll meanwhile, and this comes back.
        if let Ok(own) = options.clone().connect_with(pool.connect_options().as_ref().clone()).await
            && let Ok(mut listener) = PgListener::connect_with(&own).await
            && listener.listen(channel).await.is_ok()
        {
            listener.eager_reconnect(false);
            // Whatever was missed before.
            signal(grown);
            while let Ok(Some(_)) = listener.try_recv().await {
                signal(grown);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// However many commits there were since the last time, one notification tells of them all.
async fn send(pool: &PgPool, channel: &str, committed: &Committed) {
    let mut breath = BREATH;
    loop {
        committed.some.notified().await;
        let appends = committed.appends.swap(0, Ordering::Relaxed);
        let busy = appends as u128 >= breath.as_millis();
        breath = if busy { LONGEST_BREATH.min(breath * 2) } else { BREATH };
        // A notification that fails is a lost one.
        drop(sqlx::query(NOTIFY).bind(channel).execute(pool).await);
        tokio::time::sleep(breath).await;
    }
}

/// Nothing is lost with a lost notification, so it does not wait for the disk.
const NOTIFY: &str = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, '')";
