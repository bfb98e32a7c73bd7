//! Findings that all database servers share.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::error::{Result, chain};
use crate::finding::{Finding, Severity};

/// A difference of clocks that does no harm.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::seconds(2);

/// Broken by a trigger that does not refuse changes of a log.
pub(crate) const CHANGEABLE_EVENTS: &str = "stored events or seals can be changed";

/// Broken by a trigger that does not refuse changes of read models.
pub(crate) const CHANGEABLE_RECORDS: &str = "the record of what operators skipped and changed can be altered";

/// The harm of read models that do not wait for the disk.
pub(crate) const REPEATED: &str = "after a crash, workers apply the last events again; model and checkpoint agree";

/// The findings of a part.
#[derive(Debug, Default)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

impl Findings {
    /// Adds the findings of a check. An error is the finding that it could not run.
    pub(crate) fn add(&mut self, check: &str, found: Result<impl IntoIterator<Item = Finding>>) {
        match found {
            Ok(findings) => self.0.extend(findings),
            Err(error) => {
                let causes: Vec<_> = chain(&error).map(ToString::to_string).collect();
                self.0.push(Finding::unknown(check, causes.join(": ")));
            }
        }
    }
}

/// Compares the clock of the server with that of this process, which was read before and after it.
pub(crate) fn clock(before: DateTime<Utc>, server: DateTime<Utc>, after: DateTime<Utc>) -> Option<Finding> {
    let apart = if server < before - CLOCKS_DIFFER {
        format!("the clock of the server is {} s behind the one of this process", (before - server).num_seconds())
    } else if server > after + CLOCKS_DIFFER {
        format!("the clock of the server is {} s ahead of the one of this process", (server - after).num_seconds())
    } else {
        return None;
    };
    let found = Finding::new("clocks-differ", Severity::Risk, apart)
        .breaks("deadlines are late or early, and reads as of a time are off by as much")
        .remedy("run an NTP client on both machines");
    Some(found)
}

/// Reports the time of the newest event if it is in the future.
pub(crate) fn future_event(time: Option<DateTime<Utc>>) -> Option<Finding> {
    time.map(|time| {
        Finding::new("event-from-the-future", Severity::Risk, format!("the newest event was recorded at {time}"))
            .breaks("a clock is or was wrong; deadlines that count from the event are late")
            .remedy("run an NTP client on every machine that appends")
    })
}

/// Reports rights that the database user lacks.
pub(crate) fn missing_rights(missing: Vec<(String, String)>, user: &str) -> impl Iterator<Item = Finding> {
    missing.into_iter().map(move |(object, right)| {
        Finding::new("right-missing", Severity::Broken, format!("{user} lacks the right {right} on {object}"))
            .breaks("calls that need the right fail")
            .remedy(format!("GRANT {right} ON {object} TO {user};"))
    })
}

/// Reports commit numbers that are behind the data.
pub(crate) fn numbers_behind(seen: String, call: &str) -> Finding {
    Finding::new("numbers-behind", Severity::Broken, seen)
        .breaks("new commits get numbers that exist, so appends fail or their order is wrong")
        .remedy(format!("stop all writers and call `{call}`"))
}

/// Describes how long a transaction is open.
pub(crate) fn seconds(age: Duration) -> String {
    format!("{} s", age.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_differ_only_beyond_the_call() {
        let now = Utc::now();
        let at = |seconds| now + TimeDelta::seconds(seconds);
        assert_eq!(clock(at(0), at(0), at(9)), None);
        assert_eq!(clock(at(0), at(10), at(9)), None);
        let ahead = clock(at(0), at(99), at(9)).unwrap();
        assert!(ahead.id == "clocks-differ" && ahead.seen.contains("90 s ahead"), "{ahead:?}");
        assert!(clock(at(0), at(-30), at(9)).unwrap().seen.contains("30 s behind"));
    }
}
