//! How many events fit into one transaction: its time is limited, because a server ends a transaction that is idle for too long.

use std::time::Duration;

/// The most events of the first transaction. How long the handler takes is not known yet.
const FIRST: usize = 64;

/// The most by which a transaction may be larger than the largest before it.
const GROWTH: usize = 4;

/// Sizes transactions by the time that the handler took for the last one.
#[derive(Debug)]
pub(super) struct Pace {
    time: Duration,
    most: usize,
}

impl Pace {
    /// Creates the pace of transactions that take about `time`.
    pub(super) fn new(time: Duration) -> Self {
        Self { time, most: FIRST }
    }

    /// Returns the most events of the next transaction.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Takes into account that the handler took `took` for `events`.
    pub(super) fn measured(&mut self, events: usize, took: Duration) {
        let one = took.as_nanos() / (events as u128).max(1);
        let fitting = self
            .time
            .as_nanos()
            .checked_div(one)
            .map_or(usize::MAX, |fitting| usize::try_from(fitting).unwrap_or(usize::MAX));
        self.most = fitting.clamp(1, self.most.saturating_mul(GROWTH));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_grow_while_the_handler_is_fast() {
        let mut pace = Pace::new(Duration::from_secs(10));
        assert_eq!(pace.most(), FIRST);
        pace.measured(64, Duration::from_millis(1));
        assert_eq!(pace.most(), 256);
        pace.measured(1, Duration::ZERO);
        assert_eq!(pace.most(), 1_024);
        pace.measured(10, Duration::from_secs(2));
        assert_eq!(pace.most(), 50);
        pace.measured(1, Duration::from_secs(20));
        assert_eq!(pace.most(), 1);
    }
}
