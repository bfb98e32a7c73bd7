//! The meter of a relay while it publishes.

use ::metrics::{Counter, Gauge, Histogram};

use crate::metrics::handles::size;
use crate::metrics::names::{FRAME_BYTES, FRAMES, RELAYED_EVENTS, UNCONFIRMED, UNROUTABLE};

/// The handles of a relay that publishes.
pub(crate) struct RelayMeter {
    frames: Counter,
    frame_bytes: Histogram,
    events: Counter,
    unconfirmed: Gauge,
    pub(crate) unroutable: Counter,
}

impl RelayMeter {
    pub(crate) fn new(relay: &str) -> Self {
        Self {
            frames: FRAMES.counter(&[relay]),
            frame_bytes: FRAME_BYTES.histogram(&[relay]),
            events: RELAYED_EVENTS.counter(&[relay]),
            unconfirmed: UNCONFIRMED.gauge(&[relay]),
            unroutable: UNROUTABLE.counter(&[relay]),
        }
    }

    /// Records a page of `events` that was sent in frames of these sizes.
    pub(crate) fn sent(&self, frames: impl Iterator<Item = usize>, events: usize) {
        for bytes in frames {
            self.frames.increment(1);
            self.frame_bytes.record(size(bytes));
        }
        self.events.increment(events as u64);
        self.unconfirmed.increment(1.0);
    }

    pub(crate) fn confirmed(&self) {
        self.unconfirmed.decrement(1.0);
    }

    /// Forgets the pages that were sent: they are sent again, or by another relay.
    pub(crate) fn nothing_unconfirmed(&self) {
        self.unconfirmed.set(0.0);
    }
}

impl Drop for RelayMeter {
    fn drop(&mut self) {
        self.nothing_unconfirmed();
    }
}
