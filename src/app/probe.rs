//! A handle for the probes of a supervisor.

use std::fmt;

use crate::app::health::Health;
use crate::app::watch::Watcher;

/// A handle that looks at the state of an app at any time. Clones look at the same app.
///
/// The receiver of [`Running::health`](crate::Running::health) has the state as of the last change, or the last look of the watch. This handle
/// compares the clock with the last turns of the tasks' loops in each call, so it also notices that all threads of the runtime are blocked, if
/// it is called from another thread.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use retell::prelude::*;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let running = App::new(MemoryStore::new(), MemoryReadModel::new()).start();
/// let probe = running.probe();
/// assert!(probe.look().live().yes);
/// running.health().wait_for(|health| health.ready().yes).await?;
/// running.stop().await?;
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Probe(Watcher);

impl Probe {
    pub(super) fn new(watcher: Watcher) -> Self {
        Self(watcher)
    }

    /// Returns the state now. It waits for nothing.
    pub fn look(&self) -> Health {
        self.0.refresh();
        self.0.health().borrow().clone()
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("health", &self.look()).finish()
    }
}
