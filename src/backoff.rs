//! Backoff between attempts, and the loop that retries transient errors.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, reason};
use crate::pulse::Pulse;
use crate::status::{Reporter, Wait};

/// A loop that fails for this long, or twice, is reported as a wait. A single short failure, such as a deadlock, is not.
const REPORTED_AFTER: Duration = Duration::from_secs(1);

/// An endless sequence of waits, each about twice as long as the one before. [`Iterator::take`] bounds it.
#[derive(Debug)]
pub(crate) struct Delays {
    waits: ExponentialBackoff,
    longest: Duration,
    /// The time after which a transient error is returned.
    limit: Option<Duration>,
    began: Instant,
    report: Option<Report>,
    pulse: Option<Pulse>,
}

/// The report of a loop that fails. It ends with the loop.
#[derive(Debug)]
struct Report {
    reporter: Reporter,
    on: Wait,
    failures: u32,
    is_reported: bool,
}

impl Drop for Report {
    fn drop(&mut self) {
        if self.is_reported {
            self.reporter.done(self.on);
        }
    }
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
    Delays { waits, longest, limit: None, began: Instant::now(), report: None, pulse: None }
}

impl Delays {
    /// Reports the errors of the loop to `reporter`, as a wait `on` the other side. The report ends when this value is dropped.
    pub(crate) fn reporting(mut self, reporter: &Reporter, on: Wait) -> Self {
        self.report = Some(Report { reporter: reporter.clone(), on, failures: 0, is_reported: false });
        self
    }

    /// Takes each wait for a rest of the loop with `pulse`.
    pub(crate) fn resting(mut self, pulse: &Pulse) -> Self {
        self.pulse = Some(pulse.clone());
        self
    }

    /// Returns a transient error instead of sleeping once `limit` has passed, if there is a limit.
    pub(crate) fn with_limit(mut self, limit: Option<Duration>) -> Self {
        self.limit = limit;
        self
    }

    /// Reports a failure of the loop.
    fn report(&mut self, error: &Error) {
        let (is_long, Some(report)) = (self.began.elapsed() >= REPORTED_AFTER, &mut self.report) else { return };
        report.failures += 1;
        if report.failures > 1 || is_long {
            report.is_reported = true;
            report.reporter.waits_after(report.on, reason(error));
        } else {
            report.reporter.saw(error);
        }
    }

    /// Returns the next wait.
    pub(crate) fn next_delay(&mut self) -> Duration {
        self.waits.next().unwrap_or(self.longest)
    }

    /// Sleeps for the next wait, or until `stop` is canceled. Returns `false` if `stop` is canceled.
    pub(crate) async fn pause(&mut self, stop: &CancellationToken) -> bool {
        let _rest = self.pulse.as_ref().map(Pulse::rest);
        stop.run_until_cancelled(tokio::time::sleep(self.next_delay())).await;
        !stop.is_cancelled()
    }

    /// Reports an error that may pass, and sleeps for the next wait: a transient error, or a store that is full or read-only. Such a store needs
    /// a person or a failover, so the wait is the longest.
    ///
    /// # Errors
    /// Returns `failed` if it is of another kind, if the limit has passed, or if `stop` is canceled.
    pub(crate) async fn pause_after(&mut self, failed: Error, stop: &CancellationToken) -> Result<()> {
        let is_over = self.limit.is_some_and(|limit| self.began.elapsed() >= limit);
        if failed.is_outage() && !is_over && self.pause_for(&failed, stop).await { Ok(()) } else { Err(failed) }
    }

    /// Sleeps as [`pause_after`](Self::pause_after) does. Returns `false` if `stop` is canceled.
    pub(crate) async fn pause_for(&mut self, outage: &Error, stop: &CancellationToken) -> bool {
        self.report(outage);
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
