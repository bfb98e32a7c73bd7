//! Parking, as far as it needs no database: its settings, the parked aggregates a worker knows of, and the breaker that tells an outage
//! from poison.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use tokio::time::Instant;

use crate::backoff::delays;
use crate::error::{Error, reason};
use crate::event::RecordedEvent;
use crate::id::StreamId;
use crate::store::model::parking::{Parked, ParkedState, Parking, ParkingChange};
use crate::worker::due::Due;

/// How a worker parks aggregates and retries them; part of [`WorkerOptions`](crate::WorkerOptions).
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use retell::{ParkingOptions, WorkerOptions};
///
/// // Retry a parked aggregate after 5 seconds, later every half hour. Assume an outage after 20 failures in a row.
/// let parking = ParkingOptions::new()
///     .with_retries(48)
///     .with_delays(Duration::from_secs(5), Duration::from_mins(30))
///     .with_outage_after(20);
/// let options = WorkerOptions::new().with_parking(parking);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkingOptions {
    retries: u32,
    first_delay: Duration,
    longest_delay: Duration,
    outage_failures: usize,
    longest_outage: Duration,
}

impl ParkingOptions {
    /// Returns the defaults: a parked aggregate is retried after 1 second, then after about twice as long each time, up to 10 minutes; after 16
    /// retries, more than an hour, it is dead. Failures of 5 aggregates in a row are an outage, for at most 10 minutes.
    pub fn new() -> Self {
        Self {
            retries: 16,
            first_delay: Duration::from_secs(1),
            longest_delay: Duration::from_mins(10),
            outage_failures: 5,
            longest_outage: Duration::from_mins(10),
        }
    }

    /// Retries a parked aggregate `retries` times (minimum 1) before it is dead.
    pub fn with_retries(mut self, retries: u32) -> Self {
        self.retries = retries.max(1);
        self
    }

    /// Waits `first` before the first retry, and at most `longest` before any.
    pub fn with_delays(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_delay, self.longest_delay) = (first.min(longest), longest);
        self
    }

    /// Takes it for an outage if `aggregates` (minimum 1) fail in a row with no event applied in between: something is down that all of them
    /// need. Nothing is parked then, and the first of them is retried until it succeeds.
    pub fn with_outage_after(mut self, aggregates: usize) -> Self {
        self.outage_failures = aggregates.max(1);
        self
    }

    /// Parks the aggregates after an outage of `time`: as many may really be poisoned, and the worker must not stop forever.
    pub fn with_longest_outage(mut self, time: Duration) -> Self {
        self.longest_outage = time;
        self
    }

    /// Returns the longest delay, without jitter.
    pub(super) fn longest_wait(&self) -> Duration {
        self.longest_delay
    }

    /// Whether an aggregate is dead after `attempts`.
    pub(super) fn is_spent(&self, attempts: u32) -> bool {
        attempts > self.retries
    }

    fn next_at(&self, attempts: u32) -> DateTime<Utc> {
        let mut delays = delays(self.first_delay, self.longest_delay);
        // The factor is 2, so the longest delay is reached long before.
        let delay = delays.nth(attempts.saturating_sub(1).min(64) as usize).unwrap_or(self.longest_delay);
        let delay = TimeDelta::from_std(delay).unwrap_or(TimeDelta::MAX);
        Utc::now().checked_add_signed(delay).unwrap_or(DateTime::<Utc>::MAX_UTC).trunc_subsecs(6)
    }

    /// Returns the row of an aggregate that fails for the first time, on `event`.
    pub(super) fn parked(&self, event: &RecordedEvent, error: &Error) -> Parked {
        Parked {
            stream: event.stream.clone(),
            from_version: event.version,
            from_position: event.position,
            error: reason(error),
            attempts: 1,
            next_at: self.next_at(1),
            state: ParkedState::Waiting,
        }
    }

    /// Counts one more failure of a parked aggregate.
    pub(super) fn failed(&self, parked: &mut Parked, error: &Error) {
        parked.attempts = parked.attempts.saturating_add(1);
        self.postpone(parked, error);
    }

    /// Puts off the retry of an aggregate whose events could not be read.
    pub(super) fn postpone(&self, parked: &mut Parked, error: &Error) {
        parked.error = reason(error);
        parked.next_at = self.next_at(parked.attempts);
    }
}

impl Default for ParkingOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns a parked aggregate with `event` as the first of its events that is not applied.
pub(super) fn from_event(parked: Parked, event: &RecordedEvent) -> Parked {
    Parked { from_version: event.version, from_position: event.position, ..parked }
}

/// Returns a parked aggregate whose handler failed after `took`. Its retry comes no earlier than ten times later, so that an aggregate whose
/// handler never returns costs at most a tenth of the worker's time.
pub(super) fn rested(parked: Parked, took: Duration, due: Due) -> Parked {
    let earliest = due.after(took.saturating_mul(10)).trunc_subsecs(6);
    Parked { next_at: parked.next_at.max(earliest), ..parked }
}

/// The parked aggregates that a worker knows of.
///
/// Invariant: in log order they are those of the table, as of the checkpoint that the worker holds. They are read after the checkpoint, and each
/// step of the worker names the count of changes that was read with them: if the table has changed since, the step fails, and both are read again.
#[derive(Debug)]
pub(super) struct ParkedAggregates {
    pub(super) changes: u64,
    parked: HashMap<StreamId, Parked>,
    next_due: Option<DateTime<Utc>>,
    due: Due,
}

impl ParkedAggregates {
    pub(super) fn of(parking: Parking, due: Due) -> Self {
        let parked = parking.parked.into_iter().map(|parked| (parked.stream.clone(), parked)).collect();
        let mut known = Self { changes: parking.changes, parked, next_due: None, due };
        known.find_next_due();
        known
    }

    pub(super) fn len(&self) -> usize {
        self.parked.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    pub(super) fn holds(&self, stream: &StreamId) -> bool {
        self.parked.contains_key(stream)
    }

    /// Takes over what a step has written.
    pub(super) fn take(&mut self, step_changes: u64, parking: &[ParkingChange]) {
        self.changes = step_changes;
        for change in parking {
            match change {
                ParkingChange::Park(parked) => drop(self.parked.insert(parked.stream.clone(), parked.clone())),
                ParkingChange::Release(stream) => drop(self.parked.remove(stream)),
            }
        }
        if !parking.is_empty() {
            self.find_next_due();
        }
    }

    fn waiting(&self) -> impl Iterator<Item = &Parked> {
        self.parked.values().filter(|parked| parked.state == ParkedState::Waiting)
    }

    fn find_next_due(&mut self) {
        self.next_due = self.waiting().map(|parked| parked.next_at).min();
    }

    /// Returns how long it is until the next one is due.
    pub(super) fn rest(&self) -> Option<Duration> {
        Some(self.due.rest(self.next_due?, Utc::now()))
    }

    /// Returns at most `limit` aggregates that are due, the longest overdue first.
    pub(super) fn due(&self, limit: usize) -> Vec<StreamId> {
        let now = Utc::now();
        if self.next_due.is_none_or(|next_due| !self.due.is_due(next_due, now)) {
            return Vec::new();
        }
        let mut due: Vec<_> = self.waiting().filter(|parked| self.due.is_due(parked.next_at, now)).collect();
        due.sort_by_key(|parked| (parked.next_at, parked.from_position));
        due.into_iter().take(limit).map(|parked| parked.stream.clone()).collect()
    }

    /// Returns a parked aggregate if it is due.
    pub(super) fn due_one(&self, stream: &StreamId) -> Option<Parked> {
        let parked = self.parked.get(stream)?;
        let is_due = parked.state == ParkedState::Waiting && self.due.is_due(parked.next_at, Utc::now());
        is_due.then(|| parked.clone())
    }
}

/// Tells an outage from poison: in an outage every aggregate fails.
///
/// An aggregate that fails is not parked at once but together with the next events that can be applied. If none of the next few can, nothing
/// suggests poison, and nothing is parked. If a batch ends before that is clear, the aggregate is parked on suspicion, and counted: if it was an
/// outage, its retry succeeds later.
#[derive(Debug)]
pub(super) struct Breaker {
    /// Aggregates parked on suspicion since the last event that was applied.
    suspects: usize,
    /// When the outage began.
    since: Option<Instant>,
    /// The outage has lasted too long. The next one begins after an event was applied.
    spent: bool,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self { suspects: 0, since: None, spent: false }
    }

    /// Closes the breaker: an event was applied.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }

    /// Counts aggregates that are parked before it is clear whether this is an outage.
    pub(super) fn suspect(&mut self, aggregates: usize) {
        self.suspects += aggregates;
        self.since = None;
    }

    pub(super) fn is_open(&self) -> bool {
        self.since.is_some()
    }

    /// Whether it is an outage after `failed` more aggregates have failed.
    pub(super) fn trips(&mut self, failed: usize, options: &ParkingOptions) -> bool {
        if self.spent || self.suspects + failed < options.outage_failures {
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= options.longest_outage {
            (self.since, self.spent) = (None, true);
        }
        !self.spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_breaker_opens_for_a_bounded_time_and_resets_on_success() {
        let options = ParkingOptions::new().with_outage_after(3).with_longest_outage(Duration::from_mins(1));
        let mut breaker = Breaker::new();
        breaker.suspect(1);
        assert!(!breaker.trips(1, &options), "two are no outage");
        assert!(breaker.trips(2, &options) && breaker.is_open());
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(breaker.trips(2, &options), "a minute is not over");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!breaker.trips(2, &options) && !breaker.is_open(), "it must not stop forever");
        assert!(!breaker.trips(99, &options), "nor once more before something was applied");
        breaker.reset();
        assert!(!breaker.trips(2, &options));
        assert!(breaker.trips(3, &options));
    }
}
