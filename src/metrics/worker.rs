//! The meter of a worker.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram};

use crate::metrics::names::{APPLIED, APPLY_SECONDS, BEHIND_DEPLOY, GATE_DROPS, HOLES_HEALED, PARKINGS};
use crate::metrics::upcasts::UpcastMeter;

/// Why an aggregate is parked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ParkReason {
    Handler,
    Undecodable,
    /// A stored state cannot be read.
    State,
}

const REASONS: [&str; 3] = ["handler", "undecodable", "state"];

/// The handles of one run of a worker.
pub(crate) struct WorkerMeter {
    seconds: Histogram,
    applied: Counter,
    failed: Counter,
    parkings: [Counter; REASONS.len()],
    /// Aggregates that have failed and are not parked yet, by reason.
    suspects: [AtomicU64; REASONS.len()],
    pub(crate) known: Counter,
    pub(crate) unreadable: Counter,
    pub(crate) holes: Counter,
    behind_deploy: Gauge,
    pub(crate) upcasts: UpcastMeter,
}

impl WorkerMeter {
    pub(crate) fn new(processor: &str, upcasts: UpcastMeter) -> Self {
        Self {
            seconds: APPLY_SECONDS.histogram(&[processor]),
            applied: APPLIED.counter(&[processor, "ok"]),
            failed: APPLIED.counter(&[processor, "failed"]),
            parkings: REASONS.map(|reason| PARKINGS.counter(&[processor, reason])),
            suspects: Default::default(),
            known: GATE_DROPS.counter(&[processor, "known"]),
            unreadable: GATE_DROPS.counter(&[processor, "unreadable"]),
            holes: HOLES_HEALED.counter(&[processor]),
            behind_deploy: BEHIND_DEPLOY.gauge(&[processor]),
            upcasts,
        }
    }

    /// Records a transaction whose handler took `took` and that applied `events`.
    pub(crate) fn applied(&self, events: usize, took: Duration) {
        self.called(events, took, &self.applied);
    }

    /// Records a transaction of `events` whose handler failed after `took`.
    pub(crate) fn failed(&self, events: usize, took: Duration) {
        self.called(events, took, &self.failed);
    }

    fn called(&self, events: usize, took: Duration, counter: &Counter) {
        if events > 0 {
            self.seconds.record(took);
            counter.increment(events as u64);
        }
    }

    /// Remembers an aggregate that may be parked.
    pub(crate) fn suspect(&self, reason: ParkReason) {
        self.suspects[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the remembered aggregates, which are parked now.
    pub(crate) fn parked(&self) {
        for (suspects, counter) in self.suspects.iter().zip(&self.parkings) {
            counter.increment(suspects.swap(0, Ordering::Relaxed));
        }
    }

    /// Forgets the remembered aggregates: their events are tried again.
    pub(crate) fn not_parked(&self) {
        self.suspects.iter().for_each(|suspects| suspects.store(0, Ordering::Relaxed));
    }

    pub(crate) fn waits_for_deploy(&self) {
        self.behind_deploy.set(1.0);
    }

    pub(crate) fn follows_deploy(&self) {
        self.behind_deploy.set(0.0);
    }
}

/// A worker that has ended waits for nothing.
impl Drop for WorkerMeter {
    fn drop(&mut self) {
        self.follows_deploy();
    }
}
