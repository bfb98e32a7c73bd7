//! Tells readers that the log has grown: those of this process at once, those of others by `NOTIFY`.
//!
//! The notification is sent after the commit, in a transaction of its own: one inside the append's would make all appends of the database
//! commit one after another. It may get lost; whoever waits for it polls as well.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::id::Position;
use crate::store::postgres::schema::Schema;

/// The shortest interval between two notifications. Each is a transaction, and makes the server flush its log once more.
const MIN_NOTIFY_INTERVAL: Duration = Duration::from_millis(5);

/// The interval while the log is busy, that is, at an append each millisecond. Readers of a busy log find events without a notification.
const MAX_NOTIFY_INTERVAL: Duration = Duration::from_millis(40);

/// The delay before a new connection listens after one was lost.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// Appends that no notification has told of yet, and when another process has last notified.
struct Committed {
    appends: AtomicUsize,
    some: Notify,
    heard: watch::Sender<Option<Instant>>,
}

impl Committed {
    fn heard_within(&self, time: Duration) -> bool {
        self.heard.borrow().is_some_and(|heard| heard.elapsed() < time)
    }
}

impl Default for Committed {
    fn default() -> Self {
        Self { appends: AtomicUsize::new(0), some: Notify::new(), heard: watch::Sender::new(None) }
    }
}

/// The two ways of a signal. Its task ends when this is dropped.
pub(crate) struct Signals {
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
    pub(crate) fn new(pool: Option<PgPool>, schema: &Schema) -> Self {
        let stop = CancellationToken::new();
        let signals = Self {
            grown: watch::Sender::new(Position::ZERO),
            committed: Arc::default(),
            task: TaskTracker::new(),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        };
        if let Some(pool) = pool {
            let exchange = exchange(pool, Voice::new(schema), signals.grown.clone(), signals.committed.clone());
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
    pub(crate) fn kick(&self, appends: usize) {
        signal(&self.grown);
        self.committed.appends.fetch_add(appends, Ordering::Relaxed);
        self.committed.some.notify_one();
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Position> {
        self.grown.subscribe()
    }

    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.task.wait().await;
    }
}

/// The number only says that something is new; positions come later.
fn signal(grown: &watch::Sender<Position>) {
    grown.send_modify(|grown| *grown = grown.next());
}

/// Sends and receives until it is dropped.
async fn exchange(pool: PgPool, voice: Voice, grown: watch::Sender<Position>, committed: Arc<Committed>) {
    futures::join!(receive(&pool, &voice, &grown, &committed), send(&pool, &voice, &committed));
}

/// Listens on a connection of its own: one that still listened when it came back to the pool would fail the next call of whoever gets it.
async fn receive(pool: &PgPool, voice: &Voice, grown: &watch::Sender<Position>, committed: &Committed) {
    let options = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    loop {
        // A lost connection is no error: readers poll meanwhile, and this comes back.
        if let Ok(own) = options.clone().connect_with(pool.connect_options().as_ref().clone()).await
            && let Ok(mut listener) = PgListener::connect_with(&own).await
            && listener.listen(&voice.channel).await.is_ok()
        {
            listener.eager_reconnect(false);
            // Whatever was missed before.
            signal(grown);
            while let Ok(Some(heard)) = listener.try_recv().await {
                if heard.payload() != voice.name {
                    committed.heard.send_replace(Some(Instant::now()));
                    signal(grown);
                }
            }
        }
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

/// However many commits there were since the last time, one notification tells of them all, also of those of other processes: while one
/// of them speaks, the others are silent.
async fn send(pool: &PgPool, voice: &Voice, committed: &Committed) {
    let mut interval = MIN_NOTIFY_INTERVAL;
    loop {
        committed.some.notified().await;
        while committed.heard_within(interval) {
            interval = MAX_NOTIFY_INTERVAL.min(interval * 2);
            // Not all at the same time.
            tokio::time::sleep(interval.mul_f32(voice.patience)).await;
        }
        let busy = committed.appends.swap(0, Ordering::Relaxed) as u128 >= interval.as_millis();
        interval = if busy { MAX_NOTIFY_INTERVAL.min(interval * 2) } else { MIN_NOTIFY_INTERVAL };
        // A notification that fails is a lost one.
        drop(sqlx::query(NOTIFY).bind(&voice.channel).bind(&voice.name).execute(pool).await);
        tokio::time::sleep(interval).await;
    }
}

/// Who speaks where.
struct Voice {
    channel: String,
    name: String,
    /// From 1 to 2.
    patience: f32,
}

impl Voice {
    fn new(schema: &Schema) -> Self {
        let name = Uuid::new_v4();
        let patience = 1.0 + f32::from(name.as_bytes()[0]) / 256.0;
        Self { channel: format!("retell_{}", schema.name()), name: name.to_string(), patience }
    }
}

/// Nothing is lost with a lost notification, so it does not wait for the disk.
const NOTIFY: &str = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)";
