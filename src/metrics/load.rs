//! The meter of a repository.

use std::time::Instant;

use ::metrics::{Counter, Histogram};

use crate::metrics::handles::float;
use crate::metrics::names::{CACHE_HITS, LOAD_EVENTS, LOAD_SECONDS, SNAPSHOTS};

/// The state from which a load continued.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LoadSource {
    /// A state that the repository had in memory.
    Cache,
    Snapshot,
    /// The first event.
    Replay,
}

const SOURCES: [&str; 3] = ["cache", "snapshot", "replay"];

/// How the writing or reading of a snapshot ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SnapshotOutcome {
    Saved,
    Failed,
    /// Too many snapshots were being written.
    Skipped,
    Unreadable,
}

const SNAPSHOT_OUTCOMES: [&str; 4] = ["saved", "failed", "skipped", "unreadable"];

/// The handles of one repository.
pub(crate) struct LoadMeter {
    loads: [(Histogram, Histogram); SOURCES.len()],
    pub(crate) cache_hits: Counter,
    snapshots: [Counter; SNAPSHOT_OUTCOMES.len()],
}

impl LoadMeter {
    pub(crate) fn new(aggregate_type: &str) -> Self {
        Self {
            loads: SOURCES.map(|source| {
                let labels = [aggregate_type, source];
                (LOAD_SECONDS.histogram(&labels), LOAD_EVENTS.histogram(&labels))
            }),
            cache_hits: CACHE_HITS.counter(&[aggregate_type]),
            snapshots: SNAPSHOT_OUTCOMES.map(|outcome| SNAPSHOTS.counter(&[aggregate_type, outcome])),
        }
    }

    /// Records a load that began at `began` and replayed `events`.
    pub(crate) fn loaded(&self, source: LoadSource, events: u64, began: Instant) {
        let (seconds, replayed) = &self.loads[source as usize];
        seconds.record(began.elapsed());
        replayed.record(float(events));
    }

    pub(crate) fn snapshot(&self, outcome: SnapshotOutcome) {
        self.snapshots[outcome as usize].increment(1);
    }
}
