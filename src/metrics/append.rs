//! The meter of a store's appends.

use std::time::Instant;

use ::metrics::{Counter, Histogram};

use crate::error::{Error, ErrorKind};
use crate::metrics::handles::size;
use crate::metrics::names::{APPEND_SECONDS, APPENDS, COMMIT_APPENDS, COMMIT_EVENTS};

/// How an append ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AppendOutcome {
    Ok,
    /// An earlier append under the same idempotency key wrote its events.
    Duplicate,
    Conflict,
    Taken,
    Refused,
    Transient,
}

const OUTCOMES: [&str; 6] = ["ok", "duplicate", "conflict", "taken", "refused", "transient"];

impl AppendOutcome {
    pub(crate) fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Conflict { .. } => Self::Conflict,
            ErrorKind::Taken { .. } => Self::Taken,
            _ if error.is_outage() => Self::Transient,
            _ => Self::Refused,
        }
    }
}

/// The handles of one opened store.
pub(crate) struct AppendMeter {
    seconds: Histogram,
    appends: Histogram,
    events: Histogram,
    outcomes: [Counter; OUTCOMES.len()],
}

impl AppendMeter {
    pub(crate) fn new(store: &str) -> Self {
        Self {
            seconds: APPEND_SECONDS.histogram(&[store]),
            appends: COMMIT_APPENDS.histogram(&[store]),
            events: COMMIT_EVENTS.histogram(&[store]),
            outcomes: OUTCOMES.map(|outcome| APPENDS.counter(&[store, outcome])),
        }
    }

    /// Records a commit of `appends` with `events` in total.
    pub(crate) fn committed(&self, appends: usize, events: usize) {
        self.appends.record(size(appends));
        self.events.record(size(events));
    }

    /// Records the end of an append that was called at `began`.
    pub(crate) fn ended(&self, outcome: AppendOutcome, began: Instant) {
        self.seconds.record(began.elapsed());
        self.outcomes[outcome as usize].increment(1);
    }
}
