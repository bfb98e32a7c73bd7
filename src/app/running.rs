//! An app that has been started.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;

use crate::app::health::Health;
use crate::app::part::Part;
use crate::app::tasks::{Group, OnFailure, Task, Watcher};
use crate::app::waiting::{Checkpoint, Goal, Waiting};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::id::Position;
use crate::relay::Relay;
use crate::store::log::event_store::EventStore;
use crate::store::log::token::Token;
#[cfg(doc)]
use crate::store::model::read_model::ReadModel;

/// An [`App`](crate::App) that has been started. Dropped, it ends its tasks where they are.
pub struct Running {
    store: Arc<dyn EventStore>,
    watcher: Watcher,
    workers: Group,
    relays: Group,
    waiting: Waiting,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("health", &*self.watcher.health().borrow()).finish_non_exhaustive()
    }
}

impl Running {
    pub(super) fn new(store: Arc<dyn EventStore>, checkpoint: Checkpoint, on_failure: OnFailure) -> Self {
        let waiting = Waiting::new(store.clone(), checkpoint);
        let watcher = Watcher::new(on_failure);
        Self { store, watcher, workers: Group::new(), relays: Group::new(), waiting }
    }

    /// Runs a part of the app in this process.
    pub(super) fn run(&mut self, part: &Arc<dyn Part>) {
        self.waiting.add(part.name(), Some(part.applied()));
        let runner = part.clone();
        let task = Task::new(part.name(), move |stop| {
            let part = runner.clone();
            async move { part.run(stop).await }.boxed()
        });
        self.workers.spawn(task, &self.watcher);
    }

    /// Knows of a part of the app that another process runs.
    pub(super) fn await_elsewhere(&mut self, part: &dyn Part) {
        self.waiting.add(part.name(), None);
    }

    pub(super) fn relay(&mut self, name: &str, relay: Relay) {
        let relay = Arc::new(relay);
        let task = Task::new(name, move |stop| {
            let relay = relay.clone();
            async move { relay.run(stop).await }.boxed()
        });
        self.relays.spawn(task, &self.watcher);
    }

    /// Returns the state of each task, as it changes.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.watcher.health()
    }

    /// Waits until everything that the app describes has applied a command's events: read your own writes. A part that another process
    /// runs is asked through its checkpoint, so this works in every role.
    ///
    /// A part that has parked the events' aggregate counts as past them.
    ///
    /// # Errors
    /// [`ErrorKind::Behind`] after `timeout`, with the part that is behind and how far it is; otherwise a read error.
    ///
    /// # Cancel safety
    /// May be dropped at any time: it changes nothing.
    pub async fn wait_for(&self, events: impl Into<Token>, timeout: Duration) -> Result<()> {
        self.waiting.wait(self.waiting.all(), Goal::Events(events.into()), timeout).await
    }

    /// Waits until one projection, view, reaction or process has applied a command's events. Takes its name, such as `Spent::NAME`.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for), and [`ErrorKind::Invalid`] if the app describes nothing of that name.
    ///
    /// # Cancel safety
    /// May be dropped at any time: it changes nothing.
    pub async fn wait_for_one(&self, name: &str, events: impl Into<Token>, timeout: Duration) -> Result<()> {
        self.waiting.wait(self.waiting.named(name)?, Goal::Events(events.into()), timeout).await
    }

    /// Waits until everything that the app describes has applied all events that are in the log now.
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

    /// Waits until everything that this process runs has applied the log up to a position.
    pub async fn has_applied(&self, position: Position) {
        self.waiting.wait_here(position).await;
    }

    /// Stops workers first, then relays, then closes the log. Each finishes the batch it is working on.
    ///
    /// The read models stay open for readers. Their last user [closes](ReadModel::close) them, or drops the last handle.
    ///
    /// # Errors
    /// Returns the error of closing the log.
    pub async fn stop(mut self) -> Result<()> {
        self.workers.stop().await;
        self.relays.stop().await;
        self.store.close().await
    }
}
