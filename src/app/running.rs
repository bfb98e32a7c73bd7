//! The handle of an app that has been started.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::app::health::{Health, HealthOptions};
use crate::app::part::Part;
use crate::app::probe::Probe;
use crate::app::tasks::{Group, Task};
use crate::app::waiting::{Goal, ReadCheckpoint, Waiting};
use crate::app::watch::{OnFailure, Reports, Watcher};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Position;
use crate::notice::{Listener, listen};
use crate::operate::observer::Observer;
use crate::relay::Relay;
use crate::store::log::event_store::EventStore;
use crate::store::log::token::Token;
#[cfg(doc)]
use crate::store::model::read_model::ReadModel;
use crate::worker::job::ReadLive;

/// The handle of an [`App`](crate::App) that has been started. Dropping it aborts the app's tasks.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use retell::prelude::*;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
/// let running = App::new(log, models).with_broker(MemoryBroker::new()).start();
/// running.wait_for_all(Duration::from_secs(10)).await?;
/// assert!(running.health().borrow().is_good());
/// running.stop().await?;
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
pub struct Running {
    store: Arc<dyn EventStore>,
    checkpoint: ReadCheckpoint,
    watcher: Watcher,
    workers: Group,
    relays: Group,
    /// The watch over all tasks.
    watch: Group,
    waiting: Waiting,
    grace: Duration,
    /// They hear notices until they are dropped.
    listeners: Vec<Arc<Listener>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("health", &*self.watcher.health().borrow()).finish_non_exhaustive()
    }
}

impl Running {
    pub(super) fn new(
        store: Arc<dyn EventStore>,
        checkpoint: ReadCheckpoint,
        options: HealthOptions,
        on_failure: OnFailure,
        grace: Duration,
    ) -> Self {
        let waiting = Waiting::new(store.clone(), checkpoint.clone());
        let watcher = Watcher::new(options, on_failure);
        let [workers, relays, watch] = [Group::new(grace), Group::new(grace), Group::new(grace)];
        Self { store, checkpoint, watcher, workers, relays, watch, waiting, grace, listeners: Vec::new() }
    }

    /// Passes notices to `listeners` from now on.
    pub(super) fn with_listeners(mut self, listeners: Vec<Arc<Listener>>) -> Self {
        listeners.iter().for_each(listen);
        self.listeners = listeners;
        self
    }

    /// Registers a part that does not fit the others. It fails with `problem` instead of running.
    pub(super) fn refuse(&mut self, part: &Arc<dyn Part>, problem: &Error) {
        let problem = problem.clone();
        let task = Task::new(part.name(), part.reports(), move |_| {
            let refused = Err(problem.clone());
            async { refused }.boxed()
        });
        self.workers.spawn(task, &self.watcher);
    }

    /// Runs a part of the app in this process.
    pub(super) fn run(&mut self, part: &Arc<dyn Part>) {
        self.waiting.add(part.name(), Some(part.applied()), part.live());
        let runner = part.clone();
        let task = Task::new(part.name(), part.reports(), move |stop| {
            let part = runner.clone();
            async move { part.run(stop).await }.boxed()
        });
        self.workers.spawn(task, &self.watcher);
    }

    /// Registers a part of the app that another process runs, so that waits include it.
    pub(super) fn track_remote(&mut self, part: &dyn Part) {
        self.waiting.add(part.name(), None, part.live());
    }

    pub(super) fn relay(&mut self, name: &str, relay: Relay) {
        let relay = Arc::new(relay);
        let reports = Reports { status: relay.status(), position: relay.published(), pulses: relay.pulses() };
        let task = Task::new(name, reports, move |stop| {
            let relay = relay.clone();
            async move { relay.run(stop).await }.boxed()
        });
        self.relays.spawn(task, &self.watcher);
    }

    /// Compares the progress of all tasks with the head of the log from now on.
    pub(super) fn watch(&mut self, views: Vec<(String, ReadLive)>) {
        let (watcher, log, models) = (self.watcher.clone(), self.store.clone(), self.checkpoint.clone());
        self.watch.spawn_watch(|stop| async move { watcher.watch(log, models, views, stop).await }.boxed());
    }

    /// Keeps the gauges about the log up to date from now on.
    pub(super) fn observe(&mut self, observer: Observer) {
        self.watch.spawn_watch(|stop| observer.run(stop).boxed());
    }

    /// Returns a receiver of the state of each task, updated with every change.
    ///
    /// Each task reports what it waits for and why it fails. In addition, the app compares the position of each task with the head of the log,
    /// as [`HealthOptions`] say, so a task that makes no progress is noticed even without an error.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.watcher.health()
    }

    /// Returns a handle that looks at the state of the app at any time, for the probes of a supervisor.
    pub fn probe(&self) -> Probe {
        Probe::new(self.watcher.clone())
    }

    /// Waits until every part of the app has applied a command's events (read your own writes). It reads the checkpoint of a part that
    /// another process runs, so it works in every role.
    ///
    /// A part that has parked the events' aggregate counts as having applied them. For a view, this waits until readers see the events: in the
    /// live generation, even if this app runs another one.
    ///
    /// # Errors
    /// [`Behind`](crate::ErrorKind::Behind) if a part has not applied the events within `timeout`, with the part's name and position;
    /// [`TimedOut`](crate::ErrorKind::TimedOut) if the store has not assigned a position to the events by then; otherwise a
    /// [read error](crate::Error#read-errors).
    ///
    /// # Cancel safety
    /// May be dropped at any time: it changes nothing.
    pub async fn wait_for(&self, events: impl Into<Token>, timeout: Duration) -> Result<()> {
        self.waiting.wait(self.waiting.all(), Goal::Events(events.into()), timeout).await
    }

    /// Waits until the projection, view, reaction or process called `name` has applied a command's events. Pass its constant, such as
    /// `Spent::NAME`.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for), and [`Invalid`](crate::ErrorKind::Invalid) if the app has no part called `name`.
    ///
    /// # Cancel safety
    /// May be dropped at any time: it changes nothing.
    pub async fn wait_for_one(&self, name: &str, events: impl Into<Token>, timeout: Duration) -> Result<()> {
        self.waiting.wait(self.waiting.named(name)?, Goal::Events(events.into()), timeout).await
    }

    /// Waits until every part of the app has applied all events that are now in the log.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    ///
    /// # Cancel safety
    /// May be dropped at any time: it changes nothing.
    pub async fn wait_for_all(&self, timeout: Duration) -> Result<()> {
        let head = self.waiting.head().await?;
        self.waiting.wait(self.waiting.all(), head, timeout).await
    }

    /// Waits until every part that this process runs has applied the log up to `position`.
    pub async fn has_applied(&self, position: Position) {
        self.waiting.wait_here(position).await;
    }

    /// Stops the workers first, then the relays, then closes the log. Each task finishes its current batch.
    ///
    /// Each of these three steps has the [grace period](crate::App::with_grace). At its end, handlers that have not returned are dropped with
    /// their transactions; a later start repeats their events.
    ///
    /// The read models stay open for readers. [Close](crate::ReadModel::close) them after the last read, or drop their last handle.
    ///
    /// # Errors
    /// [`TimedOut`](crate::ErrorKind::TimedOut) with the name of a task that was dropped, or if the log could not be closed in time. Otherwise
    /// the error of closing the log.
    pub async fn stop(mut self) -> Result<()> {
        let workers = self.workers.stop().await;
        let relays = self.relays.stop().await;
        let watch = self.watch.stop().await;
        let closed = timeout(self.grace, self.store.close()).await.unwrap_or_else(|_| {
            Err(ErrorKind::TimedOut(format!(
                "the log did not close within {:?}: a call on it has not returned",
                self.grace
            ))
            .into())
        });
        workers.and(relays).and(watch).and(closed)
    }
}
