//! Limits the rate of a reaction.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The period that the limit applies to.
const WINDOW: Duration = Duration::from_secs(1);

/// Allows at most `limit` starts in any second, at whatever moment that second begins. There is no limit until one is set.
#[derive(Debug, Default)]
pub(crate) struct Rate(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    limit: Option<usize>,
    /// The last `limit` starts, oldest first.
    starts: VecDeque<Instant>,
}

impl Rate {
    pub(crate) fn limit(&self, per_second: u32) {
        self.window().limit = Some(usize::try_from(per_second.max(1)).unwrap_or(usize::MAX));
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.window().limit.is_some()
    }

    /// Waits until the limit allows another start.
    pub(crate) async fn ready(&self) {
        loop {
            let Some(free_at) = self.window().free_at().filter(|free_at| *free_at > Instant::now()) else { return };
            tokio::time::sleep_until(free_at).await;
        }
    }

    /// Records a start.
    pub(crate) fn spend(&self) {
        let mut window = self.window();
        let Some(limit) = window.limit else { return };
        while window.starts.len() >= limit {
            window.starts.pop_front();
        }
        window.starts.push_back(Instant::now());
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    /// Returns the time from which another start is allowed, or `None` if it is allowed immediately.
    fn free_at(&self) -> Option<Instant> {
        let is_full = self.limit.is_some_and(|limit| self.starts.len() >= limit);
        Some(*self.starts.front().filter(|_| is_full)? + WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_second_exceeds_the_limit_and_no_start_is_late() {
        let rate = Rate::default();
        rate.limit(3);
        let mut starts = Vec::new();
        for pause in [0, 400, 300, 0, 0, 900, 0, 0, 0, 0] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            rate.ready().await;
            rate.spend();
            starts.push(Instant::now());
        }
        let first = starts[0];
        let millis: Vec<_> = starts.iter().map(|start| (*start - first).as_millis()).collect();
        assert_eq!(millis, [0, 400, 700, 1000, 1400, 2300, 2300, 2400, 3300, 3300]);
    }
}
