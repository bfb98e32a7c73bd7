//! The rule for the recorded time of an event.

use chrono::{DateTime, TimeDelta, Utc};

/// The largest step back of the clock that recorded times hide. Clocks that are synchronized differ by less, and a deadline that counts from
/// a recorded time is late by no more than this.
const HIDDEN_STEP: TimeDelta = TimeDelta::seconds(10);

/// An event whose time is further ahead of the clock than this is reported by the health of a log and of an app: one of the two clocks is
/// wrong. Longer than the usual difference between two machines.
const REPORTED: TimeDelta = TimeDelta::minutes(1);

/// Returns the recorded time of a new event: the time `now` of the clock, or the time of the `last` event if the clock has gone back by less
/// than 10 seconds since.
///
/// A last time that is further ahead was recorded while the clock was wrong. It is not followed: otherwise a clock that was wrong for a
/// moment would give every later event a wrong time.
pub fn recorded_time(now: DateTime<Utc>, last: Option<DateTime<Utc>>) -> DateTime<Utc> {
    last.filter(|last| *last > now && *last - now < HIDDEN_STEP).unwrap_or(now)
}

/// Returns `time` if it is more than a minute ahead of the clock.
pub(crate) fn far_ahead(time: DateTime<Utc>) -> Option<DateTime<Utc>> {
    (time - Utc::now() > REPORTED).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_time_far_ahead_is_not_followed() {
        let now = Utc::now();
        let after = |seconds| recorded_time(now, Some(now + TimeDelta::seconds(seconds)));
        assert_eq!(recorded_time(now, None), now);
        assert_eq!(after(-1), now);
        assert_eq!(after(9), now + TimeDelta::seconds(9));
        for seconds in [10, 3_600, 70 * 365 * 86_400] {
            assert_eq!(after(seconds), now);
        }
        assert_eq!(recorded_time(DateTime::UNIX_EPOCH, Some(now)), DateTime::UNIX_EPOCH);
    }
}
