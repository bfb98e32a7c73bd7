//! Tasks that restart after each failure, until they are told to stop.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::app::watch::{Reports, Watcher};
use crate::backoff::delays;
use crate::error::{Error, ErrorKind, Result};
use crate::grace::within_grace;
use crate::panics::catch_in;

/// The shortest and the longest wait before a failed task restarts.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A task that ran this long restarts with a fresh backoff.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);

/// The time to drop tasks at the end of their grace period.
const TO_DROP: Duration = Duration::from_secs(1);

/// A failed task counts as recovered after it has run this long, unless it has moved its position before.
const RECOVERED_AFTER: Duration = Duration::from_secs(1);

/// A named task that runs until it is told to stop, and that can be restarted.
pub(super) struct Task {
    name: String,
    reports: Reports,
    run: Arc<dyn Fn(CancellationToken) -> BoxFuture<'static, Result<()>> + Send + Sync>,
}

impl Task {
    pub(super) fn new(
        name: &str,
        reports: Reports,
        run: impl Fn(CancellationToken) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.to_owned(), reports, run: Arc::new(run) }
    }

    /// Runs the task and restarts it after each failure, until it is told to stop. Then it has `grace` to end. Returns the error of a task that
    /// did not end in time.
    async fn supervise(self, stop: CancellationToken, grace: Duration, watcher: Watcher) -> Result<()> {
        let (mut times, mut waits) = (0, delays(FIRST_WAIT, LONGEST_WAIT));
        loop {
            let began = Instant::now();
            let run = self.run_watched(stop.clone(), &watcher, times > 0);
            let ended = within_grace(&stop, grace, run).await;
            let Err(error) = ended.unwrap_or_else(|| Err(dropped(&self.name, grace))) else {
                watcher.stopped(&self.name);
                return Ok(());
            };
            if began.elapsed() >= HEALTHY_AFTER {
                (times, waits) = (0, delays(FIRST_WAIT, LONGEST_WAIT));
            }
            times += 1;
            watcher.failed(&self.name, times, &error);
            if stop.is_cancelled() && matches!(error.kind(), ErrorKind::TimedOut(_)) {
                return Err(error);
            }
            let wait = tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT));
            if stop.run_until_cancelled(wait).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Runs the task until it ends, and passes its reports on. A task that `has_failed` before counts as failed until it makes progress.
    async fn run_watched(&self, stop: CancellationToken, watcher: &Watcher, mut has_failed: bool) -> Result<()> {
        let Reports { mut status, mut position, .. } = self.reports.clone();
        position.mark_unchanged();
        let mut run = std::pin::pin!(self.run_once(stop));
        let mut next_look = Instant::now() + RECOVERED_AFTER;
        loop {
            tokio::select! {
                ended = &mut run => return ended,
                Ok(()) = status.changed() => watcher.refresh(),
                Ok(()) = position.changed(), if has_failed => {
                    has_failed = false;
                    watcher.recovered(&self.name);
                }
                () = sleep_until(next_look), if has_failed => {
                    next_look += RECOVERED_AFTER;
                    if self.reports.is_running() {
                        has_failed = false;
                        watcher.recovered(&self.name);
                    }
                }
            }
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

    /// Runs `watch` until the group is told to stop.
    pub(super) fn spawn_watch(&mut self, watch: impl FnOnce(CancellationToken) -> BoxFuture<'static, ()>) {
        let watch = watch(self.stop.clone());
        let spawned = self.tasks.spawn(async {
            watch.await;
            Ok(())
        });
        self.names.insert(spawned.id(), "the watch over the tasks".to_owned());
    }

    pub(super) fn spawn(&mut self, task: Task, watcher: &Watcher) {
        watcher.add(&task.name, task.reports.clone());
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
