//! The reasons why a relay stops publishing, and a retry loop that ends with such a reason.

use tokio_util::sync::CancellationToken;

use crate::backoff::{Delays, retry_transient};
use crate::error::{Error, Result};
use crate::relay::lease::Lease;

/// The reason why a relay stops publishing.
pub(super) enum Halt {
    Stopped,
    /// Another relay holds the lease, or may hold it soon.
    LeaseLost,
    Failed(Error),
}

/// Runs `attempt` and retries transient errors until `stop` is canceled. Makes no attempt unless the relay certainly holds `lease`, if given.
pub(super) async fn retry<T, F: Future<Output = Result<T>>>(
    stop: &CancellationToken,
    delays: Delays,
    lease: Option<&Lease>,
    attempt: impl Fn() -> F,
) -> Result<T, Halt> {
    let guarded = || {
        let attempt = lease.is_none_or(Lease::is_certain).then(&attempt);
        async move {
            match attempt {
                Some(attempt) => attempt.await.map(Some),
                None => Ok(None),
            }
        }
    };
    match retry_transient(stop, delays, guarded).await {
        Ok(Some(done)) => Ok(done),
        Ok(None) => Err(Halt::LeaseLost),
        Err(error) if error.is_outage() => Err(Halt::Stopped),
        Err(error) => Err(Halt::Failed(error)),
    }
}
