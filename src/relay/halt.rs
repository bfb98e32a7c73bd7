//! Why a relay stops publishing, and the retry that ends with such a reason.

use tokio_util::sync::CancellationToken;

use crate::backoff::{Delays, retry_transient};
use crate::error::{Error, Result};
use crate::relay::lease::Lease;

/// Why a relay stops publishing.
pub(super) enum Halt {
    Stopped,
    /// Another relay has the lease, or may have it soon.
    LeaseLost,
    Failed(Error),
}

/// Retries transient errors until `stop` is cancelled. Makes no attempt while `lease`, if given, is not certain.
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
        Err(error) if error.is_transient() => Err(Halt::Stopped),
        Err(error) => Err(Halt::Failed(error)),
    }
}
