//! Waits between attempts.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Waits without end, each about twice as long as the one before.
pub(crate) type Delays = ExponentialBackoff;

/// From about `first` up to `longest`; each has a random part, so that those who failed together do not come back together.
pub(crate) fn delays(first: Duration, longest: Duration) -> Delays {
    ExponentialBuilder::new()
        .with_min_delay(first.min(longest))
        .with_max_delay(longest)
        .without_max_times()
        .with_jitter()
        .build()
}
