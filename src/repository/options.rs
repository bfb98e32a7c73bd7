//! Settings of a repository.

use std::time::Duration;

use crate::backoff::delays;

/// The default number of aggregates that stay in memory.
const CACHED_AGGREGATES: u64 = 10_000;

/// The default number of older snapshots of an aggregate. A stream of 100,000 events then replays at most 8,192 events to any version, some
/// hundredths of a second.
const OLDER_SNAPSHOTS: u32 = 16;

/// Settings of a [`Repository`](crate::Repository).
///
/// # Examples
/// ```
/// use retell::{RepositoryOptions, RetryPolicy};
///
/// let options = RepositoryOptions::new().with_cached_aggregates(50_000).with_retry(RetryPolicy::new().with_retries(3));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepositoryOptions {
    pub(super) cached_aggregates: u64,
    pub(super) retry: RetryPolicy,
    pub(super) command_timeout: Duration,
    pub(super) older_snapshots: u32,
}

impl RepositoryOptions {
    /// Creates the default settings: 10,000 aggregates stay in memory, conflicts are retried by the default [`RetryPolicy`], a command takes
    /// at most 30 seconds, and up to 16 older snapshots of an aggregate are kept.
    pub fn new() -> Self {
        Self {
            cached_aggregates: CACHED_AGGREGATES,
            retry: RetryPolicy::new(),
            command_timeout: Duration::from_secs(30),
            older_snapshots: OLDER_SNAPSHOTS,
        }
    }

    /// Sets the longest time of a command, 30 seconds by default: as long as the limit of one call to a database server. It includes the wait for
    /// earlier commands on the aggregate, every call to the store, and the retries. After that, the command fails with
    /// [`CommandError::Transient`](crate::CommandError::Transient), and its events may have been written.
    pub fn with_command_timeout(mut self, timeout: Duration) -> Self {
        self.command_timeout = timeout;
        self
    }

    /// Sets how many aggregates stay in memory. With 0, each command loads its aggregate from the store.
    pub fn with_cached_aggregates(mut self, aggregates: u64) -> Self {
        self.cached_aggregates = aggregates;
        self
    }

    /// Sets how many snapshots of an aggregate are kept besides the newest one, evenly spaced along its stream. They are where
    /// [`load_at`](crate::Repository::load_at) starts: it replays at most `2 / snapshots` of the stream. Each takes the space of one state.
    /// With 0, only the newest snapshot is kept.
    pub fn with_older_snapshots(mut self, snapshots: u32) -> Self {
        self.older_snapshots = snapshots;
        self
    }

    /// Sets the policy for retries after a conflict.
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

/// The policy for retries after a conflict: how often a command is decided again, and how long it waits before each retry.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use retell::{RepositoryOptions, RetryPolicy};
///
/// // For an aggregate that many processes change at once: more retries, further apart.
/// let patient = RetryPolicy::new()
///     .with_retries(20)
///     .with_first_delay(Duration::from_millis(5))
///     .with_longest_delay(Duration::from_secs(1));
/// let options = RepositoryOptions::new().with_retry(patient);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    retries: usize,
    first_delay: Duration,
    longest_delay: Duration,
}

impl RetryPolicy {
    /// Creates the default policy: 8 retries, with waits that double from 1 ms up to 100 ms, a few hundred milliseconds in total. Commands of
    /// one process do not conflict, so this covers the rare race between two processes.
    pub fn new() -> Self {
        Self { retries: 8, first_delay: Duration::from_millis(1), longest_delay: Duration::from_millis(100) }
    }

    /// Sets the number of attempts after the first. With 0, the first conflict is returned.
    pub fn with_retries(mut self, retries: usize) -> Self {
        self.retries = retries;
        self
    }

    /// Sets the wait before the first retry. The wait doubles with each retry, and a random part is added.
    pub fn with_first_delay(mut self, delay: Duration) -> Self {
        self.first_delay = delay;
        self
    }

    /// Sets the longest wait before a retry, without the random part.
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
