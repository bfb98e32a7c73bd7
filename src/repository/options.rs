//! Settings of a repository.

use std::time::Duration;

use crate::backoff::delays;

/// Aggregates kept in memory by default.
const CACHED_AGGREGATES: u64 = 10_000;

/// Settings of a [`Repository`](crate::Repository).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepositoryOptions {
    pub(super) cached_aggregates: u64,
    pub(super) retry: RetryPolicy,
}

impl RepositoryOptions {
    /// Keeps 10,000 aggregates in memory and retries as the default [`RetryPolicy`] says.
    pub fn new() -> Self {
        Self { cached_aggregates: CACHED_AGGREGATES, retry: RetryPolicy::new() }
    }

    /// Sets how many aggregates stay in memory; 0 loads each command's aggregate from the store.
    pub fn with_cached_aggregates(mut self, aggregates: u64) -> Self {
        self.cached_aggregates = aggregates;
        self
    }

    /// Sets the policy after a conflict.
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }
}

impl Default for RepositoryOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Limits how often a command is decided again after a conflict, and how long it waits before each retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    retries: usize,
    first_delay: Duration,
    longest_delay: Duration,
}

impl RetryPolicy {
    /// Retries 8 times and waits 1 ms to 100 ms before each, a few hundred milliseconds in all. Commands of one process do not conflict, so
    /// this covers the rare race between two processes.
    pub fn new() -> Self {
        Self { retries: 8, first_delay: Duration::from_millis(1), longest_delay: Duration::from_millis(100) }
    }

    /// Sets the number of attempts after the first; 0 returns the first conflict.
    pub fn with_retries(mut self, retries: usize) -> Self {
        self.retries = retries;
        self
    }

    /// Sets the wait before the first retry. It doubles with each retry, and a random part is added.
    pub fn with_first_delay(mut self, delay: Duration) -> Self {
        self.first_delay = delay;
        self
    }

    /// Sets the longest wait before a retry.
    pub fn with_longest_delay(mut self, delay: Duration) -> Self {
        self.longest_delay = delay;
        self
    }

    /// Returns one wait for each retry.
    pub(super) fn waits(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        delays(self.first_delay, self.longest_delay).take(self.retries)
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new()
    }
}
