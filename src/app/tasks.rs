//! Tasks that restart after each failure, until they are told to stop.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::app::health::{Health, State};
use crate::backoff::delays;
use crate::error::{Error, ErrorKind, Result};
use crate::grace::within_grace;
use crate::panics::{catch, catch_in};
use crate::worker::parking::reason;

/// The shortest and the longest wait before a failed task restarts.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A task that ran this long restarts with a fresh backoff.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);

/// The time to drop tasks at the end of their grace period.
const TO_DROP: Duration = Duration::from_secs(1);

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

    /// Runs the task and restarts it after each failure, until it is told to stop. Then it has `grace` to end. Returns the error of a task that
    /// did not end in time.
    async fn supervise(self, stop: CancellationToken, grace: Duration, watcher: Watcher) -> Result<()> {
        let (mut times, mut waits) = (0, delays(FIRST_WAIT, LONGEST_WAIT));
        loop {
            let began = Instant::now();
            let ended = within_grace(&stop, grace, self.run_once(stop.clone())).await;
            let Err(error) = ended.unwrap_or_else(|| Err(dropped(&self.name, grace))) else {
                watcher.set(&self.name, State::Stopped);
                return Ok(());
            };
            if began.elapsed() >= HEALTHY_AFTER {
                (times, waits) = (0, delays(FIRST_WAIT, LONGEST_WAIT));
            }
            times += 1;
            // A callback that panics loses this report, and the task still restarts.
            drop(catch(|| (watcher.on_failure)(&self.name, &error)));
            watcher.set(&self.name, State::Failed { times, error: reason(&error) });
            if stop.is_cancelled() && matches!(error.kind(), ErrorKind::TimedOut(_)) {
                return Err(error);
            }
            let wait = tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT));
            if stop.run_until_cancelled(wait).await.is_none() {
                return Ok(());
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

/// Returns the error of a task that was dropped because it did not stop.
fn dropped(task: &str, grace: Duration) -> Error {
    ErrorKind::TimedOut(format!("{task} did not stop within {grace:?} and was dropped")).into()
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
    tasks: JoinSet<Result<()>>,
    names: HashMap<Id, String>,
    stop: CancellationToken,
    grace: Duration,
}

impl Group {
    pub(super) fn new(grace: Duration) -> Self {
        Self { tasks: JoinSet::new(), names: HashMap::new(), stop: CancellationToken::new(), grace }
    }

    pub(super) fn spawn(&mut self, task: Task, watcher: &Watcher) {
        watcher.set(&task.name, State::Running);
        let name = task.name.clone();
        let spawned = self.tasks.spawn(task.supervise(self.stop.clone(), self.grace, watcher.clone()));
        self.names.insert(spawned.id(), name);
    }

    /// Tells the tasks to stop, and waits until each has ended.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] if a task was dropped at the end of its grace period, or if its handler blocks its thread, which cannot be ended.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.stop.cancel();
        let mut ended = Ok(());
        let limit = Instant::now() + self.grace + TO_DROP;
        while let Ok(Some(joined)) = timeout_at(limit, self.tasks.join_next_with_id()).await {
            // `supervise` catches every panic, so a task that has no result was aborted by its runtime.
            if let Ok((id, result)) = joined {
                self.names.remove(&id);
                ended = ended.and(result);
            }
        }
        self.tasks.abort_all();
        match self.names.values().next().filter(|_| !self.tasks.is_empty()) {
            Some(task) => Err(dropped(task, self.grace)),
            None => ended,
        }
    }
}
