//! A grace period: the time that work may take after it was told to stop.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Awaits `work`, but drops it once `grace` has passed after `stop` was canceled. Returns `None` if it was dropped.
pub(crate) async fn within_grace<T>(
    stop: &CancellationToken,
    grace: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    let over = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = over => None,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_is_dropped_when_the_grace_period_is_over() {
        let (stop, grace) = (CancellationToken::new(), Duration::from_secs(1));
        let slow = || tokio::time::sleep(Duration::from_mins(1));
        assert!(within_grace(&stop, grace, slow()).await.is_some(), "nothing is dropped before the stop");
        stop.cancel();
        assert!(within_grace(&stop, grace, slow()).await.is_none());
        assert!(within_grace(&stop, grace, pending::<()>()).await.is_none());
        assert_eq!(within_grace(&stop, grace, async { 1 }).await, Some(1));
    }
}
