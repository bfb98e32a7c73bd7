//! The lease that decides which relay publishes. A relay publishes only while it certainly holds the lease.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backoff::{delays, retry_transient};
use crate::error::Result;
use crate::id::Fence;
use crate::status::{Reporter, Wait};
use crate::store::log::relay::RelayStore;

/// The first wait after a failed request about the lease.
const FIRST_DELAY: Duration = Duration::from_millis(10);

/// The lease of a relay's name, as one relay holds it.
pub(super) struct Lease {
    store: Arc<dyn RelayStore>,
    name: String,
    holder: Uuid,
    length: Duration,
    /// The end of the lease by this process's monotonic clock. It counts from before the request, so it is never later than the end in the
    /// store.
    until: Mutex<Instant>,
    reporter: Reporter,
}

impl Lease {
    pub(super) fn new(store: Arc<dyn RelayStore>, name: String, length: Duration, reporter: Reporter) -> Self {
        Self { store, name, holder: Uuid::now_v7(), length, until: Mutex::new(Instant::now()), reporter }
    }

    /// Acquires or renews the lease. Returns `None` while another relay holds it.
    pub(super) async fn acquire(&self) -> Result<Option<Fence>> {
        let requested_at = Instant::now();
        let fence = self.store.acquire_lease(&self.name, self.holder, self.length).await?;
        if fence.is_some() {
            *self.until.lock().unwrap_or_else(PoisonError::into_inner) = requested_at + self.length;
        }
        Ok(fence)
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether no other relay can hold the lease. Each step with an outside effect checks this first, so that a process that was
    /// suspended notices the loss whichever of its tasks runs first.
    pub(super) fn is_certain(&self) -> bool {
        Instant::now() < self.until()
    }

    /// Renews the lease after each third of its length. Returns once it is lost: another relay holds it, or this relay may no longer hold it.
    pub(super) async fn renew_until_lost(&self, fence: Fence) -> Result<()> {
        loop {
            // Two thirds of the length remain for retries.
            sleep_until(self.until() - self.length * 2 / 3).await;
            match timeout_at(self.until(), self.retry(|| self.acquire())).await {
                Ok(Ok(Some(same))) if same == fence => {}
                Ok(Ok(_)) | Err(_) => return Ok(()),
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    /// Retries `attempt` until the store answers. The caller sets the time limit.
    async fn retry<T, F: Future<Output = Result<T>>>(&self, attempt: impl Fn() -> F) -> Result<T> {
        // With jitter, a wait is at most twice as long: a tenth of the lease's length has time for at least two attempts.
        let delays = delays(FIRST_DELAY, self.length / 50).reporting(&self.reporter, Wait::Database);
        retry_transient(&CancellationToken::new(), delays, attempt).await
    }

    /// Waits a sixth to a third of the lease's length. After the lease's end, another relay takes over within this time.
    pub(super) async fn wait_on_standby(&self, stop: &CancellationToken) {
        delays(self.length / 6, self.length / 6).pause(stop).await;
    }

    /// Releases the lease, so that another relay need not wait for its end. If the store does not answer within a tenth of the lease's length,
    /// the lease expires instead.
    pub(super) async fn release(&self) -> Result<()> {
        let until = self.until().min(Instant::now() + self.length / 10);
        let released = self.retry(|| self.store.release_lease(&self.name, self.holder));
        timeout_at(until, released).await.unwrap_or(Ok(()))
    }
}
