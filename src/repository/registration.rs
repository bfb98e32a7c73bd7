//! Keeps track of whether the wire shapes of a repository's events are registered with the log.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use crate::error::Result;
use crate::id::CommitId;

/// Registers before the first append and once more after it, in each history of the log.
///
/// The second time is for releases that start in the same moment: each has registered and written an event before it looks at the other's. It
/// also puts the shapes back if the log went back to a time before them, and the first append shows it.
#[derive(Debug)]
pub(super) struct Registration {
    /// Lets one command register, while the others wait for it.
    turn: Mutex<()>,
    /// The number of histories that the log has had.
    history: AtomicU64,
    /// The number of the history in which the shapes were registered before an append.
    before: AtomicU64,
    /// The number of the history in which they were registered after an append, too.
    after: AtomicU64,
    /// The newest commit of this repository.
    commit: AtomicU64,
}

impl Registration {
    pub(super) fn new() -> Self {
        Self {
            turn: Mutex::default(),
            history: AtomicU64::new(1),
            before: AtomicU64::default(),
            after: AtomicU64::default(),
            commit: AtomicU64::default(),
        }
    }

    /// Notes that the log has lost events, and perhaps shapes with them.
    pub(super) fn history_changed(&self) {
        self.history.fetch_add(1, Ordering::SeqCst);
    }

    /// Calls `register` unless this history has the shapes. Returns the newest commit, for [`after_append`](Self::after_append).
    pub(super) async fn before_append(&self, register: impl AsyncFnOnce() -> Result<()>) -> Result<CommitId> {
        self.once(&self.before, register).await?;
        Ok(CommitId::new(self.commit.load(Ordering::SeqCst)))
    }

    /// Calls `register` unless that was done after an append to this history. A later append has a higher number than `newest`; if `written` has
    /// not, the log has gone back.
    ///
    /// The append is done, so an error of `register` does not fail it: the next append registers again, and is refused.
    pub(super) async fn after_append(
        &self,
        newest: CommitId,
        written: CommitId,
        register: impl AsyncFnOnce() -> Result<()>,
    ) {
        if written > newest {
            self.commit.fetch_max(written.get(), Ordering::SeqCst);
        } else {
            self.commit.store(written.get(), Ordering::SeqCst);
            self.history_changed();
        }
        if self.once(&self.after, register).await.is_err() {
            self.before.store(0, Ordering::SeqCst);
        }
    }

    /// Calls `register` unless it has succeeded in this history.
    async fn once(&self, done: &AtomicU64, register: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
        let history = self.history.load(Ordering::SeqCst);
        if done.load(Ordering::SeqCst) >= history {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        // The history is the one from before the wait: a change meanwhile is for the next append.
        if done.load(Ordering::SeqCst) < history {
            register().await?;
            done.fetch_max(history, Ordering::SeqCst);
        }
        Ok(())
    }
}
