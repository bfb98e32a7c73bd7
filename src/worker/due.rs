//! When the retry of a parked aggregate is due, although the clock that planned it may have been wrong.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// The clocks of two workers may differ by this much.
const TOLERANCE: TimeDelta = TimeDelta::minutes(1);

/// Decides which retries are due. A worker plans a retry at most `longest` ahead. A time further ahead comes from a clock that was wrong, so
/// such a retry is due now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    longest: TimeDelta,
}

impl Due {
    /// Creates the rule for retries after at most `longest_delay`, and calls of the handler that take at most `longest_call`.
    pub(super) fn new(longest_delay: Duration, longest_call: Duration) -> Self {
        // Jitter may double a delay. A slow handler rests for ten times its duration.
        let longest = longest_delay.saturating_mul(2).max(longest_call.saturating_mul(10));
        // At most the years that a database can store.
        Self { longest: TimeDelta::from_std(longest).unwrap_or(TimeDelta::MAX).min(TimeDelta::days(365_000)) }
    }

    /// Returns how long it is from `now` until a retry that was planned for `next_at`.
    pub(super) fn rest(self, next_at: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
        let rest = next_at - now;
        if rest > self.longest + TOLERANCE { Duration::ZERO } else { rest.to_std().unwrap_or_default() }
    }

    pub(super) fn is_due(self, next_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        self.rest(next_at, now).is_zero()
    }

    /// Returns the time after a rest of `rest`, cut to the longest one.
    pub(super) fn after(self, rest: Duration) -> DateTime<Utc> {
        let rest = TimeDelta::from_std(rest).unwrap_or(TimeDelta::MAX).min(self.longest);
        Utc::now().checked_add_signed(rest).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_further_ahead_than_any_delay_is_due() {
        let minute = Duration::from_mins(1);
        let due = Due::new(10 * minute, minute);
        let now = Utc::now();
        assert!(due.is_due(now, now) && due.is_due(now - TimeDelta::days(1), now));
        assert_eq!(due.rest(now + minute, now), minute);
        assert_eq!(due.rest(now + 21 * minute, now), 21 * minute);
        assert!(due.is_due(now + 22 * minute, now));
        assert!(due.is_due(DateTime::<Utc>::MAX_UTC, now));
        assert!(due.after(30 * minute) <= Utc::now() + 20 * minute);
    }

    #[test]
    fn any_delay_can_be_set() {
        let due = Due::new(Duration::MAX, Duration::ZERO);
        assert!(!due.is_due(Utc::now() + TimeDelta::days(1_000), Utc::now()));
    }
}
