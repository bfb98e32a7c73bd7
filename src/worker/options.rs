//! Settings of a worker.

use std::time::Duration;

use crate::backoff::{Delays, delays};
use crate::worker::parking::ParkingOptions;

/// The first wait after something failed.
const FIRST_DELAY: Duration = Duration::from_millis(5);

/// Settings of a [`Worker`](crate::Worker).
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use retell::WorkerOptions;
///
/// // For a projection that may lag: larger batches, and fewer transactions.
/// let bulk = WorkerOptions::new().with_batch_events(5_000).with_gather(Duration::from_millis(50));
///
/// // For a projection whose events fail often: park an aggregate after two short retries.
/// let brittle = WorkerOptions::new().with_retries(2).with_longest_delay(Duration::from_millis(200));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerOptions {
    pub(super) batch_events: usize,
    pub(super) messages: usize,
    pub(super) gather: Duration,
    pub(super) sweep: Duration,
    pub(super) retries: usize,
    longest_delay: Duration,
    pub(super) parking: ParkingOptions,
}

impl WorkerOptions {
    /// Returns the defaults: batches of up to 1,000 events, made of those that arrived while the last one was committed; a sweep every
    /// 500 ms; 5 retries of a failing event, at most 5 seconds apart, before its aggregate is parked as [`ParkingOptions::new`] says.
    pub fn new() -> Self {
        Self {
            batch_events: 1_000,
            messages: 100,
            gather: Duration::ZERO,
            sweep: Duration::from_millis(500),
            retries: 5,
            longest_delay: Duration::from_secs(5),
            parking: ParkingOptions::new(),
        }
    }

    /// Applies at most `events` in one transaction.
    pub fn with_batch_events(mut self, events: usize) -> Self {
        self.batch_events = events.max(1);
        self
    }

    /// Lets a batch wait up to `gather` to become larger. This saves transactions and delays each event by as much. By default a batch
    /// does not wait: the busier the log, the more events arrive while the last batch is committed.
    pub fn with_gather(mut self, gather: Duration) -> Self {
        self.gather = gather;
        self
    }

    /// Compares with the log's head every `sweep`. This is the longest delay of an event that the broker lost, and the longest wait of a
    /// worker on standby.
    pub fn with_sweep(mut self, sweep: Duration) -> Self {
        self.sweep = sweep;
        self
    }

    /// Retries a failing event in place `retries` times before its aggregate is parked.
    pub fn with_retries(mut self, retries: usize) -> Self {
        self.retries = retries;
        self
    }

    /// Sets the longest wait between two attempts in place, and between two probes during an outage.
    pub fn with_longest_delay(mut self, delay: Duration) -> Self {
        self.longest_delay = delay;
        self
    }

    /// Sets when parked aggregates are retried, and what counts as an outage.
    pub fn with_parking(mut self, parking: ParkingOptions) -> Self {
        self.parking = parking;
        self
    }

    /// Returns the waits between attempts.
    pub(super) fn delays(&self) -> Delays {
        delays(FIRST_DELAY, self.longest_delay)
    }

    /// Returns the waits of a worker on standby, which loses one race after another. None is longer than the sweep: if the winner is gone,
    /// its work is taken up as soon as a lost message.
    pub(super) fn standby(&self) -> Delays {
        delays(FIRST_DELAY, self.sweep)
    }
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self::new()
    }
}
