//! Which relay leads: whoever has the lease, as long as it can be sure of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ConstantBuilder};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::Result;
use crate::id::Fence;
use crate::relay::delays;
use crate::store::RelayStore;

/// A relay's part in the lease of its name.
pub(super) struct Lease {
    store: Arc<dyn RelayStore>,
    name: String,
    holder: Uuid,
    length: Duration,
    /// By our own clock, which nobody sets. Counted from before the request, so never after the end in the store.
    until: Mutex<Instant>,
}

impl Lease {
    pub(super) fn new(store: Arc<dyn RelayStore>, name: String, length: Duration) -> Self {
        Self { store, name, holder: Uuid::now_v7(), length, until: Mutex::new(Instant::now()) }
    }

    /// Takes or prolongs it; `None` while another relay leads.
    pub(super) async fn take(&self) -> Result<Option<Fence>> {
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

    /// Whether nobody else can have it. Asked before each step that others would see: a process that was stopped for a while finds out
    /// here, whichever of its tasks runs first.
    pub(super) fn is_sure(&self) -> bool {
        Instant::now() < self.until()
    }

    /// Prolongs it, at a third of its length, and returns when it is lost: gone to another relay, or not certain any more.
    pub(super) async fn keep(&self, fence: Fence) -> Result<()> {
        loop {
            // Two thirds are left for what may go wrong with the request.
            sleep_until(self.until() - self.length * 2 / 3).await;
            match timeout_at(self.until(), self.persist(|| self.take())).await {
                Ok(Ok(Some(same))) if same == fence => {}
                Ok(Ok(_)) | Err(_) => return Ok(()),
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    /// Tries until the store answers. The caller sets the limit.
    async fn persist<T, F: Future<Output = Result<T>>>(&self, attempt: impl Fn() -> F) -> Result<T> {
        // Twice that with its random part: whoever has a tenth of the length tries at least twice.
        let longest = self.length / 50;
        let mut delays = delays(longest);
        loop {
            match attempt().await {
                Err(error) if error.is_transient() => sleep(delays.next().unwrap_or(longest)).await,
                answer => return answer,
            }
        }
    }

    /// Waits a sixth to a third of its length: so soon after the end another relay takes over.
    pub(super) async fn stand_by(&self, stop: &CancellationToken) {
        let wait = ConstantBuilder::new().with_delay(self.length / 6).with_jitter().build().next();
        stop.run_until_cancelled(sleep(wait.unwrap_or(self.length / 3))).await;
    }

    /// Gives it back, so that another relay need not wait for its end. A store that is away is asked again for a tenth of the lease's length;
    /// after that the lease ends by itself.
    pub(super) async fn release(&self) -> Result<()> {
        let until = self.until().min(Instant::now() + self.length / 10);
        let released = self.persist(|| self.store.release_lease(&self.name, self.holder));
        timeout_at(until, released).await.unwrap_or(Ok(()))
    }
}
