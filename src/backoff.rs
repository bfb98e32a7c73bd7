//! Backoff between attempts, and the loop that retries transient errors.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// An endless sequence of waits, each about twice as long as the one before. [`Iterator::take`] bounds it.
#[derive(Debug)]
pub(crate) struct Delays {
    waits: ExponentialBackoff,
    longest: Duration,
}

/// Returns waits that double from `first` up to `longest`. A random part of up to its own length is added to each wait, so that callers
/// that failed together do not retry together.
pub(crate) fn delays(first: Duration, longest: Duration) -> Delays {
    let waits = ExponentialBuilder::new()
        .with_min_delay(first.min(longest))
        .with_max_delay(longest)
        .without_max_times()
        .with_jitter()
        .build();
    Delays { waits, longest }
}

impl Delays {
    /// Returns the next wait.
    pub(crate) fn next_delay(&mut self) -> Duration {
        self.waits.next().unwrap_or(self.longest)
    }

    /// Sleeps for the next wait, or until `stop` is canceled. Returns `false` if `stop` is canceled.
    pub(crate) async fn pause(&mut self, stop: &CancellationToken) -> bool {
        stop.run_until_cancelled(tokio::time::sleep(self.next_delay())).await;
        !stop.is_cancelled()
    }

    /// Sleeps for the next wait after an error that may pass: a transient one, or a store that is full or read-only. Such a store needs a
    /// person or a failover, so the wait is the longest.
    ///
    /// # Errors
    /// Returns `failed` if it is of another kind, or if `stop` is canceled.
    pub(crate) async fn pause_after(&mut self, failed: Error, stop: &CancellationToken) -> Result<()> {
        if failed.is_outage() && self.pause_for(&failed, stop).await { Ok(()) } else { Err(failed) }
    }

    /// Sleeps as [`pause_after`](Self::pause_after) does. Returns `false` if `stop` is canceled.
    pub(crate) async fn pause_for(&mut self, outage: &Error, stop: &CancellationToken) -> bool {
        if !outage.is_transient() {
            self.waits = delays(self.longest, self.longest).waits;
        }
        self.pause(stop).await
    }
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.next_delay())
    }
}

/// Runs `attempt` at least once, until it succeeds or fails with an error that is not an [outage](Error::is_outage). Sleeps for the next of
/// `delays` between attempts.
///
/// # Errors
/// Returns the error of the last attempt. It is an outage only if `stop` was canceled.
pub(crate) async fn retry_transient<T, F: Future<Output = Result<T>>>(
    stop: &CancellationToken,
    mut delays: Delays,
    mut attempt: impl FnMut() -> F,
) -> Result<T> {
    loop {
        match attempt().await {
            Err(failed) => delays.pause_after(failed, stop).await?,
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn transient() -> Error {
        Error::new(ErrorKind::Transient("connect".into()))
    }

    fn short() -> Delays {
        delays(Duration::from_millis(1), Duration::from_millis(4))
    }

    #[test]
    fn delays_double_up_to_the_longest_plus_jitter() {
        let waits: Vec<_> = short().take(5).map(|wait| wait.as_secs_f64() * 1_000.0).collect();
        for (wait, least) in waits.iter().zip([1.0, 2.0, 4.0, 4.0, 4.0]) {
            assert!((least..=2.0 * least).contains(wait), "{waits:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retry_ends_with_success_or_a_permanent_error() {
        let (stop, mut left) = (CancellationToken::new(), 3);
        let done = retry_transient(&stop, short(), || {
            left -= 1;
            std::future::ready(if left > 0 { Err(transient()) } else { Ok(left) })
        });
        assert_eq!(done.await.unwrap(), 0);
        let failed =
            retry_transient(&stop, short(), || async { Err::<(), _>(ErrorKind::Closed("store").into()) }).await;
        assert!(matches!(failed.unwrap_err().kind(), ErrorKind::Closed(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn stopped_retry_returns_the_last_error_after_one_attempt() {
        let (stop, mut attempts) = (CancellationToken::new(), 0);
        stop.cancel();
        let failed = retry_transient(&stop, short(), || {
            attempts += 1;
            std::future::ready(Err::<(), _>(transient()))
        });
        assert!(failed.await.unwrap_err().is_transient());
        assert_eq!(attempts, 1);
    }
}
