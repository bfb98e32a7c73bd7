//! Settings of a worker.

use std::time::Duration;

use crate::backoff::{Delays, delays};
use crate::worker::due::Due;
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
    pub(super) longest_delay: Duration,
    pub(super) batch_time: Duration,
    pub(super) longest_call: Duration,
    pub(super) grace: Duration,
    pub(super) catch_up_limit: Duration,
    pub(super) parking: ParkingOptions,
    pub(super) continues_traces: bool,
}

impl WorkerOptions {
    /// Returns the defaults: batches of up to 1,000 events, made of those that arrived while the last one was committed; a sweep every
    /// 500 ms; 5 retries of a failing event, at most 5 seconds apart, before its aggregate is parked as [`ParkingOptions::new`] says;
    /// transactions of about 10 seconds at most; 20 seconds for a call of the handler, and 30 seconds for it to end when the worker is stopped.
    pub fn new() -> Self {
        Self {
            batch_events: 1_000,
            messages: 100,
            gather: Duration::ZERO,
            sweep: Duration::from_millis(500),
            retries: 5,
            longest_delay: Duration::from_secs(5),
            batch_time: Duration::from_secs(10),
            longest_call: Duration::from_secs(20),
            grace: Duration::from_secs(30),
            catch_up_limit: Duration::from_secs(30),
            parking: ParkingOptions::new(),
            continues_traces: false,
        }
    }

    /// Returns the rule for retries that a wrong clock has planned.
    pub(super) fn due(&self) -> Due {
        Due::new(self.parking.longest_wait(), self.longest_call)
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

    /// Sizes batches so that the handler takes about `time` for each (10 seconds by default). A server ends a transaction that is idle for too
    /// long, after 30 seconds on PostgreSQL and MariaDB if the library has opened the connection. Also, a longer batch loses more work if it
    /// fails. The first batches of a worker are small, until it knows how long the handler takes.
    pub fn with_batch_time(mut self, time: Duration) -> Self {
        self.batch_time = time;
        self
    }

    /// Drops a call of the handler after `limit` (20 seconds by default), with its transaction. The call counts as a failure of its events: they
    /// are applied one by one, and an event that takes too long alone has its aggregate parked. The default is less than
    /// the 30 seconds after which a server ends an idle transaction: then nothing of the call would be committed.
    ///
    /// A handler that blocks its thread cannot be dropped before it returns.
    pub fn with_longest_call(mut self, limit: Duration) -> Self {
        self.longest_call = limit;
        self
    }

    /// Gives the handler `grace` to return after the worker was told to stop (30 seconds by default, which is also the time between the first
    /// and the last signal of most supervisors). Then the handler is dropped with its transaction, and the run ends with
    /// [`ErrorKind::TimedOut`](crate::ErrorKind::TimedOut).
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Lets [`catch_up`](crate::Worker::catch_up) return the error of a database that has been unreachable for `limit`. The default is 30
    /// seconds: longer than a server takes to restart, and short enough for a job that a scheduler repeats.
    ///
    /// [`run`](crate::Worker::run) has no such limit, because it continues when the database is back.
    pub fn with_catch_up_limit(mut self, limit: Duration) -> Self {
        self.catch_up_limit = limit;
        self
    }

    /// Sets when parked aggregates are retried, and what counts as an outage.
    pub fn with_parking(mut self, parking: ParkingOptions) -> Self {
        self.parking = parking;
        self
    }

    /// Runs a handler that gets a single event in the trace of that event, instead of in a trace of its own with a link to it. So one trace leads
    /// from a command to the read model. Events that arrive together are applied together, and keep their links. A projection that catches up
    /// has a trace of its own.
    pub fn with_traces_of_events(mut self) -> Self {
        self.continues_traces = true;
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
