//! Tasks that restart after each failure, until they are told to stop.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::app::health::{Health, State};
use crate::backoff::delays;
use crate::error::{Error, ErrorKind, Result};
use crate::panics::{catch, catch_in};
use crate::worker::parking::reason;

/// The shortest and the longest wait before a failed task restarts.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A task that ran this long restarts with a fresh backoff.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);

/// Receives the name and the error of each task that fails.
pub(super) type OnFailure = Arc<dyn Fn(&str, &Error) + Send + Sync>;

/// A named task that runs until it is told to stop, and that can be restarted.
pub(super) struct Task {
    name: String,
    run: Arc<dyn Fn(CancellationToken) -> BoxFuture<'static, Result<()>> + Send + Sync>,
}

impl Task {
    pub(super) fn new(
        name: &str,
        run: impl Fn(CancellationToken) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.to_owned(), run: Arc::new(run) }
    }

    /// Runs the task and restarts it after each failure, until it is told to stop.
    async fn supervise(self, stop: CancellationToken, watcher: Watcher) {
        let (mut times, mut waits) = (0, delays(FIRST_WAIT, LONGEST_WAIT));
        loop {
            let began = Instant::now();
            let Err(error) = self.run_once(stop.clone()).await else {
                break watcher.set(&self.name, State::Stopped);
            };
            if began.elapsed() >= HEALTHY_AFTER {
                (times, waits) = (0, delays(FIRST_WAIT, LONGEST_WAIT));
            }
            times += 1;
            // A callback that panics loses this report, and the task still restarts.
            drop(catch(|| (watcher.on_failure)(&self.name, &error)));
            watcher.set(&self.name, State::Failed { times, error: reason(&error) });
            let wait = tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT));
            if stop.run_until_cancelled(wait).await.is_none() {
                break;
            }
            watcher.set(&self.name, State::Running);
        }
    }

    /// Runs the task until it ends. Turns a panic into an error.
    async fn run_once(&self, stop: CancellationToken) -> Result<()> {
        let ended = catch_in(async { (self.run)(stop).await }).await;
        ended.unwrap_or_else(|panicked| {
            Err(Error::with_source(ErrorKind::Panicked(format!("run {}", self.name)), panicked))
        })
    }
}

/// Records the state of each task.
#[derive(Clone)]
pub(super) struct Watcher {
    health: watch::Sender<Health>,
    on_failure: OnFailure,
}

impl Watcher {
    pub(super) fn new(on_failure: OnFailure) -> Self {
        Self { health: watch::Sender::new(Health::default()), on_failure }
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn set(&self, task: &str, state: State) {
        self.health.send_modify(|health| health.set(task, state));
    }
}

/// Tasks that stop together.
pub(super) struct Group {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Group {
    pub(super) fn new() -> Self {
        Self { tasks: JoinSet::new(), stop: CancellationToken::new() }
    }

    pub(super) fn spawn(&mut self, task: Task, watcher: &Watcher) {
        watcher.set(&task.name, State::Running);
        self.tasks.spawn(task.supervise(self.stop.clone(), watcher.clone()));
    }

    /// Tells the tasks to stop, and waits until each has ended.
    pub(super) async fn stop(&mut self) {
        self.stop.cancel();
        // The results carry no error: `supervise` catches every panic.
        while self.tasks.join_next().await.is_some() {}
    }
}
