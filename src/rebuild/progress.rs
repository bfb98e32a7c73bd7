//! Progress and speed of a build.

use std::time::{Duration, Instant};

use crate::id::Position;

/// The progress of a build.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Progress {
    /// Position up to which everything is folded. It is written at intervals; see [`RebuildOptions`](crate::rebuild::RebuildOptions).
    pub position: Position,
    /// Head of the log when it was last read.
    pub head: Position,
    /// Positions per second since the build began.
    pub events_per_second: f64,
    /// Remaining time at that speed; `None` at the very beginning.
    pub time_left: Option<Duration>,
}

/// Measures the speed of a build.
pub(super) struct Speed {
    since: Instant,
    from: Position,
}

impl Speed {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), from: Position::ZERO }
    }

    pub(super) fn begin(&mut self, from: Position) {
        *self = Self { from, ..Self::new() };
    }

    pub(super) fn progress(&self, position: Position, head: Position) -> Progress {
        let events_per_second = rate(position.since(self.from), self.since.elapsed());
        Progress { position, head, events_per_second, time_left: time(head.since(position), events_per_second) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
pub(super) fn rate(events: u64, time: Duration) -> f64 {
    events as f64 / time.as_secs_f64().max(f64::EPSILON)
}

/// Returns how long `events` take.
#[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
pub(super) fn time(events: u64, events_per_second: f64) -> Option<Duration> {
    (events_per_second > 0.0).then(|| Duration::try_from_secs_f64(events as f64 / events_per_second).ok())?
}
