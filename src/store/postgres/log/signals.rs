//! Signals that the log has grown: to readers of this process at once, to other processes by `NOTIFY`.
//!
//! The notification is sent after the commit, in a separate transaction: a `NOTIFY` inside the append's transaction would make all appends of
//! the database commit one after another. A notification may get lost, so readers also poll.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::id::Position;
use crate::store::postgres::connection::Connections;
use crate::store::postgres::schema::Schema;

/// The shortest interval between two notifications. Each one is a transaction that makes the server flush its log once more.
const MIN_NOTIFY_INTERVAL: Duration = Duration::from_millis(5);

/// The longest interval, used while the log is busy (one append per millisecond). Readers of a busy log find events without a notification.
const MAX_NOTIFY_INTERVAL: Duration = Duration::from_millis(40);

/// The delay before a new connection listens after the previous one was lost.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// The longest time without a notification until the listener asks whether its connection still exists.
const MAX_SILENCE: Duration = Duration::from_secs(30);

/// The appends since the last notification of this process, and the time of the last notification from another process.
struct Pending {
    appends: AtomicUsize,
    added: Notify,
    heard: watch::Sender<Option<Instant>>,
}

impl Pending {
    fn heard_within(&self, time: Duration) -> bool {
        self.heard.borrow().is_some_and(|heard| heard.elapsed() < time)
    }
}

impl Default for Pending {
    fn default() -> Self {
        Self { appends: AtomicUsize::new(0), added: Notify::new(), heard: watch::Sender::new(None) }
    }
}

/// Sends and receives signals. The background task ends when this is dropped.
pub(crate) struct Signals {
    growth: watch::Sender<Position>,
    pending: Arc<Pending>,
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
    /// Creates signals within the process, and between processes if `connections` are given.
    pub(crate) fn new(connections: Option<Connections>, schema: &Schema) -> Self {
        let stop = CancellationToken::new();
        let signals = Self {
            growth: watch::Sender::new(Position::ZERO),
            pending: Arc::default(),
            task: TaskTracker::new(),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        };
        if let Some(connections) = connections {
            let exchange =
                exchange(connections, Notifier::new(schema), signals.growth.clone(), signals.pending.clone());
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

    /// Signals that this process has committed `appends` appends.
    pub(crate) fn committed(&self, appends: usize) {
        signal(&self.growth);
        self.pending.appends.fetch_add(appends, Ordering::Relaxed);
        self.pending.added.notify_one();
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Position> {
        self.growth.subscribe()
    }

    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.task.wait().await;
    }
}

/// Signals that something is new. The number is no position of the log: a commit gets its positions later.
fn signal(growth: &watch::Sender<Position>) {
    growth.send_modify(|growth| *growth = growth.next());
}

/// Sends and receives until it is dropped.
async fn exchange(
    connections: Connections,
    notifier: Notifier,
    growth: watch::Sender<Position>,
    pending: Arc<Pending>,
) {
    futures::join!(receive(&connections, &notifier, &growth, &pending), send(&connections, &notifier, &pending));
}

/// Listens on a separate connection: a pooled connection that still listens when it is returned would fail the next call that uses it.
async fn receive(connections: &Connections, notifier: &Notifier, growth: &watch::Sender<Position>, pending: &Pending) {
    loop {
        // A lost connection is no error: readers poll until this loop reconnects.
        if let Ok(mut listener) = connections.limits().statements(listen(connections, &notifier.channel)).await {
            // Commits before `LISTEN` sent their notifications without this listener.
            signal(growth);
            loop {
                match timeout(MAX_SILENCE, listener.try_recv()).await {
                    Ok(Ok(Some(heard))) if heard.payload() == notifier.name => {}
                    Ok(Ok(Some(_))) => {
                        pending.heard.send_replace(Some(Instant::now()));
                        signal(growth);
                    }
                    Ok(Ok(None) | Err(_)) => break,
                    // The log may be quiet, or the connection lost.
                    Err(_) => {
                        let asked = sqlx::query(ASK).execute(&mut listener);
                        if connections.limits().statements(asked).await.is_err() {
                            break;
                        }
                    }
                }
            }
        }
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

async fn listen(connections: &Connections, channel: &str) -> Result<PgListener, sqlx::Error> {
    let options = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    let own = options.connect_with(connections.pool().connect_options().as_ref().clone()).await?;
    let mut listener = PgListener::connect_with(&own).await?;
    listener.listen(channel).await?;
    listener.eager_reconnect(false);
    Ok(listener)
}

/// Sends one notification for all commits since the last one. It also covers the commits of other processes: while one process notifies, the
/// others stay silent.
async fn send(connections: &Connections, notifier: &Notifier, pending: &Pending) {
    let mut interval = MIN_NOTIFY_INTERVAL;
    loop {
        pending.added.notified().await;
        while pending.heard_within(interval) {
            interval = MAX_NOTIFY_INTERVAL.min(interval * 2);
            // The jitter keeps processes from notifying at the same time.
            tokio::time::sleep(interval.mul_f32(notifier.jitter)).await;
        }
        let busy = pending.appends.swap(0, Ordering::Relaxed) as u128 >= interval.as_millis();
        interval = if busy { MAX_NOTIFY_INTERVAL.min(interval * 2) } else { MIN_NOTIFY_INTERVAL };
        // A notification that fails is a lost notification, which readers tolerate.
        drop(connections.execute(sqlx::query(NOTIFY).bind(&notifier.channel).bind(&notifier.name)).await);
        tokio::time::sleep(interval).await;
    }
}

/// The channel of a log, and this process as a sender on it.
struct Notifier {
    channel: String,
    name: String,
    /// A factor from 1 to 2 for the wait between notifications.
    jitter: f32,
}

impl Notifier {
    fn new(schema: &Schema) -> Self {
        let name = Uuid::new_v4();
        let jitter = 1.0 + f32::from(name.as_bytes()[0]) / 256.0;
        Self { channel: format!("retell_{}", schema.name()), name: name.to_string(), jitter }
    }
}

const ASK: &str = "SELECT 1";

/// Does not wait for the disk, because a lost notification loses no event.
const NOTIFY: &str = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)";
