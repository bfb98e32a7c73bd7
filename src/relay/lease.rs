//! Which relay publishes: the one that has the lease, while it is certain to have it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backoff::{delays, retry_transient};
use crate::error::Result;
use crate::id::Fence;
use crate::store::log::relay::RelayStore;

/// The first wait after a request about the lease failed.
const FIRST_DELAY: Duration = Duration::from_millis(10);

/// A relay's hold on the lease of its name.
pub(super) struct Lease {
    store: Arc<dyn RelayStore>,
    name: String,
    holder: Uuid,
    length: Duration,
    /// When it ends, by this process's monotonic clock. Counted from before the request, so never later than the end in the store.
    until: Mutex<Instant>,
}

impl Lease {
    pub(super) fn new(store: Arc<dyn RelayStore>, name: String, length: Duration) -> Self {
        Self { store, name, holder: Uuid::now_v7(), length, until: Mutex::new(Instant::now()) }
    }

    /// Acquires or renews the lease. Returns `None` while another relay has it.
    pub(super) async fn acquire(&self) -> Result<Option<Fence>> {
        let asked = Instant::now();
        let fence = self.store.acquire_lease(&self.name, self.holder, self.length).await?;
        if fence.is_some() {
            *self.until.lock().unwrap_or_else(PoisonError::into_inner) = asked + self.length;
        }
        Ok(fence)
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether no other relay can have the lease. Checked before each step that others could see: a process that was suspended
    /// finds out here, whichever of its tasks runs first.
    pub(super) fn is_certain(&self) -> bool {
        Instant::now() < self.until()
    }

    /// Renews the lease after each third of its length. Returns when it is lost: another relay has it, or it is no longer certain.
    pub(super) async fn keep(&self, fence: Fence) -> Result<()> {
        loop {
            // Two thirds are left for requests that fail.
            sleep_until(self.until() - self.length * 2 / 3).await;
            match timeout_at(self.until(), self.retry(|| self.acquire())).await {
                Ok(Ok(Some(same))) if same == fence => {}
                Ok(Ok(_)) | Err(_) => return Ok(()),
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    /// Retries until the store answers. The caller sets the time limit.
    async fn retry<T, F: Future<Output = Result<T>>>(&self, attempt: impl Fn() -> F) -> Result<T> {
        // Twice that with jitter: within a tenth of the length there is time for at least two attempts.
        let delays = delays(FIRST_DELAY, self.length / 50);
        retry_transient(&CancellationToken::new(), delays, attempt).await
    }

    /// Waits a sixth to a third of the lease's length: the longest time after its end until another relay takes over.
    pub(super) async fn stand_by(&self, stop: &CancellationToken) {
        delays(self.length / 6, self.length / 6).pause(stop).await;
    }

    /// Releases the lease, so that another relay need not wait for its end. If the store does not answer within a tenth of the lease's
    /// length, the lease is left to expire.
    pub(super) async fn release(&self) -> Result<()> {
        let until = self.until().min(Instant::now() + self.length / 10);
        let released = self.retry(|| self.store.release_lease(&self.name, self.holder));
        timeout_at(until, released).await.unwrap_or(Ok(()))
    }
}
